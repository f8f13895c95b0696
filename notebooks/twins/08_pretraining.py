# %% [markdown]
# # 08 · Pre-training
#
# **Goal.** See how an encoder learns to look before it ever writes: first from images alone, by
# guessing the next part of the picture, then from pairs, by finding the report that belongs to it.
#
# | | |
# |---|---|
# | **You need** | notebooks 01 and 02 (patches, the scan); what cross-entropy is |
# | **Time** | about 30 minutes of reading and trying, 40 more for the exercises, 20 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, 1 minute to run |
# | **GPU** | not needed; `PROFILE = "base"` takes the base encoder's sizes, for a GPU (not measured) |
# | **Paper** | EMRRG §3.2 takes its encoder from MambaXray-VL: CXPMRG-Bench §2, stages 1 and 2 |
#
# **You will be able to**
#
# - say in which order stage 1 reads an image and why nobody can cheat (exercise 1),
# - write its target, and know what a blind guess costs (2),
# - write CLIP's loss, and judge it by the points at which its value is known (3, 4, 6),
# - turn the file of a one-direction encoder into one of four directions (5).
#
# **Contents.** [Stage 1](#Stage-1:-guess-the-next-cluster) · [From one direction to
# four](#From-one-direction-to-four) · [Stage 2](#Stage-2:-find-the-report-that-belongs) · [The shipped
# encoder](#What-the-shipped-encoder-was-trained-on) · [Papers, release,
# kit](#The-papers,-the-release,-this-kit) · [Exercises](#Exercises) · [Quiz](#Quiz) · [Further
# reading](#Further-reading)
#
# > **Every X-ray here is synthetic.** Nothing in this kit is for clinical use.

# %% tags=["remove-cell"]
# Colab only: fetches and installs the kit. OWNER is who hosts your copy.
import os
import sys

if "google.colab" in sys.modules and not os.path.isdir("/content/kit"):
    os.system("git clone -q --depth 1 https://github.com/OWNER/emrrg-kit /content/kit")
    os.system(f"{sys.executable} /content/kit/emrrg_lib/course/colab.py")
    sys.path.insert(0, "/content/kit")
    os.chdir("/content/kit/notebooks")

# %%
import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from IPython.utils.capture import capture_output

from emrrg_lib.config import ENCODERS
from emrrg_lib.course.notebook import glossary, no_bars, picture_of, scratch_folder
from emrrg_lib.files import TINY_DIR
from emrrg_lib.interpret.figures_training import grey_pictures, similarity_map
from emrrg_lib.interpret.figures_vision import curves
from emrrg_lib.model import EMRRG
from emrrg_lib.training.pretrain import STAGE1, STAGE2

# %%
PROFILE = "tiny"  # on a GPU machine: "base", the encoder of the paper at 192 px

scratch = scratch_folder()  # for everything this notebook writes; removed at the end
folder = Path(scratch.name)
sizes = ENCODERS[PROFILE]
model = EMRRG.from_preset("tiny").eval()  # with the shipped encoder
picture_of(model.settings, lit=("image", "patches", "tokens", "mamba", "scan"))

# %% [markdown]
# Lit is all that pre-training makes: the encoder. Stage 3 (notebook 05) freezes it and tunes a few
# low-rank pairs.
#
# | | stage 1 | stage 2 | stage 3 |
# |---|---|---|---|
# | learns from | images alone | images and their reports | images and their reports |
# | the task | guess the next patches | find the report that belongs to the image | write the report |
# | CXPMRG-Bench used | 1.27 M X-rays | 480,000 pairs | IU X-ray, MIMIC-CXR, CheXpert Plus |
# | scan directions | 1 | 4 | 4 |

# %%
glossary("B (batch), I, P, T_i, M, d, L")

# %% [markdown]
# ## Stage 1: guess the next cluster
#
# A language model learns from text without labels by guessing the next word. For an image, what is
# the "next" thing? Stage 1 cuts the grid of patches into **clusters** of 4 × 4, numbers them line by
# line, and has the encoder read them in that order. After each cluster it must guess the pixels of the
# next one.
#
# ### The order, by hand

# %%
from emrrg_lib.data.images import normalise
from emrrg_lib.phantom import draw_study
from emrrg_lib.training.stage1 import (
    CLUSTER,
    cluster_mask,
    cluster_order,
    normalised_pixels,
)

