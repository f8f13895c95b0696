"""Every layout the kit reads, drawn small; splits and captions; the real IU X-ray files where they are."""

import gzip
import io
import json
import tarfile
from collections import Counter

import pytest
from real_files import IU, images_here, images_with_findings, real

from emrrg_lib.data.iu_xray import openi_reports, picture_key
from emrrg_lib.data.mimic_cxr import findings_of, report_sections
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Study, split_by_patient
from emrrg_lib.files import InputError


def by_id(dataset):
    return {study.id: study for study in dataset.studies}


# ------------------------------------------------------------------------------------- Open-i


def xml(number, findings, images, mesh=("normal",)):
    sections = "" if findings is None else f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/>'
        f"<MedlineCitation><Article><Abstract>{sections}"
        '<AbstractText Label="IMPRESSION">Fine.</AbstractText></Abstract></Article>'
        f"</MedlineCitation><MeSH>{''.join(f'<major>{m}</major>' for m in mesh)}</MeSH>"
        + "".join(f'<parentImage id="{image}"/>' for image in images)
        + "</eCitation>"
    ).encode()


REPORTS = {
    "1.xml": xml(1, "Clear  lungs.", ["CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-3001"], ["a/b", "c"]),
    "2.xml": xml(2, None, ["CXR2_IM-0002-1001"]),
    "3.xml": xml(3, "No image.", []),
    "10.xml": xml(10, "A nodule.", ["CXR10_IM-0002-1001"]),
}


def pack(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"ecgen-radiology/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", ["archive", "its folder", "unpacked", "xml", "xml folder"])
def test_openi_in_every_form(tmp_path, form):
    folder = tmp_path / "ecgen-radiology" if form == "unpacked" else tmp_path
    if "archive" in form or "its" in form:
        source = pack(tmp_path / "NLMCXR_reports.tgz", REPORTS)
    else:
        folder.mkdir(exist_ok=True)
        for name, content in REPORTS.items():
            (folder / name).write_bytes(content)
        source = folder / "1.xml"
    (tmp_path / "NLMCXR_png").mkdir()
    (tmp_path / "NLMCXR_png" / "CXR1_1_IM-0001-3001.png").write_bytes(b"")
    dataset = read_dataset(source if form in ("archive", "xml") else tmp_path)
    assert dataset.name == "IU X-ray" and not dataset.published_split and not dataset.synthetic
    first, last = dataset.studies
    assert (first.id, first.report, first.patient) == ("CXR1_1_IM-0001", "Clear lungs.", "CXR1")
    assert first.images == (
        tmp_path / "NLMCXR_png" / "CXR1_1_IM-0001-3001.png",
        tmp_path / "images" / "CXR1_1_IM-0001-4001.png",
    )  # sorted; one is not there
    assert first.views is None and last.id == "CXR10_IM-0002"
    assert [(p.kind, p.item) for p in dataset.left_out] == [
        ("no findings section", "CXR2_IM-0002"),
        ("no image", "CXR3"),
    ]
    assert dataset.caption.endswith("not the published split (R2Gen's 2069/296/590); 2 studies left out")


def test_openi_reports_carry_sections_and_mesh(tmp_path):
    report = openi_reports(pack(tmp_path / "NLMCXR_reports.tgz", REPORTS), [])[0]
    assert report.uid == "CXR1" and report.mesh == ("a/b", "c")
    assert report.sections == {"FINDINGS": "Clear lungs.", "IMPRESSION": "Fine."}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<eCitation><uId", "is not XML"),
        (b"<eCitation/>", "has no uId"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><eCitation/>', "defines entities"),
        (b"<eCitation>" + b" " * 2**20, "too long"),
    ],
)
def test_a_file_that_is_no_report_is_named(tmp_path, content, words):
    (tmp_path / "7.xml").write_bytes(content)
    with pytest.raises(InputError, match=f"7.xml.*{words}"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_a_broken_report_does_not_stop_the_others(tmp_path, packed):
    broken = {"4.xml": b"<eCitation><uId", "5.xml": b"", "6.xml": b'<?xml version="1.0" encoding="no"?><a/>'}
    if packed:
        pack(tmp_path / "NLMCXR_reports.tgz", REPORTS | broken)
    else:
        for name, content in (REPORTS | broken).items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "7.xml").mkdir()
    dataset = read_dataset(tmp_path)
    assert [study.id for study in dataset.studies] == ["CXR1_1_IM-0001", "CXR10_IM-0002"]
    found = {p.item.split("/")[-1]: p.message for p in dataset.left_out if p.kind == "broken report"}
    assert found.keys() == broken.keys() | (set() if packed else {"7.xml"})
    assert all(name in message and "left out" in message for name, message in found.items())


