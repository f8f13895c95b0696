"""Shapes of the phantom: convex bodies, tubes, the scene they make and the view upon it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


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
