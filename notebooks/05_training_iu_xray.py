# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Training on IU X-ray
#
# **Goal.** Read the IU X-ray protocol as numbers, run the same training on a few dozen phantom studies,
# pull the plug in the middle, go on, and read the folder that a run leaves behind.
#
# | | |
# |---|---|
# | **You need** | what a gradient step is; notebooks 03 and 04 explain the trained parts |
# | **Time** | about 20 minutes of reading and trying, 30 more for the exercises |
# | **CPU** | 2 cores, 2 GB of memory, 1 minute to run |
# | **GPU** | not needed; `PROFILE = "iu-xray"` needs one, the data and two weight files (not measured) |
# | **Paper** | EMRRG §3.5 (the loss, Eq. 3), §4.1 and §4.2 (the protocol) |
#
# > **Every X-ray here is synthetic.** Nothing in this kit is for clinical use.

# %%
import contextlib
import json
import math
import os
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from IPython.utils.capture import capture_output
from torch import nn

from emrrg_lib.config import with_values
from emrrg_lib.course.notebook import (
    glossary,
    no_bars,
    picture_of,
    run_of,
    scratch_folder,
)
from emrrg_lib.files import KIT
from emrrg_lib.interpret import Picture, loss_curve
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset

# on a GPU machine, with the data in the kit's folder iu_xray: "iu-xray"
PROFILE = "tiny"

scratch = scratch_folder()  # for everything this notebook writes; removed at the end
folder = Path(scratch.name)
SHORT = [
    "train.warm_steps=24",
    "train.steps=4",
    "train.batch_size=8",
    "train.warmup_steps=4",
    "train.validations=1",
    "train.validation_studies=4",
    "train.save_steps=5",
]
if PROFILE == "tiny":
    config, data, out = (
        with_values(preset("tiny"), SHORT),
        folder / "data",
        folder / "run",
    )
else:
    config, data, out = preset(PROFILE), KIT / "iu_xray", run_of(PROFILE)
model = EMRRG.from_preset("tiny")  # for what is done by hand
lit = ("partial_lora", "projector", "hybrid", "gate", "report")
picture_of(model.settings, lit)

# %% [markdown]
# Lit are the parts that stage 3 trains, and the report with its loss, from which they learn. The
# encoder's own weights and the language model stay as they are.

# %%
glossary("B (batch), V (views), I, r, w_g, b_g, α, g_s")

# %% [markdown]
# ## The protocol, as numbers
#
# IU X-ray has one split that everybody uses, R2Gen's: 2,069 studies to train, 296 to validate, 590
# to test. What the paper says about training on it is one paragraph. The rest had to come from
# the released scripts, or from a decision; `config.py` says which, line by line. The preset
# `iu-xray` is the result.

# %%
iu = preset("iu-xray")
rows = [  # setting, the paper, the release's IU script, this kit's preset
    ("language model", "Qwen1.5-1.8B", "Llama-2-7B-chat", iu.llm.name),
    (
        "hybrid layers",
        "0, 8, 16, 24",
        "none",
        ", ".join(map(str, iu.llm.hybrid_layers)),
    ),
    ("image", "192 px", "224 px", f"{iu.encoder.image_size} px"),
    ("views", "not given", "mean of their tokens", iu.data.views),
    ("epochs", "30", "21", iu.train.epochs),
    ("batch", "20", "4", iu.train.batch_size),
    ("rank of Partial LoRA", "32", "16, frozen again", iu.partial_lora.r),
    ("longest report", "60 tokens", "60 tokens", f"{iu.data.max_length} tokens"),
    ("references scored", "not given", "cut to 60 tokens", iu.data.references),
    (
        "optimiser",
        "not given",
        "AdamW, decay .01",
        f"AdamW, decay {iu.train.weight_decay}",
    ),
    (
        "learning rate",
        "not given",
        "1e-4",
        f"{iu.train.learning_rate:g}; gate {iu.train.gate_learning_rate:g}",
    ),
    (
        "schedule",
        "not given",
        "cosine, no warm-up",
        f"{iu.train.schedule}, warm-up {iu.train.warmup_steps}",
    ),
    (
        "validation",
        "every epoch",
        "every 2 batches",
        f"{iu.train.validations} times in all",
    ),
    ("beams", "not given", "5", iu.generation.num_beams),
]
pd.DataFrame(
    rows, columns=["", "paper", "released script", "preset iu-xray"]
).set_index("")

