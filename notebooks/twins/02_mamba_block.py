# %% [markdown]
# # 02 · The Mamba block
#
# **Goal.** Let the tokens exchange what they know. You write the selective scan, the heart of Mamba,
# in small steps, run it over an image in four directions, and look at what a trained block holds
# while it works: X, Z, dt, B and C, on a phantom and on a real chest.
#
# | | |
# |---|---|
# | **You need** | notebook 01; the exponential function; what a convolution along a sequence is |
# | **Time** | about 40 minutes of reading; 120 minutes for exercises 1 to 9, 40 for the bonus task |
# | **CPU** | 1 core, 1 GB of memory, 1 minute to run (2 the first time: the scan is compiled) |
# | **GPU** | not needed; nothing is downloaded |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.2, Fig. 2 |
#
# **You will be able to**
#
# - say how long a state lasts, from its rate and its step (exercises 1 and 2);
# - write a selective scan: write, fade, read, for a batch of sequences (exercises 3 to 5);
# - read an image in four directions and bring the results together (exercises 6 and 7);
# - explain why a scan need not be a loop, and compute it in chunks (exercises 8 and 9);
# - derive the gradients of a scan by hand (exercise 10, bonus).
#
# **Contents.** [A memory of one number](#A-memory-of-one-number) ·
# [From a rate to a step](#From-a-rate-to-a-step) · [Selection](#Selection) ·
# [Write the scan](#Write-the-scan) · [Four directions](#Four-directions) ·
# [The mixer step by step](#The-mixer-step-by-step) · [Who hears whom](#Who-hears-whom) ·
# [The five features](#The-five-features) · [A real chest](#A-real-chest) ·
# [Why the scan is fast](#Why-the-scan-is-fast) · [What it costs](#What-it-costs) ·
# [Exercises](#Exercises) · [Summary](#Summary)

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
# **C**. They steer the scan. Then come *out_proj*, the residual sum, and an MLP. We begin with the scan.
#
# ## A memory of one number
#
# Read numbers $x_1, x_2, \dots$ one after the other and keep a *state* $h$:
#
# $$h_t = a\,h_{t-1} + b\,x_t \qquad y_t = c\,h_t$$
#
# At each step the old state is multiplied by $a$, so with $0 < a < 1$ it fades; the new number is added.


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
# ## From a rate to a step
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
# For small steps the shortcut loses nothing. For large steps the event is written too strongly, by a
# factor that a learned B can make up for. That is why a shortcut will do. More important is what
# $\Delta$ *does*:
#
# - $\Delta$ near 0: $a = 1$ and $b = 0$. The state stays as it is, the number is **ignored**.
# - $\Delta$ large: $a = 0$. The past is **forgotten**, the number is written.
#
# Each exercise has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Half-life *(easy, 5 minutes)*
#
# **Why.** How far a block can look back is nowhere in its settings; it follows from A and Δ.
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
# </details>
#
# ### Exercise 2 · The exact step *(easy, 5 minutes)*
#
# **Why.** Mamba takes a shortcut here. Who knows the exact step knows what it costs.
#
# Write the exact discretisation (*zero-order hold*): from `A`, `B`, `delta` to `a` and `b`. The check
# follows the differential equation in millions of tiny steps and compares.
#
# <details><summary>Hint</summary>
#
# Both formulas are in the section above. `math.exp` will do: these are plain numbers.
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
# ## Selection
#
# In older models $A, B, \Delta$ are constants, and every number is treated alike. Mamba's idea is
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
# can do that. In the real block nobody hands out `matters`: two matrices compute the step from the
# token. They come below.
#
# ## Write the scan
#
# Now for tokens of width d instead of numbers. Every channel has a state of N numbers (N = 16), each
# with its own rate; B and C are shared by all channels; D is a shortcut past the state:
#
# $$h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t x_t \otimes B_t \qquad y_t = h_t\,C_t + D \odot x_t$$
#
# So the whole state is a table of d × N numbers. For one of them, number *n* of channel *k*, the line
# is the recurrence from above:
#
# $$h_{kn} \leftarrow e^{\Delta_k A_{kn}}\,h_{kn} + \Delta_k x_k B_n \qquad
# y_k = \sum_n h_{kn} C_n + D_k x_k$$
#
# | | shape | part in the scan |
# |---|---|---|
# | x | (L, d) | the tokens |
# | Δ | (L, d) | a step for each token and channel |
# | A | (d, N) | a rate for each number of the state, negative |
# | B | (L, N) | how a token is **written** into the N numbers |
# | C | (L, N) | how the N numbers are **read** |
# | D | (d,) | how much of the token goes past the state |
#
# You write it in three steps. Each is the step before plus one idea, and each is checked at once.
#
# ### Exercise 3 · Write *(medium, 10 minutes)*
#
# **Why.** The state of Mamba is small (16 numbers for each channel). What is put in, and how, decides
# what can be found later.
#
# First a memory that never fades. Token *t* writes the table $\Delta_t x_t \otimes B_t$ (d × N): entry
# *(k, n)* is $\Delta_{tk} x_{tk} B_{tn}$. The state is the sum of all tables so far, token *t*
# included. Return the state after each token.
#
# <details><summary>Hint</summary>
#
# `(delta * x)[:, :, None] * B[:, None, :]` has the shape (L, d, N). Then add up along the tokens:
# `cumsum(0)`, or a loop with a list and `torch.stack`.
#
# </details>