def test_damaged_and_empty_archives(tmp_path):
    path = pack(tmp_path / "NLMCXR_reports.tgz", {"1.txt": b""})
    with pytest.raises(InputError, match="no XML report"):
        read_dataset(path)
    whole = pack(path, REPORTS).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_dataset(path)


def test_an_id_that_stands_twice_is_refused(tmp_path):
    for name in ("1.xml", "2.xml"):
        (tmp_path / name).write_bytes(REPORTS["1.xml"])
    (tmp_path / "10.xml").write_bytes(REPORTS["10.xml"])
    with pytest.raises(InputError, match="'CXR1_1_IM-0001' occurs 2 times"):
        read_dataset(tmp_path)
    problems = []
    assert [s.id for s in read_dataset(tmp_path, problems=problems).studies] == ["CXR10_IM-0002"]
    assert [(p.kind, p.unusable) for p in problems] == [("duplicate id", True)]


# ------------------------------------------------------------------------------------- Kaggle


def kaggle(folder, reports, projections):
    (folder / "indiana_reports.csv").write_text("uid,MeSH,findings,impression\n" + reports)
    (folder / "indiana_projections.csv").write_text("uid,filename,projection\n" + projections)
    return folder


def test_kaggle(tmp_path):
    kaggle(
        tmp_path,
        '1,normal,"Clear, all.",x\n4,normal,,Only an impression.\n9,x,No picture.,x\n',
        "1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "4,4_IM-2050-1001.dcm.png,Frontal\n8,8_IM-1000-1001.dcm.png,Frontal\n",
    )
    (tmp_path / "images_normalized").mkdir()
    (tmp_path / "images_normalized" / "1_IM-0001-4001.dcm.png").write_bytes(b"")
    dataset = read_dataset(tmp_path)
    (study,) = dataset.studies
    assert (study.id, study.report, study.patient) == ("CXR1_1_IM-0001", "Clear, all.", "CXR1")
    assert study.views == ("lateral", "frontal")
    assert study.images == (
        tmp_path / "images" / "1_IM-0001-3001.dcm.png",
        tmp_path / "images_normalized" / "1_IM-0001-4001.dcm.png",
    )
    assert {(p.kind, p.item) for p in dataset.left_out} == {
        ("no findings section", "CXR4_IM-2050"),
        ("no image", "CXR9"),
        ("no report", "CXR8"),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("uid,findings\n1,Café\n".encode("latin-1"), "is not UTF-8"),
        (b"uid,impression\n1,x\n", "no column 'findings'"),
        (b"", "cannot read .* as CSV"),
        (b'uid,findings\n1,"x\n', "cannot read .* as CSV"),
        (b'uid,findings\n1,"a "b" c"\n', "cannot read .* as CSV.*line 2"),
        (
            b"uid,findings\n1,No effusion, no oedema.\n2,x\n3,y,z,\n",
            "2 columns, but line 2 has 3, line 4 has 4",
        ),
        (b"uid,findings\n1,x,\n", "line 2 has 3 cells: put a cell that holds commas into quotes"),
        (b'uid,findings\n1,"x\n\ny"\n\n2\n', "line 6 has 1 cells"),
        (b"uid,findings\r\n1,x\r\n2,y,z\r\n", "line 3 has 3"),
        (b"uid,findings,findings\n1,x,y\n", "two columns named 'findings'"),
        (b"uid,findings,uid \n1,x,1\n", "two columns named 'uid'"),
        (b"uid,findings\n1,x\0y\n", "NUL bytes in line 2|line contains NUL, line 2"),
    ],
)
def test_a_broken_table_is_named(tmp_path, content, words):
    kaggle(tmp_path, "", "1,1_IM-0001-4001.dcm.png,Frontal\n")
    (tmp_path / "indiana_reports.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"indiana_reports.csv.*{words}|{words}.*") as caught:
        read_dataset(tmp_path)
    assert "indiana_reports.csv" in str(caught.value)


@pytest.mark.parametrize("number", ["1.0", " 1", "1.", "1.00 "])
def test_numbers_that_a_spreadsheet_changed_still_match(tmp_path, number):
    name = "1_IM-0001-3001.dcm.png"
    for first, second in ((number, "1"), ("1", number)):
        kaggle(tmp_path, f"{first},x,Clear.,y\n", f"{second},{name},Frontal\n")
        (study,) = read_dataset(tmp_path).studies
        assert (study.id, study.patient) == ("CXR1_1_IM-0001", "CXR1")


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "null", "N/A", "n/a.", "na", " - ", "#N/A", "<NA>"])
def test_a_report_that_says_nothing_is_blank(tmp_path, text):
    reports = f"1,x,{text},y\n2,x,No nan seen.,y\n"
    images = "1,1_IM-0001-3001.dcm.png,Frontal\n2,2_IM-0002-3001.dcm.png,Frontal\n"
    dataset = read_dataset(kaggle(tmp_path, reports, images))
    assert [study.id for study in dataset.studies] == ["CXR2_IM-0002"]
    assert [(p.kind, p.item) for p in dataset.left_out] == [("no findings section", "CXR1_1_IM-0001")]
    assert findings_of(f"FINDINGS: {text}\nIMPRESSION: Fine.") == ""


