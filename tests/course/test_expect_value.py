"""The comparison that all checks share: one meaning for numbers, arrays, tensors and lists; slips by name."""

import numpy as np
import pytest
import torch

from emrrg_lib.course.checks import Mistake, array, exercise, expect_value, pair, stage, tensor, texts, whole


@pytest.mark.parametrize(
    "yours", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])], ids=str
)
def test_arrays_tensors_and_lists_are_compared_alike(yours):
    expect_value(yours, [1.0, 2.0], "cause")
    with pytest.raises(
        Mistake, match=r"yours \[1, 2\], expected \[1, 3\]; at \[1\] yours 2, expected 3: cause"
    ):
        expect_value(yours, torch.tensor([1.0, 3.0]), "cause")


def test_a_known_slip_is_named_and_the_case_begins_the_message():
    with pytest.raises(Mistake, match=r"^two views: yours 144, expected 145: the cls token"):
        expect_value(144, 145, "count them", {144: "the cls token"}, "two views")
    with pytest.raises(Mistake, match=r"^Value: yours 7, expected 145: count them"):
        expect_value(7, 145, "count them", {144: "the cls token"})


def test_whole_numbers_are_exact_and_floats_are_close():
    expect_value(0.50001, 0.5, "cause")
    with pytest.raises(Mistake, match="33,566,721"):
        expect_value(33_566_721, 33_566_722, "cause")


@pytest.mark.parametrize(
    "yours", ["145", None, [145], float("nan"), {"a": 1}, object()], ids=lambda value: type(value).__name__
)
def test_anything_else_is_wrong_and_does_not_crash(yours):
    with pytest.raises(Mistake, match="expected 145: cause"):
        expect_value(yours, 145, "cause")


def test_texts_are_compared_as_they_are():
    expect_value(["a", "b"], ["a", "b"], "cause")
    with pytest.raises(Mistake, match="the order"):
        expect_value(["b", "a"], ["a", "b"], "cause", [(["b", "a"], "the order")])


@pytest.mark.parametrize(
    "yours, expected, words",
    [
        (np.zeros(40), np.eye(8).ravel()[:40], r"5 of 40 numbers differ; at \[0\] yours 0, expected 1"),
        (7.0, 6.931, r"yours 7, expected 6.931"),
        (0.12345678, 0.1239, r"yours 0.123457, expected 0.1239"),
        (1.00000012, 1.5e-7, r"yours 1, expected"),
        ("145", 145, r"yours the text '145', expected 145"),
        (np.ones((2, 3)), np.ones((3, 2)), r"yours has the shape \(2, 3\), expected \(3, 2\)"),
        (["a", "b"], ["a", "c"], r"entry 1: yours the text 'b', expected the text 'c'"),
        (["a"], ["a", "c"], r"yours has 1 entries"),
        ("the heart is big", "the heart is small", r"from letter 14 on yours reads 'the heart is big'"),
        ([(1, 2), (3, 4)], [(1, 2), (3, 5)], r"at \[1, 1\] yours 4, expected 5"),
    ],
)
def test_the_message_shows_where_they_differ(yours, expected, words):
    with pytest.raises(Mistake, match=words):
        expect_value(yours, expected, "cause")


def test_two_numbers_that_differ_late_are_printed_until_they_differ():
    with pytest.raises(Mistake, match=r"yours 0\.1234567, expected 0\.1234568"):
        expect_value(0.1234567, 0.1234568, "cause", tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_tolerance_follows_the_precision_of_the_answer(dtype):
    truth = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    expect_value(truth.to(dtype).requires_grad_(), truth, "cause", tolerance=1e-9)
    with pytest.raises(Mistake):
        expect_value((truth * 1.5).to(dtype), truth, "cause", tolerance=1e-9)


SAME = [
    [[1.0, 2.0], [3.0, 4.0]],
    ((1.0, 2.0), (3.0, 4.0)),
    np.array([[1.0, 2.0], [3.0, 4.0]]),
    torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
    [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])],
    (np.array([1, 2]), np.array([3, 4])),
    [[torch.tensor(1.0), torch.tensor(2.0)], [np.float32(3), 4]],
]


@pytest.mark.parametrize("yours", SAME, ids=lambda value: type(value).__name__)
def test_readers_take_every_container(yours):
    expect_value(yours, SAME[0], "cause")
    assert array(yours, (2, 2)).tolist() == tensor(yours, (2, 2)).tolist() == SAME[0]
    assert [array(part).tolist() for part in pair(yours, "two")] == SAME[0]


@pytest.mark.parametrize(
    "yours", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), np.array([3])], ids=repr
)
def test_a_whole_number_is_one_in_every_type(yours):
    assert whole(yours) == 3


@pytest.mark.parametrize(
    "yours",
    [3.5, "3", None, True, [1, 2], {}, float("nan"), object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_whole_number_is_told(yours):
    with pytest.raises(Mistake, match="whole number"):
        whole(yours)


@pytest.mark.parametrize(
    "yours",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), (t for t in "ab")],
    ids=lambda value: type(value).__name__,
)
def test_texts_come_in_every_series(yours):
    assert texts(yours) == ["a", "b"]


@pytest.mark.parametrize(
    "yours", ["ab", {"a", "b"}, {"a": 1}, [1, 2], None, 3], ids=lambda value: type(value).__name__
)
def test_what_is_no_list_of_texts_is_told(yours):
    with pytest.raises(Mistake, match="give a list of texts"):
        texts(yours)


def test_an_answer_that_no_stage_foresaw_is_one_sentence():
    @exercise(7)
    def check(answer):
        return answer.upper() + len(answer)

    told = check.verdict([1, 2])
    assert told.startswith("not yet. The check cannot read this answer (a list of 2): AttributeError")
    assert "\n" not in told


def test_a_stage_names_itself():
    with pytest.raises(Mistake, match="^Stage “decay”: Value: yours 1, expected 2"), stage("decay"):
        expect_value(1, 2, "cause")
