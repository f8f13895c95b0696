"""Answers to the exercises of notebook 04: wrong ones with words of the message, and other right ones."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SCOPE = {"torch": torch, "np": np, "nn": nn, "F": F, "sdpa_attention_forward": sdpa_attention_forward}
AS_THEY_ARE = (5, 6)  # a module, and a function that a language model calls
COUNT = "def answer(hidden, heads, kv_heads, head_dim):\n    return "
ATTEND = """
def answer(q, K, V):
    groups = len(q) // len(K)
    K, V = ({share} for t in (K, V))
    weights = ({scores}).softmax(dim={axis})
    return {join}
"""
RIGHT = {
    "share": "t.repeat_interleave(groups, dim=0)",
    "axis": "-1",
    "scores": "q @ K.transpose(1, 2) / q.shape[-1] ** 0.5",
    "join": "(weights @ V).transpose(0, 1).flatten(1)",
}
MASK = "def answer(scores, valid):\n    return "
UPDATE = "def answer(S, X, w_g, b_g, alpha):\n    return "
LAYER = """
class answer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, head_dim):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.k_proj, self.v_proj = (nn.Linear(hidden, kv_heads * head_dim{bias}) for _ in range(2))
        self.gate_proj = nn.Linear({width}, 1)
        self.warm_up = nn.Parameter({alpha})
        {more}

    def split(self, x):
        x = x.unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        times = self.heads // self.kv_heads
        return {share}

    def forward(self, S, query, image, valid=None):
        K, V = self.split(self.k_proj(image)), self.split(self.v_proj(image))
        scores = query @ K.transpose(2, 3) / {root}
        if valid is not None:
            scores = {mask}
        X = {join}
        return {result}
"""
PARTS = {
    "bias": "",
    "width": "heads * head_dim",
    "alpha": "torch.zeros(1)",
    "more": "",
    "share": "x.repeat_interleave(times, dim=1)",
    "root": "self.head_dim**0.5",
    "mask": "scores.masked_fill(~valid[:, None, None, :], float('-inf'))",
    "join": "(scores.softmax(-1) @ V).transpose(1, 2).flatten(2)",
    "result": "S + X * torch.tanh(self.gate_proj(S)) * torch.tanh(self.warm_up)",
}
INSTALL = """
def answer(module, query, key, value, attention_mask, **rest):
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    cross = getattr(module, "cross", None)
    {body}
    return output, weights
"""
WRITE = """
@torch.no_grad()
def answer(llm, ids, image, steps):
    words, cache, word = [], None, ids
    for step in range(steps):
        out = llm(input_ids=word, past_key_values=cache, use_cache=True, {image})
        cache, word = out.past_key_values, out.logits[{pick}].argmax(-1)
        words.append(int(word))
    return {result}
"""
SEEN = {"image": "visual_states=image", "pick": ":, -1:", "result": "words"}
NAIVE = """
@torch.no_grad()
def answer(llm, ids, image, steps):
    text = ids
    for _ in range(steps):
        logits = llm(input_ids=text, visual_states=image).logits
        text = torch.cat([text, logits[:, -1:].argmax(-1)], dim=1)
    return text[0, {first}:].tolist()
