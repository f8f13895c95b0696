# %% [markdown]
# # 03 · Partial LoRA
#
# **Goal.** Tune a frozen Mamba encoder with few new numbers, choose exactly which of its features they
# touch, train them, merge them away again, and check a paper's parameter count to the last digit.
#
# **You will be able to**
#
# - write a layer with a low-rank pair on some rows, and train it so that only the pair moves;
# - count what each target adds, before you train anything;
# - say what a rank can keep of a change, and what the first step of LoRA is;
# - read a comparison of targets with its intervals, and say what it does not show;
# - find out what a published parameter count has counted.
#
# **Contents.** [The smallest version](#The-smallest-version-that-works) ·
# [some rows only](#Partial:-some-rows-only) · [the real one](#The-real-one-is-the-same) ·
# [X against in_proj](#LoRA_p(X)-against-LoRA(in_proj)) · [rank](#How-low-a-rank-is-enough?) ·
# [what training did](#What-training-did) · [a shifted domain](#A-shifted-domain) ·
# [which target](#Which-target-learns-the-most?) · [merge](#Merge) ·
# [the bill](#The-bill-of-every-target) · [the ledger](#The-ledger:-where-1.32-M-and-57.31-M-come-from) ·
# [exercises](#Exercises)
#
# | | |
# |---|---|
# | **You need** | matrix products and rank; what a linear layer is; notebook 02 for X, Z, dt, B and C |
# | **Time** | about 30 minutes of reading and trying, 65 more for exercises 1 to 6, 15 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, about 1 minute to run |
# | **GPU** | not needed; `PROFILE = "iu-xray"` needs one and a finished run of that preset (not measured) |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.3, Tables 4 to 6; Partial LoRA comes from MambaPEFT |
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
import numpy as np
import pandas as pd
import torch
from torch import nn

from emrrg_lib.course.notebook import dashed, glossary, open_profile

PROFILE = "tiny"  # on a GPU machine: a preset with a finished run, as "iu-xray"

model, settings, picture = open_profile(PROFILE, lit="partial_lora")
picture

# %% [markdown]
# The lit part is this notebook: two thin pairs of matrices beside `in_proj`, the first linear layer
# of every Mamba block. Everything else in the encoder stays as pre-training left it. *LoRA*, low-rank
# adaptation, keeps a weight W as it is and trains a pair of thin matrices, A and B, whose product is
# added to it. *Partial* LoRA adds it to some rows of W only.

# %%
glossary("W, W (x_proj), A (LoRA), B (LoRA), ΔW, s, r, X, Z, dt, B, C")

# %% [markdown]
# The letters A and B have two jobs: LoRA's matrices, and the selective scan. `r` is 32 in the
# paper. LoRA_p(X) is target `"X"`, a pair whose B reaches the X rows only; LoRA(in_proj) is target
# `"in_proj"`, a pair whose B reaches all rows.
#
# ## The smallest version that works
#
# Fine-tuning adds some ΔW to a weight W. LoRA does not train ΔW itself but two thin factors, a *pair*:
# ΔW = scale · B·A. Here W has 4 rows and 3 columns, and the rank r, the rows of A, is 1.

# %%
W = torch.tensor([[1.0, 0, 2], [0, 1, 1], [2, 1, 0], [1, 1, 1]])
A = torch.tensor([[1.0, 0, 1]])  # (r, inputs): one question to the input
B = torch.tensor([[0.0], [2], [0], [1]])  # (rows, r): what each row makes of the answer
x, scale = torch.tensor([1.0, 2, 3]), 0.5

print(
    "A x                 =", (A @ x).tolist(), "  the input, squeezed to r = 1 number"
)
print("scale · B (A x)     =", (scale * B @ (A @ x)).tolist())
print("W x + scale · B A x =", (W @ x + scale * B @ (A @ x)).tolist())
print("ΔW = scale · B A    =", (scale * B @ A).tolist())
print("numbers: W", W.numel(), "· A and B", A.numel() + B.numel())

# %% [markdown]
# Twelve numbers are steered by seven; for the `in_proj` of the base encoder, d = 768 and r = 32, it is
# 1,179,648 by 73,728. As a module:
#
# - A starts random, **B starts at zero**: at the first step the layer is the frozen layer, exactly.
# - Both orders of multiplication are the same function. While training it is B(A x), which never
#   builds the large ΔW; for keeping, W + scale · B·A, which costs nothing at all later.


# %%
class LoRA(nn.Module):
    """A frozen Linear plus scale · B(A x), on all of its rows."""

    def __init__(self, base, r, scale=1.0):
        super().__init__()
        rows, inputs = base.weight.shape
        self.base, self.scale = base.requires_grad_(False), scale
        self.A = nn.Parameter(torch.empty(r, inputs))
        self.B = nn.Parameter(torch.zeros(rows, r))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x):  # (…, inputs) → (…, rows)
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T

    def delta(self):
        """ΔW, (rows, inputs)."""
        return self.scale * self.B @ self.A


# %%
torch.manual_seed(0)
d = 16
frozen = nn.Linear(d, 2 * d, bias=False)
layer = LoRA(frozen, r=3)
tokens = torch.randn(5, d)
assert torch.equal(layer(tokens), frozen(tokens))  # B = 0: not a bit is different

layer(tokens).square().sum().backward()
sizes = f"A {layer.A.grad.norm():.1f} · B {layer.B.grad.norm():.1f}"
print("gradient at the first step:", sizes)
nn.init.normal_(layer.B)
rank_of_change = int(torch.linalg.matrix_rank(layer.delta()))
print("rank of ΔW:", rank_of_change, "of", min(layer.delta().shape))
merged = tokens @ (frozen.weight + layer.delta()).T
print(f"largest difference, merged or not: {(merged - layer(tokens)).abs().max():.0e}")
assert torch.allclose(merged, layer(tokens), atol=1e-5)

