"""Every measured number of the README files is that of a committed file; the face stays one screen."""

import csv
import json
import re

import pytest
from readme_cells import DATA, read_json, score
from readme_machine import bench
from readme_tables import ABLATIONS, PLACE, READMES, TABLES, training_studies, trainings

from emrrg_lib.files import KIT
from emrrg_lib.presets import preset

FACE, LIBRARY, TINY, RESULTS = (
    KIT / folder / "README.md" for folder in (".", "emrrg_lib", "data/tiny", "data/results")
)
NOTEBOOKS = KIT / "notebooks"


def prose(page):
    """The text of a page without its rendered tables, line breaks as spaces."""
    return " ".join(PLACE.sub("", page.read_text(encoding="utf-8")).split())


def tables_of(page):
    return PLACE.findall(page.read_text(encoding="utf-8"))


def test_every_table_stands_on_one_page():
    assert sorted(name for page in READMES for name, _ in tables_of(page)) == sorted(TABLES)


@pytest.mark.parametrize(
    ("page", "name", "shown"),
    [
        pytest.param(page, name, shown, id=name)
        for page in READMES
        for name, shown in PLACE.findall(page.read_text(encoding="utf-8"))
    ],
)
def test_the_table_is_that_of_its_file(page, name, shown):
    assert shown == TABLES[name](), "run `python tests/docs/readme_tables.py`"


def test_the_face_is_one_screen():
    text = FACE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140 and len(text.encode()) <= 10_000


# --------------------------------------------------------------------- the numbers of the sentences


def system(metrics, name):
    """(metrics, intervals) of one row."""
    (row,) = [row for row in metrics["rows"] if row["system"] == name]
    return row["metrics"], row.get("ci")


def difference(metrics, minus, metric):
    """ "value [low, high]" of the model minus another system."""
    (found,) = [d for d in metrics["differences"] if (d["minus"], d["metric"]) == (minus, metric)]
    return score(found["value"], (found["low"], found["high"]))


def facts_of_the_demo():
    metrics, run = read_json("tiny", "run", "metrics.json"), read_json("tiny", "run", "run.json")
    bleu = {row["system"]: row["metrics"].get("Bleu_4") for row in metrics["rows"]}
    low, high = bleu["constant report"], bleu["oracle, commonest wording"]
    f1 = {row["system"]: row["metrics"]["CE13_micro_F1"] for row in metrics["rows"]}
    assert f1["gates closed"] == 0 and bleu["model (beam search)"] > bleu["oracle re-wording"]
    model = system(metrics, "model (beam search)")[0]
    head = {k: v for k, v in system(metrics, "linear head")[0].items() if k.startswith("CE_F1 ")}
    seen = [k for k in head if metrics["support"][k[6:]]]
    assert min(model[k] for k in seen) > 0
    most = max(seen, key=lambda k: head[k] - model[k])
    beams = run["config"]["generation"]["num_beams"]
    yield f"{metrics['studies']} test studies, beam search with {beams} beams"
    yield f"took {run['minutes']:.1f} minutes of training and {run['peak_memory_gib']:.1f} GiB of memory"
    yield "on two CPU cores with AVX-512" * (run["hardware"]["threads"] == 2)
    yield f"model is {difference(metrics, 'constant report', 'Bleu_4')} above that of the constant report"
    yield f"It covers {(bleu['model (beam search)'] - low) / (high - low):.0%}".replace("%", " %")
    share = f1["shuffled images"] / f1["model (beam search)"]
    yield f"(`shuffled images`) {share:.0%}".replace("%", " %") + " of the model's micro-F1 remains"
    yield f"BLEU-4 is {difference(metrics, 'nearest neighbour', 'Bleu_4')} higher"
    yield f"micro-F1 is {difference(metrics, 'nearest neighbour', 'CE13_micro_F1')} higher"
    yield f"most at {most[6:]}: {score(model[most])}, where the head has {score(head[most])}"


