"""Reports of any system: every form of file, and one sentence for each that cannot be read or joined."""

import gzip
import json
from pathlib import Path

import pytest

from emrrg_lib.data.report_files import FORMATS, join, read_reports
from emrrg_lib.data.study import Study
from emrrg_lib.files import InputError

A, B = "The heart is enlarged.", "The lungs are clear."
STUDIES = [
    Study(name, (), "a reference", split) for name, split in (("s1", "test"), ("s2", "test"), ("s3", "val"))
]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(folder, name, content, split="test"):
    path = write(folder, name, content)
    entries = read_reports(path, [study.id for study in STUDIES])
    return [entry.report for entry in join(entries, STUDIES, split, path)]


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


TWO = {"s1": A, "s2": B}
GOOD = {
    "csv": ("a.csv", f"id,report\ns1,{A}\ns2,{B}\n"),
    "csv in another order": ("a.csv", f"id,report\ns2,{B}\ns1,{A}\n"),
    "csv, capitals and blanks in the header": ("a.csv", f" Study_ID , Report\ns1,{A}\ns2,{B}\n"),
    "csv with BOM and CRLF": ("a.csv", f"\ufeffid,report\r\ns1,{A}\r\ns2,{B}\r\n"),
    "csv, ids as numbers": ("a.csv", f"id,report\n1,{A}\n2,{B}\n"),
    "csv, ids as pandas' floats": ("a.csv", f"id,report\n1.0,{A}\n2.0,{B}\n"),
    "csv with an index and more columns": (
        "a.csv",
        f",split,id,hypothesis,bleu\n0,test,s1,{A},0.1\n1,test,s2,{B},\n",
    ),
    "csv with quoted newlines": ("a.csv", f'id,report\ns1,"{A}"\ns2,"The lungs\nare clear."\n'),
    "csv, blank lines at the end": ("a.csv", f"id,report\ns1,{A}\ns2,{B}\n\n\n"),
    "csv without ids": ("a.csv", f"prediction\n{A}\n{B}\n"),
    "csv of another split too": ("a.csv", f"id,report\ns1,{A}\ns2,{B}\ns3,x y\n"),
    "csv with reference and report": ("a.csv", f"id,reference,report\ns1,x,{A}\ns2,y,{B}\n"),
    "csv with semicolons": ("a.csv", f'id;report\ns1;{A}\ns2;"{B}"\n'),
    "tsv": ("a.tsv", f"id\treport\ns1\t{A}\ns2\t{B}\n"),
    "json object with a list of objects beside facts": (
        "a.json",
        json.dumps({"model": "x", "seed": 1, "reports": [{"id": k, "text": v} for k, v in TWO.items()]}),
    ),
    "json.gz": ("a.json.gz", gzip.compress(json.dumps(TWO).encode())),
    "csv.gz": ("a.csv.gz", gzip.compress(f"id,report\ns1,{A}\ns2,{B}\n".encode())),
    "jsonl of this kit": (
        "a.jsonl",
        lines(*({"id": k, "reference": "r", "hypothesis": v} for k, v in TWO.items())),
    ),
    "jsonl, blank lines, CRLF, BOM": (
        "a.jsonl",
        "\ufeff" + lines({"id": "s1", "text": A}, {"id": "s2", "text": B}).replace("\n", "\r\n\r\n"),
    ),
    "jsonl named .json": ("a.json", lines({"id": "s1", "text": A}, {"id": "s2", "text": B})),
    "ndjson": ("a.ndjson", lines({"id": "s1", "text": A}, {"id": "s2", "text": B})),
    "jsonl of texts": ("a.jsonl", lines(A, B)),
    "list of objects": (
        "a.json",
        json.dumps([{"study_id": 1, "generated": A}, {"study_id": 2.0, "generated": B}]),
    ),
    "captions of COCO": (
        "a.json",
        json.dumps([{"image_id": "s1", "caption": A}, {"image_id": "s2", "caption": B}]),
    ),
    "list in an object": (
        "a.json",
        json.dumps({"predictions": [{"id": "s1", "pred": A}, {"id": "s2", "pred": B}]}),
    ),
    "list of pairs": ("a.json", json.dumps([["s1", A], ["s2", B]])),
    "list of texts": ("a.json", json.dumps([A, B])),
    "list of lists of one text": ("a.json", json.dumps([[A], [B]])),
    "texts in an object": ("a.json", json.dumps({"test": [A, B]})),
    "mapping": ("a.json", json.dumps(TWO)),
    "mapping in UTF-8 with BOM": ("a.json", b"\xef\xbb\xbf" + json.dumps(TWO).encode()),
    "R2GenGPT": ("test_result.json", json.dumps({key: [value] for key, value in TWO.items()})),
    "ReXrank": (
        "p.json",
        json.dumps({k: {"model_prediction": v, "report": "r", "split": "test"} for k, v in TWO.items()}),
    ),
    "ids with blanks": ("a.json", json.dumps({" s1": A, "s2 ": B})),
    "csv, an unknown column of ids in another order": ("a.csv", f"case,report\ns2,{B}\ns1,{A}\n"),
    "csv, pandas' index of ids": ("a.csv", f",report\ns2,{B}\ns1,{A}\n"),
    "csv, an index and an unknown column": ("a.csv", f",case,report\n0,s2,{B}\n1,s1,{A}\n"),
    "csv, an index and no ids": ("a.csv", f",report\n0,{A}\n1,{B}\n"),
    "csv, fractions and no ids": ("a.csv", f"bleu,report\n0.25,{A}\n0.5,{B}\n"),
    "csv, paths of images": ("a.csv", f"file,report\nimages/s2/0.png,{B}\nimages\\s1\\0.png,{A}\n"),
    "csv, ids with a suffix": ("a.csv", f"id,report\ns2.JPG,{B}\ns1.png,{A}\n"),
    "csv, a number beside the id": ("a.csv", f"id,study_id,report\n7,s2,{B}\n8,s1,{A}\n"),
    "csv, marks in the names": ("a.csv", f"Study ID,Generated-Report,Ground Truth\ns2,{B},x\ns1,{A},y\n"),
    "csv, the report is the reference": ("a.csv", f"id,report,predictions\ns2,x,{B}\ns1,y,{A}\n"),
    "jsonl of a fine-tuning tool": (
        "a.jsonl",
        lines(*({"prompt": "Describe this X-ray please.", "predict": t, "label": "x"} for t in (A, B))),
    ),
    "jsonl of a chat": (
        "a.jsonl",
        lines(*({"id": k, "prompt": "a b c d", "text": v} for k, v in TWO.items())),
    ),
    "mapping in an object": ("a.json", json.dumps({"predictions": TWO})),
    "mapping beside facts": ("a.json", json.dumps({"model": "x", "seed": 1, "reports": TWO})),
    "keys that are files": ("a.json", json.dumps({"s2.png": [B], "s1.png": [A]})),
    "csv.GZ": ("a.CSV.GZ", gzip.compress(f"id,report\ns1,{A}\ns2,{B}\n".encode())),
    "txt": ("a.txt", f"{A}\n{B}\n"),
    "txt without the last newline": ("a.txt", f"{A}\n{B}"),
    "TXT with CRLF": ("a.TXT", f"{A}\r\n{B}\r\n"),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_is_read_and_joined(tmp_path, name):
    assert [" ".join(text.split()) for text in texts(tmp_path, *GOOD[name])] == [A, B]


def test_ids_of_the_data_may_be_files(tmp_path):
    path = write(tmp_path, "a.json", json.dumps({"b": B, "images/a.png": A, "c": "C."}))
    assert [entry.id for entry in read_reports(path, ["a.png", "b.png", "c.png", "c"])] == [
        "b.png",
        "a.png",
        "c",
    ]


EMPTY = {
    "csv cell": ("a.csv", f"id,report\ns1,\ns2,{B}\n"),
    "csv nan": ("a.csv", f"id,report\ns1,nan\ns2,{B}\n"),
    "null": ("a.json", json.dumps({"s1": None, "s2": B})),
    "NaN": ("a.json", '{"s1": NaN, "s2": "The lungs are clear."}'),
    "blanks": ("a.json", json.dumps({"s1": "  \n", "s2": B})),
    "txt line": ("a.txt", f"\n{B}\n"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_report_is_kept_as_an_empty_one(tmp_path, name):
    assert texts(tmp_path, *EMPTY[name]) == ["", B]


BAD = {
    "no such form": ("a.xlsx", "x", "known are CSV"),
    "no suffix": ("reports", "x", "known are CSV"),
    "Latin-1 csv": ("a.csv", "id,report\ns1,cœur élargi\n".encode("cp1252"), "not UTF-8"),
    "Latin-1 json": ("a.json", '{"s1": "é"}'.encode("latin-1"), "not UTF-8"),
    "UTF-16 json": ("a.json", json.dumps(TWO).encode("utf-16"), "not UTF-8"),
    "empty csv": ("a.csv", "", "empty"),
    "csv header alone": ("a.csv", "id,report\n", "holds no report"),
    "empty json": ("a.json", "", "holds no report"),
    "empty list": ("a.json", "[]", "holds no report"),
    "empty object": ("a.json", "{}", "holds no report"),
    "empty txt": ("a.txt", "", "holds no report"),
    "nothing but empty reports": ("a.json", '{"s1": "", "s2": null}', "holds no report"),
    "csv without reports": ("a.csv", "id,score\ns1,1\n", "no report: name it one of hypothesis"),
    "csv with a bare comma": ("a.csv", "id,report\ns1,clear, lungs\n", "3"),
    "csv with two columns of one name": ("a.csv", "id,report,report\ns1,a,b\n", "two columns"),
    "json.gz cut off": ("a.json.gz", gzip.compress(json.dumps(TWO).encode())[:-9], "cannot unpack"),
    "json.gz that is none": ("a.json.gz", json.dumps(TWO), "cannot unpack"),
    "csv with NUL": ("a.csv", "id,report\ns1,a\0b\n", "NUL"),
    "csv without an id": ("a.csv", f"id,report\n,{A}\ns2,{B}\n", "an id is a text or a whole number"),
    "cut json": ("a.json", '{"s1": "The', "neither JSON nor JSON lines"),
    "cut jsonl": ("a.jsonl", lines({"id": "s1", "text": A}) + '{"id": "s2', "line 2"),
    "single quotes": ("a.json", "{'s1': 'a'}", "neither JSON nor JSON lines"),
    "a number": ("a.json", "3", "list or an object"),
    "a text": ("a.json", '"report"', "list or an object"),
    "numbers": ("a.json", "[1, 2]", "must be a text, not int"),
    "number for a report": ("a.json", '{"s1": 3}', "must be a text, not int"),
    "two texts of one id": ("a.json", '{"s1": ["a", "b"], "s2": "c"}', "must be a text, not list"),
    "nested lists": ("a.json", '[[["a"]]]', "must be a text, not list"),
    "nested objects": ("a.json", '{"s1": {"text": {"en": "a"}}}', "must be a text, not dict"),
    "deep nesting": ("a.json", "[" * 100_000, "nested too deeply"),
    "true for an id": ("a.json", '[{"id": true, "text": "a"}]', "an id is a text"),
    "half a number for an id": ("a.json", '[{"id": 1.5, "text": "a"}]', "an id is a text"),
    "null for an id": ("a.json", '[{"id": null, "text": "a"}]', "an id is a text"),
    "some ids missing": ("a.json", '[{"id": "s1", "text": "a"}, {"text": "b"}]', "has no id"),
    "double id in csv": ("a.csv", f"id,report\ns1,{A}\ns1,{B}\n", "'s1' was there before"),
    "double id, once with .0": ("a.csv", f"id,report\n1,{A}\n1.0,{B}\n", "was there before"),
    "double key in json": ("a.json", '{"s1": "a", "s1": "b"}', "'s1' is twice"),
    "an annotation in place of reports": (
        "a.json",
        json.dumps({"train": [{"id": "x", "report": "y"}] * 2, "val": []}),
        "must be a text",
    ),
    "a long number": ("a.json", '[{"id": %s, "text": "a"}]' % ("1" * 5000), "1 ids that no study"),
    "an unknown column of unknown ids": (
        "a.csv",
        f"case,report\nx2,{B}\nx1,{A}\n",
        "ids that cannot be joined, such as 'x2' in 'case'",
    ),
    "ids of which one is unknown": ("a.csv", f"case,report\ns2,{B}\nx1,{A}\n", "'s2' in 'case'"),
    "an index that a sort has mixed": ("a.csv", f",report\n1,{B}\n0,{A}\n", "such as '1' in ''"),
    "txt with ids": ("a.txt", f"s2\t{B}\ns1\t{A}\n", "'s2' in the text itself"),
    "txt with numbers": ("a.txt", f"1. {A}\n2. {B}\n", "'1.' in the text itself"),
    "two texts": (
        "a.csv",
        f"id,report,r2gen\ns1,x,{A}\ns2,y,{B}\n",
        "'report' may not be the system's report",
    ),
    "two names that are alike": ("a.json", '[{"id": "s1", "Report": "a", "report ": "b"}]', "'report' twice"),
    "missing study": (
        "a.json",
        json.dumps({"s1": A}),
        "lacks 1 of the 2 studies of split 'test', such as 's2'",
    ),
    "foreign study": (
        "a.json",
        json.dumps(TWO | {"s9": A}),
        "1 ids that no study of the data has, such as 's9'",
    ),
    "another split": ("a.json", json.dumps({"s3": A}), "it has reports of val: try --split"),
    "too few texts": ("a.json", json.dumps([A]), "1 reports without ids, but split 'test' has 2"),
    "too many texts": ("a.txt", f"{A}\n{B}\n{A}\n", "3 reports without ids"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_or_joined_is_one_sentence(tmp_path, name):
    file, content, sentence = BAD[name]
    with pytest.raises(InputError, match=sentence) as error:
        texts(tmp_path, file, content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no file of reports"):
        read_reports(tmp_path / "none.csv")


def test_references_of_a_file(tmp_path):
    rows = {
        "s1": {"model_prediction": A, "section_findings": "F.", "section_impression": None},
        "s2": {"model_prediction": B, "findings": "F.", "impression": "I."},
        "s3": {"prediction": B, "report": "R.", "findings": "F."},
        "s4": {"hypothesis": B, "reference": "G."},
        "s5": {"report": B},
    }
    entries = read_reports(write(tmp_path, "a.json", json.dumps(rows)))
    expected = ["Findings: F. Impression: None", "Findings: F. Impression: I.", "R.", "G.", None]
    assert [entry.reference for entry in entries] == expected


def test_the_readme_has_the_table_of_forms():
    readme = (Path(__file__).parents[2] / "emrrg_lib" / "README.md").read_text("utf-8")
    for name, example in FORMATS:
        assert f"| {name} | `{example}` |" in readme
