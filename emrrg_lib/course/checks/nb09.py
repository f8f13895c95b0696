"""Checks of notebook 09, ablations. Truth: settings spelled out, means and deviations computed by hand,
resamples of studies drawn one by one, and an integral over the normal distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist, mean

import numpy as np
import pandas as pd

from emrrg_lib.course.checks import Mistake, call, exercise, expect, expect_value
from emrrg_lib.files import InputError
from emrrg_lib.presets import preset
from emrrg_lib.training.ablation_rows import Row, row_config


@exercise(1)
def check_1(settings: str) -> str:
    """The line's words give LoRA_P(X) of rank 4 with a plain LLM, from any preset."""
    expect(
        isinstance(settings, str), f"Yours is a {type(settings).__name__}, expected a text: words KEY=VALUE."
    )
    expect("," not in settings, "The words are parted by blanks; a comma parts the columns of the CSV.")
    row = Row("LoRA_P(X), r = 4", settings, "", "", "", "", "")
    for name in ("tiny", "iu-xray"):
        try:
            config = row_config(preset(name), row)
        except InputError as error:
            raise Mistake(f"row_config refuses it: {error}") from error
        start, lora, llm = preset(name), config.partial_lora, config.llm
        expect(
            config.encoder_tuning == "lora", f"The encoder is tuned as {config.encoder_tuning!r}, not 'lora'."
        )
        expect(
            lora.targets == ("X",),
            f"Partial LoRA acts on {', '.join(lora.targets)}, expected X alone: a "
            "policy of Table 6 names it.",
        )
        expect(llm.lora_r == start.llm.lora_r, "llm.lora_r is the rank of LoRA in the language model.")
        expect(lora.r == 4, f"From the preset {name} the rank is {lora.r}, expected 4: partial_lora.r.")
        expect(llm.hybrid_layers == (), "The language model has hybrid layers; Table 6 runs a plain one.")
        expect(llm.tuning == "frozen", "The language model has its own LoRA: then two things differ.")
        spelled_out = replace(
            start,
            encoder_tuning="lora",
            partial_lora=replace(start.partial_lora, targets=("X",), r=4),
            llm=replace(start.llm, hybrid_layers=(), visual_in_prompt="all"),
        )
        expect(config == spelled_out, "Something else has changed: a row changes only what it names.")
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
    frame = _frame()
    yours = call(mean_and_sd, frame, "Bleu_4")
    expect(frame.equals(_frame()), "Your function changes the table that it is given; take a part of it.")
    expect(isinstance(yours, dict), f"Yours is a {type(yours).__name__}, expected a dict: row → (mean, sd).")
    expect("constant report" not in yours, "A control is not a row: keep the source 'this run'.")
    expect("d" not in yours, "d was left out; it has no value, so no mean.")
    expect(set(yours) == {"a", "b", "c"}, f"Yours has {sorted(map(str, yours))}, expected a, b and c.")
    two = all(hasattr(value, "__len__") and len(value) == 2 for value in yours.values())
    expect(two, "Each row has two values: (mean, sd).")
    slips = {0.5: "your mean holds the paper's value, which belongs to other data."}
    expect_value(yours["a"][0], 0.3, "a has 0.2 and 0.4.", slips, "a")
    expect_value(yours["c"][0], 0.3, "c has 0.1, 0.2 and 0.6; their mean, not their median.")
    alone = yours["b"][1]
    expect(alone is None, f"b has one seed, yours says sd {alone}: one value has no spread, return None.")
    for row, squares, count in (("c", 0.14, 3), ("a", 0.02, 2)):  # sums of squared deviations
        variance = squares / (count - 1)
        slips = {
            math.sqrt(squares / count): f"you divide by n = {count}; the mean uses the same values: n − 1.",
            math.sqrt(variance / count): "that is the error of the mean, sd / √n; the exercise asks for sd.",
            variance: "that is the variance; take its root.",
        }
        cause = f"the root of {squares} / {count - 1}."
        expect_value(yours[row][1], math.sqrt(variance), cause, slips, row)
    yours = call(mean_and_sd, _frame(), "CIDEr")
    expect_value(yours["a"][0], 0.6, "for CIDEr: does your function read the metric that it is given?")


