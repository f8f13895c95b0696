# %% [markdown]
# # 04 · Hybrid cross-attention
#
# **Goal.** Compute the paper's Eq. 1 and 2 with a pencil, build them into a real language model
# without changing a bit of it, and find out at which steps of writing the image is really seen.
#
# **You will be able to**
#
# - write Eq. 1 for grouped heads, with a mask that holds, and Eq. 2 with both of its gates;
# - make a layer of them and install it into one decoder layer of a language model;
# - write with a cache so that every step sees the image, and test that it does;
# - say what a gate tells, and what has to be measured besides.
#
# **Contents.** [By hand](#Three-tokens-by-hand) · [the real one](#The-real-one-is-the-same) ·
# [into a language model](#Into-a-language-model,-without-changing-a-bit) ·
# [the warm-up](#The-warm-up) · [gates](#A-gate-for-each-word) · [a valve](#What-would-make-it-a-valve?) ·
# [masks](#Masks) · [cached steps](#Does-a-cached-step-see-the-image?) ·
# [visual tokens in the prompt](#Visual-tokens-in-the-prompt,-or-not) ·
# [paper and release](#The-paper,-the-release,-this-kit) · [exercises](#Exercises)
#
# | | |
# |---|---|
# | **You need** | softmax attention (queries, keys, values); notebook 00 |
# | **Time** | about 30 minutes of reading and trying, 87 more for exercises 1 to 7, 8 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, about 1 minute to run |
# | **GPU** | not needed; `PROFILE = "iu-xray"` needs one and a finished run of that preset (not measured) |
# | **Paper** | EMRRG, arXiv 2510.16776, §3.4, Eq. 1 and 2, Fig. 2 |
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
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from emrrg_lib.course.notebook import glossary, open_profile
from emrrg_lib.interpret import gate_strip

PROFILE = "tiny"  # on a GPU machine: a preset with a finished run, as "iu-xray"

model, settings, picture = open_profile(PROFILE, lit=("hybrid", "gate"))
device = model.device
picture

# %% [markdown]
# The lit part is this notebook. A decoder layer of the language model lets every word look back at
# the words before it (self-attention). A *hybrid* layer lets it also look at the image, beside that,
# and a gate decides how much of what it saw is added.

# %%
glossary("q, V_s, V, W_k, W_v, X′, S, w_g, b_g, α")

# %% [markdown]
# ## Three tokens by hand
#
# $$X' = \operatorname{softmax}\!\big(q\,K^\top / \sqrt{h}\big)\; V, \qquad
# K = V_s W_k^\top, \quad V = V_s W_v^\top$$
#
# $$S \leftarrow S + X' \cdot g_d \cdot g_s, \qquad
# g_d = \tanh(w_g \cdot S + b_g), \quad g_s = \tanh(\alpha)$$
#
# First Eq. 1 for one head of width h, then Eq. 2 with its two gates. The smallest case that has
# everything: three words, two patches, one head of width 1. All numbers are chosen so that a pencil is
# enough. ln 3 is one of them, because exp(ln 3) = 3. One letter for one thing: **V_s** are the visual
# tokens, **K** and **V** the keys and values made of them. (The paper writes V for both.)

# %%
ln2, ln3 = math.log(2), math.log(3)
words = ["the", "left", "lung"]
S = torch.tensor([[1.0], [0.0], [-1.0]])  # what self-attention found, (3 words, 1)
q = torch.tensor([[0.0], [ln3], [-ln3]])  # their queries
V_s = torch.tensor([[1.0], [0.0]])  # two visual tokens, normalised already
W_k, W_v = torch.tensor([[1.0]]), torch.tensor([[4.0]])
w_g, b_g, alpha = torch.tensor([ln3]), 0.0, torch.tensor(ln2)


def hybrid(S, q, V_s, W_k, W_v, w_g, b_g, alpha):
    """Eq. 1 and 2, one head of width h: S, q (n, h); V_s (m, D); W_k, W_v (h, D).
    Returns all steps."""
    K, V = V_s @ W_k.T, V_s @ W_v.T  # (m, h) each
    # (n, m), each row sums to 1
    weights = torch.softmax(q @ K.T / K.shape[1] ** 0.5, dim=-1)
    X = weights @ V  # (n, h), Eq. 1
    g_d, g_s = torch.tanh(S @ w_g + b_g), torch.tanh(alpha)  # (n,), ()
    new = S + X * g_d[:, None] * g_s  # Eq. 2
    return {"weights": weights, "X": X, "g_d": g_d, "g_s": g_s, "new": new}


# %%
step = hybrid(S, q, V_s, W_k, W_v, w_g, b_g, alpha)
table = pd.DataFrame(
    {
        "q": q[:, 0],
        "weight of patch 1": step["weights"][:, 0],
        "of patch 2": step["weights"][:, 1],
        "X′": step["X"][:, 0],
        "g_d": step["g_d"],
        "g_s": float(step["g_s"]),
        "S before": S[:, 0],
        "S after": step["new"][:, 0],
    },
    index=words,
)
table.round(3)

# %% [markdown]
# **With the pencil.** The keys are 1 and 0, the values 4 and 0. "left" has the query ln 3, so its
# scores are ln 3 and 0, their exponentials 3 and 1, its weights ¾ and ¼: it fetches X′ = ¾ · 4 = 3.
# The gate of "the" is tanh(ln 3 · 1) = (3 − ⅓) / (3 + ⅓) = 0.8, and tanh(ln 2) = 0.6, so "the" gets
# 1 + 2 · 0.8 · 0.6 = 1.96. And "left", which fetched the most? Its S is 0, hence its gate: **nothing
# gets in**. Where a word looks and how much it takes are two different questions.
#
# **Check.** The numbers of the pencil; α = 0 changes no bit; the sign of a gate may be negative.