# %%
def fill(x, delta, B):
    """x, delta (L, d); B (L, N) → the states (L, d, N) of a memory that never fades."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb02 import check_3

check_3(fill)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def fill(x, delta, B):
#     written = (delta * x)[:, :, None] * B[:, None, :]  # (L, d, N)
#     return written.cumsum(0)
# ```
#
# </details>
#
# ### Exercise 4 · Fade *(medium, 15 minutes)*
#
# **Why.** Forgetting makes room. And since the step is the token's own, the token decides how much
# is forgotten.
#
# Now every number of the state has its rate: *before* token *t* is written, the old state is
# multiplied by $e^{\Delta_t A}$ (d × N), with the step of token *t*. Return the state after each token.
#
# <details><summary>Hint</summary>
#
# No `cumsum` any more: loop over the tokens, with `h = torch.zeros_like(A)` at first. The step of one
# token is (d,), A is (d, N): `delta[t][:, None] * A`. First fade, then write.
#
# </details>


# %%
def fade(x, delta, A, B):
    """x, delta (L, d); A (d, N); B (L, N) → the states (L, d, N)."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb02 import check_4

check_4(fade)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def fade(x, delta, A, B):
#     h, states = torch.zeros_like(A), []
#     for t in range(len(x)):
#         decay = torch.exp(delta[t][:, None] * A)  # (d, N)
#         h = decay * h + (delta[t] * x[t])[:, None] * B[t]
#         states.append(h)
#     return torch.stack(states)
# ```
#
# With A = 0 this is exercise 3.
#
# </details>
#
# ### Exercise 5 · The selective scan *(hard, 25 minutes)*
#
# **Why.** This is the function that Mamba is built on. The encoder of EMRRG calls it four times in
# each of its blocks, and everything else in the block prepares its arguments.
#
# Add the reading: $y_t = h_t\,C_t + D \odot x_t$, a sum over the N numbers of each channel, plus the
# shortcut. And work on a batch: `x`, `delta`, `B`, `C` get a first axis, the study; A and D are weights
# and have none. Keep only the current state, not all of them: that is what the real code does.
#
# The check goes upwards: input only (A = 0, B = C = 1, D = 0), decay, B and C of each token, D, several
# studies, and last that nothing looks ahead.
#
# <details><summary>Hint</summary>
#
# The state of a batch is (b, d, N): `torch.zeros(len(x), *A.shape)`. One token of all studies is
# `x[:, t]`, (b, d). Write with `(delta[:, t] * x[:, t])[..., None] * B[:, t, None]`, read with
# `(h * C[:, t, None]).sum(-1)`, which is (b, d). At the end: `torch.stack(ys, dim=1)`.
#
# </details>


# %%
def my_scan(x, delta, A, B, C, D):
    """x, delta (b, L, d); A (d, N); B, C (b, L, N); D (d,) → y (b, L, d)."""
    return None  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb02 import check_5

check_5(my_scan)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def my_scan(x, delta, A, B, C, D):
#     h = torch.zeros(len(x), *A.shape)  # (b, d, N)
#     y = []
#     for t in range(x.shape[1]):
#         x_t, step = x[:, t], delta[:, t]  # (b, d)
#         h = torch.exp(step[..., None] * A) * h  # fade
#         h = h + (step * x_t)[..., None] * B[:, t, None]  # write
#         y.append((h * C[:, t, None]).sum(-1) + D * x_t)  # read
#     return torch.stack(y, dim=1)
# ```
#
# Eight lines. Vim, VMamba and MambaXray-VL differ in what they do around them.
#
# </details>
#
# ## The real one is the same
#
# The library's `selective_scan` takes the same letters, with the channels before the time, as the
# original CUDA code does. It has four backends: a loop like yours (`reference`), compiled loops for
# the CPU (`cpu`), the kit's own GPU kernels (`triton`), and the CUDA kernels of *mamba-ssm* (`cuda`).
# `scan` below only exchanges the axes.
# With one channel, one number of state and a constant step it must be the memory from the beginning:


# %%
from emrrg_lib.vision.scan import selective_scan


def scan(x, delta, A, B, C, D, backend="auto"):
    """The library's scan, time before channels: x, delta (b, L, d) → y (b, L, d)."""
    return selective_scan(x.mT, delta.mT, A, B.mT, C.mT, D, backend=backend).mT


