"""The comparison that all checks share: one meaning for numbers, arrays, tensors and lists; slips by name."""

import numpy as np
import pytest
import torch

from emrrg_lib.course.checks import Mistake, expect_value


@pytest.mark.parametrize(
    "yours", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])], ids=str
)
def test_arrays_tensors_and_lists_are_compared_alike(yours):
    expect_value(yours, [1.0, 2.0], "cause")
    with pytest.raises(Mistake, match=r"yours \[1, 2\], expected \[1, 3\]: cause"):
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


@pytest.mark.parametrize("yours", ["145", None, [145], float("nan"), {"a": 1}, object()], ids=str)
def test_anything_else_is_wrong_and_does_not_crash(yours):
    with pytest.raises(Mistake, match="expected 145: cause"):
        expect_value(yours, 145, "cause")


def test_texts_are_compared_as_they_are():
    expect_value(["a", "b"], ["a", "b"], "cause")
    with pytest.raises(Mistake, match="the order"):
        expect_value(["b", "a"], ["a", "b"], "cause", [(["b", "a"], "the order")])
