"""Answers to the exercises of notebook 10: other right ones, and wrong ones with words of the message."""

import copy
import functools
import itertools
import re

import numpy as np
import torch

SCOPE = {"copy": copy, "functools": functools, "itertools": itertools, "np": np, "re": re, "torch": torch}
WRAP = "def answer(functions, adapters):\n    "
LOOP = WRAP + "made = []\n    for inner, adapter in zip(functions, adapters):\n        made.append("
CUT = """
def answer(model, x):
    {before}
    loss = model(x).sum()
    if loss.requires_grad:
        {backward}
    return {result}"""
RIGHT = {
    "before": "model.zero_grad()",
    "backward": "loss.backward()",
    "result": "sorted(n for n, p in model.named_parameters() if p.requires_grad and p.grad is None)",
}
NAMED = RIGHT["result"]
REPORT = "def answer(ids, end, pad):\n    return "
SIZE = """
def answer(shapes):
    width = next(s[0] for n, s in shapes.items() if n.endswith("patch_embed.proj.weight"))
    blocks = [m.group(1) for n in shapes if (m := re.search(r"layers\\.(\\d+)\\.", n))]
    return """
SHAPES = """
def answer(wanted, found, prefix):
    {own}
    both = [n for n in own if n in wanted]
    return (
        {missing},
        {unexpected},
        {misfits},
    )"""
LISTS = {
    "own": "own = {n[len(prefix):]: s for n, s in found.items() if n.startswith(prefix)}",
    "missing": "sorted(n for n in wanted if n not in own)",
    "unexpected": "sorted(n for n in own if n not in wanted)",
    "misfits": "sorted(n for n in both if own[n] != wanted[n])",
}
OWN = "own = {{{}: s for n, s in found.items()}}"
USES = """
def answer(model, x):
    {first}
    called, hooks, told = set(), [], {{}}
    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook({hook}))
    model(x).sum().backward()
    {last}
    for name, p in model.named_parameters():
        holder = name.rpartition(".")[0]
        told[name] = {word}
    return told"""
AUDIT = {
    "first": "model = copy.deepcopy(model).requires_grad_(True); model.zero_grad()",
    "hook": "lambda *_, name=name: called.add(name)",
    "last": "pass",
    "word": "'unused' if p.grad is None else 'called' if holder in called else 'read'",
}
BY_HAND = """
def answer(model, x):
    named = dict(model.named_parameters())
    flags = {n: p.requires_grad for n, p in named.items()}
    called, hooks = set(), []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(lambda module, _: called.add(id(module))))
    for p in named.values():
        p.requires_grad_(True)
    grads = torch.autograd.grad(model(x).sum(), list(named.values()), allow_unused=True)
    for hook in hooks:
        hook.remove()
    told = {}
    for (n, p), g in zip(named.items(), grads):
        p.requires_grad_(flags[n])
        here = id(model.get_submodule(n.rpartition(".")[0])) in called
        told[n] = "unused" if g is None else "called" if here else "read"
    return told"""
