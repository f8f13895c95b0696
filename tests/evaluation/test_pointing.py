"""The pointing game on small maps whose answer is known."""

import numpy as np
import pytest

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.pointing import (
    MAPS,
    NAMING,
    Case,
    choose_layer,
    dilate,
    hits,
    naming_span,
    naming_tokens,
    patch_mask,
    place_priors,
    pointing_game,
    pointing_tables,
    sentence_tokens,
    token_map,
)
from emrrg_lib.files import InputError

GRID = (6, 6)


def case(study, kind, peaks, spot):
    """Two views; layer l peaks at flat patch peaks[l]; the finding is patch `spot` of view 0."""
    maps = np.full((len(peaks), 2, 36), 0.001)
    for layer, peak in enumerate(peaks):
        maps[layer].reshape(-1)[peak] = 0.5
    mask = np.zeros((2, *GRID), bool)
    mask[0].reshape(-1)[spot] = True
    return Case(study, kind, maps, mask)


@pytest.mark.parametrize(
    ("tokens", "observation", "expected"),
    [
        ([" small", " pleural", " eff", "usion", "."], "Pleural Effusion", [2, 3]),
        (["the", " heart", " is", " enlarged", "."], "Cardiomegaly", [3]),
        ([" Card", "iomegaly", " is", " noted"], "Cardiomegaly", [0, 1]),
        ([" no", " nodule", ".", " a", " left", " mass", "."], "Lung Lesion", [5]),
        ([" no", " effusion", "."], "Pleural Effusion", []),
        ([" enlarged", " mediastinum", ".", " the", " heart", " is", " enlarged", "."], "Cardiomegaly", [6]),
        ([" enlargement", " of", " the", " heart"], "Cardiomegaly", [0]),
        ([" portable", " film", ".", " chest", " port", "."], "Support Devices", [4]),
        ([" the", " lungs", " are", " clear"], "Fracture", []),
    ],
)
def test_naming_tokens(tokens, observation, expected):
    assert naming_tokens(tokens, observation) == expected


@pytest.mark.parametrize(
    ("tokens", "named", "expected"),
    [
        (["clear", ".", " a", " left", " mass", " in", " it", ".", " no", " edema", "."], [4], range(2, 8)),
        (["mass", " here", ".", " no", " edema", "."], [0], range(0, 3)),
        ([" no", " edema", " . ", "a", " left", " ma", "ss", " ."], [5, 6], range(3, 8)),
        ([" a", " 1.5", " cm", " mass", " is", " seen"], [3], range(0, 6)),
        ([" clear.", " small", " mass.", " no edema."], [2], range(1, 3)),
    ],
)
def test_the_sentence_of_a_naming_word(tokens, named, expected):
    assert sentence_tokens(tokens, named) == list(expected)


def test_a_negated_word_is_found_where_it_is_wanted():
    assert naming_span("No Effusion.", "Pleural Effusion") is None
    assert naming_span("No Effusion.", "Pleural Effusion", affirmed=False) == (3, 11)


def test_every_observation_has_names():
    assert set(NAMING) == set(OBSERVATIONS) - {"No Finding"}


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="naming words"):
        naming_tokens(["a"], "unicorn")


def test_token_map_averages_heads_and_tokens():
    attention = np.random.default_rng(0).random((2, 3, 5, 2, 36))
    chosen = token_map(attention, [1, 4])
    assert chosen.shape == (2, 2, 36)
    assert chosen[1, 0, 7] == pytest.approx(attention[1, :, [1, 4], 0, 7].mean())
    gate = np.zeros((2, 5))
    gate[:, 4] = -0.5  # a closed gate at token 1: only token 4 speaks
    weighted = token_map(attention, [1, 4], gate)
    single = 0.5 * attention[:, :, 4].mean(axis=1)
    assert weighted[:2] == pytest.approx(single) and weighted[2] == pytest.approx(single.sum(axis=0))
    with pytest.raises(InputError, match="not named"):
        token_map(attention, [])


def test_patch_mask_marks_every_touched_patch():
    mask = np.zeros((2, 96, 96), bool)
    mask[0, 15:17, 40] = True  # crosses the border between patch rows 0 and 1
    mask[1, 95, 95] = True
    touched = patch_mask(mask, GRID)
    assert np.argwhere(touched).tolist() == [[0, 0, 2], [0, 1, 2], [1, 5, 5]]
    assert patch_mask(np.ones((1, 50, 37), bool), GRID).all()
    with pytest.raises(InputError, match="smaller"):
        patch_mask(np.ones((1, 4, 4), bool), GRID)


