# %% [markdown]
# # 06 · Metrics
#
# **Goal.** Compute every score of a report generator yourself, find out what a report that never
# looks at the image scores, and know how large a difference must be before it means anything.
#
# | | |
# |---|---|
# | **You need** | counting, logarithms, means; notebook 00 |
# | **Time** | about 45 minutes of reading and trying, 96 more for the exercises, 25 for the bonus task |
# | **CPU** | 1 core, 2 GB of memory (METEOR runs a Java process), about 1 minute to run |
# | **GPU** | not needed, at any size; nothing is downloaded |
# | **Paper** | EMRRG §4.1, Tables 1 to 3 |
#
# **You will be able to**
#
# - write BLEU and CIDEr yourself, equal to the published scorer (exercises 1 to 5),
# - compute the three averages of clinical efficacy and name the blind spots of each score (6),
# - set controls beside a score, and say what a report without an image is worth,
# - compare two systems on the same studies with an interval (7 and 9),
# - say how many studies a difference needs (8).
#
# **Contents.** [One pair](#One-pair) · [BLEU](#BLEU) · [ROUGE-L](#ROUGE-L) · [CIDEr](#CIDEr) ·
# [METEOR, and the library](#METEOR,-and-the-library) · [What do they
# reward?](#What-do-they-reward?) · [A report that never looks](#A-report-that-never-looks) ·
# [Clinical efficacy](#Clinical-efficacy) · [The metrics of
# today](#The-metrics-of-today) · [How sure is a score?](#How-sure-is-a-score?) · [Comparing two
# systems](#Comparing-two-systems) · [0.005 BLEU](#What-does-a-difference-of-0.005-BLEU-mean?) ·
# [Exercises](#Exercises) · [Quiz](#Quiz) · [Further reading](#Further-reading)
#
# > **The reports of this notebook are synthetic.** Nothing in this kit is for clinical use.

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
# phantom reports; or the path of a real data set with train, val and test
PROFILE = "tiny"

# %%
import math
import warnings
from collections import Counter
from textwrap import fill

import numpy as np
import pandas as pd

from emrrg_lib.course.notebook import dashed
from emrrg_lib.interpret import model_picture

# without Java it is left out; you will see a dash
warnings.filterwarnings("ignore", message="METEOR")
model_picture(lit="report")

# %% [markdown]
# Only the last part is lit: a metric sees two texts, the reference and the report. It does not know
# whether there was an image.
#
# ## One pair
#
# Two short reports, cleaned as the published code cleans them: lower case, full stops as words. The
# second one overlooks an enlarged heart. A **run** is n words that follow each other. How many runs of
# the report are in the reference?

# %%
reference = (
    "the heart is enlarged . the lungs are clear . there is no pleural effusion ."
)
written = "the heart is normal in size . the lungs are clear . no pleural effusion ."


def grams(text, n):
    """How often each run of n words is in the text."""
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


rows = {}
for n in range(1, 5):
    ours, theirs = grams(written, n), grams(reference, n)
    # the smaller count of each: what is said too often is not found too often
    shared = ours & theirs
    rows[n] = {"written": ours.total(), "found": shared.total()}
counted = pd.DataFrame(rows).T.rename_axis("n")
counted["precision"] = counted["found"] / counted["written"]
counted.round(3)

# %% [markdown]
# ## BLEU
#
# BLEU-n is the **geometric mean** of the precisions up to n: the n-th root of their product. A
# precision alone could be cheated by a very short report, so there is a **brevity penalty**: with c
# words written and r in the reference, BLEU is multiplied by exp(1 − r/c) where c < r. Too long costs
# nothing directly; it lowers the precisions.

# %%
product = counted["precision"].cumprod()
by_hand = [product[n] ** (1 / n) for n in range(1, 5)]
print("words:", len(written.split()), "written,", len(reference.split()), "in the")
print("reference, so there is no penalty")
print("BLEU-1..4:", np.round(by_hand, 3))
short = "the lungs are clear ."
print(
    f"\n{short!r}: each of its 5 words is right, so each precision is 1;",
    f"\nthe penalty is exp(1 - 16/5) = {math.exp(1 - 16 / 5):.3f}, and so is BLEU",
)

# %% [markdown]
# Over a **corpus** nothing is averaged: found and written runs of all studies are summed, and so are
# the lengths; then comes one division. So the penalty asks whether the reports are too short *on the
# whole*, and a single report without a common run of four words is not a disaster. In exercises 2 and 3
# you write this.
#
# ## ROUGE-L
#
# The longest common subsequence: words in the same order, with gaps allowed. Precision is its share
# of the report, recall its share of the reference. They are combined with β = 1.2, which counts
# recall somewhat more. Over a corpus: the mean of the studies.


# %%
def common_subsequence(a, b):
    """Length of the longest common subsequence of two lists of words."""
    best = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, word in enumerate(a):
        for j, other in enumerate(b):
            best[i + 1, j + 1] = (
                best[i, j] + 1 if word == other else max(best[i, j + 1], best[i + 1, j])
            )
    return best[-1, -1]


def rouge_l(reference, written, beta=1.2):
    a, b = reference.split(" "), written.split(" ")
    common = common_subsequence(a, b)
    P, R = common / len(b), common / len(a)
    return (1 + beta**2) * P * R / (R + beta**2 * P) if common else 0.0


print("common:", common_subsequence(reference.split(), written.split()), "words")
print("ROUGE-L:", round(rouge_l(reference, written), 3))

# %% [markdown]
# ## CIDEr
#
# BLEU pays as much for "the" as for "pneumothorax". CIDEr weighs each run by how rare it is:
# **ln(N / number of references that have it)**, N references in all. A run that is in every reference
# weighs nothing. A text becomes a vector: for each run its count times its weight. The score of a pair
# is the cosine of its two vectors, one for n = 1 to 4 each, their mean times ten. There are two guards.
# A run that the report repeats counts no more than in the reference: in the sum of products the report's
# weight is at most the reference's. And another length is punished by exp(−(difference in
# words)² / (2 · 6²)). With these guards it is called CIDEr-D; the scorer that report papers use computes
# this one.
#
# So CIDEr needs a *corpus*, and the same pair scores differently in another one. Here is one of six
# references. The table shows how much a few runs weigh in it; in exercises 4 and 5 you compute the
# weights and the score.