def test_quotes_newlines_and_blank_lines_of_a_table(tmp_path):
    reports = '1,x,"Clear, ""normal"".\n\nNo, none.",y\r\n\n,,,\n'
    (study,) = read_dataset(kaggle(tmp_path, reports, "1,images\\1_IM-0001-3001.dcm.png, frontal\n")).studies
    assert study.report == 'Clear, "normal". No, none.' and study.views == ("frontal",)
    assert study.images == (tmp_path / "images" / "1_IM-0001-3001.dcm.png",)


def test_an_unknown_view_and_a_file_as_two_views_are_named(tmp_path):
    images = "1,1_IM-1-1.dcm.png,Oblique\n1,1_IM-1-2.dcm.png,Frontal\n1,1_IM-1-2.dcm.png,Lateral\n"
    dataset = read_dataset(kaggle(tmp_path, "1,x,Clear.,y\n", images), problems=(problems := []))
    assert {(p.kind, p.item, p.unusable) for p in problems} == {
        ("unknown view", "CXR1_1_IM-1", False),
        ("image listed twice", "CXR1_1_IM-1", False),
    }
    assert any("'Oblique'" in p.message for p in problems) and any("1_IM-1-2" in p.message for p in problems)
    assert dataset.left_out == () and "left out" not in dataset.caption


def test_openi_and_kaggle_names_of_one_image_meet():
    for name in (
        "CXR1_1_IM-0001-3001",
        "CXR1_1_IM-0001-3001.png",
        "1_IM-0001-3001.dcm.png",
        "x/1_IM-0001-3001.jpg",
    ):
        assert picture_key(name) == "1_IM-0001-3001"
    assert picture_key("CXR11_IM-0067-1001") == picture_key("11_IM-0067-1001.dcm.png") == "11_IM-0067-1001"


# ------------------------------------------------------------------------------------ MIMIC-CXR


