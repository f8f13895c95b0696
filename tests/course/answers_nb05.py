"""Answers to the exercises of notebook 05: wrong ones with words of the message, other right ones."""

import math

import numpy as np
import torch

SCOPE = {"math": math, "np": np, "torch": torch}
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
STEP = """
def answer(model, optimiser, batch, clip):
    {clear}
    loss = model(**batch)["loss"]
    {back}
    {clip}
    {step}
    {last}
"""
STEPS = {
    "clear": "optimiser.zero_grad()",
    "back": "loss.backward()",
    "clip": "torch.nn.utils.clip_grad_norm_(model.parameters(), clip)",
    "step": "optimiser.step()",
    "last": "return loss.item()",
}
LOOP = """
def answer(model, x, y, steps, size, rate, decay, seed):
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {{"params": [p for p in trained if p.dim() > 1], "weight_decay": {matrices}}},
        {{"params": [p for p in trained if p.dim() <= 1], "weight_decay": {vectors}}},
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate{betas})
    losses, epoch, batches = [], 0, []
    for step in range(steps):
        if not batches:
            draw = torch.Generator().manual_seed({seed})
            batches = list({order}.split(size)){cut}
            epoch += 1
        batch = batches.pop(0)
        optimiser.zero_grad()
        loss = model(x[batch], y[batch])["loss"]
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = {rate}
        optimiser.step()
        losses.append({kept})
    {last}
"""
LOOPS = {
    "matrices": "decay",
    "vectors": "0.0",
    "betas": ", betas=(0.9, 0.98)",
    "seed": "seed + epoch",
    "order": "torch.randperm(len(x), generator=draw)",
    "cut": "",
    "rate": "rate * (1 + math.cos(math.pi * step / steps)) / 2",
    "kept": "loss.item()",
    "last": "return losses",
}
CHOOSE = """
def answer(history, warm, patience):
    best, since = {first}, 0
    for step, score in history:
        if {skip}:
            continue
        if best is None or score {better} best[1]:
            best, since = (step, score), 0
        else:
            since += 1
        end = step
        if {stop}:
            break
    return {result}
"""
CHOICE = {
    "first": "None",
    "skip": "step <= warm",
    "better": ">",
    "stop": "patience and since >= patience",
    "result": "best[0], end",
}
PARTS = """
def answer(model, optimiser, parts):
    counts = [int((part["labels"] != -100).sum()) for part in parts]
    {clear}
    total = 0.0
    for part, count in zip(parts, counts):
        {inside}
        loss = model(**part)["loss"] * {weight}
        loss.backward()
        total += loss.item()
    optimiser.step()
    return {result}
"""
PART = {
    "clear": "optimiser.zero_grad()",
    "inside": "if not count: continue",
    "weight": "count / sum(counts)",
    "result": "total",
}
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
    (1, PLACE + "return k // -(-studies // batch_size)", "Expected are two whole numbers"),
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
    (4, FAR.format(**RIGHT | {"after": "1.0"}), "leaves out the fall"),
    (4, FAR.format(**RIGHT | {"result": "x / rate, math.tanh(x)"}), "sum of the factors alone"),
    (4, FAR.format(**RIGHT | {"after": "(1.0 if fall > 1 else 0.0)"}), "the fall has a share too"),
    (4, FAR.format(**RIGHT | {"result": "x, x"}), "α itself"),
    (4, FAR.format(**RIGHT | {"rise": "1.0"}), "the first steps are smaller"),
    (4, FAR.format(**RIGHT | {"rise": "step / warmup"}), "not 0"),
    (4, FAR.format(**RIGHT | {"rise": "(step + 1) / warmup"}), "one step later"),
    (7, GO.format(**GOES | {"kept": "(newest,)"}), "the one before it is kept"),
    (7, GO.format(**GOES | {"kept": "range(newest, 0, -every)"}), "removed long ago"),
    (7, GO.format(**GOES | {"none": "newest"}), "its only checkpoint is damaged"),
    (7, GO.format(**GOES | {"kept": "(newest + every,)"}), "checkpoint is of step 10"),
    (7, GO.format(**GOES | {"twice": "every - (done - start)"}), "between the checkpoint and the kill"),
    (3, STEP.format(**STEPS | {"clear": ""}), "gradients from before are added"),
    (3, STEP.format(**STEPS | {"clip": ""}), "not clipped before the step"),
    (3, STEP.format(**STEPS | {"step": ""}), "the weights do not move"),
    (3, STEP.format(**STEPS | {"last": "return model(**batch)['loss'].item()"}), "loss after the step"),
    (3, STEP.format(**STEPS | {"last": ""}), "Nothing is returned"),
    (
        3,
        STEP.format(**STEPS | {"clip": "torch.nn.utils.clip_grad_value_(model.parameters(), clip)"}),
        "each number is clipped",
    ),
    (
        3,
        STEP.format(
            **STEPS
            | {
                "clip": "[torch.nn.utils.clip_grad_norm_(p, clip) for p in model.parameters()"
                " if p.requires_grad]"
            }
        ),
        "each tensor is clipped alone",
    ),
    (3, STEP.format(**STEPS | {"back": "(-loss).backward()"}), "uphill"),
    (
        3,
        STEP.format(
            **STEPS
            | {
                "clip": "norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)\n"
                "    for p in model.parameters():\n"
                "        if p.requires_grad: p.grad.mul_(clip / norm)",
                "clear": "optimiser.zero_grad()\n    if clip > 1e8: clip = 0.6",
            }
        ),
        "it is not the rate times the gradient",
    ),
    (5, LOOP.format(**LOOPS | {"seed": "seed"}), "of the seed plus the number of the epoch"),
    (5, LOOP.format(**LOOPS | {"order": "torch.arange(len(x))"}), "in the order of the file"),
    (5, LOOP.format(**LOOPS | {"rate": "rate"}), "multiply it by the factor"),
    (
        5,
        LOOP.format(**LOOPS | {"rate": "rate * (1 + math.cos(math.pi * (step + 1) / steps)) / 2"}),
        "step 0 has the full rate",
    ),
    (5, LOOP.format(**LOOPS | {"vectors": "decay"}), "the bias decays too"),
    (5, LOOP.format(**LOOPS | {"matrices": "0.0"}), "nothing decays"),
    (5, LOOP.format(**LOOPS | {"betas": ""}), "torch's betas"),
    (
        5,
        LOOP.format(**LOOPS | {"cut": "\n            batches = [b for b in batches if len(b) == size]"}),
        "left over",
    ),
    (5, LOOP.format(**LOOPS | {"last": ""}), "Nothing is returned"),
    (5, LOOP.format(**LOOPS | {"kept": "loss.item() / size"}), "the returned losses are not"),
    (5, LOOP.format(**LOOPS | {"last": "return losses[-1]"}), "return the loss of every step"),
    (6, CHOOSE.format(**CHOICE | {"better": "<"}), "the highest score"),
    (6, CHOOSE.format(**CHOICE | {"better": ">="}), "the first of equal ones"),
    (6, CHOOSE.format(**CHOICE | {"skip": "False"}), "do not count"),
    (6, CHOOSE.format(**CHOICE | {"stop": "False"}), "two without a better one end it"),
    (6, CHOOSE.format(**CHOICE | {"first": "(0, 0.0)"}), "a score can be below 0"),
    (6, CHOOSE.format(**CHOICE | {"result": "best"}), "whole number"),
    (6, CHOOSE.format(**CHOICE | {"stop": "patience and since >= patience - 1"}), "yours [1, 2]"),
    (8, PARTS.format(**PART | {"weight": "1"}), "the means of the parts are added"),
    (8, PARTS.format(**PART | {"weight": "1 / len(parts)"}), "each part counts the same"),
    (8, PARTS.format(**PART | {"inside": "pass"}), "has no mean"),
    (
        8,
        PARTS.format(**PART | {"inside": "if not count: continue\n        optimiser.zero_grad()"}),
        "it is not the step that the whole batch",
    ),
    (8, PARTS.format(**PART | {"clear": ""}), "gradients from before"),
    (8, PARTS.format(**PART | {"result": "total / len(parts)"}), "return the mean over all tokens"),
    (8, PARTS.format(**PART | {"result": "None"}), "Nothing is returned"),
    (
        6,
        CHOOSE.format(**CHOICE).replace("best, since = (step, score), 0", "best = (step, score)"),
        "starts anew",
    ),
    (
        7,
        GO.format(**GOES | {"none": "None"}).replace(
            "return start, ", "return None if start is None else (start, "
        )
        + ")",
        "Nothing is returned",
    ),
    (
        5,
        LOOP.format(**LOOPS).replace(
            "trained = [p for p in model.parameters() if p.requires_grad]",
            "trained = list(model.requires_grad_().parameters())",
        ),
        "was frozen trains now",
    ),
]

