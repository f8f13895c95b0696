"""The glossary: letter of the paper ↔ name in the code ↔ shape ↔ where. One table for every notebook.

Names and shapes are tested on the tiny model (tests/course/test_glossary.py). In a notebook:
`glossary("M", "d", "α")` as the last line of a cell.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from emrrg_lib.files import InputError


class Row(NamedTuple):
    """One letter. `shape` is "number" for a size; a letter that means two things has two rows."""

    letter: str
    code: str
    shape: str
    where: str  # file inside emrrg_lib
    meaning: str


class Table(str):
    """Markdown that Jupyter renders as a table, and that is still readable as plain text."""

    _repr_markdown_ = str.__str__
    __repr__ = str.__str__


ROWS = [
    Row(*row)
    for row in (
        # §3.2, the image and its tokens
        ("B (batch)", "len(pixel_values)", "number", "model.py", "studies worked on at once"),
        (
            "V (views)",
            "settings.data.max_views",
            "number",
            "config.py",
            "X-rays of a study: frontal, lateral",
        ),
        (
            "I",
            "pixel_values",
            "(B, V, 3, H, W)",
            "model.py",
            "the X-rays, grey repeated three times, normalised",
        ),
        (
            "P",
            "settings.encoder.patch_size",
            "number",
            "config.py",
            "edge of a patch in pixels; 16 in the paper",
        ),
        (
            "P_i",
            "encoder.patch_embed.proj.weight",
            "(d, 3, P, P)",
            "vision/mamba.py",
            "what each patch P_i is multiplied with",
        ),
        (
            "T_i",
            "encoder.patch_embed(view)",
            "(1, M, d)",
            "vision/mamba.py",
            "the visual tokens of one view, before positions",
        ),
        (
            "M",
            "settings.encoder.num_patches",
            "number",
            "config.py",
            "patches of one view; the paper's N in §3.2 and m in §3.4",
        ),
        ("L", "mixer.orders.shape[1]", "number", "vision/mamba.py", "tokens of a scan: M + 1, with cls"),
        ("d", "settings.encoder.embed_dim", "number", "config.py", "width of the encoder"),
        # §3.3, the Mamba mixer and Partial LoRA
        (
            "X",
            'features["X"]',
            "(B, 4, L, d)",
            "vision/mamba.py",
            "what is scanned, in each direction's order",
        ),
        ("Z", 'features["Z"]', "(B, 4, L, d)", "vision/mamba.py", "what gates the scanned result"),
        (
            "dt",
            'features["dt"]',
            "(B, 4, L, R)",
            "vision/mamba.py",
            "the step size, before it is widened to d",
        ),
        ("B", 'features["B"]', "(B, 4, L, N)", "vision/mamba.py", "how a token is written into the state"),
        ("C", 'features["C"]', "(B, 4, L, N)", "vision/mamba.py", "how the state is read out"),
        (
            "Δ",
            "mixer.dt_proj",
            "(d, R)",
            "vision/mamba.py",
            "step sizes: softplus of dt_proj(dt), one a channel",
        ),
        ("A", "mixer.A_log", "(d, N)", "vision/mamba.py", "rates of fading, A = −exp(A_log)"),
        ("D", "mixer.D", "(d,)", "vision/mamba.py", "the shortcut past the state"),
        ("R", "mixer.dt_rank", "number", "vision/mamba.py", "width of dt: d / 16, rounded up"),
        ("N", "mixer.d_state", "number", "vision/mamba.py", "numbers of state for each channel; 16"),
        (
            "K",
            "settings.encoder.d_conv",
            "number",
            "config.py",
            "length of the convolution before the scan; 4",
        ),
        ("W", "mixer.in_proj", "(2 * d, d)", "vision/mamba.py", "a frozen matrix; its rows make X, then Z"),
        (
            "W (x_proj)",
            "mixer.x_proj",
            "(R + 2 * N, d)",
            "vision/mamba.py",
            "its rows make dt, then B, then C",
        ),
        (
            "A (LoRA)",
            'mixer.in_proj.lora_A["lora_X"]',
            "(r, d)",
            "tuning/partial_lora.py",
            "the narrow half of a pair that trains",
        ),
        (
            "B (LoRA)",
            'mixer.in_proj.lora_B["lora_X"]',
            "(d, r)",
            "tuning/partial_lora.py",
            "the other half, of the X rows alone: LoRA_p(X); starts at 0",
        ),
        ("r", "settings.partial_lora.r", "number", "config.py", "rank of a pair; 32 in the paper"),
        (
            "s",
            "settings.partial_lora.scale",
            "number",
            "config.py",
            "scale of a pair; not in the paper, here 1",
        ),
        (
            "ΔW",
            'mixer.in_proj.get_delta_weight("lora_X")',
            "(2 * d, d)",
            "tuning/partial_lora.py",
            "s · B · A, zero outside of its rows",
        ),
        # §3.4, the language model
        ("D (width)", "model.projector.out_features", "number", "model.py", "width of the language model"),
        (
            "V",
            "visual_states",
            "(B, V * L, D)",
            "language/cross_attention.py",
            "projected visual tokens; V_s in the paper",
        ),
        ("h", "cross_attention.head_dim", "number", "language/cross_attention.py", "width of one head"),
        (
            "q",
            "query",
            "(B, heads, n, h)",
            "language/cross_attention.py",
            "queries of the n text tokens, from self-attention; Q_t in the paper",
        ),
        (
            "S",
            "S",
            "(B, n, heads * h)",
            "language/cross_attention.py",
            "what self-attention found; X_t in the paper",
        ),
        ("X′", "X", "(B, heads, n, h)", "language/cross_attention.py", "what cross-attention fetched, Eq. 1"),
        (
            "W_k",
            "cross_attention.k_proj",
            "(kv_heads * h, D)",
            "language/cross_attention.py",
            "makes the keys of the visual tokens",
        ),
        (
            "W_v",
            "cross_attention.v_proj",
            "(kv_heads * h, D)",
            "language/cross_attention.py",
            "makes their values",
        ),
        (
            "w_g",
            "cross_attention.gate_proj.weight",
            "(1, heads * h)",
            "language/cross_attention.py",
            "the dynamic gate, g_d = tanh(w_g·S + b_g), Eq. 2",
        ),
        ("b_g", "cross_attention.gate_proj.bias", "(1,)", "language/cross_attention.py", "its bias"),
        (
            "α",
            "cross_attention.warm_up",
            "(1,)",
            "language/cross_attention.py",
            "the warm-up, g_s = tanh(α); starts at 0",
        ),
        # what a report leaves behind
        (
            "g_d · g_s",
            "trace.gate",
            "(layer, token)",
            "trace.py",
            "how far a token let the image in",
        ),
        ("g_s", "trace.warm_up", "(layer,)", "trace.py", "tanh(α) of each hybrid layer"),
        (
            "attention",
            "trace.attention",
            "(layer, head, token, V, M)",
            "trace.py",
            "the weights of Eq. 1: where each token looked",
        ),
    )
]


def glossary(*letters: str) -> Table:
    """The rows of these letters in this order, all without arguments, as a Markdown table.

    Raises:
        InputError: a letter that is not in the glossary.
    """
    by_letter = {row.letter: row for row in ROWS}
    for letter in letters:
        if letter not in by_letter:
            close = [known for known in by_letter if known.split(" ")[0] == letter.split(" ")[0]]
            close = close or difflib.get_close_matches(letter, by_letter, cutoff=0.1)
            raise InputError(f"the glossary has no '{letter}'; is it one of {', '.join(close or by_letter)}?")
    lines = ["| paper | name in the code | shape | where | what it is |", "|---|---|---|---|---|"]
    for row in (by_letter[letter] for letter in letters or by_letter):
        shape = row.shape.replace("*", "·")
        lines.append(f"| {row.letter} | `{row.code}` | {shape} | `{row.where}` | {row.meaning} |")
    return Table("\n".join(lines))
