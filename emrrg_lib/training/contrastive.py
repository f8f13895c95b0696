"""Stage 2: image–report contrastive pre-training of the encoder (CXPMRG-Bench §3; upstream_audit B2).

The loss is CLIP's, in its smallest form. For the tiny kit it is too weak alone (normal reports are
near duplicates of each other), so observations mined from the same reports are a second objective:
a linear head on every token, pooled by a smooth maximum over the image or over one half of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ..data.study import OBSERVATIONS
from ..vision.encoder import VisionMamba
from .mining import REGIONS


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch; image and text are (S, P), not yet normalised."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = logit_scale.exp().clamp(max=100.0) * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def half_masks(side: int) -> Tensor:
    """(3, M + 1) bool over the tokens: all, patient's right (image left half), patient's left."""
    column = torch.arange(side * side) % side
    right = column < side / 2
    masks = torch.stack([torch.ones_like(right), right, ~right])
    middle = side * side // 2
    cls = torch.tensor([[True], [False], [False]])
    return torch.cat([masks[:, :middle], cls, masks[:, middle:]], dim=1)


class ContrastiveModel(nn.Module):
    """Encoder and a small BERT over the report, joined by the CLIP loss and the mined targets.

    Args:
        encoder: the encoder that is trained.
        vocab_size, pad_token_id: of the report tokenizer.
        text_dim, projection_dim: widths of the text tower and of the shared space.
    """

    def __init__(self, encoder: VisionMamba, vocab_size: int, pad_token_id: int,
                 text_dim: int = 128, projection_dim: int = 128) -> None:
        super().__init__()
        self.visual_encoder = encoder
        self.text_encoder = BertModel(BertConfig(
            vocab_size=vocab_size, hidden_size=text_dim, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=2 * text_dim, pad_token_id=pad_token_id,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), add_pooling_layer=False)
        d = encoder.config.embed_dim
        self.vision_proj, self.text_proj = nn.Linear(d, projection_dim), nn.Linear(text_dim, projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.observation_head = nn.Linear(d, len(OBSERVATIONS))
        nn.init.constant_(self.observation_head.bias, math.log(0.1 / encoder.config.num_patches))
        self.register_buffer("masks", half_masks(encoder.config.side), persistent=False)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(S, T) → (S, P): the state of the last valid token, projected."""
        hidden = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(dim=1) - 1
        return self.text_proj(hidden[torch.arange(len(last)), last])

    def observation_logits(self, tokens: Tensor, study: Tensor, frontal: Tensor, studies: int) -> Tensor:
        """Smooth maxima of the per-token logits, (S, 3, K): all views; right and left half, frontal.

        Args:
            tokens: (I, M + 1, d) of all images. study: (I,) their study. frontal: (I,) bool.
        """
        logits = self.observation_head(tokens)  # (I, M + 1, K)
        pooled = torch.stack([logits.masked_fill(~mask[:, None], -1e4).logsumexp(dim=1)
                              for mask in self.masks], dim=1)  # (I, 3, K)
        out = pooled.new_full((studies, *pooled.shape[1:]), -1e4)
        front, side = pooled[frontal], pooled[~frontal]
        out = out.index_copy(0, study[frontal], front)
        if len(side):
            both = torch.logaddexp(out[study[~frontal], 0], side[:, 0])
            joined = torch.cat([both[:, None], out[study[~frontal], 1:]], dim=1)
            out = out.index_copy(0, study[~frontal], joined)
        return out

    def forward(self, pixel_values: Tensor, study: Tensor, frontal: Tensor, input_ids: Tensor,
                attention_mask: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses of S studies with I ≥ S images (the first view of a study is its frontal one).

        Args:
            pixel_values: (I, 3, H, W). study: (I,). frontal: (I,) bool. input_ids,
            attention_mask: (S, T). targets: (S, 3, 14) of `mine_targets`.
        """
        studies = input_ids.shape[0]
        tokens = self.visual_encoder(pixel_values)
        means = tokens.mean(dim=1)
        count = torch.bincount(study, minlength=studies).to(means.dtype)
        image = means.new_zeros(studies, means.shape[1]).index_add(0, study, means) / count[:, None]
        contrast = clip_loss(self.vision_proj(image), self.encode_text(input_ids, attention_mask),
                             self.logit_scale)
        logits = self.observation_logits(tokens, study, frontal, studies)
        known = targets >= 0
        observe = F.binary_cross_entropy_with_logits(logits[known], targets[known])
        return {"loss": contrast / math.log(studies) + len(REGIONS) * observe,
                "contrastive": contrast.detach(), "observation": observe.detach()}