ALSO_RIGHT = [
    (1, WRAP + "return [lambda x, f=f, a=a: f(x) + a(x) for f, a in zip(functions, adapters)]"),
    (
        1,
        WRAP + "return tuple(lambda x, i=i: functions[i](x) + adapters[i](x) for i in range(len(functions)))",
    ),
    (
        1,
        "def both(f, a, x):\n    return np.float32(f(x) + a(x))\n"
        + WRAP
        + "return list(map(lambda f, a: functools.partial(both, f, a), functions, adapters))",
    ),
    (
        1,
        "class Both:\n    def __init__(self, f, a):\n        self.f, self.a = f, a\n"
        "    def __call__(self, x):\n        return torch.tensor(self.f(x)) + self.a(x)\n"
        + WRAP
        + "return [Both(*pair) for pair in zip(functions, adapters)]",
    ),
    (2, CUT.format(**RIGHT).replace("model.zero_grad()", "for p in model.parameters(): p.grad = None")),
    (2, CUT.format(**RIGHT | {"before": "model = copy.deepcopy(model); model.zero_grad(set_to_none=True)"})),
    (
        2,
        "def answer(model, x):\n    named = {n: p for n, p in model.named_parameters() if p.requires_grad}\n"
        "    loss = model(x).sum() + 0 * torch.ones(1, requires_grad=True).sum()\n"
        "    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)\n"
        "    return np.array(sorted(n for n, g in zip(named, grads) if g is None))",
    ),
    (2, CUT.format(**RIGHT | {"result": f"tuple({NAMED})"})),
    (3, REPORT + "list(itertools.takewhile(lambda i: i != end, ids))"),
    (3, REPORT + "itertools.takewhile(lambda i: i != end, ids)"),
    (3, REPORT + "np.array((ids + [end])[:(ids + [end]).index(end)])"),
    (
        3,
        "def answer(ids, end, pad):\n    for k, i in enumerate(ids):\n        if i == end:\n            "
        "return torch.tensor(ids[:k])\n    return tuple(ids)",
    ),
    (4, SIZE + "[width, max(map(int, blocks)) + 1]"),
    (4, SIZE + "np.array([width, len(set(blocks))])"),
    (
        4,
        "def answer(shapes):\n    norms = [n for n in shapes if n.endswith('norm1.weight')]\n"
        "    return torch.tensor(shapes[norms[0]][0]), np.int64(len(norms))",
    ),
    (5, SHAPES.format(**LISTS)),
    (
        5,
        "def answer(wanted, found, prefix):\n"
        "    own = {n.removeprefix(prefix): s for n, s in found.items() if n.startswith(prefix)}\n"
        "    shared = wanted.keys() & own.keys()\n"
        "    return [np.array(sorted(wanted.keys() - shared)), tuple(sorted(own.keys() - shared)),\n"
        "            sorted(n for n in shared if list(own[n]) != list(wanted[n]))]",
    ),
    (6, USES.format(**AUDIT)),
    (6, BY_HAND),
    (
        6,
        USES.format(**AUDIT | {"first": "model = copy.deepcopy(model).requires_grad_(True)"}),
    ),  # no old .grad
]
WRONG = [
    (1, LOOP + "lambda x: inner(x) + adapter(x))\n    return made", "still bound late"),
    (1, LOOP + "lambda x, inner=inner: inner(x) + adapter(x))\n    return made", "adapter is the last one"),
    (1, LOOP + "inner)\n    return made", "where is the adapter"),
    (1, LOOP + "lambda x, f=inner, a=adapter: f(a(x)))\n    return made", "feeds its answer"),
    (1, LOOP + "inner(5.0) + adapter(5.0))\n    return made", "Return a list of functions"),
    (
        1,
        WRAP + "for i, (f, a) in enumerate(zip(list(functions), adapters)):\n"
        "        functions[i] = lambda x, f=f, a=a: f(x) + a(x)\n    return functions",
        "changes the caller's list `functions`",
    ),
    (
        1,
        WRAP + "made = []\n    while adapters:\n        f, a = functions[len(made)], adapters.pop(0)\n"
        "        made.append(lambda x, f=f, a=a: f(x) + a(x))\n    return made",
        "changes the caller's list `adapters`",
    ),
    (
        1,
        LOOP + "lambda x, adapter=adapter: inner(x) + adapter(x))\n    return made",
        "function is the last one",
    ),
    (1, LOOP + "lambda x, f=inner, a=adapter: a(f(x)))\n    return made", "not functions[i](x)"),
    (1, LOOP + "(lambda y: lambda x: y)(inner(5.) + adapter(5.)))\n    return made", "while they"),
    (2, CUT.format(**RIGHT | {"backward": "pass"}), "was there a backward pass"),
    (2, CUT.format(**RIGHT | {"result": NAMED.replace("p.requires_grad and ", "")}), "not meant to train"),
    (
        2,
        CUT.format(
            **RIGHT | {"result": NAMED.replace("p.grad is None", "(p.grad is None or not p.grad.any())")}
        ),
        "which is a gradient",
    ),
    (2, CUT.format(**RIGHT | {"result": NAMED.replace("is None", "is not None")}), "The loss reaches these"),
    (2, CUT.format(**RIGHT | {"before": "pass"}), "left over from an earlier pass"),
    (2, CUT.format(**RIGHT | {"result": f"len({NAMED})"}), "as a sorted list"),
    (2, CUT.format(**RIGHT | {"result": f"set({NAMED})"}), "as a sorted list"),
    (2, CUT.format(**RIGHT | {"result": f"{NAMED}[::-1]"}), "not sorted"),
    (
        2,
        CUT.format(**RIGHT).replace("loss.requires_grad", "True"),
        "the loss reaches nothing that trains”: Your",
    ),
    (
        2,
        "def answer(model, x):\n    return ['layers.part1.bias', 'layers.part1.weight']",
        "parts in use: 2, not in use: 3”: Yours",
    ),
    (3, REPORT + "[i for i in ids if i not in (pad, end)]", "is part of it"),
    (3, REPORT + "[i for i in ids if i != pad]", "still has the end symbol"),
    (3, REPORT + "ids[:ids.index(end)]", "Your code raised ValueError"),
    (
        3,
        REPORT + "ids[:max(i for i, t in enumerate(ids) if t == end)] if end in ids else ids",
        "the padding as well",
    ),
    (3, REPORT + "ids[:ids.index(end)] if end in ids else [i for i in ids if i != pad]", "last word is 0"),
    (
        3,
        "def answer(ids, end, pad):\n    if end in ids:\n        del ids[ids.index(end):]\n    return ids",
        "changes the caller's row",
    ),
    (3, REPORT + "' '.join(map(str, ids))", "Numbers are expected"),
    (4, SIZE + "len(set(blocks)), width", "are exchanged"),
    (4, SIZE + "width, max(map(int, blocks))", "one less"),
    (4, SIZE + "width, len(blocks)", "counts names"),
    (4, SIZE + "width, int(max(blocks)) + 1", "as text '9' is"),
    (4, SIZE.replace("layers\\.(", "layers?\\.(") + "width, len(set(blocks))", "is not a block"),
    (4, SIZE.replace('n.endswith("patch', 'n == ("patch') + "width, len(set(blocks))", "StopIteration"),
    (4, SIZE + "width", "Return two numbers"),
    (4, SIZE + "str(width), len(set(blocks))", "A whole number is expected"),
    (4, SIZE.replace("s[0]", "s[-1]") + "width, len(set(blocks))", "read width and depth off"),
    (
        5,
        SHAPES.format(**LISTS | {"missing": LISTS["unexpected"]}),
        "As missing yours gives what is unexpected",
    ),
    (5, SHAPES.format(**LISTS | {"misfits": "[]"}), "As misfits yours gives []"),
    (5, SHAPES.format(**LISTS | {"own": "own = found"}), "take the prefix off the file's names first"),
    (5, SHAPES.format(**LISTS | {"own": OWN.format("n[len(prefix):]")}), "take the prefix off once"),
    (5, SHAPES.format(**LISTS | {"own": OWN.format("n.removeprefix(prefix)")}), "belongs to another part"),
    (
        5,
        SHAPES.format(**LISTS | {"own": LISTS["own"].replace("n[len(prefix):]", "n.lstrip(prefix)")}),
        "take the prefix off once",
    ),
    (
        5,
        SHAPES.format(**LISTS | {"own": LISTS["own"].replace("n[len(prefix):]", "n.replace(prefix, '')")}),
        "take the prefix off once",
    ),
    (
        5,
        SHAPES.format(
            **LISTS | {"misfits": "sorted(n for n in both if np.prod(own[n]) != np.prod(wanted[n]))"}
        ),
        "As misfits",
    ),
    (5, SHAPES.format(**LISTS | {"missing": "[n for n in wanted if n not in own][::-1]"}), "not sorted"),
    (
        5,
        SHAPES.format(**LISTS | {"unexpected": "sorted(n for n in own if own[n] != wanted.get(n))"}),
        "with different shapes: misfits",
    ),
    (5, SHAPES.format(**LISTS) + "[0]", "Return three lists"),
    (
        6,
        USES.format(**AUDIT | {"word": "'called' if holder in called else 'unused'"}),
        "though no hook notices",
    ),
    (6, USES.format(**AUDIT | {"word": "'called' if p.grad is not None else 'unused'"}), "its user reads it"),
    (6, USES.format(**AUDIT | {"hook": "lambda *_: called.add(name)"}), "the module that holds it is called"),
    (
        6,
        USES.format(**AUDIT | {"first": "model = copy.deepcopy(model); model.zero_grad()"}),
        "they are frozen, yet",
    ),
    (
        6,
        USES.format(
            **AUDIT | {"word": "'called' if holder in called else 'unused' if p.grad is None else 'read'"}
        ),
        "its module may run",
    ),
    (
        6,
        USES.format(**AUDIT | {"first": "model.requires_grad_(True); model.zero_grad()"}),
        "the model's requires_grad are not",
    ),
    (6, BY_HAND.replace("hook.remove()", "pass"), "the model's hooks are not"),
    (6, BY_HAND.replace("    return told", "    return list(told.items())"), "Return a dict"),
    (
        6,
        USES.format(
            **AUDIT | {"word": AUDIT["word"].replace("p.grad is None", "p.grad is None or not p.grad.any()")}
        ),
        "a gradient of 0 is a gradient",
    ),
    (
        6,
        BY_HAND.replace(
            "    told = {}\n", "    told = {}\n    named = {n: p for n, p in named.items() if flags[n]}\n"
        ),
        "frozen parameters belong in it",
    ),
    (
        2,
        "def answer(model, x):\n    ran = set()\n    for name, module in model.named_modules():\n"
        "        module.register_forward_hook(lambda *_, name=name: ran.add(name))\n    model(x)\n"
        "    names = [n for n, p in model.named_parameters() if p.requires_grad]\n"
        "    return sorted(n for n in names if n.rpartition('.')[0] not in ran)",
        "expected ['layers.part1",
    ),
    (
        5,
        SHAPES.format(
            **LISTS
            | {
                "own": LISTS["own"]
                .replace("n.startswith(prefix)", "prefix in n")
                .replace("n[len(prefix):]", "n.removeprefix(prefix)")
            }
        ),
        "prefix 'visual.'",
    ),
]
