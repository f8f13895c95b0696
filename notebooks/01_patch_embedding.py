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
# # 01 · Patch embedding
#
# **Goal.** Turn an X-ray into the tokens that the encoder reads: cut it into patches, project each
# patch to a vector, put the *cls* token in the middle, add positions. At the end you can say where
# each of the 144, 145 and 197 of the paper and its code comes from.
#
# | | |
# |---|---|
# | **You need** | to know what a linear layer and a convolution are |
# | **Time** | about 20 minutes; exercises 1 and 2 add 15, the two harder ones 20 |
# | **CPU** | 1 core, 1 GB of memory, half a minute to run |
# | **GPU** | not needed; nothing is downloaded |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.2 |
#
# The hand-made part works at the paper's size, 192 × 192 pixels. The part with trained weights uses
# the encoder of a preset: the *tiny* one here, the paper's on a machine that has its weights
# (change one word below).

# %%
PROFILE = "tiny"  # "iu-xray": the paper's encoder; the error says what to fetch

# %%
import numpy as np
import torch
import torch.nn.functional as F

from emrrg_lib.course.notebook import glossary, picture_of
from emrrg_lib.presets import preset

settings = preset(PROFILE)
picture_of(settings, lit=("image", "patches", "tokens"))

# %% [markdown]
# **The map.** Lit: the part of this notebook, with the sizes of the profile. An image goes in, a
# row of tokens comes out. Everything after it (the grey part) sees only tokens, never a pixel.
#
# ## One X-ray, 192 × 192 × 3
#
# The paper writes $I \in \mathbb{R}^{192 \times 192 \times 3}$. An X-ray is grey; it is repeated
# three times, because such encoders are made for colour photographs. For the same reason every channel
# is then shifted and scaled with the mean and the standard deviation of ImageNet's photographs.

# %%
from emrrg_lib.data.images import normalise
from emrrg_lib.phantom import draw_study

# the paper's image and patch; the width of the base encoder
SIZE, PATCH, WIDTH = 192, 16, 768
study = draw_study(7, 654, SIZE)
frontal = study.images[0]  # (192, 192) uint8: a synthetic X-ray, as in notebook 00
pixels = normalise([np.dstack([frontal] * 3)])  # (1, 3, 192, 192)
print("pixels", tuple(pixels.shape), f"from {pixels.min():.2f} to {pixels.max():.2f}")

# %%
from emrrg_lib.interpret.figures_vision import patch_grid

patch_grid(frontal, PATCH, marked=(39, 66, 110))

# %% [markdown]
# **How to read it.** Patches are numbered like words on a page: patch 0 is the upper left one,
# patch 11 ends the first row, patch 143 is the lower right one. Patch *i* lies in row *i* // 12,
# column *i* % 12. On the right you see what *one token* will know at first: 16 × 16 pixels and no
# more. Nobody can see from patch 110 alone that it shows an effusion.
#
# ## Cut by hand
#
# Non-overlapping patches $P_i \in \mathbb{R}^{16 \times 16 \times 3}$ need two loops. Each patch is
# laid out as one row of 3 · 16 · 16 = 768 numbers.


# %%
def cut(image, patch):
    """(3, H, W) → (M, 3 · patch · patch), row-major;
    inside a patch: channel, row, column."""
    _, height, width = image.shape
    rows = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            rows.append(image[:, top : top + patch, left : left + patch].flatten())
    return torch.stack(rows)


patches = cut(pixels[0], PATCH)
print("patches", tuple(patches.shape))

# %% [markdown]
# **Check.** 144 patches, no pixel lost, none used twice. And `torch` has the same operation under
# the name `unfold`.

# %%
assert patches.shape == (144, 768) and patches.numel() == pixels.numel()
assert torch.equal(patches.flatten().sort().values, pixels.flatten().sort().values)
assert torch.equal(patches, F.unfold(pixels, kernel_size=PATCH, stride=PATCH)[0].T)
print("every pixel is in exactly one patch")

# %% [markdown]
# ## The smallest version: one linear layer
#
# A token is a linear map of its patch: $T_i = W P_i + b$, the same $W$ for every patch. Here
# with random weights of the base encoder's size.

# %%
draw = torch.Generator().manual_seed(0)
# (768, 768)
W = torch.randn(WIDTH, 3 * PATCH * PATCH, generator=draw) / (3 * PATCH * PATCH) ** 0.5
b = torch.randn(WIDTH, generator=draw)
tokens = patches @ W.T + b  # (144, 768) @ (768, 768) + (768,) → (144, 768)
print("tokens", tuple(tokens.shape), "· weights", f"{W.numel() + b.numel():,}")

