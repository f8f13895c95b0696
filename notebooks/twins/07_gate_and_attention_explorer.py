# %% [markdown]
# # 07 · The gate and attention explorer
#
# **Goal.** Question one report, word by word: where did this word look, which words look at this
# spot, which report comes when a gate is closed, what does a scan remember, what did Partial LoRA
# change. Four explorers answer live, and you learn what their answers do not prove.
#
# | | |
# |---|---|
# | **You need** | notebook 00; 02 helps for the scan, 03 for Partial LoRA, 04 for the gate |
# | **Time** | about 25 minutes of trying, 25 more for the exercises, 20 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, 1 minute to run |
# | **GPU** | not needed; `PROFILE = "iu-xray"` needs one and a finished run of that preset (not measured) |
# | **Paper** | EMRRG §3.2 to §3.4, Eq. 1 and 2 |
#
# **You will be able to**
#
# - read from a trace where a word looked, and in which view (exercise 1),
# - find the words that let most of the image in, and say why this is not importance (2),
# - find by an intervention which layers decide a report (3),
# - tell a word that looks at a finding from one that looks there by chance (4),
# - compute what the state of a scan still holds of each patch (5).
#
# **Contents.** [One trace](#One-study,-one-report,-one-trace) · [Where does a word
# look?](#The-smallest-version:-where-does-a-word-look?) · [Word ↔
# patch](#Explorer-1-·-Word-↔-patch) · [The gate](#Explorer-2-·-The-gate) · [The
# scans](#Explorer-3-·-The-scans) · [Partial LoRA](#Explorer-4-·-Partial-LoRA) · [A real
# chest](#A-real-chest) · [Take it with you](#Take-it-with-you) · [What the paper
# says](#What-the-paper-says) · [Exercises](#Exercises) · [Quiz](#Quiz) · [Further
# reading](#Further-reading)
#
# > **Nothing in this kit is for clinical use.** The X-rays are synthetic; in the section *A real chest*
# > they are from NIH ChestX-ray14, provided by the NIH Clinical Center.
#
# Each explorer is **live** in a running notebook: point at it, click, or use the keyboard (*Tab* goes
# from control to control, the arrow keys move inside a map, a report or a slider). A sentence says
# what you see. Below it a **still picture** is folded, for print and for code hosts.

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
from textwrap import fill

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display

from emrrg_lib.course.notebook import glossary, open_profile
from emrrg_lib.files import KIT

pd.set_option("display.max_colwidth", None)
PROFILE = "tiny"  # on a GPU machine: a preset with a finished run, as "iu-xray"
STUDY = 654  # any number is another patient

lit = ["scan", "partial_lora", "hybrid", "gate"]
model, settings, picture = open_profile(PROFILE, lit)
picture

# %% [markdown]
# Four parts are lit, one for each explorer.

# %%
glossary("attention, g_d · g_s, α, g_s, ΔW")

# %% [markdown]
# ## One study, one report, one trace
#
# A `Trace` is the record of one report. Everything in this notebook reads a trace or plain arrays;
# no picture reads the model.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.language.hybrid_decoder import gates_scaled
from emrrg_lib.phantom import draw_study

study = draw_study(7, STUDY, settings.encoder.image_size)
pixels, mask = study_set.pixels([study], settings)


def regenerate(gate_scales):
    """Writes the report with the gates of some layers scaled: {layer:
    scale} → Trace."""
    with gates_scaled(model.llm, dict(gate_scales)):
        return model.generate(pixels, mask, trace=True)[1][0]


trace = regenerate({})
masks = {}  # finding → (view, H, W): its true place, drawn by the phantom
for finding in study.findings:
    drawn = np.array(finding["masks"])
    masks[finding["label"]] = masks.get(finding["label"], False) | drawn
print(fill(f"reference: {study.report}", 88))
print(fill(f"generated: {trace.text}", 88))
print("drawn:", ", ".join(masks) or "nothing abnormal")
print("attention", trace.attention.shape, "· gate", trace.gate.shape)

# %% [markdown]
# ## The smallest version: where does a word look?
#
# A word may be spelt by several tokens, and a layer has several heads. So "the" attention of a word
# is a mean over both. By hand, for one word in one layer:

# %%
word, layer = 1, len(trace.layer_ids) - 1
tokens = range(trace.words()[word].start, trace.words()[word].stop)
by_hand = np.zeros((trace.views, *trace.grid))
for head in range(trace.heads):
    for token in tokens:
        by_hand += trace.attention[layer, head, token].reshape(by_hand.shape) / (
            trace.heads * len(tokens)
        )

