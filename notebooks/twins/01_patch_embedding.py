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
# | **Time** | about 25 minutes of reading; 40 minutes for exercises 1 to 4, 25 for the bonus task |
# | **CPU** | 1 core, 1 GB of memory, half a minute to run |
# | **GPU** | not needed; nothing is downloaded |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.2 |
#
# **You will be able to**
#
# - count the tokens of an image of any size, and the rows of its position table (exercise 1);
# - cut an image into patches and put it together again, also with overlap (exercises 2 and 5);
# - fold three equal colour channels into one (exercise 3);
# - fit a checkpoint of one image size to another (exercise 4).
#
# **Contents.** [One X-ray](#One-X-ray) · [Cut by hand](#Cut-by-hand) ·
# [One linear layer](#One-linear-layer) · [The same as a convolution](#The-same-as-a-convolution) ·
# [Why 16 pixels](#Why-16-pixels) ·
# [What a trained projection asks for](#What-a-trained-projection-asks-for) ·
# [The cls token](#The-cls-token) · [Positions](#Positions) ·
# [Why 224 gives 197](#Why-224-gives-197) · [Exercises](#Exercises) · [Summary](#Summary)
#
# The hand-made part works at the paper's size, 192 × 192 pixels. The part with trained weights uses
# the encoder of a preset: the *tiny* one here, the paper's on a machine that has its weights
# (change one word below).

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
PROFILE = "tiny"  # "iu-xray": the paper's encoder; the error says what to fetch

# %%
import numpy as np
import pandas as pd
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
# ## One X-ray
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
from emrrg_lib.interpret.figures_vision import map_grid, patch_grid

patch_grid(frontal, PATCH, marked=(39, 66, 110))

# %% [markdown]
# **How to read it.** Patches are numbered like words on a page: patch 0 is the upper left one,
# patch 11 ends the first row, patch 143 is the lower right one. Patch *i* lies in row *i* // 12,
# column *i* % 12. On the right you see what *one token* will know at first: 16 × 16 pixels and no
# more. Nobody can see from patch 110 alone that it shows an effusion.
#
# The same grid on a **real chest**. The kit brings eighteen X-rays of the data set ChestX-ray14 of the
# **NIH Clinical Center** ([source, credit and terms](../data/nih_samples/README.md)). This one has the
# label "Cardiomegaly".

# %%
from emrrg_lib.data.images import read_view
from emrrg_lib.data.nih_cxr14 import nih_samples

samples = {study.id: study for study in nih_samples()}
real = read_view(samples["00008006_000"].images[0], SIZE)[..., 0]  # (192, 192) uint8
patch_grid(real, PATCH, marked=(39, 66, 110))

# %% [markdown]
# **What is different?** The phantom fills the image; the real film has black borders, marker letters,
# and lungs that begin higher up. So the same patch number lies on another part of the body: patch 110
# is on the effusion of the phantom, but below the lung of the real patient. A position table can say
# where a patch lies in the image, but not where in the patient.
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
# ## One linear layer
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
# paper writes $T_i \in \mathbb{R}^{1024}$: that is the width of the *large* encoder. But its count of
# 1.32 M trained parameters fits the base encoder. That is strongly supported and not proven; notebook 03
# takes the count apart.
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
print("convolution", tuple(answers.shape), "→", tuple(by_convolution.shape))
print(f"largest difference {difference:.1e}")
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
print("same shape:", wrong.shape == tokens.shape, end=" · ")
print(f"largest difference {(wrong - tokens).abs().max():.2f}")

# %% [markdown]
# ## The real one is the same
#
# `PatchEmbed` of the library is this convolution with a check of the image size in front.

# %%
from emrrg_lib.vision.mamba import PatchEmbed

embedding = PatchEmbed(image_size=SIZE, patch_size=PATCH, embed_dim=WIDTH)
with torch.no_grad():
    embedding.proj.weight.copy_(kernels)
    embedding.proj.bias.copy_(b)
    theirs = embedding(pixels)[0]  # (144, 768)
assert torch.allclose(theirs, tokens, atol=1e-4)
count = sum(p.numel() for p in embedding.parameters())
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
# ## Why 16 pixels
#
# **What a token can hold.** A token of the base encoder has 768 numbers, a patch of 16 × 16 has 256 grey
# values. So nothing needs to be lost: from the tokens above every pixel can be computed again.

