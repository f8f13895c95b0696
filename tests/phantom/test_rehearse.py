"""Phantom images for real reports: from MeSH terms to marked pictures in the annotation's own layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_files import IU, real

from emrrg_lib.cli import main
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import InputError
from emrrg_lib.phantom.catalogue import KINDS
from emrrg_lib.phantom.dataset import draw_study, film_findings
from emrrg_lib.phantom.rehearse import rehearse_iu_xray, wanted_findings

TERMS = {1: ["normal"], 2: ["Pleural Effusion/left/large", "Scoliosis"], 3: ["Nodule/lung/upper lobe/right"]}
IDS = [f"CXR{number}_IM-{number:04d}" for number in TERMS]


@pytest.fixture
def annotation(tmp_path) -> Path:
    splits = {
        part: [{"id": s, "report": f"Text of {s}.", "image_path": [f"{s}/0.png", f"{s}/1.png"]}]
        for part, s in zip(("train", "val", "test"), IDS, strict=True)
    }
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps(splits))
    return path


@pytest.fixture
def reports(tmp_path) -> Path:
    folder = tmp_path / "xml"
    folder.mkdir()
    for (number, terms), study in zip(TERMS.items(), IDS, strict=True):
        major = "".join(f"<major>{term}</major>" for term in terms)
        (folder / f"{number}.xml").write_text(
            f'<eCitation><uId id="CXR{number}"/><MeSH>{major}</MeSH>'
            f'<parentImage id="{study}-1001"/></eCitation>'
        )
    return folder


@pytest.mark.parametrize(
    "term, wanted",
    [
        ("Pulmonary Atelectasis/base/left", [("atelectasis", {"place": "lower", "side": "left"})]),
        ("Opacity/lung/lingula", [("opacity", {"place": "middle", "side": "left"})]),
        ("Opacity/lung/middle lobe/right/patchy", [("opacity", {"place": "middle", "side": "right"})]),
        ("Airspace Disease/lung/bilateral", [("opacity", {"side": "right"}), ("opacity", {"side": "left"})]),
        ("Pleural Effusion/bilateral/small", [("effusion", {"side": "both", "severity": "small"})]),
        ("Cardiomegaly/borderline", [("cardiomegaly", {"severity": "mild"})]),
        ("Cardiac Shadow/enlarged/severe", [("cardiomegaly", {"severity": "severe"})]),
        ("Mass/lung/apex/right", [("nodule", {"side": "right", "place": "upper", "severity": "large"})]),
        ("Pneumonia/upper lobe/right", [("consolidation", {"place": "upper", "side": "right"})]),
        ("Pneumothorax/apex/right/moderate", [("pneumothorax", {"side": "right", "severity": "moderate"})]),
        (
            "Thickening/pleura/apex/bilateral",
            [
                ("pleural thickening", {"place": "apical", "side": "right"}),
                ("pleural thickening", {"place": "apical", "side": "left"}),
            ],
        ),
        (
            "Hydropneumothorax/left/large",
            [
                ("pneumothorax", {"side": "left", "severity": "large"}),
                ("effusion", {"side": "left", "severity": "large"}),
            ],
        ),
        ("Fractures, Bone/ribs/left/posterior", [("fracture", {"side": "left", "place": "posterior"})]),
        ("Catheters, Indwelling/right", [("device", {"side": "right", "place": "catheter"})]),
        ("Pulmonary Disease, Chronic Obstructive", [("hyperinflation", {})]),
        ("Lung/hyperdistention/mild", [("hyperinflation", {})]),
    ],
)
def test_terms_become_findings(term, wanted):
    assert wanted_findings([term]) == (wanted, [])


def test_what_cannot_be_drawn_is_named():
    terms = ["normal", "Fractures, Bone/clavicle/left", "Stents/coronary vessels", "Aorta/tortuous"]
    assert wanted_findings(terms) == ([], terms[1:])
    both = ["Pneumothorax/left", "Pulmonary Edema", "Pneumothorax/left/small"]  # the phantom cannot draw both
    assert wanted_findings(both) == ([("pneumothorax", {"side": "left"})], ["Pulmonary Edema"])


def test_every_kind_can_be_filmed_on_both_sides():
    plain, _ = film_findings(0, 3, [], 48)
    for kind, rule in KINDS.items():
        wanted = [(kind, {"side": s} if s in rule.sides else {}) for s in ("right", "left")]
        films, findings = film_findings(0, 3, wanted, 48)
        assert films.shape == (2, 48, 48) and np.abs(films.astype(int) - plain).max() > 8, kind
        assert [f["kind"] for f in findings] == [kind, kind]


def test_what_a_term_gives_is_drawn_and_the_rest_is_the_phantoms():
    for index in range(20):
        _, (nodule, device) = film_findings(
            1,
            index,
            [
                ("nodule", {"side": "left", "place": "upper"}),
                ("device", {"side": "right", "place": "pacemaker"}),
            ],
            16,
        )
        assert (nodule["side"], nodule["place"]) == ("left", "upper") and nodule["severity"]
        assert (device["side"], device["place"]) == ("right", "pacemaker")
    study = next(s for s in (draw_study(0, i, 32) for i in range(9)) if not s.findings)
    index = next(i for i in range(9) if not draw_study(0, i, 32).findings)
    assert np.array_equal(film_findings(0, index, [], 32)[0], study.images)  # the same patient


def test_rehearsal_keeps_text_ids_and_split_and_is_marked(tmp_path, annotation, reports):
    out = tmp_path / "out"
    summary = rehearse_iu_xray(annotation, reports, out, size=64, workers=1)
    assert summary == {"studies": 3, "drawn": {"effusion": 1, "nodule": 1}, "not_drawn": {"Scoliosis": 1}}
    assert (out / "annotation.json").read_bytes() == annotation.read_bytes()
    data = read_dataset(out)
    assert data.synthetic and data.caption.startswith("SYNTHETIC images") and data.name == "IU X-ray"
    note = json.loads((out / "synthetic.json").read_text())
    assert note["what"].startswith("SYNTHETIC") and list(note["asked_for"]) == IDS[1:]
    films = film_findings(0, 1, wanted_findings(TERMS[2])[0], 64)[0]
    for k in (0, 1):
        with Image.open(out / f"images/{IDS[1]}/{k}.png") as picture:
            pixels = np.asarray(picture)
        changed = np.argwhere(pixels != films[k])  # the mark, white on black in a corner, and nothing else
        assert len(changed) > 50 and changed[:, 0].max() < 16
        assert pixels[tuple(changed.T)].max() > 180 and pixels[tuple(changed.T)].min() == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and len(manifest["files"]) == 6


def test_rehearsal_goes_on_and_is_the_same_with_more_workers(tmp_path, annotation, reports):
    one, two = tmp_path / "one", tmp_path / "two"
    rehearse_iu_xray(annotation, reports, one, size=32, workers=1)
    rehearse_iu_xray(annotation, reports, two, size=32, workers=2)
    (two / f"images/{IDS[2]}/1.png").unlink()
    (two / "annotation.json").unlink()
    drawn = {path: path.stat().st_ino for path in two.rglob("*.png")}
    rehearse_iu_xray(annotation, reports, two, size=32, workers=2)
    assert {path.parent.name for path in drawn if path.stat().st_ino != drawn[path]} == {IDS[2]}
    for path in filter(Path.is_file, one.rglob("*")):
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes()


def test_a_limit_takes_the_first_studies_of_each_split(tmp_path, annotation, reports):
    whole = json.loads(annotation.read_text())
    annotation.write_text(annotation.read_text(), "utf-8-sig")  # as Windows writes it
    rehearse_iu_xray(annotation, reports, tmp_path / "few", size=32, workers=1, limit=1)
    few = json.loads((tmp_path / "few" / "annotation.json").read_text())
    assert {split: rows for split, rows in few.items() if rows} == {
        split: rows[:1] for split, rows in whole.items() if rows
    }
    with pytest.raises(InputError):  # the folder was begun with a limit
        rehearse_iu_xray(annotation, reports, tmp_path / "few", size=32, workers=1)


def test_bad_input_is_one_sentence(tmp_path, annotation, reports, capsys):
    words = ["data", "rehearse", "iu-xray", "--annotation", str(annotation), "--to", str(tmp_path / "out")]
    assert main([*words, "--reports", str(tmp_path / "none.tgz")]) == 2
    assert "no archive at" in capsys.readouterr().err
    (reports / "3.xml").unlink()
    assert main([*words, "--reports", str(reports)]) == 2
    assert f"1 of 3 studies of {annotation}, first {IDS[2]}, are not in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no annotation"):
        rehearse_iu_xray(tmp_path / "none.json", reports, tmp_path / "out")


def test_command_line(tmp_path, annotation, reports, capsys):
    assert (
        main(
            [
                "data",
                "rehearse",
                "iu-xray",
                "--annotation",
                str(annotation),
                "--reports",
                str(reports),
                "--to",
                str(tmp_path / "out"),
                "--size",
                "32",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "SYNTHETIC images: IU X-ray" in said and "Drawn: effusion 1, nodule 1; not drawn: 1" in said


@real
def test_every_study_of_the_real_annotation_has_a_plan():
    from emrrg_lib.data.iu_xray import openi_reports

    annotation = json.loads((IU / "annotation.json").read_text())
    mesh = {report.study_id: report.mesh for report in openi_reports(IU / "NLMCXR_reports.tgz", [])}
    plans = [wanted_findings(mesh[e["id"]])[0] for part in annotation.values() for e in part]
    kinds = [{kind for kind, _ in plan} for plan in plans]
    assert len(plans) == 2955 and 900 < sum(map(bool, kinds)) < 1200
    assert sum("atelectasis" in k for k in kinds) > 200 and sum("effusion" in k for k in kinds) > 95