# %%
references = [
    reference,
    "the heart is normal in size . the lungs are clear . no pleural effusion .",
    "heart size is normal . there is a small left pleural effusion . the bony "
    "structures are intact .",
    "the heart is normal in size . there is a right apical pneumothorax . no pleural "
    "effusion .",
    "the heart is enlarged . there is mild pulmonary edema . small bilateral pleural "
    "effusions .",
    "the heart is normal in size . the lungs are hyperinflated . no pneumothorax or "
    "pleural effusion .",
]
reports = [written, *references[1:]]  # of the other five an exact copy
rows = []
for run in ("the", "effusion", "pneumothorax", "heart is enlarged", "pulmonary edema"):
    words = tuple(run.split())
    has = sum(words in grams(text, len(words)) for text in references)
    rows.append({"run": run, "references": has, "weight": math.log(6 / has)})
dashed(pd.DataFrame(rows).set_index("run"))


# %% [markdown]
# ## METEOR, and the library
#
# METEOR aligns the two texts word by word: first equal words, then equal stems ("effusion",
# "effusions"), then synonyms, then paraphrases from a table. From the alignment come a precision and
# a recall, combined with much weight on recall. In both a word of grammar weighs .25 and a word of
# content .75, so one third of it. A penalty falls due for every break in the order. The tables make it
# too long to write here: it is a Java program, which the library calls.
#
# **Check.** `score_each` of the library is the published scorer (pycocoevalcap 1.2). Are BLEU and
# ROUGE-L by hand equal to it? (A dash: not computed.)

# %%
from emrrg_lib.evaluation.nlg import score_each

library = pd.DataFrame(score_each(references, reports)).astype(float)
names = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L"]
hand = pd.Series([*by_hand, rouge_l(reference, written)], index=names)
assert np.allclose(hand, library.loc[0, names], atol=1e-5)
print("five scores by hand: equal to the published scorer's")
dashed(
    pd.DataFrame(
        {
            "by hand": hand,
            "library": library.loc[0],
            "library, exact copy": library.loc[1],
        }
    ).reindex(library.columns)
)

# %% [markdown]
# ## What do they reward?
#
# Six reports for one study, in the corpus above. Read each one first, and say how bad it is. Then
# look at the scores.

# %%
from emrrg_lib.evaluation import label_report

truth = (
    "the heart is enlarged . there is a right apical pneumothorax . "
    "there is no pleural effusion ."
)
variants = {
    "copy": truth,
    "other order": "there is no pleural effusion . "
    "there is a right apical pneumothorax . "
    "the heart is enlarged .",
    "other words": "cardiomegaly . pneumothorax at the right apex . no effusions .",
    "wrong side": truth.replace("right", "left"),
    "one finding denied": truth.replace("a right apical", "no"),
    "all is normal": "the heart is normal . there is no apical pneumothorax . "
    "there is no pleural effusion .",
}


def findings(text):
    """The observations that a report calls present or possible, without No Finding."""
    return {name for name, value in label_report(text).items() if value in (1, -1)} - {
        "No Finding"
    }


# %% [markdown]
# The last two columns count what the report says of the two findings: whether each is named, and whether
# its **side** is told too. `mine_targets` of the library reads sides from the words of a finding's
# sentence: for each observation whether it is there, in the right half, in the left half.

# %%
from emrrg_lib.training.batches import mine_targets


def sided(text):
    """Pairs (finding, side) that a report claims; side is any, right or left."""
    found = (mine_targets(text) == 1).nonzero().tolist()
    return {(finding, ("any", "right", "left")[place]) for place, finding in found}


corpus = [truth] * len(variants) + references
scored = score_each(corpus, [*variants.values(), *references])[: len(variants)]
table = pd.DataFrame(scored, index=list(variants)).astype(float)
kept = [f"{len(findings(text) & findings(truth))} of 2" for text in variants.values()]
sides = [
    f"{len(sided(text) & sided(truth))} of {len(sided(truth))}"
    for text in variants.values()
]
dashed(table[["Bleu_4", "ROUGE_L", "METEOR", "CIDEr"]]).assign(
    **{"findings kept": kept, "with sides": sides}
)

# %% [markdown]
# "other words" says all that is true, and every score puts it last. "one finding denied" misses a
# pneumothorax and "wrong side" would drain the wrong lung; both score several times as high. Word
# overlap asks *does it read alike*, not *is it right*. The 14 labels have a blind spot too: they
# know no sides. For them "wrong side" keeps 2 of 2 findings. Only the last column sees it, and it is
# not among the scores that papers report.
#
# ## A report that never looks
#
# How much does it pay to write the same sentence for everybody? First the published numbers: IU
# X-ray, R2Gen's test split of 590 studies. The controls were measured with `emrrg evaluate controls`
# on the real reports; [data/results](../data/results/README.md) has their intervals.

# %%
import json

from emrrg_lib.evaluation.published import published
from emrrg_lib.files import KIT

METRICS = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr"]
file = KIT / "data" / "results" / "iu-controls" / "metrics.json"
measured = json.loads(file.read_text(encoding="utf-8"))["rows"]
controls = pd.DataFrame({row["system"]: row["metrics"] for row in measured}).T[METRICS]
table1 = published("emrrg_table1").query("dataset == 'IU X-Ray'").set_index("system")
table = pd.concat([controls, table1.loc[["R2Gen", "R2GenGPT", "EMRRG"], METRICS]])
dashed(table.astype(float))

# %% [markdown]
# One text, the same for all 590, has higher BLEU-1 to BLEU-4 than these three published models. It is
# the training report with the best BLEU-4 when given to everybody on the *validation* split, chosen
# without a look at a test report. Why does that work? The same
# experiment on phantom reports, where everything can be taken apart: as many as IU has, 2069, 296
# and 590. Only texts are drawn; no control needs an image.

