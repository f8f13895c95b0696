# %% [markdown]
# # 00 · Start here
#
# **Goal.** See the whole of EMRRG at work once: an X-ray goes in, a report comes out, and you can
# say which word used the image, where it looked, and what the scores of such a model are worth.
#
# | | |
# |---|---|
# | **You need** | to be able to read a Python function; to know what a neural network layer is |
# | **Time** | about 25 minutes of reading; 25 minutes for exercises 1 to 3, 20 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, 1 minute to run (2 the first time: the scan is compiled) |
# | **GPU** | not needed; nothing is downloaded |
# | **Paper** | EMRRG, arXiv 2510.16776, §3 and Table 1 |
#
# **You will be able to**
#
# - follow an X-ray through the model, and count its visual tokens (exercise 1);
# - open and close the gates of a trained model and see what the image does to a report (exercise 2);
# - score the findings of a report (exercise 3);
# - set a control beside a score: the best report that sees no image (exercise 4, bonus).
#
# **Contents.** [What this kit is](#What-this-kit-is) ·
# [The picture of the model](#The-picture-of-the-model) ·
# [The smallest version that works](#The-smallest-version-that-works) ·
# [A trained tiny model](#A-trained-tiny-model) · [One study](#One-study) ·
# [Where a word looks](#Where-a-word-looks) · [Two experiments](#Two-experiments) ·
# [The score table and its controls](#The-score-table-and-its-controls) ·
# [What the paper reports](#What-the-paper-reports) · [Exercises](#Exercises) · [Summary](#Summary) ·
# [Where to go next](#Where-to-go-next)
#
# This is the first notebook of the course; the map of the course is at the end.
#
# > **Every X-ray in this notebook is synthetic.** PhantomCXR draws it from geometry; there is no patient
# > behind it. The model you meet has seen nothing else. Nothing in this kit is for clinical use.

# %% [markdown]
# ## What this kit is
#
# EMRRG writes the report of a chest X-ray in three moves: a **Vision Mamba** encoder turns the
# image into tokens, **Partial LoRA** tunes that encoder with a few weights, and a frozen language
# model reads the tokens through a **gated cross-attention** and writes. This kit is a course on
# those three ideas and a laboratory to measure them. It makes three promises:
#
# 1. **The same code at every size.** The *tiny* model of this notebook, a *laptop* model with a real
#    small language model, and the paper's GPU models are the same classes with other numbers; the
#    numbers are in `config.py` only.
# 2. **It does what the paper says.** The code released with the paper does not: once its X adapter is
#    switched on, every block runs the last block's mixer; and its hybrid layers are never switched on.
#    Notebook 10 is about the differences.
# 3. **It measures honestly.** A model's score comes with *controls*: the score of one constant
#    report, the score after the images are shuffled, the score of a language model that writes
#    blind. You will see below why that matters.

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
import json
import re
from textwrap import fill

import numpy as np
import pandas as pd
import torch

import emrrg_lib
from emrrg_lib.course.notebook import glossary, open_profile, own_run
from emrrg_lib.run import doctor

run = own_run()  # yours, if `make demo` has made one, else the one shipped with the kit
print("kit", emrrg_lib.__version__, "· run folder", f"{run.parent.name}/{run.name}")

# %% [markdown]
# ## Is this machine ready?
#
# The doctor runs each thing instead of looking for its name. `OK` works; `MISSING` comes with the
# command that repairs it. Lines marked *(optional)* may be missing: on a laptop without a GPU two of
# them always are. The same list comes from `emrrg doctor` in a terminal.

# %%
checks = doctor.check_machine()
# Folders are shortened: a notebook that you hand on should not show where you keep
# your files.
for line in re.sub(r"(/[\w.+-]+)+/", "…/", doctor.report(checks)).splitlines():
    print(fill(line, 88, subsequent_indent=" " * 29, replace_whitespace=False))

# %% [markdown]
# ## The picture of the model
#
# Follow the arrows once, top left to bottom right. This picture comes back in every notebook, with
# the part of that lesson lit. Here it carries the sizes of the tiny model.

# %%
model, settings, picture = open_profile(run)
picture

