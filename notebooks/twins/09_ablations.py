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
# **Contents.** [Table 6](#The-paper's-Table-6) · [A row is a line](#A-row-is-a-line) · [One
# row](#One-row,-in-the-smallest-version) · [The real runner](#The-real-runner) · [The
# results](#The-results-that-come-with-the-kit) · [Luck](#How-much-of-it-is-luck?) · [The paper's
# order](#Is-it-the-paper's-order?) · [Four traps](#Four-traps-in-reading) · [Exercises](#Exercises) ·
# [Quiz](#Quiz) · [Further reading](#Further-reading)
#
# > **Every X-ray here is synthetic.** Nothing in this kit is for clinical use.

# %%
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from IPython.utils.capture import capture_output

from emrrg_lib.course.notebook import glossary, picture_of, scratch_folder
from emrrg_lib.files import KIT
from emrrg_lib.interpret.figures_scores import bar_panels
from emrrg_lib.interpret.figures_vision import curves
from emrrg_lib.interpret.style import html_image
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.settings import to_dict

PROFILE = "tiny"  # on a GPU machine: "laptop", a real small language model

# one folder an ablation, as `emrrg ablate` writes it
results = KIT / "data" / "results"
scratch = scratch_folder()  # for everything this notebook writes; removed at the end
folder = Path(scratch.name)
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
from emrrg_lib.evaluation.published import published

SCORES = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr"]
table6 = published("emrrg_table6").set_index("setting")[SCORES]
table6.assign(best=(table6 == table6.max()).sum(axis=1))

# %% [markdown]
# §4.4 concludes that tuning Llama 2 is "superior" and that LoRA_P(X) "attains the best performance across
# multiple metrics". The table has one number a cell. How many trainings are behind it, and how far
# another one would have landed, it does not say. Two questions can be put to it all the same. Do its own
# columns agree on an order? And what about the row that is printed twice, in Tables 5 and 6?


# %%
def spearman(a, b):
    """Rank correlation: 1 same order, 0 none, −1 reversed."""
    return float(
        np.corrcoef(pd.Series(list(a)).rank(), pd.Series(list(b)).rank())[0, 1]
    )


agreement = {
    pair: spearman(table6[pair[0]], table6[pair[1]])
    for pair in itertools.combinations(SCORES, 2)
}
least, most = min(agreement, key=agreement.get), max(agreement, key=agreement.get)
print(
    f"orders of two columns: rank correlation {agreement[least]:.2f} "
    f"({' and '.join(least)}) to "
    f"{agreement[most]:.2f} ({' and '.join(most)}), median "
    f"{np.median(list(agreement.values())):.2f}"
)

table5 = published("emrrg_table5").set_index("system")
twice = pd.DataFrame(
    {
        "Table 6, LoRA_P(X)": table6.loc["LoRA_P(X)"],
        "Table 5, #04, LoRA_P(X)": table5.loc["EMRRG #04", SCORES].astype(float),
    }
)
twice["difference"] = twice.iloc[:, 0] - twice.iloc[:, 1]
twice["share of Table 6's range"] = (
    twice["difference"] / (table6.max() - table6.min())
).round(2)
twice.round(3)

# %% [markdown]
# Both rows read "LoRA_P(X), Llama 2". Perhaps their settings differ; the paper does not state Table 6's.
# Either way: between two rows of *one name* lies the share of Table 6's whole range that the last column
# shows.
#
# ## A row is a line
#
# In this kit a table is a file, `data/ablations/NAME.csv`, and a row is a line of it: a name, the settings
# that differ from the preset, and where the paper has the row.

# %%
from emrrg_lib.training.ablation_rows import names, read_rows, row_config

lines = (
    (KIT / "data" / "ablations" / "table6.csv").read_text(encoding="utf-8").splitlines()
)
print(lines[0], lines[-1], sep="\n")
rows = {row.row: row for row in read_rows("table6")}
print("\n", rows["LoRA_P(X)"], sep="")
print("\nthe tables there are:", ", ".join(names()))

# %% [markdown]
# `row_config` turns a line into a whole configuration. By hand, for this line: Partial LoRA on X alone,
# no hybrid layers, so the visual tokens must be in the prompt, or else no image reaches the model.

# %%
by_hand = replace(
    start,
    encoder_tuning="lora",
    partial_lora=replace(start.partial_lora, targets=("X",)),
    llm=replace(start.llm, hybrid_layers=(), visual_in_prompt="all", tuning="frozen"),
)
assert row_config(start, rows["LoRA_P(X)"]) == by_hand


def flat(values, before=""):
    """Nested settings → {"llm.tuning": …}."""
    return {
        name: value
        for key, inner in values.items()
        for name, value in (
            flat(inner, f"{before}{key}.").items()
            if isinstance(inner, dict)
            else [(before + key, inner)]
        )
    }


