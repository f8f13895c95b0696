"""EMRRG: encode → project → prompt → LLM with hybrid layers (paper Fig. 2)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .config import EMRRGConfig, preset
from .errors import InputError
from .generation import generate_reports
from .language.hybrid_decoder import install_hybrid_layers
from .language.llm import TINY_DIR, load_llm
from .language.prompt import IGNORE
from .tuning.partial_lora import apply_partial_lora
from .tuning.policy import set_trainable
from .vision.checkpoints import load_vision_encoder

TINY_ENCODER_FILE = TINY_DIR / "encoder" / "encoder.safetensors"


class EMRRG(nn.Module):
    """The whole system.

    Args:
        config: sizes and choices. encoder: a VisionMamba. llm, tokenizer: a causal LM and its own.

    Attributes:
        settings: the EMRRGConfig.
        encoder: the VisionMamba under Partial LoRA, (I, 3, H, W) → (I, M + 1, d).
        projector, projector_norm: d → D, LayerNorm. view_embedding: (max_views, D), learned.
        llm: the causal LM with hybrid layers.
    """

    accepts_loss_kwargs = True  # tells the Trainer to pass num_items_in_batch to forward

    def __init__(self, config: EMRRGConfig, encoder: nn.Module, llm: nn.Module, tokenizer) -> None:
        super().__init__()
        _check_choices(config)
        hidden = llm.config.get_text_config().hidden_size
        self.settings, self.tokenizer = config, tokenizer  # not `config`: transformers writes into that
        self.encoder = apply_partial_lora(encoder, config.partial_lora)
        self.projector = nn.Linear(config.encoder.embed_dim, hidden)
        self.projector_norm = nn.LayerNorm(hidden)
        self.view_embedding = nn.Embedding(config.data.max_views, hidden)
        nn.init.normal_(self.view_embedding.weight, std=0.02)
        self.llm = install_hybrid_layers(llm, config.llm.hybrid_layers, config.llm.gate_input)
        set_trainable(self)

    @classmethod
    def from_preset(cls, name: str | EMRRGConfig = "tiny") -> EMRRG:
        """Builds a preset with its pre-trained encoder and LLM; adapters and hybrid layers are new."""
        config = preset(name) if isinstance(name, str) else name
        source = TINY_ENCODER_FILE if config.encoder_weights == "tiny" else config.encoder_weights
        encoder = load_vision_encoder(source, config.encoder.image_size, config.encoder.drop_path)
        if encoder.config != config.encoder:
            raise InputError(f"the encoder in {source} is {encoder.config}, but the preset asks for "
                             f"{config.encoder}; choose weights of that size")
        torch.manual_seed(config.train.seed)
        return cls(config, encoder, *load_llm(config.llm.name))

    @classmethod
    def from_run(cls, run: str | Path) -> EMRRG:
        """Rebuilds the model of a run folder: its config, the base weights, what was trained."""
        from .runs import read_config
        model = cls.from_preset(read_config(run))
        return model.load_trained(Path(run) / "trained.safetensors").eval()

    def load_trained(self, path: str | Path) -> EMRRG:
        """Reads trained tensors (names of `state_dict()`); InputError if they are not this model's."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no trained weights at {path}; finish the run with `emrrg train`")
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own type for a damaged file
            raise InputError(f"{path} is damaged ({error}); train again or copy it again") from error
        wanted = self.trained_state()
        wrong = sorted(wanted.keys() ^ tensors.keys()) or sorted(
            k for k in wanted if wanted[k].shape != tensors[k].shape)
        if wrong:
            raise InputError(f"{path} does not fit this model: {len(wrong)} tensors differ, first "
                             f"'{wrong[0]}'; was the config changed?")
        self.load_state_dict(tensors, strict=False)
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that train, by their name in `state_dict()`."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {k: v for k, v in self.state_dict().items() if k in trained}

    def train(self, mode: bool = True) -> EMRRG:
        """Frozen parts stay in eval mode: upstream trains a frozen encoder with drop-path (audit E39)."""
        super().train(mode)
        self.llm.eval()
        return self

    def encode(self, pixel_values: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Images → visual states for the LLM.

        Args:
            pixel_values: (B, V, 3, H, W). view_mask: (B, V) bool, True where a view is present.

        Returns:
            (B, V·(M + 1), D) with views `concat`, (B, M + 1, D) with `mean`; and its bool mask.
        """
        return self.project(self.encoder(pixel_values[view_mask]), view_mask)

    def project(self, tokens: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder tokens of the I views that exist, (I, M + 1, d), → visual states, see `encode`."""
        batch, views = view_mask.shape
        self._check_views(view_mask)
        if self.settings.data.views == "mean":
            total = tokens.new_zeros(batch, *tokens.shape[1:])
            owner = view_mask.nonzero()[:, 0]
            mean = total.index_add(0, owner, tokens) / view_mask.sum(1).clamp(min=1)[:, None, None]
            return self.projector_norm(self.projector(mean)), mean.new_ones(mean.shape[:2]).bool()
        which = view_mask.nonzero()[:, 1]
        states = self.projector_norm(self.projector(tokens)) + self.view_embedding(which)[:, None]
        out = states.new_zeros(batch, views, *states.shape[1:])
        out = out.masked_scatter(view_mask[:, :, None, None], states)
        mask = view_mask[:, :, None].expand(-1, -1, states.shape[1])
        return out.flatten(1, 2), mask.flatten(1, 2)

    def _check_views(self, view_mask: Tensor) -> None:
        if view_mask.shape[1] > self.settings.data.max_views:
            raise InputError(f"a study has {view_mask.shape[1]} views, but the model knows "
                             f"{self.settings.data.max_views}; leave out the others")
        if not view_mask.any(dim=1).all():
            raise InputError("a study has no view: give at least one image for each")

    def forward(self, view_mask: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor,
                pixel_values: Tensor | None = None, tokens: Tensor | None = None,
                num_items_in_batch: Tensor | int | None = None) -> dict[str, Tensor]:
        """Negative log-likelihood of the report, Eq. (3): the mean over all report tokens.

        Args:
            view_mask: (B, V) bool. input_ids, attention_mask, labels: (B, n), right padded; labels
            are -100 off the report. pixel_values: (B, V, 3, H, W), see `encode`; or tokens:
            (I, M + 1, d) of an encoder that has run already, see `project`.
            num_items_in_batch: report tokens of the whole optimiser step, when this is a part of it.
        """
        states, mask = (self.encode(pixel_values, view_mask) if tokens is None
                        else self.project(tokens, view_mask))
        # logits before the report are not needed; the first token of all has none that predicts it
        first = max(1, int((labels != IGNORE).any(dim=0).nonzero()[0]))
        positions = torch.arange(first - 1, labels.shape[1] - 1, device=labels.device)
        logits = self.llm(input_ids=input_ids, attention_mask=attention_mask, visual_states=states,
                          visual_mask=mask, text_mask=attention_mask.bool(), use_cache=False,
                          logits_to_keep=positions).logits
        targets = labels[:, first:]
        total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE,
                                reduction="sum")
        count = (targets != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}

    def generate(self, pixel_values: Tensor, view_mask: Tensor | None = None, trace: bool = False,
                 **settings):
        """Writes reports; see `emrrg_lib.generation.generate_reports`.

        Returns:
            list[str]; with `trace=True` a pair with the list of `Trace`, one a report.
        """
        return generate_reports(self, pixel_values, view_mask, trace=trace, **settings)


def _check_choices(config: EMRRGConfig) -> None:
    """Raises InputError for a choice that the model would otherwise pass over in silence."""
    if config.data.views not in ("concat", "mean"):
        raise InputError(f"data.views must be 'concat' or 'mean', got '{config.data.views}'")
    if config.llm.visual_in_prompt != "none":
        raise InputError(f"llm.visual_in_prompt '{config.llm.visual_in_prompt}' does not exist; use 'none': "
                         "visual tokens enter through the hybrid layers")
