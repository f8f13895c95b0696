"""`emrrg info` and `emrrg ledger`: what a preset consists of and what of it trains.

Both count a model without weights (PyTorch's meta device), so that 7 billion parameters take seconds.
"""

from __future__ import annotations

import torch

from .config import EMRRGConfig
from .model import EMRRG
from .tuning.ledger import Entry, ledger, published_counts

PAPER_ENCODERS = ((768, 12), (1024, 24))  # base, large
NOT_IN_1_32 = ("1.32 M cannot hold the projector, any cross-attention or gate, nor LoRA_p(X) at full width; "
               "in the release's IU script even these adapters are frozen")


def describe(config: EMRRGConfig) -> str:
    """The map of a configuration as a text table: part, section, shape, parameters, trained or not."""
    model, entries = _count(config)
    rows = [(e.part, e.section, e.shape, f"{e.parameters:,}", f"{e.trained:,}" if e.trained else "frozen")
            for e in entries]
    rows.append(("total", "", "", f"{sum(e.parameters for e in entries):,}",
                 f"{sum(e.trained for e in entries):,}"))
    return _head(config, model) + "\n\n" + _table(("part", "paper", "shape", "parameters", "trained"), rows)


def describe_ledger(config: EMRRGConfig) -> str:
    """Exact counts of a configuration, and beside them how the published ones arise."""
    model, entries = _count(config)
    rows = [(e.part, f"{e.parameters:,}", f"{e.trained:,}") for e in entries]
    total, trained = sum(e.parameters for e in entries), sum(e.trained for e in entries)
    rows.append(("total", f"{total:,}", f"{trained:,}"))
    text = [_head(config, model), _table(("part", "parameters", "trained"), rows, left=1),
            f"The method as written trains {trained:,} parameters here, {trained / total:.2%} of the system."]
    if (config.encoder.embed_dim, config.encoder.depth) in PAPER_ENCODERS and config.encoder.kind == "mamba":
        text.append(_published(config))
    return "\n\n".join(text)


def _published(config: EMRRGConfig) -> str:
    rows = []
    for entry in published_counts(config.encoder.embed_dim, config.encoder.depth):
        rows += [(name, f"{count:,}", "") for name, count in entry.parts.items()]
        rows.append(("= sum", f"{entry.total:,}", f"published: {entry.claim}" if entry.claim else ""))
    return ("The encoder as the release runs it, 224 px, and its published counts:\n\n"
            + _table(("of the encoder", "parameters", ""), rows, left=1) + f"\n\n{NOT_IN_1_32}.")


def _count(config: EMRRGConfig) -> tuple[EMRRG, list[Entry]]:
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    return model, [entry for entry in ledger(model) if entry.parameters]


def _head(config: EMRRGConfig, model: EMRRG) -> str:
    rows, columns = model.grid
    lora = (f"Partial LoRA on {', '.join(config.partial_lora.targets)}, r = {config.partial_lora.r}"
            if config.encoder_tuning == "lora" else f"encoder {config.encoder_tuning}")
    return (f"preset {config.preset}: {config.encoder.image_size} px, {rows} × {columns} patches"
            f"{'' if model.cls_index is None else ' + cls'}, d = {model.projector.in_features}; {lora}; LLM "
            f"'{config.llm.name}', D = {model.projector.out_features}, {config.llm.tuning}, hybrid layers "
            f"{list(config.llm.hybrid_layers)}, visual tokens in the prompt: {config.llm.visual_in_prompt}")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 3) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(w) if i >= left else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in [header, tuple("-" * w for w in widths), *rows]]
    return "\n".join(lines)
