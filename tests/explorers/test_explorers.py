"""The four explorers: arrays of the view, answers of the kernel, stills, pages whole in themselves."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest

from emrrg_lib.explorers import (
    GateExplorer,
    LoraExplorer,
    LoraTarget,
    ScanExplorer,
    WordExplorer,
    base,
    explorer_html,
    scan_memory,
)
from emrrg_lib.explorers.gate import changed_words
from emrrg_lib.explorers.scan import pooled
from emrrg_lib.files import InputError
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
    losses = {"as trained": np.array([0.4, 0.5, 0.6]), "without any": np.array([0.5, 0.59, 0.71])}
    return {
        "words": lambda: WordExplorer(images(), make_trace(), {"Cardiomegaly": mask}),
        "gate": lambda: GateExplorer(make_trace(), lambda scales: make_trace(BLIND, min(scales.values()))),
        "scan": make_scan,
        "lora": lambda: LoraExplorer(make_targets(), 4, losses),
    }[kind]()


def data_of(text):
    """The arrays in a page, one dict an explorer."""
    return [json.loads(unescape(part)) for part in re.findall(r'data-explorer="([^"]*)"', text)]


def stored(values, *shape):
    return np.frombuffer(base64.b64decode(values), dtype=np.uint8).reshape(shape)


# --- all of them -----------------------------------------------------------------------------


@every_explorer
def test_the_live_view_has_the_arrays_and_they_are_json(kind):
    view = make(kind).widget()
    data = json.loads(json.dumps(view.data))
    assert data["kind"] == kind and data["live"] and data["title"] and len(data["heat"]) == 5
    assert f"kinds.{kind} = " in view._esm and ".emrrg" in view._css


@every_explorer
def test_the_page_is_whole_small_and_escapes_what_it_is_given(kind, tmp_path):
    text = make(kind).html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "<b>" not in text.split("</style>")[1].split("<script")[0]
    assert len(text) < 400_000 and "<noscript>" in text and not data_of(text)[0]["live"]
    assert re.search(r'<details[^>]*><summary>Still picture: .*<img [^>]*alt="[^"]{60,}"', text)


def test_one_page_holds_several_explorers():
    text = explorer_html([make(kind) for kind in KINDS], "All <four>", "A note.")
    assert [data["kind"] for data in data_of(text)] == list(KINDS)
    assert "<h1>All &lt;four&gt;</h1>" in text and text.count("<details") == 4 and "A note." in text


@every_explorer
def test_the_still_is_folded_below_the_live_view(kind, monkeypatch):
    shown = []
    monkeypatch.setattr(base, "display", shown.append)
    make(kind)._ipython_display_()
    assert isinstance(shown[0], base.View) and isinstance(shown[1], base.Still) and len(shown) == 2
    assert shown[1]._repr_html_().startswith("<details") and len(repr(shown[1])) > 60
    assert isinstance(make(kind)._display_(), base.View)  # of marimo


def test_a_page_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="more than 3"):
        make("lora").html(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_module_is_one_es_module_without_imports():
    source = f"'data:text/javascript,' + encodeURIComponent({json.dumps(base.MODULE)})"
    program = f"import({source}).then((m) => console.log(typeof m.default.render))"
    done = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True)
    assert done.stdout == "function\n", done.stderr
    assert not re.search(r"^\s*import\b|https?://(?!www\.w3\.org/2000/svg)", base.MODULE, re.MULTILINE)


# --- words -----------------------------------------------------------------------------------


def test_a_word_is_the_mean_of_its_tokens():
    trace, explorer = make_trace(), make("words")
    expected = trace.attention[1, :, 2:4].mean(axis=(0, 1)).ravel()  # “enlarged”, layer 1
    assert explorer.maps[1, 0, 2] == pytest.approx(expected)
    assert explorer.maps[1, 1, 2] == pytest.approx(
        trace.attention[1, :, 2:4].mean(axis=1).max(axis=0).ravel()
    )
    assert explorer.maps[1, 3, 2] == pytest.approx(trace.attention[1, 1, 2:4].mean(axis=0).ravel())


def test_the_view_gets_the_attention_to_a_255th():
    explorer = make("words")
    data, truth = explorer.data(live=True), explorer.maps.reshape(-1, 24)
    maps = stored(data["maps"], -1, 24) / 255 * np.array(data["peaks"])[:, None]
    assert np.abs(maps - truth).max() <= truth.max() * 0.01
    assert data["words"][5] == "<b>" and data["heads"][2:] == ["head 0", "head 1"]
    outline = data["outlines"]["Cardiomegaly"]
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", outline[0]), float)
    assert outline[1] == "" and points.min() == pytest.approx(12.5, abs=2.2)  # in hundredths of the picture
    assert points.max() == pytest.approx(37.5, abs=2.2)


def test_many_heads_keep_mean_and_maximum():
    data = WordExplorer(images(), make_trace(heads=80, grid=(24, 24))).data(live=True)
    assert data["heads"] == ["mean of all", "largest of all"]
    assert len(stored(data["maps"], -1)) == 2 * 2 * len(data["words"]) * 2 * 576


def test_a_trace_without_words_is_refused():
    empty = Trace((), np.zeros((1, 0)), np.zeros((1, 1, 0, 2, 4)), (2, 2), (0,), np.zeros(1))
    with pytest.raises(ValueError, match="no word"):
        WordExplorer(images(), empty)


# --- gate ------------------------------------------------------------------------------------


def test_a_request_writes_the_report_anew_once():
    asked = []

    def regenerate(scales):
        asked.append(dict(scales))
        return make_trace(BLIND)

    view = GateExplorer(make_trace(), regenerate).widget()
    for number, (layer, scale) in enumerate([(0, 0), (2, 5), (0, 0), (0, 20)]):
        view.request = {"layer": layer, "scale": scale, "number": number}
        assert view.answer["number"] == number
    assert asked == [{0: 0.0, 6: 0.0}, {6: 0.25}]
    view.request = {"layer": 0, "scale": 0, "number": 9}
    new = [word[0] for word in view.answer["words"] if word[3]]
    gone = [word for word, is_gone in zip(TOKENS, view.answer["gone"], strict=False) if is_gone]
    assert new == ["normal"] and gone == [" en"]  # the third word, “enlarged”
    assert np.shape(view.answer["heads"]) == (2, 2, len(BLIND))


@pytest.mark.parametrize("error", [ValueError("no <trace>"), MemoryError(), KeyboardInterrupt()])
def test_an_error_of_the_kernel_is_the_answer_and_the_next_request_is_answered(error):
    fails = [error]

    def regenerate(scales):
        if fails:
            raise fails.pop()
        return make_trace(BLIND)

    view = GateExplorer(make_trace(), regenerate).widget()
    view.request = {"layer": 0, "scale": 0, "number": 1}
    assert view.answer == {"error": f"{type(error).__name__}: {error}", "number": 1}
    view.request = {"layer": 0, "scale": 0, "number": 2}
    assert "error" not in view.answer and view.answer["number"] == 2


def test_an_explorer_that_computes_nothing_says_so():
    view = make("scan").widget()
    view.request = {"step": 3, "number": 1}
    assert "computes nothing in the kernel" in view.answer["error"]


def test_changed_words_are_those_not_kept_in_order():
    one, other = (make_trace(tuple(f" {word}" for word in text.split())) for text in ("a b c d", "a c x d"))
    assert changed_words(one, other) == [False, False, True, False]
    assert changed_words(one, one) == [False] * 4


def test_the_page_carries_five_positions_and_each_layer_closed():
    answers = make("gate").data(live=False)["answers"]
    assert set(answers) == {*(f"0:{step}" for step in (0, 5, 10, 15, 20)), "1:0", "1:20", "2:0", "2:20"}
    assert [word[0] for word in answers["0:0"]["words"] if word[3]] == ["normal"]
    fixed = GateExplorer(make_trace()).data(live=False)
    assert list(fixed["answers"]) == ["0:20"] and not fixed["writes"]
    assert fixed["answers"]["0:20"]["gate"] == pytest.approx(make_trace().gate, rel=1e-3)
    assert list(make("gate").data(live=True)["answers"]) == ["0:20"]


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
    explorer, rng = make_scan(), np.random.default_rng(1)
    rng.random((2, 13, 13))
    outputs = rng.normal(size=(2, 13, 5))
    full, without = outputs.sum(axis=0), 2 * outputs[1]
    assert explorer.share[0] == pytest.approx(np.linalg.norm(without - full) / np.linalg.norm(full))
    patches = [token for token in range(13) if token != 6]
    assert explorer.change[0] == pytest.approx(np.sqrt(((without - full) ** 2).mean(axis=1))[patches])
    assert explorer.size == pytest.approx(np.sqrt((full**2).mean(axis=1))[patches])


def test_kept_and_read_give_the_memory_back():
    explorer = make_scan()
    memory = np.sort(np.random.default_rng(4).random((2, 13, 13)), axis=1)[:, ::-1]  # it only fades
    explorer = ScanExplorer(
        images()[0], (3, 4), explorer.orders, np.tril(memory), np.ones((2, 13, 5)), cls_index=6
    )
    data = explorer.data(live=True)
    kept = stored(data["kept"], 2, 13, 13) / 255
    read = np.array(data["read"])
    assert kept * read[:, None] == pytest.approx(explorer.memory, abs=0.005)
    assert np.diagonal(kept, axis1=1, axis2=2) == pytest.approx(1)


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
    data = make("lora").data(live=True)
    assert data["ranks"] == [1, 2, 4]  # no more than was trained
    assert data["targets"][0]["weights"] == [2 * 14, 2 * 28, 2 * 56] and "maps" not in data["targets"][1]


def test_a_smaller_rank_is_the_best_approximation():
    target = make_targets()[0]
    values, vectors = np.linalg.eigh(target.delta[0, 8:].T @ target.delta[0, 8:])  # ascending
    best = target.delta[0, 8:] @ vectors[:, -2:] @ vectors[:, -2:].T
    assert target.change(2)[0] == pytest.approx(best, abs=1e-8)
    assert target.change(4) == pytest.approx(target.delta[:, 8:]) and target.kept(4) == pytest.approx(1)
    assert 0 < target.kept(1) < target.kept(2) < 1
    data = make("lora").data(live=True)["targets"][0]
    maps = stored(data["maps"], 3, 2, 8, 6) / 255 * np.reshape(data["peaks"], (3, 2, 1, 1))
    assert maps[1, 0] == pytest.approx(np.abs(best), abs=0.01 * np.abs(best).max())


def test_pooling_keeps_the_mean_square():
    values = np.random.default_rng(0).normal(size=(2, 64, 96))
    assert pooled(values).shape == (2, 32, 32)
    assert (pooled(values) ** 2).mean() == pytest.approx((values**2).mean())
    blocks = (values[0].reshape(32, 2, 32, 3) ** 2).mean(axis=(1, 3))
    assert pooled(values)[0] == pytest.approx(np.sqrt(blocks))
    assert pooled(values[:, :5, :7]) == pytest.approx(np.abs(values[:, :5, :7]))


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ([0.5, 0.59, 0.71], "they matter here"),
        ([0.30, 0.41, 0.49], "they do harm here"),
        ([0.5, 0.4, 0.6], "they do nothing here"),  # the interval holds 0
        ([0.4005, 0.5004, 0.6006], "they do nothing here"),  # real, but below a thousandth
    ],
)
def test_the_verdict_says_in_words_what_the_adapters_do(without, told):
    losses = {"as trained": np.array([0.4, 0.5, 0.6]), "without any": np.array(without)}
    explorer = LoraExplorer(make_targets(), 4, losses)
    assert told in explorer.verdict() and explorer.verdict() in explorer.captions()
    change = np.subtract(without, losses["as trained"])
    row = explorer.data(live=True)["loss"][1]
    half = 1.96 * change.std(ddof=1) / np.sqrt(3)
    assert row["change"] == pytest.approx(
        [change.mean(), change.mean() - half, change.mean() + half], rel=1e-3
    )


def test_without_losses_the_verdict_says_that_none_was_measured():
    explorer = LoraExplorer(make_targets(), 4)
    assert explorer.data(live=True)["loss"] == [] and "not measured" in explorer.verdict()