def changed(config):
    """What differs from the preset, as text."""
    before = flat(to_dict(start))
    return {
        name: str(value)
        for name, value in flat(to_dict(config)).items()
        if value != before[name]
    }


chosen = {**rows, **{row.row: row for row in read_rows("table5")}}
pd.DataFrame(
    {name: changed(row_config(start, row)) for name, row in chosen.items()}
).transpose().fillna("·")

# %% [markdown]
# *A dot: as in the preset.* Read such a table **before** any score. Two encoder rows of Table 6 differ in
# one column. LoRA(LLM) differs from each of them in two things, since its encoder is frozen. And a row of
# Table 6 differs from the preset in several: the two do not say what one part is worth.
#
# ### What a row trains
#
# The ledger (notebook 03) counts without loading a weight. **Check**, by hand: LoRA_P(X) has A (r, d) and
# B (d, r) in every block; `x_proj` exists once for each of four directions, with A (r, d) and B (R + 2N, r).

# %%
from emrrg_lib.tuning.policy import ledger

GROUPS = {
    "Partial LoRA": "encoder, LoRA",
    "projector, view embedding": "projector",
    "LoRA of the LLM": "LLM, LoRA",
    "cross-attention W_k, W_v": "hybrid layers",
    # all other parts are the encoder's own weights
    "dynamic gate, warm-up α": "hybrid layers",
}


def trained(config):
    """Trained weights by group."""
    with torch.device("meta"):
        entries = ledger(EMRRG.from_sizes(config))
    groups = dict.fromkeys(["encoder, whole", *GROUPS.values()], 0)
    for entry in entries:
        groups[GROUPS.get(entry.part, "encoder, whole")] += entry.trained
    return groups