# %%
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.phantom.catalogue import draw_findings
from emrrg_lib.phantom.wording import compose, reword

rng = np.random.default_rng(0)
if PROFILE == "tiny":
    drawn = [draw_findings(rng) for _ in range(2069 + 296 + 590)]
    texts = [clean_report(compose(each, rng)[0], "iu_xray") for each in drawn]
    train, val, test = texts[:2069], texts[2069:2365], texts[2365:]
else:
    dataset = read_dataset(PROFILE, seed=0)
    train, val, test = (
        [clean_report(study.report, "iu_xray") for study in dataset.split(split)]
        for split in ("train", "val", "test")
    )
print(
    f"{len(test)} references of {np.mean([len(t.split()) for t in test]):.0f} words "
    "on average"
)

# %%
from emrrg_lib.evaluation.baselines import constant_bleu, text_controls
from emrrg_lib.evaluation.nlg import score_reports

blind = text_controls(train, val, len(test), seed=0)
told = {
    name: score_reports(test, texts, meteor=False)
    | {"words": np.mean([len(t.split()) for t in texts])}
    for name, texts in blind.items()
}
print(fill(f"the constant: {blind['constant report'][0]}", 88))
shown = pd.DataFrame(told).T[["Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr", "words"]]
shown["words"] = shown["words"].map("{:.1f}".format)
dashed(shown)

# %% [markdown]
# Two reasons. **Sentences are shared**: most of what a radiologist writes is that something is
# normal, in a few wordings. **Length is tuned**: of all candidates the one wins that is just long
# enough to escape the brevity penalty. Each point below is one training report, given to all test
# studies.

# %%
from emrrg_lib.interpret.figures_scores import gap_histogram, point_groups

candidates = list(dict.fromkeys(train))
words = np.array([len(text.split()) for text in candidates])
normal = np.array([not findings(text) for text in candidates])
as_constant = constant_bleu(candidates, test)[:, 3]
mean_words = np.mean([len(text.split()) for text in test])
point_groups(
    {
        "names a finding": (words[~normal], as_constant[~normal]),
        "names none": (words[normal], as_constant[normal]),
    },
    "words",
    "BLEU-4 of the constant",
    f"BLEU-4 of {len(candidates)} reports as constants against their length. The "
    f"highest one has {words[as_constant.argmax()]} words; the mean of the references "
    f"is {mean_words:.0f} words. Shorter and longer ones fall off.",
    (mean_words, "mean of the references"),
)

# %% [markdown]
# *Each training report as everybody's report. Crosses: it names a finding; circles: it names none.*
#
# How much of a reference is common property?

# %%
sentences = Counter(s.strip() for text in train for s in text.split(" . "))
in_test = [s.strip() for text in test for s in text.split(" . ")]
constant = {s.strip() for s in blind["constant report"][0].split(" . ")}
common = {s for s, _ in sentences.most_common(20)}
for name, pool in (
    ("are in the constant", constant),
    ("are among the 20 commonest", common),
):
    share = np.mean([sentence in pool for sentence in in_test])
    print(f"of {len(in_test)} sentences of the test references {share:.0%} {name}")

# %% [markdown]
# Real reports vary more: with IU as `PROFILE` the two shares are 3 % and 17 %. There it is not whole
# sentences that are shared but runs of words; the tuned length counts there as here.
#
# CIDEr distinguishes a model from a constant better, because it pays nothing for what everybody writes. But
# it pays well for a *typical* report, too: look at "most frequent training report" in the table of
# IU. Only what a report **says** can decide.
#
# ## Clinical efficacy
#
# A labeler reads both reports and marks 14 observations: 1 present, 0 denied, −1 uncertain, None not
# mentioned. Then the two lists are compared like any classification. That sounds like *one* number.
# It is at least twelve: three averages, two readings of "uncertain", with the label *No Finding* or
# without. Three studies; an empty cell is "not mentioned":

# %%
texts_of = {
    "study 1": (
        "there is a left pleural effusion . the heart is enlarged .",
        "there is a left pleural effusion .",
    ),
    "study 2": ("possible right lower lobe pneumonia .", "no acute disease ."),
    "study 3": ("normal chest .", "normal chest ."),
}
rows = [
    {"study": study, "text": side}
    | {k: v for k, v in label_report(text).items() if v is not None}
    for study, pair in texts_of.items()
    for side, text in zip(("reference", "report"), pair, strict=True)
]
labels = pd.DataFrame(rows).set_index(["study", "text"]).astype("Int64")
labels.map(lambda value: "" if pd.isna(value) else str(value))

# %% [markdown]
# Count by hand, uncertain as present, the 13 findings without *No Finding*:
#
# - **micro**, all decisions in one heap: the references have 3 findings (effusion, large heart,
#   pneumonia), the reports 1, both 1. P = 1/1, R = 1/3, F1 = 2·1 / (3 + 1) = 0.5.
# - **macro**, one F1 for each observation, then the mean: effusion 1, the other twelve 0. F1 = 1/13.
# - **example-based**, one F1 for each study, then the mean: study 1 has 2·1 / (2 + 1) = 2/3, study 2
#   has 0, and study 3, normal and rightly called so, has 0 / 0, which counts as 0. F1 = 2/9.
#
# The library gives all of them, in both readings of *uncertain*, with and without *No Finding*:

# %%
from emrrg_lib.evaluation import clinical_scores

side_a, side_b = (
    [label_report(pair[side]) for pair in texts_of.values()] for side in (0, 1)
)
rows = {}
for no_finding in (False, True):
    for uncertain in ("positive", "negative"):
        scores = clinical_scores(
            side_a, side_b, uncertain=uncertain, no_finding=no_finding
        )
        rows[f"{scores['observations']} labels, uncertain is {uncertain}"] = {
            average: scores[average]["F1"] for average in ("micro", "macro", "example")
        }
