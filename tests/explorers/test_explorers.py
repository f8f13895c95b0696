"""The four explorers: set a control and the picture changes; still twins; pages whole in themselves."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from emrrg_lib.explorers import (
    GateExplorer,
    LoraExplorer,
    LoraTarget,
    ScanExplorer,
    WordExplorer,
    base,
    scan_memory,
)
from emrrg_lib.explorers.gate import changed_words
from emrrg_lib.explorers.lora import RANKS, pooled
from emrrg_lib.files import InputError
from emrrg_lib.interpret import Picture
from emrrg_lib.trace import Trace

TOKENS = (" heart", " is", " en", "larged", ".", " no", " <b>", " eff", "usion", ".")
BLIND = (" heart", " is", " normal", ".", " no", " <b>", " eff", "usion", ".")
KINDS = ("words", "gate", "scan", "lora")
every_explorer = pytest.mark.parametrize("kind", KINDS)


def make_trace(tokens=TOKENS, scale=1.0, heads=2, grid=(3, 4)) -> Trace:
    rng = np.random.default_rng(0)
    attention = rng.random((2, heads, len(tokens), 2, grid[0] * grid[1])) ** 4
    attention /= 1.2 * attention.sum(axis=(3, 4), keepdims=True)
    gate = np.tanh(rng.normal(size=(2, len(tokens)))) * scale
    return Trace(tokens, gate, attention, grid, (0, 6), np.full(2, 0.9))


def images(side=24):
    return [np.random.default_rng(view).integers(0, 255, (side, side)).astype(np.uint8) for view in range(2)]


def make_scan() -> ScanExplorer:
    rng = np.random.default_rng(1)
    orders = np.stack([np.arange(13), np.arange(13)[::-1]])
    memory = np.tril(rng.random((2, 13, 13)))
    return ScanExplorer(images()[0], (3, 4), orders, memory, rng.normal(size=(2, 13, 5)), cls_index=6)


def make_targets() -> list[LoraTarget]:
    rng = np.random.default_rng(2)
    blocks = {"X": (0, 8), "Z": (8, 16)}
    delta = np.zeros((2, 16, 6))
    delta[:, 8:] = rng.normal(size=(2, 8, 3)) @ rng.normal(size=(2, 3, 6))
    weight = rng.normal(size=(2, 16, 6))
    return [
        LoraTarget("Z", weight, ["block 0", "block 1"], blocks, (8, 16), delta),
        LoraTarget("in_proj", weight, ["block 0", "block 1"], blocks, (0, 16)),
    ]


def make(kind):
    mask = np.zeros((2, 24, 24), dtype=bool)
    mask[0, 3:9, 3:9] = True
    return {
        "words": lambda: WordExplorer(images(), make_trace(), {"Cardiomegaly": mask}),
        "gate": lambda: GateExplorer(make_trace(), lambda scales: make_trace(BLIND, scales[0])),
        "scan": make_scan,
        "lora": lambda: LoraExplorer(make_targets(), rank=4),
    }[kind]()


def page_of(explorer, path):
    text = explorer.html(path / "page.html").read_text(encoding="utf-8")
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """kind → (text, data) of the page of each explorer."""
    return {kind: page_of(make(kind), tmp_path_factory.mktemp(kind)) for kind in KINDS}


def stored(values):
    return np.frombuffer(base64.b64decode(values), dtype=np.uint8)


# --- all of them -----------------------------------------------------------------------------


@every_explorer
def test_setting_any_control_changes_picture_and_read_out(kind):
    live = make(kind).widget()
    for name, control in live.controls.items():
        before = live.picture.value, live.read_out.value
        control.value = (control.value + 1) % len(control.options)
        assert live.picture.value != before[0], name
        if name not in ("head", "outline"):  # the same words may be true of another head
            assert live.read_out.value != before[1], name
    assert re.search(r'<img [^>]*alt="[^"]{30,}"', live.picture.value)
    assert 'role="status"' in live.read_out.value


@every_explorer
def test_every_control_has_a_label_and_takes_the_keyboard(kind):
    for control in make(kind).widget().controls.values():
        assert control.description and type(control).__name__ in ("SelectionSlider", "Dropdown")


@every_explorer
def test_the_still_twin_stands_beside_the_live_one(kind, monkeypatch):
    shown = []
    monkeypatch.setattr(base, "display", shown.append)
    make(kind)._ipython_display_()
    assert [type(each) for each in shown] == [base.Live, Picture] and len(shown[1].alt) > 60


@every_explorer
def test_the_page_is_whole_small_and_escapes_what_it_is_given(kind, pages):
    text, data = pages[kind]
    assert "default-src 'none'" in text and not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    body = text.split("</style>")[1].split("<script")[0]
    assert "<b>" not in body.replace("<b></b>", "")
    assert len(text) < 400_000 and "<noscript>" in text and len(data["colours"]) == 256
    assert re.search(r'<img class="card" [^>]*alt="[^"]{60,}"', text)
    for label in re.findall(r"<label>(.*?)</label>", text, re.DOTALL):
        assert re.search(r"<(select|input)", label) and re.match(r"\s*\w", label)


def test_a_page_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="more than 2"):
        make("lora").html(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


# --- words -----------------------------------------------------------------------------------


def test_a_word_is_the_mean_of_its_tokens_and_a_patch_asks_back():
    trace, explorer = make_trace(), make("words")
    expected = trace.attention[1, :, 2:4, 1, 7].mean()  # “enlarged”, layer 1, lateral, row 1, column 3
    assert explorer.looks(1, 0, 1, 1, 3)[2] == pytest.approx(expected)
    assert explorer.looks(1, 3, 1, 1, 3)[2] == pytest.approx(trace.attention[1, 1, 2:4, 1, 7].mean())
    largest = trace.attention[1, :, 2:4, 1, 7].mean(axis=1).max()
    assert explorer.looks(1, 1, 1, 1, 3)[2] == pytest.approx(largest)


def test_a_click_on_a_word_picks_it_and_a_patch_shades_the_words():
    live = make("words").widget()
    row, colours = live.children[1:3]
    row.children[0].click()
    assert live.controls["word"].value == 0 and "“heart”" in live.read_out.value
    assert "nth-child(1) {font-weight: bold" in colours.value
    before = colours.value
    live.controls["col"].value = (live.controls["col"].value + 1) % 4
    assert colours.value != before and "row 2" not in row.children[0].description


def test_the_page_holds_the_attention_to_a_255th(pages):
    explorer, (_, data) = make("words"), pages["words"]
    maps = stored(data["maps"]).reshape(-1, 24) / 255 * np.array(data["peaks"])[:, None]
    truth = explorer.maps.reshape(-1, 24)
    assert np.abs(maps - truth).max() <= truth.max() * 0.01
    assert data["heads"] == 4 and data["words"][5] == "<b>" and len(data["outlines"][0]) == 2


def test_a_page_of_many_heads_keeps_mean_and_maximum(tmp_path):
    text, data = page_of(WordExplorer(images(), make_trace(heads=80, grid=(24, 24))), tmp_path)
    assert data["heads"] == 2 and "head 0" not in text and "largest of all" in text


def test_a_trace_without_words_is_refused():
    empty = Trace((), np.zeros((1, 0)), np.zeros((1, 1, 0, 2, 4)), (2, 2), (0,), np.zeros(1))
    with pytest.raises(ValueError, match="no word"):
        WordExplorer(images(), empty)


# --- gate ------------------------------------------------------------------------------------


def test_a_scaled_gate_writes_the_report_again_once_with_a_note():
    asked, notes = [], []

    def regenerate(scales):
        asked.append(dict(scales))
        notes.append(live.read_out.value)
        return make_trace(BLIND)

    live = GateExplorer(make_trace(), regenerate).widget()
    live.controls["scale"].value = 0
    live.controls["layer"].value = 2
    live.controls["layer"].value = 0
    assert asked == [{0: 0.0, 6: 0.0}, {6: 0.0}] and all("writing the report again" in note for note in notes)
    assert "new are: normal." in live.read_out.value and "layers at 0.00" in live.read_out.value


def test_changed_words_are_those_not_kept_in_order():
    one, other = (make_trace(tuple(f" {word}" for word in text.split())) for text in ("a b c d", "a c x d"))
    assert changed_words(one, other) == [False, False, True, False]
    assert changed_words(one, one) == [False] * 4


def test_the_page_carries_five_slider_positions_and_without_regenerate_one(pages):
    text, data = pages["gate"]
    assert len(data["states"]) == 5 and [state[0] for state in data["states"]] == list(range(5))
    assert "at 0.00: 1 new words, 1 gone, new are: normal" in data["states"][0][1]
    assert "the report as the model wrote it" in data["states"][4][1] and 'max="4"' in text
    fixed = GateExplorer(make_trace())
    assert len(fixed.page()["states"]) == 1 and not fixed.page_choices() and not fixed.widget().controls


# --- scan ------------------------------------------------------------------------------------


def test_memory_is_the_state_that_one_token_alone_would_leave():
    rng = np.random.default_rng(3)
    delta, x, B = rng.random((6, 3)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    A = -rng.random((3, 2)) * 3
    memory = scan_memory(delta, A, B, x)
    for source in range(6):
        h = np.zeros((3, 2))
        for step in range(6):  # the recurrence, fed with this token and nothing else
            fed = x[step] if step == source else np.zeros(3)
            h = np.exp(delta[step][:, None] * A) * h + (delta[step] * fed)[:, None] * B[step]
            assert memory[step, source] == pytest.approx(np.sqrt((h**2).mean()), abs=1e-12)


def test_dropping_a_direction_takes_the_mean_of_the_others():
    explorer, outputs = make_scan(), np.random.default_rng(1)
    outputs.random((2, 13, 13))
    outputs = outputs.normal(size=(2, 13, 5))
    full, without = outputs.sum(axis=0), 2 * outputs[1]
    assert explorer.share[0] == pytest.approx(np.linalg.norm(without - full) / np.linalg.norm(full))
    patches = [token for token in range(13) if token != 6]
    assert explorer.maps[1] == pytest.approx(np.sqrt(((without - full) ** 2).mean(axis=1))[patches])


def test_what_is_held_lies_on_the_patches_read_and_the_cls_token_has_none():
    explorer = make_scan()
    held = explorer.held(1, 3)  # the reverse order: tokens 12, 11, 10, 9
    assert held.shape == (3, 4) and (held.ravel()[:8] == 0).all() and (held.ravel()[8:] > 0).all()
    assert "the cls token" in explorer.read_step(0, 6) and "row 2, column 3" in explorer.read_step(0, 7)


def test_play_walks_the_steps():
    live = make_scan().widget()
    play = live.children[1].children[1]
    play.value += 1
    assert live.controls["step"].value == play.value


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"memory": np.zeros((2, 12, 12))}, "need memory"),
        ({"grid": (4, 4)}, "do not fill the grid"),
        ({"cls_index": None}, "do not fill the grid"),
    ],
)
def test_scan_refuses_what_does_not_fit(changes, sentence):
    given = {
        "image": images()[0],
        "grid": (3, 4),
        "orders": np.zeros((2, 13), int),
        "cls_index": 6,
        "memory": np.zeros((2, 13, 13)),
        "outputs": np.zeros((2, 13, 5)),
    }
    with pytest.raises(ValueError, match=sentence):
        ScanExplorer(**given | changes)


# --- Partial LoRA ----------------------------------------------------------------------------


def test_parameters_are_a_thin_pair_for_every_matrix():
    z, in_proj = make_targets()  # two matrices of 16 × 6; A is (4, 6), B (8, 4) or (16, 4)
    assert (z.parameters(4), in_proj.parameters(4)) == (2 * (24 + 32), 2 * (24 + 64))


def test_a_smaller_rank_is_the_best_approximation():
    target = make_targets()[0]
    values, vectors = np.linalg.eigh(target.delta[0, 8:].T @ target.delta[0, 8:])  # ascending
    best = target.delta[0, 8:] @ vectors[:, -2:] @ vectors[:, -2:].T
    assert target.change(2)[0] == pytest.approx(best, abs=1e-8)
    assert target.change(4) == pytest.approx(target.delta[:, 8:]) and target.kept(4) == pytest.approx(1)
    assert 0 < target.kept(1) < target.kept(2) < 1


def test_pooling_keeps_the_mean_square():
    values = np.random.default_rng(0).normal(size=(2, 64, 96))
    assert pooled(values).shape == (2, 32, 32)
    assert (pooled(values) ** 2).mean() == pytest.approx((values**2).mean())
    blocks = (values[0].reshape(32, 2, 32, 3) ** 2).mean(axis=(1, 3))
    assert pooled(values)[0] == pytest.approx(np.sqrt(blocks))
    assert pooled(values[:, :5, :7]) == pytest.approx(np.abs(values[:, :5, :7]))


def test_the_page_has_a_state_for_every_target_and_rank(pages):
    _, data = pages["lora"]
    assert len(data["states"]) == 2 * len(RANKS) and len(data["pictures"]) == len(RANKS) + 1
    told = "rows 8 to 15 of 2 matrices of 16 × 6; rank 1 costs 2 · 1 · (6 + 8) = 28 weights"
    assert told in data["states"][0][1]
    assert "No adapter of this target was trained" in data["states"][-1][1]
