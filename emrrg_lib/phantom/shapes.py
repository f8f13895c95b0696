"""The materials and shapes that a chest is made of, and one patient's build, pose and breath.

Patient coordinates: x to the patient's left (right in a PA image), y up, z to the front; the origin lies
in the middle of the chest. Attenuation coefficients are effective ones at diagnostic energy, per mm; bones
are given as the surplus over soft tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

AIR, LUNG, FAT, SOFT = 0.0, 0.0046, 0.0165, 0.0200
BONE, METAL = 0.028, 0.20
SIDES = {"right": -1.0, "left": 1.0}
LAYER = {
    "torso": 0,
    "lung": 10,
    "pleural air": 11,
    "pleura": 12,
    "collapsed lung": 13,
    "fluid": 15,
    "lung core": 16,
    "lesion": 17,
    "dome": 30,
    "gas": 32,
    "mediastinum": 40,
    "airway": 50,
}


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


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Returns the 3x3 rotation about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


@dataclass
class Habitus:
    """One patient on one day: build, pose, breath and what the findings change.

    Lengths in mm, angles in degrees, the rest factors around 1.
    """

    width: float
    depth: float
    dome: dict[str, float]
    dome_flat: float
    heart: float
    heart_turn: float
    mediastinum: float
    aorta: float
    lung_mu: float
    vessels: float
    ribs: float
    breast: float
    gas: float
    turn: float
    tilt: float
    shift: tuple[float, float]
    retrosternal: float
    collapse: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)
    breaks: dict[tuple[str, int], tuple[int, np.ndarray]] = field(default_factory=dict)


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """Draws a healthy patient; findings change the result before it is built."""
    breath = rng.normal(0, 6)
    right = -58 - breath + rng.normal(0, 3)
    return Habitus(
        width=rng.normal(1.0, 0.045),
        depth=rng.normal(1.0, 0.05),
        dome={"right": right, "left": right - rng.uniform(8, 16)},
        dome_flat=1.0,
        heart=rng.uniform(0.90, 1.06),
        heart_turn=rng.uniform(-6, 6),
        mediastinum=rng.uniform(0.90, 1.08),
        aorta=rng.uniform(0.90, 1.10),
        lung_mu=LUNG * rng.uniform(0.9, 1.1),
        vessels=rng.uniform(0.9, 1.1),
        ribs=rng.uniform(0.85, 1.15),
        breast=float(rng.choice([0.0, 0.0, rng.uniform(0.7, 1.1)])),
        gas=rng.uniform(0.6, 1.2),
        turn=rng.normal(0, 1.8),
        tilt=rng.normal(0, 1.2),
        shift=(rng.normal(0, 3), rng.normal(0, 4)),
        retrosternal=0.0,
    )


def views(habitus: Habitus) -> tuple[View, View]:
    """Returns the PA and the lateral view; a turned patient turns the axes."""
    pose = rotation("y", habitus.turn) @ rotation("z", habitus.tilt)
    pa = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]) @ pose
    lateral = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) @ pose
    dx, dy = habitus.shift
    return View(pa, (334.0, 334.0), (dx, dy)), View(lateral, (256.0, 334.0), (dx, dy))
