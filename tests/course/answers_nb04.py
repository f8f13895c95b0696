"""Wrong answers to the exercises of notebook 04: (exercise, code, words of the message)."""

import torch

SCOPE = {"torch": torch}
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
GAIN = "def answer(seen, blind, ids):\n    "
LOGS = "a, b = seen.log_softmax(-1), blind.log_softmax(-1)\n    at = torch.arange(len(ids) - 1)\n    return "
WRONG = [
    (1, COUNT + "2 * (hidden * kv_heads * head_dim + kv_heads * head_dim)", "W_k and W_v are right"),
    (1, COUNT + "2 * hidden * kv_heads * head_dim + heads * head_dim + 2", "have a bias each"),
    (1, COUNT + "3 * (hidden + 1) * kv_heads * head_dim + heads * head_dim + 2", "a W_q in it"),
    (1, COUNT + "2 * (hidden + 1) * heads * head_dim + heads * head_dim + 2", "4 heads, 2 kv_heads"),
    (1, COUNT + "2 * (hidden + 1) * kv_heads * head_dim + hidden + 2", "the gate reads S"),
    (2, ATTEND.format(**RIGHT | {"share": "t.repeat(groups, 1, 1)"}), "yours take turns"),
    (2, ATTEND.format(**RIGHT | {"scores": "q @ K.transpose(1, 2)"}), "not divided by √h"),
    (2, ATTEND.format(**RIGHT | {"axis": "1"}), "weights of a word sum"),
    (2, ATTEND.format(**RIGHT | {"join": "(weights @ V).reshape(q.shape[1], -1)"}), "join the heads"),
    (2, ATTEND.format(**RIGHT | {"join": "(weights @ V).sum(0)"}), "the heads are side by side"),
    (2, ATTEND.format(**RIGHT | {"share": "t"}), "Your code raised RuntimeError"),
    (3, MASK + "scores.softmax(-1)", "The mask does nothing"),
    (3, MASK + "scores.softmax(-1) * valid", "Mask the scores, not the weights"),
    (3, MASK + "scores.masked_fill(valid, float('-inf')).softmax(-1)", "True means valid"),
    (3, MASK + "(scores * valid).softmax(-1)", "A score of 0 is not a mask"),
    (3, MASK + "(scores.exp() * valid) / (scores.exp() * valid).sum(-1, keepdim=True)", "swamps the others"),
    (3, MASK + "(scores - 100.0 * ~valid).softmax(-1)", "a finite penalty"),
    (3, MASK + "scores[:, valid].softmax(-1)", "keeps its column"),
    (4, GAIN + LOGS + "b[at, ids[1:]] - a[at, ids[1:]]", "The sign is turned"),
    (4, GAIN + LOGS + "(a - b)[1:][at, ids[1:]]", "have already read it"),
    (4, GAIN + LOGS + "(seen - blind)[at, ids[1:]]", "the difference of raw logits"),
    (4, GAIN + LOGS + "(a.exp() - b.exp())[at, ids[1:]]", "a difference of probabilities"),
    (4, GAIN + LOGS + "(a - b)[torch.arange(len(ids)), ids]", "predicts the first token"),
    (4, GAIN + LOGS + "(a - b)[at, ids[1:]].sum()", "one gain for each token"),
]