# %% [markdown]
# **In words**, along the arrows. ① The X-ray is cut into patches; each becomes a token. ② Mamba
# blocks let the tokens exchange what they know, by scanning them along rows and columns, both ways.
# The blocks are frozen: only the orange low-rank pairs learn. ③ A projector brings the tokens to the
# width of the language model. ④ In the *hybrid* layers of the language model every word asks the
# tokens a question (cross-attention) and a **gate** decides how much of the answer gets in. ⑤ The
# report is written word by word.
#
# A snowflake marks what is frozen, a flame what learns in *stage 3*, the training on image and
# report together. Stages 1 and 2 have pre-trained the encoder before (notebook 08).
#
# The letters of the paper and their names in the code, as far as this notebook needs them. A shape
# lists the sizes of a tensor's axes: B studies, L = M + 1 tokens of one view, n words, h numbers per
# head. Where a letter has two meanings, a word in brackets says which.

# %%
glossary("M, d, D (width), V_s, q, S, X′, W_k, W_v, w_g, b_g, α")

# %% [markdown]
# ## The smallest version that works
#
# The heart of the model is one line (paper, Eq. 1 and 2):
#
# $$X' = \mathrm{softmax}\!\left(\frac{q\,(W_k V_s)^\top}{\sqrt{h}}\right) W_v V_s$$
# $$S \leftarrow S + X' \cdot \tanh(w_g \cdot S + b_g) \cdot \tanh(\alpha)$$
#
# A row of `S` is what one word knows, and a row of `q` is its question, h numbers
# long. `V_s` holds the visual tokens, one row per patch. `W_k` makes of each token a *key*, which is compared
# with the question; `W_v` makes of it a *value*, the answer. `X′` is what the image answers. The two `tanh`
# are the gate, one number per word: how much of its answer gets in. Here it is with one head, three words
# and four patches.


# %%
def gated_look(S, q, V_s, W_k, W_v, w_g, b_g, alpha):
    """S, q: (words, h). V_s: (patches, D). W_k, W_v: (h, D).
    Returns the new S, the attention and the gate."""
    keys, values = V_s @ W_k.T, V_s @ W_v.T  # (patches, h)
    # (words, patches), each row sums to 1
    attention = torch.softmax(q @ keys.T / keys.shape[1] ** 0.5, dim=-1)
    X = attention @ values  # (words, h): what each word fetched
    gate = torch.tanh(S @ w_g + b_g) * torch.tanh(alpha)  # (words,)
    return S + X * gate[:, None], attention, gate


draw = torch.Generator().manual_seed(0)
S, q = torch.randn(2, 3, 8, generator=draw)  # three words, h = 8
V_s = torch.randn(4, 8, generator=draw)  # four patches, D = 8
W_k, W_v = torch.randn(2, 8, 8, generator=draw)
w_g, b_g = torch.randn(8, generator=draw), torch.tensor(0.1)
weights = W_k, W_v, w_g, b_g

new_S, attention, gate = gated_look(S, q, V_s, *weights, torch.tensor(0.7))
print("attention, words x patches:\n", attention.numpy().round(2))
print("gate of each word:", gate.numpy().round(2))

# %% [markdown]
# **Check.** With α = 0 every gate is 0, and nothing may change, not even the last bit. Training
# starts there, so that the new parts cannot disturb the language model at first; α then opens them.
# The paper calls that *warm-up*.

# %%
untouched, _, closed = gated_look(S, q, V_s, *weights, torch.tensor(0.0))
assert torch.equal(untouched, S) and not closed.any()
assert not torch.equal(new_S, S)
print("alpha = 0: S is unchanged, bit for bit.  alpha = 0.7: it is not.")

# %% [markdown]
# ## The real one is the same
#
# `GatedCrossAttention` of the library is this function with several heads, with masks, and with a
# cache, so that the image is not read again for every word. Given the same weights it gives the same
# numbers.

# %%
from emrrg_lib.language.cross_attention import GatedCrossAttention

real = GatedCrossAttention(
    hidden=8, heads=1, kv_heads=1, head_dim=8, norm=torch.nn.Identity()
)
with torch.no_grad():
    for projection, weight in ((real.k_proj, W_k), (real.v_proj, W_v)):
        projection.weight.copy_(weight)
        projection.bias.zero_()
    real.gate_proj.weight.copy_(w_g[None])
    real.gate_proj.bias.fill_(b_g)
    real.warm_up.fill_(0.7)
    theirs = real(
        S[None],
        q[None, None],
        visual_states=V_s[None],
        visual_mask=None,
        text_mask=None,
    )[0]