# %%
pencil = torch.tensor([[1 + 2 * 0.8 * 0.6], [0.0], [-1 - 1 * 0.8 * 0.6]])
assert torch.allclose(step["new"], pencil, atol=1e-6)
assert torch.equal(hybrid(S, q, V_s, W_k, W_v, w_g, b_g, torch.tensor(0.0))["new"], S)
print(
    "by hand:",
    pencil[:, 0].numpy().round(2),
    "· alpha = 0: S is unchanged, bit for bit",
)

# %% [markdown]
# ## The real one is the same
#
# `GatedCrossAttention` does this with several heads, each with its own slice of the width; the gate
# stays **one number per word**, the same for all heads. It first sends the visual tokens through the
# layer's own input norm (the paper's "shared layer normalization"). `kv_heads` is how many pairs of
# keys and values there are: here one a head; exercise 2 has fewer. Given the same weights:

# %%
from emrrg_lib.language.cross_attention import GatedCrossAttention

torch.manual_seed(0)
D, heads, h, n, m = 12, 3, 4, 5, 7
norm = nn.RMSNorm(D)
real = GatedCrossAttention(hidden=D, heads=heads, kv_heads=heads, head_dim=h, norm=norm)
with torch.no_grad():
    for parameter in (*real.parameters(), *norm.parameters()):
        parameter.copy_(torch.randn(parameter.shape))
S_big, q_big, seen = (
    torch.randn(n, heads * h),
    torch.randn(heads, n, h),
    torch.randn(m, D),
)

# %%
with torch.no_grad():
    theirs = real(
        S_big[None], q_big[None], seen[None], visual_mask=None, text_mask=None
    )[0]
    # (heads, m, h)
    K = real.k_proj(norm(seen)).unflatten(-1, (heads, h)).transpose(0, 1)
    V = real.v_proj(norm(seen)).unflatten(-1, (heads, h)).transpose(0, 1)
    X = torch.softmax(q_big @ K.transpose(1, 2) / h**0.5, dim=-1) @ V  # (heads, n, h)
    # (n, 1), (1,)
    g_d, g_s = torch.tanh(real.gate_proj(S_big)), torch.tanh(real.warm_up)
    ours = S_big + X.transpose(0, 1).flatten(1) * g_d * g_s  # heads side by side again
print(f"largest difference: {(ours - theirs).abs().max():.0e}")
assert torch.allclose(ours, theirs, atol=1e-5)

# %% [markdown]
# ## Into a language model, without changing a bit
#
# `install_hybrid_layers(llm, layers)` gives chosen decoder layers such a module. It copies no
# attention code: one registered attention function runs the model's own self-attention, lets the
# module act on the heads before o_proj (the layer that mixes them, at the right in the picture), and
# hands them back. So it fits every Llama-like model of Hugging Face. The first question to ask: is the
# model still the model?

# %%
from emrrg_lib.language.hybrid_decoder import hybrid_modules, install_hybrid_layers
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.prompt import prompt_ids

llm, tokenizer = load_llm(settings.llm.name, getattr(torch, settings.llm.dtype))
llm = llm.to(device)
prompt = torch.tensor([prompt_ids(tokenizer, settings.data.prompt)], device=device)
old_keys, width = set(llm.state_dict()), llm.config.hidden_size
with torch.no_grad():
    before = llm(input_ids=prompt).logits

# %%
install_hybrid_layers(llm, settings.llm.hybrid_layers)
new_keys = sorted(set(llm.state_dict()) - old_keys)
assert old_keys < set(llm.state_dict())  # every old weight keeps its name
torch.manual_seed(3)
# 145 visual tokens, random
some_image = torch.randn(1, 145, width, dtype=llm.dtype).to(device)
with torch.no_grad():
    after = llm(input_ids=prompt, visual_states=some_image).logits
assert torch.equal(before, after)
print(f"α = 0: all {after.numel():,} logits are equal, bit for bit")
names = sorted({key.split("cross_attention.")[1] for key in new_keys})
print("new in each hybrid layer:", *names, sep="\n  ")

# %% [markdown]
# ## The warm-up
#
# α = 0 keeps the language model intact, but it also multiplies every gradient by tanh(0) = 0, all
# but its own. So α has to move first. Below: three steps of plain gradient descent on one sentence
# with a fixed image; the size of each part's gradient, summed over the hybrid layers.

# %%
from emrrg_lib.language.prompt import text_ids

sentence = torch.tensor([text_ids(tokenizer, "the heart is enlarged .")], device=device)
modules = list(hybrid_modules(llm).values())
steps = []
for number in range(3):
    llm.zero_grad()
    llm(input_ids=sentence, labels=sentence, visual_states=some_image).loss.backward()
    norms = {
        name: sum(
            float(dict(module.named_parameters())[name].grad.norm())
            for module in modules
        )
        for name in ("warm_up", "gate_proj.weight", "k_proj.weight", "v_proj.weight")
    }
    largest = max(abs(float(module.warm_up.detach())) for module in modules)
    steps.append({"step": number, "largest |α|": largest} | norms)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter -= 0.5 * parameter.grad
pd.DataFrame(steps).set_index("step").map("{:.1e}".format)