one = rows["13 labels, uncertain is positive"]
assert np.allclose([one["micro"], one["macro"], one["example"]], [1 / 2, 1 / 13, 2 / 9])
print("by hand = library: 1/2, 1/13, 2/9")
pd.DataFrame(rows).transpose().round(3)

# %% [markdown]
# The same three reports: from 0.077 to 0.667. The paper's Tables 2 and 3 say neither which average
# nor which labeler; the released folder has no code for them. So this kit prints all, and names the
# labeler in every table. Now the controls of the 590 phantom studies, with an **oracle** beside
# them: it knows the findings and writes them in other words, chosen by chance.


# %%
def in_other_words():
    """For each test study a report with the same findings, worded anew."""
    if PROFILE == "tiny":
        return [clean_report(reword(each, rng), "iu_xray") for each in drawn[2365:]]
    # real data: a training report that names the same findings, if there is one
    alike = {}
    for text in train:
        alike.setdefault(frozenset(findings(text)), []).append(text)
    return [
        str(rng.choice(alike.get(frozenset(findings(text)), train))) for text in test
    ]


systems = blind | {"oracle, other words": in_other_words()}
test_labels = [label_report(text) for text in test]
labels_of = {
    name: [label_report(text) for text in texts] for name, texts in systems.items()
}

# %%
rows = {}
for name, texts in systems.items():
    with_normal, without = (
        clinical_scores(test_labels, labels_of[name], no_finding=flag)
        for flag in (True, False)
    )
    rows[name] = {
        "BLEU-4": score_reports(test, texts, meteor=False)["Bleu_4"],
        "micro F1, 14": with_normal["micro"]["F1"],
        "micro F1, 13": without["micro"]["F1"],
        "macro F1, 13": without["macro"]["F1"],
        "example F1, 13": without["example"]["F1"],
    }
pd.DataFrame(rows).transpose().round(3)

# %% [markdown]
# Three things to see. With *No Finding* among the labels the constant has a respectable score,
# earned on the normal studies; without it nothing is left. The oracle is right about every study,
# and its BLEU-4 is hardly above the constant's. And the averages of a *perfect* report are not 1:
# the example-based one gives nothing for a normal study, the macro one nothing for an observation
# that never occurs.
#
# On the real IU reports it is starker. There the stand-in for the oracle is a training report that names
# the same findings, where there is one: micro F1 of 13 labels .881, BLEU-4 .099. The constant: micro F1
# .000, BLEU-4 .174. (This notebook with IU's `annotation.json` as `PROFILE`, 22 November 2026.)
#
# ## The metrics of today
#
# Papers of 2025 and 2026 add scores that read reports with trained models. Each adds something that the
# scores above lack, and each has a blind spot of its own.
#
# | metric | it compares | it adds | it does not see |
# |---|---|---|---|
# | **CheXbert F1** | 14 labels, read by a trained BERT | unusual wordings | sides, sizes, places |
# | **SembScore** | CheXbert's vectors of both texts | partial agreement | which finding differs |
# | **RadGraph F1** | graphs of observations and places | places and sides | other words for the same |
# | **BERTScore** | each word with its nearest, by vectors | other words for the same | a single "no" |
# | **RaTEScore** | medical entities, by vectors | synonyms, denied entities | how entities are related |
# | **RadCliQ** | a weighted sum of four such scores | weights from radiologists' counts | why it is low |
# | **GREEN** | errors of six kinds, by a language model | errors in words | what that model misreads |
#
# BERTScore is not from medicine; in RadCliQ a lower value is better. All need trained weights, GREEN a
# language model with 7 billion of them.
#
# None of them needs an image, and none is proof against a constant report: put the controls of this
# notebook beside them. The kit reads CheXbert's labels (`emrrg evaluate --help`), and `emrrg evaluate
# --metrics radeval:…` asks RadEval, a package that computes the others, for every study, so that they
# get this kit's controls and intervals; each names the weights that it needs.
#
# ## How sure is a score?
#
# 590 studies are a sample; another 590 would have given another score. The **bootstrap** asks how
# much: draw 590 of them *with replacement*, score, repeat a thousand times, and take the middle 95 %.
# A drawn set is a row of counts, how often each study came up. BLEU has to be recomputed from summed
# counts each time, but that is one matrix product.

# %%
from emrrg_lib.evaluation.intervals import bootstrap, resample, system_statistics
from emrrg_lib.evaluation.metrics import bleu_score

statistics = {
    name: system_statistics(test, texts, test_labels, labels_of[name], meteor=False)
    for name, texts in systems.items()
}
draws = resample(len(test), resamples=1000, seed=0)  # (1000, N), each row sums to N


def drawn_bleu_4(system):
    """BLEU-4 of each of the 1000 drawn sets."""
    s = system.nlg
    counts = s.bleu_correct, s.bleu_guess, s.hypothesis_words, s.reference_words
    return bleu_score(*(draws @ each for each in counts))[:, 3]


for name, system in statistics.items():
    low, high = np.percentile(drawn_bleu_4(system), [2.5, 97.5])
    assert np.allclose(bootstrap(system)["Bleu_4"], (low, high))
    print(f"{name:24} BLEU-4 {rows[name]['BLEU-4']:.3f} [{low:.3f}, {high:.3f}]")
print("the library's bootstrap gives the same intervals")

# %% [markdown]
# The real constant on the real IU split: BLEU-4 .174 [.167, .183]. R2Gen's .165 and
# EMRRG's .167 lie closer together than that interval is wide, eight times over.
#
# ## Comparing two systems
#
# Two systems are compared on the **same** studies: a hard study is hard for both. So take the
# difference in every drawn set, and the interval of the *differences*. To see how much that helps,
# two imaginary models. Each looks at a study; with probability p it writes what is there, in words of
# its own, otherwise it writes the constant. Model a has p = 0.6, model b only 0.4.


