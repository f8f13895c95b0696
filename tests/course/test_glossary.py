"""Every name of the glossary exists in the tiny model with the shape and in the file of its row."""

import re
from pathlib import Path
from unittest import mock

import pytest
import torch

import emrrg_lib
from emrrg_lib.course.notebook import ROWS, glossary
from emrrg_lib.files import InputError
from emrrg_lib.language.cross_attention import GatedCrossAttention
from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.model import EMRRG
from emrrg_lib.vision import mamba

LIBRARY = Path(emrrg_lib.__file__).parent


@pytest.fixture(scope="module")
def objects():
    """What the names begin with: the shipped tiny model, and what one study leaves in it."""
    model = EMRRG.from_run(LIBRARY.parent / "data" / "tiny" / "run")
    pixel_values, view_mask = torch.randn(2, 3, 96, 96), torch.ones(1, 2, dtype=torch.bool)
    mixer = model.encoder.layers[0].mixer
    cross_attention = next(iter(hybrid_modules(model.llm).values()))
    given = {}

    def note(module, arguments, named):
        given.update(dict(zip(("S", "query", "visual_states"), arguments, strict=False)), **named)

    handle = cross_attention.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad(), mock.patch.object(mamba, "selective_scan", wraps=mamba.selective_scan) as scan:
        _, features = mixer(torch.randn(1, 145, 128), return_features=True)
        _, traces = model.generate(pixel_values, view_mask, trace=True, num_beams=1, max_new_tokens=6)
    handle.remove()
    return given | {
        "model": model,
        "settings": model.settings,
        "encoder": model.encoder,
        "mixer": mixer,
        "delta": scan.call_args_list[0].args[1],
        "cross_attention": cross_attention,
        "features": features,
        "trace": traces[0],
        "pixel_values": pixel_values,
        "view_mask": view_mask,
        "view": pixel_values[:1],
    }


@pytest.fixture(scope="module")
def sizes(objects):
    """The letters of the shapes, counted by hand for the tiny preset."""
    return {
        "B": 1,
        "views": 2,
        "H": 96,
        "W": 96,
        "P": 8,
        "M": 144,
        "L": 145,
        "d": 128,
        "R": 8,
        "N": 16,
        "K": 4,
        "r": 8,
        "s": 1.0,
        "D": 128,
        "h": 32,
        "heads": 4,
        "kv_heads": 4,
        "layer": 4,
        "head": 4,
        "n": objects["S"].shape[1],
        "token": len(objects["trace"].tokens),
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.letter)
def test_the_name_exists_and_has_its_shape(row, objects, sizes):
    if row.code == "X":  # the one name that lives inside a function only
        assert "X" in GatedCrossAttention.forward.__code__.co_varnames
        return
    found = eval(row.code, dict(objects))
    if row.shape == "number":
        assert found == sizes[row.letter.split(" ")[0]]
    else:
        found = found.weight if isinstance(found, torch.nn.Module) else found
        assert tuple(found.shape) == eval(row.shape, dict(sizes))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.letter)
def test_the_name_stands_in_its_file(row):
    names = re.findall(r"[A-Za-z_]+", row.code)[-2:]  # `weight` of gate_proj stands nowhere, gate_proj does
    text = (LIBRARY / row.where).read_text(encoding="utf-8")
    assert any(re.search(rf"\b{name}\b", text) for name in names)


def test_letters_are_there_once_and_a_letter_of_two_meanings_says_which():
    letters = [row.letter for row in ROWS]
    assert len(set(letters)) == len(letters)
    wanted = "M d N K L R D V V_s views S q W_k W_v w_g b_g α X Z dt B C Δ A r s X′".split()
    assert set(wanted) <= set(letters)
    assert all("|" not in part for row in ROWS for part in row)


def test_the_rows_of_a_notebook_as_a_table():
    table = glossary("α", "M")
    assert table.splitlines()[2].startswith("| α | `cross_attention.warm_up` | (1,) |")
    assert len(table.splitlines()) == 4 and repr(table) == table._repr_markdown_() == str(table)
    assert len(glossary().splitlines()) == len(ROWS) + 2


def test_an_unknown_letter_is_told_with_the_close_ones():
    with pytest.raises(InputError, match=r"no 'B \(scan\)'; is it one of B \(batch\), B, B \(LoRA\)\?"):
        glossary("B (scan)")
    with pytest.raises(InputError, match="is it one of .*X′"):
        glossary("X'")