# %% [markdown]
# At the first step A gets no gradient: B, by which it is multiplied, is zero. B moves first, then
# both. (If both started at zero, neither would ever move.)
#
# ## Partial: some rows only
#
# One `in_proj` of the mixer makes two features with different work to do. Its first d rows make X,
# which is scanned; the other d make Z, which only gates. Likewise `x_proj` makes dt, B
# and C. **Partial LoRA** gives a block of rows its own pair: B has only the rows of the block, and
# ΔW is zero outside. Here it is by hand; in exercises 2 and 3 you write it as a function and as a
# layer.

# %%
A_x, B_x = torch.randn(3, d), torch.randn(d, 3)  # a pair for the d rows of X
delta = torch.zeros(2 * d, d)
delta[:d] = B_x @ A_x  # LoRA_p(X)
with torch.no_grad():
    change = tokens @ (frozen.weight + delta).T - frozen(tokens)
print(f"largest change of X: {change[:, :d].abs().max():.2f}")
print(f"largest change of Z: {change[:, d:].abs().max():.2f}")

# of the real encoder, with its row blocks
mixer = model.encoder.base_model.model.layers[0].mixer
print("\nin_proj:", mixer.in_proj.base_layer.row_blocks)
print(
    "x_proj: ", mixer.x_proj.row_blocks, "(and three more of it, one a scan direction)"
)

# %% [markdown]
# ## The real one is the same
#
# The kit lets PEFT, the usual library for such adapters, do the work (saving, merging, switching off)
# and adds the row blocks:
# `apply_partial_lora(encoder, PartialLoRAConfig(targets, r, scale))`. A layer of the real encoder
# gives the numbers of W + ΔW made by hand.

# %%
from emrrg_lib.config import EncoderConfig, PartialLoRAConfig
from emrrg_lib.tuning.partial_lora import TARGETS, adapter_name, apply_partial_lora
from emrrg_lib.vision.mamba import VisionMamba

torch.manual_seed(1)
small = EncoderConfig(image_size=32, patch_size=8, embed_dim=d, depth=2, drop_path=0.0)
encoder = VisionMamba(small).eval()
image = torch.randn(1, 3, 32, 32)
before = encoder(image)
tuned = apply_partial_lora(
    encoder, PartialLoRAConfig(targets=("X", "in_proj"), r=3, scale=0.5)
).eval()
assert torch.equal(tuned(image), before)  # fresh adapters change no bit of the encoder

# %%
in_proj = tuned.base_model.model.layers[1].mixer.in_proj
change = torch.zeros(2 * d, d)  # ΔW of both targets, by hand
for name, rows in (("lora_X", d), ("lora_in_proj", 2 * d)):
    down, up = in_proj.lora_A[name].weight, in_proj.lora_B[name].weight
    nn.init.normal_(up)
    change[:rows] += 0.5 * (up @ down).detach()

with torch.no_grad():
    ours = tokens @ (in_proj.base_layer.weight + change).T
    print(f"largest difference: {(ours - in_proj(tokens)).abs().max():.0e}")
    assert torch.allclose(ours, in_proj(tokens), atol=1e-5)
assert not torch.equal(tuned(image), before)
with tuned.disable_adapter():  # switched off, the encoder is the pre-trained one again
    assert torch.equal(tuned(image), before)

# %% [markdown]
# ## LoRA_p(X) against LoRA(in_proj)
#
# What does a separate pair buy? In LoRA(in_proj), X and Z share one A: the same r questions to
# the input. The paper's words (§3.3): all features are compressed "into a single low-rank
# subspace". Let us ask for a change in which X and Z each need two questions, and not the same two.
#
# How close can a pair of rank r come? Every matrix is a sum of matrices of rank 1, its *singular value
# decomposition*; the singular values are their lengths, the largest first, and their squares add up to
# the squared length of the whole. The best pair of rank r is the sum of the first r (exercise 5). So
# nothing has to be trained here.

# %%
torch.manual_seed(2)
# X, then Z
parts = [torch.randn(d, 2) @ torch.randn(2, d) for _ in range(2)]
wish = torch.cat(parts)


def lost(part, r):
    """Squared length of what the best ΔW of rank r leaves of a matrix."""
    return float(torch.linalg.svdvals(part)[r:].square().sum())


# %%
whole, pair, wide = lost(wish, 0), d + d, d + 2 * d  # parameters for each unit of rank
X_left, Z_left = (lost(part, 2) for part in (wish[:d], wish[d:]))
choices = {  # the unfulfilled part of the wish, and the parameters
    "LoRA(in_proj), r = 2": (lost(wish, 2), 2 * wide),
    "LoRA(in_proj), r = 4": (lost(wish, 4), 4 * wide),
    "LoRA_p(X), r = 2": (X_left + lost(wish[d:], 0), 2 * pair),
    "LoRA_p(X) and LoRA(in_proj), r = 2": (X_left + Z_left, 2 * pair + 2 * wide),
    "LoRA_p(X) and LoRA_p(Z), r = 2": (X_left + Z_left, 4 * pair),
}
table = {
    name: {"fulfilled": f"{1 - left / whole:.0%}", "parameters": count}
    for name, (left, count) in choices.items()
}
pd.DataFrame(table).transpose()

