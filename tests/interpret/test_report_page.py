"""The HTML page of a run: whole, escaped, self-contained, small, and usable without scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from emrrg_lib.data.sources import read_dataset
from emrrg_lib.evaluation.metrics import metric
from emrrg_lib.evaluation.pointing import Pointing
from emrrg_lib.files import InputError, write_json, write_text
from emrrg_lib.interpret.page import write_figures, write_report_page, write_run_page
from emrrg_lib.interpret.page_example import (
    Example,
    SystemReport,
    compare_labels,
    mask_outline,
)
from emrrg_lib.interpret.page_tables import finding_table, score_tables
from emrrg_lib.phantom import write_phantom
from emrrg_lib.presets import preset
from emrrg_lib.run_folder import explorer_file, trace_file, write_config, write_predictions
from emrrg_lib.trace import Trace

VOID = {"meta", "img", "input", "br", "image", "use", "path"}
REFERENCE = "The heart is enlarged. There is a small right pleural effusion <b> & more."
HYPOTHESIS = "Clear lungs. There is a small right pleural effusion. No pneumothorax."
LABELS = {"Pleural Effusion": -1, "Pneumothorax": 0, "Edema": 1}
OTHER = "The heart is enlarged. There is a small left effusion."


class Page(HTMLParser):
    """Reads a page and keeps its tags; complains where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def make_trace(text=HYPOTHESIS, layers=2, views=2, side=4, seed=0):
    tokens = tuple(re.findall(r"\s?\w{1,8}|[^\w\s]", text))
    rng = np.random.default_rng(seed)
    attention = rng.random((layers, 2, len(tokens), views, side * side))
    attention /= attention.sum(axis=(3, 4), keepdims=True)
    gate = 0.4 * np.tanh(rng.normal(size=(layers, len(tokens))))
    return Trace(tokens, gate, attention, (side, side), tuple(range(layers)), np.full(layers, 0.4))


def make_example(index=0, side=96, **changes):
    rng = np.random.default_rng(index)
    trace = make_trace(seed=index)
    fields = {
        "id": f"study-{index}",
        "images": [rng.integers(0, 255, (side, side)).astype(np.uint8) for _ in range(2)],
        "reference": REFERENCE,
        "systems": [SystemReport("Generated", HYPOTHESIS, LABELS, {"Bleu_4": 0.1 * index, "ROUGE_L": None})],
        "labels": {"Cardiomegaly": 1, "Pleural Effusion": 1, "Pneumothorax": None},
        "trace": trace,
        "explorer": f"explorers/{index}.html",
    }
    return Example(**{**fields, **changes})


def row(system, note="", **metrics):
    return {"system": system, "metrics": metrics, "ci": {"Bleu_4": [0.1, 0.2]}, "note": note}


METRICS = {
    "schema": 1,
    "dataset": "PhantomCXR",
    "split": "test",
    "rows": [
        row(
            "model", Bleu_4=0.21, METEOR=0.2, CE13_micro_F1=0.6, CE13neg_micro_F1=0.5, **{"CE_F1 Edema": 0.5}
        ),
        row("constant report", "the best on validation", Bleu_4=0.11, METEOR=None, CE13_micro_F1=0.0),
        {"system": "linear head", "metrics": {"CE13_micro_F1": 0.8}},
    ],
    "support": {"Edema": 7},
    "pointing": {
        "layer": 3,
        "rows": [vars(Pointing("edema", 7, 0.6, 0.5, 0.7, 0.4, 0.3, 0.5, 0.1, 0.2, 0.3))],
    },
    "loss": {"steps": [1, 2, 3], "train": [3.0, 2.0, 1.5], "validation": [[3, 1.7]]},
}


def write(path, examples, metrics=METRICS, **changes):
    fields = {"title": "Run <1>", "facts": {"seed": 3, "versions": {"torch": "2.13"}, "gpu": None}}
    fields |= {"notes": ["Phantoms & nothing else."]} | changes
    return write_report_page(path, metrics=metrics, examples=examples, **fields).read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    examples = [make_example(0), make_example(1, id='"><script>alert(1)</script>')]
    return write(tmp_path_factory.mktemp("page") / "report.html", examples)


def test_page_is_well_formed_and_escaped(page):
    parsed = Page(page)
    assert len(parsed.all("script")) == 1 and "<script>alert" not in page
    text = " ".join(parsed.words)
    assert "Run <1>" in text and "<b> & more." in text and "Phantoms & nothing else." in text
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names))