def facts_of_pointing():
    from emrrg_lib.evaluation.pointing import AREAS

    pointing = read_json("tiny", "run", "metrics.json")["pointing"]
    chosen = {row["kind"]: row for row in pointing["variants"][pointing["chosen"]]["rows"]}
    assert pointing["variants"][pointing["chosen"]]["map"] == "attention x gate"
    gain = {
        group: score(row["gain"], (row["gain_low"], row["gain_high"]), 2) for group, row in chosen.items()
    }
    assert all(chosen[group]["hit"] < chosen[group]["place"] for group in ("small", "localised"))
    yield f"at most {AREAS['localised']:.0%} of all".replace("%", " %")
    yield f"*Small*: at most {AREAS['small']:.0%}".replace("%", " %")
    localised = chosen["localised"]
    yield f"hits {localised['hit'] / localised['chance']:.1f} times as often as a random patch"
    yield f"the centre by {gain['localised']} on localised findings and by {gain['small']} on small ones"


def facts_of_the_data():
    from emrrg_lib.phantom.catalogue import KINDS

    dataset = read_json("tiny", "run", "metrics.json")["dataset"]
    train, val, test = map(int, re.search(r"split (\d+)/(\d+)/(\d+)", dataset).groups())
    assert len(KINDS) == 13 and train == training_studies()
    yield f"draws {train + val + test:,} phantom studies"
    yield f"splits them into {train}/{val}/{test}"
    sizes = json.loads((DATA / "tiny" / "report_lm" / "config.json").read_text(encoding="utf-8"))
    yield f"({sizes['num_hidden_layers']} layers, D = {sizes['hidden_size']})"
    yield "Thirteen kinds of finding"


def facts_of_the_face():
    from emrrg_lib.evaluation.published import published

    demo, real = read_json("tiny", "run", "metrics.json"), read_json("results", "iu-controls", "metrics.json")
    constant, interval = system(real, "constant report")
    paper = published("emrrg_table1").query("system == 'EMRRG' and dataset == 'IU X-Ray'").iloc[0]
    assert constant["Bleu_4"] > paper["Bleu_4"]
    yield f"{demo['studies']} test studies of"
    yield f"reaches {score(system(demo, 'constant report')[0]['Bleu_4'])} BLEU-4"
    yield f"has a micro-F1 of {score(system(demo, 'nearest neighbour')[0]['CE13_micro_F1'])}"
    yield f"has BLEU-4 {score(constant['Bleu_4'], interval['Bleu_4'])}"
    yield f"published value of EMRRG is {score(paper['Bleu_4'])}"


def facts_of_the_controls():
    real = read_json("results", "iu-controls", "metrics.json")
    frequent, interval = system(real, "most frequent report")
    assert real["references"] == "full" and real["studies"] == 590
    assert real["cleaning"] == "iu_xray"
    split = re.search(r"split ([\d/]+)", real["dataset"])[1]
    yield f"R2Gen's split {split}, R2Gen's cleaning, full references"
    yield f"labels by `{real['labeler']}`"
    yield f"is {score(frequent['CE14_micro_F1'], interval['CE14_micro_F1'])} over 14 labels"
    yield f"and {score(frequent['CE13_micro_F1'])} over the 13 findings"
    nothing, perfect = (system(real, name)[0] for name in ("says nothing", "references themselves"))
    assert nothing["CE14_micro_F1"] == frequent["CE14_micro_F1"]
    yield f"names no finding at all has the same {score(nothing['CE14_micro_F1'])}"
    yield f"references themselves have a 13-label F1 per study of {score(perfect['CE13_example_F1'])}"
    yield f"a 14-label one of {score(perfect['CE14_example_F1'])}"
    yield f"a 13-label macro F1 of {score(perfect['CE13_macro_F1'])}"
    (absent,) = [name for name, count in real["support"].items() if count == 0]
    yield f"no reference has {absent}"


def facts_of_the_rehearsal():
    metrics, run = (read_json("results", "iu-rehearsed", name) for name in ("metrics.json", "run.json"))
    assert metrics["dataset"].startswith("SYNTHETIC") and metrics["studies"] == 590 and run["seed"] == 0
    yield f"Its CIDEr minus that of the constant report is {difference(metrics, 'constant report', 'CIDEr')}"
    yield f"minus that of the constant report is {difference(metrics, 'constant report', 'Bleu_4')}"
    model, interval = system(metrics, "model (beam search)")
    yield f"13-label micro-F1 of {score(model['CE13_micro_F1'], interval['CE13_micro_F1'])}"
    head, interval = system(metrics, "linear head")
    yield f"on the same encoder reaches {score(head['CE13_micro_F1'], interval['CE13_micro_F1'])}"