print("largest difference:", float((new_S - theirs).abs().max()))
assert torch.allclose(new_S, theirs, atol=1e-5)

# %% [markdown]
# ## A trained tiny model
#
# The model loaded above is a finished run of `make demo`. A run folder holds everything that
# restores it: `config.json` (sizes and choices), `trained.safetensors` (only what was trained),
# `run.json` (seed, versions, minutes), `metrics.json` (scores). Its map, part by part:

# %%
from emrrg_lib.run.costs import describe_map as model_map

head, table = model_map(settings).split("\n\n")
print(fill(head, 88), table, sep="\n\n")

# %% [markdown]
# Look at the last column: most of the model is *frozen*. What learns is Partial LoRA in the
# encoder, the projector, and the cross-attention with its gate. In this preset the visual tokens
# are **not** put into the prompt, the fixed instruction before the report: the image can
# reach the report only through the gates. So the gates mean something.
#
# ## The same classes, other numbers
#
# A *preset* is a set of such numbers. Below, each preset is built without any weights (PyTorch's
# device "meta" keeps shapes only), and its parameters are counted.

# %%
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import PRESETS
from emrrg_lib.tuning.policy import ledger

sizes = []
for name, config in PRESETS.items():
    with torch.device("meta"):
        entries = ledger(EMRRG.from_sizes(config))
    encoder, hybrid = config.encoder, config.llm.hybrid_layers
    mamba = f"d = {encoder.embed_dim}, {encoder.depth} blocks"
    sizes.append(
        {
            "preset": name,
            "pixels": encoder.image_size,
            "encoder": mamba if encoder.kind == "mamba" else config.encoder_weights,
            "language model": config.llm.name,
            "hybrid layers": ", ".join(map(str, hybrid)) or "–",
            "million weights": round(sum(e.parameters for e in entries) / 1e6, 2),
            "million trained": round(sum(e.trained for e in entries) / 1e6, 2),
        }
    )
pd.DataFrame(sizes).set_index("preset")

# %% [markdown]
# *iu-xray*, *mimic-cxr* and *chexpert-plus* are the paper's systems; the last three are the systems
# that it grew out of, for comparison. They need a GPU and weights that we may not hand out:
# `emrrg info --preset iu-xray` prints the map of a preset, `emrrg ledger --preset iu-xray` its exact
# counts beside the published ones (notebook 03 takes them apart), and a missing weight is answered
# with where to get it.
#
# ## One study
#
# The patients of PhantomCXR, each with a frontal and a lateral view:

# %%
from emrrg_lib.course.notebook import contact_sheet

contact_sheet()

# %% [markdown]
# PhantomCXR knows thirteen kinds of finding. A study is fixed by two numbers, the seed of the data
# set and its index. The model was trained on other seeds, so it has never seen the studies below.
# Study 654 was taken for its findings, before any report was written for it; study 12 has none.

# %%
from emrrg_lib.data import study_set
from emrrg_lib.phantom import draw_study

size = settings.encoder.image_size
study, other = draw_study(7, 654, size), draw_study(7, 12, size)
# its two views (2, 3, H, W) and where they are (1, 2)
pixels, mask = study_set.pixels([study], settings)
other_pixels, other_mask = study_set.pixels([other], settings)
print("pixel_values", tuple(pixels.shape), "· view_mask", tuple(mask.shape))
for name, each in (("study", study), ("other", other)):
    details = [(f["severity"], f["side"], f["place"], f["kind"]) for f in each.findings]
    drawn = ", ".join(" ".join(filter(None, detail)) for detail in details)
    print(f"\n{name}, drawn: {drawn or 'nothing abnormal'}")
    print(fill(f"reference: {each.report}", 88))

# %% [markdown]
# Now the model writes, by beam search: at each word it keeps the few likeliest beginnings of the
# report instead of one. `trace=True` also returns a **Trace**: the gate of every
# word in every hybrid layer, and where each word looked. Every figure reads the trace, none reads
# the model.

# %%
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.interpret import study_figure

reports, traces = model.generate(pixels, mask, trace=True)
report, trace = reports[0], traces[0]
# lower case, " . ": the form that is scored
reference = clean_report(study.report, settings.data.cleaning)
study_figure(study.images, reference, report, trace)

