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
# # 02 · The Mamba block
#
# **Goal.** Let the tokens exchange what they know. You build the selective scan from one line of
# arithmetic, run it over the image in four directions, and look at what a trained block holds
# while it works: X, Z, dt, B and C.
#
# | | |
# |---|---|
# | **You need** | notebook 01; the exponential function; what a convolution along a sequence is |
# | **Time** | about 30 minutes; exercises 1 and 2 add 10, the two harder ones 20 |
# | **CPU** | 1 core, 1 GB of memory, 1 minute to run (2 the first time: the scan is compiled) |
# | **GPU** | not needed; nothing is downloaded |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.2, Fig. 2 |

# %%
PROFILE = "tiny"  # "iu-xray": the paper's encoder; the error says what to fetch

# %%
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from emrrg_lib.course.notebook import glossary, picture_of
from emrrg_lib.presets import preset

torch.set_grad_enabled(False)  # this notebook trains nothing
settings = preset(PROFILE)
picture_of(settings, lit=("mamba", "scan"))

# %% [markdown]
# **The map.** Lit: one block. A token enters on the left; *in_proj* makes two features of it, **X**,
# which is scanned, and **Z**, which gates the result. From X three more are made: **dt**, **B** and
# **C**. They steer the scan. Then *out_proj*, the residual sum, and an MLP. We begin with the scan.
#
# ## A memory of one number
#
# Read numbers $x_1, x_2, \dots$ one after the other and keep a *state* $h$:
#
# $$h_t = a\,h_{t-1} + b\,x_t \qquad y_t = c\,h_t$$
#
# Each step the old state is multiplied by $a$, so with $0 < a < 1$ it fades; the new number is added.


# %%
def recur(x, a, b=1.0, c=1.0):
    """x (L,) → y (L,), one step after the other."""
    h, y = 0.0, []
    for x_t in x:
        h = a * h + b * x_t
        y.append(c * h)
    return torch.tensor(y)


x = torch.zeros(16)
x[2], x[9] = 1.0, 0.5  # two events, then silence
print("a = 0.8:", recur(x, 0.8).numpy().round(2))

# %%
from emrrg_lib.interpret.figures_vision import curves

steps = range(1, 17)
curves(
    {f"a = {a}": (steps, recur(x, a)) for a in (0.5, 0.8, 0.95)},
    "step t",
    "state",
    "Two events, remembered for a short or a long time",
)

# %% [markdown]
# **How to read it.** Here $b = c = 1$, so what comes out is the state. Events happen at steps 3 and
# 10. With $a = 0.5$ the first is forgotten when the second comes; with $a = 0.95$ both are still there
# at the end, and can no longer be distinguished. What to remember and for how long: that is the question
# a state must settle.
#
# **Check.** Unrolled, the recurrence is a convolution with the kernel $c\,a^k b$: every past number
# counts with $a$ to the power of its age.

# %%
kernel = 0.8 ** torch.arange(16.0)
unrolled = torch.stack(
    [(kernel[: t + 1].flip(0) * x[: t + 1]).sum() for t in range(16)]
)
assert torch.allclose(unrolled, recur(x, 0.8), atol=1e-6)
print("recurrence = convolution with fading weights", kernel[:5].numpy().round(3), "…")

# %% [markdown]
# ## From a rate to a step: discretisation
#
# Where does $a$ come from? A state space model (the family that Mamba belongs to) is written in
# continuous time, with a rate $A < 0$:
#
# $$h'(t) = A\,h(t) + B\,x(t)$$
#
# and read in steps of length $\Delta$. If $x$ stays constant during a step, the exact solution is
#
# $$a = e^{\Delta A} \qquad b = \frac{e^{\Delta A} - 1}{A}\,B$$
#
# Mamba keeps the exact $a$ and uses a shortcut for $b$, namely $b \approx \Delta B$. How much is lost?