def test_dilate_adds_the_eight_neighbours_within_a_view():
    mask = np.zeros((2, *GRID), bool)
    mask[0, 2, 2] = mask[1, 0, 0] = True
    grown = dilate(mask)
    assert grown[0].sum() == 9 and grown[0, 1:4, 1:4].all()
    assert grown[1].sum() == 4 and grown[1, :2, :2].all()


def test_a_hit_is_the_peak_within_one_patch():
    spot = 14  # row 2, column 2 of view 0
    peaks = [14, 7, 21, 16, 36 + 14]  # itself, two diagonal neighbours, two columns off, other view
    assert hits(case("a", "nodule", peaks, spot)).tolist() == [True, True, True, False, False]


def test_layer_and_prior_come_from_validation():
    validation = [case("a", "nodule", [0, 14], 14), case("b", "nodule", [35, 14], 14)]
    assert choose_layer(validation) == 1
    prior = place_priors(validation)["nodule"]
    assert dilate(validation[0].mask).reshape(-1)[prior]
    with pytest.raises(InputError, match="layer"):
        choose_layer([])


def test_table():
    cases = [case(f"s{i}", "nodule", [14], 14) for i in range(30)]
    cases += [case(f"s{i}", "effusion", [35], 14) for i in range(30)]
    effusion, nodule, small, local, total = pointing_game(cases, 0, {"nodule": 14})
    assert (nodule.kind, nodule.cases, nodule.hit, nodule.low, nodule.high) == ("nodule", 30, 1, 1, 1)
    assert nodule.chance == pytest.approx(9 / 72)
    assert nodule.centre == 1 and nodule.place == 1 and effusion.place == 0
    assert (total.kind, total.cases, total.hit) == ("all", 60, 0.5)
    # Every study brings one hit and one miss: resampling by study cannot move the total.
    assert total.low == total.high == 0.5
    # 9 of 72 patches would hit: every case is small, hence in all groups.
    assert (small.kind, local.kind) == ("small", "localised")
    assert vars(small) | {"kind": "all"} == vars(local) | {"kind": "all"} == vars(total)
    # The centre always hits here, so the gain over it is hit - 1, study by study.
    assert (total.gain, total.gain_low, total.gain_high) == (-0.5, -0.5, -0.5)
    assert (effusion.gain, effusion.gain_high) == (-1, -1)
    with pytest.raises(InputError, match="point at"):
        pointing_game([], 0, {})


def wide(study, peaks):
    """A finding over the whole first view: half of all patches, so it is not localised."""
    spread = case(study, "edema", peaks, 14)
    spread.mask[0] = True
    return spread


def test_a_wide_finding_is_in_no_group_and_does_not_choose_the_layer():
    rows = pointing_game([wide("a", [14]), case("b", "nodule", [14], 14)], 0, {})
    assert [(row.kind, row.cases) for row in rows] == [
        ("edema", 1),
        ("nodule", 1),
        ("small", 1),
        ("localised", 1),
        ("all", 2),
    ]
    cases = [wide(f"w{i}", [14, 36]) for i in range(3)] + [case("b", "nodule", [35, 14], 14)]
    assert choose_layer(cases) == 1 and choose_layer(cases[:3]) == 0


def test_tables_of_every_map_with_the_best_one_on_validation():
    miss, hit = [35, 35], [35, 14]  # layer 1 points right
    validation = {key: [case("a", "nodule", hit if key == MAPS[3] else miss, 14)] for key in MAPS}
    test = {key: [case("b", "nodule", hit, 14)] for key in MAPS}
    tables = pointing_tables(validation, test, layers=[8, 16])
    assert [(v["map"], v["token"]) for v in tables["variants"]] == list(MAPS)
    assert tables["chosen"] == 3 and tables["variants"][3]["layer"] == 16
    assert tables["variants"][3]["validation"] == 1 and tables["variants"][3]["rows"][-1]["hit"] == 1
    assert (tables["layer"], tables["position"]) == (8, 0) and tables["rows"][-1]["hit"] == 0
    assert pointing_tables({key: [] for key in MAPS}, test, [8, 16]) is None