# %% [markdown]
# **How to read it.** *Yellow* marks runs of words that the two reports share. Sharing words is
# cheap: most reports say that there is no pneumothorax. Ask instead: are the findings named, on the
# right side? A radiograph is seen from the front, so the patient's right is on your left.
#
# In the gate strip each column is a word, each row a hybrid layer with its tanh α. White is 0: there
# the layer let nothing of the image in. Both colours let the image in, only with opposite sign; what
# counts is the depth of the colour. Words of grammar ("the", "is") follow from the words before them;
# words that *decide* something need the image. Is that what you see? Do not expect it of every
# column: training does not reward a closed gate, and an open one may bring an answer that changes no
# word. A colour says what *could* get in; two experiments below show what it changed.
#
# The program can read reports too: `label_report` finds 14 observations, as 1 (present), 0
# (denied), −1 (uncertain) or None (not mentioned).

# %%
from emrrg_lib.evaluation import clinical_scores, label_report

written = label_report(report)
table = pd.DataFrame(
    {"drawn": study.truth, "reference says": study.labels, "model says": written}
)
table = table.astype("Int64")  # whole numbers that may be missing
table[(table != 0).fillna(False).any(axis=1)]

# %% [markdown]
# ## The gate of a normal study
#
# The same strip for the other study, which has no finding. Compare: do the same kinds of word open
# the gate?

# %%
from emrrg_lib.interpret import gate_strip

other_reports, other_traces = model.generate(other_pixels, other_mask, trace=True)
other_report = other_reports[0]
print(fill(other_report, 88))
gate_strip(other_traces[0])

# %% [markdown]
# ## Where a word looks
#
# When the model chooses a word, cross-attention gives each patch of both views a weight (and
# the two cls tokens get the rest up to 100 %). Below: the first word that names a finding, the mean over the
# heads of one hybrid layer, with the true place of the finding outlined in cyan. The layer is the
# one that pointed best on *validation* studies; it is not chosen by looking at this one.

# %%
from emrrg_lib.interpret import attention_overlay, naming_words
from emrrg_lib.interpret.words import default_words

metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
pointing = metrics["pointing"]
layer = pointing["position"]  # among the hybrid layers
# a word that names a finding, where the report has one
word = default_words(trace, 1)[0]
finding = {item.word_index: item.finding for item in naming_words(trace)}.get(word)
drawn = [f["masks"] for f in study.findings if f["label"] == finding]
outline = np.any(drawn, axis=0) if drawn else None  # (view, H, W)
attention_overlay(study.images, trace, word, layer, masks=outline)

# %% [markdown]
# One picture proves nothing. The *pointing game* asks the question for all test studies: does the
# strongest patch lie on the finding, or at most one patch beside it? *Hit* is the share of findings
# where it does: once for the *word* that names the finding, once for its whole *sentence*, whose words
# also choose side and place. The other columns would hit without looking: *chance* is a random patch,
# *centre* the middle of the image, *usual place* the patch where this kind of finding lay most often in
# validation studies. Only a hit rate above the usual place proves that the attention follows *this*
# image; below it, knowing where such findings tend to lie would do as well. Read the rows *localised* and
# *small* first: there at most 25 % and 15 % of all patches count as a hit.

# %%
asked = {
    variant["token"]: pd.DataFrame(variant["rows"]).set_index("kind")
    for variant in pointing["variants"]
    if variant["map"] == "attention"
}
game = asked["predicts"][["cases", "hit", "chance", "centre", "place"]]
game.insert(2, "hit, sentence", asked["sentence"]["hit"])
game.rename(columns={"hit": "hit, word", "place": "usual place"}).round(2)

# %% [markdown]
# A model writes "There is a patchy", then "opacity", then "in the left upper lobe". What it needs to see
# for "opacity" it has often looked at before; for "left upper lobe" it must look again. So ask the sentence,
# not the noun, when you want to know where a model looked.

# %% [markdown]
# ## Two experiments
#
# Does it look at all?
#
# **Close the gates.** With every gate at 0 no image gets in. The report must then be exactly what
# the frozen language model writes from the prompt alone, for any X-ray.

# %%
from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules

layers = hybrid_modules(model.llm)  # {layer index: its GatedCrossAttention}
with gates_scaled(model.llm, dict.fromkeys(layers, 0.0)):
    blind = model.generate(pixels, mask)[0]
    blind_other = model.generate(other_pixels, other_mask)[0]

# %%
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.prompt import prompt_ids

# the language model as it was before this training
llm, tokenizer = load_llm(settings.llm.name)
prompt = torch.tensor([prompt_ids(tokenizer, settings.data.prompt)])
beam = settings.generation
with torch.no_grad():
    output = llm.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=beam.num_beams,
        max_new_tokens=beam.max_new_tokens,
        length_penalty=beam.length_penalty,
        early_stopping=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
alone = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()
assert blind == blind_other == alone
print(fill(f"gates closed, either study: {blind}", 88))
print(fill(f"gates open, this study: {report}", 88))

# %% [markdown]
# It reads well. It is fluent, it is often right, since many chests are normal, and it has not
# seen the X-ray. Remember it when you read scores.
#
# **Swap the images.** Give the model another study's image and compare with *this* study's
# reference. A model that looks must get worse; a model that recites stays the same.

# %%
rows = {
    "this study's image": report,
    "another study's image": other_report,
    "no image (gates closed)": blind,
}
swapped = []
for name, text in rows.items():
    micro = clinical_scores([study.labels], [label_report(text)])["micro"]
    named = [label for label, value in label_report(text).items() if value in (1, -1)]
    swapped.append(
        {
            "the model sees": name,
            "it names": ", ".join(named),
            "F1": round(micro["F1"], 2),
        }
    )
pd.DataFrame(swapped).set_index("the model sees")

# %% [markdown]
# One study is an anecdote. The score table does the same for the whole test split.
#
# ## The score table and its controls
#
# | row | meaning |
# |---|---|
# | **model (beam search)** | the reports as you saw them written |
# | greedy | the same model, which takes the likeliest next word every time |
# | gates closed | the language model alone |
# | shuffled images | the model's reports of other studies: right style, wrong patient |
# | constant report | one training report for everybody, the best on validation: needs no image |
# | most frequent, random training report | the commonest one for everybody; a random one for each study |
# | nearest neighbour | report of the training study with the most similar image: the encoder, but no writer |
# | oracle re-wording | the true findings in other words: a perfect reader, whose word overlap is far from 1 |
# | oracle, commonest wording | the same in the commonest words |
# | linear head | a supervised classifier on the same frozen encoder: what *can* be recognised; no text |
#
# *BLEU-4*, *METEOR* and *CIDEr* compare words. The *finding* columns compare the findings that
# `label_report` reads in both reports, 13 labels pooled, uncertain counted as present, without "No
# Finding". *Precision* is the share of the named findings that are true, *recall* the share of the
# true ones that are named, *F1* their harmonic mean, which is low as soon as one of them is.

# %%
show = {
    "Bleu_4": "BLEU-4",
    "METEOR": "METEOR",
    "CIDEr": "CIDEr",
    "CE13_micro_P": "finding precision",
    "CE13_micro_R": "finding recall",
    "CE13_micro_F1": "finding F1",
}
by_system = {row["system"]: row["metrics"] for row in metrics["rows"]}
scores = pd.DataFrame(by_system).T.reindex(columns=list(show))
print(f"{metrics['dataset']}, {metrics['split']} split of this run")
shown = scores.rename(columns=show).astype(float)
shown.map(lambda value: "–" if np.isnan(value) else f"{value:.3f}")

# %%
from emrrg_lib.interpret.figures_scores import score_bars

score_bars(
    metrics["rows"],
    {"Bleu_4": "BLEU-4 (words)", "CE13_micro_F1": "finding F1 (content)"},
)

# %% [markdown]
# **Read it in this order.**
#
# 1. *Model against constant report.* The part of the BLEU bar that the constant report already
#    reaches is worth nothing.
# 2. *Model against shuffled images, and against closed gates.* What is left there does not come
#    from looking. (No bar is an F1 of 0: such reports name no finding at all.)
# 3. *Model against the ceilings.* The oracle rows say how far word overlap can go, the linear head
#    how far recognition can.
# 4. *The black lines* are 95 % intervals. Two rows whose difference has an interval that holds 0
#    cannot be distinguished; the differences, paired study by study, come next.