side = sizes.side  # patches along an edge: 12
starts = range(0, side, CLUSTER)  # of the clusters, in rows and in columns
order = torch.tensor(
    [
        row * side + column
        for top in starts
        for left in starts
        for row in range(top, top + CLUSTER)
        for column in range(left, left + CLUSTER)
    ]
)
assert torch.equal(order, cluster_order(side))
clusters = len(order) // CLUSTER**2
print("first cluster:", order[:16].tolist())
print(f"{clusters} clusters; the encoder reads the first {clusters - 1},")
print(f"and those from 2 to {clusters} are guessed")

# %% [markdown]
# ### The target, by hand
#
# Guessing plain pixels would reward guessing the average grey. So each patch is brought to mean 0 and
# deviation 1 first: the rest is its *structure*. A model that knows nothing guesses 0 and has a
# mean squared error of nearly 1. The average patch is a better blind guess: the three channels, brought
# to ImageNet's colours, differ by constants, and a constant can be guessed without looking.

# %%
study = draw_study(3, 8, sizes.image_size)
grey = np.asarray(study.images[0])  # (H, W), 0 … 255
image = normalise([np.dstack([grey] * 3)])  # (1, 3, H, W), as the encoder takes it
P, edge = sizes.patch_size, CLUSTER * sizes.patch_size  # of a patch, of a cluster

patch = image[0, :, 2 * P : 3 * P, 5 * P : 6 * P]  # row 2, column 5 of the grid
values = patch.permute(1, 2, 0).reshape(-1)  # (row, column, channel)
hand = (values - values.mean()) / (values.var() + 1e-6).sqrt()
target = normalised_pixels(image, P)
assert torch.allclose(hand, target[0, 2 * side + 5], atol=1e-4)
average = target.mean(dim=1, keepdim=True)  # one patch for every place
print("target", tuple(target.shape))
blind = float(target.square().mean()), float((target - average).square().mean())
print(f"error of the guess 0: {blind[0]:.3f} · of the average patch: {blind[1]:.3f}")


# %%
def assembled(patches):
    """(M, 3 · P²) → grey picture (H, W)."""
    one = patches.reshape(side, side, P, P, 3).mean(dim=-1)
    return one.permute(0, 2, 1, 3).reshape(side * P, side * P)


grey_pictures(
    {
        "the order of the clusters": grey,
        "the target: normalised patches": assembled(target[0]),
        "the mask: dark may be seen": np.where(
            cluster_mask(clusters - 1) == 0, -0.6, 2
        ),
    },
    f"Left: a synthetic frontal X-ray with its {clusters} clusters numbered line by "
    "line. Middle: the same with every patch normalised, so that edges show and "
    "brightness is gone. Right: the mask, a staircase: the queries for cluster k + 1 "
    "see clusters 1 to k.",
    span=2,
    numbered=side // CLUSTER,
)

# %% [markdown]
# *Left: order. Middle: what has to be guessed. Right: who may see what; a column is a token read (clusters
# 1 to 8), a row a patch asked (clusters 2 to 9).* In the middle picture the belly
# is noisy: where a patch has next to no structure, dividing by its deviation blows its noise up.
#
# ### The mask, by hand, and the proof that nobody cheats
#
# Two things keep the future out. The encoder scans in **one** direction only, so a token knows only what
# came before it. And what guesses is a small **decoder**, cross-attention from one *query* for each patch
# to guess (its place in the picture, none of its pixels) to the encoder's tokens; by the mask these queries
# see only the clusters before the one to guess. If that holds, a change of the picture in cluster 5 must
# not move the guesses for clusters 2 to 5 at all, and may move those for 6 to 9.

# %%
size = CLUSTER**2
mask = torch.full(((clusters - 1) * size, (clusters - 1) * size), -math.inf)
# the queries for cluster asked + 2, of those numbered from 1
for asked in range(clusters - 1):
    mask[asked * size : (asked + 1) * size, : (asked + 1) * size] = 0
assert torch.equal(mask, cluster_mask(clusters - 1))

# %%
from emrrg_lib.training.guesses import guess
from emrrg_lib.training.stage1 import Stage1Model

torch.manual_seed(0)
recipe = STAGE1[PROFILE]
untrained = Stage1Model(sizes, recipe.objective, recipe.decoder_dim).eval()