# %% [markdown]
# Three lines need a word. *Hybrid layers:* Qwen1.5-1.8B has 24 layers, numbered 0 to 23, so the
# paper's layer 24 does not exist in it; the preset spreads four layers evenly. *Every 2 batches:* the
# script says `val_check_interval 2.0`, likely meant as epochs; the trainer that gets it reads a whole
# number above 1 as batches. *Validation* in the kit: once an epoch, and the best checkpoint by
# 0.8 · BLEU-4 + 0.2 · CIDEr is kept, as the release chooses.
#
# ### 30 epochs of batch 20 are how many steps?
#
# A step is one update of the weights. The kit counts in steps, since a schedule needs to know where
# it ends: epochs · studies / batch size, rounded up. That takes every batch for a full one; the last
# batch of an epoch is smaller, so the training ends a little before its 30th epoch does.

# %%
studies = 2069  # train split of IU X-ray
batches = math.ceil(studies / iu.train.batch_size)
steps = iu.train.joint_steps(studies)
print(
    f"one epoch: {batches} batches, the last of "
    f"{studies - (batches - 1) * iu.train.batch_size} studies"
)
print(f"30 epochs: {steps} steps")
print(
    f"by batches that is {steps / batches:.2f} epochs; 30 whole ones would be "
    f"{30 * batches}"
)

# %% [markdown]
# ## The loss, by hand
#
# Eq. 3 sums −log p over the tokens of the report, each predicted from the image, the prompt and the
# words before it; the code divides by their number. The prompt is read and not learnt: its labels are
# −100, which cross-entropy leaves out. The end symbol *is* learnt, else no report would ever end.
# Below is one row of a batch, from the last word of the prompt on ("Assistant:", spelt by several
# tokens).

# %%
from emrrg_lib.data import study_set
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.phantom import draw_study

sizes = model.settings
drawn = [draw_study(5, i, sizes.encoder.image_size) for i in (0, 1)]
pixels, view_mask = study_set.pixels(drawn, sizes)
reports = ["the heart is normal in size .", "no pneumothorax ."]
text = text_batch(
    model.tokenizer, "Describe the image.", reports, sizes.data.max_length
)
table = pd.DataFrame(
    {
        "token": [model.tokenizer.decode([i]) for i in text.input_ids[1]],
        "attended": text.attention_mask[1].tolist(),
        "label": text.labels[1].tolist(),
    }
)
print(table[18:].to_string())  # from the end of the prompt on

# %%
with torch.no_grad():
    states, mask = model.encode(pixels, view_mask)
    inputs = model.llm_inputs(text.input_ids, text.attention_mask, states, mask)
    log_p = model.llm(**inputs, use_cache=False).logits.log_softmax(dim=-1)
    summed, count = 0.0, 0
    for row in range(len(reports)):
        for place in range(1, text.labels.shape[1]):
            label = int(text.labels[row, place])
            if label != -100:
                # the token before it makes the prediction
                summed -= float(log_p[row, place - 1, label])
                count += 1
    theirs = float(
        model(
            view_mask=view_mask,
            input_ids=text.input_ids,
            attention_mask=text.attention_mask,
            labels=text.labels,
            pixel_values=pixels,
        )["loss"]
    )
print(
    f"by hand {summed / count:.6f} nats per token over {count} tokens · the model's "
    f"own {theirs:.6f}"
)
assert abs(summed / count - theirs) < 1e-4

# %% [markdown]
# A nat is the unit of the natural logarithm: 2 nats per token mean that the right token gets a
# probability of e⁻² ≈ 0.14 (the geometric mean). And note what the mean is over: tokens, not studies.
# A long report counts for more than a short one.
#
# ## The smallest training loop
#
# Now the loop around the loss. Every training of this kit goes through one engine,
# `emrrg_lib.training.engine.fit`. What it does fits on half a page: a permutation of the studies each
# epoch, AdamW, weight decay on matrices only, a factor on the learning rate.