# %% [markdown]
# 768 numbers in, 768 numbers out is a coincidence of 3 · 16 · 16 and the base encoder's width. The
# paper writes $T_i \in \mathbb{R}^{1024}$: that is the width of the *large* encoder. But the paper's
# count of 1.32 M trained parameters belongs to the base one (notebook 03 takes it apart).
#
# ## The same as a convolution
#
# The paper says "a convolutional layer with a kernel size of 16 × 16". A convolution slides its
# kernel over the image and takes a weighted sum at every stop. With a stride of 16 it stops once a
# patch; then the kernel *is* a row of $W$, folded to 3 × 16 × 16.

# %%
# each row of W as a small three-channel picture
kernels = W.view(WIDTH, 3, PATCH, PATCH)
# (1, 768, 12, 12): one picture a channel
answers = F.conv2d(pixels, kernels, b, stride=PATCH)
by_convolution = answers.flatten(2).transpose(1, 2)[0]  # (1, 768, 144) → (144, 768)
difference = float((by_convolution - tokens).abs().max())
print(
    "convolution",
    tuple(answers.shape),
    "→",
    tuple(by_convolution.shape),
    f"· difference {difference:.1e}",
)
assert torch.allclose(by_convolution, tokens, atol=1e-4)

# %% [markdown]
# Two things must agree for this to hold: the order of the numbers *inside* a patch (channel, row,
# column: that is how a kernel lies in memory) and the order *of* the patches (row-major: that is what
# `flatten(2)` does). Take the channels last, as image files have them, and all tokens are wrong,
# and no error warns you:

# %%
# row, column, channel
channels_last = patches.view(144, 3, PATCH, PATCH).permute(0, 2, 3, 1).flatten(1)
wrong = channels_last @ W.T + b
print(
    "same shape:",
    wrong.shape == tokens.shape,
    f"· largest difference {(wrong - tokens).abs().max():.2f}",
)

# %% [markdown]
# ## The real one is the same
#
# `PatchEmbed` of the library is this convolution with a check of the image size in front.

# %%
from emrrg_lib.vision.mamba import PatchEmbed

real = PatchEmbed(image_size=SIZE, patch_size=PATCH, embed_dim=WIDTH)
with torch.no_grad():
    real.proj.weight.copy_(kernels)
    real.proj.bias.copy_(b)
    theirs = real(pixels)[0]  # (144, 768)
assert torch.allclose(theirs, tokens, atol=1e-4)
count = sum(p.numel() for p in real.parameters())
print(f"PatchEmbed: {tuple(theirs.shape)}, equal · {count:,} parameters")
assert count == 3 * 16 * 16 * 768 + 768

# %% [markdown]
# It refuses what would go wrong in silence later. An odd number of patches has no two equal halves,
# and the encoder puts a token between them (below); the code released with the paper takes an odd grid
# and scans a wrong one.

# %%
from emrrg_lib.files import InputError

for image_size in (100, 80):
    try:
        PatchEmbed(image_size, PATCH, WIDTH)
    except InputError as refused:
        print(f"{image_size} px: {refused}")

# %% [markdown]
# ## What a trained projection asks for
#
# Now the trained encoder of the profile. Each channel of a token is the answer to one question, its
# kernel, put to every patch. So one channel of all tokens is a small picture again. Below: the six
# channels whose answers differ most over this X-ray.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.interpret.figures_vision import map_grid
from emrrg_lib.vision.weights import load_encoder

encoder, sizes = load_encoder(settings).eval().requires_grad_(False), settings.encoder
small = draw_study(7, 654, sizes.image_size).images[0]
x, _ = study_set.pixels([[small]], settings)  # (1, 3, 96, 96), normalised as above
patch_tokens = encoder.patch_embed(x)[0]  # (M, d) = (144, 128)
print(
    f"{PROFILE}: {sizes.image_size} px in patches of {sizes.patch_size}, d = "
    f"{sizes.embed_dim}:",
    tuple(patch_tokens.shape),
)
strongest = patch_tokens.var(dim=0).argsort(descending=True)[:6]
# the three channels show the same
grey_kernels = encoder.patch_embed.proj.weight.sum(dim=1)[strongest]
as_maps = patch_tokens[:, strongest].T.unflatten(1, encoder.grid)  # (6, 12, 12)
map_grid(
    {"kernel": grey_kernels.numpy(), "answer": as_maps.numpy()},
    "Six channels of the patch tokens",
    [f"channel {c}" for c in strongest.tolist()],
    image=small,
)