changed = image.clone()
row, column = divmod(5 - 1, side // CLUSTER)
changed[..., row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] += 0.5
# what `guess` returns: the target and the guess of clusters 2 … 9, each (128, 3 · P²)
moved = (guess(untrained, changed)[1] - guess(untrained, image)[1]).abs()
moved = moved.view(clusters - 1, -1).amax(dim=1)
for number, by in enumerate(moved.tolist(), start=2):
    print(f"guess for cluster {number}: moved by {by:.1e}")
assert not moved[:4].any() and moved[4:].all()

# %% [markdown]
# ### The loss is one line, and the real one is the same

# %%
wanted, guessed = guess(untrained, image)
assert torch.equal(wanted, target[0, order[size:]])  # clusters 2 … 9
loss = (guessed - wanted).square().mean()
with torch.no_grad():
    theirs = untrained(image)["loss"]
print(f"by hand {float(loss):.6f} · Stage1Model {float(theirs):.6f}")
assert torch.allclose(loss, theirs, atol=1e-5)

# %% [markdown]
# ### A few live steps
#
# 46 phantom studies, 60 steps of 8 crops. The kit's tiny recipe has 1,000 steps of 32 on the images of
# 11,400 studies; the release's has 101 epochs of 1.27 million.

# %%
from emrrg_lib.phantom import write_phantom
from emrrg_lib.training.batches import find_images
from emrrg_lib.training.pretrain import run_stage1
from emrrg_lib.training.stage1 import load_stage1

with no_bars():
    corpus = write_phantom(
        folder / "corpus",
        48,
        seed=21,
        size=sizes.image_size,
        splits=(46 / 48, 2 / 48, 0.0),
    )
short = replace(recipe, steps=60, warmup_steps=6, batch_size=8, base_learning_rate=0.06)
with capture_output():
    file = run_stage1(find_images(corpus), sizes, short, folder / "stage1")
history = json.loads((folder / "stage1" / "run.json").read_text(encoding="utf-8"))[
    "history"
]
print(
    f"mean squared error: {history[0]['loss']:.3f} at first, "
    f"{history[-1]['loss']:.3f} at the end"
)

# %%
stage1 = load_stage1(file).eval()
shown = torch.zeros_like(target[0])
shown[order[size:]] = guess(stage1, image)[1]
for name, patches in (("average patch", average[0]), ("model", shown)):
    error = float((patches - target[0])[order[size:]].square().mean())
    print(f"this image, clusters 2 to 9, error of the {name}: {error:.3f}")
grey_pictures(
    {"target": assembled(target[0]), "guess after 60 steps": assembled(shown)},
    "Left: the target of an image that was not in the training. Right: what the model "
    "guesses after 60 steps, a smear; the first cluster is empty, it is never guessed. "
    f"Mean squared error {error:.2f}.",
    span=2,
)

# %% [markdown]
# *An image from another seed; shown is the mean of the channels.* Compare the two errors. Sixty steps have
# learnt the average patch and, from its place, which way the brightness runs: towards the middle.
# No rib and no heart yet; they take more steps. The first cluster stays empty, since
# nothing comes before it.
#
# ### A longer training, stored
#
# Five times as many steps, of 24 crops, on 1,400 phantom images: 300 steps took two and a half minutes of
# one core. The guesses of that training are stored, for the phantom above and for a real chest of NIH
# ChestX-ray14, of which the model has seen nothing. One command makes them again:
# `.venv/bin/python -m emrrg_lib.training.guesses runs/guesses.npz`.

# %%
from emrrg_lib.training.guesses import STORED

stored = {name: torch.tensor(part).float() for name, part in np.load(STORED).items()}
panels, errors = {}, {}
for name, title in (("phantom", "a phantom"), ("chest", "a real chest")):
    wanted, guessed = stored[f"{name}_target"], stored[f"{name}_guess"]
    errors[title] = {
        "average patch": (wanted - wanted.mean(dim=0)).square().mean().item(),
        "the model": (guessed - wanted).square().mean().item(),
    }
    for what, patches in (("target", wanted), ("guess", guessed)):
        whole = torch.zeros_like(target[0])
        whole[order[size:]] = patches
        panels[f"{title}: {what}"] = assembled(whole)
told = "; ".join(f"{title}: {each['the model']:.2f}" for title, each in errors.items())
alt = "Targets and guesses of a phantom and of a real chest after a longer training. "
alt += f"Mean squared error of the guesses: {told}."
display(grey_pictures(panels, alt, span=2))
pd.DataFrame(errors).T.round(3).rename_axis("mean squared error")

# %% [markdown]
# *From left to right: target and guess of the phantom, target and guess of the real chest.* Now the guess
# has the outline of the lungs, the edges of the spine and the diaphragm. Ribs are still missing; the shipped
# encoder had a longer training of 1,000 steps (loss .31 at its end, .41 here). Noise cannot be guessed at
# all. In the real chest the model guesses a phantom's anatomy, and its
# error is larger than that of the average patch: it has learnt phantoms, not X-rays.
#
# ## From one direction to four
#
# The encoder of stages 2 and 3 scans in four directions (notebook 02); the file has the weights of one.
# So they are **copied** to all four. What stage 1 did not have, the cls token and the last
# norm, is new, and the decoder is left out.

# %%
from emrrg_lib.vision.weights import load_vision_encoder, read_tensors

warning = io.StringIO()
with contextlib.redirect_stderr(warning):
    encoder = load_vision_encoder(file, sizes.image_size)
print(fill(warning.getvalue().strip(), 88))

before, after = read_tensors(file), encoder.state_dict()
name = "layers.0.mixer.x_proj"
for suffix in ("", "_b", "_c", "_c_b"):
    assert torch.equal(after[f"{name}{suffix}.weight"], before[f"{name}.weight"])
middle = sizes.num_patches // 2
# the cls token has no place in the picture
assert not after["pos_embed"][0, middle].any()
assert torch.equal(after["pos_embed"][0, :middle], before["pos_embed"][0, :middle])
kept = sum(key in after for key in before)
print(
    f"\ntensors: {len(before)} in the file, {kept} of them go on, {len(after)} in the "
    "encoder"
)

# %% [markdown]
# Four equal directions are a start, not an end: from stage 2 on each learns by itself. The position
# table, fixed in stage 1, now learns too.
#
# ## Stage 2: find the report that belongs
#
# A batch of B studies gives B images and B reports. Each becomes one vector: an image the mean of its
# tokens, a report the last token of a **text tower**, both brought to one width. Row i of the **similarity
# matrix** holds how well image i fits each report: the cosine of their vectors times a scale that is learnt
# (1 / temperature). The loss (CLIP's, CXPMRG-Bench Eq. 3) is cross-entropy twice: along the rows, "which
# report belongs to this image?", and along the columns, "which image belongs to this report?".
#
# ### By hand, on random features

# %%
from emrrg_lib.training.stage2 import clip_loss

draw = torch.Generator().manual_seed(1)
pictures, texts = torch.randn(4, 16, generator=draw), torch.randn(4, 16, generator=draw)
log_scale = torch.tensor(math.log(1 / 0.07))  # CLIP starts at a temperature of 0.07


def contrast(images, reports, log_scale):
    """(B, width) twice → loss and similarity matrix times scale."""
    images = images / images.norm(dim=1, keepdim=True)
    reports = reports / reports.norm(dim=1, keepdim=True)
    logits = log_scale.exp() * images @ reports.T
    rows = sum(-logits[i, i] + logits[i].logsumexp(0) for i in range(len(logits)))
    columns = sum(-logits[i, i] + logits[:, i].logsumexp(0) for i in range(len(logits)))
    return (rows + columns) / (2 * len(logits)), logits


loss, logits = contrast(pictures, texts, log_scale)
print("similarity · scale:\n", logits.numpy().round(1))
print(
    f"by hand {float(loss):.6f} · clip_loss "
    f"{float(clip_loss(pictures, texts, log_scale)):.6f}"
)
assert torch.allclose(loss, clip_loss(pictures, texts, log_scale), atol=1e-5)

# %% [markdown]
# **Three points to know this loss by.** If all similarities are equal, it is ln B: blind guessing.
# If each image fits its own report and no other at all, it is ln(1 + (B − 1)·e^(−scale)), nearly
# 0. And if some reports of the batch are *the same text*, no model can distinguish the places
# of their images: with half of 8 reports alike, the loss cannot fall below (4/8) · ln 4.

# %%
B, one = 8, torch.eye(8)
alike = one.clone()
# the first four reports are one text; a perfect model gives their images one vector
alike[:4] = one[0]
cases = {
    "all similarities equal": (torch.ones(B, 8), torch.ones(B, 8), math.log(B)),
    "each its own": (one, one, math.log(1 + 7 * math.exp(-1 / 0.07))),
    "four of eight alike": (alike, alike, 0.5 * math.log(4)),
}
for name, (first, second, closed_form) in cases.items():
    value = float(clip_loss(first, second, log_scale))
    print(f"{name:<24}{value:.4f}   closed form {closed_form:.4f}")
    assert abs(value - closed_form) < 1e-3

# %% [markdown]
# The third case is everyday here: normal chests get nearly the same report. On such a pair the loss
# pushes apart what belongs together. That is one reason why the shipped encoder had help (below).
#
# ### Live: a text tower for the shipped encoder
#
# The encoder of the kit was trained together with a text tower, which is not shipped: stage 3 has no
# use for it. So we train a new one, for a few seconds: two layers, random at the start. The encoder
# **stays frozen**. What this shows is how much of the reports can be read off its tokens; it is
# not how stage 2 trains, where both towers learn.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.training.stage2 import ContrastiveModel, load_text_encoder

tiny = ENCODERS["tiny"]
drawn = [draw_study(31, i, tiny.image_size) for i in range(288)]
frontal, _ = study_set.pixels([study.images[:1] for study in drawn], model.settings)
shipped = model.encoder.base_model.model  # under its Partial LoRA, which is still zero
with torch.no_grad():
    tokens = torch.cat([shipped(part) for part in frontal.split(16)])  # (288, M + 1, d)
torch.manual_seed(0)
text_tower, tokenizer = load_text_encoder("tiny")
texts = [clean_report(study.report, "iu_xray") for study in drawn]
cut = {"truncation": True, "max_length": 128, "padding_side": "right"}
reports = tokenizer(texts, padding=True, return_tensors="pt", **cut)
towers = ContrastiveModel(shipped, text_tower, projection_dim=128)
ours = [n for n, _ in towers.named_parameters() if not n.startswith("visual_encoder")]
learning = [towers.get_parameter(name) for name in ours]
count = sum(parameter.numel() for parameter in learning)
print(f"{len(drawn)} pairs · {count:,} weights learn, the encoder's do not")


# %%
def similarities(chosen):
    """Numbers of studies → image and text vectors of the shared space."""
    studies = torch.arange(len(chosen))
    keep = int(reports.attention_mask[chosen].sum(dim=1).max())
    return (
        towers.encode_image(tokens[chosen], studies, len(chosen)),
        towers.encode_text(
            reports.input_ids[chosen, :keep], reports.attention_mask[chosen, :keep]
        ),
    )


# %%
held_out = torch.arange(256, 288)
with torch.no_grad():
    start = clip_loss(*similarities(held_out), towers.logit_scale)
optimiser = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.05)
draw, curve = torch.Generator().manual_seed(2), []
for _ in range(80):
    batch = torch.randperm(256, generator=draw)[:32]
    loss = clip_loss(*similarities(batch), towers.logit_scale)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    curve.append(float(loss.detach()))
