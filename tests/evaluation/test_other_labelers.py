"""Labelers beside the rules: CheXbert's format with a tiny random BERT, and CSV files made elsewhere."""

import csv

import pytest
import torch

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.other_labelers import CHEXBERT_ORDER, MODEL, REFERENCES, RULES, chexbert, from_csv
from emrrg_lib.files import InputError

IDS = ("s1", "s2", "s3")


def test_chexbert_reads_classes_and_the_order_of_its_heads(bert, checkpoint):
    path, _ = checkpoint
    texts = ["The heart is enlarged.", "no effusion", "", "lungs " * 700, "No\n effusion"]
    labels = chexbert(path, bert, batch=2).label(texts, REFERENCES)
    assert [list(row) for row in labels] == [list(OBSERVATIONS)] * 5
    # biases decide here: head n says class (3 + n) mod 4, No Finding class 1 - 13 % 2
    values = (None, 1, 0, -1)
    for number, name in enumerate(CHEXBERT_ORDER[:13]):
        assert labels[0][name] == values[(3 + number) % 4], name
    assert labels[0]["No Finding"] is None
    assert CHEXBERT_ORDER[2:4] == ("Lung Opacity", "Lung Lesion")  # not the order of OBSERVATIONS


def test_chexbert_equals_its_parts_done_by_hand(bert, checkpoint):
    from transformers import AutoConfig, BertModel

    path, state = checkpoint
    torch.manual_seed(2)
    for number in range(14):
        weight = state[f"module.linear_heads.{number}.weight"]
        weight.copy_(torch.randn(weight.shape))
    torch.save({"model_state_dict": state}, path)
    model = BertModel(AutoConfig.from_pretrained(bert)).eval()
    model.load_state_dict(
        {
            name.removeprefix("module.bert."): tensor
            for name, tensor in state.items()
            if "heads" not in name and "ids" not in name
        }
    )
    words = (bert / "vocab.txt").read_text().split()
    ids = torch.tensor([[words.index(w) for w in "[CLS] no effusion . [SEP]".split()]])
    with torch.no_grad():
        hidden = model(ids).last_hidden_state[0, 0]
    labels, _ = chexbert(path, bert).label(["No effusion.", "the heart " * 9], MODEL)
    values = (None, 1, 0, -1)
    for number, name in enumerate(CHEXBERT_ORDER):
        head = [state[f"module.linear_heads.{number}.{part}"] for part in ("weight", "bias")]
        assert labels[name] == values[int((head[0] @ hidden + head[1]).argmax())], name


def test_a_wrong_checkpoint_or_folder_is_one_sentence(bert, checkpoint, tmp_path):
    path, state = checkpoint
    with pytest.raises(InputError, match="bert-base-uncased"):
        chexbert(path, tmp_path / "nowhere")
    del state["module.linear_heads.13.bias"]
    torch.save({"model_state_dict": state}, path)
    with pytest.raises(InputError, match="not a CheXbert checkpoint"):
        chexbert(path, bert)
    path.write_bytes(b"not a pickle")
    with pytest.raises(InputError, match="not a PyTorch checkpoint"):
        chexbert(path, bert)


