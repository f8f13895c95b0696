"""The short training: phantoms of one finding, another patient's image, what a gate changes."""

import pytest
import torch

from emrrg_lib.course.short_training import THREE, ShortLesson, Watch, one_finding
from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.model import EMRRG


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return EMRRG.from_preset("tiny")


@pytest.fixture(scope="module")
def lesson(model):
    return ShortLesson(model, train=4, held_out=3, seed=2)


def test_each_phantom_shows_one_of_the_findings():
    studies = one_finding(3, 7, size=32, kinds=("effusion",))
    assert [[f["kind"] for f in study.findings] for study in studies] == [["effusion"]] * 3


def test_a_batch_pairs_reports_with_the_images_that_are_asked_for(model, lesson):
    assert {f["kind"] for s in lesson.studies for f in s.findings} <= set(THREE)
    own, other = lesson.batch([0, 1]), lesson.batch([0, 1], [2, 3])
    assert torch.equal(own["labels"], other["labels"])
    assert torch.equal(other["tokens"], lesson.tokens[[2, 3]])
    seen = lesson.batch([0, 1], encoded=False)
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(**seen)["loss"], model(**own)["loss"], atol=1e-5)


def test_a_shut_gate_makes_both_losses_equal_and_an_open_one_does_not(model, lesson):
    watch = Watch(model, lesson)
    watch.measure(0)
    assert watch.right == watch.wrong and watch.gates == [[0.0] * 4]
    for hybrid in hybrid_modules(model.llm).values():
        hybrid.warm_up.data.fill_(1.0)
    watch.measure(1)
    for hybrid in hybrid_modules(model.llm).values():
        hybrid.warm_up.data.zero_()
    assert watch.right[1] != watch.wrong[1] and watch.gates[1] == pytest.approx([0.7616] * 4, abs=1e-3)
    assert f"{watch.wrong[1] - watch.right[1]:.3f}" in watch.picture().alt