# %% [markdown]
# The paper's default, LoRA_p(X) and LoRA(in_proj) together, fulfils the wish (its shared pair
# serves Z, the other one X) with fewer numbers than LoRA(in_proj) of twice the rank. Two partial
# pairs, X and Z, would do it with fewer still; the paper does not try that pair. This wish was made
# for the purpose. What does a *real* one look like?
#
# ## How low a rank is enough?
#
# Full fine-tuning, going on from the loaded run, would first step along the gradient of the loss with
# respect to all of `in_proj` (plain gradient descent; Adam rescales it). We can compute it: one batch
# of eight studies, one backward pass through the whole model. Its singular values say what share of
# that step, in squared length, the best ΔW of rank r would keep.

# %%
from emrrg_lib.training import shift

studies = shift.draw(range(600, 608), inverted=False)  # not of the training data
batch = shift.batch_of(model, studies)
batch = {name: tensor.to(model.device) for name, tensor in batch.items()}

blocks = [layer.mixer.in_proj for layer in model.encoder.base_model.model.layers]
for block in blocks:
    block.base_layer.weight.requires_grad_(True)
model(**batch)["loss"].backward()
# of each block, (2·d, d)
steps = [block.base_layer.weight.grad.cpu() for block in blocks]
for block in blocks:
    block.base_layer.weight.requires_grad_(False)
model.zero_grad()

# %%
width = settings.encoder.embed_dim
rows_of = {
    "X and Z (in_proj)": slice(0, 2 * width),
    "X": slice(0, width),
    "Z": slice(width, 2 * width),
}


def share_kept(matrix):
    """What the best matrix of rank 1, 2, … keeps of the squared length, a share."""
    energy = torch.linalg.svdvals(matrix).square()
    return (energy.cumsum(0) / energy.sum()).numpy()


# %%
rank = settings.partial_lora.r
kept = {
    name: [share_kept(step[rows])[rank - 1] for step in steps]
    for name, rows in rows_of.items()
}
weights = [block.base_layer.weight.detach().cpu() for block in blocks]
kept["the weight W itself"] = [share_kept(weight)[rank - 1] for weight in weights]
on_x = [float(step[:width].square().sum() / step.square().sum()) for step in steps]
print("share of the step that falls on the X rows, block by block:", np.round(on_x, 2))
table = pd.DataFrame(kept, index=[f"block {i}" for i in range(len(blocks))])
table.round(2).rename_axis(columns=f"kept by rank {rank}")

# %% [markdown]
# Two things to see. The *step* needs few directions, the *weight* it is added to needs many: that
# is why LoRA works at all. And in most blocks of the shipped run more than half of the step falls on
# X, though X has half of the rows. It is the gradient of one batch of a small model on synthetic
# images: a hint that X is a place where a change pays, no more. Whether tuning X *learns* more is
# measured further down.
#
# Now choose rank, rows and block yourself.

# %%
from emrrg_lib.interpret.figures_training import rank_curves

ranks = [2**k for k in range(int(np.log2(width)) + 1)]
last = len(steps) - 1


def rank_picture(block=last, rows="X", r=rank):
    """What a rank keeps of the full step, and what it costs in that block."""
    curves = {name: share_kept(steps[block][where]) for name, where in rows_of.items()}
    curves[f"W itself, rows of {rows}"] = share_kept(weights[block][rows_of[rows]])
    height = rows_of[rows].stop - rows_of[rows].start
    cost, full = r * (height + width), height * width
    told = (
        f"{curves[rows][r - 1]:.0%} kept with {cost:,} parameters ({cost / full:.0%})"
    )
    title = f"block {block}, rows of {rows}, rank {r}: {told}"
    return rank_curves(curves, rows, r, title, f"Share kept over rank; {title}.")


rank_picture()

# %% [markdown]
# Choose another block, `rows` (a name of `rows_of`) and rank `r`, and run the next cell again. The
# explorer of notebook 07 shows the trained pairs in the same way.

# %%
rank_picture(block=0, rows="Z", r=2)

# %% [markdown]
# ## What training did
#
# The loaded run has trained both pairs in every block. Below: the size of every entry of ΔW in
# block 0. LoRA_p(X) leaves the Z rows at exactly 0; LoRA(in_proj) reaches both; they add up.

# %%
from emrrg_lib.interpret.figures_training import update_maps

deltas = {
    f"LoRA{'_p' if target == 'X' else ''}({target})": blocks[0]
    .get_delta_weight(adapter_name(target))
    .detach()
    .cpu()
    .numpy()
    for target in settings.partial_lora.targets
}
update_maps(deltas)

# %%
sizes = {}
for index, block in enumerate(blocks):
    weight = block.base_layer.weight
    delta = sum(
        block.get_delta_weight(adapter) for adapter in block.active_adapters
    ).detach()
    sizes[f"block {index}"] = {
        part: float(delta[rows_of[part]].norm() / weight[rows_of[part]].norm())
        for part in ("X", "Z")
    }
(pd.DataFrame(sizes).T * 100).round(2).add_suffix(" rows: |ΔW| / |W| in %")

# %%
views = batch["pixel_values"], batch["view_mask"]
with torch.no_grad():
    with_pairs, tokens_with = model(**batch)["loss"], model.encode(*views)[0]
    with model.untouched_encoder():  # the same model, its Partial LoRA switched off
        without, tokens_without = model(**batch)["loss"], model.encode(*views)[0]
moved = (tokens_with - tokens_without).norm() / tokens_without.norm()
print(f"visual tokens moved by {moved:.2%} of their length")
print("loss of the eight studies, nats per token:")
print(f"with Partial LoRA {with_pairs:.5f}, without {without:.5f}")