def test_page_needs_nothing_from_outside(page):
    parsed = Page(page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert parsed.all("link") == [] and "src" not in parsed.all("script")[0]
    names = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    for tag, attributes in parsed.tags:
        source = attributes.get("src") or attributes.get("href") or "data:"
        inside = source[1:] in names if source.startswith("#") else source.startswith("data:")
        assert inside or (tag == "a" and source.startswith("explorers/")), (tag, source[:60])
    policy = [a["content"] for a in parsed.all("meta") if "http-equiv" in a]
    assert policy and "default-src 'none'" in policy[0]


def test_every_picture_is_told_in_words_and_drawn_once(page):
    parsed = Page(page)
    texts = [image["alt"] for image in parsed.all("img")]
    assert len(texts) == 1 + 2 * 2 and all(len(alt) > 20 for alt in texts)  # loss curve and X-rays
    assert texts[1] == "X-ray of study study-0, frontal view"
    links = [link["href"] for link in parsed.all("a") if link.get("class") == "explorer"]
    assert links == ["explorers/0.html", "explorers/1.html"] and not parsed.all("svg")


def test_page_works_by_keyboard_and_without_scripts(page):
    parsed = Page(page)
    assert "hidden" in next(form for form in parsed.all("form"))
    assert not any("hidden" in article for article in parsed.all("article"))
    assert all(div["tabindex"] == "0" for div in parsed.all("div") if div.get("class") == "scroll")
    assert [tag for tag, _ in parsed.tags].count("h1") == 1
    assert parsed.all("html")[0]["lang"] == "en"


def test_scores_show_intervals_missing_values_and_notes(page):
    text = " ".join(Page(page).words)
    assert "0.210" in text and ".100–.200" in text and "–" in text
    for word in ("the best on validation", "BLEU\u20114", "Edema"):
        assert word in text
    assert "Hybrid layer 3, chosen on validation" in text and ".500–.700" in text
    assert "uncertain as absent" in text and "CE F1 Edema" not in text


def test_marks_and_chips(page):
    parsed = Page(page)
    twins = [mark["data-twin"] for mark in parsed.all("mark") if "data-twin" in mark]
    # one shared run of words on both sides, and one shared sentence, of two studies
    assert len(twins) == 8 and twins.count("0") == 4 and twins.count("1") == 4
    text = page.replace('<span aria-hidden="true">', "").replace("</span>", "")
    assert "✓ Pleural Effusion <i>agreed" in text
    assert "− Cardiomegaly <i>missed" in text and "+ Edema <i>invented" in text


def test_compare_labels_counts_uncertain_as_named():
    assert compare_labels({"A": 1, "B": -1, "C": 0}, {"A": -1, "C": 1}) == {
        "agreed": ["A"],
        "missed": ["B"],
        "invented": ["C"],
    }
    assert compare_labels(None, {"A": 1}) is None


def test_page_of_nothing_is_still_a_page(tmp_path):
    text = write(tmp_path / "r.html", [], {}, facts={}, notes=[])
    assert "<section" not in text
    Page(text)
    system = SystemReport("Generated", HYPOTHESIS)
    bare = make_example(2, explorer="", systems=[system], labels=None)
    text = write(tmp_path / "s.html", [bare], {"rows": []})
    assert "Inside the model" not in text and '<ul class="chips"' not in text
    Page(text)


def test_pages_stay_small(tmp_path):
    """24 examples fit in 3 MB: measured on noise, which compresses worst, at full size."""
    few = len(write(tmp_path / "a.html", [make_example(0, side=384)]).encode())
    more = len(write(tmp_path / "b.html", [make_example(i, side=384) for i in range(3)]).encode())
    assert few + 23 * (more - few) / 2 < 3 * 2**20


def test_failing_page_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="image"):
        write(tmp_path / "report.html", [make_example(images=[np.zeros((2, 2, 2, 2))])])
    assert list(tmp_path.iterdir()) == []


def test_mask_outline_goes_around_the_mask():
    mask = np.zeros((4, 8), bool)
    mask[1:3, 2:4] = True
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", mask_outline(mask, 80, 40)), float)
    assert points.min(axis=0).tolist() == [20.0, 10.0]
    assert points.max(axis=0).tolist() == [40.0, 30.0]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("CE14neg_example_F1", ("Findings, 14 labels, uncertain as absent", "per study F1")),
        ("CIDEr", ("Word overlap", "CIDEr")),
        ("unique_reports", ("Other", "unique reports")),
    ],
)
def test_metric_names(key, expected):
    assert (metric(key).group, metric(key).label) == expected


def pair(index=0):
    first = SystemReport("one", HYPOTHESIS, LABELS, {"Bleu_4": 0.2, "CIDEr": 1.0})
    second = SystemReport("two", OTHER, {"Cardiomegaly": 1, "Pleural Effusion": 1}, {"Bleu_4": 0.1})
    return make_example(index, systems=[first, second])