def facts_of_the_laptop():
    run, metrics = (read_json("results", "laptop", name) for name in ("run.json", "metrics.json"))
    studies, train = int(re.search(r"split (\d+)/", metrics["dataset"])[1]), run["config"]["train"]
    assert run["hardware"]["threads"] == 1
    yield f"On {studies:,} training studies"
    yield f"{train['warm_steps'] + train['steps']:,} steps of {train['batch_size']} studies"
    yield f"took {run['minutes']:.0f} minutes on *one* core"
    yield f"and {run['peak_memory_gib']:.1f} GiB of memory"


def f1(name):
    """Row → 13-label micro-F1, mean over seeds, and the list of them."""
    rows = {row: lines for (source, row), lines in trainings(name).items() if source == "this run"}
    return {row: [float(line["CE13_micro_F1"]) for line in lines] for row, lines in rows.items()}


def facts_of_the_ablations():
    from statistics import mean, stdev

    runs = [read_json("results", name, "run.json") for name in ABLATIONS]
    minutes = [
        float(line["minutes"])
        for name in ABLATIONS
        for (source, _), lines in trainings(name).items()
        if source == "this run"
        for line in lines
    ]
    (split,) = {re.search(r"split ([\d/]+)", run["dataset"])[1] for run in runs}
    assert {run["hardware"]["threads"] for run in runs} == {1}
    assert all("data.max_views=1" in run["values"] for run in runs)
    yield f"{split} studies, one view, one core"
    yield f"between {min(minutes):.1f} and {max(minutes):.1f} minutes"
    settings = dict(value.split("=", 1) for value in runs[-1]["values"])
    first, second = (int(settings[f"{stage}.steps"]) for stage in ("stage1", "stage2"))
    (batch,) = {settings["stage1.batch_size"], settings["stage2.batch_size"]}
    yield f"stage 1 has {first:,} and stage 2 has {second:,} steps of {batch}"
    encoder = [values for row, values in f1("table6").items() if row != "LoRA(LLM)"]
    means, spreads = [mean(values) for values in encoder], [stdev(values) for values in encoder]
    yield f"ten encoder rows lie between {score(min(means))} and {score(max(means))}" * (len(encoder) == 10)
    yield f"standard deviation of {score(min(spreads))} to {score(max(spreads))}"
    same = f1("cxpmrg-table4")["base, ARG + CTL"], f1("cxpmrg-table5")["BERT, random"]
    yield f"gave micro-F1 {score(same[0][0])} and {score(same[1][0])}"
    yield f"luck with {split.split('/')[0]} training studies"


def facts_of_the_shifted_table():
    from emrrg_lib.evaluation.ablation_tables import read_tables

    table = read_tables()["table6-shifted"]
    assert "shift scrambled" in table.record["dataset"]
    means = {key: table.spread(key)["mean"] for key in ("Bleu_4", "CIDEr", "CE13_micro_F1")}
    assert {found.idxmax() for found in means.values()} == {"LoRA(in_proj)"}
    assert means["CIDEr"].idxmin() == means["Bleu_4"].idxmin() == "LoRA(LLM)"
    parts = means["CIDEr"].filter(like="LoRA_P")
    assert parts.idxmax() == "LoRA_P(X)"
    cider = table.trainings.pivot(index="seed", columns="row", values="CIDEr")
    gain = cider.sub(cider["LoRA_P(X)"], axis=0)
    told = {row: f"{score(abs(gain[row].mean()))} ± {score(gain[row].std())}" for row in gain}
    yield f"its CIDEr is {told['LoRA(LLM)']} below that of LoRA_P(X)"
    yield f"of LoRA_P(B) by {told['LoRA_P(B)']}"
    yield f"ahead of LoRA_P(X) by {told['LoRA(in_proj)']} CIDEr"


def facts_of_the_gate():
    from emrrg_lib.evaluation.ablation_tables import read_tables

    f1 = read_tables()["gate"].trainings.pivot(index="seed", columns="row", values="CE13_micro_F1")
    gain = f1.sub(f1["dynamic + warm-up"], axis=0)
    yield f"its micro-F1 is {score(gain['none'].mean())} ± {score(gain['none'].std())} higher"
    yield f"without warm-up {score(gain['dynamic'].mean())} ± {score(gain['dynamic'].std())}"