# %% [markdown]
# The honest reading of the last line comes from the run's recipe: `config.json` says for how many
# joint steps the encoder trained at all (in the tiny preset a few dozen; before them only projector
# and cross-attention learn, on tokens computed once). Where the two losses are close, the pairs have
# had no time to matter, and the run's scores owe them nothing. So this run cannot show what Partial
# LoRA is good for. The encoder has to meet something new.
#
# ## A shifted domain
#
# X-ray files come in two kinds. In MONOCHROME2 a large number is bright; in MONOCHROME1 it is dark.
# A reader that ignores the tag shows bone black. To an encoder that has never seen such a picture it
# is another domain. Nothing else changes here: the same reports, the same language model, everything
# frozen. First the loss, with the images as trained and inverted:

# %%
test = shift.draw(range(2000, 2024))
upright = shift.draw(range(2000, 2024), inverted=False)
fresh = shift.model_for(["X"], r=16)  # the run's own adapters merged; a new pair on X
as_trained = shift.study_losses(fresh, upright)
inverted = shift.study_losses(fresh, test)
print(f"24 studies, nats per token: as trained {as_trained.mean():.3f}")
print(f"the same, inverted:                    {inverted.mean():.3f}")

# %% [markdown]
# Now LoRA_p(X) alone is tuned on 160 inverted studies, 40 steps of 8. That is the longest cell of the
# notebook, half a minute on a quiet machine.

# %%
tuned_x, losses = shift.tuned(("X",), r=16, steps=40)
after = shift.study_losses(tuned_x, test)
lost_there = shift.study_losses(tuned_x, upright)
with tuned_x.encoder.disable_adapter():
    switched_off = shift.study_losses(tuned_x, upright)
trained = sum(p.numel() for p in tuned_x.parameters() if p.requires_grad)
print(
    f"{trained:,} numbers trained; the first five steps {np.mean(losses[:5]):.3f}, ",
    end="",
)
print(f"the last five {np.mean(losses[-5:]):.3f}")
print(f"inverted, test: {inverted.mean():.3f} → {after.mean():.3f}")
print(f"as trained:     {as_trained.mean():.3f} → {lost_there.mean():.3f}")
assert np.array_equal(switched_off, as_trained)
print("adapter switched off: the old model, bit for bit")

# %% [markdown]
# Three things to see. A few numbers on X win back a large part of what the shift has cost. They are
# made for the new domain: on the old one the tuned encoder is a little worse. And the old model is not
# lost: one switch brings back each of its bits.
#
# How much rank did that take? Each pair is replaced by the best pair of a smaller rank (exercise 5):


# %%
@torch.no_grad()
def cut_to(model, r):
    """Replaces each pair on X by the best pair of rank r, in place."""
    for layer in model.encoder.base_model.model.layers:
        up = layer.mixer.in_proj.lora_B["lora_X"].weight
        down = layer.mixer.in_proj.lora_A["lora_X"].weight
        U, values, Vh = torch.linalg.svd(up @ down, full_matrices=False)
        values[r:], most = 0, len(down)
        up.copy_(U[:, :most] * values[:most])
        down.copy_(Vh[:most])


cut = {}
for r in (16, 8, 4, 2, 1, 0):  # from the large to the small: what is cut stays cut
    cut_to(tuned_x, r)
    cut[f"rank {r}"] = shift.study_losses(tuned_x, test).mean()
pd.Series(cut, name="loss, inverted").round(3).to_frame().transpose()

# %% [markdown]
# Without the adapter (rank 0) the loss jumps back: this adapter matters, unlike that of the shipped
# run. Its *rank* hardly does. One direction in each block keeps most of the gain: inverted contrast is a
# simple shift, and a simple shift needs few directions. Do harder shifts need more? *Scrambled*: the 64
# pixels of every patch in another order, the same for all patches. *Mixed*: every fourth study is inverted,
# upside down, scrambled or solarised, so that one pair must serve four domains. Here each rank is *trained*,
# not cut. The result is stored; `.venv/bin/python -m emrrg_lib.training.shift ranks runs/ranks.json` makes it
# again.

# %%
shown = [
    {
        **{name: row[name] for name in ("shift", "target", "steps")},
        **{name: row.get(name) for name in ("untuned", "rank 1", "rank 4", "rank 16")},
        "rank 1 worse by": "{worse:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row),
    }
    for row in shift.rank_summary()
]
dashed(pd.DataFrame(shown).set_index(["shift", "target"]))

# %% [markdown]
# *Loss of 64 test studies in nats per token, one start; a dash: not tried; the interval is over studies.*
# On scrambled pixels rank 16 is ahead of rank 1 by an eighth of the gain, and the interval does not hold 0.
# On four shifts at once nothing separates them after 40 steps, and after 160 steps rank **1** is ahead:
# perhaps the larger pair learns the 160 studies by heart. So a larger rank can help and it can hurt; one
# start of each does not say when.
#
# `shift.tuned(targets, r, steps)` returns such a model for any targets, and the explorer of notebook
# 07 can show it.
#
# ## Which target learns the most?
#
# The same question for six targets, each with nearly the same number of parameters (9,216; dt has
# 8,704), the same studies in the same order, 40 steps, two learning rates and two starts. That takes
# about ten minutes, so the result is stored; `.venv/bin/python -m emrrg_lib.training.shift targets
# runs/shift.json` makes it again. For each target the learning rate is the one with the lower *training* loss
# at the end.

# %%
from emrrg_lib.interpret.figures_training import tuning_curves

found = shift.summary()
levels = shift.levels()
tuning_curves({row["target"]: row["curve"] for row in found}, **levels)

