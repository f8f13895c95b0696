"""EMRRG kit: X-ray reports from a Vision-Mamba encoder, Partial LoRA and hybrid decoder layers.

The rooms follow the data: image -> tokens (`vision`) -> tuned weights (`tuning`) -> language
(`language`, `model`) -> report -> score (`evaluation`) -> picture (`interpret`).
Importing the package loads nothing heavy; `emrrg --help` lists what it does.
"""

__version__ = "0.1.0"