# %%
for difference in metrics["differences"]:
    if difference["minus"] in ("constant report", "shuffled images", "gates closed"):
        low, high = difference["low"], difference["high"]
        verdict = "" if low > 0 or high < 0 else "  0 lies inside: no proven difference"
        name = show[difference["metric"]]
        what = f"{name:<10} model − {difference['minus']:<15}"
        print(f"{what} {difference['value']:+.3f}  [{low:+.3f}, {high:+.3f}]{verdict}")

# %% [markdown]
# And by finding: which does it recognise? The first column is the number of test studies
# that have the finding; an F1 from a dozen studies is little more than a guess. (Pneumonia, the
# thirteenth label, is a diagnosis that no phantom is drawn with.)

# %%
found = {
    name.removeprefix("CE_F1 "): value
    for name, value in by_system[metrics["rows"][0]["system"]].items()
    if name.startswith("CE_F1 ") and not name.endswith("No Finding")
}
per_finding = pd.DataFrame({"studies": metrics["support"], "model": found}).dropna()
if "linear head" in by_system:
    per_finding["linear head"] = {
        n: by_system["linear head"].get(f"CE_F1 {n}") for n in per_finding.index
    }
per_finding[per_finding["studies"] > 0].sort_values("studies", ascending=False).round(2)

# %% [markdown]
# ## What the paper reports
#
# The paper's Table 1 on IU X-ray, the standard benchmark (590 test studies of real patients),
# beside one row that the paper does not have: one training report, chosen on the validation split,
# given to every test study. `emrrg evaluate controls` measured it with this kit on the published split
# and the full cleaned references (the released code cuts them: notebook 10); `data/results/README.md`
# has the row with its intervals.
#
# | IU X-ray test split | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | ROUGE-L | METEOR | CIDEr |
# |---|---|---|---|---|---|---|---|
# | EMRRG (paper, Table 1) | .487 | .325 | .222 | .167 | .385 | .226 | .476 |
# | one constant report | .503 | .341 | .242 | .174 | .363 | .227 | .283 |
#
# That report sees no image, and in five of seven columns it is *ahead*. This does not say that
# EMRRG is blind. It says that these columns cannot show it. So no table of this kit comes without
# controls, and numbers on PhantomCXR are never set beside numbers on IU X-ray: the data are
# different and the phantom's language is far simpler.
#
# **Real X-rays.** Eighteen come with the kit, from NIH ChestX-ray14, without reports (notebooks 01, 02 and
# 07 show some). The kit reads IU X-ray, MIMIC-CXR and CheXpert Plus in the layouts in which they are
# handed out (`emrrg data check FOLDER` names every item that is missing or damaged), and `emrrg data
# fetch iu-xray` gets the public one. None of these three is part of the kit.
#
# What the tiny preset changes against the paper: 96-pixel synthetic images, an encoder and a
# language model of about one million weights each, two views side by side instead of their mean,
# visual tokens only in the cross-attention instead of also in the prompt.

# %% [markdown]
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs
# on.
#
# ### Exercise 1 · Count the tokens *(easy, 5 minutes)*
#
# **Why.** The visual tokens are all that the language model ever sees of the image.
#
# How many visual tokens does the language model see for one study of two views? Work it out from
# `settings.encoder` (the picture helps); the check asks the real model.
#
# <details><summary>Hint</summary>
#
# An image of side 96 in patches of side 8 has 12 patches along an edge. And one more token joins
# the patches of each view.
#
# </details>

# %%
visual_tokens = None  # your number

# %%
# Check 1
from emrrg_lib.course.checks.nb00 import check_1

visual_states = model.encode(pixels, mask)[0]  # (1, tokens, D)
check_1(visual_tokens, visual_states)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# visual_tokens = settings.data.max_views * (settings.encoder.num_patches + 1)  # 2 · (144 + 1) = 290
# ```
#
# The paper's 192-pixel images in patches of 16 make the same 144 patches: the tiny model is small,
# but not simplified.
#
# </details>
#
# ### Exercise 2 · Turn the gates *(medium, 10 minutes)*
#
# **Why.** The gate is the one place where the image gets in, so it is the place to ask.
#
# Write a function that writes the study's report with all gates scaled by `scale`. Then try 0,
# 0.25, 0.5, 1, 1.5: where do the findings appear?
#
# <details><summary>Hint</summary>
#
# `gates_scaled` above took a scale for each layer, all 0. It is a `with` block, so that the gates
# are as before afterwards.
#
# </details>