# %%
exact = patches.double() @ W.double().T + b  # the tokens, in double precision
again = torch.linalg.solve(W.double(), (exact - b).T).T  # T = W P + b, solved for P
print(f"pixels from tokens: largest difference {(again - patches).abs().max():.1e}")
rows = []
for patch in (4, 8, 16, 32):
    count = (SIZE // patch) ** 2 + 1
    rows.append(
        {
            "patch": f"{patch} × {patch}",
            "grey values in a patch": patch**2,
            "tokens with cls": count,
            "pairs of tokens": f"{count**2:,}",
            "weights of the projection": f"{(3 * patch**2 + 1) * WIDTH:,}",
        }
    )
pd.DataFrame(rows).set_index("patch")

# %% [markdown]
# A patch of 32 × 32 has 1,024 grey values: more than the token has numbers, so details are lost. With 8
# × 8 there are four times as many tokens, and everything after the embedding costs four times as much
# (attention sixteen times). 16 is the usual choice between the two, and pre-trained encoders have it.
#
# **What a map can show.** Later every token gets one number at a time: an attention weight, a step of the
# scan. Such a map can be no sharper than this:


# %%
def mosaic(image, patch):
    """(H, W) → one number per patch: its mean."""
    return F.avg_pool2d(torch.tensor(image)[None].float(), patch)[0].numpy()


edges = (4, 8, 16, 32)
map_grid(
    {
        name: [mosaic(each, edge) for edge in edges]
        for name, each in (("phantom", frontal), ("real", real))
    },
    "One number per patch",
    [f"{edge} × {edge}" for edge in edges],
    image={"phantom": frontal, "real": real},
)

# %% [markdown]
# **How to read it.** With 16 × 16 you still see lungs and heart. A rib, a catheter or the thin line of a
# pneumothorax is gone *from such a map*; it is still *in the tokens*.
#
# **Overlap.** Patches need not lie edge to edge. With a stride of 8, patches of 16 overlap by half: a line
# on the border of one patch is in the middle of another. The price is the number of tokens:

# %%
for stride in (16, 8, 4):
    count = F.unfold(pixels, kernel_size=PATCH, stride=stride).shape[-1]
    inner = (PATCH // stride) ** 2
    print(
        f"stride {stride:>2}: {count:>5} patches, an inner pixel is in {inner} of them"
    )

# %% [markdown]
# The paper takes "non-overlapping patches". In the encoder of notebook 02 a short convolution and four
# scans follow right after the embedding, so a token soon knows its neighbours.
#
# ## What a trained projection asks for
#
# Now the trained encoder of the profile. Each channel of a token is the answer to one question, its
# kernel, put to every patch. So one channel of all tokens is a small picture again. Below: the six
# channels whose answers differ most over this X-ray.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.vision.weights import load_encoder

encoder, sizes = load_encoder(settings).eval().requires_grad_(False), settings.encoder
small = draw_study(7, 654, sizes.image_size).images[0]
small_real = read_view(samples["00008006_000"].images[0], sizes.image_size)[..., 0]
x, _ = study_set.pixels([[small]], settings)  # (1, 3, 96, 96), normalised as above
real_x, _ = study_set.pixels([[small_real]], settings)
patch_tokens, real_tokens = encoder.patch_embed(
    torch.cat([x, real_x])
)  # (144, 128) each
print(f"{PROFILE}: {sizes.image_size} px in patches of {sizes.patch_size}", end=", ")
print(f"d = {sizes.embed_dim}: tokens {tuple(patch_tokens.shape)}")

# %%
strongest = patch_tokens.var(dim=0).argsort(descending=True)[:6]
# the three channels show the same
grey_kernels = encoder.patch_embed.proj.weight.sum(dim=1)[strongest]
maps = {"kernel": grey_kernels.numpy()}
for name, each in (("phantom", patch_tokens), ("real", real_tokens)):
    maps[name] = each[:, strongest].T.unflatten(1, encoder.grid).numpy()  # (6, 12, 12)
map_grid(
    maps,
    "Six channels of the patch tokens",
    [f"channel {c}" for c in strongest.tolist()],
    image={"kernel": small, "phantom": small, "real": small_real},
)

# %% [markdown]
# **How to read it.** Dark is the lowest value of a map, bright the highest. Upper row: the kernel,
# a picture of one patch's size. Below: its answer for all 144 patches. The kernels look like
# noise, the answers do not. In the tiny encoder the strongest channels measure how bright the patch is,
# some with the opposite sign; weaker ones, as the last two here, also how the brightness changes from
# one side of the patch to the other: edges.
#
# The encoder has been trained on phantoms alone, and yet its answers to the real chest are as clear.
# Brightness and edges are the same questions there. What the answers *mean* is decided later in the model,
# and that it has learnt from phantoms only (notebook 02 goes on with this).

# %% [markdown]
# ## The cls token
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
different = len(same.round(decimals=4).unique(dim=0))
print(f"different tokens among {M} equal patches: {different}")

# %% [markdown]
# So a table with one row for each token is *added*: `pos_embed`, of shape (1, M + 1, d), with the row
# of the cls token in its middle. That is the whole embedding:

# %%
ours = with_cls + encoder.pos_embed[0]
assert torch.allclose(ours, encoder.embed(x)[0], atol=1e-5)
print("patches + cls + positions equals encoder.embed:", tuple(ours.shape))

# %% [markdown]
# **Where does the table come from?** In stage 1 of pre-training (notebook 08) it is fixed: sines and
# cosines. The first half of the channels encodes the column, the second half the row; each half holds
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

cls_row = torch.full((1, d), 9.0)  # marked, to be found again
large = torch.cat([sincos(14, d)[:98], cls_row, sincos(14, d)[98:]])[
    None
]  # (1, 197, d)
resized = resize_positions(large, 12)
at = int((resized[0] == 9).all(dim=1).nonzero())
print(tuple(large.shape), "→", tuple(resized.shape), "· cls row now at", at)
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
glossary("I, P, W (patches), M, T_i, d")

# %% [markdown]
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Rows of the table *(easy, 5 minutes)*
#
# **Why.** A checkpoint whose table has another number of rows does not load.
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
# **Why.** A pre-training that predicts patches needs this to show its picture (notebook 08).
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
# Write `reshape(side, side, 3, ...)` without the `permute`, and every shape is right and the picture
# is not.
#
# </details>
#
# ### Exercise 3 · One channel is enough *(medium, 10 minutes)*
#
# **Why.** Three equal channels cost three times the weights, and it is not obvious that they are waste.
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
# ### Exercise 4 · Resize a position table *(hard, 15 minutes)*
#
# **Why.** The preset `iu-xray` reads checkpoints of 224 pixels at 192.
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
#
# ### Exercise 5 · Patches that overlap *(bonus, hard, 25 minutes)*
#
# **Why.** Models that predict overlapping patches (or windows of a large image) have several answers for
# one pixel. Their mean is the usual result, and its edges are the usual mistake.
#
# `patches` (M, 3 · patch · patch) were cut row-major with `stride` between neighbours, from an image of
# `size` × `size` pixels; (size − patch) is a multiple of the stride. Write the image (3, size, size) in
# which each pixel is the **mean** over all patches that hold it.
#
# <details><summary>Hint</summary>
#
# Add every patch to an image of zeros, and 1 to a second image at the same place; divide at the end. Along
# an edge there are (size − patch) // stride + 1 patches. `F.fold`, the inverse of `unfold`, does the
# adding.
#
# </details>


# %%
def join_overlapping(patches, size, patch, stride):
    """(M, 3 · patch²) → (3, size, size): each pixel the mean of its patches."""
    return None  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb01 import check_5

check_5(join_overlapping)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def join_overlapping(patches, size, patch, stride):
#     total, held = torch.zeros(3, size, size), torch.zeros(size, size)
#     side = (size - patch) // stride + 1
#     for i, values in enumerate(patches):
#         top, left = i // side * stride, i % side * stride
#         here = slice(top, top + patch), slice(left, left + patch)
#         total[:, here[0], here[1]] += values.view(3, patch, patch)
#         held[here] += 1
#     return total / held
#
#
# cut_again = F.unfold(pixels, kernel_size=PATCH, stride=8)[0].T  # (529, 768)
# assert torch.allclose(join_overlapping(cut_again, SIZE, PATCH, 8), pixels[0], atol=1e-5)
# ```
#
# Inner pixels are in four patches here, those of the edges in two, the corners in one.
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
# - With 16 × 16 pixels a token can hold every pixel of its patch; a map of one number per patch cannot.
# - An encoder trained on phantoms answers brightness and edges of a real chest as well; what they mean is
#   another question.
#
# **Quiz.** Answer first, then unfold.
#
# 1. An image of 224 × 224 is cut with a patch of 16 and a stride of 16. What changes in the embedding's
# weights if the image becomes 448 × 448?
#
# <details><summary>Answer 1</summary>
#
# Nothing in the kernels. The position table has 28² + 1 = 785 rows instead of 197, so it must be resized.
#
# </details>
#
# 2. The patches are shuffled before the projection, and the position table is not used. Can the projection
# notice?
#
# <details><summary>Answer 2</summary>
#
# No. It treats every patch alike, so the tokens are the same ones in another order. (The scan would notice:
# its result depends on the order.)
#
# </details>
#
# 3. Why does a wrong order of the numbers inside a patch raise no error?
#
# <details><summary>Answer 3</summary>
#
# A row of W and a patch are both 768 numbers. Every order gives a sum of 768 products; only one of them is
# the one that W was trained for.
#
# </details>
#
# **Further reading.** [ViT](https://arxiv.org/abs/2010.11929), patches as words (arXiv 2010.11929) ·
# [FlexiViT](https://arxiv.org/abs/2212.08013), one model for many patch sizes (arXiv 2212.08013) ·
# [Early convolutions](https://arxiv.org/abs/2106.14881), small kernels that overlap instead of patches
# (arXiv 2106.14881) · [MAE](https://arxiv.org/abs/2111.06377), patches that are predicted (arXiv
# 2111.06377) · [MambaXray-VL](https://arxiv.org/abs/2410.00379), the pre-trained encoder (arXiv 2410.00379) ·
# [ChestX-ray8](https://arxiv.org/abs/1705.02315), the data set of the real X-rays (arXiv 1705.02315).
#
# You can now follow an image of any size up to the door of the encoder, and you know which mistakes
# there raise no error. The code: [patch embedding](../emrrg_lib/vision/mamba.py),
# [resizing](../emrrg_lib/vision/weights.py).
#
# **Previous:** [← 00 start here](00_start_here.ipynb) · **Next:**
# [02 Mamba block →](02_mamba_block.ipynb)
