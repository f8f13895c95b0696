"""The tables of the README files, rendered from the committed results.

A README marks each place by `<!-- table NAME -->` and `<!-- end -->`. `python tests/docs/readme_tables.py`
fills all of them anew; `test_numbers.py` compares the text with the rendered tables.
"""

import csv
import re
import statistics
from collections import defaultdict

from readme_cells import DATA, markdown, read_json, score
from readme_machine import benches, costs, full_size, hours, presets

from emrrg_lib.files import KIT

READMES = [
    KIT / "README.md",
    *(KIT / "emrrg_lib").glob("README.md"),
    *(KIT / "notebooks").glob("README.md"),
    *sorted(DATA.glob("**/README.md")),
]


PLACE = re.compile(r"<!-- table ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


NAMES = {"CE13_micro_F1": "13-label micro-F1", "ROUGE_L": "ROUGE-L"} | {
    f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)
}


ABLATIONS = (
    "table5",
    "table6",
    "table6-shifted",
    "rank",
    "gate",
    "hybrid-layers",
    "visual-in-prompt",
    "llm-swap",
    "decoder",
    "cxpmrg-table4",
    "cxpmrg-table5",
)


def score_rows(metrics, keys, intervals=(), systems=None):
    """One row a system; `intervals` names the metrics that get one."""
    for row in metrics["rows"]:
        if systems is None or row["system"] in systems:
            ci = row.get("ci") or {}
            cells = [
                score(row["metrics"].get(key), ci.get(key) if key in intervals else None) for key in keys
            ]
            yield [row["system"], *cells]


def scores(metrics, keys, intervals=(), systems=None):
    """The table of `score_rows`."""
    return markdown(
        ["system", *(NAMES.get(key, key) for key in keys)], score_rows(metrics, keys, intervals, systems)
    )


FACE = {  # system → what its row says
    "model (beam search)": "the trained tiny model",
    "gates closed": "the language model alone: no image, no finding",
    "shuffled images": "the model's own reports, given to other patients",
    "constant report": "one training report for everybody",
    "nearest neighbour": "the report of the training study with the most similar encoder features",
}


def demo_face():
    metrics = read_json("tiny", "run", "metrics.json")
    keys = ("Bleu_4", "CIDEr", "CE13_micro_F1")
    rows = {row[0]: row for row in score_rows(metrics, keys, ("Bleu_4", "CE13_micro_F1"))}
    header = ["system", *(NAMES.get(key, key) for key in keys), "what it is"]
    return markdown(header, [[*rows[system], meaning] for system, meaning in FACE.items()])


