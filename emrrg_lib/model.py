"""EMRRG: encode → project → prompt → LLM with hybrid layers (paper Fig. 2)."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from emrrg_lib import generation
from emrrg_lib.choices import check_choices
from emrrg_lib.config import EMRRGConfig
from emrrg_lib.files import InputError
from emrrg_lib.language.frozen import fit_for_cpu, without_dropout
from emrrg_lib.language.hybrid_decoder import install_hybrid_layers
from emrrg_lib.language.llm import build_llm, load_llm, require_llm
from emrrg_lib.language.prompt import IGNORE, first_report_position, image_slot, position_ids
from emrrg_lib.presets import preset
from emrrg_lib.sharding import Shardable, whole
from emrrg_lib.tuning.partial_lora import apply_partial_lora
from emrrg_lib.tuning.policy import add_llm_lora, set_trainable
from emrrg_lib.vision import check_finite
from emrrg_lib.vision.mamba import drop_cls
from emrrg_lib.vision.weights import build_encoder, load_encoder, require_encoder


def require_weights(config: EMRRGConfig) -> None:
    """Raises InputError unless encoder and language model are on this machine; loads neither."""
    require_encoder(config)
    require_llm(config.llm.name)


class EMRRG(Shardable):
    """The whole system.

    Args:
        config: sizes and choices. encoder: a VisionMamba or HFBackbone.
        llm, tokenizer: a causal LM and its tokenizer.

    Attributes:
        settings: the EMRRGConfig.
        encoder: with Partial LoRA if that is chosen, (I, 3, H, W) → (I, M + 1, d).
        projector, projector_norm: d → D, LayerNorm. view_embedding: (max_views, D), with views `concat`.
        llm: the causal LM with hybrid layers. Its frozen weights have the type `llm.dtype` of the config;
            weights that train have float32.
    """

    accepts_loss_kwargs = True  # so the Trainer passes num_items_in_batch to forward

    def __init__(self, config: EMRRGConfig, encoder: Any, llm: PreTrainedModel, tokenizer) -> None:
        super().__init__()
        check_choices(config, llm.config)
        hidden: int = llm.config.get_text_config().hidden_size
        self.settings, self.tokenizer = config, tokenizer  # not `config`: transformers writes into that
        self.grid: tuple[int, int] = encoder.grid
        self.cls_index: int | None = encoder.cls_index
        # The parts that every row of an ablation has are drawn first: rows of a seed share the projector.
        self.projector = nn.Linear(encoder.embed_dim, hidden)
        self.projector_norm = nn.LayerNorm(hidden)
        if config.data.views == "concat":
            self.view_embedding = nn.Embedding(config.data.max_views, hidden)
            nn.init.normal_(self.view_embedding.weight, std=0.02)
        self.llm: Any = llm if config.llm.from_scratch else without_dropout(llm)
        if config.llm.hybrid_layers:
            install_hybrid_layers(
                self.llm, config.llm.hybrid_layers, config.llm.gate_input, config.llm.kv_init, config.llm.gate
            )
        self.encoder = encoder
        if config.encoder_tuning == "lora":
            self.encoder = apply_partial_lora(encoder, config.partial_lora)
        if config.llm.tuning == "lora":
            add_llm_lora(self.llm, config.llm.lora_r)
        set_trainable(self, config)
        fit_for_cpu(self.llm)

    @classmethod
    def from_preset(cls, name: str | EMRRGConfig = "tiny") -> EMRRG:
        """Builds a preset with its pre-trained encoder and LLM; adapters and hybrid layers are new.

        Raises:
            InputError: an unknown preset, or weights that are missing or of another size.
        """
        config = preset(name) if isinstance(name, str) else name
        encoder = load_encoder(config)
        torch.manual_seed(config.train.seed)
        return cls(config, encoder, *load_llm(config.llm.name, getattr(torch, config.llm.dtype)))

    @classmethod
    def from_sizes(cls, name: str | EMRRGConfig, tokenizer=None) -> EMRRG:
        """The same architecture with random weights: nothing is loaded.

        Under `torch.device("meta")` it takes no memory, which is how the ledger counts.
        """
        config = preset(name) if isinstance(name, str) else name
        torch.manual_seed(config.train.seed)
        llm = build_llm(config.llm.name, getattr(torch, config.llm.dtype))
        return cls(config, build_encoder(config), llm, tokenizer)

    @classmethod
    def from_run(cls, run: str | Path) -> EMRRG:
        """The model of a run folder, with its trained weights; on a GPU if there is one."""
        from emrrg_lib.run_folder import read_config  # a room above this one

        config, trained = read_config(run), Path(run) / "trained.safetensors"
        if not trained.is_file():  # cheaper to see than the language model
            raise InputError(f"no trained weights at {trained}; finish the run with `emrrg train`")
        model = cls.from_preset(config).load_trained(trained)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def load_trained(self, path: str | Path) -> EMRRG:
        """Reads trained tensors (names of `state_dict()`); InputError if they are not this model's."""
        from emrrg_lib.run_folder import read_trained  # a room above this one

        tensors = read_trained(Path(path), self.trained_state(), self.settings)
        self.load_state_dict(tensors, strict=False)
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that train, by their name in `state_dict()`."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {k: whole(v) for k, v in self.state_dict().items() if k in trained}

    def train(self, mode: bool = True) -> EMRRG:
        """Sets the mode; a frozen encoder keeps eval mode (upstream leaves its drop-path on, NOTES E39)."""
        super().train(mode)
        if self.settings.encoder_tuning == "frozen":
            self.encoder.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the LLM's layers in the backward pass: less memory, more time."""
        # newer releases of transformers have renamed it
        enable = getattr(self.llm, "activation_checkpointing_enable", self.llm.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    def untouched_encoder(self) -> AbstractContextManager:
        """Within the block the encoder works without its Partial LoRA, so as before stage 3."""
        return self.encoder.disable_adapter() if isinstance(self.encoder, PeftModel) else nullcontext()

    @property
    def device(self) -> torch.device:
        """The device of the model; images are moved there."""
        return self.projector.weight.device

    def mixed_precision(self) -> torch.autocast:
        """bfloat16 autocast on a GPU with a bfloat16 LLM; elsewhere nothing is cast."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half())

    def _half(self) -> bool:
        return self.settings.llm.dtype == "bfloat16" and self.device.type == "cuda"

    def encode(
        self, pixel_values: Tensor, view_mask: Tensor | None = None, view_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images → visual states for the LLM.

        Args:
            pixel_values: (I, 3, H, W), the views that exist, study by study; or (B, V, 3, H, W).
            view_mask: (B, V) bool, True where a view exists. None: all V views exist; of (I, 3, H, W)
                each image is then a study.
            view_index: (I, 2), study and view of each image, from a collator; None: found in view_mask.

        Returns:
            (B, views·(M + 1), D) with views `concat`, (B, M + 1, D) with `mean`; and its bool mask.
        """
        if view_mask is None:
            shape = pixel_values.shape[:2] if pixel_values.dim() == 5 else (len(pixel_values), 1)
            view_mask = torch.ones(shape, dtype=torch.bool)
        if pixel_values.dim() == 5:
            pixel_values = pixel_values[view_mask.to(pixel_values.device)]
        check_finite(pixel_values)  # before they go to a GPU
        if view_index is None:
            view_index = self._view_index(view_mask, len(pixel_values))
        images, *views = (t.to(self.device, non_blocking=True) for t in (pixel_values, view_mask, view_index))
        with self.mixed_precision():
            return self.project(self.encoder(images), *views)

    def project(
        self, tokens: Tensor, view_mask: Tensor, view_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encoder tokens of the I views that exist, (I, M + 1, d), → visual states, see `encode`."""
        batch, views = view_mask.shape
        index = self._view_index(view_mask, len(tokens)) if view_index is None else view_index
        study, view = index.unbind(1)
        if self.settings.data.views == "mean":
            total = tokens.new_zeros(batch, *tokens.shape[1:])
            mean = total.index_add(0, study, tokens) / view_mask.sum(1).clamp(min=1)[:, None, None]
            return self.projector_norm(self.projector(mean)), mean.new_ones(mean.shape[:2]).bool()
        states = self.projector_norm(self.projector(tokens)) + self.view_embedding(view)[:, None]
        out = states.new_zeros(batch, views, *states.shape[1:]).index_put((study, view), states)
        mask = view_mask[:, :, None].expand(-1, -1, states.shape[1])
        return out.flatten(1, 2), mask.flatten(1, 2)

    def _view_index(self, view_mask: Tensor, images: int) -> Tensor:
        """Study and view of each image, (I, 2). Raises InputError for a mask that does not fit."""
        if self.settings.data.views == "concat" and view_mask.shape[1] > self.settings.data.max_views:
            raise InputError(
                f"a study has {view_mask.shape[1]} views, but the model knows "
                f"{self.settings.data.max_views}; leave out the others"
            )
        if not view_mask.any(dim=1).all():
            raise InputError("a study has no view: give at least one image for each")
        if images != (views := int(view_mask.sum())):
            raise InputError(f"{images} images given for the {views} views of view_mask; give one a view")
        return view_mask.nonzero()

    def llm_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, states: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """What the LLM reads: text embeddings, the visual tokens of the prompt between them, masks.

        Args:
            input_ids, attention_mask: (B, n), beginning with the prompt. states, mask: see `encode`.

        Returns:
            inputs_embeds (B, n + P, D), attention_mask (B, n + P), and, where layers attend to the image,
            visual_states, visual_mask, text_mask; the P visual tokens follow <Img> (NOTES G).
        """
        if self._half():  # projector_norm ends in float32: the LLM's residual stream and cache would too
            states = states.to(self.llm.dtype)
        embeds = self.llm.get_input_embeddings()(input_ids).to(states.dtype)
        shown, shown_mask = self.prompt_states(states, mask)
        slot = image_slot(self.tokenizer) if shown.shape[1] else 0
        text_mask = attention_mask.bool()
        inputs = {
            "inputs_embeds": torch.cat([embeds[:, :slot], shown, embeds[:, slot:]], dim=1),
            "attention_mask": torch.cat([text_mask[:, :slot], shown_mask, text_mask[:, slot:]], dim=1).long(),
        }
        if self.settings.llm.takes_visual_states:
            off = torch.zeros_like(shown_mask)
            inputs |= {
                "visual_states": states,
                "visual_mask": mask,
                "text_mask": torch.cat([text_mask[:, :slot], off, text_mask[:, slot:]], dim=1),
            }
        return inputs

    def prompt_states(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The visual tokens of the prompt, (B, P, D), and their mask: none, 2 × 2 means, or all."""
        shown = self.settings.llm.visual_in_prompt
        if shown == "none":
            return states[:, :0], mask[:, :0]
        if shown == "all":
            return states, mask
        tokens = math.prod(self.grid) + (self.cls_index is not None)
        views, there = states.unflatten(1, (-1, tokens)), mask.unflatten(1, (-1, tokens))
        patches = drop_cls(views.transpose(2, 3), self.cls_index).unflatten(-1, self.grid)  # (B, V, D, r, c)
        means = F.avg_pool2d(patches.flatten(0, 1), 2, ceil_mode=True)
        means = means.flatten(2).transpose(1, 2).unflatten(0, views.shape[:2])
        return means.flatten(1, 2), there[:, :, :1].expand(-1, -1, means.shape[2]).flatten(1)

    def forward(
        self,
        view_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        pixel_values: Tensor | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
        view_index: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Negative log-likelihood of the report, Eq. (3): the mean over all report tokens.

        Args:
            view_mask, view_index: (B, V) bool and (I, 2), see `encode`.
            input_ids, attention_mask, labels: (B, n), right padded; labels outside the report are -100.
            pixel_values: (I, 3, H, W), see `encode`.
            tokens: instead of images, (I, M + 1, d) of an encoder that has run already, see `project`.
            first: the first position that holds report tokens; None: it is looked for in `labels`.
            num_items_in_batch: report tokens of the whole optimiser step, where the batch is a part of it.
        """
        with self.mixed_precision():
            if tokens is not None:
                states, mask = self.project(tokens, view_mask, view_index)
            elif pixel_values is not None:
                states, mask = self.encode(pixel_values, view_mask, view_index)
            else:
                raise InputError("the batch has no images: give pixel_values or tokens")
            inputs = self.llm_inputs(input_ids, attention_mask, states, mask)
            shift = inputs["inputs_embeds"].shape[1] - labels.shape[1]  # visual tokens in the prompt
            # only the report's logits are needed; nothing predicts the first token
            first = first_report_position(labels) if first is None else first
            positions = torch.arange(first - 1, labels.shape[1] - 1, device=labels.device) + shift
            inputs["position_ids"] = position_ids(inputs["attention_mask"])
            logits = self.llm(**inputs, use_cache=False, logits_to_keep=positions).logits
        targets, logits = labels[:, first:].flatten(), logits.flatten(0, 1).float()
        total = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        count = (targets != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}

    generate = generation.generate  # (studies | pixel_values, view_mask=None, trace=False, **settings)
