"""Stage 2: image–report contrastive pre-training of the encoder (CXPMRG-Bench §2, Eq. 3; audit B2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..files import atomic_path
from ..vision.encoder import VisionMamba
from .clip_loss import clip_loss, gather_batch
from .mining import ObservationHead

AUXILIARY = "observations."  # the kit's own part, which upstream's file does not know


class ContrastiveModel(nn.Module):
    """Encoder and text tower, joined by the CLIP loss; optionally the observations mined from reports.

    Args:
        encoder: the encoder that is trained: VisionMamba or any other that stands in its place.
        text_encoder: any model that returns `last_hidden_state` (S, T, D).
        projection_dim: width of the shared space; 2048 upstream.
        train_text: whether the text tower trains too, as upstream.
        observation_weight: of the auxiliary objective of `mining.py`; 0 leaves it out.
    """

    def __init__(self, encoder: VisionMamba, text_encoder: PreTrainedModel, projection_dim: int = 2048,
                 train_text: bool = True, observation_weight: float = 0.0) -> None:
        super().__init__()
        d, width = encoder.embed_dim, text_encoder.config.hidden_size
        self.visual_encoder, self.text_encoder = encoder, text_encoder.requires_grad_(train_text)
        self.vision_proj, self.text_proj = nn.Linear(d, projection_dim), nn.Linear(width, projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.observation_weight = observation_weight
        self.observations = (ObservationHead(d, encoder.grid, encoder.cls_index) if observation_weight
                             else None)

    def encode_image(self, tokens: Tensor, study: Tensor, studies: int) -> Tensor:
        """Tokens (I, M + 1, d) of all views → (S, P): mean over tokens, cls included, then over views."""
        means = tokens.mean(dim=1)
        count = torch.bincount(study, minlength=studies).to(means.dtype)
        total = means.new_zeros(studies, means.shape[1]).index_add(0, study, means)
        return self.vision_proj(total / count[:, None])

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(S, T) padded on the right → (S, P): the state of the last valid token, projected."""
        hidden = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(dim=1) - 1
        return self.text_proj(hidden[torch.arange(len(last), device=last.device), last])

    def forward(self, pixel_values: Tensor, study: Tensor, input_ids: Tensor, attention_mask: Tensor,
                frontal: Tensor | None = None, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of S studies with I ≥ S images, over the studies of all processes.

        Args:
            pixel_values: (I, 3, H, W). study: (I,) the study of each image.
            input_ids, attention_mask: (S, T).
            frontal: (I,) bool and targets: (S, 3, 14), for the auxiliary objective only.
        """
        studies = len(input_ids)
        tokens = self.visual_encoder(pixel_values)
        image = gather_batch(self.encode_image(tokens, study, studies))
        text = gather_batch(self.encode_text(input_ids, attention_mask))
        loss = clip_loss(image, text, self.logit_scale)
        if self.observations is None:
            return {"loss": loss}
        observed = self.observations(tokens, study, frontal, targets)
        return {"loss": loss + self.observation_weight * observed,
                "contrastive": loss.detach(), "observation": observed.detach()}


def save_stage2(model: ContrastiveModel, path: Path, epoch: int, step: int,
                settings: Mapping[str, Any]) -> Path:
    """Writes upstream's stage-2 container: `model` (what trained), `config`, `epoch`, `step`."""
    trained = {name: p.detach() for name, p in model.named_parameters()
               if p.requires_grad and not name.startswith(AUXILIARY)}
    with atomic_path(path) as temporary:
        torch.save({"model": trained, "config": dict(settings), "epoch": epoch, "step": step}, temporary)
    return Path(path)