TEXT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // pneumonia?

 FINDINGS:

 The heart is normal.  LUNGS:  clear.
 PLEURA: no effusion.

 IMPRESSION:

 No acute process.
 RECOMMENDATION(S):  None.
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TEXT, "The heart is normal. LUNGS: clear. PLEURA: no effusion."),
        ("FINDINGS AND IMPRESSION:\n Clear.\n", "Clear."),
        ("IMPRESSION/FINDINGS: Clear.", "Clear."),
        ("FINDINGS/IMPRESSION: Clear.\nNOTIFICATION: by phone.", "Clear."),
        ("Findings:\n Clear.\nImpression: None.", "Clear."),
        ("findings: clear.\nimpression: none.", "clear."),
        ("COMPARISON: None. FINDINGS: Clear. IMPRESSION: Fine.", "Clear."),
        (" FINDINGS\n\n Clear.\n\n IMPRESSION\n Fine.", "Clear."),
        ("FINDINGS: First.\nIMPRESSION: x\nADDENDUM: y\nFINDINGS: Second.", "Second."),
        ("FINDINGS: First.\nFINDINGS:\n\nIMPRESSION: x", "First."),
        ("The findings: are in the text.\nIMPRESSION: Fine.", ""),
        ("FINDINGS (PA AND LATERAL):\n Clear.\nIMPRESSION: Fine.", "Clear."),
        ("Findings [two views]: Clear.\nImpression (brief): Fine.", "Clear."),
        ("FINDINGS - Clear.\nIMPRESSION - Fine.", "Clear."),
        ("FINDINGS- Clear.\nIMPRESSION – Fine.", "Clear."),
        ("Findings -Clear.\nImpression -Fine.", "Clear."),
        ("FINDINGS (PORTABLE) -- Clear.\nCOMPARISON - None.", "Clear."),
        ("COMPARISON: None. FINDINGS - Clear. IMPRESSION (FINAL): Fine.", "Clear."),
        ("FINDINGS (AP)\n Clear - no change.\nIMPRESSION\nFine.", "Clear - no change."),
        (
            "FINDINGS: Fever, a\n history - as above - of a\n study-related finding.",
            "Fever, a history - as above - of a study-related finding.",
        ),
        ("IMPRESSION: Only this.", ""),
        ("Chest, PA: the lungs are clear.", ""),
        ("", ""),
    ],
)
def test_the_findings_of_free_text(text, found):
    assert findings_of(text) == found


def test_all_sections_in_order():
    names = [name for name, _ in report_sections(TEXT)]
    assert names == ["EXAMINATION", "INDICATION", "FINDINGS", "IMPRESSION", "RECOMMENDATION(S)"]
    assert dict(report_sections(TEXT))["IMPRESSION"] == "No acute process."


def mimic(folder, studies, split=True, compress=False, reports="files"):
    """studies: [(subject, study, [(dicom, view)], split, report text or None)]."""
    metadata = ["dicom_id,subject_id,study_id,ViewPosition,Rows"]
    splits = ["dicom_id,study_id,subject_id,split"]
    for subject, number, images, part, text in studies:
        metadata += [f"{dicom},{subject},{number},{view},10" for dicom, view in images]
        splits += [f"{dicom},{number},{subject},{part}" for dicom, _ in images]
        path = folder / reports / f"p{subject[:2]}" / f"p{subject}" / f"s{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)
    for name, lines in {"metadata": metadata, **({"split": splits} if split else {})}.items():
        content = "\n".join(lines).encode()
        path = folder / f"mimic-cxr-2.0.0-{name}.csv{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)
    return folder


