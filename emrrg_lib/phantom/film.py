"""From a scene to a film: Beer-Lambert line integrals in closed form, then exposure and noise.

A ray through the image point (u, v) runs along the view's depth axis t. Every body is an
intersection of quadrics and half-spaces, hence convex, so a ray meets it in one interval
[t0, t1] that a quadratic equation gives. Bodies are *painted*: where two overlap, the later
one counts (the heart displaces lung, air displaces the heart's neighbour). Tubes and
blobs are *added* on top (ribs, vessels, haze). The film adds scatter, automatic exposure, quantum
noise and a tone curve.
"""

from __future__ import annotations

import numpy as np

from emrrg_lib.phantom.shapes import FAR, Body, Scene, View, add_tubes, paint


def _offsets(parts: list[list]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int32)


def _pack_bodies(bodies: list[Body], frame: np.ndarray) -> tuple:
    """Turns bodies into the kernel's arrays, in paint order and in view coordinates."""
    centres = np.array([c for b in bodies for c, _ in b.quadrics]) @ frame.T
    matrices = frame @ np.array([m for b in bodies for _, m in b.quadrics]) @ frame.T
    index = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    quadrics = np.stack([matrices[:, i, j] for i, j in index] + list(centres.T), axis=1)
    rows = [(*(frame @ n), h) for b in bodies for n, h in b.planes] or [(0.0, 0.0, 0.0, 0.0)]
    q_of = _offsets([b.quadrics for b in bodies])
    boxes = np.full((len(bodies), 4), [-FAR, FAR, -FAR, FAR])
    bounded = np.linalg.det(matrices) > 1e-14
    spread = np.zeros((len(matrices), 3))
    inverse = np.linalg.inv(matrices[bounded])
    spread[bounded] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2))
    for b in range(len(bodies)):
        for k in range(q_of[b], q_of[b + 1]):
            if bounded[k]:
                low, high = centres[k] - spread[k], centres[k] + spread[k]
                boxes[b, ::2] = np.maximum(boxes[b, ::2], low[:2])
                boxes[b, 1::2] = np.minimum(boxes[b, 1::2], high[:2])
    return (
        quadrics.astype(np.float32),
        q_of,
        np.array(rows, np.float32),
        _offsets([b.planes for b in bodies]),
        boxes.astype(np.float32),
        np.array([b.mu for b in bodies], np.float32),
        np.array([b.tag for b in bodies], np.int32),
        np.array([b.added for b in bodies]),
    )


def _halve(image: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 blocks of the last two axes."""
    pairs = image[..., 0::2] + image[..., 1::2]
    return (pairs[..., 0::2, :] + pairs[..., 1::2, :]) * np.float32(0.25)


def project(scene: Scene, view: View, size: int, tags: int) -> tuple[np.ndarray, np.ndarray]:
    """Projects a scene along parallel rays.

    Args:
        scene: Bodies and tubes in patient coordinates, mm.
        view: Direction and field of view.
        size: Pixels per side; small images are sampled twice as finely for thin tubes.
        tags: Number of findings.

    Returns:
        Line integrals of mu, float32 (size, size), and the length in mm of every finding's own
        bodies on each ray, float32 (tags, size, size).
    """
    bodies = sorted(scene.bodies, key=lambda body: body.layer)
    width, height = view.extent
    left, top = view.centre[0] - width / 2, view.centre[1] - height / 2
    us = (left + (np.arange(size) + 0.5) * width / size).astype(np.float32)
    vs = (top + (np.arange(size) + 0.5) * height / size).astype(np.float32)
    total = np.zeros((size, size), np.float32)
    own = np.zeros((max(tags, 1), size, size), np.float32)
    paint(us, vs, *_pack_bodies(bodies, view.frame), total, own)
    factor = 2 if size <= 160 else 1
    fine = size * factor
    du, dv = np.float32(width / fine), np.float32(height / fine)
    thin = np.zeros((fine, fine), np.float32)
    thin_own = np.zeros((max(tags, 1), fine, fine), np.float32)
    points = np.concatenate([tube.points for tube in scene.tubes]) @ view.frame.T
    radii = np.concatenate([part for tube in scene.tubes for part in (tube.radii, (0.0,))])
    add_tubes(
        np.float32(left + du / 2),
        du,
        np.float32(top + dv / 2),
        dv,
        points.astype(np.float32),
        radii.astype(np.float32),
        _offsets([tube.points for tube in scene.tubes]),
        np.array([tube.mu for tube in scene.tubes], np.float32),
        np.array([tube.core for tube in scene.tubes], np.float32),
        np.array([tube.tag for tube in scene.tubes], np.int32),
        thin,
        thin_own,
        np.zeros_like(thin),
    )
    if factor == 2:
        thin, thin_own = _halve(thin), _halve(thin_own)
    return total + thin, (own + thin_own)[:tags]


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