# %%
def write_with_gates(scale):
    """The report of `pixels`, `mask` with every gate multiplied by `scale`."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb00 import check_2

check_2(write_with_gates, layers, blind, report)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def write_with_gates(scale):
#     with gates_scaled(model.llm, dict.fromkeys(layers, scale)):
#         return model.generate(pixels, mask)[0]
#
#
# for scale in (0, 0.25, 0.5, 1, 1.5):
#     print(scale, write_with_gates(scale))
# ```
#
# Between 0 and 1 the report turns from the blind one into the model's own, often in jumps: a small
# change of the gate flips one decision and the rest of the sentence follows. Beyond 1 the model is
# outside of what it was trained for.
#
# </details>
#
# ### Exercise 3 · Score a report yourself *(medium, 10 minutes)*
#
# **Why.** A report is right if its findings are, whatever its words.
#
# Write micro-F1 for one study. Both arguments map the 14 observations to 1, 0, −1 or None, as
# `label_report` returns them. Three rules: uncertain (−1) counts as present, "No Finding" does not
# count, and where nothing is present on either side the score is 0.
#
# F1 = 2 · both / (present in the reference + present in the report)
#
# <details><summary>Hint</summary>
#
# Make two sets of names first, one a report; then `len(a & b)` is what both name.
#
# </details>


# %%
def finding_f1(reference_labels, generated_labels):
    """Micro-F1 of the 13 findings of one study, uncertain counted as present."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb00 import check_3

check_3(finding_f1)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def finding_f1(reference_labels, generated_labels):
#     reference_set, generated_set = (
#         {name for name, value in labels.items() if value in (1, -1) and name != "No Finding"}
#         for labels in (reference_labels, generated_labels)
#     )
#     total = len(reference_set) + len(generated_set)
#     return 2 * len(reference_set & generated_set) / total if total else 0.0
#
#
# print("this study:", finding_f1(study.labels, written))
# ```
#
# The rule "0 where nothing is present" has a consequence: in the average over studies, a correct
# report of a normal chest scores 0. That is why three averages are in use, and notebook 06 is about
# them.
#
# </details>
#
# ### Exercise 4 · The best report for everybody *(bonus, hard, 20 minutes)*
#
# **Why.** On IU X-ray this control is ahead of the paper's model in five of seven columns. Whoever
# publishes a score should know it.
#
# Write the control *constant report*: choose the one report of the training split that scores best, on
# average, against the references of the **validation** split; then give it to everybody in the **test**
# split. Return the report and its mean test score. The test split may be touched only once the report is
# chosen. `train`, `validation` and `test` are lists of reports; `score(reference, report)` gives a number,
# larger is better (it may be negative).
#
# <details><summary>Hint</summary>
#
# A helper `mean(report, references)`, then `max(train, key=...)`.
#
# </details>