STUDIES = [
    ("10000032", "50414267", [("aa-1", "LATERAL"), ("aa-0", "PA")], "train", TEXT),
    ("10000032", "53189527", [("bb-0", "AP"), ("bb-1", "LL"), ("bb-2", ""), ("bb-3", "LPO")], "train", TEXT),
    ("11000011", "50000001", [("cc-0", "PA")], "validate", TEXT),
    ("12000012", "50000002", [("dd-0", "PA")], "test", TEXT),
    ("12000012", "50000003", [("ee-0", "PA")], "test", "IMPRESSION: Fine."),
    ("12000012", "50000004", [("ff-0", "PA")], "test", None),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("reports", ["files", "mimic-cxr-reports/files", "reports"])
def test_mimic_with_its_official_split(tmp_path, compress, reports):
    dataset = read_dataset(mimic(tmp_path, STUDIES, compress=compress, reports=reports))
    assert dataset.caption == (
        "MIMIC-CXR, the official split 2/1/1: not the published split (R2Gen's "
        "270790/2130/3858); 2 studies left out"
    )
    first, second = dataset.split("train")
    assert first.id == "s50414267" and first.patient == "10000032" and first.views == ("frontal", "lateral")
    assert first.images[0] == tmp_path / "files" / "p10" / "p10000032" / "s50414267" / "aa-0.jpg"
    assert first.report == findings_of(TEXT)
    assert second.views == ("frontal", "lateral", "other", "other")
    assert [s.id for s in dataset.split("val")] == ["s50000001"]
    assert [(p.item, p.kind) for p in dataset.left_out] == [
        ("s50000003", "no findings section"),
        ("s50000004", "no report"),
    ]


def test_mimic_without_the_official_split(tmp_path):
    dataset = read_dataset(mimic(tmp_path, STUDIES, split=False), seed=3)
    assert "seeded 7:1:2 split by patient (seed 3)" in dataset.caption and not dataset.published_split
    assert len({study.split for study in dataset.studies if study.patient == "10000032"}) == 1


def test_mimic_numbers_that_a_spreadsheet_changed(tmp_path):
    mimic(tmp_path, STUDIES)
    for name in ("metadata", "split"):
        path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv"
        path.write_text(path.read_text().replace("50414267", "50414267.0").replace("10000032", "10000032.0"))
    assert [study.id for study in read_dataset(tmp_path).split("train")] == ["s50414267", "s53189527"]


def test_a_mimic_path_that_leaves_the_folder(tmp_path):
    mimic(tmp_path, [("10000032", "../50414267", [("aa", "PA")], "train", None)])
    with pytest.raises(InputError, match=r"line 2: '../50414267' is not a study_id"):
        read_dataset(tmp_path)


# -------------------------------------------------------------------------------- CheXpert Plus


ROWS = [
    ("train/patient00001/study1/view1_frontal.jpg", "Frontal", "patient00001", "Clear."),
    ("train/patient00001/study1/view2_lateral.jpg", "Lateral", "patient00001", "Clear."),
    ("train/patient00001/study2/view1_frontal.jpg", "Frontal", "patient00001", ""),
    ("valid/patient64541/study1/view1_frontal.jpg", "Frontal", "patient64541", "An effusion."),
]


def chexpert(folder, rows):
    table = "path_to_image,frontal_lateral,ap_pa,deid_patient_id,section_findings,section_impression\n"
    table += "".join(f"{path},{view},AP,{patient},{text},Fine.\n" for path, view, patient, text in rows)
    (folder / "df_chexpert_plus_240401.csv").write_text(table)
    return folder


@pytest.mark.parametrize(("place", "suffix"), [("PNG", ".png"), ("PNG/PNG", ".png"), (".", ".jpg")])
def test_chexpert_plus(tmp_path, place, suffix):
    first = (tmp_path / place / ROWS[0][0]).with_suffix(suffix)
    first.parent.mkdir(parents=True)
    first.write_bytes(b"")
    dataset = read_dataset(chexpert(tmp_path, ROWS))
    study, other = dataset.studies
    assert (study.id, study.patient, study.report) == ("patient00001/study1", "patient00001", "Clear.")
    assert study.images == (first, first.with_name(f"view2_lateral{suffix}"))
    assert study.views == ("frontal", "lateral") and other.patient == "patient64541"
    assert [p.item for p in dataset.left_out] == ["patient00001/study2"]
    assert dataset.name == "CheXpert Plus" and "40463/5780/11562" in dataset.caption


def test_chexpert_paths_written_on_windows_and_blank_findings(tmp_path):
    rows = [(path.replace("/", "\\"), view, *rest) for path, view, *rest in ROWS[:2]]
    rows.append(("train\\patient2\\study1\\view1_frontal.jpg", "Frontal", "patient2", "NaN"))
    dataset = read_dataset(chexpert(tmp_path, rows))
    (study,) = dataset.studies
    assert study.id == "patient00001/study1" and study.images[0].name == "view1_frontal.png"
    assert [p.item for p in dataset.left_out] == ["patient2/study1"]


def test_a_chexpert_path_that_leaves_the_folder(tmp_path):
    chexpert(tmp_path, [("../../patient1/study1/x.jpg", "Frontal", "p", "Clear.")])
    with pytest.raises(InputError, match="leaves the data folder"):
        read_dataset(tmp_path)


# ---------------------------------------------------------------------------- splits, captions


def annotation(folder, counts, path="CXR{0}_IM-0001/0.png"):
    number, splits = 0, {}
    for name, count in zip(("train", "val", "test"), counts, strict=True):
        splits[name] = []
        for _ in range(count):
            image = path.format(number)
            splits[name].append({"id": f"id{number}", "report": "Clear.", "image_path": [image]})
            number += 1
    folder.mkdir(exist_ok=True)
    (folder / "annotation.json").write_text(json.dumps(splits))
    return folder


def test_the_published_counts_name_the_split(tmp_path):
    dataset = read_dataset(annotation(tmp_path / "a", (2069, 296, 590)))
    assert dataset.caption == "IU X-ray, R2Gen split 2069/296/590" and dataset.published_split
    dataset = read_dataset(annotation(tmp_path / "b", (2068, 296, 590)))
    assert not dataset.published_split and dataset.caption == (
        "IU X-ray, the annotation's split 2068/296/590: not the published split (R2Gen's 2069/296/590)"
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("p10/p10000032/s5041426{0}/a.jpg", "MIMIC-CXR"),
        ("train/patient0000{0}/study1/view1.png", "CheXpert Plus"),
        ("{0}.png", "mine"),
    ],
)
def test_the_data_set_is_known_by_its_paths(tmp_path, path, name):
    dataset = read_dataset(annotation(tmp_path / "mine", (2, 1, 1), path) / "annotation.json")
    assert dataset.name == name and dataset.caption.startswith(f"{name}, the annotation's split 2/1/1")


