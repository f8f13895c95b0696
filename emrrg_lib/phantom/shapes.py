"""Shapes of the phantom (bodies, tubes, scene, view) and the two kernels that send rays through them.

The kernels give the length of every ray in painted bodies and in tubes, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

FAR = np.float32(1e6)
MAX_HITS = 48


@dataclass
class Body:
    """A convex body: the points inside every quadric and under every plane.

    Attributes:
        layer: Paint order; a higher layer replaces a lower one along the ray.
        mu: Linear attenuation coefficient, 1/mm.
        quadrics: Pairs (centre (3,), matrix (3, 3)) with (x-c)' M (x-c) <= 1, in mm.
        planes: Pairs (normal (3,), height) with n.x <= height, in mm.
        tag: Index of the finding this body belongs to, or -1.
        added: True for a blob that is summed instead of painted.
    """

    layer: float
    mu: float
    quadrics: list[tuple[np.ndarray, np.ndarray]]
    planes: list[tuple[np.ndarray, float]] = field(default_factory=list)
    tag: int = -1
    added: bool = False


@dataclass
class Tube:
    """A chain of capsules along a polyline; overlaps inside one tube count once.

    Attributes:
        points: (n, 3) polyline in mm.
        radii: (n - 1,) radius of every segment in mm.
        mu: Attenuation added inside, 1/mm.
        core: Fraction of the attenuation missing in the inner 60 % of the radius (marrow).
        tag: Index of the finding this tube belongs to, or -1.
    """

    points: np.ndarray
    radii: np.ndarray
    mu: float
    core: float = 0.0
    tag: int = -1


@dataclass
class Scene:
    """Everything in front of the detector."""

    bodies: list[Body] = field(default_factory=list)
    tubes: list[Tube] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """A parallel projection: rows of `frame` are the u, v and depth axes (unit, orthogonal).

    `extent` is the (width, height) of the field of view in mm, `centre` its middle (u, v).
    """

    frame: np.ndarray
    extent: tuple[float, float]
    centre: tuple[float, float]


def ellipsoid(centre, semi_axes, rotation=None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the quadric of an ellipsoid; columns of `rotation` (3, 3) are its axes."""
    spread = 1.0 / np.square(np.asarray(semi_axes, float))
    matrix = np.diag(spread) if rotation is None else (rotation * spread) @ rotation.T
    return np.asarray(centre, float), matrix


def rod(start, end, radius) -> tuple[list, list]:
    """Returns (quadrics, planes) of a finite cylinder with flat ends."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    matrix = (np.eye(3) - np.outer(axis, axis)) / radius**2
    return [(start, matrix)], [(axis, float(axis @ end)), (-axis, float(-axis @ start))]


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