# %%
def imaginary(p):
    """A model that sees the truth in a share p of the studies;
    a larger p sees those of a smaller one too."""
    luck = np.random.default_rng(1).random(len(test))
    choice = ["oracle, other words" if draw < p else "constant report" for draw in luck]
    texts = [systems[name][study] for study, name in enumerate(choice)]
    labels = [labels_of[name][study] for study, name in enumerate(choice)]
    return system_statistics(test, texts, test_labels, labels, meteor=False)


a, b = imaginary(0.6), imaginary(0.4)
drawn_a, drawn_b = drawn_bleu_4(a), drawn_bleu_4(b)
ways = {
    "BLEU-4 of a": drawn_a,
    "BLEU-4 of b": drawn_b,
    "a − b, same studies": drawn_a - drawn_b,
    "a − b, other studies for b": drawn_a
    - np.random.default_rng(2).permutation(drawn_b),
}
ends = {name: np.percentile(values, [2.5, 97.5]) for name, values in ways.items()}
shown = pd.DataFrame(ends, index=["low", "high"]).T
shown.assign(width=shown["high"] - shown["low"]).round(4)

# %% [markdown]
# The same studies for both: the interval is three times narrower. `paired_difference(metric, a, b)`
# of the library is the third line; `emrrg evaluate compare RUN RUN` prints it for every metric. A
# difference is called *real* where its interval leaves out 0. (`CE13_micro_F1` is the micro F1 of the
# 13 findings, with the name it has in `metrics.json`.)

# %%
from emrrg_lib.evaluation.intervals import paired_difference

found = paired_difference("Bleu_4", a, b)
assert np.allclose(
    [found.low, found.high], np.percentile(drawn_a - drawn_b, [2.5, 97.5])
)
for metric in ("Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr", "CE13_micro_F1"):
    gap = paired_difference(metric, a, b)
    told = "real" if gap.real else "not real"
    print(f"{metric:14} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]  {told}")

# %% [markdown]
# In every fifth study model a sees the truth where b does not. Clinical efficacy and CIDEr say so at
# once. BLEU-4 cannot distinguish the two, and by ROUGE-L the model that sees *less* is better, "really"
# so: an interval says how sure a score is, not whether it measures what you want.
#
# ## What does a difference of 0.005 BLEU mean?
#
# In Table 1 systems that follow each other differ by a few thousandths. Here is an experiment in
# which the answer is known. **One** model (p = 0.5) is trained, so to speak, many times: each time it
# sees the truth in other studies and chooses other words. All are *equally good by construction*.
# How far apart do two of them land on the same 590 studies?
#
# No text need be scored twice: for each study there are ten possible reports (the constant, eight
# wordings of the truth, the reference itself), each with its counts; a "training" picks one for each
# study, and sums.

# %%
from emrrg_lib.evaluation.nlg import nlg_statistics

WORDINGS, TRAININGS = 8, 4000
options = [blind["constant report"], *[in_other_words() for _ in range(WORDINGS)], test]
counts = []
for option in options:
    s = nlg_statistics(test, option, meteor=False)
    lengths = [s.hypothesis_words, s.reference_words]
    counts.append(np.column_stack([s.bleu_correct, s.bleu_guess, *lengths]))
counts = np.stack(counts, axis=1)  # (590 studies, 10 reports, 10 numbers)


def trainings(copied, studies, seed):
    """BLEU-4 of 4000 trainings;
    in a share `copied` of the studies the reference itself is hit."""
    luck, sums = np.random.default_rng(seed), 0
    for study in range(studies):
        pick = luck.integers(1, WORDINGS + 1, TRAININGS)
        pick *= luck.random(TRAININGS) < 0.5  # else 0, the constant
        pick[luck.random(TRAININGS) < copied] = WORDINGS + 1
        sums = sums + counts[study % len(counts), pick]
    return bleu_score(sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9])[:, 3]


# %%
equal = trainings(0, 590, seed=5)
gaps = np.abs(equal[::2] - equal[1::2])  # 2000 pairs of equally good models
print(
    f"BLEU-4 of one model, {TRAININGS} times: {equal.mean():.4f} ± {equal.std():.4f} "
    "(standard deviation)"
)
told = (
    f"two equally good ones differ by {np.median(gaps):.4f} (median), by 0.005 or "
    f"more in {(gaps >= 0.005).mean():.0%} of the pairs"
)
print(told)
gap_histogram(
    gaps,
    0.005,
    "gap of BLEU-4 between two equally good models, 590 studies",
    f"Histogram: {told}.",
)

# %% [markdown]
# *The gap that luck alone makes.*
#
# Turn it round. Another model is *really* better by 0.005: in a few studies it hits the very words of
# the reference. In how many comparisons does the better one win?

# %%
# what a tenth of the references gains, scaled down to a gain of 0.005
copied = 0.1 * 0.005 / (trainings(0.1, 590, 6).mean() - equal.mean())
shown = {}
for studies in (100, 590, 2360):
    worse, better = trainings(0, studies, 8), trainings(copied, studies, 9)
    luck = np.percentile(abs(worse[::2] - worse[1::2]), 95)
    shown[studies] = {
        "true difference": f"{better.mean() - worse.mean():.4f}",
        "gap of equal models, 95 % below": f"{luck:.4f}",
        "the better one wins": f"{(better > worse).mean():.0%}",
    }
print(f"references hit: {copied:.1%} of the studies;")
print("above 590 the studies are used again")
pd.DataFrame(shown).transpose().rename_axis("studies")