# %% [markdown]
# **How to read it.** Dark is the lowest value of a map, bright the highest. Upper row: the kernel,
# a picture of one patch's size. Lower row: its answer for all 144 patches. The kernels look like
# noise, the answers do not. In the tiny encoder the strongest channels measure how bright the patch is,
# some with the opposite sign; weaker ones, as the last two here, also how the brightness changes from
# one side of the patch to the other: edges.

# %% [markdown]
# ## The cls token, in the middle
#
# One more token joins the patches. It belongs to no place; it is a learned vector, the same for
# every image, into which the encoder can write what concerns the whole image. In a transformer it
# is the first. Here it is **in the middle**, at index M // 2:

# %%
M = patch_tokens.shape[0]
middle = M // 2
with_cls = torch.cat(
    [patch_tokens[:middle], encoder.cls_token[0], patch_tokens[middle:]]
)
print(f"{M} patches, cls at {middle}: {tuple(with_cls.shape)}")

# %% [markdown]
# Why there? Mamba reads the tokens one after the other and carries a *state* that fades (notebook
# 02). Count the steps from the farthest patch to the cls token, and the patches that lie before it:

# %%
for name, place in (("first", 0), ("middle", middle), ("last", M)):
    print(
        f"{name:>6}: farthest patch {max(place, M - place):>3} steps away · "
        f"read before it: {place:>3} forwards, {M - place:>3} backwards"
    )

# %% [markdown]
# At an end, one reading direction brings it everything and the other nothing, and the first patch
# must survive 144 steps of fading. In the middle it is fed evenly from both sides, and no patch is
# farther than 72 steps. After it is inserted, patch *i* has index *i* before the middle and
# *i* + 1 behind it: forget that, and half of every attention map is shifted by one patch.
#
# ## Positions
#
# The projection treats every patch alike. Two equal patches give equal tokens, wherever they lie:

# %%
# one patch everywhere
tiled = x[:, :, : sizes.patch_size, : sizes.patch_size].repeat(1, 1, *encoder.grid)
same = encoder.patch_embed(tiled)[0]
print(
    "different tokens among",
    M,
    "equal patches:",
    len(same.round(decimals=4).unique(dim=0)),
)

# %% [markdown]
# So a table with one row for each token is *added*: `pos_embed`, of shape (1, M + 1, d), with the row
# of the cls token in its middle. That is the whole embedding:

# %%
ours = with_cls + encoder.pos_embed[0]
assert torch.allclose(ours, encoder.embed(x)[0], atol=1e-5)
print("patches + cls + positions equals encoder.embed:", tuple(ours.shape))

# %% [markdown]
# **Where does the table come from?** In stage 1 of pre-training (notebook 08) it is fixed: sines and
# cosines. The
# first half of the channels encodes the column, the second half the row; each half holds
# $\sin(\omega_k \cdot \text{index})$, then $\cos(\omega_k \cdot \text{index})$, with
# $\omega_k = 10000^{-k/(d/4)}$. From stage 2 on it is trained like any weight.