# %% [markdown]
# At step 0 only `warm_up` has a gradient. From then on the others have one, but multiplied by the
# still small tanh(α). With the learning rate of the other weights α would crawl, so this kit gives
# gate and α their own rate (`gate_learning_rate`). Watch it open: the trained model gets α = 0 again,
# everything else of it stays frozen but the gates, and 64 studies are learnt for 45 steps. The loss on
# 24 other studies is measured twice: each report with its own image, and with the next patient's.

# %%
from emrrg_lib.interpret.figures_training import opening_curves
from emrrg_lib.training.gates import open_gates

opened = open_gates()
opening_curves(opened, list(hybrid_modules(model.llm)))

# %% [markdown]
# At step 0 both losses are one number: with closed gates there is no image. As |α| grows, the own
# image helps and a wrong one hurts, and the distance between the two says that the *image* is read,
# which a falling loss alone does not. Where did the long training leave α?

# %%
alphas = pd.Series(
    {
        f"layer {i}": float(module.warm_up.detach())
        for i, module in hybrid_modules(model.llm).items()
    }
)
pd.DataFrame({"α": alphas, "tanh(α)": np.tanh(alphas)}).round(3).transpose()

# %% [markdown]
# The sign of α means nothing by itself: W_v can turn around with it.
#
# ## A gate for each word
#
# Now the trained model writes a report, and the trace, its record (notebook 00), keeps
# tanh(w_g·S + b_g)·tanh(α) of every word in every hybrid layer.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.phantom import draw_study

# not of the training data: another seed
study = draw_study(7, 654, settings.encoder.image_size)
pixels, view_mask = study_set.pixels([study], settings)
reports, traces = model.generate(pixels, view_mask, trace=True, num_beams=1)
report, trace = reports[0], traces[0]
gate_strip(trace)

# %% [markdown]
# Each column is a word, each row a hybrid layer; white is 0, and both colours let the image in. A
# gate belongs to the position that *chooses* the word, which is the one before it.
#
# How dynamic is the dynamic gate? For each layer: how wide it is open on average, how much that
# differs from word to word (standard deviation), and at how many words it is positive.

# %%
import textwrap

for name, text in (("written", report), ("reference", study.report)):
    print(textwrap.fill(f"{name}: {text}", 88, subsequent_indent="  "))
gates = pd.DataFrame(trace.gate.T, columns=[f"layer {i}" for i in trace.layer_ids])
pieces = [piece.strip() for piece in trace.tokens]
# %%
told = pd.DataFrame(
    {
        "mean |gate|": gates.abs().mean().round(2),
        "between words": gates.abs().std().round(2),
        "positive at": (gates > 0).mean().map("{:.0%}".format),
    }
)
told.assign(
    **{"least open at": [pieces[i] for i in gates.abs().to_numpy().argmin(axis=0)]}
)

# %% [markdown]
# A layer whose gate is wide open at nearly every word, with little between words, does not use
# it as a valve. It may use the **sign**: the same X′ is added at one word and subtracted at another.
# So a strong colour does not prove that *this* word needed the image, and a mean of |gate| says little.
# What a word gained from the image is another question; exercise 8 measures it.
#
# ## What would make it a valve?
#
# Nothing in the loss asks a gate to close. Where X′ is of no use, W_v can make it small, and the gate
# stays open at no cost. Three changes would give it a reason. A **price** on |gate| in the loss: then a
# layer opens only where it gains more than the price. A gate that **cannot turn the sign**, a sigmoid
# in place of tanh: then "open" has one meaning. And training with the **image left out** now and then:
# then the model needs a state in which it does without. The first is easily tried: the gates of the
# trained model are trained on with a price of 0.05.

# %%
priced = open_gates(closed=False, price=0.05, steps=30, every=15)
columns = ["step", "mean |gate|", "below .1", "own image", "other image"]
pd.DataFrame(priced)[columns].set_index("step").round(3)

# %% [markdown]
# The mean |gate| falls a lot, more gates are nearly shut, and the loss with the own image moves
# little: a good part of the opening was worth nothing. (One start, 24 studies, a few steps: an
# illustration, no result.)
#
# ## Masks
#
# Two masks, two promises. `visual_mask` (B, M): a token that is not valid gets a weight of exactly 0,
# whatever its numbers are. That is how a study with one view lives in a batch of studies with two.
# `text_mask` (B, n): a position that is not text keeps its row, bit for bit; so padding, and visual
# tokens in the prompt, fetch nothing.

# %%
from emrrg_lib.language.hybrid_decoder import gates_scaled, recording

