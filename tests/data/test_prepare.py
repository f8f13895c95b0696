"""`emrrg data prepare` on small downloads in every shape: folders, archives, Kaggle's tables."""

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_files import IU, images_here, real

from emrrg_lib.cli import main
from emrrg_lib.data import archives
from emrrg_lib.data.prepare import Manifest, file_record, prepare_iu_xray
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import InputError

IMAGES = {  # study 1 has the odd name, 2 three images, 3 one field more, 4 no findings
    "CXR1_1_IM-0001": ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],
    "CXR2_IM-0652": ["CXR2_IM-0652-1001", "CXR2_IM-0652-2001", "CXR2_IM-0652-3001"],
    "CXR3_IM-0080-1001": ["CXR3_IM-0080-1001-0001", "CXR3_IM-0080-1001-0002", "CXR3_IM-0080-2001"],
    "CXR4_IM-0005": ["CXR4_IM-0005-1001"],
}
NAMES = [name for names in IMAGES.values() for name in names]
REPORTS = ["Heart normal. Lungs clear.", "Small left effusion.", "A nodule is seen.", ""]
STUDIES = list(IMAGES)


def png(name: str, size=(40, 50), kind="PNG") -> bytes:
    grey = np.random.default_rng(sum(name.encode())).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, kind)
    return buffer.getvalue()


def xml(number: int, study: str) -> bytes:
    images = "".join(f'<parentImage id="{name}"/>' for name in IMAGES[study])
    return (
        f'<eCitation><uId id="CXR{number}"/><AbstractText Label="FINDINGS">{REPORTS[number - 1]}'
        f"</AbstractText><MeSH><major>normal</major></MeSH>{images}</eCitation>"
    ).encode()


