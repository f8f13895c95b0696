"""The facts about IU X-ray: counted by hand on three small reports, the stored ones on the real files."""

import json

import pytest
from real_files import IU, real

from emrrg_lib.data.iu_facts import EXAMPLE, iu_facts
from emrrg_lib.files import KIT

STORED = json.loads((KIT / "data" / "results" / "iu-facts" / "facts.json").read_text(encoding="utf-8"))


def words(texts):
    return [text.split() for text in texts]


def xml(uid, findings, images):
    parents = "".join(f'<parentImage id="{image}"/>' for image in images)
    return (
        f'<eCitation><uId id="{uid}"/><AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f"<MeSH><major>normal</major></MeSH>{parents}</eCitation>"
    )


@pytest.fixture
def files(tmp_path):
    texts = {"a": "The lungs are clear. No XXXX.", "b": "The lungs are clear. No XXXX.", "c": "Mass, 1.5 cm."}
    (tmp_path / "xml").mkdir()
    for name, text in texts.items():
        images = [f"{name}-1", f"{name}-2"]
        (tmp_path / "xml" / f"{name}.xml").write_text(xml(name, text, images), encoding="utf-8")
    (tmp_path / "xml" / "d.xml").write_text(xml("d", "", []), encoding="utf-8")
    split = {"a": "train", "c": "val", "b": "test"}
    entries = {
        part: [{"id": name, "report": texts[name], "image_path": [f"{name}.png"]}]
        for name, part in split.items()
    }
    (tmp_path / "annotation.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path / "annotation.json", tmp_path / "xml"


def test_three_reports_counted_by_hand(files):
    facts = iu_facts(*files, words)
    assert facts["openi"]["reports"] == 4 and facts["openi"]["images"] == 6
    assert facts["openi"]["reports by section"] == {"FINDINGS": 3}
    assert facts["openi"]["reports with XXXX"] == 2
    assert facts["selection"]["with findings and two images"] == 3
    assert (facts["selection"]["train"], facts["selection"]["test"]) == (1, 1)
    # The lungs are clear. No XXXX. Mass, 1.5 cm. → the lungs are clear . no xxxx . mass 15 cm .
    assert facts["cleaning"]["distinct words before"] == 9 and facts["cleaning"]["distinct words after"] == 10
    assert facts["cleaning"]["reports with a number that loses its point"] == 1
    assert facts["tokens"]["train"]["median"] == 8 and facts["tokens"]["val"]["longest"] == 4
    assert facts["tokens"]["train"]["histogram in bins of 5"] == [0, 1]
    assert facts["repeats"]["test reports also in train"] == 1
    assert facts["repeats"]["test sentences"] == facts["repeats"]["test sentences also in train"] == 2


def test_the_stored_facts_are_numbers_alone():
    def leaves(value):
        for part in value.values():
            yield from leaves(part) if isinstance(part, dict) else [part]

    assert STORED["example"]["text"] == EXAMPLE and "".join(STORED["example"]["pieces"]) == EXAMPLE
    facts = {name: part for name, part in STORED.items() if name != "example"}
    assert all(isinstance(leaf, int | float | list) for leaf in leaves(facts))
    for split in ("train", "val", "test"):
        bars = STORED["tokens"][split]["histogram in bins of 5"]
        assert sum(bars) == STORED["selection"][split]


@real
def test_the_stored_facts_are_those_of_the_real_files():
    facts = iu_facts(IU / "annotation.json", IU / "NLMCXR_reports.tgz", words)
    facts = json.loads(json.dumps(facts))
    for name in ("openi", "selection", "cleaning", "words", "repeats"):  # tokens need Qwen's tokenizer
        assert facts[name] == STORED[name]