with torch.no_grad():
    end = clip_loss(*similarities(held_out), towers.logit_scale)
    seen, read = (F.normalize(x, dim=1) for x in similarities(held_out))
    matrix = seen @ read.T  # (32, 32), the diagonal is image with its own report
print(f"32 pairs held out: loss {start:.2f} before, {end:.2f} after")
print(
    f"(ln 32 = {math.log(32):.2f}); in training: {np.mean(curve[:10]):.2f} in the first"
)
print(f"ten steps, {np.mean(curve[-10:]):.2f} in the last")

# %%
normal = torch.tensor([not drawn[int(i)].findings for i in held_out])
by_kind = torch.argsort(normal.int(), stable=True)  # studies with findings first
# reports that fit image i better than its own
rank = (matrix > matrix.diagonal()[:, None]).sum(dim=1)
rows = {}
for name, which in (("with a finding", ~normal), ("normal", normal)):
    count = int(which.sum())
    rows[name] = {
        "images": f"{count}",
        "own report first": f"{int((rank[which] == 0).sum())}",
        "by chance": f"{count / 32:.1f}",
        "among the first five": f"{int((rank[which] < 5).sum())}",
        "by chance ": f"{count * 5 / 32:.1f}",
    }
pd.DataFrame(rows).T

# %%
border = int((~normal).sum())
off_diagonal = float((matrix.sum() - matrix.trace()) / (32 * 31))
similarity_map(
    matrix[by_kind][:, by_kind].numpy(),
    border,
    "with a finding | normal",
    f"Similarity matrix of 32 images and 32 reports held out, {border} with a finding "
    f"first. Mean on the diagonal {float(matrix.diagonal().mean()):.2f}, off it "
    f"{off_diagonal:.2f}; in the block of the normal studies "
    f"{float(matrix[normal][:, normal].mean()):.2f}.",
)

