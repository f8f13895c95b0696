# %% [markdown]
# # 09 · Ablations
#
# **Goal.** Read the paper's Tables 5 and 6 for what they can show, make such a table yourself, and
# say which of its rows really differ.
#
# | | |
# |---|---|
# | **You need** | notebooks 03 (Partial LoRA), 04 (the gate) and 06 (scores and intervals) |
# | **Time** | about 30 minutes of reading and trying, 26 more for the exercises, 9 for the bonus task |
# | **CPU** | 2 cores, 2 GB of memory, 1 minute to run |
# | **GPU** | not needed; `PROFILE = "laptop"` takes a real small language model (not measured) |
# | **Paper** | EMRRG §4.4, Tables 5 and 6 |
#
# **You will be able to**
#
# - write a row of an ablation as a line of settings (exercise 1),
# - compute mean and spread over seeds, and know what one seed cannot tell (2),
# - compare two rows on the same studies with an interval (3),
# - say how far the best of many equal rows leads by luck (4).
#
# **Contents.** [Table 6](#The-paper's-Table-6) · [A row is a line](#A-row-is-a-line) · [A table,
# live](#A-table,-live) · [The results](#The-results-that-come-with-the-kit) ·
# [Luck](#How-much-of-it-is-luck?) · [The paper's order](#Is-it-the-paper's-order?) · [Four
# traps](#Four-traps-in-reading) · [Exercises](#Exercises) · [Quiz](#Quiz) · [Further
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
import numpy as np
import pandas as pd
import torch
from IPython.utils.capture import capture_output

from emrrg_lib.course.notebook import glossary, no_bars, picture_of, scratch_folder
from emrrg_lib.evaluation import ablation_tables
from emrrg_lib.evaluation.published import published
from emrrg_lib.files import KIT
from emrrg_lib.interpret.figures_scores import bar_panels
from emrrg_lib.interpret.figures_vision import curves
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.settings import to_dict

PROFILE = "tiny"  # on a GPU machine: "laptop", a real small language model

scratch = scratch_folder()  # for everything this notebook writes; removed at the end
pd.set_option("display.max_colwidth", None)
start = preset(PROFILE)
picture_of(start, lit=("mamba", "partial_lora", "llm", "hybrid", "gate"))

# %% [markdown]
# Lit are the parts that are exchanged here: what of the encoder trains and how the language model reads
# (Tables 5 and 6), and the gate (a table of the kit's own). An **ablation** changes one such part, trains
# again and scores again. Its logic is that of every experiment: two rows that differ in one thing only,
# and a difference larger than luck.

# %%
glossary("X, Z, dt, B, C, W, W (x_proj), r, A (LoRA), B (LoRA), d, R, N")

# %% [markdown]
# ## The paper's Table 6
#
# Eleven rows on IU X-ray: LoRA in the language model, LoRA on a whole matrix of the encoder, or LoRA_P on
# one block of rows. The last column counts the scores in which a row is the best.

# %%
SCORES = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr"]
table6 = published("emrrg_table6").set_index("setting")[SCORES]
table6.assign(best=(table6 == table6.max()).sum(axis=1))

# %% [markdown]
# §4.4 concludes that tuning Llama 2 is "superior" and that LoRA_P(X) "attains the best performance across
# multiple metrics". The table has one number per cell. How many trainings are behind it, and how far
# another one would have landed, it does not say. Two questions can be put to it all the same. Do its own
# columns agree on an order? Below is their rank correlation: 1 is the same order, 0 is none.

# %%
table6.rank().corr().round(2)

# %% [markdown]
# They agree in part: CIDEr and BLEU-2 share little more than a tendency. The second question: one row is
# printed twice, "LoRA_P(X), Llama 2", in Table 6 and as #04 in Table 5. Is it equal?

# %%
table5 = published("emrrg_table5").set_index("system")
twice = table6.loc[["LoRA_P(X)"]].T.rename(columns=lambda row: f"Table 6, {row}")
twice["Table 5, #04"] = table5.loc["EMRRG #04", SCORES].astype(float)
twice["difference"] = twice.iloc[:, 0] - twice.iloc[:, 1]
twice["of Table 6's range"] = twice["difference"] / (table6.max() - table6.min())
twice.style.format("{:.3f}").format("{:.0%}", subset="of Table 6's range")