# %% [markdown]
# A coin would win half of them. And this is luck of *training and wording* on fixed studies; the luck
# of *which studies* comes on top, as in the intervals above. So a difference of 0.005 BLEU-4 on 590
# studies is worth a look, several seeds and a paired interval, and no sentence in an abstract. How
# large the noise of your own model is, only your own seeds can show: these models are imaginary. (With
# the real IU reports as `PROFILE` the share of gaps of 0.005 or more is 36 %; measured as above.)
#
# ## Against the paper
#
# | | the paper | this kit |
# |---|---|---|
# | word overlap | BLEU, ROUGE-L, METEOR, CIDEr | the same scorers, with 95 % intervals by study |
# | references | the released code cuts them to 60 or 100 tokens first (notebook 10) | whole; cut on request |
# | METEOR | in Table 1; switched off in the released code | computed where Java is |
# | clinical efficacy | P, R, F1; labeler and average not named | three averages, two readings, labeler |
# | controls | none | constant, most frequent, random, shuffled images, closed gates |
# | comparing | a table | paired differences by study |
#
# And phantom against IU: phantom reports come from a grammar, so all overlaps are far higher (a
# constant has BLEU-4 of about 0.5 here, .174 on IU). Compare *within* a data set only.
#
# ## Exercises
#
# Each has a stub to fill in, a folded hint, and a check that names the mistake. In the full
# notebook a folded solution follows. An untouched stub says "not tried yet", and the notebook runs on.
#
# ### Exercise 1 · Fool BLEU *(easy, 5 minutes)*
#
# **Why.** Who has once fooled a score does not trust it again.
#
# Write a report for `patient`, below, that has BLEU-4 of at least 0.8 and is clinically worthless:
# it shares no finding with the reference, and claims one that is not there. The kit's labeler decides
# what counts as a finding; `findings(text)` from above shows what it reads.
#
# <details><summary>Hint</summary>
#
# Take the reference and change as few words as possible, near its ends: a changed word in the middle
# breaks four runs of four, the first or last word only one.
#
# </details>

# %%
patient = (
    "pneumothorax on the right . the heart is normal in size . the mediastinal "
    "contours are normal . "
    "the left lung is clear . the bony structures are intact . there is no pleural "
    "effusion ."
)
fooling = None  # your report, a text


# %%
# Check 1
from emrrg_lib.course.checks.nb06 import check_1

check_1(fooling, patient)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# fooling = patient.replace("pneumothorax on", "fracture on")
# ```
#
# One word. A missed pneumothorax and an invented fracture, BLEU-4 above 0.9.
#
# </details>
#
# ### Exercise 2 · Clipped runs *(easy, 8 minutes)*
#
# **Why.** This count is the core of BLEU, and most home-made versions forget one half of it.
#
# How many runs of n words has the report, and how many of them are *found* in the reference? A run of
# the reference can be found once only: in "the the the" against "the lungs" one "the" is found, not
# three. A text shorter than n words has no run.
#
# <details><summary>Hint</summary>
#
# A `Counter` of all runs of each text; `grams` above makes one. Found is the sum of the smaller counts.
#
# </details>


# %%
def clipped(reference, report, n):
    """Two texts, n → (runs found, runs written)."""
    return None  # your code


# %%
# Check 2
from emrrg_lib.course.checks.nb06 import check_2

check_2(clipped)

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def clipped(reference, report, n):
#     ours, theirs = grams(report, n), grams(reference, n)
#     return sum(min(count, theirs[run]) for run, count in ours.items()), sum(ours.values())
# ```
#
# </details>
#
# ### Exercise 3 · BLEU of a corpus *(hard, 25 minutes)*
#
# **Why.** BLEU is in every table of this field, and its corpus form is not the mean of single scores.
#
# Write BLEU-1 to BLEU-4 of a list of pairs. The check goes step by step: one pair, clipping, the brevity
# penalty, then a corpus. Where nothing is found, a precision is 0, and so is BLEU from there on; no run
# written is no error.
#
# <details><summary>Hint</summary>
#
# Four sums of found runs, four of written runs, two sums of words, over all pairs. Then the four
# precisions, their product up to n, its n-th root, and one penalty min(1, exp(1 − r/c)) for all.
#
# </details>


# %%
def corpus_bleu(references, reports):
    """Two lists of N texts → [BLEU-1, BLEU-2, BLEU-3, BLEU-4]."""
    return None  # your code


# %%
# Check 3
from emrrg_lib.course.checks.nb06 import check_3

check_3(corpus_bleu)

# %% [markdown]
# <details><summary>Solution 3</summary>
#
# ```python
# def corpus_bleu(references, reports):
#     pairs = list(zip(references, reports))
#     c = sum(len(report.split()) for _, report in pairs)
#     r = sum(len(reference.split()) for reference, _ in pairs)
#     penalty = min(1.0, math.exp(1 - r / c))
#     scores, product = [], 1.0
#     for n in range(1, 5):
#         found = sum(
#             (grams(report, n) & grams(reference, n)).total() for reference, report in pairs
#         )
#         written = sum(grams(report, n).total() for _, report in pairs)
#         product *= found / max(1, written)
#         scores.append(penalty * product ** (1 / n))
#     return scores
# ```
#
# </details>
#
# ### Exercise 4 · CIDEr's weight of a run *(easy, 8 minutes)*
#
# **Why.** The weight makes the difference between "the" and "pneumothorax", which BLEU does not know.
#
# Return ln(N / k): N is the number of references, k the number of them that have the run. A reference
# counts once, however often it has it. A run that no reference has weighs as if one had it.
#
# <details><summary>Hint</summary>
#
# `tuple(run.split()) in grams(text, n)` compares whole words. And `max(1, k)`.
#
# </details>


# %%
def rarity(run, references):
    """A run such as "pleural effusion", a list of texts → its weight."""
    return None  # your code


# %%
# Check 4
from emrrg_lib.course.checks.nb06 import check_4

check_4(rarity)

# %% [markdown]
# <details><summary>Solution 4</summary>
#
# ```python
# def rarity(run, references):
#     words = tuple(run.split())
#     has = sum(words in grams(text, len(words)) for text in references)
#     return math.log(len(references) / max(1, has))
# ```
#
# </details>
#
# ### Exercise 5 · CIDEr *(hard, 25 minutes)*
#
# **Why.** CIDEr is the word score that best separates a model from a constant; its parts show why.
#
# Write the score of each pair by the section above: for n = 1 to 4 the cosine of two vectors (count ×
# weight for each run), the guard against repetition in the sum of products, the mean over n, the guard
# for length, times ten. The weights come from all references together. The check adds one step
# at a time. A vector of length 0 gives 0.
#
# <details><summary>Hint</summary>
#
# For one n: `vector(text)` is a dict run → count · ln(N / max(1, k)). The sum of products runs over the
# report's runs: min(ours, theirs) · theirs. Divide by both lengths, each the root of its sum of squares;
# there nothing is limited.
#
# </details>