one = torch.ones(1, 16, 1)
signal_of_two = torch.zeros(1, 16, 1)
signal_of_two[0, [2, 9], 0] = torch.tensor([1.0, 0.5])
rate, step = torch.tensor([[-0.5]]), 0.3
y = scan(signal_of_two, step * one, rate, one, one, torch.zeros(1))
by_hand = recur(signal_of_two[0, :, 0], a=np.exp(step * -0.5), b=step)
print(f"largest difference: {(y[0, :, 0] - by_hand).abs().max():.1e}")
assert torch.allclose(y[0, :, 0], by_hand, atol=1e-4)

# %% [markdown]
# And yours beside the library's, on random tokens as many as in an X-ray:

# %%
draw = torch.Generator().manual_seed(0)
x, delta = (
    torch.randn(2, 145, 32, generator=draw),
    torch.rand(2, 145, 32, generator=draw),
)
A, D = -torch.rand(32, 16, generator=draw), torch.ones(32)
B, C = torch.randn(2, 2, 145, 16, generator=draw)
yours = my_scan(x, delta, A, B, C, D)
if yours is None:
    print("Write exercise 5, then this cell compares your scan with the library's.")
else:
    for backend in ("reference", "auto"):
        theirs = scan(x, delta, A, B, C, D, backend)
        print(f"{backend:>9}: largest difference {(theirs - yours).abs().max():.1e}")

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
print("columns:", scan_orders(4)[2].tolist(), "\n(a grid of 4 × 4; token 8 is cls)")
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
# ## The mixer step by step
#
# Now everything between norm and residual sum in the lit box, with the weights of a trained block,
# for one direction: the columns. What enters is `u`, the normed tokens of the X-ray of notebook 00.
#
# **Step 1: X and Z.** *in_proj* is one matrix. Its upper rows make X, the others Z.

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
m = block.mixer
u = block.norm1(encoder.embed(pixels))  # what enters the first mixer
X, Z = (u @ m.in_proj.weight.T).chunk(2, dim=-1)
print("u", tuple(u.shape), "→ X", tuple(X.shape), "and Z", tuple(Z.shape))

# %% [markdown]
# **Step 2: the order, and a look back.** X is brought into the order of the columns. Then comes a
# short convolution: each channel of a token is mixed with that of its three predecessors, with SiLU,
# x · sigmoid(x), after it. It is there for what follows: a token that decides how far to open the memory
# should know a little of what came just before. Three zeros in front keep it causal.

# %%
order = m.orders[2]  # (L,) the columns
in_order = F.pad(X[:, order].mT, (3, 0))  # (B, d, 3 + L)
conv = m.conv1d_c
x = F.silu(F.conv1d(in_order, conv.weight, conv.bias, groups=m.dim)).mT
print("X in order", tuple(in_order.shape), "→ x", tuple(x.shape), "· kernel", end=" ")
print(tuple(conv.weight.shape))

# %% [markdown]
# **Step 3: the token steers the scan.** *x_proj* makes dt, B and C of each token. B and C are N numbers
# each. A step is wanted for each of the d channels. A matrix from d to d would cost d² weights in each
# direction. So dt is only R = d / 16 numbers (the *dt_rank*), and *dt_proj* widens them to d: a matrix of
# low rank, as in LoRA. Softplus, log(1 + eˣ), makes the step positive.

# %%
dt, B, C = m.x_proj_c(x).split([m.dt_rank, m.d_state, m.d_state], dim=-1)
delta = F.softplus(m.dt_proj_c(dt))
for name, value in {"dt": dt, "B": B, "C": C, "Δ": delta}.items():
    print(
        f"{name:>2} {tuple(value.shape)}  from {value.min():.3f} to {value.max():.3f}"
    )
for d, R in ((m.dim, m.dt_rank), (768, 48)):
    print(f"d = {d}: R = {R}, {2 * d * R:,} weights instead of d² = {d * d:,}")

# %% [markdown]
# **Step 4: scan, go back, gate.** A is stored as $\log(-A)$: whatever training does, the rate stays
# negative and the state fades. The result is brought back to row order and multiplied by SiLU(Z): Z says
# how much of what was found this token takes.

# %%
A = -torch.exp(m.A_c_log)  # (d, N), negative
y = scan(x, delta, A, B, C, m.D_c)
back = order.argsort()  # place of each token in the order
columns_found = y[:, back] * F.silu(Z)
print("y", tuple(y.shape), "→ found by the columns", tuple(columns_found.shape))

# %% [markdown]
# **The whole mixer** is these four steps in each direction, the mean of the four, and *out_proj*.
# *in_proj* and *out_proj* are shared; convolution, *x_proj*, *dt_proj*, A and D exist **four times**
# (notebook 03 needs that when it counts).


# %%
def one_direction(X, Z, m, g):
    """What direction g finds, gated, in row order: (B, L, d) → (B, L, d)."""
    order, suffix = m.orders[g], m.suffixes[g]  # "", "_b", "_c", "_c_b"
    names = ("conv1d", "x_proj", "dt_proj")
    conv, x_proj, dt_proj = (getattr(m, name + suffix) for name in names)
    x = F.pad(X[:, order].mT, (3, 0))
    x = F.silu(F.conv1d(x, conv.weight, conv.bias, groups=m.dim)).mT
    dt, B, C = x_proj(x).split([m.dt_rank, m.d_state, m.d_state], dim=-1)
    A = -torch.exp(getattr(m, f"A{suffix}_log"))
    y = scan(x, F.softplus(dt_proj(dt)), A, B, C, getattr(m, f"D{suffix}"))
    return y[:, order.argsort()] * F.silu(Z)