# %% [markdown]
# Perhaps the settings of the two differ; the paper does not state Table 6's. Either way: between two rows
# of *one name* lies the share of Table 6's whole range that the last column shows.
#
# ## A row is a line
#
# In this kit a table is a file, `data/ablations/NAME.csv`, and a row is a line of it: a name, the settings
# that differ from the preset, and where the paper has the row.

# %%
from textwrap import fill

from emrrg_lib.training.ablation_rows import names, read_rows, row_config

file = KIT / "data" / "ablations" / "table6.csv"
lines = file.read_text(encoding="utf-8").splitlines()
print(lines[0], lines[-1], sep="\n")
rows = {row.row: row for row in [*read_rows("table6"), *read_rows("table5")]}
print(fill("the tables there are: " + ", ".join(names()), 88))

# %% [markdown]
# `row_config` turns a line into a whole configuration. Here are all settings that some row of Tables 5
# and 6 changes; a dot: as in the preset.


# %%
def flat(config):
    """All settings of a configuration as one row, "llm.tuning" and so on."""
    return pd.json_normalize(to_dict(config)).iloc[0].astype(str)


made = {name: row_config(start, row) for name, row in rows.items()}
settings = pd.DataFrame({name: flat(config) for name, config in made.items()})
differs = settings.ne(flat(start), axis=0)
settings.where(differs, "·")[differs.any(axis=1)].T

# %% [markdown]
# Read such a table **before** any score. Two encoder rows of Table 6 differ in one column. LoRA(LLM)
# differs from each of them in two things, since its encoder is frozen. And a row of Table 6 differs from
# the preset in several: the two do not say what one part is worth. With no hybrid layer the visual tokens
# must be in the prompt, or else no image reaches the model.
#
# ### What a row trains
#
# The ledger (notebook 03) counts without loading a weight. **Check**, by hand: LoRA_P(X) has A (r, d) and
# B (d, r) in every block; `x_proj` exists once for each of four directions, with A (r, d) and B (R + 2N, r).

# %%
from emrrg_lib.tuning.policy import ledger


def trained(config):
    """Part → trained weights, of the parts that train."""
    with torch.device("meta"):
        entries = ledger(EMRRG.from_sizes(config))
    return {entry.part: entry.trained for entry in entries if entry.trained}


