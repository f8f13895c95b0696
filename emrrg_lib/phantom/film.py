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
from numba import njit

from emrrg_lib.phantom.shapes import Body, Scene, View

FAR = np.float32(1e6)
MAX_HITS = 48


@njit(cache=True, fastmath=True)
def _interval(u, v, quadrics, q0, q1, planes, p0, p1):
    """Depth interval of one ray in one convex body; empty when low >= high."""
    low, high = -FAR, FAR
    for k in range(q0, q1):
        a11, a12, a22, b1, b2, m = quadrics[k, :6]
        du, dv = u - quadrics[k, 6], v - quadrics[k, 7]
        b = b1 * du + b2 * dv
        root = b * b - m * (a11 * du * du + 2 * a12 * du * dv + a22 * dv * dv - np.float32(1))
        if root <= 0:
            return FAR, -FAR
        root = np.sqrt(root)
        low = max(low, quadrics[k, 8] + (-b - root) / m)
        high = min(high, quadrics[k, 8] + (-b + root) / m)
        if low >= high:
            return FAR, -FAR
    for k in range(p0, p1):
        rest = planes[k, 3] - planes[k, 0] * u - planes[k, 1] * v
        slope = planes[k, 2]
        if slope > np.float32(1e-4):
            high = min(high, rest / slope)
        elif slope < np.float32(-1e-4):
            low = max(low, rest / slope)
        elif rest < 0:
            return FAR, -FAR
    return low, high


@njit(cache=True, fastmath=True)
def _sweep(value, low, high, who, hits, cuts, mu, tags, own, row, col):
    """Walks along a ray from cut to cut; in every piece the body painted last counts."""
    count = 0
    for h in range(hits):
        for cut in (low[h], high[h]):
            k = count
            while k > 0 and cuts[k - 1] > cut:
                cuts[k] = cuts[k - 1]
                k -= 1
            cuts[k] = cut
            count += 1
    for k in range(count - 1):
        middle = np.float32(0.5) * (cuts[k] + cuts[k + 1])
        for h in range(hits - 1, -1, -1):
            if low[h] < middle < high[h]:
                length = cuts[k + 1] - cuts[k]
                value += mu[who[h]] * length
                if tags[who[h]] >= 0:
                    own[tags[who[h]], row, col] += length
                break
    return value


@njit(cache=True, fastmath=True)
def paint(us, vs, quadrics, q_of, planes, p_of, boxes, mu, tags, added, total, own):
    """Sums mu * length along every ray; `own[tag]` collects the findings' lengths."""
    low = np.empty(MAX_HITS, np.float32)
    high = np.empty(MAX_HITS, np.float32)
    who = np.empty(MAX_HITS, np.int32)
    cuts = np.empty(2 * MAX_HITS, np.float32)
    near = np.empty(mu.size, np.int32)
    for row in range(vs.size):
        v = vs[row]
        count_near = 0
        for b in range(mu.size):
            if boxes[b, 2] <= v <= boxes[b, 3]:
                near[count_near] = b
                count_near += 1
        for col in range(us.size):
            u = us[col]
            hits = 0
            value = np.float32(0)
            for k in range(count_near):
                b = near[k]
                if u < boxes[b, 0] or u > boxes[b, 1]:
                    continue
                t0, t1 = _interval(u, v, quadrics, q_of[b], q_of[b + 1], planes, p_of[b], p_of[b + 1])
                if t0 >= t1:
                    continue
                if added[b]:
                    value += mu[b] * (t1 - t0)
                    if tags[b] >= 0:
                        own[tags[b], row, col] += t1 - t0
                elif hits < MAX_HITS:
                    low[hits], high[hits], who[hits] = t0, t1, b
                    hits += 1
            value = _sweep(value, low, high, who, hits, cuts, mu, tags, own, row, col)
            total[row, col] += value


@njit(cache=True, fastmath=True)
def _capsule(du, dv, dd, au, av, ad, length, radius):
    """Length of a ray in a capsule; (du, dv, dd) = ray origin - start, a = unit axis."""
    along = du * au + dv * av + dd * ad
    low, high = FAR, -FAR
    a = np.float32(1) - ad * ad
    if a > np.float32(1e-6):
        b = dd - along * ad
        root = b * b - a * (du * du + dv * dv + dd * dd - along * along - radius * radius)
        if root > 0:
            root = np.sqrt(root)
            low, high = (-b - root) / a, (-b + root) / a
            if abs(ad) > np.float32(1e-6):
                s0, s1 = -along / ad, (length - along) / ad
                low, high = max(low, min(s0, s1)), min(high, max(s0, s1))
            elif along < 0 or along > length:
                low, high = FAR, -FAR
            if low >= high:
                low, high = FAR, -FAR
    for end in range(2):
        eu, ev, ed = du - end * length * au, dv - end * length * av, dd - end * length * ad
        root = radius * radius - eu * eu - ev * ev
        if root > 0:
            root = np.sqrt(root)
            low, high = min(low, -ed - root), max(high, -ed + root)
    return max(high - low, np.float32(0))


@njit(cache=True, fastmath=True)
def _segment(u0, du, v0, dv, start, end, radius, core, r0, r1, c0, c1, scratch):
    """Raises `scratch` to one segment's chord inside the rows r0-r1 and columns c0-c1."""
    pu, pv, pd = start
    au, av, ad = end[0] - pu, end[1] - pv, end[2] - pd
    length = np.sqrt(au * au + av * av + ad * ad) + np.float32(1e-6)
    au, av, ad = au / length, av / length, ad / length
    a0 = max(int((min(pu, pu + au * length) - radius - u0) / du), c0)
    a1 = min(int((max(pu, pu + au * length) + radius - u0) / du) + 2, c1)
    b0 = max(int((min(pv, pv + av * length) - radius - v0) / dv), r0)
    b1 = min(int((max(pv, pv + av * length) + radius - v0) / dv) + 2, r1)
    for row in range(b0, b1):
        for col in range(a0, a1):
            x, y = u0 + col * du - pu, v0 + row * dv - pv
            chord = _capsule(x, y, -pd, au, av, ad, length, radius)
            if core > 0 and chord > 0:
                inner = np.float32(0.6) * radius
                chord -= core * _capsule(x, y, -pd, au, av, ad, length, inner)
            if chord > scratch[row, col]:
                scratch[row, col] = chord


@njit(cache=True, fastmath=True)
def add_tubes(u0, du, v0, dv, points, radii, t_of, mu, core, tags, total, own, scratch):
    """Adds every tube; within a tube the longest segment chord counts, so joints show no beads."""
    height, width = total.shape
    for t in range(mu.size):
        first, last = t_of[t], t_of[t + 1] - 1
        grow = radii[first:last].max()
        c0 = max(int((points[first : last + 1, 0].min() - grow - u0) / du), 0)
        c1 = min(int((points[first : last + 1, 0].max() + grow - u0) / du) + 2, width)
        r0 = max(int((points[first : last + 1, 1].min() - grow - v0) / dv), 0)
        r1 = min(int((points[first : last + 1, 1].max() + grow - v0) / dv) + 2, height)
        if c0 >= c1 or r0 >= r1:
            continue
        scratch[r0:r1, c0:c1] = 0
        for s in range(first, last):
            _segment(u0, du, v0, dv, points[s], points[s + 1], radii[s], core[t], r0, r1, c0, c1, scratch)
        for row in range(r0, r1):
            for col in range(c0, c1):
                total[row, col] += mu[t] * scratch[row, col]
                if tags[t] >= 0:
                    own[tags[t], row, col] += scratch[row, col]


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
