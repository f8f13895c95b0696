"""From line integrals to a film: scatter, automatic exposure, quantum noise, tone curve."""

from __future__ import annotations

import numpy as np

SCATTER = 0.002
TOE, FOG = 0.15, 0.48


def expose(integral: np.ndarray, rng: np.random.Generator, pixel_mm: float) -> np.ndarray:
    """Develops one view.

    Args:
        integral: Line integrals of mu, (size, size).
        rng: Exposure and noise.
        pixel_mm: Pixel width; larger pixels collect more quanta.

    Returns:
        uint8 (size, size), bright where dense; a soft shoulder keeps spine and heart readable.
    """
    speed, latitude = rng.normal(0, 0.10), rng.normal(1.0, 0.06)
    quanta = rng.uniform(1.0, 2.2) * 2500 * pixel_mm
    height, width = integral.shape
    field = integral[height // 8 : -height // 8, width // 8 : -width // 8]
    low, high = np.percentile(field, (6, 88))
    signal = np.exp(-integral) + SCATTER
    noise = rng.standard_normal(integral.shape, dtype=np.float32)
    density = -np.log(signal) + noise / np.sqrt(quanta * signal)
    start = density - low + FOG + speed
    toe = TOE * np.logaddexp(0, start / TOE)
    shoulder = max(high - low, 1.6) * 0.78 * latitude
    return (255 * (1 - np.exp(-toe / shoulder))).astype(np.uint8)