# %%
class Line(nn.Module):
    """The smallest thing that trains: y = w·x + b."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)
        nn.init.constant_(self.line.weight, 0.1)
        nn.init.zeros_(self.line.bias)

    def forward(self, x, y):
        return {"loss": (self.line(x)[:, 0] - y).square().mean()}


draw = torch.Generator().manual_seed(0)
X = torch.randn(10, 3, generator=draw)
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3


def train_by_hand(model, steps, size, rate, decay, seed):
    """Cosine schedule without warm-up, no clipping."""
    groups = [
        {"params": [model.line.weight], "weight_decay": decay},
        # vectors do not decay
        {"params": [model.line.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    batches, losses = [], []
    for step in range(steps):
        # a new epoch: a new permutation, from seed and number of the epoch
        if not batches:
            epoch = torch.Generator().manual_seed(
                seed + step // math.ceil(len(X) / size)
            )
            batches = list(torch.randperm(len(X), generator=epoch).split(size))
        batch = batches.pop(0)
        loss = model(X[batch], Y[batch])["loss"]
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


# %%
ours = Line()
losses = train_by_hand(ours, steps=60, size=4, rate=0.1, decay=0.1, seed=3)
print(
    f"loss: {sum(losses[:3]) / 3:.3f} in the first epoch, {sum(losses[-3:]) / 3:.3f} "
    "in the last"
)

# %% [markdown]
# ### The real one is the same
#
# `fit` takes the model, the numbers of the studies and a function that makes a batch of some of them.
# The same start, seed and rates must give the same weights:

# %%
from emrrg_lib.data.study_set import Indices
from emrrg_lib.training.engine import fit, loss_history

real = Line()
with capture_output():
    trainer = fit(
        real,
        Indices(len(X)),
        lambda numbers: {"x": X[numbers], "y": Y[numbers]},
        folder / "line",
        steps=60,
        batch_size=4,
        learning_rate=0.1,
        warmup_steps=0,
        weight_decay=0.1,
        clip=0.0,
        schedule="cosine",
        seed=3,
    )
print(
    "largest difference of the weights:",
    float((ours.line.weight - real.line.weight).abs().max().detach()),
)
print(
    "logged by the engine:",
    len(loss_history(trainer)),
    "points, each a mean of three steps",
)
assert torch.allclose(ours.line.weight, real.line.weight, atol=1e-6)

# %% [markdown]
# What the engine adds is what a long training needs: checkpoints, a step that is not taken when the
# loss is not a number, several GPUs, a curve that is written while it runs.
#
# ## Two learning rates, two schedules
#
# The gate starts shut: α = 0. Adam moves a parameter by about the learning rate a step, whatever the
# size of its gradient. So the rate and the number of steps decide how far α can come at all. The
# gate (α, w_g, b_g) therefore has its own group and rate.

# %%
from emrrg_lib.training.schedules import SCHEDULES
from emrrg_lib.tuning.policy import learning_rate_groups

with torch.device("meta"):  # shapes only: the preset is counted without its weights
    models = {"tiny": EMRRG.from_sizes(preset("tiny")), "iu-xray": EMRRG.from_sizes(iu)}
rows = []
for name, each in models.items():
    train = each.settings.train
    groups = learning_rate_groups(each, train.learning_rate, train.gate_learning_rate)
    for part, group in zip(
        ("LoRA, projector, cross-attention", "gate and α"), groups, strict=True
    ):
        rows.append(
            {
                "preset": name,
                "group": part,
                "rate": f"{group['lr']:g}",
                "parameters": f"{sum(p.numel() for p in group['params']):,}",
            }
        )
pd.DataFrame(rows).set_index(["preset", "group"])

# %%
from emrrg_lib.interpret.style import BLUE, INK, ORANGE, PAPER

factors = {
    name: [rule(step, 0 if name == "cosine" else 100, steps) for step in range(steps)]
    for name, rule in SCHEDULES.items()
}
reach = {rate: sum(factors["cosine"]) * rate for rate in (1e-4, 1e-3)}


def rates_picture():
    """The two schedules, and the farthest that α can come."""
    picture = Picture(
        (8.4, 2.8),
        facecolor=PAPER,
        layout="constrained",
        alt=(
            f"Left: the factor on the learning rate over {steps} steps; hold rises, "
            "stays at 1 and falls over "
            "the last 30 %, cosine falls from the start. Right: how far α can come "
            "under the cosine: "
            + ", ".join(
                f"{far:.2f} at a rate of {rate:g}" for rate, far in reach.items()
            )
            + "."
        ),
    )
    left, right = picture.subplots(1, 2)
    for (name, values), colour_of, style in zip(
        factors.items(), (BLUE, ORANGE), ("-", "--"), strict=True
    ):
        left.plot(values, style, color=colour_of, label=name)
    left.set(xlabel="step", ylabel="factor on the rate")
    left.legend(frameon=False)
    for rate, style in zip(reach, ("--", "-"), strict=True):
        right.plot(
            (torch.tensor(factors["cosine"]).cumsum(0) * rate).tolist(),
            style,
            color=INK,
            label=f"rate {rate:g}",
        )
    right.set(xlabel="step", ylabel="farthest α")
    right.legend(frameon=False)
    return picture


rates_picture()

# %% [markdown]
# *Left: the two schedules of the kit. Right: the sum of all steps, if each goes the same way.* Under
# the preset's cosine, 1e-3 lets α come to about 1.5, where tanh(α) is 0.9. At 1e-4, the rate of
# everything else, α could not pass 0.16: the gate would still be nearly shut at the end. Neither is
# the paper's number. The paper gives none.
#
# ## A live training
#
# Stage 3 in the tiny preset has two parts. While LoRA's B is zero, the encoder's output is fixed, so
# the *warm* part computes the tokens once and trains projector, cross-attention and gate on them;
# it is cheap. The short *joint* part then trains everything, image by image. The preset `iu-xray` has
# the joint part only.
#
# Here are 32 studies to train, 8 to validate, 8 to test. It is enough to see the machinery at work,
# and far too little to learn anything about chests.

# %%
from emrrg_lib.phantom import write_phantom
from emrrg_lib.training.finetune import run_finetune

if PROFILE == "tiny":
    with no_bars():
        write_phantom(
            data,
            48,
            seed=11,
            size=config.encoder.image_size,
            splits=(32 / 48, 8 / 48, 8 / 48),
        )
with no_bars():
    run_finetune(config, data, out)
record = json.loads((out / "run.json").read_text(encoding="utf-8"))
print(
    record["history"][-1]["step"],
    "steps · validation score",
    [round(entry["score"], 3) for entry in record["validation"]],
)

# %% [markdown]
# *Two curves, drawn while it ran: the warm part, then the joint part.* (Two validations of four
# studies each, one at the end of each part; where they are equal, no report of the four has changed
# between them.) The loss begins low, since
# the frozen language model knows the phantom's language already; it has to learn only what
# the image shows. With 8 studies a step the curve is mostly the luck of the batch, and more so at the
# end of an epoch, where the batch is what was left over. (An epoch is longer than 32 studies: one
# with a finding is drawn twice, `abnormal_factor`.)
#
# For comparison, the stored curve of the run that comes with the kit (`make demo`). A point is the
# mean over a twentieth of its part: over many steps in the long warm part, over a few in the short
# joint part, hence the restless end. Kept is the best validation *of the joint part*, even where the
# warm part had a higher one: there the encoder was not tuned yet.

# %%
shipped = run_of("tiny")
past = json.loads((shipped / "run.json").read_text(encoding="utf-8"))
curve = past["history"]
print(
    f"{curve[-1]['step']} steps, {past['minutes']} minutes on",
    past["hardware"]["threads"],
    "threads",
)
for entry in past["validation"]:
    print(
        f"  validated at step {entry['step']}: 0.8 · BLEU-4 + 0.2 · CIDEr = "
        f"{entry['score']:.3f}"
    )
loss_curve([row["step"] for row in curve], [row["loss"] for row in curve])

# %% [markdown]
# ## Pull the plug
#
# A training of hours will be stopped: a full disk, a queue's time limit, a power cut. `power_cut`
# raises in the middle of the warm part, between two checkpoints. They come every 5 steps here, so the
# newest is of step 10, and the steps 11 to 13 are lost.

# %%
from emrrg_lib.training.engine import KitTrainer

original = KitTrainer.training_step


class PowerCut(Exception):
    """Nothing in the kit catches it."""


def power_cut(self, *given, **named):
    if self.state.global_step == 13:
        raise PowerCut
    return original(self, *given, **named)


part = folder / "part"
if PROFILE == "tiny":
    plug = patch.object(KitTrainer, "training_step", power_cut)
    with capture_output(), contextlib.suppress(PowerCut), plug:
        run_finetune(config, data, part)
    print("run.json written:", (part / "run.json").exists())
    print(
        "checkpoints:",
        sorted(
            path.name for path in (part / "checkpoints" / "warm").glob("checkpoint-*")
        ),
    )
    newest = part / "checkpoints" / "warm" / "checkpoint-10"
    for file in sorted(newest.iterdir()):
        print(f"  {file.name:<22}{file.stat().st_size:>9,} bytes")

# %% [markdown]
# A checkpoint is more than weights: the optimiser's two moments, the place in the schedule, the state
# of the random numbers. `complete.json` holds a hash of each file. A checkpoint is written under
# another name, hashed and then renamed, so a half-written one is never taken for whole; two are kept.
#
# Now the same call with `resume=True` (`--resume` on the command line).

# %%
if PROFILE == "tiny":
    with capture_output():
        run_finetune(config, data, part, resume=True)
    again = json.loads((part / "run.json").read_text(encoding="utf-8"))
    points = zip(record["history"], again["history"], strict=True)
    differences = [abs(a["loss"] - b["loss"]) for a, b in points]
    print(
        f"{len(differences)} points of the curve, largest difference {max(differences)}"
    )
    for name in ("trained.safetensors", "last.safetensors"):
        same = (out / name).read_bytes() == (part / name).read_bytes()
        print(f"{name} equal, byte for byte: {same}")
        assert same

# %% [markdown]
# The plug left no trace: the curve has the same points and the weights the same bits. That needs
# care with randomness. The batches come from seed and epoch, the jitter of the images from a
# stream that the checkpoint holds. And it needs the same settings: a resume with others is refused.

# %%
from emrrg_lib.files import InputError

if PROFILE == "tiny":
    try:
        run_finetune(
            with_values(config, ["train.learning_rate=0.01"]), data, part, resume=True
        )
    except InputError as error:
        print(str(error).replace(f"{folder}{os.sep}", ""))

# %% [markdown]
# ## Reading a run folder
#
# Let the run write reports for its 8 test studies and score them, then look at what lies there.

# %%
from emrrg_lib.evaluation.score import evaluate_run
from emrrg_lib.run.inference import generate_split

with no_bars():
    generate_split(out, data, "test", out, greedy=PROFILE == "tiny")
    evaluate_run(out)
told = {
    "config.json": "every size and choice: with it the model is built again",
    "run.json": "seed, versions, hardware, minutes, the loss curve, the validations",
    "trained.safetensors": "what trained, at the best validation of the joint part",
    "last.safetensors": "the same after the last step",
    "predictions.jsonl": "a line a study: id, reference, hypothesis",
    "metrics.json": "scores with 95 % intervals",
}
for name, what in told.items():
    print(f"{name:<20}{(out / name).stat().st_size:>9,} bytes   {what}")

# %%
from safetensors.torch import load_file

from emrrg_lib.tuning.policy import part_of

tensors = load_file(out / "trained.safetensors")
names = pd.DataFrame(
    [
        {
            "part": part_of(name),
            "numbers": t.numel(),
            "example": ".".join(name.split(".")[-4:]),
        }  # the end of the name
        for name, t in tensors.items()
    ]
)
names = names.groupby("part").agg(
    tensors=("numbers", "size"),
    numbers=("numbers", "sum"),
    example=("example", "first"),
)
print(names.to_string())
last = load_file(out / "last.safetensors")
print(
    "\ntanh(α) at the end, layer by layer:",
    [
        round(math.tanh(float(t)), 4)
        for name, t in last.items()
        if name.endswith("warm_up")
    ],
)

# %% [markdown]
# The file holds what trained and nothing else: no encoder, no language model. For `iu-xray` that is
# 36.6 million numbers beside a model of 1.96 billion, and nobody's weights are handed on with a run.

# %%
rows = [
    json.loads(line)
    for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
]
print(
    rows[0]["id"],
    "\n  reference: ",
    rows[0]["reference"],
    "\n  hypothesis:",
    rows[0]["hypothesis"],
)
scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
model_row = scores["rows"][0]
print(f"\n{scores['dataset']}, {scores['split']}, {len(rows)} studies")
for name in ("Bleu_4", "CIDEr", "CE13_micro_F1"):
    low, high = model_row["ci"][name]
    print(f"  {name:<14}{model_row['metrics'][name]:.3f}   [{low:.3f}, {high:.3f}]")

# %% [markdown]
# (`CE13_micro_F1`, clinical efficacy: the F1 of 13 findings that a labeler reads in both reports.)
# Eight studies and 28 steps: the intervals say how much such numbers are worth. Read the first and the
# last of them together. The words agree at once, since most reports share them; the findings come
# last, if they come at all. Notebook 06 is about this.
#
# ## Why references must not be cut
#
# `max_length` limits what the model is *trained* on. The released code goes further: the reference
# that it *scores against* is decoded from those same cut tokens. Take a model that has learnt its cut
# training reports perfectly, and ask both referees.

# %%
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.language.prompt import report_ids

whole = [clean_report(draw_study(5, i, 32).report, "iu_xray") for i in range(40)]
rows = []
for longest in (15, 25, 35, 100):
    # without the end symbol
    kept = [report_ids(model.tokenizer, report, longest)[:-1] for report in whole]
    cut = [model.tokenizer.decode(ids).strip() for ids in kept]
    changed = sum(a != b for a, b in zip(cut, whole, strict=True))
    honest = score_reports(whole, cut, meteor=False)
    lenient = score_reports(cut, cut, meteor=False)
    rows.append(
        {
            "max_length": longest,
            "references cut": f"{changed} of 40",
            "BLEU-4, cut references": lenient["Bleu_4"],
            "BLEU-4, whole references": honest["Bleu_4"],
        }
    )
pd.DataFrame(rows).set_index("max_length").round(3)

# %% [markdown]
# The cut referee gives full marks to a model that never says how a report ends, and findings may be
# there. On IU X-ray a limit of 60 is not a formality: with Qwen1.5's tokens it cuts 22.8 % of the training
# reports and 14.9 % of the test references, with Llama-2's 38.6 % and 23.6 % (our count, on the
# published split after R2Gen's cleaning). So the cut moves the scores of every system, up or down, with
# the tokenizer: numbers with different language models are not on one scale. The kit scores whole references;
# `emrrg evaluate --run RUN --references emrrg` gives the released way, for comparison only.
#
# ## The paper, the release, this kit
#
# | | paper | released code | this kit |
# |---|---|---|---|
# | trained on IU | Partial LoRA, hybrid layers | projector only | Partial LoRA, projector, hybrid layers |
# | gate's rate | not given | no gate is built | 1e-3 |
# | a stopped run | – | – | goes on, bit for bit on a CPU |
# | references | not given | cut to 60 tokens | whole |
# | tiny preset | – | – | warm part first, rates 30 and 20 times as high, `hold` |
#
# **The real one.** `emrrg data check iu_xray`, then `PROFILE = "iu-xray"` above, or in a terminal
# `emrrg train --preset iu-xray --data iu_xray --out runs/iu`. It needs a GPU, the encoder
# `MambaXrayCLIP-B.pth` and Qwen1.5-1.8B; `emrrg_lib/README.md` says where they come from. This
# preset has not been trained by us yet.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Where in the data is step k? *(easy, 6 minutes)*
#
# Steps count from 0. A data set is gone through in batches; the last batch of an epoch holds what is
# left over. In which epoch (from 0) does step `k` lie, and how many studies are in its batch?
#
# <details><summary>Hint</summary>
#
# How many batches has one epoch? Round up. Then `divmod`.
#
# </details>


# %%
def place(k, studies, batch_size):
    """→ (epoch, studies in the batch) of step k."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb05 import check_1