def write(path, first, rows, header=OBSERVATIONS):
    """A CSV with one leading column (None: without); every row is (its value, {observation: value})."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([first, *header] if first else header)
        for key, marks in rows:
            cells = [marks.get(name, "") for name in header]
            writer.writerow([key, *cells] if first else cells)
    return path


def test_csv_by_text_labels_every_system(tmp_path):
    rows = [
        ("The heart is  enlarged.", {"Cardiomegaly": "1.0"}),
        ("clear", {"Edema": "0", "Fracture": "-1.0"}),
    ]
    labeler = from_csv([write(tmp_path / "a.csv", "Report Impression", rows)], IDS)
    assert labeler.name == "CSV: a.csv"
    heart, clear, unknown = labeler.label(["The heart is enlarged.", "clear", "else"], "constant report")
    assert heart["Cardiomegaly"] == 1 and heart["Edema"] is None
    assert (clear["Edema"], clear["Fracture"]) == (0, -1) and unknown is None


@pytest.mark.parametrize("column", ["id", "study_id", None])
def test_csv_by_id_or_order_labels_references_and_reports(tmp_path, column):
    rows = [(i, {"Airspace Opacity": str(n % 2)}) for n, i in enumerate(IDS)]
    header = [name.replace("Lung Opacity", "Airspace Opacity") for name in OBSERVATIONS]
    first = write(tmp_path / "r.csv", column, rows[::-1] if column else rows, header)
    second = write(tmp_path / "m.csv", column, rows, header)
    labeler = from_csv([first, second], IDS)
    for which in (REFERENCES, MODEL):
        assert [row["Lung Opacity"] for row in labeler.label(["x"] * 3, which)] == [0, 1, 0]
    assert labeler.label(["x"], "greedy") == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no CSV file"),
        (b"\xff\xfe\x00broken", "is not UTF-8"),
        (b"", "it is empty"),
        (b"id,Edema,Fracture\n", "no column 'No Finding', 'Enlarged .*'Support Devices': all 14"),
        (("id,id," + ",".join(OBSERVATIONS) + "\n").encode(), "two columns named 'id'"),
        (
            ("id," + ",".join(OBSERVATIONS) + "\na" + ",1" * 15 + "\nb" + ",0" * 13).encode(),
            "line 2 .*line 3 has 14",
        ),
        (
            (
                "text," + ",".join(OBSERVATIONS) + "\na,2" + ",1" * 13 + "\n\nb" + ",0" * 13 + ",maybe\n"
            ).encode(),
            "line 2: No Finding is '2', line 4: Support Devices is 'maybe'; labels are",
        ),
        (("id,edema," + ",".join(OBSERVATIONS) + "\n").encode(), "two columns for 'Edema'"),
        (("id,airspace opacity," + ",".join(OBSERVATIONS) + "\n").encode(), "two columns for 'Lung Opacity'"),
        (("text," + ",".join(OBSERVATIONS) + "\na,-" + ",1" * 13 + "\n").encode(), "No Finding is '-'"),
        (("text," + ",".join(OBSERVATIONS) + "\na,inf" + ",1" * 13 + "\n").encode(), "No Finding is 'inf'"),
        (b"id,Edema\n", "no column"),
        (("id," + ",".join(OBSERVATIONS) + "\ns1,1\n").encode(), "line 2"),
        (("id," + ",".join(OBSERVATIONS) + "\ns1" + ",1" * 14 + "\n").encode(), "lacks 2 of 3"),
        (("id," + ",".join(OBSERVATIONS) + ("\ns1" + "," * 14) * 2 + "\n").encode(), "twice"),
        ((",".join(OBSERVATIONS) + "\n" + "," * 13 + "\n").encode(), "1 rows for 3 studies"),
        (("text," + ",".join(OBSERVATIONS) + "\na" + ",yes" * 14 + "\n").encode(), "'yes'"),
    ],
)
def test_bad_csv_is_refused(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        from_csv([path], IDS)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e0", 1), ("-1.00", -1), ("+1", 1), ("0.", 0), ("-0.0", 0), (" 1 ", 1), ("1E+00", 1)]
    + [(text, None) for text in ("", " ", "NaN", "n/a", "None", "null")],
)
def test_numbers_and_blanks_however_they_are_written(tmp_path, text, value):
    file = write(tmp_path / "a.csv", "report", [("clear", dict.fromkeys(OBSERVATIONS, text))])
    (labels,) = from_csv([file], IDS).label(["clear"], "any")
    assert labels == dict.fromkeys(OBSERVATIONS, value)


@pytest.mark.parametrize("spelling", ["{}", "{}.0", "s{}", " {}"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n" + "," * 14 + "\r\n"])
def test_mimic_numbers_of_studies_and_blank_last_lines(tmp_path, spelling, end):
    numbers = [50414267, 53189527, 56699142]
    rows = [(spelling.format(number), {"Edema": str(k % 2)}) for k, number in enumerate(numbers)]
    file = write(tmp_path / "a.csv", "study_id", rows[::-1])
    file.write_bytes(file.read_bytes() + end.encode())
    labels = from_csv([file], [f"s{number}" for number in numbers]).label(["x"] * 3, REFERENCES)
    assert [row["Edema"] for row in labels] == [0, 1, 0]


def test_a_third_file_needs_texts(tmp_path):
    file = write(tmp_path / "r.csv", None, [("", {})] * 3)
    with pytest.raises(InputError, match="third file"):
        from_csv([file] * 3, IDS)


def test_the_rules_are_named_with_their_version():
    assert RULES.name.startswith("emrrg-rules-")
    assert RULES.label(["Cardiomegaly."], REFERENCES)[0]["Cardiomegaly"] == 1


def labelled(file, *rows):
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("report", *OBSERVATIONS), *((text, *values) for text, values in rows)])
    return file


ONE, NONE = ["1"] + [""] * 13, [""] * 14


@pytest.mark.parametrize("second", ["no effusion .", "no  effusion .", " no effusion .\n"])
def test_one_text_with_two_labels_is_refused(tmp_path, second):
    same = labelled(tmp_path / "same.csv", ("no effusion .", ONE), (second, ["1.0"] + [""] * 13))
    assert from_csv([same], IDS).label(["no effusion ."], REFERENCES)[0]["No Finding"] == 1
    file = labelled(tmp_path / "two.csv", ("no effusion .", ONE), ("clear", ONE), (second, NONE))
    with pytest.raises(InputError, match=r"two.csv, row 3: the text 'no effusion .*No Finding: 1, then None"):
        from_csv([file], IDS)
    with pytest.raises(InputError, match="more.csv, row 1: the text"):
        from_csv([same, labelled(tmp_path / "more.csv", (second, NONE))], IDS)