def mix(u, m):
    """u (B, L, d) → (B, L, d), and what each direction found, (4, B, L, d)."""
    X, Z = (u @ m.in_proj.weight.T).chunk(2, dim=-1)
    found = torch.stack([one_direction(X, Z, m, g) for g in range(4)])
    return found.mean(dim=0) @ m.out_proj.weight.T, found


# %%
ours, found = mix(u, m)
theirs, features = m(u, return_features=True)
print(f"mixer by hand: largest difference {(ours - theirs).abs().max():.1e}")
assert torch.allclose(ours, theirs, atol=1e-3)
assert torch.allclose(found[2], columns_found, atol=1e-5)

# %% [markdown]
# ## Who hears whom
#
# Take one patch away (set its token to 0) and see how much the result of another changes, for each
# direction alone. There are 144 patches to take away: one batch of 144. The listeners are a patch and
# the cls token.

# %%
patch = torch.arange(M)
row, column = side // 2, side // 3  # row 6, column 4 of a 12 × 12 grid
listener = row * side + column
listeners = {f"patch {listener}": listener + (listener >= cls), "cls": cls}
without = u.repeat(M, 1, 1)
# in image i of the batch, patch i is missing
without[patch, patch + (patch >= cls)] = 0.0
_, heard = mix(without, m)  # (4, M, M + 1, d)

# %%
from emrrg_lib.interpret.figures_vision import DIRECTION_NAMES, map_grid

maps = {}
for name, at in listeners.items():
    # (4, M): the change when patch i is taken away
    change = (heard[:, :, at] - found[:, :, at]).norm(dim=-1)
    counts, together = (change > 0).sum(dim=1).tolist(), (change > 0).any(dim=0).sum()
    print(f"{name:>8} hears {counts} patches in the four directions, {together} in all")
    loud = torch.cat([change, change.sum(0, keepdim=True)]) / change.max()
    loud = torch.log10(loud.clamp(min=1e-3))
    maps[name] = list(loud.unflatten(1, (side, side)).numpy())
title = "Whom a token hears in the first block (log₁₀; -3: a thousandth or less)"
map_grid(maps, title, [*DIRECTION_NAMES, "together"], image=frontal, bars=True)

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


# %% [markdown]
# ## The five features
#
# The paper's central idea, Partial LoRA, acts on *one* of the features of a block ("numerous
# intermediate features with distinct properties", §3.3). `return_features=True` hands them out, in
# scan order. Put back in their places they are pictures:


# %%
def in_place(feature, g, mixer=m):
    """(1, 4, L, n) in scan order → (n, side, side) of direction g, cls left out."""
    in_rows = feature[0, g, mixer.inverse[g]]  # (L, n) in row order
    patches = torch.cat([in_rows[:cls], in_rows[cls + 1 :]])  # (M, n)
    return patches.T.unflatten(1, (side, side))


for name, value in features.items():
    print(name, tuple(value.shape))
strongest, rows = {}, {}
for name, value in features.items():
    maps = in_place(value, 0)
    strongest[name] = maps.flatten(1).var(dim=1).argsort(descending=True)[:5]
    rows[name] = maps[strongest[name]].numpy()
title = "First block, direction “rows”: the five channels of each that vary most"
map_grid(rows, title, image=frontal, bars=True)

# %% [markdown]
# **How to read it.** The maps of a line share one scale, and the bar at its end shows it. X and Z are as
# wide as the token and still look like the chest: lungs, heart, border. B and C have 16 channels each, dt
# has d / 16. They are coarser and distinguish regions. (So it is in the tiny encoder; PROFILE shows you
# another one.)
#
# They differ in where they come from, too: X and Z are made by *in_proj*, directly from the token; dt, B
# and C are made by *x_proj*, from X after the convolution. So a change of X changes dt, B and C with it,
# and a change of B changes only how a token is written. That is a reason to expect that it matters which
# one is tuned. It does not say which is best. Notebook 03 tries that.
#
# **Steps and half-lives.** From dt comes the step $\Delta$. Its mean over the channels says where a
# direction *writes* (bright) and where it lets pass (dark):


# %%
def steps_of(features, mixer=m):
    """The mean step of each direction, in place: (4, side, side)."""
    maps = []
    for g, suffix in enumerate(mixer.suffixes):
        delta = F.softplus(getattr(mixer, f"dt_proj{suffix}")(features["dt"]))
        maps.append(in_place(delta.mean(dim=-1, keepdim=True), g)[0].numpy())
    return maps


title = "Where each direction writes"
map_grid({"mean of Δ": steps_of(features)}, title, DIRECTION_NAMES, frontal, bars=True)