check_1(place)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def place(k, studies, batch_size):
#     epoch, batch = divmod(k, -(-studies // batch_size))
#     return epoch, min(batch_size, studies - batch * batch_size)
# ```
#
# For IU X-ray the last batch of each epoch has 9 studies, and they weigh as much as 20: a step is a
# step.
#
# </details>
#
# ### Exercise 2 · Make the labels *(medium, 8 minutes)*
#
# Write the labels of one row: prompt, report, end symbol, padding to `width`. The report is cut to
# `max_length` tokens first; the end symbol is never cut away. What is not learnt gets −100.
#
# <details><summary>Hint</summary>
#
# `learnt = report[:max_length] + [end]`. The prompt takes `len(prompt)` places in front of it.
#
# </details>


# %%
def make_labels(prompt, report, end, max_length, width):
    """Lists of token ids `prompt` and `report`, id `end` → list of `width` labels."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb05 import check_2

check_2(make_labels)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def make_labels(prompt, report, end, max_length, width):
#     labels = [-100] * len(prompt) + report[:max_length] + [end]
#     return labels + [-100] * (width - len(labels))
# ```
#
# The released code appends the end symbol before it cuts: a long report then never shows how to end.
# And where a padding id is an ordinary token, a model that learns the padding writes it.
#
# </details>
#
# ### Exercise 3 · How far can α come? *(medium, 8 minutes)*
#
# The factor of the schedule `hold`: it rises in `warmup` steps, (step + 1) / (warmup + 1); then it is
# 1; then it falls in a line to 0 over the last 30 % of the steps, (steps − step) / (0.3 · steps). If
# Adam moves α by the rate times the factor at every step, and always the same way: where is α in the
# end, and what is tanh(α)?
#
# <details><summary>Hint</summary>
#
# A loop over the steps 0 … steps − 1. In each, the factor is the rise while `step < warmup`, and else
# the smaller one of 1 and the fall.
#
# </details>


# %%
def farthest(steps, warmup, rate):
    """→ (α, tanh(α)) after all steps."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb05 import check_3