# %%
shown = [
    {
        "target": row["target"],
        "rank": row["r"],
        "parameters": f"{row['parameters']:,}",
        "rate": row["rate"],
        "test loss": f"{row['test']:.3f}",
        "each start": ", ".join(f"{value:.3f}" for value in row["seeds"]),
        "worse than X by": "–"
        if row["target"] == "X"
        else f"{row['worse']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
    }
    for row in found
]
pd.DataFrame(shown).set_index("target")

# %% [markdown]
# **What is seen, and what is not.** All six win back more than half of what the shift has cost, each with
# some 9,000 numbers. B and C learn least. But every interval of a difference to X
# holds 0, also those of B and C. So "tune X" is not the lesson here, and no other order is.
#
# The same comparison was made before, with an earlier training of the same model. There in_proj was ahead of
# X, and C behind it, both with an interval that did not hold 0. An interval over studies knows other
# *studies*; it knows nothing of other *trainings* (notebook 09 returns to this).
#
# And Table 6? There X has the highest BLEU-4 of the ten targets and `in_proj` the lowest, .152. That
# is another question (one rank, so unequal counts; real X-rays; a large model; scores of generated
# reports, one number for each target, no interval, no second start). This comparison does not refute
# it: the model is tiny, the shift is artificial, and 40 steps are few. The higher of the two rates won
# for all six, so a third one might change the order. But the comparison shows what a claim "X is best"
# has to bring: equal cost, the same data, an interval, and more than one training. By that measure X is
# not ahead here, and Table 6 does not show whether it is there.
#
# ## Merge
#
# After training the pairs can be added into W. Then the encoder has its old shape and its old
# speed, and needs no PEFT. Rows that no pair touches keep every bit.

# %%
tuned.merge_adapter()
merged_weight = in_proj.base_layer.weight.detach().clone()
merged_output = tuned(image)
tuned.unmerge_adapter()
largest = (merged_output - tuned(image)).abs().max()
print(f"largest difference of the encoder's output, merged or not: {largest:.0e}")
assert torch.allclose(merged_output, tuned(image), atol=1e-4)
assert torch.allclose(merged_weight, in_proj.base_layer.weight + change, atol=1e-5)

# %%
x_tuned = apply_partial_lora(VisionMamba(small), PartialLoRAConfig(("X",), r=3))
pair = x_tuned.base_model.model.layers[0].mixer.in_proj
old = pair.base_layer.weight.detach().clone()
nn.init.normal_(pair.lora_B["lora_X"].weight)
plain = x_tuned.merge_and_unload()  # an ordinary VisionMamba again
new = plain.layers[0].mixer.in_proj.weight
assert (
    isinstance(plain, VisionMamba)
    and torch.equal(new[d:], old[d:])
    and not torch.equal(new[:d], old[:d])
)
print(
    "merged LoRA_p(X): X rows changed, Z rows equal bit for bit; the encoder is a",
    type(plain).__name__,
)

# %% [markdown]
# ## The bill of every target
#
# The kit knows the ten targets of the paper's Table 6 that lie in the encoder. `x_proj` and
# `dt_proj` exist once for each of the four scan directions, so their pairs are four as well. The
# counts below are taken from real PEFT models without weights (PyTorch's *meta* device).


# %%
def added(sizes, r):
    """Target → the parameters that it adds to an encoder of these sizes."""
    with torch.device("meta"):
        lora = PartialLoRAConfig(tuple(TARGETS), r)
        adapted = apply_partial_lora(VisionMamba(sizes), lora)
    counts = dict.fromkeys(TARGETS, 0)
    for name, parameter in adapted.named_parameters():
        for target in TARGETS:
            if f".{adapter_name(target)}." in name:
                counts[target] += parameter.numel()
    return counts


# %%
from emrrg_lib.evaluation.published import published

table_6 = published("emrrg_table6").set_index("setting")["Bleu_4"]
bill = pd.DataFrame(
    {
        "this run": added(settings.encoder, rank),
        "paper's base encoder, r = 32": added(EncoderConfig(), 32),
    }
)  # d = 768, 12 blocks
bill = bill.map("{:,}".format)
names = {name.split("(")[1].rstrip(")"): score for name, score in table_6.items()}
bill.assign(**{"Table 6: BLEU-4 on IU X-ray": [names[target] for target in bill.index]})

# %% [markdown]
# The paper tries each target alone; of these ten, X is ahead, by .002 to .017 BLEU-4. On 590 test studies a
# difference that small needs an interval (notebook 06); the paper gives none. `dt_proj` and `dt`
# cost the same and are not the same: the first maps dt to Δ, the second makes dt.
#
# ## The ledger: where 1.32 M and 57.31 M come from
#
# The paper's Table 4 lists "the parameters that need to be tuned": 57.31 M for MambaXray-VL, 1.32 M
# for EMRRG, 2.3 % of it. The kit counts every parameter of a preset and says which part it belongs to.
# First the preset of the paper's IU X-ray model, counted without loading a weight.

# %%
from textwrap import fill

from emrrg_lib.presets import preset
from emrrg_lib.run.costs import describe_ledger

for line in describe_ledger(preset("iu-xray")).splitlines():
    print(fill(line, 88) if len(line) > 88 else line)

# %% [markdown]
# The method as written trains far more than 1.32 M: the cross-attention alone has 25 times as many
# (and Table 4 is about CheXpert Plus with Llama2-7B, where it is four times larger still). So what was
# counted? 57,310,464 is what a common kind of counter sees: it puts a hook on every
# module and adds up the parameters of those whose `forward` is **called**. The released mixer never
# calls its Linears; it reads their weights and multiplies by itself. Here is the difference, in the
# smallest form, and what it does to LoRA.