counts = pd.DataFrame(
    {name: trained(row_config(start, row)) for name, row in chosen.items()}
).transpose()
counts["sum"] = counts.sum(axis=1)
encoder, r = start.encoder, start.partial_lora.r
d, R, N = encoder.embed_dim, -(-encoder.embed_dim // 16), encoder.d_state
assert counts.loc["LoRA_P(X)", "encoder, LoRA"] == encoder.depth * r * (d + d)
assert counts.loc["LoRA(x_proj)", "encoder, LoRA"] == encoder.depth * 4 * r * (
    d + R + 2 * N
)
adapters = counts.loc[[name for name in rows if name != "LoRA(LLM)"], "encoder, LoRA"]
print(
    f"adapters of Table 6's encoder rows, all of rank {r}: {adapters.min():,} weights "
    f"({adapters.idxmin()}) to {adapters.max():,} ({adapters.idxmax()})"
)
counts.rename_axis("trained weights")

# %% [markdown]
# Equal rank is not equal size. And every row trains the projector: no row of Table 6 shows "what LoRA
# does alone".
#
# ## One row, in the smallest version
#
# A row takes four steps: configuration, training, reports of the test split, scores. Here on 60 phantom
# studies with ten optimiser steps, for the gate table's row `none`, in which X′ is simply added. Ten steps
# teach a model next to nothing; we watch the machinery.

# %%
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import StudySet
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.generation import write_reports
from emrrg_lib.phantom import write_phantom
from emrrg_lib.training.finetune import run_finetune

SHORT = [
    "train.warm_steps=8",
    "train.steps=2",
    "train.batch_size=8",
    "train.warmup_steps=2",
    "train.validations=1",
    "train.validation_studies=4",
    "generation.num_beams=1",
    "generation.max_new_tokens=60",
]  # the same for every row
with capture_output():  # no progress bars on the page
    data = folder / "data"
    write_phantom(
        data,
        60,
        seed=5,
        size=start.encoder.image_size,
        splits=(36 / 60, 8 / 60, 16 / 60),
    )


def one_row(config, out):
    """Trains and scores one configuration → its scores."""
    run_finetune(config, data, out)
    model = EMRRG.from_run(out)
    test = StudySet(read_dataset(data, config.train.seed).split("test"), config)
    return score_reports(test.reports, write_reports(model, test), meteor=False)


gates = {row.row: row for row in read_rows("gate")}
config = row_config(start, gates["none"], SHORT)
assert config == replace(
    row_config(start, gates["dynamic + warm-up"], SHORT),
    # the two rows differ in the gate alone
    llm=replace(start.llm, gate="none"),
)
with capture_output():
    ours = one_row(config, folder / "by_hand")
print({name: round(value, 4) for name, value in ours.items() if value is not None})

# %% [markdown]
# ## The real runner
#
# `run_ablation` does this for all rows and seeds, each **job** (one row, one seed) in a separate folder.
# In a terminal it is `emrrg ablate gate --seeds 1 --rows none 'dynamic + warm-up'`.

# %%
from emrrg_lib.training.ablation import run_ablation

with capture_output():
    table, refused = run_ablation(
        "gate",
        start,
        data,
        folder / "gate",
        seeds=1,
        values=SHORT,
        only=["none", "dynamic + warm-up"],
    )
live = pd.read_csv(table)
theirs = live.set_index("row").loc["none"]
assert not refused
assert all(
    abs(ours[name] - theirs[name]) <= 5.1e-5 for name in ("Bleu_4", "ROUGE_L", "CIDEr")
)
print("row `none`, by hand and by run_ablation: equal to the four digits of the file")
METRICS = {"Bleu_4": "BLEU-4", "CIDEr": "CIDEr", "CE13_micro_F1": "finding F1"}
shown = live.astype({"seed": "Int64", "trained": "Int64"})
shown = shown[["source", "row", "seed", "trained", "note", *METRICS]]
shown.astype(object).where(shown.notna(), "")

# %% [markdown]
# `results.csv` has a line for each job, for each control, for each value of the paper that belongs to a
# row, and, where weights are missing, for each row *left out*, with the reason. Look at the controls
# first: a row whose reports are worth as much to other patients ("shuffled images") has not looked.
#
# **A second call does nothing twice.** Finished jobs are read; a stopped one goes on from its last
# checkpoint; a row whose whole configuration equals an earlier one's takes its scores. Another setting in
# the same folder is refused, since a table must not mix two.

# %%
jobs = {}  # row → (reports, scores) of its job
for file in sorted((folder / "gate" / "jobs").glob("*/seed-0/scores.json")):
    scores = json.loads(file.read_text(encoding="utf-8"))
    written = (
        file.with_name("predictions.jsonl").read_text(encoding="utf-8").splitlines()
    )
    jobs[scores["row"]] = [json.loads(line) for line in written], scores
for name, (reports, scores) in jobs.items():
    same = all(
        scores["metrics"][metric] == scores["shuffled images"][metric]
        for metric in METRICS
    )
    texts = {report["hypothesis"] for report in reports}
    print(
        f"{name}: {len(reports)} reports, different texts: {len(texts)}; to other "
        "patients they are worth",
        "exactly the same" if same else "otherwise",
    )


def states():
    """Files of the jobs → when they were written."""
    files = (folder / "gate" / "jobs").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


before = states()
with capture_output():
    run_ablation(
        "gate",
        start,
        data,
        folder / "gate",
        seeds=1,
        values=SHORT,
        only=["none", "dynamic + warm-up"],
    )
    _, refused = run_ablation(
        "gate",
        start,
        data,
        folder / "gate",
        seeds=1,
        values=[*SHORT, "train.steps=3"],
        only=["none"],
    )
assert states() == before and list(refused) == ["none"]
print(
    f"{len(before)} files of finished jobs, none written again; with train.steps=3 "
    "row `none` is refused"
)

# %% [markdown]
# ## The results that come with the kit
#
# `data/results` holds tables that were measured with `emrrg ablate`, in the layout you have just seen.
# First, what was measured, and what was not. A table's *own settings* hold for all its rows, whatever their
# lines say. If Table 6 has hybrid layers among them, this is why: its lines ask for a plain language model
# that finds the visual tokens in its prompt, and a tiny frozen one does not learn to read them through a
# projector alone in so few steps (see "full / LLM" and "LoRA_P(X) / LLM" in Table 5). Eleven blind rows
# would not separate the rows.

# %%
stored = {
    path.parent.name: pd.read_csv(path)
    for path in sorted(results.glob("*/results.csv"))
}
if not stored:
    raise FileNotFoundError(
        "data/results holds no results.csv: `emrrg ablate NAME --out data/results/NAME`"
    )
record = {
    name: json.loads((results / name / "run.json").read_text(encoding="utf-8"))
    for name in stored
}


def trainings(frame):
    """The lines of this run, each training once (a row may share another's)."""
    mine = frame[frame["source"] == "this run"]
    mine = mine[~mine["note"].astype(str).str.startswith("same settings as")]
    return mine.astype({"trained": int}) if len(mine) else mine


everywhere = [
    word
    for word in record[min(record)]["values"]
    if all(word in each["values"] for each in record.values())
]
sets = {each["dataset"] for each in record.values()}
overview = []
for name, frame in stored.items():
    mine, left = trainings(frame), frame[frame["source"] == "left out"]
    seeds = mine.groupby("row").size() if len(mine) else pd.Series([0])
    told = (
        f"{seeds.min()}"
        if seeds.min() == seeds.max()
        else f"{seeds.min()} to {seeds.max()}"
    )
    own = [word for word in record[name]["values"] if word not in everywhere]
    overview.append(
        {
            "table": name,
            "rows": mine["row"].nunique(),
            "seeds": told,
            "left out": ", ".join(left["row"]) or "·",
            "its own settings": " ".join(own) or "·",
            "minutes": round(float(mine["minutes"].sum())) if len(mine) else 0,
        }
        | ({"data": record[name]["dataset"]} if len(sets) > 1 else {})
    )
print("settings of every table:", " ".join(everywhere) or "none")
if len(sets) == 1:
    print("data of every table:", *sets)
print(
    "tables without results here:",
    ", ".join(name for name in names() if name not in stored) or "none",
)
for name, frame in stored.items():
    for _, row in frame[frame["source"] == "left out"].iterrows():
        reason = str(row["note"]).split(" (")[0].split(":")[0]  # without the details
        print(f"{name}, left out: {row['row']}:", reason)
# those with a row that ran
stored = {name: frame for name, frame in stored.items() if len(trainings(frame))}
several = [
    name for name in stored if trainings(stored[name]).groupby("row").size().min() > 1
]
single = [name for name in stored if name not in several]  # with one seed for some row
pd.DataFrame(overview).set_index("table")


# %%
def stored_figure(name, width):
    """The figure of a table with its sentence, as HTML."""
    alt = (results / name / "figure.txt").read_text(encoding="utf-8").strip()
    return html_image((results / name / "figure.png").read_bytes(), alt, width)


large = [name for name in stored if name in ("table5", "table6")] or list(stored)
shown = [stored_figure(name, 900) for name in large]
shown += [
    f"<details><summary>{name}</summary>{stored_figure(name, 720)}</details>"
    for name in stored
    if name not in large
]
HTML("\n".join(shown))

# %% [markdown]
# *One figure a table, Tables 5 and 6 large; a click on a name unfolds one of the others, if there are any.
# The large dot is a row's mean, small dots are its trainings, the bar is the standard
# deviation over seeds (no bar: one seed), the vertical lines are controls; "CE F1, 13" is the finding F1,
# that is, micro-F1 of the 13 findings. Where the paper has the row, its values are in separate panels,
# since their scale is that of other data.*
#
# ### What they say
#
# No sentence here is written by hand; they are computed from the files. "Overlap" means that mean ± sd of
# the row and of the best row overlap. It is a reading aid, not a test: with three seeds a bar is itself
# uncertain by about half of its length. The table asks the controls: does a row beat the constant report,
# and how much
# remains when the reports are given to other patients? (Of the folded tables the finding F1 alone.)

# %%
from emrrg_lib.interpret.ablation_figure import mean_and_spread


def spreads(name, metric):
    """Row → (mean, standard deviation or None) of a stored table."""
    found = {
        row: [{metric: value} for value in part[metric].dropna()]
        for row, part in trainings(stored[name]).groupby("row", sort=False)
        if metric in part
    }
    return {
        row: mean_and_spread(values, metric) for row, values in found.items() if values
    }


def sentence(name, metric):
    """The rows that cannot be distinguished from the best one, in words."""
    found = spreads(name, metric)
    if not found:
        return "not measured"
    best = max(found, key=lambda row: found[row][0])
    if any(sd is None for _, sd in found.values()):
        return f"highest {best} {found[best][0]:.3f}"
    low = found[best][0] - found[best][1]
    near = [
        row for row, (mean, sd) in found.items() if row != best and mean + sd >= low
    ]
    below = [row for row in found if row != best and row not in near]
    return (
        f"best {best} {found[best][0]:.3f} ± {found[best][1]:.3f}; overlap: "
        f"{', '.join(near) or 'none'}; "
        f"apart: {', '.join(below) or 'none'}"
    )


for name in several:
    print(name)
    for metric, title in METRICS.items():
        print(f"  {title}: {sentence(name, metric)}")
if single:
    print(
        "one seed for some row, so the highest is named and nothing is said about "
        "the others:"
    )
for name in single:
    print(
        f"  {name}:",
        "; ".join(
            f"{title}: {sentence(name, metric)}" for metric, title in METRICS.items()
        ),
    )

told = []
for name, frame in stored.items():
    control = frame[frame["source"] == "control"].set_index("row")
    for metric, title in METRICS.items():
        means = [mean for mean, _ in spreads(name, metric).values()]
        if means and metric in control and (name in large or metric == "CE13_micro_F1"):
            told.append(
                {
                    "table": name,
                    "score": title,
                    "rows": len(means),
                    "lowest row": min(means),
                    "highest row": max(means),
                    **control[metric].to_dict(),
                    "rows above both": sum(
                        mean > control[metric].max() for mean in means
                    ),
                }
            )
pd.DataFrame(told).set_index(["table", "score"]).round(3)

# %% [markdown]
# ## How much of it is luck?
#
# Three lengths are side by side: how far the rows of a table lie apart, how far **another seed**
# moves a row, and how far **another draw of test studies** moves a score (notebook 06). Data sets have
# different levels, so all are in percent of the mean score. The seeds' deviation is pooled over rows:
# the root of the mean variance.


# %%
def pooled(name, metric):
    """Standard deviation over seeds, all rows of a table together;
    None with single seeds."""
    groups = [
        part[metric].dropna()
        for _, part in trainings(stored[name]).groupby("row")
        if metric in part
    ]
    freedom = sum(max(len(group) - 1, 0) for group in groups)
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    return float(np.sqrt(squares / freedom)) if freedom else None


def gaps(values):
    """(highest − lowest, median gap of neighbours in the order),
    in percent of the mean."""
    ordered = np.sort(np.asarray(list(values), dtype=float))
    return (
        np.array([np.ptp(ordered), np.median(np.diff(ordered))]) / ordered.mean() * 100
    )


file = KIT / "data" / "results" / "iu-controls" / "metrics.json"
constant = json.loads(file.read_text(encoding="utf-8"))["rows"][0]
# 590 studies of IU X-ray
iu = {name: (constant["metrics"][name], *constant["ci"][name]) for name in SCORES}
shipped = json.loads(
    (KIT / "data" / "tiny" / "run" / "metrics.json").read_text(encoding="utf-8")
)["rows"][0]


def lengths(metric):
    """What is compared → percent of the mean score."""
    wide, near = gaps(table6[metric])
    found = {
        "paper's Table 6: highest − lowest": wide,
        "paper's Table 6: neighbours": near,
    }
    for name in stored:
        values = [mean for mean, _ in spreads(name, metric).values()]
        if name in ("table5", "table6") and len(values) > 1:
            found[f"our {name}: highest − lowest"] = gaps(values)[0]
        if values and (sd := pooled(name, metric)):
            found[f"our {name}: sd of seeds"] = sd / np.mean(values) * 100
    score, low, high = iu[metric]
    found["another 590 IU studies: sd"] = (high - low) / 3.92 / score * 100
    low, high = shipped["ci"][metric]
    found["another 240 phantoms: sd"] = (
        (high - low) / 3.92 / shipped["metrics"][metric] * 100
    )
    return found


compared = pd.DataFrame(
    {METRICS[metric]: lengths(metric) for metric in ("Bleu_4", "CIDEr")}
)
compared.round(1).rename_axis("percent of the mean score")


# %%
bar_panels(
    {
        f"{title}, percent of the mean score": compared[title].to_dict()
        for title in compared
    },
    hatched=[what for what in compared.index if ": sd" in what],
)

# %% [markdown]
# *Plain: differences between rows. Hatched: standard deviations of luck.* IU's are those of the constant
# report in `data/results`, as nobody has EMRRG's reports; the phantom's those of the shipped run.
#
# How close may two rows of a single-run table lie before their order means nothing? The usual mark is twice
# the standard deviation of a *difference* of two independent rows, 2 · √2 · sd. Below: all pairs of Table 6,
# and what Table 5 is quoted for, hybrid layers against a plain language model and full tuning against
# LoRA_P(X).

# %%
for metric in ("Bleu_4", "CIDEr"):
    apart = [abs(a - b) for a, b in itertools.combinations(table6[metric], 2)]
    found = compared[METRICS[metric]].dropna()
    marks = {
        what: found[what]
        for what in found.index
        if what
        in (
            "another 590 IU studies: sd",
            "our table5: sd of seeds",
            "our table6: sd of seeds",
        )
    }
    marks["all luck together"] = np.sqrt(
        sum(
            np.square(
                [
                    found["another 590 IU studies: sd"],
                    found.get("our table6: sd of seeds", 0.0),
                ]
            )
        )
    )
    for what, percent in marks.items():
        limit = 2 * 2**0.5 * percent / 100 * table6[metric].mean()
        print(
            f"{METRICS[metric]:7} {what:27} rows closer than {limit:.3f} cannot be "
            "ranked: "
            f"{sum(gap < limit for gap in apart)} of {len(apart)} pairs"
        )
    for what, (more, less) in {
        "hybrid layers, LoRA_P(X)": (6, 4),
        "hybrid layers, full": (3, 1),
        "full, hybrid layers": (3, 6),
    }.items():
        gap = (
            table5.loc[f"EMRRG #0{more}", metric]
            - table5.loc[f"EMRRG #0{less}", metric]
        )
        verdict = (
            "closer than all luck together"
            if abs(gap) < limit
            else "further apart than that"
        )
        print(f"        Table 5, {what}: #0{more} − #0{less} = {gap:+.3f}, {verdict}")

# %% [markdown]
# Two reservations. The seeds' deviation is that of *our* tiny model, the paper's own is not known. And with
# both rows' reports at hand the test set's share shrinks, because a hard study is hard for both rows; a
# table of scores does not allow that, reports do. Our two live rows, paired by study. After ten steps, and
# with 16 studies, do not expect much; if both write the same reports, the difference is exactly 0:

# %%
from emrrg_lib.evaluation.intervals import paired_difference, system_statistics

systems = {
    name: system_statistics(
        [report["reference"] for report in reports],
        [report["hypothesis"] for report in reports],
        meteor=False,
    )
    for name, (reports, _) in jobs.items()
}
for metric in ("Bleu_4", "CIDEr"):
    gap = paired_difference(metric, systems["none"], systems["dynamic + warm-up"])
    told = "different" if gap.real else "no proven difference"
    print(
        f"{METRICS[metric]}: none − (dynamic + warm-up) = {gap.value:+.3f} "
        f"[{gap.low:+.3f}, {gap.high:+.3f}]: {told} on these studies, of these two "
        "trainings"
    )

# %% [markdown]
# ## Is it the paper's order?
#
# The rank correlation between our rows and the paper's. Two measures of its luck: *by chance*, how
# large it gets in 95 % of random orders; and *by seeds*, the middle 95 % when every row's mean is moved
# by its error, sd / √seeds.

# %%
luck = np.random.default_rng(0)


def correlations(many, truth):
    """Rank correlation of each line of (R, rows) with (rows,): (R,)."""
    ranks, wanted = (
        many.argsort(axis=1).argsort(axis=1),
        pd.Series(truth).rank().to_numpy(),
    )
    ranks, wanted = ranks - ranks.mean(axis=1, keepdims=True), wanted - wanted.mean()
    return ranks @ wanted / np.sqrt((ranks**2).sum(axis=1) * (wanted**2).sum())


def order(name, dataset, metric):
    """Rank correlation of one stored table with the paper's rows;
    None with less than 3 rows."""
    frame, ours = stored[name], spreads(name, metric)
    paper = frame[frame["source"] == f"paper, {dataset}"].set_index("row")
    paper = paper[metric].dropna() if metric in paper else pd.Series(dtype=float)
    both = [row for row in ours if row in paper.index]
    if len(both) < 3:
        return None
    mine, truth = np.array([ours[row][0] for row in both]), paper[both].to_numpy()
    chance = abs(correlations(luck.random((2000, len(both))), truth))
    told = {
        "table": name,
        "paper's data": dataset,
        "score": METRICS[metric],
        "rows": len(both),
        "rank correlation": f"{spearman(mine, truth):+.2f}",
        "by chance, 95 % within": f"± {np.percentile(chance, 95):.2f}",
        "by seeds": "one seed: not known",
    }
    if sd := pooled(name, metric):
        seeds = trainings(frame).groupby("row").size()[both].to_numpy()
        drawn = correlations(
            luck.normal(mine, sd / np.sqrt(seeds), (2000, len(both))), truth
        )
        told["by seeds"] = "{:+.2f} to {:+.2f}".format(
            *np.percentile(drawn, [2.5, 97.5])
        )
    return told


found = [
    order(name, dataset, metric)
    for name, frame in stored.items()
    for dataset in frame["source"][frame["source"].str.startswith("paper, ")]
    .str[7:]
    .unique()
    for metric in ("Bleu_4", "CIDEr")
]
pd.DataFrame([each for each in found if each])

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
# | Table 6's LLM | not stated | its lines: plain, tokens in the prompt; measured: its *own settings* |
#
# What carries over is the method: the same rows, with seeds, controls and intervals.
#
# ## Four traps in reading
#
# ### 1. Counting weights instead of looking at scores
#
# "Only 2.3% of the parameters" (§4.4): notebook 03 asks of what. Here: does the count order the scores?
# Mind the chance range; with four rows it is the whole scale. (Where a table was run with one view,
# `data.max_views=1`, its rows have one view embedding instead of two: 128 weights fewer than in the ledger
# above.)

# %%
with_encoder = [name for name in rows if name != "LoRA(LLM)"]
paper = preset("iu-xray")  # its encoder; the language model does not count here
full_size = replace(start, encoder=paper.encoder, partial_lora=paper.partial_lora)
adapter = {
    name: trained(row_config(full_size, rows[name]))["encoder, LoRA"]
    for name in with_encoder
}
order_paper = spearman(adapter.values(), table6.loc[with_encoder, "Bleu_4"])


def by_chance(count):
    """How large a rank correlation gets in 95 % of random orders of so many rows."""
    lines = np.random.default_rng(0).random((2000, count))
    return np.percentile(abs(correlations(lines, np.arange(count))), 95)


print(
    f"paper's Table 6, encoder rows: adapters of {min(adapter.values()):,} to "
    f"{max(adapter.values()):,} "
    f"weights; rank correlation with BLEU-4 {order_paper:+.2f} "
    f"({len(adapter)} rows, by chance ± {by_chance(len(adapter)):.2f})"
)
for name, frame in stored.items():
    found = spreads(name, "Bleu_4")
    size = trainings(frame).groupby("row")["trained"].first()
    if size.nunique() > 2:
        value = spearman(size[list(found)], [mean for mean, _ in found.values()])
        print(
            f"our {name}: {size.min():,} to {size.max():,} weights; rank correlation "
            f"{value:+.2f} "
            f"({len(found)} rows, by chance ± {by_chance(len(found)):.2f})"
        )

# %% [markdown]
# ### 2. Equal steps are not equal chances
#
# The runner gives each row the same number of steps. A row that learns slowly is then judged half-way;
# was it still getting better? And the preset's warm part works on encoder tokens that are computed
# **once**. That is fast, and nothing in the encoder learns there, whatever the row says: from stored
# tokens no gradient goes back.

# %%
full = EMRRG.from_preset(
    row_config(start, {row.row: row for row in read_rows("rank")}["full"])
)
with capture_output():
    test = StudySet(read_dataset(data, 0).split("test"), start)
    pixels, mask = test.images(range(2))
with torch.no_grad():
    kept = full.encoder(pixels)  # computed once, as in the warm part


def encoder_learns(states):
    """Weights of the encoder that get a gradient from a loss on these visual states."""
    full.zero_grad(set_to_none=True)
    states.square().mean().backward()
    return sum(p.numel() for p in full.encoder.parameters() if p.grad is not None)


print(
    f"from stored tokens: {encoder_learns(full.project(kept, mask)[0]):,} of the "
    "encoder's weights get a "
    f"gradient; from the images: {encoder_learns(full.encode(pixels, mask)[0]):,}"
)
budgets = {}  # joint steps of all steps → tables
for name in stored:
    values = dict(word.split("=", 1) for word in record[name]["values"])
    steps = {
        part: int(values.get(f"train.{part}", record[name]["config"]["train"][part]))
        for part in ("warm_steps", "steps")
    }
    budgets.setdefault(f"{steps['steps']} of {sum(steps.values())} steps", []).append(
        name
    )
for budget, tables in budgets.items():
    print(f"the encoder learns in {budget}:", ", ".join(tables))

run = json.loads(
    (KIT / "data" / "tiny" / "run" / "run.json").read_text(encoding="utf-8")
)
warm = [
    entry["loss"]
    for entry in run["history"]
    if entry["step"] <= run["config"]["train"]["warm_steps"]
]
fifths = [float(np.mean(part)) for part in np.array_split(warm, 5)]
print(
    "\nthe shipped run, mean loss of the warm part's fifths:",
    [round(value, 4) for value in fifths],
)
print(f"the last fifth is {1 - fifths[-1] / fifths[-2]:.0%} below the one before")

# %% [markdown]
# So in these tables, what of the encoder trains can make a difference in the joint steps alone. A row with
# the whole encoder to tune has the most to gain from more of them: what is below here may be above after
# a real training. The loss of the last fifths shows whether a training was at its end, the column `minutes`
# of `results.csv` what a row cost.
#
# ### 3. The same seed is not always the same start
#
# It is tempting to pair rows by seed, seed 0 with seed 0, as studies were paired above: what the two
# trainings share then drops out of their difference. But do they share anything? A seed fixes a *stream* of
# random numbers, and whoever draws first takes the first ones. An adapter of rank 4 takes fewer than one
# of rank 8. If the adapter is drawn before the projector, the projector gets other numbers:


# %%
def drawn(order, r):
    """First weights of an adapter of rank r and of a projector,
    drawn from seed 0 in this order."""
    width = {"adapter": r, "projector": 128}
    torch.manual_seed(0)
    return {
        part: torch.nn.Linear(128, width[part], bias=False).weight.detach()
        for part in order
    }


for parts in (("adapter", "projector"), ("projector", "adapter")):
    four, eight = (drawn(parts, r)["projector"] for r in (4, 8))
    print(
        f"first the {parts[0]}, then the {parts[1]}: the projectors of rank 4 and of "
        "rank 8 start",
        "equal" if torch.equal(four, eight) else "different",
    )

# %% [markdown]
# So the kit draws what all rows share first (projector, view embedding, then hybrid layers) and the adapters
# last. And since B of every adapter starts at 0, no adapter changes anything before the first step. The order
# of the studies is the seed's as well: two rows of one seed share their start and their batches.
#
# What they do **not** share: adapters of another shape, and whatever adapter is drawn after them (LoRA of the
# language model comes after Partial LoRA); a shared part of another shape or in another place (hybrid layers
# in other layers); and everything after the first step, since every weight then follows other gradients.
#
# Whether pairing is worth it after a whole training is for the results to say. If it is, the difference of
# two rows varies less from seed to seed than that of two independent rows, √2 · sd.

# %%
PAIRS = [
    ("LoRA_P(X)", "LoRA(x_proj)", "projector"),
    ("LoRA_P(X)", "LoRA(LLM)", "projector"),
    (
        "full / LLM + hybrid layers",
        "LoRA_P(X) / LLM + hybrid layers",
        "cross_attention",
    ),
    ("full / LLM + LoRA", "LoRA_P(X) / LLM + LoRA", "q_proj.lora_A"),
]
begun = {
    name: EMRRG.from_preset(row_config(start, chosen[name])).eval()
    for name in dict.fromkeys(name for pair in PAIRS for name in pair[:2])
}
for one, other, part in PAIRS:
    a, b = (dict(begun[name].named_parameters()) for name in (one, other))
    both = [name for name in a if part in name and name in b]
    equal = sum(torch.equal(a[name], b[name]) for name in both)
    print(f"{one} and {other}: {equal} of {len(both)} tensors of `{part}` are equal")
assert torch.equal(
    begun["LoRA_P(X)"].projector.weight, begun["LoRA(x_proj)"].projector.weight
)
with torch.no_grad():
    one, other = (
        begun[name].encode(pixels, mask)[0] for name in ("LoRA_P(X)", "LoRA(x_proj)")
    )
print(
    "visual states of the first two rows: they differ by "
    f"{float((one - other).abs().max())}\n"
)

for name in several:
    scores = trainings(stored[name]).pivot(index="seed", columns="row", values="Bleu_4")
    spread = [
        (scores[a] - scores[b]).var() for a, b in itertools.combinations(scores, 2)
    ]
    print(
        f"{name}, BLEU-4, difference of two rows: sd {np.nanmean(spread) ** 0.5:.4f} "
        "paired by seed, "
        f"{2**0.5 * pooled(name, 'Bleu_4'):.4f} if they were independent"
    )
if single:
    print("one seed for some row, so nothing can be said:", ", ".join(single))

# %% [markdown]
# ### 4. The best row of the test set
#
# Let eleven rows be *equal*. The highest one still leads, by luck, and a table's bold print celebrates it.
# How far is the highest above the mean of the rows, if nothing but the seeds makes a difference?


# %%
def lead(rows, sd, seeds, draws=4000):
    """Highest row minus mean of the rows, of tables in which all rows are equal:
    (draws,)."""
    tables = np.random.default_rng(1).normal(0, sd, (draws, rows, seeds)).mean(axis=2)
    return tables.max(axis=1) - tables.mean(axis=1)


for name in several:
    found, sd = spreads(name, "Bleu_4"), pooled(name, "Bleu_4")
    means = [mean for mean, _ in found.values()]
    seeds = int(trainings(stored[name]).groupby("row").size().min())
    equal, ours = lead(len(means), sd, seeds), max(means) - np.mean(means)
    print(
        f"{name}: the best of {len(means)} rows leads their mean by {ours:.4f} "
        "BLEU-4; equal rows would by "
        f"{equal.mean():.4f}, and by as much or more in {(equal >= ours).mean():.0%} "
        "of the tables"
    )
if single:
    print("one seed for some row, so its luck is not known:", ", ".join(single))


# %%
rows_of_a_table = range(2, 16)
by_luck = {
    f"{seeds} seed{'s' * (seeds > 1)} for each row": (
        rows_of_a_table,
        [lead(k, 1.0, seeds).mean() for k in rows_of_a_table],
    )
    for seeds in (1, 3)
}
curves(
    by_luck, "equal rows (Table 6 has 11)", "lead in sd", "Lead of the best row by luck"
)

# %% [markdown]
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
# for name, frame in stored.items():
#     print(name, {row: tuple(x and round(float(x), 3) for x in both)
#                  for row, both in mean_and_sd(frame, "Bleu_4").items()})
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
# First one number a study: a's mean over seeds minus b's. What is drawn are *studies*, with all that
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
# - J. Dodge et al., Show your work, arXiv 1909.03004; X. Bouthillier et al., Accounting for variance in
#   machine learning benchmarks, arXiv 2103.03098; N. Reimers and I. Gurevych, Reporting score
#   distributions makes a difference, arXiv 1707.09861.
# - E. Hu et al., LoRA, arXiv 2106.09685; M. Yoshimura et al., MambaPEFT, arXiv 2411.03855.
#
# Read on in the code: [the runner](../emrrg_lib/training/ablation.py), [the
# tables](../data/ablations/table6.csv), [what trains](../emrrg_lib/tuning/policy.py), [the
# figure](../emrrg_lib/interpret/ablation_figure.py).
#
# [← 08](08_pretraining.ipynb) · [10 →](10_paper_vs_released_code.ipynb)