# %% [markdown]
# **Where the memories come from.** A new block does not begin at random. Its rates are −1, −2, …, −16 in
# every channel. Its steps begin between 0.001 and 0.1: *dt_proj* has a **bias**, and it is set so that
# softplus(bias) is spread evenly (in the logarithm) over that range. Without it all steps would begin
# near softplus(0) = 0.69, and half of every state would be gone after one token. Half-lives of a new and of
# the trained block, in tokens (a row of this grid has 12):


# %%
def half_lives(A_log, delta):
    """Tokens until half is left, of every number of the state: (d, N)."""
    return np.log(2) / (delta[:, None] * torch.exp(A_log))


torch.manual_seed(0)
new = type(m)(m.dim, 4, side)  # a mixer with fresh weights
trained = F.softplus(m.dt_proj(features["dt"][0, 0])).mean(dim=0)  # rows
cases = {
    "new block": half_lives(new.A_log, F.softplus(new.dt_proj.bias)),
    "new, without the bias": half_lives(new.A_log, torch.full((m.dim,), 0.6931)),
    "trained block, mean step": half_lives(m.A_log, trained),
}
shares = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
lasting = {
    name: life.flatten().quantile(shares).tolist() for name, life in cases.items()
}
names = ["shortest", "a tenth is below", "median", "a tenth is above", "longest"]
pd.DataFrame(lasting, index=names).T.round(1)

# %% [markdown]
# So a block has a set of memories from short to long from the beginning, and training chooses among
# them. In the trained block the typical state reaches back one or two rows, some only a token or two,
# some over most of the 145 tokens.
#
# ## A real chest
#
# Everything so far was a phantom, and the tiny encoder has seen nothing else. What does it do with a real
# X-ray? The kit brings eighteen, from the data set ChestX-ray14 of the **NIH Clinical Center**
# ([source, credit and terms](../data/nih_samples/README.md)). This one has the label "No Finding". The
# channels are those of the picture above, with the phantom beside it.

# %%
from emrrg_lib.data.images import read_view
from emrrg_lib.data.nih_cxr14 import nih_samples

samples = nih_samples()
real = read_view(samples[0].images[0], encoder.image_size)[..., 0]  # (H, W)
real_pixels, _ = study_set.pixels([[real]], settings)
_, real_features = m(block.norm1(encoder.embed(real_pixels)), return_features=True)
images, rows = {}, {}
for name in features:
    for kind, values, xray in (
        ("phantom", features, frontal),
        ("real", real_features, real),
    ):
        key = f"{name}, {kind}"
        images[key] = xray
        rows[key] = in_place(values[name], 0)[strongest[name][:4]].numpy()
map_grid(
    rows, "The same channels of a phantom and of a real chest", (), images, bars=True
)

# %%
steps = {"phantom": steps_of(features), "real": steps_of(real_features)}
pictures = {"phantom": frontal, "real": real}
title = "Where each direction writes: mean of Δ"
map_grid(steps, title, DIRECTION_NAMES, pictures, bars=True)

# %% [markdown]
# **How to read it.** The first block works alike on both. X and Z show lungs, chest and the dark border;
# on the real X-ray the lungs are paler, as they are in the image itself. Such maps follow brightness and
# edges, and these a real X-ray has too. The steps are of the same size, but at other places: on the real
# one the first direction writes most along the shoulders, where this image has its strongest edge.
#
# Does the encoder know that this is another world? Take its output, averaged over the tokens, for eighteen
# phantoms and the eighteen real X-rays. For each image find the most similar one among the other 35.

# %%
phantoms = [draw_study(11, i, encoder.image_size).images[0] for i in range(18)]
both, _ = study_set.pixels([[each] for each in phantoms] + samples, settings)
pooled = F.normalize(encoder(both).mean(dim=1), dim=1)  # (36, d)
alike = (pooled @ pooled.T).fill_diagonal_(-1)
is_real = torch.arange(36) >= 18
nearest = is_real[alike.argmax(dim=1)]
for name, group in (("phantom", ~is_real), ("real", is_real)):
    same = int((nearest[group] == is_real[group]).sum())
    print(f"{same} of 18: the nearest image of a {name} one is {name} too")
within, across = alike[is_real][:, is_real], alike[is_real][:, ~is_real]
within = within[within > -1]
print(
    f"cosine of two real ones {within.mean():.3f}, real and phantom {across.mean():.3f}"
)