def tgz(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def openi(tmp_path) -> Path:
    """Open-i's two archives."""
    source = tmp_path / "openi"
    source.mkdir()
    tgz(
        source / "NLMCXR_reports.tgz",
        {f"ecgen-radiology/{i}.xml": xml(i, study) for i, study in enumerate(IMAGES, 1)},
    )
    tgz(source / "NLMCXR_png.tgz", {f"{name}.png": png(name) for name in NAMES})
    return source


@pytest.fixture
def annotation(tmp_path) -> Path:
    """R2Gen's annotation: two images a study, whatever Open-i has."""
    split = {"train": STUDIES[:1], "val": STUDIES[1:2], "test": STUDIES[2:3]}
    path = tmp_path / "annotation.json"
    path.write_text(
        json.dumps(
            {
                part: [
                    {
                        "id": s,
                        "report": f"R2Gen on {s}.",
                        "image_path": [f"{s}/0.png", f"{s}/1.png"],
                        "split": part,
                    }
                    for s in studies
                ]
                for part, studies in split.items()
            }
        )
    )
    return path


def test_archives_become_the_r2gen_layout(tmp_path, openi, annotation):
    out = tmp_path / "out"
    done = prepare_iu_xray(openi, out, annotation)
    assert not done.missing and [s.id for s in done.studies] == STUDIES[:3]
    assert json.loads((out / "annotation.json").read_text()) == json.loads(annotation.read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    for study in STUDIES[:3]:  # byte for byte, the k-th name in sorted order
        for k, name in enumerate(sorted(IMAGES[study])[:2]):
            target = f"images/{study}/{k}.png"
            assert (out / target).read_bytes() == png(name)
            assert manifest["files"][target] == {
                "sha256": hashlib.sha256(png(name)).hexdigest(),
                "bytes": len(png(name)),
                "source": f"{name}.png",
            }
    assert manifest["complete"] and len(manifest["files"]) == 6 and not (out / "manifest.jsonl").exists()
    assert read_dataset(out).caption.startswith("IU X-ray, the annotation's split 1/1/1")


def test_a_folder_that_exists_takes_the_unpacked_archives(tmp_path, openi, annotation):
    out = tmp_path / "out"
    (out / ".unpacked").mkdir(parents=True)  # left behind by a kill
    assert len(prepare_iu_xray(openi, out, annotation).studies) == 3
    assert sorted(p.name for p in out.iterdir()) == ["annotation.json", "images", "manifest.json"]


def test_every_shape_of_source_gives_the_same_folder(tmp_path, openi, annotation):
    folder = tmp_path / "folder"
    for name in NAMES:
        (folder / "NLMCXR_png").mkdir(parents=True, exist_ok=True)
        (folder / "NLMCXR_png" / f"{name}.png").write_bytes(png(name))
    (folder / "ecgen-radiology").mkdir()
    for i, study in enumerate(IMAGES, 1):
        (folder / "ecgen-radiology" / f"{i}.xml").write_bytes(xml(i, study))
    kaggle = tmp_path / "kaggle"
    kaggle.mkdir()
    with open(kaggle / "indiana_reports.csv", "w", newline="") as file:
        csv.writer(file).writerows([("uid", "findings"), *((i, text) for i, text in enumerate(REPORTS, 1))])
    short = {name: name.removeprefix("CXR1_").removeprefix("CXR") + ".dcm.png" for name in NAMES}
    with open(kaggle / "indiana_projections.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("uid", "filename", "projection"),
                *(
                    (i, short[name], "Frontal")
                    for i, s in enumerate(IMAGES, 1)
                    for name in reversed(IMAGES[s])
                ),
            ]
        )
    with zipfile.ZipFile(kaggle / "images.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"images/images_normalized/{short[name]}", png(name))
    made = []
    for source in (openi, folder, kaggle):
        prepare_iu_xray(source, out := tmp_path / f"from {source.name}", annotation)
        made.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.png")})
    assert made[0] == made[1] == made[2] and len(made[0]) == 6


def test_without_annotation_every_image_is_kept_and_the_caption_says_so(tmp_path, openi):
    done = prepare_iu_xray(openi, tmp_path / "out", seed=3)
    assert {s.id: len(s.images) for s in done.studies} == {STUDIES[0]: 2, STUDIES[1]: 3, STUDIES[2]: 3}
    assert list(done.missing) == [STUDIES[3]] and "no findings" in done.missing[STUDIES[3]][0]
    assert "not the published split" in read_dataset(tmp_path / "out").caption
    splits = json.loads((tmp_path / "out/annotation.json").read_text())
    assert {entry["patient"] for part in splits.values() for entry in part} == {"CXR1", "CXR2", "CXR3"}


def test_missing_and_damaged_images_are_named(tmp_path, openi, annotation):
    files = {f"{name}.png": png(name) for name in NAMES}
    del files["CXR1_1_IM-0001-4001.png"]
    files["CXR2_IM-0652-2001.png"] = files["CXR2_IM-0652-2001.png"][:200]
    tgz(openi / "NLMCXR_png.tgz", files)
    done = prepare_iu_xray(openi, tmp_path / "out", annotation)
    assert [s.id for s in done.studies] == [STUDIES[2]]
    assert done.missing[STUDIES[0]] == ["1_IM-0001-4001 is not in the source"]
    assert "CXR2_IM-0652-2001.png" in done.missing[STUDIES[1]][0] and "damaged" in done.missing[STUDIES[1]][0]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["missing"] == done.missing
    assert "2 studies left out" in done.summary and STUDIES[0] in done.summary
    tgz(openi / "NLMCXR_png.tgz", {f"{name}.png": png(name) for name in NAMES})  # fetched again
    assert not prepare_iu_xray(openi, tmp_path / "out", annotation).missing
    assert len(read_dataset(tmp_path / "out").studies) == 3


@pytest.mark.parametrize(
    "kind, size, expected", [("JPEG", None, (40, 50)), ("PNG", 20, (20, 25)), ("PNG", 400, (40, 50))]
)
def test_size_and_other_formats(tmp_path, openi, annotation, kind, size, expected):
    (openi / "NLMCXR_png.tgz").unlink()
    for name in NAMES:
        (openi / f"{name}.{'jpg' if kind == 'JPEG' else 'png'}").write_bytes(png(name, kind=kind))
    prepare_iu_xray(openi, tmp_path / "out", annotation, size=size)
    with Image.open(tmp_path / "out/images" / STUDIES[0] / "0.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", expected)


def test_a_stopped_run_goes_on(tmp_path, openi, annotation, monkeypatch):
    whole = tmp_path / "whole"
    prepare_iu_xray(openi, whole, annotation)
    out, add, added = tmp_path / "out", Manifest.add, []

    def stop_at_third(manifest, name, entry):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(name)
        add(manifest, name, entry)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Manifest, "add", stop_at_third)
        prepare_iu_xray(openi, out, annotation, workers=1)
    assert not (out / "annotation.json").exists() and not list(out.rglob("*.partial"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotation.json", "openi", "out", "whole"]
    with open(out / "manifest.jsonl", "a") as file:
        file.write('{"images/cut off')
    first = {name: (out / name).stat().st_ino for name in added}
    prepare_iu_xray(openi, out, annotation)
    assert len(first) == 2 and all((out / name).stat().st_ino == number for name, number in first.items())
    for path in whole.rglob("*.*"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    pictures = {path: path.stat().st_ino for path in out.rglob("*.png")}
    rotten = out / "images" / STUDIES[1] / "1.png"
    rotten.write_bytes(b"rotten")
    prepare_iu_xray(openi, out, annotation)  # only what is not as it was written
    assert [path for path in pictures if path.stat().st_ino != pictures[path]] == [rotten]


def test_what_a_kill_left_is_gone_after_the_next_start(tmp_path, openi, annotation):
    """A kill inside the writing of an image, and one while the archives were unpacked."""
    kill, start = "os.kill(os.getpid(), 9)", "import os, sys; from emrrg_lib.data import prepare\n"
    for place in (
        f"prepare.Manifest = lambda *_: {kill}",
        f"prepare.shutil.copyfile = lambda source, target: (target.touch(), {kill})",
    ):
        stopped = f"{start}{place}\nprepare.prepare_iu_xray(*sys.argv[1:])"
        command = [sys.executable, "-c", stopped, str(openi), str(tmp_path / "out"), str(annotation)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == -9
        assert list(tmp_path.rglob(".*.partial")) or list(tmp_path.rglob(".*unpacked"))
    assert not prepare_iu_xray(openi, tmp_path / "out", annotation).missing
    assert not [path for path in tmp_path.rglob(".*") if path.suffix in (".partial", ".unpacked")]


def test_bad_sources_leave_nothing(tmp_path, openi, annotation):
    out = tmp_path / "out"
    link = tarfile.TarInfo("CXR9_IM-1-1001.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(openi / "NLMCXR_png.tgz", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(InputError, match="a link or device"):
        prepare_iu_xray(openi, out, annotation)
    (openi / "NLMCXR_png.tgz").unlink()
    with pytest.raises(InputError, match="none of the 6 images"):
        prepare_iu_xray(openi, out, annotation)
    with pytest.raises(InputError, match="no folder"):
        prepare_iu_xray(tmp_path / "none", out, annotation)
    (kaggle := tmp_path / "kaggle").mkdir()
    (kaggle / "indiana_projections.csv").write_text("uid,filename,projection\n")
    (kaggle / "indiana_reports.csv").write_bytes("uid,findings\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        prepare_iu_xray(kaggle, out)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no NLMCXR_reports.tgz"):
        prepare_iu_xray(empty, out, annotation)
    assert not out.exists()


def test_a_bomb_leaves_nothing(tmp_path, openi, capsys):
    with zipfile.ZipFile(openi / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("CXR9_IM-1-1001.png", bytes(70 * 2**20))
    words = ["data", "prepare", "iu-xray", "--from", str(openi), "--to", str(tmp_path / "out")]
    assert main(words) == 2
    assert "bomb.zip is refused, nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ids_cannot_leave_the_folder(tmp_path, openi):
    evil = xml(1, STUDIES[0]).replace(b"CXR1_1_IM-0001", b"../../evil")
    tgz(openi / "NLMCXR_reports.tgz", {"1.xml": evil})
    tgz(openi / "NLMCXR_png.tgz", {"evil-3001.png": png("a"), "evil-4001.png": png("b")})
    with pytest.raises(InputError, match="leaves the folder"):
        prepare_iu_xray(openi, tmp_path / "out")
    assert not list(tmp_path.rglob("0.png"))


def test_little_space_is_said_before_the_work(tmp_path, openi, annotation, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 100}))
    with pytest.raises(InputError, match="free some space"):
        prepare_iu_xray(openi, tmp_path / "out", annotation)
    assert not (tmp_path / "out").exists()


def test_manifest_knows_its_folder(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        Manifest(tmp_path, {"size": 1})
    manifest = Manifest(tmp_path / "new", {"size": 1})
    (tmp_path / "new" / "b.txt").write_text("b")
    manifest.add("b.txt", file_record(tmp_path / "new" / "b.txt"))
    assert Manifest(tmp_path / "new", {"size": 1}).has("b.txt")
    with pytest.raises(InputError, match="begun with another size"):
        Manifest(tmp_path / "new", {"size": 2})
    (tmp_path / "new" / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        Manifest(tmp_path / "new", {"size": 1})


def test_command_line(tmp_path, openi, annotation, capsys):
    words = ["data", "prepare", "iu-xray", "--from", str(openi), "--to", str(tmp_path / "out")]
    assert main([*words, "--annotation", str(annotation)]) == 0
    assert "3 studies, train/val/test 1/1/1" in capsys.readouterr().out
    assert main([*words, "--annotation", str(annotation), "--size", "32"]) == 2
    assert "begun with another size" in capsys.readouterr().err
    assert main(["data", "prepare", "iu-xray", "--from", str(openi), "--to", str(tmp_path / "all")]) == 1
    assert f"{STUDIES[3]}: study {STUDIES[3]} is left out" in capsys.readouterr().out
    for name, place in (("mimic-cxr", "physionet.org"), ("chexpert-plus", "Stanford AIMI")):
        assert main(["data", "fetch", name, "--to", str(tmp_path / "x")]) == 2
        assert place in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@real
def test_real_files_are_paired_as_measured(tmp_path):
    """A study is made where both images of its pair are here, and only there."""
    done = prepare_iu_xray(IU, tmp_path / "out", IU / "annotation.json")
    with open(IU / "annotation_openi_ids.csv") as file:
        names = {row["annotation_id"]: row["openi_image_ids_sorted"].split() for row in csv.DictReader(file)}
    here = {Path(name).stem for name in images_here()}
    assert {study.id for study in done.studies} == {k for k, pair in names.items() if here >= set(pair[:2])}
    assert len(done.studies) >= 10 and len(done.studies) + len(done.missing) == 2955
    files = json.loads((tmp_path / "out/manifest.json").read_text())["files"]
    for study in done.studies:
        used = [Path(files[f"images/{study.id}/{k}.png"]["source"]).stem for k in (0, 1)]
        assert used == names[study.id][:2]