# %%
A, B = -1.0, 1.0
rows = []
for delta in (0.001, 0.01, 0.1, 0.5, 1.0, 3.0):
    exact = (np.exp(delta * A) - 1) / A * B
    rows.append(
        {
            "Δ": delta,
            "a = exp(ΔA)": np.exp(delta * A),
            "exact b": exact,
            "ΔB": delta * B,
            "ΔB is larger by": f"{delta * B / exact - 1:.1%}",
        }
    )
pd.DataFrame(rows).set_index("Δ").round(4)

# %% [markdown]
# For small steps nothing. For large ones the event is written too strongly, by a factor that a
# learned B can make up for. That is why a shortcut will do. More important is what $\Delta$ *does*:
#
# - $\Delta$ near 0: $a = 1$ and $b = 0$. The state stays as it is, the number is **ignored**.
# - $\Delta$ large: $a = 0$. The past is **forgotten**, the number is written.
#
# ## Selection
#
# In older models $A, B, \Delta$ are constants, and every number is treated alike. Mamba's step is
# to compute $\Delta_t$, $B_t$ and $C_t$ *from the token itself*. So a token can say: "skip me", or
# "start afresh". Watch the same sequence with constant and with chosen steps.


# %%
def read_with(x, delta):
    """State of the exact model with A = -1, B = 1, so b = 1 - a;
    its step sizes are given one by one."""
    h, states = 0.0, []
    for x_t, d_t in zip(x, delta, strict=True):
        a = torch.exp(-d_t)
        h = a * h + (1 - a) * x_t
        states.append(float(h))
    return np.array(states)


# 3 and 5 matter, the rest is noise
signal = torch.tensor([3.0, 9.0, -7.0, 8.0, 5.0, -9.0, 9.0, -8.0])
matters = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
print("signal         ", signal.numpy())
print("constant steps ", read_with(signal, torch.full((8,), 0.7)).round(1))
print("selected steps ", read_with(signal, 20.0 * matters).round(1))

# %% [markdown]
# With selected steps the state holds 3 until the 5 comes, whatever lies between. No constant step
# can do that. In the real block nobody hands out `matters`: *x_proj* and *dt_proj* compute it.
#
# ## The smallest version: a selective scan
#
# Now for tokens of width d instead of numbers. Every channel has a state of N numbers (N = 16), each
# with its own rate; B and C are shared by all channels; D is a shortcut past the state:
#
# $$h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t B_t x_t \qquad y_t = C_t \cdot h_t + D\,x_t$$
#
# So the whole state is a table of d × N numbers. For one of them, number *n* of channel *k*, the line
# is the recurrence from above:
#
# $$h_{kn} \leftarrow e^{\Delta_k A_{kn}}\,h_{kn} + \Delta_k B_n x_k \qquad
# y_k = \sum_n C_n h_{kn} + D_k x_k$$


# %%
def scan_by_hand(x, delta, A, B, C, D):
    """x, delta (…, L, d); A (d, N); B, C (…, L, N); D (d,). Returns y (…, L, d)."""
    h = x.new_zeros(*x.shape[:-2], *A.shape)  # (…, d, N)
    y = []
    for t in range(x.shape[-2]):
        x_t, step = x[..., t, :], delta[..., t, :]  # (…, d)
        decay = torch.exp(step[..., None] * A)  # (…, d, N)
        h = decay * h + (step * x_t)[..., None] * B[..., t, None, :]
        y.append((h * C[..., t, None, :]).sum(dim=-1) + D * x_t)
    return torch.stack(y, dim=-2)


draw = torch.Generator().manual_seed(0)
L, d, N = 10, 6, 4
x, delta = torch.randn(L, d, generator=draw), torch.rand(L, d, generator=draw)
A, D = -torch.rand(d, N, generator=draw), torch.ones(d)
B, C = torch.randn(2, L, N, generator=draw)
y = scan_by_hand(x, delta, A, B, C, D)
print("y", tuple(y.shape))