def test_two_systems_stand_side_by_side(tmp_path):
    """Yellow, cyan and pink of the paper's Fig. 3 are the classes a, b and ab."""
    text = write(tmp_path / "r.html", [pair()])
    parsed = Page(text)
    marks = [mark["class"] for mark in parsed.all("mark")]
    assert set(marks) == {"a", "b", "ab"} and marks[:3] == ["a", "b", "ab"]  # the legend
    assert '<mark class="b" data-twin="0">The heart is enlarged</mark>' in text
    assert '<mark class="ab" data-twin="1">There is a small</mark>' in text
    assert '<mark class="a" data-twin="2">right pleural effusion</mark>' in text
    words = " ".join(" ".join(parsed.words).split())
    assert "7 of 11 words shared with the reference, 4 of these by both systems" in words
    assert "8 of 10 words shared with the reference, 4 of these by both systems" in words
    assert "✓ Cardiomegaly <i>agreed" in text.replace('<span aria-hidden="true">', "").replace("</span>", "")
    options = {option["value"] for option in parsed.all("option")}
    assert options >= {
        "id",
        "length",
        "differ",
        "score-0-bleu-4",
        "score-0-cider",
        "score-0-ce-f1",
        "score-1-bleu-4",
        "score-1-ce-f1",
    }
    article = parsed.all("article")[0]
    assert float(article["data-score-0-ce-f1"]) == 2 / 4 and float(article["data-score-1-ce-f1"]) == 1
    assert article["data-differ"] == "1" and article["data-length"] == "13"


def test_sentences_are_matched_in_three_colours(tmp_path):
    text = write(tmp_path / "r.html", [pair()])
    folded = text.split("Matched by sentence")[1].split("</details>")[0]
    reference, one, two = (part.split("</div>")[0] for part in folded.split("<h4>")[1:])
    both = make_example(systems=[SystemReport(name, OTHER) for name in ("one", "two")])
    assert '<mark class="b" data-twin="0">The heart is enlarged</mark>' in reference
    assert '<mark class="a" data-twin="1">There is a small right pleural effusion</mark>' in one
    assert (
        one.count("<mark") == 1 and two.count("<mark") == 1
    )  # "left effusion" is not "right pleural effusion"
    assert '<mark class="ab" data-twin="0">The heart' in write(tmp_path / "s.html", [both])


def test_three_systems_are_shown(tmp_path):
    systems = [SystemReport(name, text) for name, text in zip("xyz", (HYPOTHESIS, OTHER, OTHER), strict=True)]
    text = write(tmp_path / "r.html", [make_example(systems=systems)])
    assert 'class="study many"' in text and "by several" in text and "by other systems too" in text
    assert {mark["class"] for mark in Page(text).all("mark")} == {"a", "ab"}
    assert "score-2-bleu-4" not in text  # these reports bring no scores


def test_a_finding_without_cases_has_a_dash():
    rows = [{"system": "model", "metrics": {"CE_F1 Edema": 0.0, "CE_F1 Fracture": 0.0}}]
    cells = {name: cells for name, _, cells in finding_table(rows, {"Edema": 3, "Fracture": 0}).rows}
    assert cells["Edema"][0] == 3 and cells["Edema"][1]["value"] == 0
    assert cells["Fracture"][0] == 0 and cells["Fracture"][1]["value"] is None


@pytest.mark.parametrize("style", ["svg", "pdf"])
def test_figures_are_written_as_vectors(tmp_path, style):
    write_figures(tmp_path / "figures", style, METRICS, [pair(), make_example(1, trace=None, images=[])])
    names = ["loss", "study01", "study01_gates", "study02"]
    files = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in files] == [f"{name}.{style}" for name in names]
    assert all((b"<svg" if style == "svg" else b"%PDF") in path.read_bytes() for path in files)