# %% [markdown]
# It does know. For every real X-ray the nearest image is a real one, and a real one and a phantom are much
# less alike than two real ones.
#
# | what such a model **can** tell | what it **cannot** tell |
# |---|---|
# | where an image is bright, dark, or has an edge | whether a bright place is an effusion, or a heart |
# | that the image is unlike all it was trained on | what to do with an image of that kind |
# | the words of its phantoms, fluently | which of these words fit this patient |
#
# The words of its language model were tied to phantom tokens only. Try it: `emrrg generate --run
# data/tiny/run --images data/nih_samples/00001323_001.jpg` writes a fluent report with findings for the
# X-ray above, whose label is "No Finding". That report means nothing. To know more, one has to train on
# real images with real reports, and to test on other patients (notebook 05); eighteen images cannot
# settle it.
#
# ## Why the scan is fast
#
# Your scan is a loop over L tokens. A GPU has thousands of arithmetic units, and such a loop keeps them
# waiting. Three ideas remove it.
#
# **1. A scan need not be a loop.** One step is the map $h \mapsto a\,h + b$. Two steps in a row are such a
# map again. So pairs of steps can be joined, then pairs of pairs, all at the same time: log₂ 145, that is
# 8 rounds, instead of 145 steps. This is a *parallel scan*; exercise 8 writes its core.
#
# **2. The state never leaves the chip.** The states of all tokens, (L, d, N), are N = 16 times as large as
# x. To write them to the GPU's main memory and read them back takes longer than to compute them. Mamba's
# kernel keeps the state in the small fast memory of the chip, writes only y, and computes the states
# *again* in the backward pass. For the base encoder and one image:

# %%
L, d, N, blocks = 145, 768, 16, 12
rows = {
    "x of one scan": L * d,
    "all states of one scan": L * d * N,
    "x of all scans": 4 * blocks * L * d,
    "all states of all scans": 4 * blocks * L * d * N,
}
megabytes = {name: [f"{4 * count / 1e6:,.1f}"] for name, count in rows.items()}
pd.DataFrame(megabytes, index=["MB in float32"]).T

# %% [markdown]
# **3. Unrolled, a scan is a masked attention.** For one channel, y = M x with a table of all pairs of
# tokens:
#
# $$M_{ts} = \sum_n C_{tn}\; e^{A_n (\Delta_{s+1} + \dots + \Delta_t)}\; B_{sn}\,\Delta_s
# \quad (s \le t), \qquad 0 \text{ above the diagonal}$$
#
# C asks, B answers, and the decay says how much is left on the way: the form of a causal attention, with
# the decay in the place of the softmax. As one table it costs L². In *chunks* it is cheap: inside a
# chunk a table of pairs, which a GPU multiplies quickly, and between chunks only the state is handed
# on. Mamba-2 works so, and exercise 9 does it. The tables of three channels of the trained block, columns:


# %%
def pairs(k):
    """M of channel k, (L, L), from the A, B, C, delta of the mixer's steps above."""
    since = delta[0, :, k].cumsum(0)
    gap = since[:, None] - since[None]  # (t, s): the time from token s to token t
    fading = torch.exp(gap.clamp(min=0)[..., None] * A[k])  # (t, s, N)
    table = (C[0][:, None] * fading * B[0][None]).sum(-1) * delta[0, :, k]
    return table.tril()  # nothing looks ahead


read = pairs(5) @ x[0, :, 5] + m.D_c[5] * x[0, :, 5]
print(f"largest difference to the scan: {(read - y[0, :, 5]).abs().max():.1e}")
assert torch.allclose(read, y[0, :, 5], atol=1e-4)
rows = []
for k in (5, 40, 90):
    part = pairs(k)[:36, :36].abs()
    rows.append(torch.log10((part / part.max()).clamp(min=1e-3)).numpy())
title = "|M|, log₁₀, of the first 36 tokens: token t (down) reads token s (across)"
map_grid({"three channels": rows}, title, bars=True)

# %% [markdown]
# **How to read it.** Row *t* shows which earlier tokens reach output *t*. Dark upright lines are tokens with
# a small step, or with a B that little fits the C of later ones: they are hardly written, and hardly any
# later token hears them. Dark level lines are tokens whose C fits little of what is in the state. That is
# selection, seen as a picture.
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

# %%
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

# %%
counts = pd.DataFrame(rows).set_index("pixels")
ratio = (counts["attention instead"] / counts["four scans"]).round(1)
millions = counts.assign(
    **{name: (counts[name] / 1e6).round().astype(int) for name in counts.columns[1:]}
)
millions.assign(**{"attention / scans": ratio}).rename_axis(
    "pixels; counts in millions"
)

# %% [markdown]
# At the paper's 192 pixels four scans and one attention are of the same order, and both are small beside
# the linear layers. The O(N) of Mamba is an argument for **large images**: at 1024 pixels attention
# is tens of times as expensive as the scans. On 192-pixel X-rays accuracy has to decide, and the paper's
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
glossary("X, Z, dt, W (dt_proj), Δ, B, C, A, D, N, R, M")

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 5 are above: half-life, exact step, and the scan in three steps. Here are the orders, the
# four directions, and the ways around the loop.
#
# ### Exercise 6 · Read by columns *(medium, 10 minutes)*
#
# **Why.** A wrong order raises no error; it only makes the model worse.
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
# Check 6
from emrrg_lib.course.checks.nb02 import check_6

check_6(column_order)