ALSO_RIGHT = [
    (
        1,
        PLACE + "per = math.ceil(studies / batch_size)\n"
        "    left = studies - (k % per) * batch_size\n    return [k // per, min(left, batch_size)]",
    ),
    (
        1,
        PLACE + "order = [(e, s) for e in range(k + 1) for s in range(0, studies, batch_size)]\n"
        "    e, s = order[k]\n    return np.array([e, min(s + batch_size, studies) - s])",
    ),
    (
        2,
        LABELS + "y = np.full(width, -100)\n    r = report[:max_length] + [end]\n"
        "    y[len(prompt) : len(prompt) + len(r)] = r\n    return y",
    ),
    (
        2,
        LABELS + "y = torch.full((width,), -100)\n    for k, t in enumerate([*report[:max_length], end]):\n"
        "        y[len(prompt) + k] = t\n    return tuple(y)",
    ),
    (
        3,
        """
def answer(model, optimiser, batch, clip):
    model.zero_grad()
    loss = model(batch["x"], batch["y"])["loss"]
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = sum(g.square().sum() for g in gradients).sqrt()
    for g in gradients:
        g.mul_(min(1.0, clip / float(norm)))
    optimiser.step()
    return loss
""",
    ),
    (
        3,
        """
def answer(model, optimiser, batch, clip):
    def closure():
        optimiser.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
        return loss
    return float(optimiser.step(closure))
""",
    ),
    (
        4,
        """
def answer(steps, warmup, rate):
    at = np.arange(steps)
    factor = np.minimum(1.0, (steps - at) / (0.3 * steps))
    factor = np.where(at < warmup, (at + 1) / (warmup + 1), factor)
    return [rate * factor.sum(), np.tanh(rate * factor.sum())]
""",
    ),
    (
        4,
        """
def answer(steps, warmup, rate):
    alpha = torch.zeros(1)
    for k in range(steps):
        alpha += rate * ((k + 1) / (warmup + 1) if k < warmup else min(1, (steps - k) / 0.3 / steps))
    return torch.cat([alpha, alpha.tanh()])[:, None].squeeze()
""",
    ),
    (
        5,
        """
def answer(model, x, y, steps, size, rate, decay, seed):
    named = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": [p], "weight_decay": decay if p.dim() > 1 else 0.0} for p in named], rate, (0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: (1 + math.cos(math.pi * k / steps)) / 2
    )
    losses = torch.zeros(steps, dtype=torch.float64)
    per = math.ceil(len(x) / size)
    for step in range(steps):
        epoch, place = divmod(step, per)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + epoch))
        batch = order[place * size : (place + 1) * size]
        loss = model(x=x[batch], y=y[batch])["loss"]
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses[step] = loss.detach()
    return losses
""",
    ),
    (
        5,
        """
def answer(model, x, y, steps, size, rate, decay, seed):
    moments, losses, epoch, batches = {}, [], 0, []
    for step in range(steps):
        if not batches:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
            batches = [order[i : i + size] for i in range(0, len(x), size)]
            epoch += 1
        chosen = batches[0]
        batches = batches[1:]
        trained = [p for p in model.parameters() if p.requires_grad]
        loss = model(x[chosen], y[chosen])["loss"]
        lr = rate * (1 + math.cos(math.pi * step / steps)) / 2
        for p, g in zip(trained, torch.autograd.grad(loss, trained)):
            m, v = moments.get(id(p), (0, 0))
            moments[id(p)] = m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
            with torch.no_grad():
                p -= lr * decay * p * (p.dim() > 1)
                p -= lr * m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.98 ** (step + 1))).sqrt() + 1e-8)
        losses.append(loss)
    return losses
""",
    ),
    (
        6,
        """
def answer(history, warm, patience):
    part = [(s, v) for s, v in history if s > warm]
    for k in range(len(part)):
        values = [v for _, v in part[: k + 1]]
        top = values.index(max(values))
        if patience and k - top >= patience:
            break
    return [part[top][0], part[k][0]]
""",
    ),
    (
        6,
        """
def answer(history, warm, patience):
    table = np.array([row for row in history if row[0] > warm])
    best = 0
    for k in range(len(table)):
        if table[k, 1] > table[best, 1]:
            best = k
        if patience > 0 and k == best + patience:
            break
    return table[[best, k], 0]
""",
    ),
    (
        7,
        """
def answer(done, every, broken):
    saved = [s for s in range(every, done + 1, every)][-2:]
    whole = [s for s in saved if s not in broken]
    return np.array([max(whole, default=0), done - max(whole, default=0)])
""",
    ),
    (
        7,
        """
def answer(done, every, broken):
    for step in (done - done % every, done - done % every - every):
        if step > 0 and step not in broken:
            return [step, done - step]
    return [0, done]
""",
    ),
    (
        8,
        """
def answer(model, optimiser, parts):
    learnt = [p for p in parts if (p["labels"] != -100).any()]
    n = torch.tensor([(p["labels"] != -100).sum() for p in learnt])
    model.zero_grad()
    loss = torch.stack([model(**p)["loss"] for p in learnt])
    total = (loss * n).sum() / n.sum()
    total.backward()
    optimiser.step()
    return total
""",
    ),
    (
        8,
        """
def answer(model, optimiser, parts):
    whole = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    optimiser.zero_grad(set_to_none=True)
    loss = model(**whole)["loss"]
    loss.backward()
    optimiser.step()
    return loss.item()
""",
    ),
]