"""
GAIN = "def answer(seen, blind, ids):\n    "
LOGS = "a, b = seen.log_softmax(-1), blind.log_softmax(-1)\n    at = torch.arange(len(ids) - 1)\n    return "
WRONG = [
    (1, COUNT + "2 * (hidden * kv_heads * head_dim + kv_heads * head_dim)", "W_k and W_v are right"),
    (1, COUNT + "2 * hidden * kv_heads * head_dim + heads * head_dim + 2", "have a bias each"),
    (1, COUNT + "3 * (hidden + 1) * kv_heads * head_dim + heads * head_dim + 2", "a W_q in it"),
    (1, COUNT + "2 * (hidden + 1) * heads * head_dim + heads * head_dim + 2", "4 heads, 2 kv_heads"),
    (1, COUNT + "2 * (hidden + 1) * kv_heads * head_dim + hidden + 2", "the gate reads S"),
    (1, COUNT + "2 * (hidden + 1) * kv_heads * head_dim + heads * head_dim + heads + 1", "for each head"),
    (2, ATTEND.format(**RIGHT | {"share": "t.repeat(groups, 1, 1)"}), "yours take turns"),
    (2, ATTEND.format(**RIGHT | {"scores": "q @ K.transpose(1, 2)"}), "not divided by √h"),
    (2, ATTEND.format(**RIGHT | {"scores": "q @ K.transpose(1, 2) / q.shape[-1]"}), "not by h"),
    (2, ATTEND.format(**RIGHT | {"axis": "1"}), "weights of a word sum"),
    (2, ATTEND.format(**RIGHT | {"join": "(weights @ V).reshape(q.shape[1], -1)"}), "join the heads"),
    (2, ATTEND.format(**RIGHT | {"join": "(weights @ V).sum(0)"}), "the heads are side by side"),
    (2, ATTEND.format(**RIGHT | {"share": "t"}), "Your code raised RuntimeError"),
    (3, MASK + "scores.softmax(-1)", "The mask does nothing"),
    (3, MASK + "scores.softmax(-1) * valid", "Mask the scores, not the weights"),
    (3, MASK + "scores.masked_fill(valid, float('-inf')).softmax(-1)", "True means valid"),
    (3, MASK + "(scores * valid).softmax(-1)", "A score of 0 is not a mask"),
    (3, MASK + "(scores.exp() * valid) / (scores.exp() * valid).sum(-1, keepdim=True)", "swamps the others"),
    (3, MASK + "(scores - 100.0 * ~valid).softmax(-1)", "exactly 0"),
    (3, MASK + "scores.masked_fill(~valid, -500.0).softmax(-1)", "a penalty of"),
    (3, MASK + "scores[:, valid].softmax(-1)", "keeps its column"),
    (4, UPDATE + "S + X * torch.tanh(S @ w_g + b_g)[:, None]", "α does not act"),
    (4, UPDATE + "S + X * torch.tanh(S @ w_g + b_g)[:, None] * alpha", "tanh(α), not α"),
    (4, UPDATE + "S + X * torch.sigmoid(S @ w_g + b_g)[:, None] * torch.tanh(alpha)", "not a sigmoid"),
    (4, UPDATE + "S + X * torch.tanh(S * w_g + b_g) * torch.tanh(alpha)", "a gate for each channel"),
    (4, UPDATE + "S + X * torch.tanh(X @ w_g + b_g)[:, None] * torch.tanh(alpha)", "the gate reads S"),
    (4, UPDATE + "S + X * torch.tanh(S @ w_g)[:, None] * torch.tanh(alpha)", "Stage “warm-up”"),
    (4, UPDATE + "X * torch.tanh(S @ w_g + b_g)[:, None] * torch.tanh(alpha)", "it has to be S"),
    (5, LAYER.format(**PARTS | {"bias": ", bias=False"}), "is missing"),
    (5, LAYER.format(**PARTS | {"more": "self.q_proj = nn.Linear(hidden, hidden)"}), "one too many"),
    (5, LAYER.format(**PARTS | {"width": "heads * head_dim + 1"}), "has the shape"),
    (5, LAYER.format(**PARTS | {"alpha": "torch.ones(1)"}), "starts at 0"),
    (5, LAYER.format(**PARTS | {"root": "1"}), "not divided by √h"),
    (5, LAYER.format(**PARTS | {"share": "x.repeat(1, times, 1, 1)"}), "side by side"),
    (5, LAYER.format(**PARTS | {"result": "S + X * torch.tanh(self.warm_up)"}), "gate_proj does not act"),
    (5, LAYER.format(**PARTS | {"mask": "scores.masked_fill(~valid[:, None, None, :], 0)"}), "weight 0"),
    (5, LAYER.format(**PARTS | {"mask": "scores"}), "Stage “valid”"),
    (6, INSTALL.format(body="pass"), "the image changes nothing"),
    (6, INSTALL.format(body="output = output * 1.01"), "as it was"),
    (
        6,
        INSTALL.format(
            body="if cross is not None: output = output + cross(output.flatten(2), query, module.image)"
            ".unflatten(2, output.shape[2:])"
        ),
        "Stage “closed”",
    ),
    (
        6,
        INSTALL.format(
            body="if cross is not None: output = cross(output.flatten(2), query, module.image[:1])"
            ".unflatten(2, output.shape[2:])"
        ),
        "Stage “batch”",
    ),
    (6, INSTALL.format(body="output = cross(output.flatten(2), query, module.image)"), "Your code raised"),
    (7, WRITE.format(**SEEN | {"image": "visual_states=image if step == 0 else None"}), "writes blind"),
    (7, WRITE.format(**SEEN | {"image": ""}), "does not see the image"),
    (7, WRITE.format(**SEEN | {"pick": ":, :1"}), "the last position"),
    (7, WRITE.format(**SEEN | {"result": "ids[0].tolist() + words"}), "the prompt is in it too"),
    (7, WRITE.format(**SEEN | {"result": "words[1:]"}), "words, expected"),
    (7, NAIVE.format(first="ids.shape[1]"), "reads the whole text again"),
    (8, GAIN + LOGS + "b[at, ids[1:]] - a[at, ids[1:]]", "The sign is turned"),
    (8, GAIN + LOGS + "(a - b)[1:][at, ids[1:]]", "have already read it"),
    (8, GAIN + LOGS + "(a - b)[at, ids[:-1]]", "predict the next token"),
    (8, GAIN + LOGS + "(seen - blind)[at, ids[1:]]", "the difference of raw logits"),
    (8, GAIN + LOGS + "(a.exp() - b.exp())[at, ids[1:]]", "a difference of probabilities"),
    (8, GAIN + LOGS + "(a - b)[at, ids[1:]] / np.log(2)", "are bits"),
    (8, GAIN + LOGS + "(a - b)[torch.arange(len(ids)), ids]", "predicts the first token"),
    (8, GAIN + LOGS + "(a - b)[at, ids[1:]].sum()", "one gain for each token"),
    (5, LAYER.format(**PARTS | {"alpha": "torch.zeros(1), requires_grad=False"}), "does not train"),
    (
        5,
        LAYER.format(**PARTS | {"result": PARTS["result"].replace("X *", "X.detach() *")}),
        "no gradient reaches",
    ),
    (
        6,
        INSTALL.format(body="if cross is not None: output = cross(output.flatten(2), query, module.image)"),
        "(B, n, heads, h)",
    ),
    (
        7,
        WRITE.format(**SEEN)
        .replace("range(steps)", "range(steps + 1)")
        .replace("words\n", "words[:steps]\n"),
        "none after",
    ),
]
ALSO_RIGHT = [
    (
        1,
        COUNT + "np.int64(2 * hidden * kv_heads * head_dim + 2 * kv_heads * head_dim + heads * head_dim + 2)",
    ),
    (1, COUNT + "float((hidden + 1) * kv_heads * head_dim * 2 + (heads * head_dim + 1) + 1)"),
    (
        2,
        "def answer(q, K, V):\n    rows = []\n    for i in range(len(q)):\n"
        "        j = i // (len(q) // len(K))\n"
        "        rows.append((q[i] @ K[j].T / q.shape[2] ** 0.5).softmax(-1) @ V[j])\n"
        "    return torch.cat(rows, dim=1)",
    ),
    (
        2,
        "def answer(q, K, V):\n    q, K, V = (t[None] for t in (q, K, V))\n"
        "    out = F.scaled_dot_product_attention(q, K, V, enable_gqa=True)\n"
        "    return out[0].transpose(0, 1).reshape(q.shape[2], -1)",
    ),
    (3, MASK + "torch.where(valid, scores, torch.tensor(-torch.inf)).softmax(-1)"),
    (
        3,
        "def answer(scores, valid):\n    s, v = scores.numpy(), valid.numpy()\n    out = np.zeros(s.shape)\n"
        "    e = np.exp(s[:, v] - s[:, v].max(1, keepdims=True))\n"
        "    out[:, v] = e / e.sum(1, keepdims=True)\n"
        "    return out",
    ),
    (
        3,
        "def answer(scores, valid):\n    out = torch.zeros_like(scores)\n"
        "    out[:, valid] = scores[:, valid].softmax(-1)\n    return out",
    ),
    (
        4,
        UPDATE + "torch.stack([s + x * torch.tanh(w_g @ s + b_g) * torch.tanh(alpha) for s, x in zip(S, X)])",
    ),
    (
        4,
        "def answer(*given):\n    S, X, w_g, b_g, alpha = (t.numpy() for t in given)\n"
        "    return (S.T + X.T * np.tanh(S @ w_g + b_g) * np.tanh(alpha)).T",
    ),
    (5, LAYER.format(**PARTS | {"alpha": "torch.tensor([0.0])", "root": "query.shape[-1] ** 0.5"})),
    (
        5,
        LAYER.format(
            **PARTS
            | {
                "mask": "None",
                "join": "F.scaled_dot_product_attention(query, K, V, attn_mask=None if valid is None else "
                "valid[:, None, None, :]).transpose(1, 2).flatten(2)",
            }
        ),
    ),
    (
        6,
        INSTALL.format(
            body="if hasattr(module, 'cross'): output = module.cross(output.reshape(*output.shape[:2], -1), "
            "query, module.image).view(output.shape)"
        ),
    ),
    (
        6,
        INSTALL.format(
            body="output = output if cross is None else cross(output.flatten(2), query, module.image)"
            ".unflatten(2, (query.shape[1], -1))"
        ),
    ),
    (7, WRITE.format(**SEEN | {"result": "torch.tensor(words)"})),
    (
        7,
        "def answer(llm, ids, image, steps):\n    return llm.generate(input_ids=ids, visual_states=image, "
        "max_new_tokens=steps, do_sample=False)[0, ids.shape[1]:]",
    ),
    (
        8,
        GAIN + "log = lambda s, t: float(F.log_softmax(s, 0)[t])\n"
        "    return [log(s, t) - log(b, t) for s, b, t in zip(seen, blind, ids[1:])]",
    ),
    (
        8,
        GAIN + "n = len(ids) - 1\n    return F.cross_entropy(blind[:n], ids[1:], reduction='none') - "
        "F.cross_entropy(seen[:n], ids[1:], reduction='none')",
    ),
]