def demo_scores():
    keys = ("Bleu_1", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr", "CE13_micro_F1")
    return scores(read_json("tiny", "run", "metrics.json"), keys, ("Bleu_4", "CE13_micro_F1"))


def demo_seeds():
    """Mean ± sd of the trainings with other seeds, from the file of `emrrg evaluate table --seeds`."""
    keys = ("Bleu_4", "CIDEr", "CE13_F1")
    with open(DATA / "results" / "seeds" / "table.csv", encoding="utf-8") as file:
        rows = [
            [row["system"], *(f"{score(float(row[k]))} ± {score(float(row[f'{k}_sd']))}" for k in keys)]
            for row in csv.DictReader(file)
            if row["system"] in ("model (beam search)", "greedy", "shuffled images")
        ]
    return markdown(["three seeds", "BLEU-4", "CIDEr", "13-label micro-F1"], rows)


def demo_findings():
    metrics = read_json("tiny", "run", "metrics.json")
    of = {row["system"]: row["metrics"] for row in metrics["rows"]}
    columns = ("model (beam search)", "greedy", "linear head")
    rows = [
        [name, *(score(of[system][f"CE_F1 {name}"]) for system in columns), studies]
        for name, studies in metrics["support"].items()
        if studies and name != "No Finding"
    ]
    header = ["finding", "F1, beam search", "F1, greedy", "F1, linear head", "test studies"]
    return markdown(header, rows)


POSITIONS = {"predicts": "before the word", "own": "at the word", "sentence": "over its sentence"}


PRIORS = {"chance": "a random patch", "centre": "the centre", "place": "the finding's usual place"}


GROUPS = ("localised", "small", "all")


def demo_pointing():
    pointing = read_json("tiny", "run", "metrics.json")["pointing"]
    rows = []
    for number, variant in enumerate(pointing["variants"]):
        of = {row["kind"]: row for row in variant["rows"]}
        name = f"{variant['map'].replace(' x ', ' × ')}, {POSITIONS[variant['token']]}"
        chosen = " (chosen on validation)" if number == pointing["chosen"] else ""
        cells = [score(of[g]["hit"], (of[g]["low"], of[g]["high"]), 2) for g in GROUPS]
        rows.append([name + chosen, variant["layer"], *cells])
    rows += [[name, "", *(score(of[g][key], digits=2) for g in GROUPS)] for key, name in PRIORS.items()]
    header = ["pointing game", "layer", *(f"{g} ({of[g]['cases']})" for g in GROUPS)]
    return markdown(header, rows)


def training_studies():
    """Of the demo."""
    return int(re.search(r"split (\d+)/", read_json("tiny", "run", "metrics.json")["dataset"])[1])


def shipped_weights():
    language, encoder, run = (read_json("tiny", name, "run.json") for name in ("report_lm", "encoder", "run"))
    first, both = encoder["stage1"], encoder["minutes"]
    sizes, stage2, train = language["config"], encoder["config"]["stage2"], run["config"]["train"]
    rows = [
        ["`report_lm/`", "next-token training", f"{encoder['studies']:,} phantom reports"]
        + [f"{sizes['lm_steps']:,} of {sizes['lm_batch']}", f"{language['minutes']:.0f}"],
        ["`encoder/`, stage 1", "autoregressive, as released", f"{first['images']:,} phantom images"]
        + [f"{first['config']['steps']:,} of {first['config']['batch_size']}", f"{first['minutes']:.0f}"],
        ["`encoder/`, stage 2", "image–report contrast", f"{encoder['studies']:,} phantom studies"]
        + [f"{stage2['steps']:,} of {stage2['batch_size']}", f"{both - first['minutes']:.0f}"],
        ["`run/`", "stage 3, the demo", f"{training_studies():,} phantom studies"]
        + [
            f"{train['warm_steps']:,} + {train['steps']} of {train['batch_size']}",
            f"{run['minutes']:.0f}",
        ],
    ]
    return markdown(["folder", "made by", "from", "steps of studies", "minutes"], rows)


def laptop():
    keys = ("Bleu_4", "METEOR", "CIDEr", "CE13_micro_F1")
    return scores(read_json("results", "laptop", "metrics.json"), keys, ("Bleu_4", "CE13_micro_F1"))


def iu_rehearsed():
    keys = ("Bleu_1", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr", "CE13_micro_F1")
    return scores(
        read_json("results", "iu-rehearsed", "metrics.json"), keys, ("Bleu_4", "CIDEr", "CE13_micro_F1")
    )


def iu_controls():
    names = {
        "constant report": "constant report chosen on validation",
        "most frequent report": "most frequent training report",
        "random training report": "random training report",
        "says nothing": "a text that names no finding",
        "references themselves": "the references against themselves",
    }
    keys = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr")
    rows = [
        [names[system], *cells]
        for system, *cells in score_rows(read_json("results", "iu-controls", "metrics.json"), keys, keys)
    ]
    with open(DATA / "published" / "emrrg_table1.csv", encoding="utf-8") as file:
        (paper,) = [
            row for row in csv.DictReader(file) if (row["dataset"], row["system"]) == ("IU X-Ray", "EMRRG")
        ]
    rows.append(["EMRRG as published (Table 1)", *(score(float(paper[key])) for key in keys)])
    return markdown(["IU X-ray, 590 test studies", *(NAMES.get(key, key) for key in keys)], rows)


def trainings(name):
    """(source, row) → the lines of one row of an ablation's results.csv, in the file's order."""
    found = defaultdict(list)
    with open(DATA / "results" / name / "results.csv", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["source"] in ("this run", "control"):
                found[line["source"], line["row"]].append(line)
    return found


def spread(lines, key, digits=3):
    """ "mean ± sd" over seeds, or the one value."""
    values = [float(line[key]) for line in lines]
    text = score(statistics.mean(values), digits=digits)
    return f"{text} ± {score(statistics.stdev(values), digits=digits)}" if len(values) > 1 else text


def ablation(name):
    rows = []
    for (source, row), lines in trainings(name).items():
        ours = source == "this run"
        minutes = statistics.mean(float(line["minutes"]) for line in lines) if ours else None
        rows.append(
            [row, f"{int(lines[0]['trained']):,}" if ours else "–"]
            + [spread(lines, key) for key in ("Bleu_4", "CIDEr", "CE13_micro_F1")]
            + [f"{minutes:.1f}" if ours else "–"]
        )
    header = [f"`{name}`", "trained", "BLEU-4", "CIDEr", "13-label micro-F1", "minutes"]
    return markdown(header, rows)


def ablation_steps():
    """Seeds and steps of every table, from its run.json."""
    rows = []
    for name in ABLATIONS:
        run = read_json("results", name, "run.json")
        values = dict(value.split("=", 1) for value in run["values"])
        steps = f"{int(values['train.warm_steps']):,} + {values['train.steps']}"
        rows.append([f"`{name}`", run["seeds"], steps, values["train.batch_size"]])
    return markdown(["table", "seeds", "warm + joint steps", "batch"], rows)


def made():
    with open(DATA / "results" / "made.csv", encoding="utf-8") as file:
        rows = [
            [f"`{row['result']}`", f"`{row['command']}`", row["commit"], row["date"]]
            for row in csv.DictReader(file)
        ]
    return markdown(["result", "command", "commit", "date"], rows)


TABLES = {
    "demo-face": demo_face,
    "demo-scores": demo_scores,
    "demo-seeds": demo_seeds,
    "demo-findings": demo_findings,
    "demo-pointing": demo_pointing,
    "shipped-weights": shipped_weights,
    "laptop": laptop,
    "iu-rehearsed": iu_rehearsed,
    "iu-controls": iu_controls,
    "ablation-steps": ablation_steps,
    "benches": benches,
    "made": made,
    "full-size": full_size,
    "presets": presets,
    "costs": costs,
    "hours": hours,
} | {f"ablation-{name}": lambda name=name: ablation(name) for name in ABLATIONS}


if __name__ == "__main__":
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        filled = PLACE.sub(lambda at: f"<!-- table {at[1]} -->\n{TABLES[at[1]]()}<!-- end -->", text)
        path.write_text(filled, encoding="utf-8")