# %%
def sincos(side, d):
    """(side², d): the fixed table of stage 1."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    omega = 10000.0 ** (-torch.arange(d // 4) / (d // 4))
    halves = []
    for index in (column, row):  # the column comes first
        angle = index.flatten()[:, None] * omega  # (side², d / 4)
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1)


from emrrg_lib.training.stage1 import sincos_table

side, d = encoder.grid[0], encoder.embed_dim
fixed = sincos(side, d)
assert torch.allclose(fixed, sincos_table(side, d).float(), atol=1e-5)
print("fixed table", tuple(fixed.shape), "equals the library's")

# %%
from emrrg_lib.vision.mamba import drop_cls

trained = drop_cls(encoder.pos_embed[0].T, encoder.cls_index).T  # (M + 1, d) → (M, d)
chosen = [
    int(part * side) * side + int(other * side)
    for part, other in ((0.1, 0.1), (0.3, 0.7), (0.5, 0.5), (0.8, 0.2))
]


def alike(table):
    """Cosine similarity of the chosen rows with all rows, one map each."""
    unit = F.normalize(table, dim=1)
    return [(unit @ unit[patch]).unflatten(0, (side, side)).numpy() for patch in chosen]


map_grid(
    {"sin-cos": alike(fixed), "trained": alike(trained)},
    "How alike two positions are",
    [f"to patch {patch}" for patch in chosen],
)

# %% [markdown]
# **How to read it.** Each map: how alike the position of one patch (the brightest spot) is to all
# others. In the fixed table nearness is built in: neighbours are alike, above all those of the same
# row or column. The trained table of the tiny encoder began stage 2 as the fixed one and has kept its
# form: the same crosses, a little rougher. It is not the only source of place: the scan orders of
# notebook 02 are a second one.
#
# ## Why 224 gives 197
#
# The checkpoints released with the paper are made for 224 × 224 pixels: 14 × 14 = 196 patches, and
# the cls token makes 197. The paper's text says 192: 12 × 12 = 144, and one makes 145.

# %%
import pandas as pd

from emrrg_lib.presets import PRESETS

rows = [("paper, §3.2", 192, 16, 1024), ("released code, base", 224, 16, 768)]
rows += [
    (f"preset {name}", c.image_size, c.patch_size, c.embed_dim)
    for name, c in (
        (name, PRESETS[name].encoder)
        for name in ("tiny", "iu-xray", "mambaxray-vl-large")
    )
]
table = pd.DataFrame(rows, columns=["", "pixels", "patch", "d"]).set_index("")
table["patches"] = (table["pixels"] // table["patch"]) ** 2
table["tokens with cls"] = table["patches"] + 1
table.assign(**{"numbers in the position table": table["tokens with cls"] * table["d"]})

# %% [markdown]
# The kernels do not care about the image size; the position table does. To use a 224-pixel checkpoint at 192
# pixels (the preset `iu-xray` does that), its table is resized like an image: take the cls row out,
# lay the 196 rows out as a 14 × 14 picture with d channels, resample that to 12 × 12, put the cls
# row back **into the new middle**.

# %%
from emrrg_lib.vision.weights import resize_positions

# (1, 197, d)
large = torch.cat([sincos(14, d)[:98], torch.full((1, d), 9.0), sincos(14, d)[98:]])[
    None
]
resized = resize_positions(large, 12)
print(
    tuple(large.shape),
    "→",
    tuple(resized.shape),
    "· cls row now at",
    int((resized[0] == 9).all(dim=1).nonzero()),
)
channel = [1, 3, d // 2 + 1, d // 2 + 3]
pictures = {}
for edge, each in ((14, large), (12, resized)):
    chosen = drop_cls(each[0].T, edge**2 // 2)[channel]  # (4, edge²)
    pictures[f"{edge} × {edge}"] = chosen.unflatten(1, (edge, edge)).numpy()
map_grid(
    pictures,
    "Four channels of a table, before and after",
    ["column, fast", "column, slower", "row, fast", "row, slower"],
)

# %% [markdown]
# **How to read it.** The waves keep their form over the image: a place in the chest has nearly the
# same code at both sizes. That is what resizing is for.
#
# ## What the paper says, and what the tiny preset changes
#
# | | paper, §3.2 | released code | tiny preset |
# |---|---|---|---|
# | image | 192 × 192 × 3 | 224 × 224 × 3 | 96 × 96 × 3 |
# | patch | 16 × 16 | 16 × 16 | 8 × 8 |
# | patches N | 144 | 196 | 144 |
# | width of a token | 1024 | 768 (base), 1024 (large) | 128 |
# | cls token | not mentioned | in the middle | in the middle |
# | positions | not mentioned | trained table | trained table |
#
# The tiny preset halves the patch with the image, so it has the paper's grid of 12 × 12; a patch
# covers the same part of the chest.

# %%
glossary("I, P, P_i, M, T_i, d")

# %% [markdown]
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Rows of the table *(easy, 5 minutes)*
#
# How many rows has the position table for a square image? The check tries sizes that were not in
# this notebook.
#
# <details><summary>Hint</summary>
#
# Patches along one edge, squared, and the token that is not a patch.
#
# </details>


# %%
def table_rows(image_size, patch_size):
    """Number of rows of pos_embed, a whole number."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb01 import check_1