# %% [markdown]
# *Dark: image and report fit. Above and left of the lines: studies with a finding; below and right:
# normal ones.* Read the block of the normal studies: each image fits many reports about as well as its own,
# as they are nearly the same text. Asking for the *own* report there is asking for luck; that is the
# floor of the loss from above, in a picture. The rows with a finding are the better question, and the
# counts above the picture answer it, from few cases.
#
# Note also that the loss on new pairs is far above that of the training. With so few pairs the tower
# learns them by heart, and the loss punishes being sure and wrong. 480,000 pairs are the cure.
#
# ### The real stage 2
#
# `run_stage2` trains both towers and writes the released file format. Five steps show that it runs,
# from our own stage-1 file; they teach nothing.

# %%
from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.training.pretrain import run_stage2

few = replace(STAGE2["tiny"], image_size=sizes.image_size, batch_size=8)
few = replace(few, steps=5, warmup_steps=1)
torch.manual_seed(0)
towers = load_text_encoder("tiny")  # a new text tower and its tokenizer
studies = load_annotation(corpus, "train")
with capture_output():
    pairs_file = run_stage2(studies, encoder, *towers, few, folder / "stage2")
record = json.loads((folder / "stage2" / "run.json").read_text(encoding="utf-8"))
print("loss:", [round(row["loss"], 2) for row in record["history"]])
parts = sorted({name.split(".")[0] for name in read_tensors(pairs_file)})
print(fill(f"the file holds: {', '.join(parts)}", 88))
again = load_vision_encoder(pairs_file).state_dict()
assert all(torch.equal(again[name], own) for name, own in encoder.state_dict().items())
print("read back as an encoder: equal")