def test_every_map_of_the_pointing_game_is_shown(tmp_path):
    maps = [
        {"map": kind, "token": "own", "layer": layer, "rows": METRICS["pointing"]["rows"]}
        for layer, kind in enumerate(("attention", "attention x gate"))
    ]
    pointing = METRICS["pointing"] | {"variants": maps, "chosen": 1}
    words = " ".join(Page(write(tmp_path / "r.html", [], METRICS | {"pointing": pointing})).words)
    first, second = (
        words.index(f"Read from {kind} at its own tokens. Hybrid layer {layer}")
        for kind, layer in (("attention x gate", 1), ("attention", 0))
    )
    assert first < second


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same phantoms, scored alike, the second without traces."""
    root = tmp_path_factory.mktemp("runs")
    write_phantom(root / "data", 8, seed=0, size=32, splits=(0.5, 0.25, 0.25))
    test = read_dataset(root / "data").split("test")
    for name in ("one", "two"):
        run = root / name
        write_config(run, preset("tiny"))
        write_json(
            run / "run.json",
            {
                "data": str(root / "data"),
                "seed": 0,
                "minutes": 1.0,
                "commit": None,
                "peak_memory_gib": 1.0,
                "versions": {},
            },
        )
        write_json(run / "metrics.json", METRICS | {"labeler": "rules", "references": "full"})
        write_predictions(
            run,
            [{"id": study.id, "reference": study.report, "hypothesis": f"{name} heart ."} for study in test],
        )
    make_trace(views=2).save(trace_file(root / "one", test[0].id))
    write_text(explorer_file(root / "one", test[0].id), "a page")
    return root


def test_page_of_a_run_against_another(runs):
    text = write_run_page(runs / "one", [runs / "two"]).read_text("utf-8")
    words = " ".join(Page(text).words)
    assert "one against two" in words and "two: model" in words and "Synthetic images" in words
    assert "two heart ." in words and words.count("Inside the model: one") == 1
    alone = write_run_page(runs / "one").read_text("utf-8")
    assert "two heart" not in alone and "against" not in " ".join(Page(alone).words)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("metrics.json", METRICS | {"labeler": "chexbert", "references": "full"}, "differ in 'labeler'"),
        ("predictions.jsonl", {"id": "x", "reference": "a", "hypothesis": "b"}, "no report of study"),
    ],
)
def test_runs_that_do_not_compare_are_refused(runs, tmp_path, name, change, sentence):
    shutil.copytree(runs / "two", tmp_path / "two")
    (tmp_path / "two" / name).write_text(json.dumps(change), "utf-8")
    before = sorted(path.name for path in (runs / "one").iterdir())
    with pytest.raises(InputError, match=sentence):
        write_run_page(runs / "one", [tmp_path / "two"])
    assert sorted(path.name for path in (runs / "one").iterdir()) == before


@pytest.mark.browser
def test_page_sorts_and_filters_in_a_browser(tmp_path, page):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    drive = """<script>
    const form = document.getElementById("controls");
    form.elements.sort.value = "score-0-bleu-4";
    form.elements.sort.dispatchEvent(new Event("change"));
    form.elements.words.value = "pneumothorax";
    form.dispatchEvent(new Event("input"));
    document.querySelector("a.explorer").closest("details").open = true;
    </script>"""
    # The page's own policy allows inline scripts, so a test can add one that uses the controls.
    path = tmp_path / "driven.html"
    path.write_text(page.replace("</body>", drive + "</body>"), "utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        path.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "2 of 2 shown" in dom
    assert re.findall(r'data-order="(\d)"', dom) == ["1", "0"]
    frames = re.findall(r'<iframe src="([^"]*)" title="([^"]*)"', dom)  # of the card that is open, no other
    assert [(src.rsplit("/", 1)[1], title[:13]) for src, title in frames] == [("1.html", "Explore study")]


@pytest.mark.browser
def test_a_wide_table_scrolls_in_its_own_box(tmp_path):
    """Six systems with long names and six metrics of models, on a laptop and on a phone."""
    sync_api, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    names = ["R2Gen", *(f"{'a_name_without_a_blank_' * 5}{n}" for n in range(5))]
    learned = ("radgraph_simple", "radgraph_partial", "bertscore", "ratescore", "green", "radcliq_v1")
    scores = dict.fromkeys([*METRICS["rows"][0]["metrics"], *learned], 0.5)
    rows = [row(name, "its meaning in a sentence", **scores) for name in names]
    systems = [SystemReport(name, HYPOTHESIS, LABELS, {}) for name in names]
    path = tmp_path / "page.html"
    metrics = METRICS | {"rows": rows, "dataset": "a/long/path/" * 20}
    write_report_page(
        path, title=names[-1], metrics=metrics, examples=[make_example(systems=systems)], facts={}
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            first = """(box) => { box.scrollLeft = 300;
              return [...box.querySelectorAll("tbody th, thead tr:first-child > :first-child")].map((cell) =>
                [cell.getBoundingClientRect().left - box.getBoundingClientRect().left, cell.clientWidth]) }"""
            boxes = [box.evaluate(first) for box in page.query_selector_all(".scroll")]
            assert len(boxes) == 4 and {left for box in boxes for left, _ in box} == {1}  # its border
            assert width > 390 or boxes[0][0][1] < 180  # most of the box is left for numbers
        browser.close()


def test_an_interval_above_one_keeps_its_decimals():
    row = {
        "system": "model",
        "metrics": {"CIDEr": 2.3, "Bleu_4": 0.5},
        "ci": {"CIDEr": [2.0764, 2.562], "Bleu_4": [-0.0001, 1.0]},
    }
    ((_, _, cells),) = score_tables([row])[0].rows
    assert sorted(cell["interval"] for cell in cells) == ["0–1", "2.076–2.562"]
