"""One patient: build, pose and breath, and the organs' shapes that follow from them.

Patient coordinates: x to the patient's left (right in a PA image), y up, z to the front; the
origin lies in the middle of the chest. Attenuation coefficients are effective ones at
diagnostic energy, per mm; bones are given as the surplus over soft tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emrrg_lib.phantom.shapes import Body, View, ellipsoid, rod

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


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Returns the 3x3 rotation about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def views(habitus: Habitus) -> tuple[View, View]:
    """Returns the PA and the lateral view; a turned patient turns the axes."""
    pose = rotation("y", habitus.turn) @ rotation("z", habitus.tilt)
    pa = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]) @ pose
    lateral = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) @ pose
    dx, dy = habitus.shift
    return View(pa, (334.0, 334.0), (dx, dy)), View(lateral, (256.0, 334.0), (dx, dy))


def lung_quadric(habitus: Habitus, side: str, scale: float = 1.0, toward=None):
    """Quadric of one pleural cavity; `scale` < 1 shrinks it toward a point (collapse)."""
    s = SIDES[side]
    centre = np.array([s * 67 * habitus.width, -66, -8 * habitus.depth])
    semi = np.array([70 * habitus.width, 194, 97 * habitus.depth])
    if toward is not None:
        centre = toward + (centre - toward) * scale
    return ellipsoid(centre, semi * scale, rotation("x", -4) @ rotation("z", s * -1.5))


def hilum(habitus: Habitus, side: str) -> np.ndarray:
    """Centre of one hilum, mm; the left one is higher."""
    return np.array([SIDES[side] * 34 * habitus.width, 16 if side == "right" else 24, -12.0])


def dome_quadric(habitus: Habitus, side: str):
    """Quadric of one half of the diaphragm; its top lies at habitus.dome[side]."""
    s = SIDES[side]
    height = 84 * habitus.dome_flat
    semi = (88 * habitus.width, height, 104 * habitus.depth)
    return ellipsoid((s * 58 * habitus.width, habitus.dome[side] - height, 10), semi)


def inside(point: np.ndarray, quadric, margin: float = 1.0) -> np.ndarray:
    """True for points (n, 3) inside the quadric scaled by `margin`."""
    d = point - quadric[0]
    return np.einsum("ni,ij,nj->n", d, quadric[1], d) < margin**2


def heart_quadrics(h: Habitus) -> list:
    """Quadrics of the ventricles, the right atrium and the left atrium."""
    k = h.heart
    turn = rotation("z", -32 + h.heart_turn) @ rotation("y", 18)
    floor = 0.5 * (h.dome["right"] + h.dome["left"])
    y = max(-74.0, floor + 20) + 20 * (k - 1)
    ventricles = ellipsoid((25 * k, y, 26 / k), (66 * k, 46 * k, 44 * k**0.7), turn)
    right_atrium = ellipsoid((-16 * k, y + 10, 14), (29 * k, 42 * k, 34))
    left_atrium = ellipsoid((4, y + 34, -16), (36 * k, 26 * k, 26 * k**0.5))
    return [ventricles, right_atrium, left_atrium]


def mediastinum_bodies(h: Habitus) -> list[Body]:
    """Great vessels and central soft tissue without the heart."""
    layer, k, a = LAYER["mediastinum"], h.mediastinum, h.aorta
    bodies = [
        Body(layer, SOFT, [ellipsoid((-2, 78, -6), (25 * k, 92, 22 * k**0.5))]),
        Body(layer, SOFT, [ellipsoid((0, -60, -58), (15, 130, 22))]),
        Body(layer, SOFT, [ellipsoid((-18 * k, 66, 12), (13 * k, 62, 14))]),
        Body(layer, SOFT, [ellipsoid((20 * k, 76, -22), (19 * a * k**0.5, 19 * a, 34 * a))]),
        Body(layer, SOFT, [ellipsoid((-6, 58, 18), (19 * a, 44, 19 * a))]),
        Body(layer, SOFT, [ellipsoid((23 * k, 26, 6), (17, 34, 22))]),
    ]
    aorta, ends = rod((24 * a, 76, -52), (14, -120, -58), 12.5 * a)
    bodies.append(Body(layer, SOFT, aorta, ends))
    for side, s in SIDES.items():
        x, y, z = hilum(h, side)
        turn = rotation("z", s * -35)
        pulmonary = ellipsoid((x - s * 4, y + 2, z), (19, 10 * h.vessels, 14), turn)
        lower = ellipsoid((x + s * 4, y - 16, z - 6), (8 * h.vessels, 20, 10))
        bodies += [Body(layer, SOFT, [pulmonary]), Body(layer, SOFT * 0.9, [lower])]
    return bodies


def rib_line(h: Habitus, s: float, number: int, count: int = 15) -> np.ndarray:
    """Centre line of rib `number` (1-10), from the spine round the side to the front, (n, 3)."""
    start = 134 - 21.5 * (number - 1)
    angle = np.radians(np.linspace(14, 150 - 3.2 * max(number - 6, 0), count))
    drop = 30 + 9.5 * min(number, 7)
    y = start - drop * (1 - np.cos(angle)) / 2 + 5 * np.sin(angle)
    level = np.clip((y + 66) / 200, -0.9, 0.93)
    girth = np.sqrt(1 - level**2)
    reach = girth * 0.75 + 0.25 * girth**3
    x = s * 141 * h.width * (0.16 + 0.84 * reach) * np.sin(angle) ** 0.8
    z = -8 - 100 * h.depth * (0.2 + 0.8 * reach) * np.cos(angle) + 12 * level
    return np.stack([x, y, z], axis=1)
