"""Checks of notebook 00: solutions pass, stubs are reported, plausible mistakes are named."""

import functools

import pytest
import torch

from emrrg_lib.course.build import NOTEBOOKS, read_twin, solutions
from emrrg_lib.course.checks import nb00
from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules

TWIN = NOTEBOOKS / "00_start_here.py"
NAMES = {1: "visual_tokens", 2: "write_with_gates", 3: "finding_f1"}
WRITE = "def answer(scale):\n    "
SCALED = WRITE + "with gates_scaled(model.llm, dict.fromkeys(layers, scale)):\n        return "
F1 = (
    "def answer(a, b):\n    a, b = ({{n for n, v in x.items() if {present}}} for x in (a, b))\n"
    "    return 2 * len(a & b) / {total}"
)
RIGHT = {"present": "v in (1, -1) and n != 'No Finding'", "total": "max(1, len(a) + len(b))"}
WRONG = [
    (1, "answer = 2 * 144", "is there no cls token"),
    (1, "answer = 2 * 144 + 1", "each view has its own cls token"),
    (1, "answer = 145", "one view; the study has two"),
    (1, "answer = 144", "without its cls token"),
    (1, "answer = 12 * 12 * 3", "count patches, cls token, views"),
    (2, WRITE + "return model.generate(pixels, mask)[0]", "does your scale reach the layers"),
    (2, SCALED + "model.generate(pixels, mask)", "not a str"),
    (
        2,
        WRITE + "for module in layers.values():\n        module.gate_scale = scale * 0.5\n"
        "    return model.generate(pixels, mask)[0]",
        "the gates stay at 0.5",
    ),
    (
        2,
        WRITE + "with gates_scaled(model.llm, {1: scale}):\n        return model.generate(pixels, mask)[0]",
        "are all gates closed",
    ),
    (
        2,
        SCALED.replace("layers, scale", "layers, scale * 0.1") + "model.generate(pixels, mask)[0]",
        "same study, same settings",
    ),
    (3, "def answer(a, b):\n    return sum(a[n] == b[n] for n in a) / 14", "one shared, one missed"),
    (3, F1.format(**RIGHT | {"total": "max(1, 2 * len(b))"}), "1 of 3 found, nothing invented"),
    (3, F1.format(**RIGHT | {"present": "v == 1 and n != 'No Finding'"}), "uncertain counts"),
    (3, F1.format(**RIGHT | {"present": "v is not None and n != 'No Finding'"}), "denied findings"),
    (3, F1.format(**RIGHT | {"present": "v in (1, -1)"}), "'No Finding' is left out"),
    (3, F1.format(**RIGHT | {"total": "(len(a) + len(b))"}), "divides by zero"),
    (3, "def answer(a, b):\n    return a['edema']", "raised KeyError"),
]


@pytest.fixture
def scene(make_model, images):
    """What the notebook has at hand: here a small random model whose two reports differ."""
    model, pixels = make_model(), images(1)
    mask, layers = torch.ones(1, 2, dtype=torch.bool), hybrid_modules(model.llm)
    write = functools.partial(model.generate, pixels, mask)
    with gates_scaled(model.llm, dict.fromkeys(layers, 0.0)):
        blind = write()[0]
    return {
        "model": model,
        "pixels": pixels,
        "mask": mask,
        "layers": layers,
        "gates_scaled": gates_scaled,
        "blind": blind,
        "report": write()[0],
        "print": lambda *shown: None,
    }


def verdict(number, code, scene, name="answer"):
    exec(code, scene)
    given = {1: (torch.zeros(1, 290, 128),), 2: [scene[n] for n in ("layers", "blind", "report")], 3: ()}
    return getattr(nb00, f"check_{number}").verdict(scene[name], *given[number])


def test_the_two_reports_of_the_scene_differ(scene):
    assert scene["blind"] != scene["report"]


@pytest.mark.parametrize("number", NAMES)
def test_the_solution_passes_and_the_stub_is_not_tried(number, scene):
    code, study = solutions(read_twin(TWIN))[number], type("Study", (), {"labels": {}})
    numbers = type(
        "Settings",
        (),
        {"data": type("Data", (), {"max_views": 2}), "encoder": type("Encoder", (), {"num_patches": 144})},
    )
    scene |= {"settings": numbers, "study": study, "written": {}}
    assert verdict(number, code, scene, NAMES[number]).startswith("right. ")
    stub = "answer = None" if number == 1 else "def answer(*given):\n    return None"
    assert verdict(number, stub, scene) == "not tried yet"


@pytest.mark.parametrize(("number", "code", "cause"), WRONG)
def test_a_wrong_answer_is_told_its_mistake(number, code, cause, scene):
    told = verdict(number, code, scene)
    assert told.startswith("not yet") and cause in told
    assert not any(other in told for n, _, other in WRONG if n == number and other not in cause)
    assert all(module.gate_scale == 1.0 for module in scene["layers"].values())
