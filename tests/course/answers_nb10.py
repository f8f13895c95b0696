"""Wrong answers to the exercises of notebook 10: (exercise, code, words of the message)."""

import re

import torch

SCOPE = {"re": re, "torch": torch}
WRAP = "def answer(functions, adapters):\n    "
LOOP = WRAP + "made = []\n    for inner, adapter in zip(functions, adapters):\n        made.append("
CUT = "def answer(model, x):\n    {before}\n    return {result}"
RIGHT = {
    "before": "model.zero_grad(); model(x).sum().backward()",
    "result": "sorted(n for n, p in model.named_parameters() if p.requires_grad and p.grad is None)",
}
REPORT = "def answer(ids, end, pad):\n    return "
SIZE = """
def answer(shapes):
    width = next(s[0] for n, s in shapes.items() if n.endswith("patch_embed.proj.weight"))
    blocks = [m.group(1) for n in shapes if (m := re.search(r"layers\\.(\\d+)\\.", n))]
    return """
WRONG = [
    (1, LOOP + "lambda x: inner(x) + adapter(x))\n    return made", "still bound late"),
    (1, LOOP + "lambda x, inner=inner: inner(x) + adapter(x))\n    return made", "adapter is the last one"),
    (1, LOOP + "inner)\n    return made", "where is the adapter"),
    (1, LOOP + "lambda x, f=inner, a=adapter: f(a(x)))\n    return made", "feeds its answer"),
    (1, LOOP + "inner(5.0) + adapter(5.0))\n    return made", "not of values"),
    (1, LOOP + "(lambda y: lambda x: y)(inner(5.) + adapter(5.)))\n    return made", "while they"),
    (2, CUT.format(**RIGHT | {"before": "pass"}), "was there a backward pass"),
    (
        2,
        CUT.format(**RIGHT | {"result": RIGHT["result"].replace("p.requires_grad and ", "")}),
        "not meant to train",
    ),
    (
        2,
        CUT.format(
            **RIGHT
            | {"result": RIGHT["result"].replace("p.grad is None", "(p.grad is None or not p.grad.any())")}
        ),
        "which is a gradient",
    ),
    (
        2,
        CUT.format(**RIGHT | {"result": RIGHT["result"].replace("is None", "is not None")}),
        "The loss reaches these",
    ),
    (2, CUT.format(**RIGHT | {"before": "model(x).sum().backward()"}), "left over from an earlier pass"),
    (2, CUT.format(**RIGHT | {"result": f"len({RIGHT['result']})"}), "expected a list of names"),
    (3, REPORT + "[i for i in ids if i not in (pad, end)]", "is part of it"),
    (3, REPORT + "[i for i in ids if i != pad]", "still has the end symbol"),
    (3, REPORT + "ids[:ids.index(end)]", "Your code raised ValueError"),
    (
        3,
        REPORT + "ids[:max(i for i, t in enumerate(ids) if t == end)] if end in ids else ids",
        "the padding as well",
    ),
    (3, REPORT + "ids[:ids.index(end)] if end in ids else [i for i in ids if i != pad]", "last word is 0"),
    (4, SIZE + "len(set(blocks)), width", "are exchanged"),
    (4, SIZE + "width, max(map(int, blocks))", "one less"),
    (4, SIZE + "width, len(blocks)", "counts names"),
    (4, SIZE + "width, int(max(blocks)) + 1", "as text '9' is"),
    (4, SIZE.replace("layers\\.(", "layers?\\.(") + "width, len(set(blocks))", "is not a block"),
    (4, SIZE.replace('n.endswith("patch', 'n == ("patch') + "width, len(set(blocks))", "StopIteration"),
]
