"""`emrrg info` and `emrrg ledger`: what a preset consists of and what of it trains.

Both count a model without weights (PyTorch's meta device), so that 7 billion parameters take seconds.


What a full run of stage 3 costs by a formula: parameters, floating-point operations (FLOPs), GPU hours.

A weight matrix costs 2 FLOPs a parameter and token. Forward, one study of V views with L = M + 1 tokens:

    encoder   V · L · (2 · parameters + depth · 4 directions · 9 · 2d · N)   the scan: 9 a channel and state
    LLM       2 · parameters of its layers · n + layers · 4 · n² · D         n = prompt + visual + report
    lm_head   2 · vocabulary · D · report                                    on report positions only
    hybrid    2 · (W_k, W_v) · visual + layers · 4 · text · visual · D       visual: L tokens of a study

Training multiplies: encoder full 3 (forward, gradients of activations and of weights), LoRA 2 (frozen weights
get none), frozen 1; LLM 2, and 1 more where its layers are computed again (gradient checkpointing); hybrid
layers 3. Hours = FLOPs · studies · epochs / (peak · utilisation). Writing a report is bound by memory, not by
arithmetic: every token of a batch reads all weights of the LLM once. No sum covers reading of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.study import PUBLISHED
from emrrg_lib.files import InputError
from emrrg_lib.generation import BATCH
from emrrg_lib.model import EMRRG
from emrrg_lib.tuning.policy import Entry, ledger, published_counts

PAPER_ENCODERS = ((768, 12), (1024, 24))  # base, large
NOT_IN_1_32 = (
    "1.32 M cannot hold the projector, any cross-attention or gate, nor LoRA_p(X) at full width; "
    "in the release's IU script even these adapters are frozen"
)


def describe(config: EMRRGConfig) -> str:
    """The map of a configuration as a text table: part, section, shape, parameters, trained or not."""
    model, entries = _count(config)
    rows = [
        (e.part, e.section, e.shape, f"{e.parameters:,}", f"{e.trained:,}" if e.trained else "frozen")
        for e in entries
    ]
    rows.append(
        ("total", "", "", f"{sum(e.parameters for e in entries):,}", f"{sum(e.trained for e in entries):,}")
    )
    return _head(config, model) + "\n\n" + _table(("part", "paper", "shape", "parameters", "trained"), rows)


def describe_ledger(config: EMRRGConfig) -> str:
    """Exact counts of a configuration, and beside them how the published ones arise."""
    model, entries = _count(config)
    rows = [(e.part, f"{e.parameters:,}", f"{e.trained:,}") for e in entries]
    total, trained = sum(e.parameters for e in entries), sum(e.trained for e in entries)
    rows.append(("total", f"{total:,}", f"{trained:,}"))
    text = [
        _head(config, model),
        _table(("part", "parameters", "trained"), rows, left=1),
        f"The method as written trains {trained:,} parameters here, {trained / total:.2%} of the system.",
    ]
    if (config.encoder.embed_dim, config.encoder.depth) in PAPER_ENCODERS and config.encoder.kind == "mamba":
        text.append(_published(config))
    return "\n\n".join(text)


def _published(config: EMRRGConfig) -> str:
    rows = []
    for entry in published_counts(config.encoder.embed_dim, config.encoder.depth):
        rows += [(name, f"{count:,}", "") for name, count in entry.parts.items()]
        rows.append(("= sum", f"{entry.total:,}", f"published: {entry.claim}" if entry.claim else ""))
    return (
        "The encoder as the release runs it, 224 px, and its published counts:\n\n"
        + _table(("of the encoder", "parameters", ""), rows, left=1)
        + f"\n\n{NOT_IN_1_32}."
    )


def _count(config: EMRRGConfig) -> tuple[EMRRG, list[Entry]]:
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    return model, [entry for entry in ledger(model) if entry.parameters]


def _head(config: EMRRGConfig, model: EMRRG) -> str:
    rows, columns = model.grid
    lora = (
        f"Partial LoRA on {', '.join(config.partial_lora.targets)}, r = {config.partial_lora.r}"
        if config.encoder_tuning == "lora"
        else f"encoder {config.encoder_tuning}"
    )
    return (
        f"preset {config.preset}: {config.encoder.image_size} px, {rows} × {columns} patches"
        f"{'' if model.cls_index is None else ' + cls'}, d = {model.projector.in_features}; {lora}; LLM "
        f"'{config.llm.name}', D = {model.projector.out_features}, {config.llm.tuning}, hybrid layers "
        f"{list(config.llm.hybrid_layers)}, visual tokens in the prompt: {config.llm.visual_in_prompt}"
    )


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 3) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(w) if i >= left else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, tuple("-" * w for w in widths), *rows]
    ]
    return "\n".join(lines)


DATA = {"iu-xray": ("IU X-ray", 2), "mimic-cxr": ("MIMIC-CXR", 1)}  # preset → data set, views a study
OTHER = ("CheXpert Plus", 1)
PROMPT_TOKENS = 35  # the paper's prompt with its image marks
GPU, PEAK, BANDWIDTH = "A800 80 GB", 312e12, 2.0e12  # the paper's (§4.4): dense bfloat16 FLOP/s, bytes/s
UTILISATION, READING = 0.30, 0.50  # assumed shares of the two


@dataclass(frozen=True)
class Costs:
    """A full run of one preset.

    Attributes:
        data: data set and training studies × epochs.
        parameters, trained: of the system.
        study_flops: one study, forward; train_flops: one study in training; total_flops: the training.
        train_hours, validate_hours, test_hours: on one GPU.
    """

    data: str
    parameters: int
    trained: int
    study_flops: float
    train_flops: float
    total_flops: float
    train_hours: float
    validate_hours: float
    test_hours: float

    @property
    def hours(self) -> float:
        """All of them."""
        return self.train_hours + self.validate_hours + self.test_hours


def forward_flops(config: EMRRGConfig, model: EMRRG, views: int) -> dict[str, float]:
    """FLOPs of one study, forward, for encoder, LLM (with lm_head) and hybrid layers."""
    counts = {entry.part: entry.parameters for entry in ledger(model)}
    sizes, llm = config.encoder, model.llm.config.get_text_config()
    tokens, report, width = sizes.num_patches + 1, config.data.max_length + 1, llm.hidden_size
    visual = tokens * (1 if config.data.views == "mean" else views)
    in_prompt = {"none": 0, "pooled": -((-sizes.side // 2) ** 2), "all": visual}[config.llm.visual_in_prompt]
    text = PROMPT_TOKENS + report
    n = text + in_prompt
    encoder = sum(p.numel() for p in model.encoder.parameters())
    head = model.llm.get_output_embeddings().weight
    tied = head is model.llm.get_input_embeddings().weight
    layers = counts["LLM"] + counts["LoRA of the LLM"] - (1 if tied else 2) * head.numel()
    scan = sizes.depth * 4 * 9 * 2 * sizes.embed_dim * sizes.d_state
    return {
        "encoder": views * tokens * (2 * encoder + scan),
        "llm": 2 * layers * n + llm.num_hidden_layers * 4 * n**2 * width + 2 * head.numel() * report,
        "hybrid": 2 * counts["cross-attention W_k, W_v"] * visual
        + len(config.llm.hybrid_layers) * 4 * text * visual * width,
    }


def run_costs(config: EMRRGConfig) -> Costs:
    """The costs of a paper preset on its data set; nothing is loaded.

    Raises InputError for a preset without epochs, or with a Hugging Face backbone.
    """
    settings = config.train
    if config.encoder.kind == "hf" or not settings.epochs:
        raise InputError(
            f"costs are computed for the paper presets with a Mamba encoder, such as iu-xray; "
            f"'{config.preset}' is none"
        )
    name, views = DATA.get(config.preset, OTHER)
    train, val, test = PUBLISHED[name][1]
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    forward = forward_flops(config, model, views)
    factors = {
        "encoder": {"full": 3, "lora": 2, "frozen": 1}[config.encoder_tuning],
        "llm": 3 if settings.gradient_checkpointing else 2,
        "hybrid": 3,
    }
    each = sum(forward[part] * factor for part, factor in factors.items())
    llm_bytes = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    batch_hours = config.generation.max_new_tokens * llm_bytes / (BANDWIDTH * READING) / 3600
    validated = min(settings.validation_studies or val, val)
    total = each * train * settings.epochs
    return Costs(
        f"{name}, {train:,} × {settings.epochs}",
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(forward.values()),
        each,
        total,
        total / (PEAK * UTILISATION) / 3600,
        settings.validations * -(-validated // BATCH) * batch_hours,
        -(-test // BATCH) * batch_hours,
    )


def describe_costs(config: EMRRGConfig) -> str:
    """The costs of a preset as a Markdown table, and what was assumed."""
    costs = run_costs(config)
    cells = {
        "preset": config.preset,
        "studies × epochs": costs.data,
        "parameters, trained": f"{costs.parameters / 1e9:.2f} G, {costs.trained / 1e6:.1f} M",
        "FLOPs a study, forward": f"{costs.study_flops / 1e12:.2f} T",
        "in training": f"{costs.train_flops / 1e12:.2f} T",
        "training": f"{costs.total_flops / 1e18:.2f} E",
        "GPU hours": f"{costs.train_hours:.1f} + {costs.validate_hours:.1f} validation + "
        f"{costs.test_hours:.1f} test = {costs.hours:.1f}",
    }
    lines = [cells.keys(), ["---"] * len(cells), cells.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + (
        f"\n\nOne {GPU}: {PEAK / 1e12:.0f} TFLOP/s used to {UTILISATION:.0%} in training, "
        f"{BANDWIDTH / 1e12:.1f} TB/s used to {READING:.0%} while reports are written, {BATCH} at a time; "
        "reports as long as they may be. Formula: emrrg_lib/run/costs.py. Computed, not measured."
    )