# %% [markdown]
# <details><summary>Solution 6</summary>
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
# even M these are the same; for odd M it reads a wrong grid without an error.
#
# </details>
#
# ### Exercise 7 · Four directions *(medium, 15 minutes)*
#
# **Why.** One direction leaves half of the image unheard. The mean of four makes an image model of a
# sequence model.
#
# `X` (L, d) holds tokens in row order, `orders` (4, L) the token numbers in the order of each direction.
# `scan(g, x)` reads tokens that are already in the order of direction `g` and returns as many, in the
# same order. Write the mix: read each direction in its order, bring it back to row order, take the mean.
#
# <details><summary>Hint</summary>
#
# `X[order]` puts the tokens into an order. The way back is `order.argsort()`: the place of each token
# in the order. (`order` itself is the way back only for orders that undo themselves.)
#
# </details>


# %%
def four_directions(X, orders, scan):
    """X (L, d), orders (4, L), scan(g, tokens) → (L, d), the mean in row order."""
    return None  # your code


# %%
# Check 7
from emrrg_lib.course.checks.nb02 import check_7

check_7(four_directions)

# %% [markdown]
# <details><summary>Solution 7</summary>
#
# ```python
# def four_directions(X, orders, scan):
#     found = []
#     for g, order in enumerate(orders):
#         y = scan(g, X[order])
#         found.append(y[order.argsort()])
#     return torch.stack(found).mean(dim=0)
# ```
#
# Rows, rows backwards and columns undo themselves: reversing twice, or transposing a square twice, changes
# nothing. Columns backwards do not. So the mistake "back by the order itself" damages one direction of four.
#
# </details>
#
# ### Exercise 8 · Two steps as one *(medium, 10 minutes)*
#
# **Why.** This is the whole reason why a recurrence can run in parallel.
#
# One step is the map $h \mapsto a\,h + b$. Two in a row are again such a map. Write how two pairs (a, b)
# combine into one.
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
# Check 8
from emrrg_lib.course.checks.nb02 import check_8

check_8(combine)

# %% [markdown]
# <details><summary>Solution 8</summary>
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
#
# ### Exercise 9 · In chunks *(hard, 25 minutes)*
#
# **Why.** Fast code for GPUs looks like this: much arithmetic at once, little handed on.
#
# Write the scan of one sequence in chunks of `size` tokens. Loop over the chunks. Inside a chunk there is
# **no loop over its tokens**: use the table of pairs from "Why the scan is fast", for all channels at
# once. Hand the state on from chunk to chunk. The last chunk may be shorter.
#
# <details><summary>Hint</summary>
#
# In a chunk, with `since = delta.cumsum(0)` (n, d): the state after token t is the sum over s ≤ t of
# exp((since[t] − since[s]) A) · Δ_s x_s B_s, a table (n, n, d, N), plus exp(since[t] A) times the state in
# which the chunk began. Take the difference *before* the exp: a quotient of two products of decays
# becomes 0 / 0 where the decay is strong. Above the diagonal the difference is negative and exp could
# overflow: `clamp(min=0)` first, then a mask with `tril`.
#
# </details>


# %%
def scan_in_chunks(x, delta, A, B, C, D, size):
    """x, delta (L, d); A (d, N); B, C (L, N); D (d,) → y (L, d)."""
    return None  # your code


# %%
# Check 9
from emrrg_lib.course.checks.nb02 import check_9

check_9(scan_in_chunks)

# %% [markdown]
# <details><summary>Solution 9</summary>
#
# ```python
# def scan_in_chunks(x, delta, A, B, C, D, size):
#     h, y = torch.zeros_like(A), []
#     for start in range(0, len(x), size):
#         part = slice(start, start + size)
#         since = delta[part].cumsum(0)  # (n, d)
#         gap = (since[:, None] - since[None]).clamp(min=0)  # (n, n, d): from s to t
#         past = torch.ones(len(since), len(since)).tril()[..., None, None]
#         fading = past * torch.exp(gap[..., None] * A)  # (n, n, d, N)
#         written = (delta * x)[part][..., None] * B[part][:, None]  # (n, d, N)
#         states = (fading * written).sum(dim=1) + torch.exp(since[..., None] * A) * h
#         y.append((states * C[part][:, None]).sum(-1))
#         h = states[-1]
#     return torch.cat(y) + D * x
# ```
#
# Larger chunks: fewer steps one after the other, but a table that grows with the square of the size. Real
# kernels take 64 to 256 tokens.
#
# </details>
#
# ### Exercise 10 · The way back *(bonus, hard, 40 minutes)*
#
# **Why.** The library's CPU kernels have a backward of their own, because autograd would store every
# state. Who has derived it once knows what a training has to remember.
#
# `g` (L, d) is the gradient of a loss with respect to y. Return its gradients with respect to x, delta, A,
# B, C and D, in this order. (With autograd it is two lines; the task is to do without.) The check
# goes through them from the easiest to the hardest: D, C, B, x, delta, A.
#
# <details><summary>Hint</summary>
#
# Keep the state before each token in a forward pass. Then go from the last token to the first with `gh`,
# the gradient with respect to h_t: it is gh of token t + 1, faded by the decay of token t + 1, plus
# g_t ⊗ C_t. From gh follow all others by the product rule: h_t = e^(Δ_t A) ⊙ h_{t−1} + Δ_t x_t ⊗ B_t. Δ_t
# is in both terms.
#
# </details>