# %%
from peft import LoraConfig, get_peft_model


class Calls(nn.Module):
    """Calls its Linear, as this kit's mixer does."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return self.proj(x)


class Reads(Calls):
    """Reads the weight of its Linear, as the released mixer does."""

    def forward(self, x):
        return nn.functional.linear(x, self.proj.weight)


# %%
def called_parameters(module, x):
    """Parameters of the modules without children whose forward runs."""
    seen, leaves = {}, [m for m in module.modules() if not list(m.children())]
    hooks = [
        m.register_forward_hook(
            lambda m, *_: seen.update({m: sum(p.numel() for p in m.parameters())})
        )
        for m in leaves
    ]
    module(x)
    for hook in hooks:
        hook.remove()
    return sum(seen.values())


# %%
x = torch.randn(2, 6)
for kind in (Calls, Reads):
    count, toy = called_parameters(kind(), x), kind()
    unchanged = toy(x).detach()
    adapted = get_peft_model(toy, LoraConfig(r=2, target_modules=["proj"]))
    nn.init.ones_(toy.proj.lora_B["default"].weight)
    change = float((adapted(x) - unchanged).detach().abs().max())
    print(
        f"{kind.__name__}: the counter sees {count:>2} of 36 parameters; "
        f"LoRA changes the output by {change:.2f}"
    )

# %% [markdown]
# One habit, two consequences: such mixers are missing from the count, **and LoRA on them does
# nothing**, neither to the output nor to the gradient. (The release's own X-adapter is a separate
# module and does act, but on the mixer's output. Notebook 10 has the whole list.) Now the sums:

# %%
from emrrg_lib.tuning.policy import published_counts

for claim in published_counts(768, 12):
    for part, count in claim.parts.items():
        print(f"{count:>12,}  {part}")
    print(f"{claim.total:>12,}  = {claim.claim}\n")
called, adapters = (claim.total for claim in published_counts(768, 12))
print(
    f"{adapters:,} are {adapters / called:.2%} of {called:,}, "
    f"{adapters / 84_262_656:.2%} of the encoder"
)

# %% [markdown]
# The first sum is proven: the counter, run on the released encoder, gives 57,310,464. The second is
# strongly supported: the release's X-adapter with r = 32 and PEFT's LoRA on `in_proj` with r = 32
# give 1,327,104, which cut (not rounded) to two decimals is 1.32 M. No natural single adapter of the
# base encoder comes within 0.005 M.
#
# ## The paper, the release, this kit
#
# | | paper | released code | this kit |
# |---|---|---|---|
# | LoRA_p(X) | X rows of `in_proj` (§3.3) | a map d → d/2 on the mixer's **output** | the X rows |
# | LoRA(in_proj) | beside it (§3.3) | PEFT on `x_proj`, off by default, without effect | all rows, acting |
# | rank | 32 (§4.2) | 16 in the scripts | 32; tiny: 8 |
# | on IU X-ray | trained | frozen again by the script: 0 encoder parameters train | trained |
# | scale | not given | 1 | 1 |
#
# The tiny preset has d = 128, four blocks, and few joint steps: it shows the mechanism, not the gain.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Write the bill *(easy, 5 minutes)*
#
# **Why.** The cost of a target is known before anything is trained, and it is not what one guesses.
#
# How many parameters does a target add to the whole encoder? Sizes: `in_proj` leads from d to 2·d
# (X, Z), `x_proj` from d to R + 2·N (dt, B, C), `dt_proj` from R to d, `out_proj` from d to d.
# R = d / 16, rounded up; N = 16; four scan directions.
#
# <details><summary>Hint</summary>
#
# A pair has r · (inputs + rows) numbers. Write a table target → (inputs, rows, copies). The inputs
# are the same for a row block and for its whole matrix.
#
# </details>


# %%
def count(target, d, depth, r):
    """Parameters of one target ("X", "Z", "dt", "B", "C", "in_proj", "x_proj",
    "dt_proj", "out_proj")."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb03 import check_1

check_1(count)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def count(target, d, depth, r):
#     R, N = -(-d // 16), 16
#     inputs, rows, copies = {
#         "X": (d, d, 1), "Z": (d, d, 1), "in_proj": (d, 2 * d, 1), "out_proj": (d, d, 1),
#         "dt": (d, R, 4), "B": (d, N, 4), "C": (d, N, 4), "x_proj": (d, R + 2 * N, 4), "dt_proj": (R, d, 4),
#     }[target]
#     return depth * copies * r * (inputs + rows)
# ```
#
# For B and C nearly all the cost is A: 768 inputs against 16 rows. At r = 32 the pair is larger than
# the 16 × 768 block that it tunes, by a factor of two. A low rank saves nothing on a thin matrix.
#
# </details>
#
# ### Exercise 2 · Partial LoRA as a function *(medium, 7 minutes)*
#
# **Why.** These are the paper's three letters, LoRA_p(X), as three lines of code.
#
# Write the output of a frozen weight W with a pair on the rows from `start` on; B has as many rows
# as the block. `scale` is the whole factor (it is not divided by r). Leave W as it is.
#
# <details><summary>Hint</summary>
#
# Either build the full ΔW in `torch.zeros_like(W)` and add it to a copy of W, or add
# `scale * x @ A.T @ B.T` to a slice of the columns of `x @ W.T`.
#
# </details>