counts = {name: trained(config) for name, config in made.items()}
encoder, r = start.encoder, start.partial_lora.r
d, R, N = encoder.embed_dim, -(-encoder.embed_dim // 16), encoder.d_state
assert counts["LoRA_P(X)"]["Partial LoRA"] == encoder.depth * r * (d + d)
by_hand = encoder.depth * 4 * r * (d + R + 2 * N)
assert counts["LoRA(x_proj)"]["Partial LoRA"] == by_hand
table = pd.DataFrame(counts).T.astype("Int64")
table.assign(sum=table.sum(axis=1)).map(lambda n: f"{n:,}" if pd.notna(n) else "–")

# %% [markdown]
# Equal rank is not equal size: the adapters of Table 6 differ by a factor of eight. And every row trains
# the projector: no row of Table 6 shows "what LoRA does alone".
#
# ## A table, live
#
# A row takes four steps: configuration, training, reports of the test split, scores. `run_ablation` does
# this for all rows and seeds, each **job** (one row, one seed) in a separate folder. Here are two rows of
# the table `hybrid-layers`, on 96 phantom studies with 50 steps at high rates: cross-attention in the first
# layer alone, and in all four. In a terminal it is
# `emrrg ablate hybrid-layers --seeds 1 --rows first all`.

# %%
from pathlib import Path

from emrrg_lib.phantom import write_phantom
from emrrg_lib.training.ablation import run_ablation

SHORT = ["train.warm_steps=48", "train.steps=2", "train.batch_size=8"]
SHORT += ["train.learning_rate=0.01", "train.gate_learning_rate=0.05"]
SHORT += ["train.warmup_steps=10", "train.validations=1", "train.validation_studies=4"]
SHORT += ["generation.num_beams=1", "generation.max_new_tokens=60", "data.max_views=1"]
chosen = ["first", "all"]
data, out = Path(scratch.name) / "data", Path(scratch.name) / "live"
with capture_output():  # no progress bars on the page
    split = (56 / 96, 8 / 96, 32 / 96)
    write_phantom(data, 96, seed=5, size=encoder.image_size, splits=split)
    table, _ = run_ablation("hybrid-layers", start, data, out, 1, SHORT, chosen)

live = pd.read_csv(table)
METRICS = {"Bleu_4": "BLEU-4", "CIDEr": "CIDEr", "CE13_micro_F1": "finding F1"}
shown = live[["source", "row", "trained", *METRICS]].rename(columns=METRICS)
shown.style.format(precision=3, na_rep="–").format("{:,.0f}", "trained", na_rep="–")

# %% [markdown]
# `results.csv` has a line for each job, for each control, for each value of the paper that belongs to a
# row, and, where weights are missing, for each row *left out*, with the reason. Look at the controls
# first: a row whose reports score as high for other patients ("shuffled images") has not looked. The row
# `first` has the scores of the constant report, in every column: after so few steps it writes one text for
# everybody. `all` has begun to name findings, and each column gains. The oracles know the true findings;
# they show how much is left.
#
# **By hand.** The scores of one job again: its model, the reports of the test split, their scores.

# %%
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import StudySet
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.generation import write_reports
from emrrg_lib.run_folder import read_config

jobs = {path.parent.name.split("-")[0]: path for path in out.glob("jobs/*/seed-0")}
model = EMRRG.from_run(jobs["all"])
with no_bars():
    test = StudySet(read_dataset(data, 0).split("test"), read_config(jobs["all"]))
    by_hand = score_reports(test.reports, write_reports(model, test), meteor=False)
theirs = live.set_index("row").loc["all"]
for name in ("Bleu_4", "ROUGE_L", "CIDEr"):
    print(f"{name}: by hand {by_hand[name]:.4f}, in results.csv {theirs[name]:.4f}")
    assert abs(by_hand[name] - theirs[name]) <= 5.1e-5

# %% [markdown]
# Do the two rows differ, on these 32 studies? `emrrg compare` scores both on the same draws of studies
# and corrects its p-values for all metrics that it asks:

# %%
from emrrg_lib.evaluation.compare import compare_systems

with no_bars():
    compared = compare_systems([str(jobs["all"]), str(jobs["first"])])
told = pd.DataFrame(compared.rows).set_index("metric").loc[list(METRICS)]
told = told.drop(columns=["first", "second"])
told.rename(columns={"score_first": "all", "score_second": "first"}).round(3)

# %% [markdown]
# *`low` and `high`: the interval of the difference; `p_holm`: p, corrected.* Few studies leave wide
# intervals, and whoever asks many metrics must expect one of them to look good by chance: that is what the
# correction is for.
#
# **A second call does nothing twice.** Finished jobs are read; a stopped one goes on from its last
# checkpoint; a row whose whole configuration equals an earlier one's takes its scores. Another setting in
# the same folder is refused, since a table must not mix two.


# %%
def written():
    """Files of the jobs → when they were written."""
    files = (out / "jobs").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


before, other = written(), [*SHORT, "train.steps=3"]
with no_bars():
    run_ablation("hybrid-layers", start, data, out, 1, SHORT, chosen)
    _, refused = run_ablation("hybrid-layers", start, data, out, 1, other, ["first"])
assert written() == before and list(refused) == ["first"]
print(f"{len(before)} files of finished jobs, none written again;")
print("with train.steps=3 the row `first` is refused")

# %% [markdown]
# ## The results that come with the kit
#
# `data/results` holds tables that were measured with `emrrg ablate`, in the layout you have just seen: on
# 1,200 phantom studies, with one view. First, what was measured, and what was not.

# %%
tables = ablation_tables.read_tables()
ablation_tables.overview(tables.values())

# %% [markdown]
# *Left out: the weights were not on the machine.* A table's own settings hold for all its rows, whatever
# their lines say: Table 6 has hybrid layers here, though its lines ask for a plain language model that
# finds the visual tokens in its prompt. A tiny frozen one does not learn to read them through a projector
# alone in so few steps (see "full / LLM" and "LoRA_P(X) / LLM" in Table 5), and eleven blind rows would
# not separate the rows.

# %%
from emrrg_lib.course.notebook import stored_figures

stored_figures("table5", "table6")

# %%
stored_figures(
    *(name for name in tables if name not in ("table5", "table6")), fold=True
)

# %% [markdown]
# *One figure per table; a click on a name unfolds one of the smaller tables. The large dot is a row's mean,
# small dots are its trainings, the bar is the standard deviation over seeds (no bar: one seed), the vertical
# lines are controls; "CE F1, 13" is the finding F1, that is, micro-F1 of the 13 findings. Where the paper
# has the row, its values are in separate panels, since their scale is that of other data.*
#
# ### What they say
#
# No word of this table is written by hand. "Overlap" means that mean ± sd of the row and of the best row
# overlap. It is a reading aid, not a test: with three seeds a bar is itself uncertain by about half of its
# length. The last columns ask the controls: does a row beat the constant report, and how much remains when
# the reports are given to other patients?

# %%
ablation_tables.verdicts(tables.values(), "CE13_micro_F1")

# %% [markdown]
# With one seed a table names its highest row and says nothing about the others. The tables with several
# seeds, in CIDEr:

# %%
several = [table for table in tables.values() if table.pooled("CIDEr")]
ablation_tables.verdicts(several, "CIDEr")

# %% [markdown]
# ## How much of it is luck?
#
# Three lengths are side by side: how far the rows of a table lie apart, how far **another seed**
# moves a row, and how far **another draw of test studies** moves a score (notebook 06). Data sets have
# different levels, so all are in percent of the mean score. The seeds' deviation is pooled over rows:
# the root of the mean variance.

# %%
found = {name: ablation_tables.lengths(several, name) for name in ("Bleu_4", "CIDEr")}
luck = pd.DataFrame(found)
bar_panels(
    {f"{METRICS[n]}, percent of the mean score": bars for n, bars in found.items()},
    hatched=[what for what in luck.index if ": sd" in what],
)

# %% [markdown]
# *Plain: differences between rows. Hatched: standard deviations of luck.* IU's are those of the constant
# report in `data/results`, as nobody has EMRRG's reports; the phantom's those of the shipped run.
#
# How close may two rows of a single-run table lie before their order means nothing? The usual mark is twice
# the standard deviation of a *difference* of two independent rows, 2 · √2 · sd. Of the 55 pairs of rows in
# Table 6, how many are closer than that? And what Table 5 is quoted for: hybrid layers against a plain
# language model (#06 against #04), full tuning against LoRA_P(X) (#03 against #06)?

# %%
kinds = ["our table6: sd of seeds", "another 590 IU studies: sd"]
marks = []
for name in ("Bleu_4", "CIDEr"):
    sd = luck.loc[kinds, name] / 100 * table6[name].mean()
    sd["both"] = np.linalg.norm(sd)
    scores = table6[name].to_numpy()
    apart = np.abs(scores[:, None] - scores)[np.triu_indices(len(scores), 1)]
    for kind, limit in (2 * 2**0.5 * sd).items():
        line = {"score": METRICS[name], "luck": kind, "closer than": f"{limit:.3f}"}
        line["pairs of Table 6"] = f"{(apart < limit).sum()} of {len(apart)}"
        for one, two in ((6, 4), (3, 6)):
            gap = table5[name][f"EMRRG #0{one}"] - table5[name][f"EMRRG #0{two}"]
            said = "too close" if abs(gap) < limit else "apart"
            line[f"#0{one} − #0{two}"] = f"{gap:+.3f}, {said}"
        marks.append(line)
pd.DataFrame(marks).set_index(["score", "luck"])

# %% [markdown]
# Two reservations. The seeds' deviation is that of *our* tiny model, the paper's own is not known. And with
# both rows' reports at hand the test set's share shrinks, because a hard study is hard for both rows; a
# table of scores does not allow that, reports do, as in the live comparison above.
#
# ## Is it the paper's order?
#
# The rank correlation between our rows and the paper's. Two measures of its luck: *by chance*, how
# large it gets in 95 % of random orders; and *by seeds*, the middle 95 % when every row's mean is moved
# by its error, sd / √seeds.

# %%
ablation_tables.paper_orders(tables.values(), ["Bleu_4", "CIDEr"])

# %% [markdown]
# A table without rows of the paper (the gate's, for instance) is not in the list. A correlation inside the
# chance range shows neither agreement nor disagreement. Equal order is **not
# expected** here. What the tiny preset changes:
#
# | | the paper | the tiny preset |
# |---|---|---|
# | images | IU X-ray, real patients | PhantomCXR, drawn from geometry |
# | encoder | d = 768, 12 blocks, 192 px | d = 128, 4 blocks, 96 px, pre-trained on phantoms |
# | language model | Llama 2, 32 layers | 4 layers that know phantom reports only |
# | training | 30 epochs of 2,069 studies | a warm part on stored tokens, then a few joint steps |
# | Table 6's LLM | not stated | its lines: plain, tokens in the prompt; measured: hybrid layers |
#
# What carries over is the method: the same rows, with seeds, controls and intervals.
#
# ## Four traps in reading
#
# ### 1. Counting weights instead of looking at scores
#
# "Only 2.3% of the parameters" (§4.4): notebook 03 asks of what. Here: does the number of trained weights
# order the scores? Mind the chance range; with four rows it is the whole scale.

# %%
sized = [table for table in tables.values() if table.trained.nunique() > 2]
pd.DataFrame(
    {
        table.name: ablation_tables.agreement(table, table.trained, "Bleu_4")
        | {"weights": f"{table.trained.min():,} to {table.trained.max():,}"}
        for table in sized
    }
).T

# %% [markdown]
# The rows of `rank` are ordered by their size, though by hardly any BLEU-4 (.568 to .574, one seed). Those
# of Tables 5 and 6 are not.
#
# ### 2. Equal steps are not equal chances
#
# The runner gives each row the same number of steps. A row that learns slowly is then judged half-way;
# was it still getting better? And the preset's warm part works on encoder tokens that are computed
# **once**. That is fast, and nothing in the encoder learns there, whatever the row says: from stored
# tokens no gradient goes back.

# %%
full = EMRRG.from_preset(made["full / LLM + hybrid layers"])
pixels, mask = test.images(range(2))
with torch.no_grad():
    kept = full.encoder(pixels)  # computed once, as in the warm part


def encoder_learns(states):
    """Weights of the encoder that get a gradient from a loss on these visual states."""
    full.zero_grad(set_to_none=True)
    states.square().mean().backward()
    return sum(p.numel() for p in full.encoder.parameters() if p.grad is not None)


print("weights of the encoder that get a gradient")
print(f"  from stored tokens: {encoder_learns(full.project(kept, mask)[0]):>7,}")
print(f"  from the images:    {encoder_learns(full.encode(pixels, mask)[0]):>7,}")

# %% [markdown]
# So what of the encoder trains can make a difference in the *joint* steps alone, the second number in the
# table of what was measured: 160 of 960 in Table 5, 160 of 400 in Table 6, 400 of 700 where it is shifted. A
# row with the whole encoder to tune has the most to gain from more of them: what is below here may be above
# after a real training. Was a training at its end? The mean loss of the fifths of the shipped run's warm
# part:

# %%
from emrrg_lib.course.notebook import SHIPPED_RUN
from emrrg_lib.run_folder import TRAINED_RECORD, read_json

run = read_json(SHIPPED_RUN / "run.json", TRAINED_RECORD)
steps = run["config"]["train"]["warm_steps"]
warm = [entry["loss"] for entry in run["history"] if entry["step"] <= steps]
fifths = [float(np.mean(part)) for part in np.array_split(warm, 5)]
print([round(value, 3) for value in fifths])
print(f"the last fifth is {1 - fifths[-1] / fifths[-2]:.0%} below the one before")

# %% [markdown]
# ### 3. The same seed is not always the same start
#
# It is tempting to pair rows by seed, seed 0 with seed 0, as studies were paired above: what the two
# trainings share then drops out of their difference. But do they share anything? A seed fixes a *stream* of
# random numbers, and whoever draws first takes the first ones. An adapter of rank 4 takes fewer than one
# of rank 8. If the adapter is drawn before the projector, the projector gets other numbers:


# %%
def projector_of(order, r):
    """A projector's first weights, where it and an adapter of rank r are drawn from
    seed 0 in this order."""
    torch.manual_seed(0)
    width = {"adapter": r, "projector": 128}
    return {part: torch.randn(width[part], 128) for part in order}["projector"]


for order in (("adapter", "projector"), ("projector", "adapter")):
    same = torch.equal(projector_of(order, 4), projector_of(order, 8))
    print(f"first the {order[0]}: ranks 4 and 8 start with equal projectors: {same}")

# %% [markdown]
# So the kit draws what all rows share first (projector, view embedding, then hybrid layers) and the adapters
# last. And since B of every adapter starts at 0, no adapter changes anything before the first step. The order
# of the studies is the seed's as well: two rows of one seed share their start and their batches.

# %%
pairs = [("LoRA_P(X)", "LoRA(x_proj)", "projector")]
pairs += [("full / LLM + LoRA", "LoRA_P(X) / LLM + LoRA", "q_proj.lora_A")]
for one, two, part in pairs:
    a, b = (dict(EMRRG.from_preset(made[n]).named_parameters()) for n in (one, two))
    both = [name for name in a if part in name and name in b]
    equal = sum(torch.equal(a[name], b[name]) for name in both)
    print(f"{one} and {two}: {equal} of {len(both)} tensors of `{part}` are equal")

# %% [markdown]
# What they do **not** share: adapters of another shape, and whatever adapter is drawn after them (LoRA of the
# language model comes after Partial LoRA); a shared part of another shape or in another place (hybrid layers
# in other layers); and everything after the first step, since every weight then follows other gradients.
#
# Whether pairing is worth it after a whole training is for the results to say. If it is, the difference of
# two rows varies less from seed to seed than that of two independent rows, √2 · sd.

# %%
gain = {
    table.name: {
        "paired by seed": table.paired("Bleu_4"),
        "if independent": 2**0.5 * table.pooled("Bleu_4"),
    }
    for table in several
}
pd.DataFrame(gain).T.round(4).rename_axis("sd of a difference in BLEU-4")

# %% [markdown]
# ### 4. The best row of the test set
#
# Let eleven rows be *equal*. The highest one still leads, by luck, and a table's bold print celebrates it.
# How far is the highest above the mean of the rows, if nothing but the seeds makes a difference?

# %%
ranks, lead = range(2, 16), ablation_tables.lead_by_luck
by_luck = {
    f"{seeds} seed{'s' * (seeds > 1)} for each row": (
        ranks,
        [lead(k, seeds).mean() for k in ranks],
    )
    for seeds in (1, 3)
}
title = "Lead of the best row by luck"
curves(by_luck, "equal rows (Table 6 has 11)", "lead in sd", title)

# %% [markdown]
# And our own tables? Table 6 is at once an example and a warning: its one row that is far ahead is
# LoRA(LLM), and nobody needs a test for that. The ten others are what the table is about.


# %%
for name in ("table6", "table6-shifted"):
    means = tables[name].spread("Bleu_4")["mean"].drop("LoRA(LLM)")
    equal = lead(len(means), 3) * tables[name].pooled("Bleu_4")
    ours, best = means.max() - means.mean(), means.idxmax()
    print(f"{name}: the best of ten encoder rows, {best}, leads by {ours:.4f} BLEU-4")
    share = f"by as much in {(equal >= ours).mean():.0%}"
    print(f"  ten equal rows: by {equal.mean():.4f} on average, {share}")

trainings = tables["table6-shifted"].trainings
cider = trainings.pivot(index="seed", columns="row", values="CIDEr")
minus = cider.sub(cider["LoRA_P(X)"], axis=0).drop(columns="LoRA_P(X)")
minus.agg(["mean", "std"]).T.sort_values("mean").round(3)

# %% [markdown]
# The best of the ten in `table6` leads by less than the best of ten equal rows would on average. So this
# table does not say which matrix of the encoder to tune. Its encoder already knows the phantom, and an
# adapter has little to do.
#
# In `table6-shifted` an adapter has much to do. The 64 pixels of every patch are in another order (`emrrg
# data phantom --shift scrambled`), and 400 steps train everything. The lead of in_proj is larger there than
# luck's average, and luck makes as large a lead in about one table of four. The last table shows CIDEr
# minus that of LoRA_P(X), paired by seed. Here the rows do differ. LoRA in the language model is last:
# words cannot repair what the encoder does not see. X is ahead of the four other parts. LoRA(in_proj),
# which changes X and Z, is ahead of X by one standard deviation, and three seeds do not decide that. In the
# paper's Table 6 the LLM's row has the *highest* BLEU-4 and in_proj the lowest. The paper has another
# encoder, other images and another LLM: an order of rows is a fact about its setting.
#
# *More rows, more luck; more seeds, less.* The cure costs nothing: choose the row on **validation**, then
# report its test score, whatever it is. And say how many rows you tried.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · A new row *(easy, 6 minutes)*
#
# **Why.** A row that is a line of text can be read, checked and run again by others.
#
# Write the `settings` of a line for a row that Table 6 lacks: LoRA_P(X) of rank 4, everything else as in
# its row LoRA_P(X). It must hold from any preset.
#
# <details><summary>Hint</summary>
#
# Words KEY=VALUE, with a blank between them. The first is in the line printed above; the table `rank`
# (`data/ablations/rank.csv`) shows how a rank is set.
#
# </details>

# %%
settings = None  # your text

# %%
# Check 1
from emrrg_lib.course.checks.nb09 import check_1

check_1(settings)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# settings = "policy=table6-X partial_lora.r=4"
# ```
#
# A line of your own goes into `data/ablations/NAME.csv`, and `emrrg ablate NAME` runs it.
#
# </details>
#
# ### Exercise 2 · Mean ± sd *(medium, 8 minutes)*
#
# **Why.** A table without a spread over seeds cannot say which of its rows differ.
#
# `frame` is a `results.csv` as a DataFrame. Return for each row of this run its mean over the seeds and
# the standard deviation of one training, estimated from these seeds; None where there is but one. Leave
# `frame` as it is.
#
# <details><summary>Hint</summary>
#
# Keep the lines whose `source` is "this run"; `groupby("row")`. NumPy's `std` divides by n unless it is
# given another number.
#
# </details>


# %%
def mean_and_sd(frame, metric):
    """→ {row: (mean, sd or None)}."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb09 import check_2

check_2(mean_and_sd)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def mean_and_sd(frame, metric):
#     mine = frame[frame["source"] == "this run"]
#     return {row: (values.mean(), values.std(ddof=1) if len(values) > 1 else None)
#             for row, values in mine.groupby("row")[metric]}
#
#
# for name, table in tables.items():
#     print(name, {row: tuple(x and round(float(x), 3) for x in both)
#                  for row, both in mean_and_sd(table.frame, "Bleu_4").items()})
# ```
#
# </details>
#
# ### Exercise 3 · Two rows, three seeds, the same studies *(hard, 12 minutes)*
#
# **Why.** The luck of the test studies is the same for both rows; paired, it drops out.
#
# `a` and `b` (seeds, studies) are two rows' scores of each study, such as ROUGE-L; the studies are the
# same. `draws` (R, studies) says how often each study was drawn. Return the difference of the rows' means
# and its 95 % interval over the draws: (difference, low, high).
#
# <details><summary>Hint</summary>
#
# First one number per study: a's mean over seeds minus b's. What is drawn are *studies*, with all that
# belongs to them. A drawn mean is a weighted one.
#
# </details>


# %%
def paired(a, b, draws):
    """(seeds, studies) twice, (R, studies) → (difference, low, high)."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb09 import check_3

check_3(paired)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def paired(a, b, draws):
#     gap = a.mean(axis=0) - b.mean(axis=0)
#     low, high = np.percentile(draws @ gap / draws.sum(axis=1), [2.5, 97.5])
#     return gap.mean(), low, high
# ```
#
# This interval knows the luck of the studies. The luck of the seeds is in it only as far as averaging has
# left some; to have both, draw seeds as well, the same ones for both rows where they are paired (trap 3).
#
# </details>
#
# ### Exercise 4 · The best of k equal rows *(bonus, medium, 9 minutes)*
#
# **Why.** The bold number of a table is always too high, and one can say by how much.
#
# k rows have the same true score. Each is trained `seeds` times; a training scores the truth plus normal
# luck of standard deviation `sd`. A table shows the means over seeds, and the highest is printed bold. By
# how much does the bold one exceed the truth, on average?
#
# <details><summary>Hint</summary>
#
# Many tables of luck, (tables, k, seeds): mean over seeds, maximum over rows, mean over tables; 40,000
# tables are precise enough. Or think: what is the deviation of a mean of `seeds` values?
#
# </details>


# %%
def best_of(k, sd, seeds):
    """→ mean of (highest row − truth)."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb09 import check_4

check_4(best_of)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def best_of(k, sd, seeds):
#     tables = np.random.default_rng(0).normal(0, sd / seeds**0.5, (40_000, k))
#     return tables.max(axis=1).mean()
# ```
#
# For two rows it is exactly sd / √(π · seeds).
#
# </details>

# %%
scratch.cleanup()

# %% [markdown]
# ## Summary
#
# - A row is a preset and a few settings. Compare rows that differ in one; `row_config` shows which.
# - Without several seeds a table cannot measure its luck. Mean ± sd over seeds, n − 1.
# - Two kinds of luck: another training, another test set. Rows closer than both cannot be ranked.
# - Look at the controls before the rows: reports as good for any other patient were written blind.
# - Equal rank is not equal size, equal steps are not equal chances, and the best of many rows is partly the
#   luckiest. One seed is one start only where what the rows share is drawn first.
#
# You can now write an ablation table as a file, run it with seeds, stop it and go on, and say which of its
# rows differ, in this kit's tables and in the paper's.
#
# ## Quiz
#
# 1. Two rows have one seed each and differ by .006 BLEU-4. What do you need to say that they differ?
# 2. All rows of a table are beaten by the control "shuffled images". What has the table measured?
# 3. Why is the score of the best of eleven rows too high, although nobody cheated?
#
# <details><summary>Answers</summary>
#
# 1. More seeds of both, for the luck of training; and the reports of both, for a paired interval over the
#    studies.
# 2. How well the rows write reports that fit anybody: their reports do not depend on the patient.
# 3. It was chosen because it is high, and part of being high is luck. Choose on validation, report on test.
#
# </details>
#
# ## Further reading
#
# - J. Dodge et al., Show your work, [arXiv 1909.03004](https://arxiv.org/abs/1909.03004); X. Bouthillier et
#   al., Accounting for variance in machine learning benchmarks, [arXiv
#   2103.03098](https://arxiv.org/abs/2103.03098); N. Reimers and I. Gurevych, Reporting score distributions
#   makes a difference, [arXiv 1707.09861](https://arxiv.org/abs/1707.09861).
# - E. Hu et al., LoRA, [arXiv 2106.09685](https://arxiv.org/abs/2106.09685); M. Yoshimura et al.,
#   MambaPEFT, [arXiv 2411.03855](https://arxiv.org/abs/2411.03855).
#
# Read on in the code: [the runner](../emrrg_lib/training/ablation.py), [the
# tables](../data/ablations/table6.csv), [what trains](../emrrg_lib/tuning/policy.py), [the
# figure](../emrrg_lib/interpret/figures_scores.py).
#
# [← 08](08_pretraining.ipynb) · [10 →](10_paper_vs_released_code.ipynb)