# %% [markdown]
# **Check.** Two things must hold. A token with $\Delta_t = 0$ changes no later output. And nothing
# may look ahead: what comes after step *t* cannot change $y_t$.

# %%
skipped, other = delta.clone(), x.clone()
skipped[4], other[4] = 0.0, 100.0
with_it, without_it = (
    scan_by_hand(other, skipped, A, B, C, D),
    scan_by_hand(x, skipped, A, B, C, D),
)
assert torch.equal(with_it[5:], without_it[5:])
assert torch.equal(scan_by_hand(x[:5], delta[:5], A, B[:5], C[:5], D), y[:5])
print("a token with step 0 is invisible to all later ones; nothing looks ahead")

# %% [markdown]
# ## The real one is the same
#
# The library's `selective_scan` takes the same letters, with the channels before the time, as the
# original CUDA code does. It has three backends: a short loop in PyTorch (`reference`), compiled
# loops for the CPU (`cpu`), and the CUDA kernels of *mamba-ssm* (`cuda`).

# %%
from emrrg_lib.vision.scan import selective_scan

for backend in ("reference", "auto"):
    theirs = selective_scan(
        x.T[None], delta.T[None], A, B.T[None], C.T[None], D, backend=backend
    )[0].T
    print(f"{backend:>9}: largest difference {(theirs - y).abs().max():.1e}")
    assert torch.allclose(theirs, y, atol=1e-4)

# %% [markdown]
# ## Four directions
#
# A scan is causal: a patch hears only what was read before it. A sentence has an order, an image has
# none. So the block reads the patches four times: along the rows, along the rows backwards, down the
# columns, and those backwards. The *cls* token stays in the middle of each.

# %%
from emrrg_lib.interpret.figures_vision import scan_animation, scan_frames
from emrrg_lib.vision.mamba import scan_orders

print("rows:   ", scan_orders(4)[0].tolist())
print("columns:", scan_orders(4)[2].tolist(), " (a grid of 4 × 4; token 8 is cls)")
orders = scan_orders(12).numpy()  # (4, 145)
scan_frames(orders, (1, 30, 72, 73, 100, 145))

# %% [markdown]
# **How to read it.** Each column: what has been read after so many tokens; blue patches, the newest in
# orange. The cls token has no place in the image and is drawn in the centre, dark once it has been
# read. It is always the 73rd token to be read: after one half of the patches, before the other. The
# last column adds the path, from the dot on.
#
# The same in motion, in JupyterLab (a web page may show its title only). It runs three times; run the
# cell to see it again.

# %%
scan_animation(orders)

# %% [markdown]
# ## The whole mixer by hand
#
# Now everything between norm and residual sum in the lit box, with the weights of a trained block.
# In order: *in_proj* makes X and Z. Each direction puts X into its scan order; a convolution over four
# tokens and SiLU, x · sigmoid(x), follow. *x_proj* makes dt, B and C of the result; *dt_proj* widens
# dt to d channels, and softplus, log(1 + eˣ), makes positive steps Δ of it. Then the scan from above,
# back to row order, times SiLU(Z). Last come the mean of the four and *out_proj*.