# %%
def partial_lora(x, W, A, B, start, scale):
    """x (n, inputs), W (rows, inputs), A (r, inputs), B (block, r) → (n, rows)."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb03 import check_2

check_2(partial_lora)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def partial_lora(x, W, A, B, start, scale):
#     y = x @ W.T
#     y[:, start:start + len(B)] += scale * x @ A.T @ B.T
#     return y
# ```
#
# </details>
#
# ### Exercise 3 · The layer *(medium, 15 minutes)*
#
# **Why.** A function cannot be trained by an optimiser, a module can. This layer takes the place of
# `in_proj` in a real encoder.
#
# Write the `nn.Module`. It takes a Linear `base`, with a bias or without, freezes it, and owns two
# parameters named `A` (r, inputs) and `B` (stop − start, r). A starts random, B at zero. `forward` takes
# x of any number of axes, (…, inputs), and gives (…, rows): base(x), plus scale · x Aᵀ Bᵀ in the columns
# `start` to `stop`.
#
# <details><summary>Hint</summary>
#
# The class `LoRA` above does it for all rows. `nn.functional.pad(update, (left, right))` puts zeros
# on both sides of the last axis. `base.requires_grad_(False)` freezes weight and bias.
#
# </details>


# %%
class RowBlockLoRA(nn.Module):
    """A frozen Linear plus scale · B(A x) on its rows [start, stop)."""

    def __init__(self, base, r, start, stop, scale):
        super().__init__()
        raise NotImplementedError  # your code in place of this line

    def forward(self, x):
        """(…, inputs) → (…, rows)."""
        raise NotImplementedError  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb03 import check_3

check_3(RowBlockLoRA)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# class RowBlockLoRA(nn.Module):
#     def __init__(self, base, r, start, stop, scale):
#         super().__init__()
#         self.base, self.start, self.stop, self.scale = base.requires_grad_(False), start, stop, scale
#         self.A = nn.Parameter(torch.empty(r, base.in_features))
#         self.B = nn.Parameter(torch.zeros(stop - start, r))
#         nn.init.kaiming_uniform_(self.A, a=5**0.5)
#
#     def forward(self, x):
#         y = self.base(x)
#         update = self.scale * (x @ self.A.T) @ self.B.T
#         return y + nn.functional.pad(update, (self.start, y.shape[-1] - self.stop))
# ```
#
# `nn.Parameter` is what makes the difference: a plain tensor would be part of the formula and of no
# `parameters()`, so no optimiser would ever find it.
#
# </details>
#
# ### Exercise 4 · Train it *(hard, 25 minutes)*
#
# **Why.** Everything else of this notebook is arithmetic; here something learns. The two usual
# mistakes of a training loop, gradients that pile up and weights that were meant to be frozen, raise
# no error.
#
# `layer` has a Linear `layer.base`, **trainable as it comes**, and parameters `layer.A`, `layer.B`.
# Write its training, in this order:
#
# 1. freeze all but A and B;
# 2. for each step: the mean squared error between `layer(x)` and y, note it in a list as a number;
# 3. its gradients; plain gradient descent, p ← p − rate · gradient, for A and B;
# 4. no gradient of this step may be left for the next one;
# 5. return the list, one loss for each step, each from *before* that step.
#
# <details><summary>Hint</summary>
#
# `layer.base.requires_grad_(False)`; `torch.optim.SGD([layer.A, layer.B], lr=rate)` has `zero_grad()`
# and `step()`; `loss.backward()` makes the gradients; `float(loss.detach())` is the number. Before
# you train, predict: which of A and B moves in the first step?
#
# </details>


# %%
def train(layer, x, y, steps, rate):
    """x (n, inputs), y (n, rows); trains `layer` in place → list of `steps` losses."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb03 import check_4

check_4(train)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def train(layer, x, y, steps, rate):
#     layer.base.requires_grad_(False)
#     optimizer = torch.optim.SGD([layer.A, layer.B], lr=rate)
#     losses = []
#     for _ in range(steps):
#         loss = (layer(x) - y).square().mean()
#         losses.append(float(loss.detach()))
#         optimizer.zero_grad()
#         loss.backward()
#         optimizer.step()
#     return losses
#
#
# layer = RowBlockLoRA(nn.Linear(d, 2 * d), 2, 0, d, 1.0)  # your layer of exercise 3
# x = torch.randn(200, d)
# y = layer(x).detach() + nn.functional.pad(x @ wish[:d].T, (0, d))  # wanted: another X
# losses = train(layer, x, y, 300, 0.3)
# print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}; rank of ΔW: {torch.linalg.matrix_rank(layer.B @ layer.A)}")
# ```
#
# `wish[:d]` has rank 2, so a pair of rank 2 can fulfil it, and gradient descent finds it though
# nobody told it the singular vectors. With r = 1 the loss stays where exercise 5 says it must.
#
# </details>
#
# ### Exercise 5 · The best pair there is *(medium, 8 minutes)*
#
# **Why.** It is the yardstick of every low-rank method: no training can do better than this.
#
# Somebody has fine-tuned a whole matrix and gives you its change, `target`. Find B and A of rank r
# with B·A as close to it as possible.
#
# <details><summary>Hint</summary>
#
# `U, s, Vh = torch.linalg.svd(target, full_matrices=False)` writes it as U · diag(s) · Vh, the
# largest s first. Keep r of each.
#
# </details>


# %%
def best_pair(target, r):
    """target (rows, inputs) → B (rows, r), A (r, inputs)."""
    return None  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb03 import check_5