library = trace.word_attention(word, layer)
assert np.allclose(by_hand, library, atol=1e-6)
print(
    f"“{trace.words()[word].text}” in layer {trace.layer_ids[layer]}: (view, rows, "
    "columns)",
    library.shape,
)
print(
    "share of each view:",
    library.sum(axis=(1, 2)).round(3),
    "· the rest went to the cls tokens",
)

# %% [markdown]
# The same, equal to the last digits. The explorer does this for every word, layer and head, and
# also reads the table the other way: not *which patches does this word look at*, but *which words
# look at this patch*.
#
# ## Explorer 1 · Word ↔ patch
#
# Point at a word, and the maps show where it looks. Point at a patch of the X-ray, and the words that
# look there get a ground: the stronger, the more. A click keeps the choice. *Outline* lays the true
# place of a finding over it.

# %%
from emrrg_lib.explorers import WordExplorer

words = WordExplorer(study.images, trace, masks)
display(words)

# %% [markdown]
# *In the still picture: three words that name a finding, frontal view left, lateral view right, one
# row a hybrid layer. Each word in each layer has its own scale. Cyan line: the true place of the
# word's finding, where the study has it.*
#
# **Try this.** Take the word that names a finding and step through the layers: do they agree? Take
# a full stop: many heads of language models park their attention on places that mean nothing. Then
# point at the finding and see whether the word that names it has the strongest ground.
#
# **What it does not prove.** A bright patch says that its token had a large weight. It does not say
# that the patch decided the word: that visual token carries more than its own patch, since the scans
# mix all of them, and the gate may have been shut. For "decided", something has to be changed. That
# is the next explorer.
#
# ## Explorer 2 · The gate
#
# One column per token, one row per layer. Orange and purple both let the image in, with opposite sign.
# Point at a cell: its value, its layer, its word, and the head that looks at the image most. The
# slider scales one layer's gate, or all of them, and the model **writes the report anew**: about a
# second on a laptop. New words are marked, and the old report stays beside the new one.

# %%
from emrrg_lib.explorers import GateExplorer

gates = GateExplorer(trace, regenerate)
display(gates)

# %% [markdown]
# Close one layer after the other. The table does it for all: which single layer does the report
# hinge on?

# %%
from emrrg_lib.explorers.gate import changed_words

closed = {"none": trace} | {
    f"layer {number}": regenerate({number: 0.0}) for number in trace.layer_ids
}
closed["all"] = gates.written(0, 0)  # as the explorer keeps it
table = pd.DataFrame(
    {
        "mean |gate| left": [np.abs(other.gate).mean() for other in closed.values()],
        "new words": [sum(changed_words(trace, other)) for other in closed.values()],
        "report": [other.text for other in closed.values()],
    },
    index=pd.Index(closed, name="closed"),
)
table.style.set_uuid("closed").format(precision=2).set_properties(
    subset="report", **{"text-align": "left"}
)

# %% [markdown]
# **Check.** A closed gate is closed: all scales at 0 must leave a gate of exactly 0 everywhere, and
# all scales at 1 must give the model's own report.

# %%
assert not closed["all"].gate.any()
assert regenerate(dict.fromkeys(trace.layer_ids, 1.0)).text == trace.text
print("scale 0: every gate is 0.  scale 1: the report is the model's own.")

# %% [markdown]
# A layer whose gate is wide open but can be closed without a changed word let something in that was
# not needed. A narrow gate may carry the one thing that mattered. So width alone is not importance.
#
# ## Explorer 3 · The scans
#
# Before any word is written, the encoder has read the image in four orders. We take one block and
# run its recurrence by hand, so that we can look at the state h, which the fast scan never shows:
#
# $$h_t = e^{\Delta_t A}\,h_{t-1} + \Delta_t B_t x_t, \qquad y_t = C_t h_t + D x_t$$