# %%
def constant_report(train, validation, test, score):
    """The chosen training report and its mean score on the test references."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb00 import check_4

check_4(constant_report)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def constant_report(train, validation, test, score):
#     def mean(report, references):
#         return sum(score(ref, report) for ref in references) / len(references)
#
#     best = max(train, key=lambda report: mean(report, validation))
#     return best, mean(best, test)
# ```
#
# Chosen on the test split it would score higher still, and prove nothing. With *n* training and *m*
# validation reports this takes n · m scores; the library counts words once and computes all of them
# with one matrix product.
#
# </details>

# %% [markdown]
# ## Summary
#
# - EMRRG is an image encoder (Vision Mamba) and a frozen language model, joined by a **gated
#   cross-attention**; few weights are trained.
# - The gate is `tanh(w_g·S + b_g)·tanh(α)`, one number per word and layer. At α = 0 the language
#   model is untouched, bit for bit.
# - A **Trace** holds what a report did: gates and attention. Figures read it.
# - A fluent report may be a blind one. **Controls** (constant, shuffled, closed gates) and
#   **ceilings** (oracle, linear head) give a score its meaning.
#
# **Quiz.** Answer first, then unfold.
#
# 1. A report is fluent, and most of its words are those of the reference. What have you learnt about
# whether the model looked?
#
# <details><summary>Answer 1</summary>
#
# Nothing yet. The blind report shares most of its words too, since most chests have no pneumothorax. Close
# the gates or swap the image, and compare.
#
# </details>
#
# 2. A gate of +0.9 at the word "the": does this word need the image?
#
# <details><summary>Answer 2</summary>
#
# Not necessarily. The gate says how much *could* get in. Training does not reward a closed gate, so what
# counts is whether the word changes when the gate is closed.
#
# </details>
#
# 3. Why does training begin with α = 0?
#
# <details><summary>Answer 3</summary>
#
# Then every gate is 0 and the language model writes as before, to the last bit. The new parts come in
# slowly instead of disturbing a model that already writes well.
#
# </details>
#
# **Further reading.** [EMRRG](https://arxiv.org/abs/2510.16776), the paper (arXiv 2510.16776) ·
# [R2Gen](https://arxiv.org/abs/2010.16056), the split and the cleaning of IU X-ray (arXiv 2010.16056) ·
# [R2GenGPT](https://arxiv.org/abs/2309.09812), a frozen language model for reports (arXiv 2309.09812) ·
# [Flamingo](https://arxiv.org/abs/2204.14198), gated cross-attention with tanh(α) (arXiv 2204.14198) ·
# [CheXpert](https://arxiv.org/abs/1901.07031), the 14 observations (arXiv 1901.07031) ·
# [Babar and others 2021](https://doi.org/10.1371/journal.pone.0259639), how far a constant report comes
# (DOI 10.1371/journal.pone.0259639).
#
# ## Where to go next
#
# Make a run of your own with `make demo` (about 10 minutes), open `runs/demo/report.html`, and run
# this notebook again: it then uses your run. Change `654` above to meet other patients.
#
# **How far are you?** The next cell counts your right answers in all notebooks, as they were last saved; in a
# terminal `emrrg course progress notebooks` does it.

# %%
from emrrg_lib.course.grade import progress

progress()

# %% [markdown]
# The course map. "Minutes" is reading plus exercises.
#
# | notebook | paper | minutes | what you can do after it |
# |---|---|---|---|
# | **00 start here** | §3, Table 1 | 25 + 45 | run the model, read its gates, attention and scores |
# | [01 patch embedding][01] | §3.2 | 25 + 65 | cut an image into tokens, resize position tables |
# | [02 Mamba block][02] | §3.2, Fig. 2 | 40 + 160 | write a selective scan, in four directions, in chunks |
# | [03 Partial LoRA][03] | §3.3 | 30 + 80 | tune row blocks of a matrix, account for every weight |
# | [04 hybrid cross-attention][04] | §3.4 | 30 + 95 | build this notebook's gate into a language model |
# | [05 training on IU X-ray][05] | §3.5, §4 | 30 + 90 | write a training, resume and read a run |
# | [06 metrics][06] | §4.1 | 45 + 121 | compute every metric by hand, know what it can show |
# | [07 gate and attention explorer][07] | §3.2–3.4 | 25 + 45 | ask a report, word by word, where it looked |
# | [08 pre-training][08] | §3.2 | 30 + 60 | pre-train the encoder on image–report pairs |
# | [09 ablations][09] | §4.4, Tables 5 and 6 | 30 + 35 | find out which part earns its place |
# | [10 paper and released code][10] | §3, §4 | 30 + 72 | show where the two differ, a number for each |
# | [11 your own EMRRG][11] | §3.2–3.5 | 15 + 110 | put your own parts into the model and train them |
#
# [01]: 01_patch_embedding.ipynb
# [02]: 02_mamba_block.ipynb
# [03]: 03_partial_lora.ipynb
# [04]: 04_hybrid_cross_attention.ipynb
# [05]: 05_training_iu_xray.ipynb
# [06]: 06_metrics.ipynb
# [07]: 07_gate_and_attention_explorer.ipynb
# [08]: 08_pretraining.ipynb
# [09]: 09_ablations.ipynb
# [10]: 10_paper_vs_released_code.ipynb
# [11]: 11_your_own_emrrg.ipynb
#
# Read on in the code: [the gated cross-attention](../emrrg_lib/language/cross_attention.py), [the
# whole model](../emrrg_lib/model.py), [the presets](../emrrg_lib/config.py).
#
# **Next:** [01 patch embedding →](01_patch_embedding.ipynb)
