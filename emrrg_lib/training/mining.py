"""Training targets mined from report text alone: which observations, and on which side.

No mask and no true label is read: the report is cut into sentences, each is labelled by
`label_report`, and the side words of the same sentence tell the half of the frontal image.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..data.study import OBSERVATIONS
from ..evaluation.clinical import label_report

REGIONS = ("any", "right", "left")  # the patient's right is the left half of a frontal image
UNKNOWN = -1.0  # an observation is there but its sentence names no side
SIDE_WORDS = {"right": re.compile(r"\b(right|bilateral\w*|both|biapical|bibasilar)\b"),
              "left": re.compile(r"\b(left|bilateral\w*|both|biapical|bibasilar)\b")}


def mine_targets(report: str) -> Tensor:
    """Report text → (3, 14) targets over REGIONS × OBSERVATIONS: 1 present, 0 absent, -1 unknown.

    Present means worded as positive or uncertain. Absent is everything else: these reports do not
    leave a finding out.
    """
    targets = torch.zeros(len(REGIONS), len(OBSERVATIONS))
    whole = label_report(report)
    for column, name in enumerate(OBSERVATIONS):
        if whole[name] in (1, -1):
            targets[0, column] = 1.0
            targets[1:, column] = UNKNOWN
    for sentence in re.split(r"\.\s+", report.lower()):
        sides = [bool(pattern.search(sentence)) for pattern in SIDE_WORDS.values()]
        if not any(sides):
            continue
        labels = label_report(sentence)
        for column, name in enumerate(OBSERVATIONS[1:], start=1):
            if labels[name] in (1, -1) and targets[0, column] == 1:
                found = torch.tensor(sides, dtype=torch.float32)
                targets[1:, column] = torch.maximum(targets[1:, column], found)
    return targets