# %%
encoder = (
    model.encoder.get_base_model()
    if hasattr(model.encoder, "get_base_model")
    else model.encoder
)
mixer = encoder.layers[len(encoder.layers) // 2].mixer
seen = {}
hook = mixer.register_forward_pre_hook(
    lambda module, given: seen.update(tokens=given[0])
)
with torch.no_grad():
    model.encode(pixels, mask)
hook.remove()
frontal = seen["tokens"][:1]  # (1, L, d): the frontal view, as this block receives it

with torch.no_grad():
    output, features = mixer(frontal, return_features=True)


# %%
@torch.no_grad()
def scan_inputs(direction):
    """Δ (L, d), A (d, N), B (L, N), x (L, d) of one direction, in scan order."""
    suffix = mixer.suffixes[direction]
    X, dt, B = (features[name][0, direction] for name in ("X", "dt", "B"))
    conv = getattr(mixer, f"conv1d{suffix}")
    before = conv.kernel_size[0] - 1  # causal: a token sees itself and those before
    padded = F.pad(X.T, (before, 0))
    x = F.silu(F.conv1d(padded, conv.weight, conv.bias, groups=conv.groups)).T
    delta = F.softplus(getattr(mixer, f"dt_proj{suffix}")(dt))
    return delta, -torch.exp(getattr(mixer, f"A{suffix}_log")), B, x


# %%
@torch.no_grad()
def scan_by_hand(direction):
    """What one direction adds to the block's output, (L, d) in token order."""
    delta, A, B, x = scan_inputs(direction)
    Z, C = (features[name][0, direction] for name in ("Z", "C"))
    D = getattr(mixer, f"D{mixer.suffixes[direction]}")
    h, y = torch.zeros_like(A), torch.zeros_like(x)
    for t in range(len(x)):
        h = torch.exp(delta[t, :, None] * A) * h + (delta[t] * x[t])[:, None] * B[t]
        y[t] = h @ C[t] + D * x[t]
    added = torch.zeros_like(y)
    added[mixer.orders[direction]] = y * F.silu(Z)
    return mixer.out_proj(added / len(mixer.suffixes)).cpu().numpy()


# %%
directions = range(len(mixer.suffixes))
outputs = np.stack([scan_by_hand(direction) for direction in directions])  # (4, L, d)
difference = np.abs(outputs.sum(axis=0) - output[0].cpu().numpy()).max()
print(
    f"largest difference to the library's block: {difference:.0e}, numbers up to "
    f"{output.abs().max():.0f}"
)
assert difference < 1e-3
sizes = np.linalg.norm(output[0].cpu().numpy(), axis=1)  # (L,) one a token
print(
    f"size of a token: {np.median(sizes):.0f} in the middle, {sizes.max():.0f} at most"
)

# %% [markdown]
# The four directions add up to the library's block. Now the explorer: a map of what the state still
# *holds* of every patch, step by step, how the state responds to each token, and what the block loses
# without a direction. Press *Play*, move *Step*, or click a patch.

# %%
from emrrg_lib.explorers import ScanExplorer, scan_memory

arrays = [[a.cpu().numpy() for a in scan_inputs(direction)] for direction in directions]
memory = np.stack([scan_memory(*given) for given in arrays])  # (4, L, L)
orders = mixer.orders.cpu().numpy()
scan = ScanExplorer(
    study.images[0], model.grid, orders, memory, outputs, model.cls_index
)
display(scan)

# %% [markdown]
# *In the still picture: two steps of each direction, then the change of the block's output without it,
# absolute and as a share of each token. Every map has its own scale.*
#
# The memory is not a window of fixed length. Each step size Δ is computed from the token itself: a
# large Δ writes strongly and wipes what was there, a small one lets the token pass and keeps the
# old. That is the *selective* in selective scan.
#
# The sentence says how much of the state comes from the last twelve tokens, which is one row here.
# For a row scan the patch above lies a whole row back; for a column scan it was the step before. So
# the four directions are not four copies: the right map shows how much the output changes without
# each. Take both scales. A few tokens can be many times as large as the others (printed above the
# explorer), and on the *absolute* scale one sees only these; the other scale measures every token by
# its own size.
#
# ## Explorer 4 · Partial LoRA
#
# Which rows of which matrices may change, what does it cost, what did training do, and does it
# matter? `lora_targets` reads the matrices and ΔW from the encoder. `adapter_losses` measures the
# loss of the reports as trained, without the adapters, and with their rank cut.

# %%
from emrrg_lib.explorers import LoraExplorer
from emrrg_lib.run.explore import adapter_losses, lora_targets
from emrrg_lib.tuning.partial_lora import adapter_name

targets = lora_targets(encoder)  # the trained ones first
others = [draw_study(7, number, settings.encoder.image_size) for number in range(24)]
losses = adapter_losses(model, others)
lora = LoraExplorer(targets, settings.partial_lora.r, losses)
display(lora)

# %% [markdown]
# *In the still picture: the size of ΔW for the targets that this run trained; rows that may not change
# have the lowest colour.*
#
# The last lines are the point. ΔW looks busy, but a change of the weights is not yet a change of the
# reports: the loss says what it is good for. Give `adapter_losses` another model and other studies,
# such as those of notebook 03, and the same view shows where an adapter matters.
#
# **Check.** The explorer's count against the model's own: the numbers in the adapters of the run.

# %%
for target in targets:
    if target.delta is not None:
        own = sum(
            p.numel()
            for n, p in model.named_parameters()
            if f".{adapter_name(target.name)}." in n
        )
        print(
            f"{target.name:<8} explorer "
            f"{target.parameters(settings.partial_lora.r):>7,} · model {own:>7,}"
        )
        assert own == target.parameters(settings.partial_lora.r)
        moved = np.linalg.norm(target.delta) / np.linalg.norm(target.weight)
        print(f"         size of ΔW: {moved:.1%} of the size of the frozen matrices")

# %% [markdown]
# Training moved the matrices by a small share of their size. Lower the rank and see how much of ΔW the
# best smaller pair keeps, and what that does to the loss. Whether a smaller rank would have done as
# well, only a training with it can show.

# %% [markdown]
# ## A real chest
#
# All of this was a phantom, drawn by the kit, and this model has seen nothing else: encoder, language
# model and hybrid layers learnt from synthetic X-rays. Now a real one, an X-ray of the NIH
# Clinical Center ([data/nih_samples](../data/nih_samples/README.md)). A radiologist drew a box around
# its heart and called it enlarged.

# %%
from emrrg_lib.data.images import read_view
from emrrg_lib.data.nih_cxr14 import NIH_SAMPLES, nih_samples

samples = {sample.id: sample for sample in nih_samples()}
real = samples["00008365_000"]
real_batch = study_set.pixels([real], settings)
real_trace = model.generate(*real_batch, trace=True)[1][0]
boxes = pd.read_csv(NIH_SAMPLES / "boxes.csv").set_index(["file", "label"])
box = boxes.loc[(f"{real.id}.jpg", "Cardiomegaly")]
real_image = read_view(real.images[0], 256)
x, y, width, height = box.astype(int)
real_heart = np.zeros((256, 256), dtype=bool)
real_heart[y : y + height, x : x + width] = True
print("NIH's labels: ", ", ".join(name for name, value in real.labels.items() if value))
print(fill(f"generated: {real_trace.text}", 88))

# %% [markdown]
# The report is fluent, and it is wrong about the heart. Where did the word "heart" look, in the phantom
# and in the real chest? Both reports have this word.

# %%
from emrrg_lib.interpret.figures import overlay_rows


def heart_maps(of):
    """(layer, rows, columns): the attention of the word "heart" on the frontal view."""
    word = next(i for i, word in enumerate(of.words()) if word.text == "heart")
    return [of.word_attention(word, layer)[0] for layer in range(len(of.layer_ids))]


overlay_rows(
    {
        "phantom": (study.images[0], heart_maps(trace), None),
        "real chest": (real_image, heart_maps(real_trace), real_heart),
    },
    [f"layer {number}" for number in trace.layer_ids],
    "Where the word “heart” looks",
)

# %% [markdown]
# *Each map has its own scale. Cyan line: the radiologist's box.* In the phantom layers 0 and 2 look
# at the heart, and at other places. In the real chest little falls into the box: the maps are brightest on
# an arm and at the edge, which say nothing about a heart. And the scans of the middle block, at the
# step when half of the tokens have been read: what does the state hold?

# %%
from emrrg_lib.run.explore import scan_of

real_scan = scan_of(model, real_batch, real_image)


def held_halfway(of):
    """(direction, rows, columns): what the state holds of each patch at half time."""
    held, half = np.zeros(of.orders.shape), of.orders.shape[1] // 2
    for direction, order in enumerate(of.orders):
        held[direction, order] = of.memory[direction, half]
    return np.delete(held, model.cls_index, axis=1).reshape(-1, *model.grid)


overlay_rows(
    {
        "phantom": (study.images[0], held_halfway(scan), None),
        "real chest": (real_image, held_halfway(real_scan), None),
    },
    ["rows", "rows backwards", "columns", "columns backwards"],
    "What the state holds at half time",
)

# %% [markdown]
# The scans do in a real chest what they do in a phantom: recent tokens are held, older ones fade, and
# patches that stand out are held longer. Nothing in the pictures says that the report is wrong. Now all
# seven X-rays that NIH calls *No Finding*:

# %%
from emrrg_lib.evaluation import label_report

claims = {}
for name, sample in samples.items():
    if sample.labels["No Finding"]:
        text = model.generate(*study_set.pixels([sample], settings))[0]
        labels = label_report(text) | {"No Finding": None}
        found = [label for label, value in labels.items() if value in (1, -1)]
        claims[name] = ", ".join(found) or "nothing"
with_claim = sum(claim != "nothing" for claim in claims.values())
print(f"{with_claim} of {len(claims)} reports name a finding")
pd.DataFrame({"the report claims": claims}).rename_axis("NIH: No Finding")

# %% [markdown]
# So what can such a model tell about a real chest?
#
# - **It can not** tell what is in it. It was never shown a real heart, so a real heart's size means
#   nothing to it; it names findings in X-rays that NIH calls normal. Seven images measure nothing
#   exactly, and nobody should measure it exactly: the model was not made for this.
# - **It can** show the mechanics: the shapes, the scans, the gates that open, a word that has a map. The
#   same notebook with a model that was trained on real reports (`PROFILE`) has the same pictures.
# - **The pictures do not tell you which of the two it is.** An attention map of a wrong report looks as
#   good as that of a right one. That is why this kit counts against controls.
#
# ## Take it with you
#
# `html` writes an explorer as one file: no network, no Python, no installation. All but the gate
# answer everything there; the gate page carries the reports of five slider positions and of each
# layer closed, since no model runs in a browser. Without a notebook, `emrrg explore --run runs/demo
# --study 3` writes one page with all four, and `--images frontal.png lateral.png` takes your own
# X-rays. The page of a run, `report.html`, links the explorers of its examples.

# %%
pages = KIT / "runs" / "explorers"
for name, explorer in {
    "words": words,
    "gate": gates,
    "scan": scan,
    "lora": lora,
}.items():
    path = explorer.html(pages / f"{name}.html")
    print(f"{path.relative_to(KIT).as_posix():<28} {path.stat().st_size / 1e6:.2f} MB")

# %% [markdown]
# ## What the paper says
#
# Section 3 expects the cross-attention to let the model "focus on key regions within the X-ray
# image (e.g., lesion sites)". The paper shows no attention map and no gate; its Fig. 3 sets a few
# reports side by side. The explorers ask that sentence of one study, and one example shows that a
# thing can happen, not how often. This kit also counts: the pointing game of notebook 00 asks all
# test studies, against chance and against the usual place of a finding, and the rows "gates closed"
# and "shuffled images" of every score table do for all reports what the gate explorer does for one.
#
# What the tiny preset changes: here the image can reach the report through the gates alone, so
# closing them leaves a blind report. In the paper's presets the visual tokens are also in the
# prompt (§3.4); there a report with closed gates still sees. And α learns faster here: it has a
# separate learning rate (`gate_learning_rate`).

# %% [markdown]
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Which view? *(easy, 5 minutes)*
#
# **Why.** A trace is numbers; whoever can read them needs no explorer.
#
# How much of a word's attention goes to each view? Sum over the patches of a view, mean over the
# heads and over the word's tokens. Return one number for each view. Use `trace.attention`, not
# `word_attention`.
#
# <details><summary>Hint</summary>
#
# `trace.words()[word]` has `start` and `stop`, its tokens. The axes of `trace.attention` are
# (layer, head, token, view, patch): take the layer and the tokens first, then two means and a sum.
#
# </details>


# %%
def share_of_views(trace, word, layer):
    """(view,) share of the attention of one word in one layer."""
    raise NotImplementedError


# %%
# Check 1
from emrrg_lib.course.checks.nb07 import check_1

check_1(share_of_views)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def share_of_views(trace, word, layer):
#     word = trace.words()[word]
#     weights = trace.attention[layer, :, word.start:word.stop]  # (head, token, view, patch)
#     return weights.sum(axis=3).mean(axis=(0, 1))
# ```
#
# The shares do not sum to 1: the rest is the attention on the cls tokens, which have no place in
# the image. A word whose shares are small looked at a summary.
#
# </details>
#
# ### Exercise 2 · The widest gates *(easy, 5 minutes)*
#
# **Why.** The gate is the paper's own answer to "how much image does this word need?".
#
# Which words let the most image in? A word's opening in a layer is the largest *size* of the gate
# among its tokens. Return the texts of the `k` widest words, widest first.
#
# <details><summary>Hint</summary>
#
# `np.abs(trace.gate[layer, word.start:word.stop]).max()` is the opening of one word; `sorted(...,
# key=..., reverse=True)` does the rest.
#
# </details>


# %%
def widest_words(trace, layer, k):
    """Texts of the k words with the widest gates in one layer."""
    raise NotImplementedError


# %%
# Check 2
from emrrg_lib.course.checks.nb07 import check_2

check_2(widest_words)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def widest_words(trace, layer, k):
#     def opening(word):
#         return np.abs(trace.gate[layer, word.start:word.stop]).max()
#
#     return [word.text for word in sorted(trace.words(), key=opening, reverse=True)[:k]]
#
#
# for layer in range(len(trace.layer_ids)):
#     print(trace.layer_ids[layer], widest_words(trace, layer, 5))
# ```
#
# If you expected only names of findings: the gate is computed at the position that *predicts* a
# word. Before "no" or "there" the model already decides what the sentence will say.
#
# </details>
#
# ### Exercise 3 · The deciding layers *(medium, 5 minutes)*
#
# **Why.** Only an intervention tells what decides; this is the smallest one.
#
# Close each layer's gate alone and keep the layers whose closing changes the *text* of the report.
# `regenerate({6: 0.0})` closes layer 6. Return their ids in order.
#
# <details><summary>Hint</summary>
#
# Write the untouched report once, `regenerate({}).text`, and compare in a loop over `layer_ids`.
#
# </details>


# %%
def deciding_layers(regenerate, layer_ids):
    """Ids of the layers without which the report reads differently."""
    raise NotImplementedError


# %%
# Check 3
from emrrg_lib.course.checks.nb07 import check_3

check_3(deciding_layers)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def deciding_layers(regenerate, layer_ids):
#     own = regenerate({}).text
#     return [layer for layer in layer_ids if regenerate({layer: 0.0}).text != own]
#
#
# print(deciding_layers(regenerate, trace.layer_ids))
# ```
#
# This is an *ablation* of one part in one study. Notebook 09 does it for whole trainings, with
# intervals.
#
# </details>
#
# ### Exercise 4 · On the finding, or just often there? *(medium, 10 minutes)*
#
# **Why.** Without the chance level every attention map looks like an explanation.
#
# A word that puts 40 % of its attention on a finding looks good, until you hear that the finding
# covers 40 % of the image. Write the *gain*: the share of the attention on the finding, divided by
# the finding's share of the image. `weights` is (rows, columns) of one view and need not sum to 1;
# `mask` is (H, W), True on the finding. A patch that is half covered counts half.
#
# <details><summary>Hint</summary>
#
# Cut the mask into patches: `mask.reshape(rows, H // rows, columns, W // columns).mean(axis=(1, 3))`
# is the covered part of each.
#
# </details>


# %%
def gain(weights, mask):
    """Attention on the finding over what even attention would put there;
    1 is chance."""
    raise NotImplementedError


# %%
# Check 4
from emrrg_lib.course.checks.nb07 import check_4

check_4(gain)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def gain(weights, mask):
#     rows, columns = weights.shape
#     height, width = mask.shape
#     covered = mask.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))
#     return (weights * covered).sum() / weights.sum() / covered.mean()
#
#
# for name, places in masks.items():
#     for index, word in enumerate(trace.words()):
#         best = gain(trace.word_attention(index, len(trace.layer_ids) - 1)[0], places[0])
#         if best > 2:
#             print(f"{name}: “{word.text}” {best:.1f}")
# ```
#
# Read the list before you believe one word of it: with thirty words some exceed any bar by luck.
# That is why the pointing game fixes word and layer *before* it looks at the test studies.
#
# </details>
#
# ### Exercise 5 · What the state holds *(bonus, hard, 20 minutes)*
#
# **Why.** The scan explorer draws this; it is also the shortest proof that a scan is a kind of attention.
#
# The recurrence h ← exp(Δ_t A) h + Δ_t B_t x_t is linear in x: h is a sum of one part for each token that
# was read. Return for each step t and token s the size of the part of s in the state after step t: the
# root mean square over its d · N numbers. `delta` and `x` are (L, d), `A` is (d, N), `B` is (L, N). A
# token that has not been read has 0.
#
# <details><summary>Hint</summary>
#
# Keep one state (d, N) for each token, (L, d, N) in all. In step t all that is there decays by
# `np.exp(delta[t][:, None] * A)`; then token t writes `(delta[t] * x[t])[:, None] * B[t]`.
#
# </details>


# %%
def held(delta, A, B, x):
    """→ (L, L): [t, s] how much of token s the state holds after step t."""
    raise NotImplementedError


# %%
# Check 5
from emrrg_lib.course.checks.nb07 import check_5

check_5(held)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def held(delta, A, B, x):
#     parts = np.zeros((len(x), *A.shape))
#     sizes = np.zeros((len(x), len(x)))
#     for t in range(len(x)):
#         parts *= np.exp(delta[t][:, None] * A)
#         parts[t] = (delta[t] * x[t])[:, None] * B[t]
#         sizes[t] = np.sqrt((parts**2).mean(axis=(1, 2)))
#     return sizes
#
#
# for direction, given in enumerate(arrays):
#     print(direction, np.allclose(held(*given), memory[direction], atol=1e-5))
# ```
#
# Multiply each part by C_t and add D x_t, and you have y_t as a weighted sum over the tokens before it:
# attention without a softmax, causal, with weights that Δ, B and C make.
#
# </details>

# %% [markdown]
# ## Summary
#
# - A **Trace** answers both ways: from a word to the patches, from a patch to the words.
# - Attention says where a word **looked**; only changing something, such as closing a gate, says
#   what **decided**.
# - A wide gate need not matter, a narrow one may; regenerate and compare.
# - The state of a scan forgets by its own choice; four directions forget different things.
# - Partial LoRA moves its matrices by a small share of their size, in its rows and nowhere else.
# - One study is an anecdote. Every question here has its counted version in the score table.
#
# - A model that has seen synthetic X-rays only writes fluent and wrong reports about real ones, and its
#   maps look as they always do.
#
# **You can now** open any report of a run, ask it these questions, and hand the answers on as files
# that need no installation.
#
# ## Quiz
#
# 1. A word's map is brightest on the heart. What does that prove?
# 2. A layer's gate is at .9 for each word; closed, the report stays the same. What does the layer do?
# 3. Why does the last token of a row scan hold little of the patch directly above the current one?
#
# <details><summary>Answers</summary>
#
# 1. That the tokens of these patches had large weights in this layer. Not that the heart decided the
#    word: a token carries more than its patch, and the gate may have been narrow.
# 2. It lets something in that the report does not need, or that another layer lets in too. Close both
#    together to distinguish the two.
# 3. In a row scan that patch was read a whole row of tokens ago, and it has decayed once in each step
#    since. A column scan read it one step before.
#
# </details>
#
# ## Further reading
#
# - S. Jain and B. Wallace, Attention is not explanation, [arXiv
#   1902.10186](https://arxiv.org/abs/1902.10186); S. Wiegreffe and Y. Pinter, Attention is not not
#   explanation, [arXiv 1908.04626](https://arxiv.org/abs/1908.04626).
# - J. Zhang et al., the pointing game, [arXiv 1608.00507](https://arxiv.org/abs/1608.00507).
# - J.-B. Alayrac et al., Flamingo, whose gated layers start closed, [arXiv
#   2204.14198](https://arxiv.org/abs/2204.14198).
# - A. Gu and T. Dao, Mamba, [arXiv 2312.00752](https://arxiv.org/abs/2312.00752); A. Ali et al., The hidden
#   attention of Mamba models, [arXiv 2403.01590](https://arxiv.org/abs/2403.01590).
# - T. Darcet et al., outlier tokens of vision transformers, [arXiv
#   2309.16588](https://arxiv.org/abs/2309.16588); F. Wang et al., those of vision Mambas, [arXiv
#   2405.14858](https://arxiv.org/abs/2405.14858).
# - X. Wang et al., ChestX-ray8, the data set of the real X-rays, [arXiv
#   1705.02315](https://arxiv.org/abs/1705.02315).
#
# Read on in the code: [the trace](../emrrg_lib/trace.py), [the
# explorers](../emrrg_lib/explorers/base.py), [pointing](../emrrg_lib/evaluation/pointing.py).
#
# [← 06](06_metrics.ipynb) · [08 →](08_pretraining.ipynb)
