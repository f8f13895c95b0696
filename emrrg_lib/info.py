"""`emrrg info`: the map of a preset — part, paper section, shape, parameters, trained or not."""

from __future__ import annotations

from .config import preset
from .model import EMRRG
from .tuning.ledger import ledger


def describe(name: str) -> str:
    """The map of a preset as a text table. Raises InputError for an unknown preset."""
    config = preset(name)
    encoder, model = config.encoder, EMRRG.from_preset(name)
    entries = ledger(model)
    rows = [(e.part, e.section, e.shape, f"{e.parameters:,}", f"{e.trained:,}" if e.trained else "frozen")
            for e in entries]
    rows.append(("total", "", "", f"{sum(e.parameters for e in entries):,}",
                 f"{sum(e.trained for e in entries):,}"))
    head = (f"preset {name}: image {encoder.image_size} px, patch {encoder.patch_size}, "
            f"M = {encoder.num_patches} patches + cls, d = {encoder.embed_dim}, depth {encoder.depth}; "
            f"LLM '{config.llm.name}', D = {model.llm.config.hidden_size}, hybrid layers "
            f"{list(config.llm.hybrid_layers)}; LoRA targets {list(config.partial_lora.targets)}, "
            f"r = {config.partial_lora.r}")
    return head + "\n\n" + _table(("part", "paper", "shape", "parameters", "trained"), rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(w) if i >= 3 else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in [header, tuple("-" * w for w in widths), *rows]]
    return "\n".join(lines)