@exercise(3)
def check_3(paired: Callable) -> None:
    """`paired(a, b, draws)` → (difference, low, high) against resamples drawn study by study."""
    rng = np.random.default_rng(3)
    hard, own = rng.normal(0, 3, 40), rng.normal(0, 0.5, (2, 40))  # of a study; of a study for a row
    a, b = (
        hard + each + shift + rng.normal(0, 0.2, (3, 40)) for each, shift in zip(own, (0.1, 0), strict=True)
    )
    chosen = np.random.default_rng(4).integers(0, 40, (800, 40))  # studies, with replacement
    draws = np.stack([np.bincount(each, minlength=40) for each in chosen])
    yours = np.asarray(call(paired, a.copy(), b.copy(), draws.copy()), dtype=float)
    expect(yours.shape == (3,), f"Yours has shape {yours.shape}, expected (difference, low, high).")
    value = float(mean(a.ravel().tolist()) - mean(b.ravel().tolist()))
    cause = "the mean of a, over seeds and studies, minus that of b."
    expect_value(yours[0], value, cause, {-value: "The sign is turned: a minus b."})
    gaps = [mean(float(x) for x in (a[:, each] - b[:, each]).ravel()) for each in chosen]
    width, ours = float(np.ptp(yours[1:])), np.percentile(gaps, [2.5, 97.5])
    expect(yours[1] <= yours[2], "low is above high.")
    expect(width > 1e-9, "Your interval has no width.")
    one_seed = [mean(float(x) for x in a[0, each] - b[0, each]) for each in chosen]
    slips = [
        (40 * ours, "divide a drawn sum by the number of studies."),
        (np.percentile(gaps, [5, 95]), "that is the middle 90 %."),
        (np.percentile(one_seed, [2.5, 97.5]), "only the first seed is used."),
    ]
    cause = "the 2.5th and 97.5th percentile of the drawn differences."
    if width > 3 * np.ptp(ours):
        cause = "far too wide: a and b must see the same drawn studies."
    elif width < 0.75 * np.ptp(ours):
        cause = "too narrow: the seeds of a study are not new studies; average over seeds first."
    expect_value(yours[1:], ours, cause, slips, "Interval", tolerance=1e-6)


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
    truth = 1 / math.sqrt(math.pi)
    slips = {
        2 * truth: "that is highest − lowest; the exercise asks for highest − truth.",
        math.sqrt(2 * math.log(2)): "√(2 ln k) holds for huge k only.",
    }
    cause, yours = "the mean of the larger of two equal rows, 1/√π.", float(call(best_of, 2, 1.0, 1))
    expect_value(yours, truth, cause, slips, "k = 2, sd 1", tolerance=0.03)
    truth = 0.01 * _best(11)
    slips = {
        truth / 100: "sd is not a variance, do not square it.",
        truth * 10: "sd is not a variance, take no root of it.",
    }
    cause, yours = "it is proportional to sd; too few draws?", float(call(best_of, 11, 0.01, 1))
    expect_value(yours, truth, cause, slips, "k = 11, sd 0.01", tolerance=0.018)
    truth = _best(6) / 2
    slips = {
        2 * truth: "the mean of 4 seeds has half the sd.",
        truth / 2: "divide by √seeds, not by seeds.",
        _best(24): "that is the best of all trainings; take the mean of each row's seeds first.",
    }
    yours = float(call(best_of, 6, 1.0, 4))
    expect_value(yours, truth, "the best of 6 means.", slips, "k = 6, sd 1, 4 seeds", tolerance=0.03)
    return f"The best of 11 equal rows, one seed each, looks {_best(11):.2f} sd better than it is."
