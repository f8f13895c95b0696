"""EMRRG kit: X-ray reports from a Vision-Mamba encoder, Partial LoRA and hybrid decoder layers.

The rooms of the library, each with its notebook and its section of the EMRRG paper:

    notebook            room                        paper
    00 start here       model.py, generation.py     §3.1, Fig. 2      images → tokens → prompt → LLM → report
    01 patch embedding  vision/mamba.py             §3.2              patches, cls token, positions
    02 Mamba block      vision/                     §3.2              selective scan in four directions
    03 Partial LoRA     tuning/                     §3.3              row-block updates; what trains
    04 hybrid layers    language/                   §3.4, Eq. 1, 2    gated cross-attention in a frozen LLM
    05 training         training/, data/, phantom/  §3.5, Eq. 3       fine-tuning on images with reports
    06 metrics          evaluation/                 §4.1              scores of words and of findings
    07 explorer         interpret/, explorers/      §4.5              which words opened the gates, and where
    08 pre-training     training/                   MambaXray-VL      images alone, then images with reports
    09 ablations        training/ablation.py        §4.4, Table 5, 6  one change at a time
    10 paper, release   NOTES.md                    §3, §4            where the released code differs
    11 your own EMRRG   course/                     §3.2 to 3.5       your own parts in the model

`emrrg_lib.NAME` imports the module of NAME when it is first used, so `import emrrg_lib` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

from emrrg_lib.files import set_environment

__version__ = "0.1.0"

_MODULE_OF = {  # name → module of the package
    "EMRRG": "model",
    "EMRRGConfig": "config",
    "GatedCrossAttention": "language.cross_attention",
    "InputError": "files",
    "PartialLoRAConfig": "config",
    "Study": "data.study",
    "Trace": "trace",
    "VisionMamba": "vision.mamba",
    "apply_partial_lora": "tuning.partial_lora",
    "apply_policy": "tuning.policy",
    "causal_conv1d": "vision.scan",
    "clean_report": "data.cleaning",
    "draw_study": "phantom",
    "gates_scaled": "language.hybrid_decoder",
    "install_hybrid_layers": "language.hybrid_decoder",
    "label_report": "evaluation.labeler",
    "ledger": "tuning.policy",
    "load_llm": "language.llm",
    "load_partial_lora": "tuning.partial_lora",
    "load_vision_encoder": "vision.weights",
    "pixels": "data.study_set",
    "preset": "presets",
    "read_dataset": "data.sources",
    "save_vision_encoder": "vision.weights",
    "score_reports": "evaluation.nlg",
    "selective_scan": "vision.scan",
    "write_phantom": "phantom",
}
__all__ = sorted(_MODULE_OF)
set_environment()  # before torch, transformers and numba are imported


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'emrrg_lib' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"emrrg_lib.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