# %%
def mix(u, m):
    """u (B, L, d) → (B, L, d), and what each direction found, (4, B, L,
    d) in row order."""
    # rows 0 … d-1 make X, the others Z
    X, Z = (u @ m.in_proj.weight.T).chunk(2, dim=-1)
    found = []
    # "", "_b", "_c", "_c_b"
    for order, suffix in zip(m.orders, m.suffixes, strict=True):
        conv, x_proj, dt_proj = (
            getattr(m, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj")
        )
        # in scan order; three zeros before the start
        x = F.pad(X[:, order].transpose(1, 2), (3, 0))
        # (B, L, d)
        x = F.silu(F.conv1d(x, conv.weight, conv.bias, groups=m.dim)).transpose(1, 2)
        dt, B, C = x_proj(x).split([m.dt_rank, m.d_state, m.d_state], dim=-1)
        delta = F.softplus(dt_proj(dt))  # (B, L, d), positive
        A = -torch.exp(getattr(m, f"A{suffix}_log"))  # (d, N), negative
        y = scan_by_hand(x, delta, A, B, C, getattr(m, f"D{suffix}"))
        found.append(y[:, order.argsort()] * F.silu(Z))  # back in row order, gated by Z
    found = torch.stack(found)
    return found.mean(dim=0) @ m.out_proj.weight.T, found


# %%
from emrrg_lib.data import study_set
from emrrg_lib.phantom import draw_study
from emrrg_lib.vision.weights import load_encoder

encoder = load_encoder(settings).eval()
side, M, cls = encoder.grid[0], encoder.config.num_patches, encoder.cls_index
# the study of notebooks 00 and 01
frontal = draw_study(7, 654, encoder.image_size).images[0]
pixels, _ = study_set.pixels([[frontal]], settings)  # (1, 3, H, W)
block = encoder.layers[0]
u = block.norm1(encoder.embed(pixels))  # (1, M + 1, d): what enters the first mixer
ours, found = mix(u, block.mixer)
theirs, features = block.mixer(u, return_features=True)
print(
    "mixed tokens",
    tuple(ours.shape),
    f"· largest difference {(ours - theirs).abs().max():.1e}",
)
assert torch.allclose(ours, theirs, atol=1e-3)

# %% [markdown]
# Three things in these lines are worth a second look.
#
# - *in_proj* and *out_proj* are shared; convolution, *x_proj*, *dt_proj*, A and D exist **four
#   times**. Notebook 03 needs that when it counts.
# - The short convolution lets a token see its three predecessors before it decides on $\Delta$.
# - A is stored as $\log(-A)$: whatever training does, the rate stays negative and the state fades.
#
# ## Who hears whom
#
# Take one patch away (set its token to 0) and see how much the result of another changes, for each
# direction alone. 144 patches to take away: one batch of 144. The listeners are a patch and the cls
# token.

# %%
patch = torch.arange(M)
row, column = side // 2, side // 3  # row 6, column 4 of a 12 × 12 grid
listener = row * side + column
listeners = {f"patch {listener}": listener + (listener >= cls), "cls": cls}
without = u.repeat(M, 1, 1)
# in image i of the batch, patch i is missing
without[patch, patch + (patch >= cls)] = 0.0
_, heard = mix(without, block.mixer)  # (4, M, M + 1, d)
maps = {}
for name, at in listeners.items():
    # (4, M): the change when patch i is taken away
    change = (heard[:, :, at] - found[:, :, at]).norm(dim=-1)
    print(
        f"{name:>8} hears",
        (change > 0).sum(dim=1).tolist(),
        "patches in the four directions,",
        int((change > 0).any(dim=0).sum()),
        "in all",
    )
    loud = torch.log10(change / change.max() + 1e-3)  # from a thousandth to 1
    maps[name] = [
        *loud.unflatten(1, (side, side)).numpy(),
        torch.log10((change / change.max()).sum(0) + 1e-3)
        .unflatten(0, (side, side))
        .numpy(),
    ]

# %%
from emrrg_lib.interpret.figures_vision import DIRECTION_NAMES, map_grid

map_grid(
    maps,
    "Whom a token hears in the first block (logarithmic: darkest = less than a "
    "thousandth)",
    [*DIRECTION_NAMES, "together"],
    image=frontal,
)

# %% [markdown]
# **How to read it.** Bright: taking this patch away changes the listener much. In one direction a
# token is deaf to all that comes later. Together the four reach every patch, loudest along the
# listener's own row and column: a cross. What lies off the cross comes through faded, and through the
# blocks that follow. The cls token has no row in the picture. In each direction it hears best what was
# read just before it, and that part of the path ends at an edge: hence four bright pieces at the edges.
#
# ## X, Z, dt, B, C of an X-ray
#
# The paper's central idea, Partial LoRA, rests on these five being *different things* ("numerous
# intermediate features with distinct properties", §3.3). `return_features=True` hands them out, in
# scan order. Put back in their places they are pictures:


# %%
def as_maps(feature, direction, count=5):
    """(1, 4, L, n) → the `count` channels that vary most, as (count, side, side),
    cls left out."""
    # (L, n) from scan order to row order
    in_rows = feature[0, direction, block.mixer.inverse[direction]]
    patches = torch.cat([in_rows[:cls], in_rows[cls + 1 :]])  # (M, n)
    strongest = patches.var(dim=0).argsort(descending=True)[:count]
    return patches[:, strongest].T.unflatten(1, (side, side)).numpy()


print({name: tuple(value.shape) for name, value in features.items()})
map_grid(
    {name: as_maps(value, direction=0) for name, value in features.items()},
    "First block, direction “rows”: the five channels of each that vary most",
    image=frontal,
)

# %% [markdown]
# **How to read it.** Dark is the lowest, bright the highest value of each map. X and Z are as wide as
# the token and still look like the chest: lungs, heart, border. B and C have 16 channels each, dt has
# d / 16. They are coarser and distinguish regions. (So it is in the tiny encoder; PROFILE shows you
# another one.)
#
# From dt comes the step $\Delta$, one number for each patch and channel. Its mean over the channels
# says where a direction *writes* (bright) and where it lets pass (dark). And from $\Delta$ and A
# follows how long a state lasts:

# %%
mixer, steps, half_lives = block.mixer, [], {}
for g, suffix in enumerate(mixer.suffixes):
    # (L, d)
    delta = F.softplus(getattr(mixer, f"dt_proj{suffix}")(features["dt"][0, g]))
    in_rows = delta.mean(dim=1)[mixer.inverse[g]]
    steps.append(
        torch.cat([in_rows[:cls], in_rows[cls + 1 :]])
        .unflatten(0, (side, side))
        .numpy()
    )
    rate = torch.exp(getattr(mixer, f"A{suffix}_log"))  # (d, N)
    # (d, N): tokens until half is left
    half = np.log(2) / (delta.mean(dim=0)[:, None] * rate)
    half_lives[DIRECTION_NAMES[g]] = (
        half.flatten().quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    )
map_grid(
    {"mean of Δ": steps}, "Where each direction writes", DIRECTION_NAMES, image=frontal
)

# %%
lasting = pd.DataFrame(
    half_lives, index=["shortest tenth, below", "median", "longest tenth, above"]
).T
lasting.round(1).rename_axis("tokens until half of the state is left")

# %% [markdown]
# A row of this grid is 12 tokens long. So the typical state reaches back one or two rows, some only a
# token or two, some over most of the 145 tokens: a set of memories from short to long.
#
# ## What it costs
#
# §3.2 of the paper: Vim has a "complexity of $O(N)$ compared to the $O(N^2)$ of the widely adopted
# Transformer". Here N is the number of tokens, not the size of the state. A scan makes one step for
# each token, attention compares each token with each. Measured on the machine that ran this notebook:
# one scan direction against one attention, both of width 128.

# %%
lengths, milliseconds = [12**2, 24**2, 48**2, 72**2], {"scan": [], "attention": []}


def cost(repeats, function, *arguments):
    function(*arguments)  # warms up
    # processor time: other programs on the machine do not count
    start = time.process_time()
    for _ in range(repeats):
        function(*arguments)
    return 1000 * (time.process_time() - start) / repeats


for length in lengths:
    u_, delta_, A_ = (
        torch.randn(1, 128, length),
        torch.rand(1, 128, length),
        -torch.rand(128, 16),
    )
    B_, q = torch.randn(1, 16, length), torch.randn(1, 8, length, 16)  # 8 heads of 16
    repeats = max(3, 20_000 // length)
    milliseconds["scan"].append(cost(repeats, selective_scan, u_, delta_, A_, B_, B_))
    milliseconds["attention"].append(
        cost(repeats, F.scaled_dot_product_attention, q, q, q)
    )
growth = {"tokens": [b / a for a, b in zip(lengths, lengths[1:], strict=False)]}
for name, times in milliseconds.items():
    growth[name] = [b / a for a, b in zip(times, times[1:], strict=False)]
index = [f"{a} → {b} tokens" for a, b in zip(lengths, lengths[1:], strict=False)]
pd.DataFrame(growth, index=index).round(1).rename_axis("grows by the factor")

# %%
curves(
    {name: (lengths, times) for name, times in milliseconds.items()},
    "tokens",
    "processor time in ms",
    "One scan and one attention of width 128",
    log=True,
)

# %% [markdown]
# **How to read it.** Both axes are logarithmic, so a power is a straight line and its exponent the
# slope. The table holds the ratios: where the tokens become 4 times as many, the scan should take
# about 4 times as long, and attention about 16 times. The shortest runs blur that a little: a fixed
# part of their time goes into the calls.
#
# **Does it matter at 145 tokens?** Count multiplications of one mixer of the base encoder: what its
# linear layers take, its four scans (3 for each token, channel and state), and what an attention
# would take in their place (2 for each pair of tokens and channel).

# %%
d, N, R = 768, 16, 48
rows = []
for size in (192, 224, 512, 1024, 2048):
    L = (size // 16) ** 2 + 1
    # in_proj, out_proj, x_proj, dt_proj
    linear = L * (2 * d * d + d * d + 4 * (d * (R + 2 * N) + R * d))
    rows.append(
        {
            "pixels": size,
            "tokens": L,
            "linear layers": linear,
            "four scans": 4 * 3 * L * d * N,
            "attention instead": 2 * L * L * d,
        }
    )
counts = pd.DataFrame(rows).set_index("pixels")
ratio = (counts["attention instead"] / counts["four scans"]).round(1)
millions = counts.assign(
    **{name: (counts[name] / 1e6).round().astype(int) for name in counts.columns[1:]}
)
millions.assign(**{"attention / scans": ratio}).rename_axis(
    "pixels; counts in millions"
)

# %% [markdown]
# At the paper's 192 pixels four scans and one attention are of the same order, and both small beside
# the linear layers. The O(N) of Mamba is an argument for **large images**: at 1024 pixels attention
# is tens of times dearer than the scans. On 192-pixel X-rays accuracy has to decide, and the paper's
# tables compare whole systems, not scan against attention inside one.
#
# ## What the paper says, and what the tiny preset changes
#
# - The paper calls the backbone *Vim* and draws an *RMS Norm* in Fig. 2. The released encoder, and
#   this kit with it, has LayerNorm and **four** directions whose mean is taken; Vim proper has two.
# - In the code released with EMRRG every block runs the *last* block's mixer once the X adapter is
#   switched on: the other eleven stay unused. Here each block runs its own.
# - The tiny preset: d = 128 instead of 768, 4 blocks instead of 12. N = 16, the convolution over 4
#   tokens and the four directions are the paper's.

# %%
glossary("X", "Z", "dt", "Δ", "B", "C", "A", "D", "N", "M")

# %% [markdown]
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Half-life *(easy, 5 minutes)*
#
# After how many tokens is half of a state left, if nothing new is written? `A` is the rate (negative),
# `delta` the step; both are plain numbers, and so is your answer (it need not be whole).
#
# <details><summary>Hint</summary>
#
# After *n* tokens $e^{n \Delta A}$ is left. Set that to ½ and solve for *n*.
#
# </details>


# %%
def half_life(A, delta):
    """Tokens until exp(n · delta · A) = 1/2."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb02 import check_1

check_1(half_life)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# import math
#
#
# def half_life(A, delta):
#     return math.log(2) / (-A * delta)
# ```
#
# New weights start with rates 1 … 16 and steps between 0.001 and 0.1: half-lives from less than
# a token to about 700. Training only has to choose among memories that are already there.
#
# </details>
#
# ### Exercise 2 · The exact step *(easy, 5 minutes)*
#
# Write the exact discretisation (*zero-order hold*): from `A`, `B`, `delta` to `a` and `b`. The check
# follows the differential equation in millions of tiny steps and compares.
#
# <details><summary>Hint</summary>
#
# Both formulas are in the section on discretisation. `math.exp` will do: these are plain numbers.
#
# </details>


# %%
def zero_order_hold(A, B, delta):
    """Returns a, b of h ← a·h + b·x,
    exact for an x that is constant during the step."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb02 import check_2

check_2(zero_order_hold)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# import math
#
#
# def zero_order_hold(A, B, delta):
#     a = math.exp(delta * A)
#     return a, (a - 1) / A * B
# ```
#
# </details>
#
# ### Exercise 3 · Read by columns *(medium, 10 minutes)*
#
# Write the column order for a grid of `side` × `side` patches (side even): a tensor of side² + 1 token
# numbers. Token numbers count along the rows, with cls at side² // 2; so patches behind it are
# numbered one higher. cls must be read in the middle.
#
# <details><summary>Hint</summary>
#
# Make the token numbers in row order, take cls out, lay the rest out as a square, transpose, put cls
# back. For a 2 × 2 grid: tokens 0 1 | 3 4 and cls = 2, so the answer is [0, 3, 2, 1, 4].
#
# </details>


# %%
def column_order(side):
    """(side² + 1,) token numbers in the order in which they are read."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb02 import check_3

check_3(column_order)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def column_order(side):
#     middle = side * side // 2
#     tokens = torch.arange(side * side + 1)
#     square = torch.cat([tokens[:middle], tokens[middle + 1:]]).reshape(side, side)
#     columns = square.T.flatten()
#     return torch.cat([columns[:middle], tokens[middle:middle + 1], columns[middle:]])
# ```
#
# The released code finds the cls token at (M + 1) // 2 in one place and at M // 2 in another. For
# even M these are the same; for odd M it reads a wrong grid without a word.
#
# </details>
#
# ### Exercise 4 · Many steps at once *(hard, 10 minutes)*
#
# One loop step is the map $h \mapsto a\,h + b$. Two in a row are again such a map. Write how two
# pairs (a, b) combine into one. With it a GPU needs no loop over L steps: it combines neighbours,
# then pairs of pairs, and is done after log₂ L rounds.
#
# <details><summary>Hint</summary>
#
# Put the first map's result into the second: $a_2 (a_1 h + b_1) + b_2$. Sort by what multiplies h.
#
# </details>


# %%
def combine(first, second):
    """(a1, b1) and then (a2, b2) → the pair (a, b) that does both."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb02 import check_4

check_4(combine)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def combine(first, second):
#     (a1, b1), (a2, b2) = first, second
#     return a2 * a1, a2 * b1 + b2
# ```
#
# That this works for any grouping (it is *associative*) is what makes a recurrence parallel.
#
# </details>

# %% [markdown]
# ## Summary
#
# - A state that fades and is written to: $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t$. The step
#   $\Delta_t$ decides between keeping and overwriting; it is computed **from the token**: selection.
# - Four scans, along rows and columns both ways; their mean reaches every patch, loudest along a cross.
# - X, Z, dt, B, C are five different features made by two matrices, row block by row block. That is
#   where Partial LoRA will act.
# - The scan grows like N, attention like N². At 192 pixels that decides little, at 1024 much.
#
# You can now compute a mixer by hand, put its features back on the X-ray, and say what O(N) is worth
# at a given size. The code: [the scan](../emrrg_lib/vision/scan.py),
# [the mixer](../emrrg_lib/vision/mamba.py), [the encoder](../emrrg_lib/vision/mamba.py).
#
# **Previous:** [← 01 patch embedding](01_patch_embedding.ipynb) · **Next:**
# [03 Partial LoRA →](03_partial_lora.ipynb)