# %% [markdown]
# The loss is larger than CLIP's alone: the tiny recipe adds an auxiliary objective of the kit's own,
# with weight 10. `label_report` mines from each report which of 14 observations it names and on which
# side; a linear head on the tokens must find them. It reads no mask and no true label, only the report.
#
# ## What the shipped encoder was trained on

# %%
made = json.loads((TINY_DIR / "encoder" / "run.json").read_text(encoding="utf-8"))
print(fill(f"made from: {made['made_from']}", 88))
print(fill(f"objective: {made['objective']}", 88))
early = made["stage1"]  # what stage 1 wrote; the minutes of the whole hold it
minutes = made["minutes"] - early["minutes"]
print(f"stage 1: {early['history'][-1]['step']} steps, {early['minutes']:.0f} minutes")
print(f"stage 2: {made['history'][-1]['step']} steps, {minutes:.0f} minutes")
hardware = made["hardware"]
print(f"processes: {hardware['processes']} of {hardware['threads']} thread")
history = made["history"]
curves(
    {"stage 2": ([h["step"] for h in history], [h["loss"] for h in history])},
    "step",
    "loss",
    f"The loss of stage 2, {history[0]['loss']:.2f} to {history[-1]['loss']:.2f}",
)

# %% [markdown]
# *The stored curve of stage 2. Its loss is CLIP's plus the weighted auxiliary one.*
# `emrrg pretrain tiny --out FOLDER` makes an encoder by this recipe again from nothing (`data/tiny/README.md`
# says why its bits will be others).
#
# ## The papers, the release, this kit
#
# | | CXPMRG-Bench | released code | this kit |
# |---|---|---|---|
# | stage 1 guesses | the next **token** (Eq. 2) | the next **cluster** | `arg` as released, `eq2`, `mae` |
# | stage 1 starts from | ImageNet weights (Table 4) | no such option in the script | either |
# | text tower | Bio_ClinicalBERT | the same | any; tiny: two layers, new |
# | expansion | – | by letters anywhere in a name | by exact name, tested |
# | stage 2 compares with | – | the 48 pairs on the same GPU | the pairs on all GPUs |
# | temperature | learnt | learnt, no bound | learnt, scale ≤ 100 (CLIP's bound) |
# | tiny preset | – | – | auxiliary objective, weight 10 |
#
# EMRRG itself trains neither stage: it takes the finished weights.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Which cluster? *(easy, 6 minutes)*
#
# **Why.** The whole causality of stage 1 is in this order; an error in it shows in no loss.
#
# A grid of `side` × `side` patches, clusters of `edge` × `edge`. At which place of the cluster order
# is the patch of row `row` and column `column`? All count from 0.
#
# <details><summary>Hint</summary>
#
# Four numbers: row and column of the cluster (`//`), row and column inside it (`%`). How many patches
# come before the cluster?
#
# </details>