check_1(table_rows)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def table_rows(image_size, patch_size):
#     side = image_size // patch_size
#     return side * side + 1
# ```
#
# Twice the image edge makes four times the tokens. That is why the cost per token matters
# (notebook 02).
#
# </details>
#
# ### Exercise 2 · Put the image together again *(medium, 10 minutes)*
#
# Write the inverse of `cut`: from `patches` (M, 3·P·P), with `side` patches along an edge, back to
# the image (3, side·P, side·P).
#
# <details><summary>Hint</summary>
#
# Give every axis a name: `patches` is (row of the grid, column of the grid, channel, row in the patch,
# column in the patch). One `reshape` makes these five axes, one `permute` brings them into the order
# of an image, one `reshape` joins them.
#
# </details>


# %%
def join(patches, side):
    """(side², 3 · P · P) → (3, side · P, side · P)."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb01 import check_2

check_2(join)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def join(patches, side):
#     edge = int((patches.shape[1] // 3) ** 0.5)
#     axes = patches.reshape(side, side, 3, edge, edge)  # grid row, grid column, channel, row, column
#     return axes.permute(2, 0, 3, 1, 4).reshape(3, side * edge, side * edge)
#
#
# assert torch.equal(join(patches, 12), pixels[0])
# ```
#
# Pre-training needs this: its decoder predicts pixels patch by patch, and this makes a picture of
# them (notebook 08).
#
# </details>
#
# ### Exercise 3 · One channel is enough *(medium, 10 minutes)*
#
# An X-ray's three channels are the same grey value *v*, from 0 to 1; normalised, channel *c* is
# $(v - \text{mean}_c) / \text{std}_c$. So three kernels can be folded into one that works on *v*
# itself. Write it: same tokens from a third of the weights.
#
# <details><summary>Hint</summary>
#
# Write the answer for one patch as a sum over channels and pixels, put $(v - mean_c)/std_c$ in, and
# sort by what multiplies *v* and what does not. What does not goes into the bias.
#
# </details>


# %%
def fold_grey(weight, bias, mean, std):
    """weight (d, 3, P, P), bias (d,), mean (3,), std (3,)
    → weight (d, 1, P, P), bias (d,)."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb01 import check_3

check_3(fold_grey)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def fold_grey(weight, bias, mean, std):
#     scaled = weight / std.view(1, 3, 1, 1)
#     shift = (scaled * mean.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
#     return scaled.sum(dim=1, keepdim=True), bias - shift
# ```
#
# The kit keeps the three channels nevertheless: released checkpoints have them, and the 590,592
# parameters of the base encoder's patch embedding are few beside the 84 million of the whole.
#
# </details>
#
# ### Exercise 4 · Resize a position table *(hard, 10 minutes)*
#
# Write the resizing that you saw: `table` (n² + 1, d) with the cls row at n² // 2, to a grid of
# `side` × `side`. The cls row must come through untouched.
#
# <details><summary>Hint</summary>
#
# `F.interpolate` wants (batch, channels, rows, columns): bring d to the front. The kit uses
# `mode="bicubic"` and `align_corners=False`.
#
# </details>


# %%
def resize_table(table, side):
    """(n² + 1, d) → (side² + 1, d), cls row in the middle before and after."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb01 import check_4

check_4(resize_table)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def resize_table(table, side):
#     middle = table.shape[0] // 2
#     n = int((table.shape[0] - 1) ** 0.5)
#     grid = torch.cat([table[:middle], table[middle + 1:]]).T.reshape(1, -1, n, n)
#     grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
#     rows = grid[0].flatten(1).T  # (side², d)
#     half = side * side // 2
#     return torch.cat([rows[:half], table[middle:middle + 1], rows[half:]])
# ```
#
# Treating the 197 rows as one long line runs without error too, and mixes the right edge of each
# row with the left edge of the next.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Patch embedding is **one linear layer on patches**; the 16 × 16 convolution with stride 16 is the
#   same sum in another notation.
# - 192 px → 12² = **144** patches, **145** tokens with cls; 224 px → 14² = 196, **197** with cls.
# - The cls token is in the **middle**, so that both reading directions feed it.
# - Positions are a table that is added; it must be resized, as a picture, when the image size changes.
#
# You can now follow an image of any size up to the door of the encoder, and you know which mistakes
# there raise no error. The code: [patch embedding](../emrrg_lib/vision/mamba.py),
# [`embed`](../emrrg_lib/vision/mamba.py), [resizing](../emrrg_lib/vision/weights.py).
#
# **Previous:** [← 00 start here](00_start_here.ipynb) · **Next:**
# [02 Mamba block →](02_mamba_block.ipynb)