def test_synthetic_folders_say_so(tmp_path, phantom_dir):
    phantom = read_dataset(phantom_dir)
    assert phantom.synthetic and phantom.name == "PhantomCXR"
    assert phantom.caption == "SYNTHETIC images: PhantomCXR, the annotation's split 8/2/2"
    folder = annotation(tmp_path / "rehearsal", (2069, 296, 590))
    (folder / "synthetic.json").write_text("{}")
    dataset = read_dataset(folder)
    assert dataset.synthetic and dataset.caption == "SYNTHETIC images: IU X-ray, R2Gen split 2069/296/590"


def test_the_users_annotation_wins(tmp_path):
    mimic(annotation(tmp_path, (1, 1, 1), "p10/p10000032/s5041426{0}/a.jpg"), STUDIES)
    assert read_dataset(tmp_path).studies[0].id == "id0"
    (tmp_path / "annotation.json").rename(tmp_path / "mimic_annotation_all.json")
    assert read_dataset(tmp_path).studies[0].id == "id0"
    (tmp_path / "my_annotation.json").write_text("{}")
    with pytest.raises(InputError, match="2 annotations: name the one"):
        read_dataset(tmp_path)


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no study in split 'val', only in test, train"):
        read_dataset(annotation(tmp_path, (2, 0, 1))).split("val")


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.txt"])
def test_what_is_no_data_set(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("dear")
    with pytest.raises(InputError, match="no data at|in no layout"):
        read_dataset(tmp_path / name)


def test_no_patient_is_in_two_splits_and_shares_are_seven_one_two():
    studies = [Study(f"s{i}", (), "x", "", patient=f"p{i // 3}") for i in range(3000)]
    split = split_by_patient(studies, 0)
    parts = {}
    for study in split:
        parts.setdefault(study.patient, set()).add(study.split)
    assert all(len(part) == 1 for part in parts.values())
    assert Counter(s.split for s in split) == {"train": 2100, "val": 300, "test": 600}
    assert [s.id for s in split] == [s.id for s in studies]
    same = {s.id: s.split for s in split_by_patient(studies[::-1], 0)}
    assert all(same[s.id] == s.split for s in split)
    assert any(s.split != same[s.id] for s in split_by_patient(studies, 1))


# ------------------------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def sources():
    """The real reports by each of the three readers."""
    return [
        read_dataset(IU / name) for name in ("annotation.json", "NLMCXR_reports.tgz", "indiana_reports.csv")
    ]


@real
def test_the_three_readers_agree_on_the_real_reports(sources):
    r2gen, openi, kaggle = sources
    assert r2gen.caption == "IU X-ray, R2Gen split 2069/296/590"
    assert len(openi.studies) == len(kaggle.studies) == 3337
    assert Counter(p.kind for p in openi.left_out) == {"no findings section": 530, "no image": 88}
    assert Counter(p.kind for p in kaggle.left_out) == {"no findings section": 514}
    ours, theirs = by_id(openi), by_id(kaggle)
    assert ours.keys() == theirs.keys()
    for name, study in ours.items():
        other = theirs[name]
        assert (study.report, study.patient, study.split) == (other.report, other.patient, other.split)
    for study in r2gen.studies:
        assert " ".join(study.report.split()) == ours[study.id].report
    assert {study.id for study in openi.studies if len(study.images) >= 2} == by_id(r2gen).keys()


@real
def test_every_image_that_is_here_is_found(sources):
    for dataset in sources[1:]:
        found = {i.name for s in dataset.studies for i in s.images if i.is_file()}
        assert found == images_with_findings() and len(found) < len(images_here())
    views = Counter(view for study in sources[2].studies for view in study.views)
    assert views == {"frontal": 3307, "lateral": 3162}