# %%
def scan_backward(g, x, delta, A, B, C, D):
    """g, x, delta (L, d); A (d, N); B, C (L, N); D (d,) → six gradients."""
    return None  # your code


# %%
# Check 10
from emrrg_lib.course.checks.nb02 import check_10

check_10(scan_backward)

# %% [markdown]
# <details><summary>Solution 10</summary>
#
# ```python
# def scan_backward(g, x, delta, A, B, C, D):
#     h, before = torch.zeros_like(A), []
#     decays = torch.exp(delta[..., None] * A)  # (L, d, N)
#     for t in range(len(x)):
#         before.append(h)
#         h = decays[t] * h + (delta[t] * x[t])[:, None] * B[t]
#     gx, gdelta, gB, gC = (torch.zeros_like(value) for value in (x, delta, B, C))
#     gA, gh = torch.zeros_like(A), torch.zeros_like(A)
#     for t in reversed(range(len(x))):
#         gC[t] = (g[t][:, None] * h).sum(0)  # h is the state after token t
#         gh = gh + g[t][:, None] * C[t]
#         faded = gh * before[t] * decays[t]  # through the decay
#         gA += faded * delta[t][:, None]
#         through_B = (gh * B[t]).sum(-1)  # through the write
#         gdelta[t] = (faded * A).sum(-1) + through_B * x[t]
#         gx[t] = through_B * delta[t] + D * g[t]
#         gB[t] = (gh * (delta[t] * x[t])[:, None]).sum(0)
#         gh, h = gh * decays[t], before[t]
#     return gx, gdelta, gA, gB, gC, (g * x).sum(0)
# ```
#
# `before` is the (L, d, N) table that a GPU kernel does not store: it computes the states again, chunk by
# chunk.
#
# </details>

# %% [markdown]
# ## Summary
#
# - A state that fades and is written to: $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t$. The step
#   $\Delta_t$ decides between keeping and overwriting; it is computed **from the token**: selection.
# - Four scans, along rows and columns both ways; their mean reaches every patch, loudest along a cross.
# - X, Z, dt, B, C are five different features made by two matrices, row block by row block. Partial LoRA
#   will act on such row blocks; which of them is the best to tune is a question for measurements.
# - A scan is associative: it can run in a tree or in chunks. Unrolled it is a masked attention.
# - The scan grows like N, attention like N². At 192 pixels that decides little, at 1024 much.
# - An encoder that has seen phantoms alone still follows brightness and edges of a real chest. What it
#   would call a finding there is not known.
#
# **Quiz.** Answer first, then unfold.
#
# 1. A token has Δ = 0 in every channel. What does it change in the outputs of later tokens? And in its own?
#
# <details><summary>Answer 1</summary>
#
# Nothing in later ones: the state is multiplied by 1 and nothing is written. Its own output still reads the
# state with its own C and has the shortcut D · x.
#
# </details>
#
# 2. Why does Mamba train A as log(−A), and Δ through a softplus?
#
# <details><summary>Answer 2</summary>
#
# So that Δ > 0 and A < 0 whatever the optimiser does. Then every decay lies between 0 and 1, and no state
# can grow without a bound.
#
# </details>
#
# 3. One direction of the scan hears only half of the patches on average. Why is not one direction
# followed by its reverse in the next block enough for an image?
#
# <details><summary>Answer 3</summary>
#
# It would reach every patch. But the distance would be counted along the rows: the neighbour above is 12
# tokens away and has faded. The column scans make it a neighbour in the sequence too.
#
# </details>
#
# **Further reading.** [Mamba](https://arxiv.org/abs/2312.00752) (Gu and Dao 2023, arXiv 2312.00752) ·
# [S4](https://arxiv.org/abs/2111.00396), its ancestor with constant steps (arXiv 2111.00396) ·
# [Mamba-2](https://arxiv.org/abs/2405.21060), scans as masked attention, in chunks (arXiv 2405.21060) ·
# [Vim](https://arxiv.org/abs/2401.09417), two directions (arXiv 2401.09417) ·
# [VMamba](https://arxiv.org/abs/2401.10166), four directions (arXiv 2401.10166) ·
# [ARM](https://arxiv.org/abs/2406.07537), the four-direction mixer of this encoder (arXiv 2406.07537) ·
# [ChestX-ray8](https://arxiv.org/abs/1705.02315), the data set of the real X-rays (arXiv 1705.02315).
#
# You can now write a scan, compute a mixer by hand, put its features back on the X-ray, and say what O(N)
# is worth at a given size. The code: [the scan](../emrrg_lib/vision/scan.py),
# [the mixer](../emrrg_lib/vision/mamba.py), [its CPU kernels](../emrrg_lib/vision/kernels/scan_cpu.py).
#
# **Previous:** [← 01 patch embedding](01_patch_embedding.ipynb) · **Next:**
# [03 Partial LoRA →](03_partial_lora.ipynb)
