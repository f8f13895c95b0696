"""Own data as one plain CSV: its columns, its studies, and one sentence for what does not belong."""

import numpy as np
import pytest
from PIL import Image

from emrrg_lib import cli
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import InputError


def write(folder, text, name="studies.csv", encoding="utf-8"):
    for number in range(6):
        picture = np.full((20, 20), 40 * number, dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


FULL = """image,report,split,id,patient,view
0.png,"The heart is large, the lungs are clear.",train,a,p1,PA
1.png,"The heart is large, the lungs are clear.",train,a,p1,LATERAL
2.png,No effusion.,val,b,p2,frontal
3.png,Small effusion.,test,c,p3,AP
"""


def test_rows_of_an_id_are_the_views_of_a_study(tmp_path):
    write(tmp_path, FULL)
    data = read_dataset(tmp_path)
    assert [(s.id, s.split, s.patient, len(s.images), s.views) for s in data.studies] == [
        ("a", "train", "p1", 2, ("frontal", "lateral")),
        ("b", "val", "p2", 1, ("frontal",)),
        ("c", "test", "p3", 1, ("frontal",)),
    ]
    assert data.studies[0].report == "The heart is large, the lungs are clear."
    data.require_images("train", "val", "test")
    assert data.caption == f"{tmp_path.name}, the table's own split 1/1/1" and not data.published_split


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_two_columns_are_enough_and_the_patients_are_split(tmp_path, encoding, newline):
    lines = ["image,report", *(f"{n % 6}.png,Report {n}." for n in range(6))]
    path = write(tmp_path, newline.join(lines) + newline, "mine.csv", encoding)
    data = read_dataset(path, seed=3)
    assert [study.id for study in data.studies] == [f"{n}.png" for n in range(6)]
    assert "seeded 7:1:2 split by patient (seed 3)" in data.caption
    assert {study.views for study in data.studies} == {None}


def test_columns_come_in_any_order_and_others_are_ignored(tmp_path):
    write(tmp_path, 'age,report,image,split\n61,"No, effusion.",0.png,train\n7,Clear.,1.png,validation\n')
    assert [(s.report, s.split) for s in read_dataset(tmp_path).studies] == [
        ("No, effusion.", "train"),
        ("Clear.", "val"),
    ]


def test_columns_may_have_capitals_and_common_names(tmp_path):
    """A column that is not read is no small thing: without Split or Patient ID, the test studies train."""
    names = FULL.partition("\n")[0]
    expected = read_dataset(write(tmp_path, FULL)).studies
    for header in (
        names.upper(),
        "Image,Report,Split,Study ID,Patient_ID,View",
        names.replace("patient", "subject_id"),
    ):
        assert read_dataset(write(tmp_path, FULL.replace(names, header))).studies == expected


def test_ids_that_a_spreadsheet_made_numbers(tmp_path):
    write(tmp_path, "image,report,id\n0.png,Clear.,12.0\n1.png,Clear.,12\n2.png,Clear.,13\n")
    assert [(s.id, len(s.images)) for s in read_dataset(tmp_path).studies] == [("12", 2), ("13", 1)]


def test_a_study_without_a_report_is_left_out_and_named(tmp_path):
    write(tmp_path, FULL + "4.png,n/a,test,d,p4,PA\n")
    data = read_dataset(tmp_path)
    assert [problem.message for problem in data.left_out] == ["study d is left out: no report (line 6)"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("picture,report\n0.png,Clear.\n", "has no column 'image'"),
        ("image,report\n0.png,Clear, lungs.\n", "line 2 has 3"),
        ("image,report,Report\n0.png,Clear.,x\n", "two columns for 'report', 'report' and 'Report'"),
        ("image,report,id,study_id\n0.png,Clear.,x,y\n", "two columns for 'id', 'id' and 'study_id'"),
        ("image,report\n../0.png,Clear.\n", "line 2: the path '../0.png' leaves the data folder"),
        ("image,report\n/etc/0.png,Clear.\n", "leaves the data folder; make it relative"),
        ("image,report\n,Clear.\n", "an image path must be a text"),
        ("image,report,split\n0.png,Clear.,trian\n", "line 2 ('trian'): a split is train, val, test"),
        (
            "image,report,split\n0.png,Clear.,train\n1.png,Clear.,\n",
            "line 3: no split; give each row one, or",
        ),
        ("image,report,id\n0.png,Clear.,a\n1.png,Edema.,a\n", "study a has 2 values of 'report' (line 2, 3)"),
        (
            "image,report,id,patient\n0.png,Clear.,a,p\n1.png,Clear.,a,q\n",
            "study a has 2 values of 'patient' (line 2, 3)",
        ),
        ("image,report\n0.png,\n", "holds no study that can be used: study 0.png is left out: no report"),
        ("image,report\n", "holds no study that can be used: it lists none"),
        ("image,image,report\n0.png,0.png,Clear.\n", "two columns named 'image'"),
        ("", "it is empty"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, text, said):
    write(tmp_path, text)
    with pytest.raises(InputError) as refusal:
        read_dataset(tmp_path)
    assert said in str(refusal.value)


def test_an_unknown_view_counts_as_other_and_is_noted(tmp_path, capsys):
    write(tmp_path, FULL.replace(",AP", ",oblique"))
    problems = []
    assert read_dataset(tmp_path, problems=problems).studies[2].views == ("other",)
    assert [problem.kind for problem in problems] == ["unknown view"]


def test_the_commands_take_it(tmp_path, capsys):
    write(tmp_path, FULL)
    assert cli.main(["data", "check", str(tmp_path), "--list", str(tmp_path / "list.csv")]) == 0
    assert "1/1/1" in capsys.readouterr().out


def test_studies_csv_wins_over_other_tables_and_an_annotation_over_it(tmp_path):
    write(tmp_path, FULL)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert len(read_dataset(tmp_path).studies) == 3
    (tmp_path / "annotation.json").write_text(
        '{"train": [{"id": "x", "report": "Clear.", "image_path": ["0.png"]}], "val": [], "test": []}'
    )
    assert [study.id for study in read_dataset(tmp_path).studies] == ["x"]
