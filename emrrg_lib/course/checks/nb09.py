"""Checks of notebook 09, ablations. Truth: settings spelled out, means and deviations computed by hand,
resamples of studies drawn one by one, and an integral over the normal distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist, mean

import numpy as np
import pandas as pd

from emrrg_lib.config import preset
from emrrg_lib.course.checks import Mistake, call, exercise, expect, expect_close
from emrrg_lib.files import InputError
from emrrg_lib.training.ablation_rows import Row, row_config


@exercise(1)
def check_1(settings: str) -> str:
    """The line's words give LoRA_P(X) of rank 4 with a plain LLM, from any preset."""
    expect(
        isinstance(settings, str),
        f"Yours is a {type(settings).__name__}, expected a text of words KEY=VALUE.",
    )
    expect(
        "," not in settings, "Words of the line are parted by blanks; a comma parts the columns of the CSV."
    )
    row = Row("LoRA_P(X), r = 4", settings, "", "", "", "", "")
    for name in ("tiny", "iu-xray"):
        try:
            config = row_config(preset(name), row)
        except InputError as error:
            raise Mistake(f"row_config refuses it: {error}") from error
        start, lora, llm = preset(name), config.partial_lora, config.llm
        expect(
            config.encoder_tuning == "lora",
            f"The encoder is tuned as {config.encoder_tuning!r}, expected 'lora'.",
        )
        expect(
            lora.targets == ("X",),
            f"Partial LoRA acts on {', '.join(lora.targets)}, expected X alone: a "
            "policy of Table 6 names it.",
        )
        expect(llm.lora_r == start.llm.lora_r, "llm.lora_r is the rank of LoRA in the language model.")
        expect(lora.r == 4, f"From the preset {name} the rank is {lora.r}, expected 4: partial_lora.r.")
        expect(llm.hybrid_layers == (), "The language model has hybrid layers; Table 6 runs a plain one.")
        expect(llm.tuning == "frozen", "The language model has a LoRA of its own: then two things differ.")
        spelled_out = replace(
            start,
            encoder_tuning="lora",
            partial_lora=replace(start.partial_lora, targets=("X",), r=4),
            llm=replace(start.llm, hybrid_layers=(), visual_in_prompt="all"),
        )
        expect(
            config == spelled_out,
            "Something else has changed: a row differs from its neighbours in what it names, no more.",
        )
    return "12 blocks of the base encoder times 4 · (768 + 768): 73,728 weights, an eighth of rank 32."


def _frame() -> pd.DataFrame:
    lines = [
        ("this run", "a", 0, 0.2),
        ("this run", "a", 1, 0.4),
        ("this run", "b", 0, 0.5),
        ("this run", "c", 0, 0.1),
        ("this run", "c", 1, 0.2),
        ("this run", "c", 2, 0.6),
        ("left out", "d", None, None),
        ("control", "constant report", None, 0.3),
        ("paper, IU X-Ray", "a", None, 0.9),
    ]
    frame = pd.DataFrame(lines, columns=["source", "row", "seed", "Bleu_4"])
    return frame.assign(CIDEr=2 * frame["Bleu_4"])


@exercise(2)
def check_2(mean_and_sd: Callable) -> None:
    """`mean_and_sd(frame, metric)` → {row: (mean, sd or None)} on a small table."""
    yours = call(mean_and_sd, _frame(), "Bleu_4")
    expect(isinstance(yours, dict), f"Yours is a {type(yours).__name__}, expected a dict: row → (mean, sd).")
    expect("constant report" not in yours, "A control is no row of the ablation: keep the source 'this run'.")
    expect("d" not in yours, "d was left out; it has no value, so no mean.")
    expect(set(yours) == {"a", "b", "c"}, f"Yours has {sorted(map(str, yours))}, expected a, b and c.")
    expect(all(len(value) == 2 for value in yours.values()), "Each row has two values: (mean, sd).")
    expect(not math.isclose(yours["a"][0], 0.5), "a: your mean holds the paper's value, of other data.")
    expect_close(yours["a"][0], 0.3, "a has 0.2 and 0.4.")
    expect_close(yours["c"][0], 0.3, "c has 0.1, 0.2 and 0.6; their mean, not their median.")
    alone = yours["b"][1]
    expect(
        alone is None,
        f"b has one seed, yours says sd {alone}: one value tells nothing of a spread, say None.",
    )
    for row, squares, count in (("c", 0.14, 3), ("a", 0.02, 2)):  # sums of squared deviations
        slips = {
            squares / count: f"you divide by n = {count}; the mean comes from the same values, so n − 1",
            squares / (count - 1) / count: "that is the error of the mean, sd / √n; asked is sd",
        }
        for variance, slip in slips.items():
            expect(not math.isclose(yours[row][1], math.sqrt(variance), rel_tol=1e-6), f"{row}: {slip}.")
        expect(
            not math.isclose(yours[row][1], squares / (count - 1)),
            f"{row}: that is the variance; take its root.",
        )
        expect_close(
            yours[row][1], math.sqrt(squares / (count - 1)), f"{row}: the root of {squares} / {count - 1}."
        )
    yours = call(mean_and_sd, _frame(), "CIDEr")
    expect_close(yours["a"][0], 0.6, "for CIDEr: is the metric that is asked for the one that is read?")


