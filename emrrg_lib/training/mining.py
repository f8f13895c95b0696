"""An auxiliary objective of stage 2, the kit's own: observations and their side, mined from report text.

No mask and no true label is read: the report is cut into sentences, each is labelled by
`label_report`, and the side words of the same sentence tell the half of the frontal image.
"""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def half_masks(grid: tuple[int, int], cls_index: int | None) -> Tensor:
    """(3, tokens) bool: all tokens; the patient's right (image left half) and left, without the cls token."""
    rows, columns = grid
    right = (torch.arange(columns) < columns / 2).repeat(rows)
    masks = torch.stack([torch.ones_like(right), right, ~right])
    if cls_index is None:
        return masks
    cls = torch.tensor([[True], [False], [False]])
    return torch.cat([masks[:, :cls_index], cls, masks[:, cls_index:]], dim=1)


class ObservationHead(nn.Module):
    """A linear head on every token, pooled by a smooth maximum over the image or one half of it.

    Args:
        dim: width of the encoder's tokens.
        grid, cls_index: of the encoder: patches along the edges, place of the cls token or None.
    """

    def __init__(self, dim: int, grid: tuple[int, int], cls_index: int | None) -> None:
        super().__init__()
        self.head = nn.Linear(dim, len(OBSERVATIONS))
        nn.init.constant_(self.head.bias, math.log(0.1 / math.prod(grid)))
        self.register_buffer("masks", half_masks(grid, cls_index), persistent=False)

    def logits(self, tokens: Tensor, study: Tensor, frontal: Tensor, studies: int) -> Tensor:
        """Smooth maxima of the per-token logits, (S, 3, 14): all views; right and left half, frontal.

        Args:
            tokens: (I, M + 1, d) of all images. study: (I,) their study. frontal: (I,) bool, the
            first view of each study.
        """
        logits = self.head(tokens)  # (I, M + 1, 14)
        pooled = torch.stack([logits.masked_fill(~mask[:, None], -1e4).logsumexp(dim=1)
                              for mask in self.masks], dim=1)  # (I, 3, 14)
        out = pooled.new_full((studies, *pooled.shape[1:]), -1e4)
        front, side = pooled[frontal], pooled[~frontal]
        out = out.index_copy(0, study[frontal], front)
        if len(side):
            both = torch.logaddexp(out[study[~frontal], 0], side[:, 0])
            joined = torch.cat([both[:, None], out[study[~frontal], 1:]], dim=1)
            out = out.index_copy(0, study[~frontal], joined)
        return out

    def forward(self, tokens: Tensor, study: Tensor, frontal: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with targets (S, 3, 14), 0 where a report does not tell; the mean over all of them.

        A mean over the known ones would differ between one process and several.
        """
        known = (targets != UNKNOWN).float()
        logits = self.logits(tokens, study, frontal, len(targets))
        return F.binary_cross_entropy_with_logits(logits, targets * known, weight=known)