# %%
def cider(references, reports):
    """Two lists of N texts → list of N scores."""
    return None  # your code


# %%
# Check 5
from emrrg_lib.course.checks.nb06 import check_5

check_5(cider)

# %% [markdown]
# <details><summary>Solution 5</summary>
#
# ```python
# def cider(references, reports):
#     N = len(references)
#     seen = Counter(run for text in references for n in range(1, 5) for run in grams(text, n))
#
#     def vector(text, n):
#         return {
#             run: count * math.log(N / max(1, seen[run])) for run, count in grams(text, n).items()
#         }
#
#     def size(v):
#         return math.sqrt(sum(w * w for w in v.values()))
#
#     scores = []
#     for reference, report in zip(references, reports):
#         total = 0.0
#         for n in range(1, 5):
#             ours, theirs = vector(report, n), vector(reference, n)
#             dot = sum(min(w, theirs.get(run, 0)) * theirs.get(run, 0) for run, w in ours.items())
#             both = size(ours) * size(theirs)
#             total += dot / both if both else 0.0
#         gap = len(report.split()) - len(reference.split())
#         scores.append(10 * total / 4 * math.exp(-(gap**2) / 72))
#     return scores
#
#
# print([round(score, 3) for score in cider(references, reports)], "· library:",
#       library["CIDEr"].round(3).tolist())
# ```
#
# </details>
#
# ### Exercise 6 · Three averages *(medium, 8 minutes)*
#
# **Why.** Two papers can print the same "F1" and mean two of these.
#
# `true` and `said` are boolean arrays (N studies, L observations). Return the micro, macro and
# example-based F1. Where a division is 0 / 0, the value is 0.
#
# <details><summary>Hint</summary>
#
# F1 = 2 · both / (in the reference + in the report). The three averages are this formula on three
# kinds of sums: over everything, over studies (`axis=0`), over observations (`axis=1`).
#
# </details>


# %%
def three_f1(true, said):
    """bool (N, L) twice → (micro, macro, example)."""
    return None  # your code


# %%
# Check 6
from emrrg_lib.course.checks.nb06 import check_6

check_6(three_f1)

# %% [markdown]
# <details><summary>Solution 6</summary>
#
# ```python
# def three_f1(true, said):
#     def f1(axis):
#         both, total = (true & said).sum(axis), true.sum(axis) + said.sum(axis)
#         return np.mean(2 * both / np.maximum(total, 1))
#
#     return f1(None), f1(0), f1(1)
# ```
#
# </details>
#
# ### Exercise 7 · The interval of a difference *(medium, 10 minutes)*
#
# **Why.** The two intervals of two systems do not contain this one: what both share drops out of it.
#
# Two systems were scored on the same studies. `hits_a`, `hits_b` (N,) are the words found,
# `words_a`, `words_b` (N,) the words written, `draws` (R, N) how often each study came up. Return
# the 95 % interval (low, high) of a's corpus precision minus b's.
#
# <details><summary>Hint</summary>
#
# The precision of a drawn set is a sum over a sum: `draws @ hits / (draws @ words)`. Make one for a
# and one for b from the *same* draws, subtract, `np.percentile`.
#
# </details>


# %%
def difference_interval(hits_a, words_a, hits_b, words_b, draws):
    """→ (low, high) of precision a − precision b."""
    return None  # your code


# %%
# Check 7
from emrrg_lib.course.checks.nb06 import check_7

check_7(difference_interval)

# %% [markdown]
# <details><summary>Solution 7</summary>
#
# ```python
# def difference_interval(hits_a, words_a, hits_b, words_b, draws):
#     difference = draws @ hits_a / (draws @ words_a) - draws @ hits_b / (draws @ words_b)
#     return tuple(np.percentile(difference, [2.5, 97.5]))
# ```
#
# The difference of the ends of two intervals is another thing, and it is wrong: the end of a's interval
# and the end of b's come from different draws.
#
# </details>
#
# ### Exercise 8 · How many studies? *(medium, 7 minutes)*
#
# **Why.** It tells before a training whether its test set can show what you hope for.
#
# A test with N studies gave a paired difference with an interval of total width `width` (95 %). You
# want to find a true difference `effect` with 80 % power. That needs a standard error of
# effect / 2.8 (1.96 for the interval, 0.84 for the power). How many studies? A whole number, rounded
# up.
#
# <details><summary>Hint</summary>
#
# The interval is 2 · 1.96 standard errors wide. A standard error falls with √N: half of it costs four
# times the studies.
#
# </details>


# %%
def studies_needed(N, width, effect):
    """How many studies show `effect`, if N gave an interval `width` wide."""
    return None  # your code


# %%
# Check 8
from emrrg_lib.course.checks.nb06 import check_8

check_8(studies_needed)

# %% [markdown]
# <details><summary>Solution 8</summary>
#
# ```python
# def studies_needed(N, width, effect):
#     error = width / (2 * 1.96)
#     return math.ceil(N * (error / (effect / 2.8)) ** 2)
#
#
# print(studies_needed(590, found.high - found.low, 0.005))  # for the two models above
# ```
#
# </details>
#
# ### Exercise 9 · The paired bootstrap *(bonus, hard, 25 minutes)*
#
# **Why.** With it you can compare any two systems by any score, also where no package does it for you.
#
# Everything from the texts on: `references` and the reports of `a` and of `b` are lists of N texts.
# Draw N studies with replacement `resamples` times, the same ones for a and b; the same seed gives the
# same draws. Return the difference of corpus BLEU-4 (a minus b) on the full set and its 95 % interval:
# (difference, low, high).
#
# <details><summary>Hint</summary>
#
# Count each study once: a row of 4 found, 4 written, 2 lengths (exercise 2). A draw is
# `rng.integers(0, N, N)`; sum the rows of the drawn studies, then one BLEU-4 from the ten sums. With
# `rng.multinomial(N, [1 / N] * N, resamples)` all draws are one matrix product.
#
# </details>


