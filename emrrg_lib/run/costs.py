"""Counts and costs of a system: `emrrg info`, `emrrg ledger` and `emrrg ledger --costs`.

A model is counted without weights (PyTorch's meta device), so that 7 billion parameters take seconds. The
costs of a full run of stage 3 follow from a formula, in floating-point operations (FLOPs) and GPU hours. A
weight matrix costs 2 FLOPs a parameter and token. Forward, one study of V views with L = M + 1 tokens:

    encoder   V · L · (2 · parameters + depth · 4 directions · 9 · 2d · N)   the scan: 9 a channel and state
    LLM       2 · parameters of its layers · n + layers · 4 · n² · D         n = prompt + visual + report
    lm_head   2 · vocabulary · D · report                                    on report positions only
    hybrid    2 · (W_k, W_v) · visual + layers · 4 · text · visual · D       visual: L tokens of a study

Training multiplies these. The encoder counts 3 times if it is tuned whole (forward, gradients of activations
and of weights), 2 times with LoRA (frozen weights get no gradient), once if it is frozen. The LLM counts
2 times, and 3 times if its layers are computed again (gradient checkpointing); hybrid layers count 3 times.
Hours = FLOPs · studies · epochs / (peak · utilisation). The speed of memory bounds the writing of a report:
every token of a batch reads all weights of the LLM once. The reading of images is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emrrg_lib.config import ENCODERS, EMRRGConfig
from emrrg_lib.data.sources import source_of_preset
from emrrg_lib.files import InputError, text_table
from emrrg_lib.generation import BATCH
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.tuning.policy import Entry, ledger, published_counts

NOT_IN_1_32 = (
    "1.32 M cannot hold the projector, any cross-attention or gate, nor LoRA_p(X) at full width; "
    "in the release's IU script even these adapters are frozen"
)


def describe_map(config: EMRRGConfig) -> str:
    """The map of a configuration as a text table: part, section, shape, parameters, trained or not."""
    model, entries = _count(config)
    rows = [("part", "paper", "shape", "parameters", "trained")]
    for e in entries:
        trained = f"{e.trained:,}" if e.trained else "frozen"
        rows.append((e.part, e.section, e.shape, f"{e.parameters:,}", trained))
    total, trained = _totals(entries)
    rows.append(("total", "", "", f"{total:,}", f"{trained:,}"))
    return f"{_head(config, model)}\n\n{text_table(rows, left=3)}"


def describe_ledger(config: EMRRGConfig) -> str:
    """Exact counts of a configuration, and beside them how the published ones arise."""
    model, entries = _count(config)
    total, trained = _totals(entries)
    rows = [("part", "parameters", "trained")]
    rows += [(e.part, f"{e.parameters:,}", f"{e.trained:,}") for e in entries]
    text = [
        _head(config, model),
        text_table([*rows, ("total", f"{total:,}", f"{trained:,}")]),
        f"The method as written trains {trained:,} parameters here, {trained / total:.2%} of the system.",
    ]
    sizes = [(encoder.embed_dim, encoder.depth) for encoder in (ENCODERS["base"], ENCODERS["large"])]
    if (config.encoder.embed_dim, config.encoder.depth) in sizes and config.encoder.kind == "mamba":
        text.append(_published(config))
    return "\n\n".join(text)


def _published(config: EMRRGConfig) -> str:
    rows = [("of the encoder", "parameters", "")]
    for entry in published_counts(config.encoder.embed_dim, config.encoder.depth):
        rows += [(name, f"{count:,}", "") for name, count in entry.parts.items()]
        rows.append(("= sum", f"{entry.total:,}", f"published: {entry.claim}" if entry.claim else ""))
    return (
        "The encoder as the release runs it, 224 px, and its published counts:\n\n"
        f"{text_table(rows)}\n\n{NOT_IN_1_32}."
    )


def _totals(entries: list[Entry]) -> tuple[int, int]:
    """All parameters, and the trained ones."""
    return sum(e.parameters for e in entries), sum(e.trained for e in entries)


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


PROMPT_TOKENS = 35  # the paper's prompt with its image marks
GPU, PEAK, BANDWIDTH = "A800 80 GB", 312e12, 2.0e12  # the paper's (§4.4): dense bfloat16 FLOP/s, bytes/s
UTILISATION, READING = 0.30, 0.50  # assumed shares of the two
ASSUMED = (
    f"One {GPU}: {PEAK / 1e12:.0f} TFLOP/s used to {UTILISATION:.0%} in training, "
    f"{BANDWIDTH / 1e12:.1f} TB/s used to {READING:.0%} while reports are written, {BATCH} at a time; "
    "reports as long as they may be."
)
GPUS = (1, 4, 8)


@dataclass(frozen=True)
class Measured:
    """What `emrrg bench gpu` found on one GPU; None: not measured.

    Attributes:
        study_seconds: of a training step, for each study. report_seconds: a report of 100 tokens.
    """

    study_seconds: float | None = None
    report_seconds: float | None = None


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
        """Training, validation and test."""
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


def run_costs(config: EMRRGConfig, measured: Measured = Measured()) -> Costs:
    """The costs of a paper preset on its data set; nothing is loaded. Measured times replace the formula's.

    Raises InputError for a preset without epochs, or with a Hugging Face backbone.
    """
    settings = config.train
    source = source_of_preset(config.preset)
    if source is None or config.encoder.kind == "hf" or not settings.epochs:
        raise InputError(
            f"costs are computed for the paper presets with a Mamba encoder, such as iu-xray; "
            f"'{config.preset}' is not one of them"
        )
    train, val, test = source.counts
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    forward = forward_flops(config, model, source.views)
    factors = {
        "encoder": {"full": 3, "lora": 2, "frozen": 1}[config.encoder_tuning],
        "llm": 3 if settings.gradient_checkpointing else 2,
        "hybrid": 3,
    }
    each = sum(forward[part] * factor for part, factor in factors.items())
    llm_bytes = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    tokens = config.generation.max_new_tokens
    batch_hours = tokens * llm_bytes / (BANDWIDTH * READING) / 3600
    if measured.report_seconds is not None:
        batch_hours = BATCH * tokens / 100 * measured.report_seconds / 3600
    validated = min(settings.validation_studies or val, val)
    total = each * train * settings.epochs
    train_hours = total / (PEAK * UTILISATION) / 3600
    if measured.study_seconds is not None:
        train_hours = train * settings.epochs * measured.study_seconds / 3600
    return Costs(
        f"{source.name}, {train:,} × {settings.epochs}",
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(forward.values()),
        each,
        total,
        train_hours,
        settings.validations * -(-validated // BATCH) * batch_hours,
        -(-test // BATCH) * batch_hours,
    )


def describe_costs(config: EMRRGConfig) -> str:
    """The costs of a preset as a Markdown table, and the assumptions."""
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
    table = text_table([list(cells), list(cells.values())], left=len(cells), markdown=True)
    several = ", ".join(f"{count}: {costs.hours / count:.1f} hours" for count in GPUS)
    return (
        f"{table}\n\n{ASSUMED} Formula: emrrg_lib/run/costs.py. Computed, not measured. On several "
        f"GPUs, if none waits for another: {several}."
    )


def describe_hours(measured: Measured = Measured()) -> str:
    """Hours of MIMIC-CXR and CheXpert Plus on several GPUs, as a Markdown table, and where they come from."""
    rows = [["preset", *(f"{count} GPU{'s' * (count > 1)}" for count in GPUS)]]
    for name in ("mimic-cxr", "chexpert-plus"):
        costs = run_costs(preset(name), measured)
        rows.append([name, *(f"{costs.hours / count:.1f} h" for count in GPUS)])
    sources = {"training": measured.study_seconds, "validation and test": measured.report_seconds}
    found = ", ".join(f"{part}: {'assumed' if s is None else 'measured'}" for part, s in sources.items())
    note = f" Assumed: {ASSUMED}" if None in sources.values() else ""
    return (
        f"{text_table(rows, markdown=True)}\n\nTraining, validation and test, if no GPU waits for another; "
        f"{found} (one GPU; both presets have one model).{note}"
    )