@exercise(3)
def check_3(paired: Callable) -> None:
    """`paired(a, b, draws)` → (difference, low, high) against resamples drawn study by study."""
    rng = np.random.default_rng(3)
    hard, own = rng.normal(0, 3, 40), rng.normal(0, 0.5, (2, 40))  # of a study; of a study for a row
    a, b = (
        hard + each + shift + rng.normal(0, 0.2, (3, 40)) for each, shift in zip(own, (0.1, 0), strict=True)
    )
    chosen = np.random.default_rng(4).integers(0, 40, (800, 40))  # studies, with replacement
    draws = np.stack([np.bincount(each, minlength=40) for each in chosen]).astype(float)
    yours = np.asarray(call(paired, a.copy(), b.copy(), draws.copy()), dtype=float)
    expect(yours.shape == (3,), f"Yours has shape {yours.shape}, expected (difference, low, high).")
    value = float(mean(a.ravel().tolist()) - mean(b.ravel().tolist()))
    expect(not np.isclose(yours[0], -value), "The sign is turned: a minus b.")
    expect_close(yours[0], value, "the mean of a, over seeds and studies, minus that of b.")
    gaps = [mean(float(x) for x in (a[:, each] - b[:, each]).ravel()) for each in chosen]
    width, ours = float(np.ptp(yours[1:])), np.percentile(gaps, [2.5, 97.5])
    told = f"Interval: yours [{yours[1]:.3f}, {yours[2]:.3f}], expected [{ours[0]:.3f}, {ours[1]:.3f}]: "
    expect(yours[1] <= yours[2], "low is above high.")
    expect(not np.allclose(yours[1:], 40 * ours), told + "divide a drawn sum by the number of studies.")
    expect(not np.allclose(yours[1:], np.percentile(gaps, [5, 95])), told + "that is the middle 90 %.")
    expect(width > 1e-9, told + "it has no width.")
    one_seed = [mean(float(x) for x in a[0, each] - b[0, each]) for each in chosen]
    expect(
        not np.allclose(yours[1:], np.percentile(one_seed, [2.5, 97.5])),
        told + "only the first seed is used.",
    )
    expect(width < 3 * np.ptp(ours), told + "far too wide: a and b must see the same drawn studies.")
    expect(
        width > 0.75 * np.ptp(ours),
        told + "too narrow: the seeds of one study rise and fall together, "
        "they are no new studies; average over seeds first.",
    )
    expect_close(yours[1:], ours, "the 2.5th and 97.5th percentile of the drawn differences.", tolerance=1e-6)


def _best(k: int) -> float:
    """Mean of the largest of k standard normal values, by a sum over a fine grid."""
    x, normal = np.linspace(-8, 8, 4001), NormalDist()
    below = np.array([normal.cdf(value) for value in x])
    density = k * np.array([normal.pdf(value) for value in x]) * below ** (k - 1)
    return float((x * density).sum() * (x[1] - x[0]))


@exercise(4)
def check_4(best_of: Callable) -> str:
    """`best_of(k, sd, seeds)` against the integral; a simulation may be off by 2 %."""
    yours = float(call(best_of, 1, 2.0, 1))
    expect(abs(yours) < 0.06, f"k = 1: yours {yours:.3f}, expected 0: with one row there is no choice.")
    yours, truth = float(call(best_of, 2, 1.0, 1)), 1 / math.sqrt(math.pi)
    told = f"k = 2, sd 1: yours {yours:.3f}, expected 1/√π = {truth:.3f}: "
    expect(
        not math.isclose(yours, 2 * truth, rel_tol=0.03),
        told + "that is highest − lowest; asked is highest − truth.",
    )
    expect(
        not math.isclose(yours, math.sqrt(2 * math.log(2)), rel_tol=0.01),
        told + "√(2 ln k) holds for huge k only.",
    )
    expect(math.isclose(yours, truth, rel_tol=0.03), told + "the mean of the larger of two equal rows.")
    yours, truth = float(call(best_of, 11, 0.01, 1)), 0.01 * _best(11)
    told = f"k = 11, sd 0.01: yours {yours:.5f}, expected {truth:.5f}: "
    expect(not math.isclose(yours, truth / 100, rel_tol=0.05), told + "sd is no variance, do not square it.")
    expect(not math.isclose(yours, truth * 10, rel_tol=0.05), told + "sd is no variance, take no root of it.")
    expect(math.isclose(yours, truth, rel_tol=0.03), told + "it is proportional to sd; too few draws?")
    yours, truth = float(call(best_of, 6, 1.0, 4)), _best(6) / 2
    told = f"k = 6, sd 1, 4 seeds: yours {yours:.3f}, expected {truth:.3f}: "
    expect(not math.isclose(yours, 2 * truth, rel_tol=0.03), told + "the mean of 4 seeds has half the sd.")
    expect(not math.isclose(yours, truth / 2, rel_tol=0.03), told + "divide by √seeds, not by seeds.")
    expect(
        not math.isclose(yours, _best(24), rel_tol=0.03),
        told + "yours is the best of all trainings; first the mean of a row's seeds, then the best row.",
    )
    expect(math.isclose(yours, truth, rel_tol=0.03), told + "the best of 6 means.")
    return f"The best of 11 equal rows, one seed each, looks {_best(11):.2f} sd better than it is."