def facts_of_the_decoders():
    with open(DATA / "results" / "decoder" / "compare.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "CE13_micro_F1"]
    for row in rows:
        if row["first"] == "EMRRG":
            value, low, high = (score(-float(row[key])) for key in ("difference", "high", "low"))
            other = {"Transformer": "the Transformer", "R2Gen": "R2Gen"}[row["second"]]
            yield f"{value} [{low}, {high}] below that of {other}"


def facts_of_the_benches():
    hardware = {json.dumps(read_json("results", "bench", f"{n}.json")["hardware"]) for n in ("scan", "train")}
    (found,) = map(json.loads, hardware)
    assert (found["threads"], found["instructions"], found["bfloat16_units"]) == (2, "AVX512", True)
    assert bench("hybrid")["dtype"] == "bfloat16"
    versions = read_json("results", "bench", "scan.json")["versions"]
    yield f"torch {versions['torch'].split('+')[0]}"
    yield "two CPU cores with AVX-512 and bfloat16 units"


def facts_of_the_library():
    from emrrg_lib.run.costs import BANDWIDTH, GPU, PEAK, READING, UTILISATION

    yield f"one {GPU} with {PEAK / 1e12:.0f} TFLOP/s, of which training uses {100 * UTILISATION:.0f} %"
    yield f"and {BANDWIDTH / 1e12:.1f} TB/s, of which report writing uses {100 * READING:.0f} %"
    yield f"`tiny` and `laptop`: β₂ = {preset('tiny').train.betas[1]}"
    yield "(274 of the 590 test reports of IU are)"  # counted by tests/data/test_check.py where IU is at hand
    yield f"`iu-xray` {', '.join(map(str, preset('iu-xray').llm.hybrid_layers))}"
    yield f"Llama {', '.join(map(str, preset('mimic-cxr').llm.hybrid_layers))}"


def facts_of_the_published_tables():
    from emrrg_lib.evaluation.published import published

    frames = [published(path.stem) for path in (DATA / "published").glob("*.csv")]
    yield f"{sum(int(frame.select_dtypes('number').notna().sum().sum()) for frame in frames):,} values"


FACTS = [
    (DATA / "published" / "README.md", facts_of_the_published_tables),
    (FACE, facts_of_the_face),
    (TINY, facts_of_the_demo),
    (TINY, facts_of_pointing),
    (TINY, facts_of_the_data),
    (RESULTS, facts_of_the_controls),
    (RESULTS, facts_of_the_rehearsal),
    (RESULTS, facts_of_the_laptop),
    (RESULTS, facts_of_the_ablations),
    (RESULTS, facts_of_the_shifted_table),
    (RESULTS, facts_of_the_gate),
    (RESULTS, facts_of_the_decoders),
    (RESULTS, facts_of_the_benches),
    (LIBRARY, facts_of_the_library),
]


@pytest.mark.parametrize(("page", "facts"), FACTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_sentences_quote_their_files(page, facts):
    text = prose(page)
    assert [fact for fact in facts() if not fact or fact not in text] == []


@pytest.mark.parametrize("page", [FACE, TINY, RESULTS, LIBRARY], ids=lambda path: path.parent.name)
def test_no_measured_number_is_left_without_a_file(page):
    """After the facts above are taken out, no score, no time and no memory is left in the prose."""
    text = prose(page)
    for where, facts in FACTS:
        for fact in facts() if where == page else ():
            text = text.replace(fact, "")
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|§\d[\d.]*|NOTES [\d.]+|Table [\d.]+", "", text)
    for constant in (
        "β (0.9, 0.999)",
        "1.32 M",
        "57.31 M",
        "202.32 M",
        "95 %",
        "3.10",
        "2510.16776",
        "2010.16056",
    ):
        text = text.replace(constant, "")
    measured = r"(?<![\w.])\d*\.\d{2,}|\d+(?:\.\d+)? (?:%|GiB|seconds?|minutes|s\b|times\b)"
    assert re.findall(measured, text) == []


# ------------------------------------------------------------- what the notebooks and the face share


@pytest.mark.parametrize("twin", sorted(NOTEBOOKS.rglob("*.py")), ids=lambda path: path.stem[:2])
def test_the_minutes_of_the_exercises_add_up_to_those_of_the_face(twin):
    text = twin.read_text(encoding="utf-8")
    minutes = re.findall(r"^# ### Exercise \d.*?(\d+) minutes", text, re.MULTILINE)
    row = rf"notebooks/{twin.stem}\.ipynb\).*\| \d+ \((\d+)\) \|"
    course = re.search(row, FACE.read_text(encoding="utf-8"))
    assert sum(map(int, minutes)) == int(course[1])