check_5(best_pair)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def best_pair(target, r):
#     U, s, Vh = torch.linalg.svd(target, full_matrices=False)
#     return U[:, :r] * s[:r], Vh[:r]
#
#
# B, A = best_pair(steps[0], rank)
# left = (steps[0] - B @ A).square().sum() / steps[0].square().sum()
# print(f"kept of the full step in block 0: {1 - float(left):.2f}")  # the number of the table above
# ```
#
# That is how the table above was made: its numbers are what is best possible, not what training
# with Adam would find.
#
# </details>
#
# ### Exercise 6 · Find the 57.31 M *(easy, 5 minutes)*
#
# **Why.** A parameter count in a table is a claim like any other: it can be checked.
#
# `released` is the base encoder at the release's 224 pixels, without weights. Add up the parameters
# that the counter of called modules sees: all but those of the mixers, and all but the bare
# parameters of the encoder itself, which belong to no module that could be called.
#
# <details><summary>Hint</summary>
#
# Loop over `released.named_parameters()`; the names say where a parameter lives. Print a few.
#
# </details>

# %%
with torch.device("meta"):
    released = VisionMamba(EncoderConfig(image_size=224))
seen = None  # your number


# %%
# Check 6
from emrrg_lib.course.checks.nb03 import check_6

check_6(seen)

# %% [markdown]
# <details><summary>Solution 6</summary>
#
# ```python
# seen = sum(p.numel() for name, p in released.named_parameters()
#            if ".mixer." not in name and name not in ("pos_embed", "cls_token"))
# ```
#
# The number has nothing to do with what trains. "Parameters" in a table deserves the question: of
# what, counted how?
#
# </details>
#
# ### Exercise 7 · What LoRA's first step is *(bonus, hard, 15 minutes)*
#
# **Why.** LoRA is often called "fine-tuning with fewer numbers". Its first step shows what it does
# otherwise.
#
# Full fine-tuning would step by ΔW = −rate · G, where G (rows, inputs) is the gradient of the loss
# with respect to W. LoRA begins at B = 0 with a random A, ΔW = scale · B·A. Write ΔW after **one**
# step of gradient descent on A and B, in terms of G, A, rate and scale. No autograd is needed.
#
# <details><summary>Hint</summary>
#
# While B = 0, A gets no gradient. The chain rule gives the gradient of B: scale · G Aᵀ. Then ΔW is
# scale · B·A with the new B.
#
# </details>


# %%
def first_step(G, A, rate, scale):
    """G (rows, inputs), A (r, inputs) → ΔW (rows, inputs) after the first step."""
    return None  # your code


# %%
# Check 7
from emrrg_lib.course.checks.nb03 import check_7

check_7(first_step)

# %% [markdown]
# <details><summary>Solution 7</summary>
#
# ```python
# def first_step(G, A, rate, scale):
#     B = -rate * scale * G @ A.T
#     return scale * B @ A
# ```
#
# −rate · scale² · G AᵀA: the full step, seen through A. Each row of the gradient keeps only what lies
# in the r directions of A. `scale` enters squared, so a change of `scale` is a change of the rate.
#
# </details>

# %% [markdown]
# ## Summary
#
# - LoRA adds scale · B·A to a frozen weight. B starts at zero: the first step changes nothing, and
#   B gets the first gradient.
# - **Partial** LoRA gives a row block, X, Z, dt, B or C, its own pair; the other rows keep
#   every bit. LoRA(in_proj) shares its r questions between X and Z.
# - A full fine-tuning step has few strong directions; the weight it changes has many.
# - On a shifted domain a pair on X learns in 40 steps, and one switch brings the old model back. Six
#   targets at equal cost are compared with intervals, not by one number each.
# - Rank 1 does nearly as well as rank 16 in the shifts tried here; once it is behind, once ahead.
# - A merged encoder has its old shape and speed.
# - 57.31 M counts called modules, 1.32 M (very likely) two adapters of the release; neither is what
#   the written method trains. `emrrg ledger` prints the account of any preset.
#
# **Quiz.**
#
# <details><summary>1. Why does B start at zero, and not A?</summary>
#
# One of them has to be zero, so that the tuned model begins as the old one. If both were, neither
# would get a gradient. With B = 0 the first gradient is B's, through the random directions of A. (A = 0
# and B random would work as well.)
#
# </details>
# <details><summary>2. LoRA_p(X) with r = 8 and LoRA(in_proj) with r = 8: which has more parameters,
# and does the larger one contain the smaller?</summary>
#
# LoRA(in_proj): 8 · 3 d against 8 · 2 d. It contains it: a B whose Z rows are zero is LoRA_p(X). But
# it must be *found*, and its r questions are shared between X and Z.
#
# </details>
# <details><summary>3. A table says "1.32 M trainable parameters". What do you ask?</summary>
#
# Which modules, counted how, on which model; and whether the projector and the cross-attention, which
# also train, are in it.
#
# </details>
#
# **Further reading.** Hu et al., *LoRA* ([arXiv 2106.09685](https://arxiv.org/abs/2106.09685)) · Yoshimura,
# Hayashi and Maeda, *MambaPEFT* ([arXiv 2411.03855](https://arxiv.org/abs/2411.03855)) · Zhu et al.,
# *Vision Mamba* ([arXiv 2401.09417](https://arxiv.org/abs/2401.09417)) · Aghajanyan et al., *Intrinsic
# Dimensionality Explains the Effectiveness of Language Model Fine-Tuning* ([arXiv
# 2012.13255](https://arxiv.org/abs/2012.13255)).
#
# Read on in the code: [Partial LoRA](../emrrg_lib/tuning/partial_lora.py), [the shifted
# domain](../emrrg_lib/training/shift.py), [the ledger](../emrrg_lib/tuning/policy.py), [the
# mixer](../emrrg_lib/vision/mamba.py).
#
# [← 02](02_mamba_block.ipynb) · [04 →](04_hybrid_cross_attention.ipynb)