# %%
def place(row, column, side, edge):
    """→ place in the order, 0 … side² − 1."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb08 import check_1

check_1(place)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def place(row, column, side, edge):
#     cluster = row // edge * (side // edge) + column // edge
#     return cluster * edge**2 + row % edge * edge + column % edge
# ```
#
# </details>
#
# ### Exercise 2 · The target of stage 1 *(medium, 10 minutes)*
#
# **Why.** What is guessed decides what is learnt: with plain pixels it would be the brightness.
#
# Write the targets of a batch: cut each image into patches, number them line by line, and bring each
# patch to mean 0 and deviation 1 over all of its 3 · patch² numbers (variance with n − 1, plus 1e-6 under
# the root). Inside a patch the order is row, column, channel. Height and width need not be equal.
#
# <details><summary>Hint</summary>
#
# `images.reshape(B, 3, h, patch, w, patch)` and `permute`: which axes shall be first, which last? Then
# `mean` and `var` along the last one, with `keepdim=True`.
#
# </details>


# %%
def targets(images, patch):
    """(B, 3, H, W), number → (B, M, 3 · patch²)."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb08 import check_2

check_2(targets)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def targets(images, patch):
#     B, _, H, W = images.shape
#     cut = images.reshape(B, 3, H // patch, patch, W // patch, patch)
#     pixels = cut.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, 3 * patch * patch)
#     mean, variance = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
#     return (pixels - mean) / (variance + 1e-6).sqrt()
# ```
#
# </details>
#
# ### Exercise 3 · CLIP's loss *(medium, 10 minutes)*
#
# **Why.** Stage 2, CLIP and most models of image and text are trained by these five lines.
#
# Write the loss from image vectors and report vectors, not yet normalised, and the scale (not its
# logarithm).
#
# <details><summary>Hint</summary>
#
# `F.normalize(x, dim=1)`, a matrix product, `F.cross_entropy(logits, torch.arange(B))` for the rows; the
# columns are the rows of the transposed matrix.
#
# </details>


# %%
def pair_loss(images, reports, scale):
    """(B, width), (B, width), number → the loss, a tensor without axes."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb08 import check_3

check_3(pair_loss)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def pair_loss(images, reports, scale):
#     logits = scale * F.normalize(images, dim=1) @ F.normalize(reports, dim=1).T
#     target = torch.arange(len(logits))
#     return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
# ```
#
# </details>
#
# ### Exercise 4 · The floor of the loss *(medium, 8 minutes)*
#
# **Why.** A loss that cannot fall further is no reason to train longer.
#
# Reports of a batch as texts. Some are equal. What is the smallest loss that any model can reach, at
# any scale?
#
# <details><summary>Hint</summary>
#
# An image whose report is k times in the batch can at best give each of the k the share 1/k: it
# pays ln k. Average over the images.
#
# </details>


# %%
def floor(texts):
    """List of B report texts → the smallest possible loss."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb08 import check_4

check_4(floor)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def floor(texts):
#     return sum(math.log(texts.count(text)) for text in texts) / len(texts)
#
#
# words = [clean_report(s.report, "iu_xray") for s in drawn[:32]]
# print("of 32 phantom reports:", round(floor(words), 3), "·", 32 - len(set(words)), "repeat another")
# ```
#
# Equal texts are only the hard floor. Two normal reports in other words mean the same as well, and the
# loss pushes them apart all the same.
#
# </details>
#
# ### Exercise 5 · Copy one direction to four *(medium, 6 minutes)*
#
# **Why.** A tensor that nobody copies stays random, and no error is raised.
#
# Write the names that a tensor of a stage-1 file gets in the four-direction encoder. In a mixer
# `A_log`, `D`, `conv1d`, `x_proj` and `dt_proj` exist once for each direction, with the endings "",
# "_b", "_c", "_c_b"; the ending of `A_log` comes after the A: `A_b_log`. All others keep their name.
#
# <details><summary>Hint</summary>
#
# Split the name at its dots. If it begins with "layers" and its third part is "mixer", look at the
# fourth part, as a whole: `in_proj` and `out_proj` are not in the list.
#
# </details>


# %%
def new_names(name):
    """A name such as "layers.0.mixer.x_proj.weight" → list of its names, four or
    one."""
    return None  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb08 import check_5