check_3(farthest)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def farthest(steps, warmup, rate):
#     alpha = 0.0
#     for step in range(steps):
#         fall = (steps - step) / (0.3 * steps)
#         alpha += rate * ((step + 1) / (warmup + 1) if step < warmup else min(1.0, fall))
#     return alpha, math.tanh(alpha)
#
#
# print(farthest(1000, 20, 2e-2), farthest(24, 4, 2e-2))  # warm parts: tiny preset, live run
# ```
#
# A bound, not a forecast: compare with the tanh(α) that the live run printed above. Gradients change
# their sign from batch to batch, and Adam averages them.
#
# </details>
#
# ### Exercise 4 · Where does it go on? *(medium, 8 minutes)*
#
# A run saves a checkpoint every `every` steps and keeps the two newest. It is killed after
# `done` steps. `broken` is a set of the steps whose checkpoints a disk error has damaged. From which
# step does it go on (0: from the start), and how many steps does it do a second time?
#
# <details><summary>Hint</summary>
#
# The newest checkpoint is of step `done // every * every`; the other one is `every` before it. There
# is no checkpoint of step 0.
#
# </details>


# %%
def goes_on(done, every, broken):
    """→ (step it goes on from, steps done twice)."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb05 import check_4

check_4(goes_on)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def goes_on(done, every, broken):
#     newest = done // every * every
#     kept = [step for step in (newest, newest - every) if step > 0 and step not in broken]
#     start = kept[0] if kept else 0
#     return start, done - start
# ```
#
# </details>

# %%
scratch.cleanup()

# %% [markdown]
# ## Summary
#
# - 30 epochs of 2,069 studies at batch 20 are 3,104 steps as the kit counts. Much of the protocol is
#   not in the paper; the preset says where each number comes from.
# - The loss is the mean over report tokens and the end symbol; prompt and padding do not count.
# - Rate and steps bound how far α can come. The gate needs its own rate.
# - A run that is killed goes on from its newest whole checkpoint, to the same bits.
# - A run folder holds configuration, record, trained weights, predictions and scores; the frozen
#   weights are not in it.
# - Scores against cut references cannot be compared with others.
#
# You can now start a training, stop it, go on with it, and say from its folder what was done.
#
# Read on in the code: [stage 3](../emrrg_lib/training/finetune.py), [the
# engine](../emrrg_lib/training/engine.py), [checkpoints](../emrrg_lib/training/checkpoints.py), [the
# presets](../emrrg_lib/config.py).
#
# [← 04](04_hybrid_cross_attention.ipynb) · [06 →](06_metrics.ipynb)
