"""Wrong answers to the exercises of notebook 05: (exercise, code, words of the message)."""

import math

SCOPE = {"math": math}
PLACE = "def answer(k, studies, batch_size):\n    "
LABELS = "def answer(prompt, report, end, max_length, width):\n    "
PAD = "\n    return x + [-100] * (width - len(x))"
FAR = """
def answer(steps, warmup, rate):
    x = 0.0
    for step in range(steps):
        fall = (steps - step) / (0.3 * steps)
        x += rate * ({rise} if step < warmup else {after})
    return {result}
"""
RIGHT = {"rise": "(step + 1) / (warmup + 1)", "after": "min(1.0, fall)", "result": "x, math.tanh(x)"}
GO = """
def answer(done, every, broken):
    newest = done // every * every
    kept = [s for s in {kept} if s > 0 and s not in broken]
    start = kept[0] if kept else {none}
    return start, {twice}
"""
GOES = {"kept": "(newest, newest - every)", "none": "0", "twice": "done - start"}
WRONG = [
    (
        1,
        PLACE + "e, b = divmod(k, studies // batch_size)\n"
        "    return e, min(batch_size, studies - b * batch_size)",
        "round up",
    ),
    (1, PLACE + "return k // -(-studies // batch_size), batch_size", "only what is left over"),
    (
        1,
        PLACE + "e, b = divmod(k, -(-studies // batch_size))\n"
        "    return e, studies % batch_size if b == -(-studies // batch_size) - 1 else batch_size",
        "no batch is empty",
    ),
    (1, PLACE + "return 1 + k // -(-studies // batch_size), batch_size", "epochs count from 0"),
    (1, PLACE + "return k // -(-studies // batch_size)", "expected two numbers"),
    (2, LABELS + "x = prompt + report[:max_length] + [end]" + PAD, "read, not learnt"),
    (2, LABELS + "x = [-100] * len(prompt) + report[:max_length]" + PAD, "end symbol has to be learnt"),
    (
        2,
        LABELS + "x = [-100] * len(prompt) + report[:max_length] + [end]\n"
        "    return x + [end] * (width - len(x))",
        "not the end symbol",
    ),
    (
        2,
        LABELS + "x = [-100] * len(prompt) + report[:max_length] + [end]\n"
        "    return x + [0] * (width - len(x))",
        "0 is a token like any other",
    ),
    (2, LABELS + "x = [-100] * len(prompt) + report[:max_length - 1] + [end]" + PAD, "comes on top"),
    (2, LABELS + "x = [-100] * (len(prompt) - 1) + report[:max_length] + [end]" + PAD, "its token's place"),
    (2, LABELS + "return [-100] * len(prompt) + report[:max_length] + [end]", "labels instead of"),
    (3, FAR.format(**RIGHT | {"after": "1.0"}), "leaves out the fall"),
    (3, FAR.format(**RIGHT | {"result": "x / rate, math.tanh(x)"}), "sum of the factors alone"),
    (3, FAR.format(**RIGHT | {"after": "(1.0 if fall > 1 else 0.0)"}), "the fall has a share too"),
    (3, FAR.format(**RIGHT | {"result": "x, x"}), "α itself"),
    (3, FAR.format(**RIGHT | {"rise": "1.0"}), "the first steps are smaller"),
    (3, FAR.format(**RIGHT | {"rise": "step / warmup"}), "not 0"),
    (3, FAR.format(**RIGHT | {"rise": "(step + 1) / warmup"}), "one step later"),
    (4, GO.format(**GOES | {"kept": "(newest,)"}), "the one before it is kept"),
    (4, GO.format(**GOES | {"kept": "range(newest, 0, -every)"}), "removed long ago"),
    (4, GO.format(**GOES | {"none": "newest"}), "its only checkpoint is damaged"),
    (4, GO.format(**GOES | {"kept": "(newest + every,)"}), "checkpoint is of step 10"),
    (4, GO.format(**GOES | {"twice": "every - (done - start)"}), "between the checkpoint and the kill"),
]