with torch.no_grad():
    states, visual_mask = model.encode(pixels, view_mask)
    one_view = visual_mask.clone()
    # the second half of the tokens is not there
    one_view[:, visual_mask.shape[1] // 2 :] = False
    rubbish = states.clone()
    rubbish[~one_view] = 1e3
    ids = torch.tensor(
        [prompt_ids(model.tokenizer, settings.data.prompt)], device=device
    )
    clean = model.llm(input_ids=ids, visual_states=states, visual_mask=one_view).logits
    dirty = model.llm(input_ids=ids, visual_states=rubbish, visual_mask=one_view).logits
    with recording(model.llm) as calls:
        model.llm(input_ids=ids, visual_states=rubbish, visual_mask=one_view)

# %%
weights = torch.cat([call[0][1] for call in calls.values()])  # (layers, heads, n, M)
assert torch.equal(clean, dirty)
absent = weights[..., ~one_view[0]]
print(
    "visual_mask: 1000 in every absent token changes no bit; its attention is",
    float(absent.max()),
)
assert not absent.any()

# %%
text_mask = torch.ones(1, n, dtype=torch.bool)
text_mask[0, 2] = False
with torch.no_grad():
    out = real(
        S_big[None], q_big[None], seen[None], visual_mask=None, text_mask=text_mask
    )[0]
assert torch.equal(out[2], S_big[2]) and torch.equal(
    out[[0, 1, 3, 4]], theirs[[0, 1, 3, 4]]
)
print("text_mask: row 2 keeps every bit, the other rows are as before")

# %% [markdown]
# ## Does a cached step see the image?
#
# Writing has two phases. At the **prefill** the whole prompt goes through the model at once. Then
# come the **cached steps**: one new token at a time, with keys and values of the earlier ones kept.
# A report of forty tokens is one prefill and thirty-nine cached steps. Listen to the calls of the
# first layer:

# %%
lengths, projections = [], []
first = next(iter(hybrid_modules(model.llm).values()))
hooks = [
    first.register_forward_pre_hook(
        lambda module, given: lengths.append(given[0].shape[1])
    ),
    first.k_proj.register_forward_hook(lambda *_: projections.append(1)),
]
model.generate(pixels, view_mask, num_beams=1)
for hook in hooks:
    hook.remove()
print("positions a call:", lengths[:6], "…", f"({len(lengths)} calls)")
print(
    "keys and values of the image were computed",
    len(projections),
    "time(s): they are kept as well",
)

# %% [markdown]
# The layer on which the paper builds (Slow-Fast) decides by a token's *type* whether a sample has
# an image. On a cached step it is given one token, of type text, finds no visual one, and sets X′ to
# zero: **after the first word its report is blind**, though in training every word saw the image.
# Is this kit free of that defect, and what does the defect cost?
#
# First: are the cached steps the same as one pass over the finished report? Training is such a pass,
# without a cache. Of the helpers below, `open_at_prefill_only` imitates the defect, `write_greedily`
# writes with the cache, and `one_pass` reads the written report again without it. The second printed
# line tests the imitation: it should equal a pass in which the prompt alone may look at the image.


# %%
@contextmanager
def open_at_prefill_only(llm):
    """The released layer's defect:
    calls with one position, the cached steps, get a closed gate."""

    def shut(module, given):
        module.gate_scale = float(given[0].shape[1] > 1)

    modules = hybrid_modules(llm).values()
    hooks = [module.register_forward_pre_hook(shut) for module in modules]
    try:
        yield
    finally:
        for hook, module in zip(hooks, modules, strict=True):
            hook.remove()
            module.gate_scale = 1.0


# %%
def inputs_of(ids):
    """Prompt and image as the language model takes them."""
    return model.llm_inputs(ids, torch.ones_like(ids), states, visual_mask)


def write_greedily():
    """The report's token ids (T,) and the logits of each cached step (T,
    vocabulary)."""
    out = model.llm.generate(
        **inputs_of(head),
        do_sample=False,
        max_new_tokens=settings.generation.max_new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    written = out.sequences[0, -len(out.logits) :]
    return written, torch.cat(out.logits).float()


# %%
def one_pass(written, text=None):
    """The same logits without cache.
    text (n,) bool: which positions may look; None: as trained."""
    inputs = inputs_of(torch.cat([head, written[None]], dim=1))
    if text is not None:
        inputs["text_mask"] = inputs["text_mask"] & text
    return (
        model.llm(**inputs, use_cache=False).logits[0, -len(written) - 1 : -1].float()
    )


# %%
head = torch.tensor(
    [prompt_ids(tokenizer, settings.data.prompt, settings.llm.image_in_prompt)],
    device=device,
)
with torch.no_grad():
    ids_open, logits_open = write_greedily()
    whole = one_pass(ids_open)
right = (logits_open - whole).abs().max()
print(f"cached steps against one pass, largest difference of a logit: {right:.0e}")

# %%
with torch.no_grad(), open_at_prefill_only(model.llm):
    ids_shut, logits_shut = write_greedily()
with torch.no_grad():
    finished = inputs_of(torch.cat([head, ids_shut[None]], dim=1))["inputs_embeds"]
    length = finished.shape[1]
    prompt_only = torch.arange(length, device=device) < length - len(ids_shut)
    whole_shut = one_pass(ids_shut, prompt_only)
defect = (logits_shut - whole_shut).abs().max()
print(f"with the defect, against a text_mask of the prompt alone: {defect:.0e}")
# bfloat16 rounds more
assert max(right, defect) < (1e-3 if model.llm.dtype == torch.float32 else 0.5)
print("with the defect: first token equal:", bool(ids_open[0] == ids_shut[0]))
print("all tokens equal:", torch.equal(ids_open, ids_shut))

# %%
from emrrg_lib.interpret.figures_training import gate_steps


def gates_while_writing():
    """Mean |gate| over the hybrid layers at every position, as called in generation."""
    with torch.no_grad(), recording(model.llm) as calls:
        write_greedily()
    # (positions,) each
    layers = [torch.cat([gate[0] for gate, _ in made]) for made in calls.values()]
    return torch.stack(layers).abs().mean(dim=0).float().cpu().numpy()


curves = {"this kit": gates_while_writing()}
with open_at_prefill_only(model.llm):
    curves["with the defect"] = gates_while_writing()
gate_steps(curves, inputs_of(head)["inputs_embeds"].shape[1])

# %% [markdown]
# *Gates along the sequence, mean over the hybrid layers. Left: as it should be. Right: the report's
# own words, but for the first, are chosen with closed gates.*
#
# Second: what does it cost? 24 studies that the model has not seen, written three times: gates as
# trained, gates open at the prefill only (the defect), gates closed. Greedy, for speed. Precision,
# recall and F1 are those of the findings that a labeler reads in the reports (notebook 06).

# %%
from emrrg_lib.evaluation import clinical_scores, label_report

many = [draw_study(7, index, settings.encoder.image_size) for index in range(600, 624)]
written = {"as trained": model.generate(many, num_beams=1)}
with open_at_prefill_only(model.llm):
    written["open at the prefill only"] = model.generate(many, num_beams=1)
with gates_scaled(model.llm, dict.fromkeys(hybrid_modules(model.llm), 0.0)):
    written["closed"] = model.generate(many, num_beams=1)

# %%
rows = {}
for gates, texts in written.items():
    micro = clinical_scores(
        [each.labels for each in many], [label_report(text) for text in texts]
    )["micro"]
    as_blind = sum(a == b for a, b in zip(texts, written["closed"], strict=True))
    rows[gates] = {
        "different reports": len(set(texts)),
        "same as closed": as_blind,
        "precision": micro["P"],
        "recall": micro["R"],
        "finding F1": micro["F1"],
    }
pd.DataFrame(rows).transpose().map("{:.2g}".format)

# %% [markdown]
# Compare the second row with the third. A model that sees the image while it reads the prompt, and
# then no more, writes (nearly) what it writes blind: at the prefill only one word is chosen, and
# most reports begin alike. The loss curve would not show it: training runs without a cache, all
# positions at once, and sees no defect. Only a generated report shows it.
#
# ## Visual tokens in the prompt, or not
#
# §3.4 says that "all hidden states participate in self-attention" and "only text-derived queries"
# in cross-attention. That makes sense if visual tokens are in the prompt too. The kit has three
# settings, `visual_in_prompt`:
#
# | setting | in the prompt | presets |
# |---|---|---|
# | `none` | text alone: the image can come only through the gates | tiny, laptop |
# | `pooled` | means of 2 × 2 patches | – |
# | `all` | every visual token, between `<Img>` and `</Img>` | the paper's |
#
# The question that decides how a gate is to be read: with all gates **closed**, does another image
# change the model's next word?

# %%
other_pixels, other_mask = study_set.pixels(
    [draw_study(7, 12, settings.encoder.image_size)], settings
)
with torch.no_grad():
    other_states, _ = model.encode(other_pixels, other_mask)


# %%
def another_image(choice):
    """One row of the table: the prompt of this choice, all gates closed."""
    llm_settings = replace(settings.llm, visual_in_prompt=choice)
    model.settings = replace(settings, llm=llm_settings)
    ids = prompt_ids(tokenizer, settings.data.prompt, choice != "none")
    ids = torch.tensor([ids], device=device)
    closed = dict.fromkeys(hybrid_modules(model.llm), 0.0)
    logits = []
    with torch.no_grad(), gates_scaled(model.llm, closed):
        for image in (states, other_states):
            given = model.llm_inputs(ids, torch.ones_like(ids), image, visual_mask)
            logits.append(model.llm(**given, logits_to_keep=1).logits.float())
    model.settings = settings
    return {
        "tokens the LLM reads": given["inputs_embeds"].shape[1],
        "of them text": int(given["text_mask"].sum()),
        "another image moves a logit by": float((logits[0] - logits[1]).abs().max()),
    }


rows = {choice: another_image(choice) for choice in ("none", "pooled", "all")}
pd.DataFrame(rows).transpose().map("{:.3g}".format)

# %% [markdown]
# With `none` a closed gate means *blind*, exactly. With visual tokens in the prompt the image has a
# second way in, through self-attention, and a small gate no longer says that a word ignores the
# image. (This model was trained with `none`; the other two rows show which ways exist, not how well
# it would write. They also cost: self-attention over more tokens. The marks `<Img>` and `</Img>` are
# text, hence the longer text.)
#
# ## The paper, the release, this kit
#
# | | paper | released code | this kit |
# |---|---|---|---|
# | hybrid layers | 0, 8, 16, 24 (§4.2) | never switched on by a script | tiny: all; iu-xray: 0, 6, 12, 18 |
# | gate reads | normalised hidden state (Fig. 2) | S | S; `gate_input = "H"` for the figure |
# | g_s | "warm-up scalar", starts at 0 | tanh(α), or α without tanh | tanh(α) |
# | X′ is added to | the "textual embedding" X_t | S, before o_proj | the same |
# | cached steps | not mentioned | blind | see the image |
# | W_k, W_v start | not mentioned | new, or copied in a mixed-up order | `kv_init`: new, or copied |
#
# Qwen1.5-1.8B, the paper's model for IU X-ray, has 24 layers: there is no index 24. What one hybrid
# layer adds, counted on the real architectures without their weights:

# %%
from emrrg_lib.files import InputError
from emrrg_lib.language.llm import build_llm

for name in ("qwen1.5-1.8b", "llama2-7b"):
    with torch.device("meta"):
        big = build_llm(name)
        sizes = big.config
        added = sum(
            p.numel()
            for p in hybrid_modules(install_hybrid_layers(big, [0]))[0].parameters()
        )
    own = sum(p.numel() for p in big.get_decoder().layers[1].parameters())
    print(
        f"{name}: {sizes.num_hidden_layers} layers of {own:,}; "
        f"a hybrid one adds {added:,} ({added / own:.0%})"
    )

# %%
try:
    with torch.device("meta"):
        install_hybrid_layers(build_llm("qwen1.5-1.8b"), [0, 8, 16, 24])
except InputError as error:
    print(textwrap.fill(f"the paper's indices on Qwen1.5-1.8B: {error}", 88))

# %% [markdown]
# The tiny preset differs in size, in `visual_in_prompt = none`, and in having every layer hybrid.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · What a layer adds *(easy, 5 minutes)*
#
# **Why.** The paper's new idea is the gate; its cost is elsewhere.
#
# Write the number of new parameters of one hybrid layer. `hidden` is D, the width of the visual
# tokens; S holds `heads` · `head_dim` numbers a word; keys and values have `kv_heads` heads. Linear
# layers have a bias.
#
# <details><summary>Hint</summary>
#
# Four parts: k_proj and v_proj lead from D to kv_heads · head_dim; gate_proj leads from S to one
# number; α is one number.
#
# </details>


# %%
def added_parameters(hidden, heads, kv_heads, head_dim):
    """New parameters of one hybrid layer."""
    return None  # your code


# %%
# Check 1
from emrrg_lib.course.checks.nb04 import check_1

check_1(added_parameters)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# def added_parameters(hidden, heads, kv_heads, head_dim):
#     keys_and_values = 2 * (hidden + 1) * kv_heads * head_dim
#     gate, alpha = heads * head_dim + 1, 1
#     return keys_and_values + gate + alpha
# ```
#
# Nearly all of it is W_k and W_v. The gate, the paper's new idea, is 2,049 of 8,394,754 numbers.
#
# </details>
#
# ### Exercise 2 · Eq. 1 with grouped heads *(medium, 8 minutes)*
#
# **Why.** Nearly every language model of today groups its heads; pairing them wrongly raises no error.
#
# In many language models several heads share one pair of keys and values: with 6 heads and 2
# kv_heads, heads 0, 1, 2 use the first pair and 3, 4, 5 the second. Write Eq. 1 for this case.
#
# <details><summary>Hint</summary>
#
# `K.repeat_interleave(times, dim=0)` gives every head its own K. At the end transpose (heads, n, h)
# to (n, heads, h) and flatten the last two.
#
# </details>


# %%
def cross_attention(q, K, V):
    """q (heads, n, h); K, V (kv_heads, M, h)
    → X′ (n, heads · h), heads side by side."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb04 import check_2

check_2(cross_attention)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def cross_attention(q, K, V):
#     K, V = (t.repeat_interleave(len(q) // len(t), dim=0) for t in (K, V))
#     weights = torch.softmax(q @ K.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)  # (heads, n, M)
#     return (weights @ V).transpose(0, 1).flatten(1)
# ```
#
# `repeat` in place of `repeat_interleave` gives the right shape and the wrong pairs. It is a mistake
# that was made in a well-known library, in another model.
#
# </details>
#
# ### Exercise 3 · A mask that holds *(easy, 4 minutes)*
#
# **Why.** A batch mixes studies of one and of two views; an absent view must not be seen.
#
# Write the softmax over the valid tokens only. What is not valid gets exactly 0, whatever its score.
#
# <details><summary>Hint</summary>
#
# `masked_fill(~valid, …)` before the softmax. Which score has the exponential 0?
#
# </details>


# %%
def masked_softmax(scores, valid):
    """scores (n, M), valid (M,) bool, True = there → weights (n, M);
    each row sums to 1."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb04 import check_3

check_3(masked_softmax)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def masked_softmax(scores, valid):
#     return scores.masked_fill(~valid, float("-inf")).softmax(dim=-1)
# ```
#
# A row in which nothing is valid would be NaN. The model never makes one: a study without any view
# is refused with a sentence.
#
# </details>
#
# ### Exercise 4 · Eq. 2 *(medium, 10 minutes)*
#
# **Why.** This line is what the paper adds to a decoder layer.
#
# Write S + X′ · g_d · g_s with g_d = tanh(w_g · S + b_g), **one number per word**, and g_s = tanh(α). The
# heads are side by side already: S and X are (n, width), w_g is (width,), b_g and alpha are tensors of
# one number. Leave S as it is. The check goes from a closed gate over the warm-up to the dynamic gate.
#
# <details><summary>Hint</summary>
#
# `S @ w_g` is (n,). To multiply each *row* of X by its own number, give it a second axis: `[:, None]`.
#
# </details>


# %%
def gated_update(S, X, w_g, b_g, alpha):
    """S, X (n, width), w_g (width,), b_g and alpha one number → the new S, Eq. 2."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb04 import check_4

check_4(gated_update)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def gated_update(S, X, w_g, b_g, alpha):
#     g_d = torch.tanh(S @ w_g + b_g)  # (n,)
#     return S + X * g_d[:, None] * torch.tanh(alpha)
# ```
#
# Without `[:, None]` it fails for n ≠ width, and where n = width it runs and gives each *channel* the
# gate of a word. A check on a square case is worth having.
#
# </details>
#
# ### Exercise 5 · The layer *(hard, 20 minutes)*
#
# **Why.** Exercises 1 to 4 are its parts; as a module it has weights that can be trained and saved.
#
# Write the module with `k_proj`, `v_proj` (hidden → kv_heads · head_dim), `gate_proj` (heads · head_dim
# → 1), all `nn.Linear` with bias, and the parameter `warm_up`, α, which starts at 0. Its forward takes
# a batch: S (B, n, heads · h), query (B, heads, n, h), image (B, M, hidden), normalised already, and
# valid (B, M) bool or None. It gives the new S.
#
# <details><summary>Hint</summary>
#
# `k_proj(image).unflatten(-1, (kv_heads, h)).transpose(1, 2)` is (B, kv_heads, M, h). Share the pairs
# with `repeat_interleave(…, dim=1)`. The mask needs the shape (B, 1, 1, M). X′ (B, heads, n, h) back to
# (B, n, heads · h): `transpose(1, 2).flatten(2)`.
#
# </details>


# %%
class GatedLayer(nn.Module):
    """Eq. 1 and 2 with grouped heads."""

    def __init__(self, hidden, heads, kv_heads, head_dim):
        super().__init__()
        raise NotImplementedError  # your code in place of this line

    def forward(self, S, query, image, valid=None):
        """→ the new S, (B, n, heads · head_dim)."""
        raise NotImplementedError  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb04 import check_5

check_5(GatedLayer)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# class GatedLayer(nn.Module):
#     def __init__(self, hidden, heads, kv_heads, head_dim):
#         super().__init__()
#         self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
#         self.k_proj = nn.Linear(hidden, kv_heads * head_dim)
#         self.v_proj = nn.Linear(hidden, kv_heads * head_dim)
#         self.gate_proj = nn.Linear(heads * head_dim, 1)
#         self.warm_up = nn.Parameter(torch.zeros(1))
#
#     def split(self, x):
#         pairs = x.unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
#         return pairs.repeat_interleave(self.heads // self.kv_heads, dim=1)  # (B, heads, M, h)
#
#     def forward(self, S, query, image, valid=None):
#         K, V = self.split(self.k_proj(image)), self.split(self.v_proj(image))
#         scores = query @ K.transpose(2, 3) / self.head_dim**0.5
#         if valid is not None:
#             scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
#         X = (scores.softmax(-1) @ V).transpose(1, 2).flatten(2)
#         return S + X * torch.tanh(self.gate_proj(S)) * torch.tanh(self.warm_up)
# ```
#
# </details>
#
# ### Exercise 6 · Into one decoder layer *(hard, 15 minutes)*
#
# **Why.** A layer beside a model does nothing. Hugging Face's attention interface lets you put it
# inside without copying a line of the model's code.
#
# The function below is called by *every* self-attention of the model, with `module`, the attention
# itself. Its first line runs the model's own attention. You write the rest: where `module` has an
# attribute `cross`, a layer as in exercise 5, call it with S, the query and `module.image`, and return
# its result in the place of `output`; else return `output` as it is. Return the pair (output, weights).
#
# <details><summary>Hint</summary>
#
# `output` is (B, n, heads, h), and S is `output.flatten(2)`. `unflatten(2, output.shape[2:])` leads
# back. `getattr(module, "cross", None)` is None where there is no such layer.
#
# </details>

# %%
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def attention_with_image(module, query, key, value, attention_mask, **rest):
    """query (B, heads, n, h) → output before o_proj (B, n, heads, h), and weights."""
    output, weights = sdpa_attention_forward(
        module, query, key, value, attention_mask, **rest
    )
    raise NotImplementedError  # your code in place of this line


# %%
# Check 6
from emrrg_lib.course.checks.nb04 import check_6

check_6(attention_with_image)

# %% [markdown]
# <details><summary>Solution 6</summary>
#
# ```python
# def attention_with_image(module, query, key, value, attention_mask, **rest):
#     output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
#     cross = getattr(module, "cross", None)
#     if cross is not None:
#         mixed = cross(output.flatten(2), query, module.image)
#         output = mixed.unflatten(2, output.shape[2:])
#     return output, weights
#
#
# from transformers import AttentionInterface
# from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
#
# AttentionInterface.register("by_hand", attention_with_image)
# AttentionMaskInterface.register("by_hand", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
# plain, _ = load_llm(settings.llm.name)
# with torch.no_grad():
#     untouched = plain(prompt).logits
#     plain.set_attn_implementation("by_hand")
#     attention, sizes = plain.model.layers[1].self_attn, plain.config
#     attention.cross = GatedLayer(sizes.hidden_size, sizes.num_attention_heads,
#                                  sizes.num_key_value_heads, attention.head_dim)  # exercise 5
#     attention.image = plain.model.layers[1].input_layernorm(some_image)
#     print("α = 0, untouched:", torch.equal(plain(prompt).logits, untouched))
#     attention.cross.warm_up.fill_(1.0)
#     print("α = 1, logits moved by", float((plain(prompt).logits - untouched).abs().max()))
# ```
#
# The check compares with the kit's `install_hybrid_layers`. The kit hands the image over as a keyword of
# the call instead of an attribute: so two texts with two images cannot get in each other's way.
#
# </details>
#
# ### Exercise 7 · A cached step that sees the image *(hard, 25 minutes)*
#
# **Why.** It is the defect of this notebook, written by you, the right way round.
#
# `llm` has a hybrid layer, installed by `install_hybrid_layers`; its forward takes `visual_states`. Write
# `steps` words greedily, each the likeliest after what is there, **with the cache**: first one call
# with the whole prompt, `ids` (1, n), then one call a word, with that word alone and the
# `past_key_values` of the call before. No call for a word that nobody asks for. Return the new words'
# ids as a list. The check listens to the calls, and compares the words with those written without a
# cache, of a model that sees the image at the prefill only, and of one that never sees it.
#
# <details><summary>Hint</summary>
#
# `out = llm(input_ids=…, visual_states=image, past_key_values=cache, use_cache=True)`, with `cache = None`
# at first; `out.past_key_values` is the next cache; `out.logits[:, -1:].argmax(-1)` is the next word, of
# the shape (1, 1) that the next call wants.
#
# </details>


# %%
def write(llm, ids, image, steps):
    """ids (1, n), image (1, M, D) → the ids of `steps` new words."""
    return None  # your code


# %%
# Check 7
from emrrg_lib.course.checks.nb04 import check_7

check_7(write)

# %% [markdown]
# <details><summary>Solution 7</summary>
#
# ```python
# @torch.no_grad()
# def write(llm, ids, image, steps):
#     words, cache, word = [], None, ids
#     for _ in range(steps):
#         out = llm(input_ids=word, visual_states=image, past_key_values=cache, use_cache=True)
#         cache, word = out.past_key_values, out.logits[:, -1:].argmax(-1)
#         words.append(int(word))
#     return words
#
#
# ours = write(model.llm, head, states, len(ids_open))
# print("the words of the kit's own generation:", ours == ids_open.tolist())
# ```
#
# The image is no part of the cache of the text: it has to be handed over at each call. The kit keeps
# the image's keys and values beside it, so that they are computed once.
#
# </details>
#
# ### Exercise 8 · What the image gives each word *(bonus, hard, 8 minutes)*
#
# **Why.** It is the measure that a gate is not.
#
# The gate says how much a word took in, not whether it helped. Measure that: how much more probable
# does the image make each word of the report? The measure is a difference of two log p, in nats (with
# the natural logarithm). `with_image` and `blind` are logits of one pass over `ids`, with gates as
# trained and with gates closed.
#
# <details><summary>Hint</summary>
#
# The logits at position t predict the token at t + 1. `log_softmax(-1)`, drop the last position,
# pick the columns `ids[1:]`, subtract.
#
# </details>


# %%
def image_gain(with_image, blind, ids):
    """(n, vocabulary) twice, (n,) → (n − 1,):
    log p(token | image) − log p(token | no image)."""
    return None  # your code


# %%
# Check 8
from emrrg_lib.course.checks.nb04 import check_8

check_8(image_gain)

# %% [markdown]
# <details><summary>Solution 8</summary>
#
# ```python
# def image_gain(with_image, blind, ids):
#     at, tokens = torch.arange(len(ids) - 1), ids[1:].cpu()
#     seen, unseen = with_image.log_softmax(-1).cpu(), blind.log_softmax(-1).cpu()
#     return seen[at, tokens] - unseen[at, tokens]
#
#
# inputs = inputs_of(torch.cat([head, ids_open[None]], dim=1))
# with torch.no_grad():
#     with_image = model.llm(**inputs).logits[0, -len(ids_open) - 1:].float()
#     with gates_scaled(model.llm, dict.fromkeys(hybrid_modules(model.llm), 0.0)):
#         blind = model.llm(**inputs).logits[0, -len(ids_open) - 1:].float()
# gains = image_gain(with_image, blind, torch.cat([head[0, -1:], ids_open]))
# for gain, piece in sorted(zip(gains.tolist(), tokenizer.batch_decode(ids_open[:, None])), reverse=True)[:8]:
#     print(f"{gain:+6.2f} nats {piece}")
# ```
#
# Gains appear where a choice is made, at the word that turns a normal sentence into a finding; the
# words that follow from it gain little, and a gain can be negative. Compare with the strip above: a
# gate may be wide open at a word that gains nothing.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Cross-attention asks with the queries that self-attention has already; new are W_k, W_v, the gate
#   and α.
# - The gate is one number for each word, the warm-up one number for each layer. At α = 0 the language
#   model is untouched, bit for bit, and only α has a gradient.
# - A gate is no valve unless something makes it one: a price, a sign that cannot turn, missing images.
# - Masks are exact: an absent view changes no bit, a masked row keeps every bit.
# - A layer that forgets the image on cached steps writes blind, and no loss curve shows it.
# - Visual tokens in the prompt are a second way in: then a closed gate is not blindness.
#
# **Quiz.**
#
# <details><summary>1. α starts at 0. Why does the layer learn at all?</summary>
#
# tanh(0) = 0, but its slope there is 1: α itself has a gradient, X′ · g_d. Once it has moved, the others
# have one too.
#
# </details>
# <details><summary>2. A word's gate is −0.9. Does it ignore the image?</summary>
#
# No. It subtracts X′ nearly in full. Only a gate near 0 lets nothing in, and even an open gate does not
# prove that the word needed the image.
#
# </details>
# <details><summary>3. The training loss is fine, the reports are blind. Where do you look first?</summary>
#
# At the cached steps: compare them with one pass over the finished report. Training has no cache, so
# its loss cannot show the defect.
#
# </details>
#
# **Further reading.** Alayrac et al., *Flamingo* ([arXiv 2204.14198](https://arxiv.org/abs/2204.14198)),
# whose tanh gate is the model of g_s · Vaswani et al., *Attention Is All You Need* ([arXiv
# 1706.03762](https://arxiv.org/abs/1706.03762)) · Ainslie et al., *GQA* ([arXiv
# 2305.13245](https://arxiv.org/abs/2305.13245)), on grouped heads · Wang et al., *R2GenGPT* ([arXiv
# 2309.09812](https://arxiv.org/abs/2309.09812)).
#
# Read on in the code: [the gated cross-attention](../emrrg_lib/language/cross_attention.py), [its
# installation](../emrrg_lib/language/hybrid_decoder.py), [the tests of
# both](../tests/language/test_hybrid_decoder.py).
#
# [← 03](03_partial_lora.ipynb) · [05 →](05_training_iu_xray.ipynb)
