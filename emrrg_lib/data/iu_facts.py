"""What IU X-ray holds, as numbers: the collection, R2Gen's selection, cleaning, lengths and repeats.

`data/results/iu-facts/facts.json` holds the result for the real files; no text of a report is in it.

    python -m emrrg_lib.data.iu_facts annotation.json openi/NLMCXR_reports.tgz TOKENIZER facts.json
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.iu_xray import OpeniReport, openi_reports
from emrrg_lib.data.study import SPLITS
from emrrg_lib.files import write_json

BIN = 5  # tokens of one bar of the histogram
# The kit's own sentence: it shows how a tokenizer cuts such words.
EXAMPLE = "no pneumothorax or pleural effusion . mild cardiomegaly is seen ."

Tokens = Callable[[Sequence[str]], list[list[int]]]


def iu_facts(annotation: str | Path, reports: str | Path, tokens: Tokens) -> dict[str, Any]:
    """Counts the real files of IU X-ray.

    Args:
        annotation: R2Gen's annotation.json. reports: NLMCXR_reports.tgz or the folder unpacked from it.
        tokens: texts → their token ids, without special symbols.

    Returns:
        {"openi", "selection", "cleaning", "words", "tokens", "repeats"}: numbers only.

    Raises:
        InputError: a file that cannot be read, see `load_annotation` and `openi_reports`.
    """
    studies = load_annotation(annotation, check_images=False)
    raw = {split: [study.report for study in studies if study.split == split] for split in SPLITS}
    clean = {split: [clean_report(text, "iu_xray") for text in texts] for split, texts in raw.items()}
    openi = openi_reports(reports, [])
    usable = [r for r in openi if len(r.images) > 1 and r.sections.get("FINDINGS")]
    ids = {study.id for study in studies}
    selection = {
        "with findings": sum(bool(r.sections.get("FINDINGS")) for r in openi),
        "with findings and two images": len(usable),
        "of these in R2Gen's annotation": sum(r.study_id in ids for r in usable),
        **{split: len(texts) for split, texts in raw.items()},
    }
    return {
        "openi": _collection(openi),
        "selection": selection,
        "cleaning": _cleaning(sum(raw.values(), []), sum(clean.values(), [])),
        "words": {split: _spread([len(text.split()) for text in texts]) for split, texts in clean.items()},
        "tokens": {split: _lengths(tokens(texts)) for split, texts in clean.items()},
        "repeats": _repeats(raw, clean["train"], clean["test"]),
    }


def _collection(reports: Sequence[OpeniReport]) -> dict[str, Any]:
    headings = Counter(heading for r in reports for heading in {term.split("/")[0] for term in r.mesh})
    return {
        "reports": len(reports),
        "images": sum(len(r.images) for r in reports),
        "reports by number of images": dict(sorted(Counter(len(r.images) for r in reports).items())),
        "reports by section": dict(
            Counter(name for r in reports for name, text in r.sections.items() if text)
        ),
        "reports with XXXX": sum("XXXX" in " ".join(r.sections.values()) for r in reports),
        "reports tagged normal": sum(r.mesh == ("normal",) for r in reports),
        "reports by MeSH heading": dict(headings.most_common(12)),
    }


def _cleaning(raw: Sequence[str], clean: Sequence[str]) -> dict[str, Any]:
    def distinct(texts: Sequence[str]) -> int:
        return len({word for text in texts for word in text.split()})

    return {
        "distinct words before": distinct(raw),
        "distinct words after": distinct(clean),
        "reports with XXXX": sum("XXXX" in text for text in raw),
        "reports with a number that loses its point": sum(bool(re.search(r"\d\.\d", t)) for t in raw),
        "reports with a double space left behind": sum("  " in text for text in clean),
    }


def _spread(lengths: Sequence[int] | np.ndarray) -> dict[str, float]:
    median, high, longest = np.percentile(lengths, [50, 90, 100])
    return {"median": float(median), "90 % up to": float(high), "longest": int(longest)}


def _lengths(ids: list[list[int]]) -> dict[str, Any]:
    lengths = np.array([len(row) for row in ids])
    return _spread(lengths) | {
        "above 60": round(float((lengths > 60).mean()), 4),
        "above 100": round(float((lengths > 100).mean()), 4),
        "below 40": round(float((lengths < 40).mean()), 4),
        "tokens beyond 60": round(float(np.maximum(lengths - 60, 0).sum() / lengths.sum()), 4),
        f"histogram in bins of {BIN}": np.bincount(lengths // BIN).tolist(),
    }


def _repeats(raw: dict[str, list[str]], train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    seen, whole = set(train), {" ".join(text.split()) for text in raw["train"]}
    frequent, times = Counter(train).most_common(1)[0]
    known = {sentence for text in train for sentence in _sentences(text)}
    asked = [sentence for text in test for sentence in _sentences(text)]
    common = Counter(asked).most_common(10)
    return {
        "distinct training reports": len(seen),
        "most frequent training report": times,
        "the same report in test": test.count(frequent),
        "test reports also in train": sum(" ".join(text.split()) in whole for text in raw["test"]),
        "test reports also in train, cleaned": sum(text in seen for text in test),
        "test sentences": len(asked),
        "test sentences also in train": sum(sentence in known for sentence in asked),
        "test sentences that are one of the ten commonest": sum(count for _, count in common),
    }


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in text.split(" . ") if part.strip(" .")]


def main(annotation: str, reports: str, tokenizer: str, out: str) -> None:
    """Writes the facts as JSON, with how the tokenizer in the folder TOKENIZER cuts `EXAMPLE`."""
    from transformers import AutoTokenizer

    model = AutoTokenizer.from_pretrained(tokenizer)
    ids = model(EXAMPLE, add_special_tokens=False).input_ids
    facts = iu_facts(
        annotation, reports, lambda texts: model(list(texts), add_special_tokens=False).input_ids
    )
    example = {"text": EXAMPLE, "ids": ids, "pieces": [model.decode([i]) for i in ids]}
    write_json(Path(out), facts | {"example": example})


if __name__ == "__main__":
    main(*sys.argv[1:])