# %%
def paired_bootstrap(references, a, b, resamples=1000, seed=0):
    """→ (BLEU-4 of a − BLEU-4 of b, low, high)."""
    return None  # your code


# %%
# Check 9
from emrrg_lib.course.checks.nb06 import check_9

check_9(paired_bootstrap)

# %% [markdown]
# <details><summary>Solution 9</summary>
#
# ```python
# def paired_bootstrap(references, a, b, resamples=1000, seed=0):
#     def counts(reports):
#         rows = []
#         for reference, report in zip(references, reports):
#             ours = [grams(report, n) for n in range(1, 5)]
#             found = [(o & grams(reference, n)).total() for n, o in enumerate(ours, start=1)]
#             lengths = [len(report.split()), len(reference.split())]
#             rows.append(found + [o.total() for o in ours] + lengths)
#         return np.array(rows, dtype=float)
#
#     def bleu_4(sums):
#         precision = sums[:, :4] / np.maximum(sums[:, 4:8], 1)
#         penalty = np.exp(np.minimum(0, 1 - sums[:, 9] / sums[:, 8]))
#         return penalty * precision.prod(axis=1) ** 0.25
#
#     N, rng = len(references), np.random.default_rng(seed)
#     draws = rng.multinomial(N, [1 / N] * N, resamples)
#     counts_a, counts_b = counts(a), counts(b)
#     full = np.ones((1, N))
#     value = bleu_4(full @ counts_a) - bleu_4(full @ counts_b)
#     gaps = bleu_4(draws @ counts_a) - bleu_4(draws @ counts_b)
#     return float(value[0]), *np.percentile(gaps, [2.5, 97.5])
# ```
#
# </details>

# %% [markdown]
# ## Reports of another system
#
# One command does all this for the reports of any system. It joins them with the data set by their ids,
# and adds the controls and the intervals. `emrrg evaluate --help` lists the forms of the file.
#
# ```sh
# emrrg evaluate --predictions result.json --data iu_xray --name R2GenGPT --out runs/r2gengpt
# emrrg evaluate compare runs/r2gengpt "runs/r2gengpt:constant report"
# ```

# %% [markdown]
# ## Summary
#
# - BLEU counts shared runs of words over the whole corpus, with a penalty for brevity; ROUGE-L the
#   longest common subsequence; CIDEr rare runs; METEOR an alignment with stems and synonyms.
# - None of them asks whether a report is right. A constant report, tuned in length, has a higher BLEU on IU
#   than published models.
# - Clinical efficacy has three averages, two readings of *uncertain*, 13 or 14 labels, and a
#   labeler. A number without them cannot be compared. The 14 labels know no sides.
# - Scores of today read reports with trained models; they need weights and the same controls.
# - Compare on the same studies, by the interval of the difference. Two equally good models can lie
#   0.005 BLEU-4 apart on 590 studies by luck alone.
#
# You can now compute each score of a report table, set controls beside it, and say which of its
# differences are real.
#
# ## Quiz
#
# 1. A report repeats one correct sentence three times. Which part of BLEU keeps its precision low?
# 2. Two systems have BLEU-4 .160 [.150, .170] and .166 [.156, .176] on the same studies. Are they
#    different?
# 3. A paper reports "CE F1 .52" for a model. Name three things that you must know before you compare it.
#
# <details><summary>Answers</summary>
#
# 1. Clipping: each run of the reference can be found once only.
# 2. These two intervals cannot say. The paired interval of the difference can, and it is often much
#    narrower.
# 3. The average (micro, macro, example-based), the labels (13 or 14, and how *uncertain* is read), and the
#    labeler. The score of a constant report on the same test set is the fourth.
#
# </details>
#
# ## Further reading
#
# - K. Papineni et al., BLEU, ACL 2002, [doi
#   10.3115/1073083.1073135](https://doi.org/10.3115/1073083.1073135). M. Denkowski and A. Lavie, Meteor
#   Universal, WMT 2014, [doi 10.3115/v1/W14-3348](https://doi.org/10.3115/v1/W14-3348). R. Vedantam et al.,
#   CIDEr, [arXiv 1411.5726](https://arxiv.org/abs/1411.5726).
# - Z. Babar et al., encoder-decoder models against unconditioned baselines, PLOS ONE 2021, [doi
#   10.1371/journal.pone.0259639](https://doi.org/10.1371/journal.pone.0259639).
# - J. Irvin et al., CheXpert, [arXiv 1901.07031](https://arxiv.org/abs/1901.07031). A. Smit et al.,
#   CheXbert, [arXiv 2004.09167](https://arxiv.org/abs/2004.09167).
# - S. Jain et al., RadGraph, [arXiv 2106.14463](https://arxiv.org/abs/2106.14463). F. Yu et al., RadCliQ
#   and what radiologists count, Patterns 2023, [doi
#   10.1016/j.patter.2023.100802](https://doi.org/10.1016/j.patter.2023.100802).
# - T. Zhang et al., BERTScore, [arXiv 1904.09675](https://arxiv.org/abs/1904.09675). W. Zhao et al.,
#   RaTEScore, [arXiv 2406.16845](https://arxiv.org/abs/2406.16845). S. Ostmeier et al., GREEN, [arXiv
#   2405.03595](https://arxiv.org/abs/2405.03595). RadEval, which computes most of them, [arXiv
#   2509.18030](https://arxiv.org/abs/2509.18030).
#
# Read on in the code: [word overlap](../emrrg_lib/evaluation/nlg.py), [clinical
# efficacy](../emrrg_lib/evaluation/clinical.py), [controls](../emrrg_lib/evaluation/baselines.py),
# [intervals](../emrrg_lib/evaluation/intervals.py).
#
# [← 05](05_training_iu_xray.ipynb) · [07 →](07_gate_and_attention_explorer.ipynb)