check_5(new_names)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def new_names(name):
#     parts, copied = name.split("."), ("A_log", "D", "conv1d", "x_proj", "dt_proj")
#     if len(parts) < 4 or parts[2] != "mixer" or parts[3] not in copied:
#         return [name]
#     names = []
#     for ending in ("", "_b", "_c", "_c_b"):
#         new = f"A{ending}_log" if parts[3] == "A_log" else parts[3] + ending
#         names.append(".".join([*parts[:3], new, *parts[4:]]))
#     return names
# ```
#
# The released code looks for the letters A and D anywhere in a name. It works by luck: no other name of
# this encoder has a capital A or D.
#
# </details>
#
# ### Exercise 6 · A loss that is fair to twins *(bonus, hard, 20 minutes)*
#
# **Why.** Most reports of a batch of chest X-rays say the same; CLIP's loss pushes their images apart.
#
# Change the loss of exercise 3: an image whose text is k times in the batch has the target 1/k for each of
# these k reports, and 0 for the others; the same for reports and images. Mean over rows and columns as
# before. With different texts it is CLIP's loss.
#
# <details><summary>Hint</summary>
#
# A matrix of equal texts, each row divided by its sum: `F.cross_entropy(logits, target)` takes such a
# matrix of shares too.
#
# </details>


# %%
def fair_loss(images, reports, scale, texts):
    """(B, width) twice, number, list of B texts → the loss."""
    return None  # your code


# %%
# Check 6
from emrrg_lib.course.checks.nb08 import check_6

check_6(fair_loss)

# %% [markdown]
# <details><summary>Solution 6</summary>
#
# ```python
# def fair_loss(images, reports, scale, texts):
#     logits = scale * F.normalize(images, dim=1) @ F.normalize(reports, dim=1).T
#     alike = torch.tensor([[float(a == b) for b in texts] for a in texts])
#     share = alike / alike.sum(dim=1, keepdim=True)
#     return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2
# ```
#
# Its smallest value is that of exercise 4; there no gradient is left. Texts that mean the same in other
# words are still apart: for them some use the similarity of labels in place of equality.
#
# </details>

# %%
scratch.cleanup()

# %% [markdown]
# ## Summary
#
# - Stage 1 guesses the normalised pixels of the next 4 × 4 cluster. One scan direction and a staircase
#   mask keep the future out.
# - Its weights are copied to four directions; cls token and last norm are new.
# - Stage 2 is cross-entropy along the rows and columns of a similarity matrix. Blind guessing costs ln B,
#   and equal reports set a floor.
# - The shipped encoder learnt from phantom images and reports alone, with observations mined from
#   the reports as a help.
#
# You can now pre-train an encoder on a folder of images, expand its file, and judge a contrastive loss
# by the points at which its value is known.
#
# ## Quiz
#
# 1. Why does stage 1 scan in one direction only, although the encoder of stage 3 has four?
# 2. A stage-2 training with batches of 256 has a loss of 5.5. What has it learnt?
# 3. Why is the mean squared error of a perfect guess of normalised patches not the best you can hope for?
#
# <details><summary>Answers</summary>
#
# 1. Scanned backwards, a token would know the clusters that come after it, which it has to guess.
# 2. Nothing: ln 256 = 5.55 is what blind guessing costs.
# 3. The noise of the next cluster cannot be foretold from the clusters before it; in patches without
#    structure the noise is most of the target.
#
# </details>
#
# ## Further reading
#
# - X. Wang et al., CXPMRG-Bench, with stages 1 and 2, [arXiv 2410.00379](https://arxiv.org/abs/2410.00379).
# - S. Ren et al., Autoregressive pretraining with Mamba in vision (ARM), [arXiv
#   2406.07537](https://arxiv.org/abs/2406.07537).
# - K. He et al., masked autoencoders, the source of normalised targets, [arXiv
#   2111.06377](https://arxiv.org/abs/2111.06377).
# - A. Radford et al., CLIP, [arXiv 2103.00020](https://arxiv.org/abs/2103.00020); Y. Zhang et al., ConVIRT,
#   the same loss on X-rays and reports before it, [arXiv 2010.00747](https://arxiv.org/abs/2010.00747).
# - E. Alsentzer et al., the text tower Bio_ClinicalBERT, [arXiv
#   1904.03323](https://arxiv.org/abs/1904.03323).
#
# Read on in the code: [stage 1](../emrrg_lib/training/stage1.py), [stage
# 2](../emrrg_lib/training/stage2.py), [the loss](../emrrg_lib/training/stage2.py), [reading
# files](../emrrg_lib/vision/weights.py).
#
# [← 07](07_gate_and_attention_explorer.ipynb) · [09 →](09_ablations.ipynb)
