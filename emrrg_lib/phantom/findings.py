"""What each finding does to the 3-D chest.

Functions (habitus, finding, rng) change the patient before the chest is built; functions
(scene, habitus, finding, rng, tag) add bodies and tubes to the built chest, marked with the
finding's tag where they belong to its mask.
"""

from __future__ import annotations

import numpy as np

from emrrg_lib.phantom.anatomy import (
    heart_quadrics,
    hilum,
    lung_quadric,
    mediastinum_bodies,
    rib_line,
)
from emrrg_lib.phantom.shapes import (
    AIR,
    BONE,
    LAYER,
    METAL,
    SIDES,
    SOFT,
    Body,
    Habitus,
    Scene,
    Tube,
    ellipsoid,
    rotation,
)

ZONE_HEIGHT = {"upper": 78.0, "middle": 24.0}
FISSURE = np.array([0.0, 0.754, 0.657])


def _zone(h: Habitus, f: dict, rng: np.random.Generator) -> np.ndarray:
    """A point in the middle of the finding's lung zone, mm."""
    y = ZONE_HEIGHT.get(f["place"], h.dome[f["side"]] + 36) + rng.normal(0, 6)
    x = rng.uniform(62, 84) if f["place"] == "upper" else rng.uniform(78, 102)
    return np.array([SIDES[f["side"]] * x * h.width, y, rng.uniform(-35, 35)])


def _blob(centre, semi, mu: float, tag: int, turn=None) -> Body:
    return Body(LAYER["lesion"], mu, [ellipsoid(centre, semi, turn)], tag=tag, added=True)


def big_heart(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Enlarges the heart to 1.27-1.62 times the normal size."""
    low, high = {"mild": (1.27, 1.34), "moderate": (1.38, 1.48), "severe": (1.5, 1.62)}[f["severity"]]
    h.heart = rng.uniform(low, high)


def heart_shape(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Marks the heart's silhouette."""
    layer = LAYER["mediastinum"] + 1
    scene.bodies += [Body(layer, SOFT * 1.02, [q], tag=tag) for q in heart_quadrics(h)]


def wide_mediastinum(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Widens the upper mediastinum and dilates the aorta."""
    h.mediastinum, h.aorta = rng.uniform(1.65, 1.95), rng.uniform(1.25, 1.5)


def mediastinum_shape(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Marks the great vessels' silhouette above the heart."""
    for body in mediastinum_bodies(h)[:6]:
        if body.quadrics[0][0][1] > 0:
            body.layer, body.tag = LAYER["mediastinum"] + 1, tag
            scene.bodies.append(body)


def nodule(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """A round nodule of 10-14 mm radius, or a lobulated mass of 18-25 mm."""
    centre = _zone(h, f, rng)
    radius = rng.uniform(18, 25) if f["severity"] == "large" else rng.uniform(10, 14)
    mu = SOFT * (0.85 if f["severity"] == "large" else 1.7)
    scene.bodies.append(_blob(centre, np.full(3, radius), mu, tag))
    if f["severity"] == "large":
        for _ in range(3):
            step = rng.normal(size=3)
            lump = centre + step / np.linalg.norm(step) * radius * 0.75
            scene.bodies.append(_blob(lump, np.full(3, radius * 0.5), SOFT * 0.4, tag))


def opacity(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Many faint overlapping blobs: patchy, without an edge."""
    centre = _zone(h, f, rng)
    for _ in range(rng.integers(22, 29)):
        spot = centre + rng.normal(0, 1, 3) * (23, 20, 22)
        semi = rng.uniform(8, 17, 3)
        scene.bodies.append(_blob(spot, semi, rng.uniform(0.0095, 0.0135), tag))


def wet_lungs(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Raises the lung density and thickens the vessels."""
    grade = {"mild": 0.7, "moderate": 1.0, "severe": 1.35}[f["severity"]]
    h.lung_mu *= 1 + 0.25 * grade
    h.vessels *= 1 + 0.5 * grade


def haze(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Perihilar haze on both sides, interstitial spots and septal lines at the bases."""
    grade = {"mild": 0.7, "moderate": 1.0, "severe": 1.35}[f["severity"]]
    for side, s in SIDES.items():
        middle = hilum(h, side) + (s * 20, -14, 0)
        for scale in (1.0, 0.78, 0.56):
            semi = np.array([46 * h.width, 66, 60]) * scale
            scene.bodies.append(_blob(middle, semi, 0.0034 * grade, tag))
        for _ in range(26):
            spot = middle + rng.normal(0, 1, 3) * (17, 30, 28)
            scene.bodies.append(_blob(spot, rng.uniform(5, 9, 3), 0.009 * grade, -1))
        for k in range(5):
            y = h.dome[side] + 4 + 11 * k
            line = np.array([[s * 132, y, 0], [s * 114, y + 2, 0]]) * [h.width, 1, 1]
            scene.tubes.append(Tube(line, np.array([1.8]), 0.03 * grade))


def consolidation(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Fills a lobe up to its fissure; the airways stay open as dark bronchograms."""
    side, up = f["side"], np.array([rng.normal(0, 0.12), 1.0, rng.choice([-0.3, 0.3])])
    above, below = (-FISSURE, 17.0), (FISSURE, -17.0)
    planes = {
        "upper": [above, (-up, -rng.uniform(14, 34))],
        "middle": [above, (up, rng.uniform(8, 16)), (-up, 42.0)],
        "lower": [below, (up, rng.uniform(-18, 6))],
    }[f["place"]]
    mu = SOFT * rng.uniform(0.60, 0.74)
    lung = lung_quadric(h, side, 0.985, lung_quadric(h, side)[0])
    scene.bodies.append(Body(LAYER["lesion"], mu, [lung], planes, tag=tag))
    start, s = hilum(h, side), SIDES[side]
    rise = {"upper": 1.0, "middle": -0.5, "lower": -1.2}[f["place"]]
    for k in range(4):
        way = np.array([s * (0.5 + 0.35 * k), rise * (1.2 - 0.25 * k), -0.3])
        line = start + np.outer([0.2, 0.6, 1.0], way * 48)
        scene.tubes.append(Tube(line, np.array([3.4, 2.6]), -0.035))


def raise_dome(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Raises the diaphragm on the side of the volume loss."""
    h.dome[f["side"]] += rng.uniform(15, 24)


def bands(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """One or two dense plates above the diaphragm."""
    s = SIDES[f["side"]]
    for k in range(2 if f["severity"] == "moderate" else 1):
        centre = (s * rng.uniform(80, 92) * h.width, h.dome[f["side"]] + 13 + 17 * k, 8)
        turn = rotation("z", s * rng.uniform(4, 20))
        semi = (rng.uniform(32, 40), 4.0, 36)
        scene.bodies.append(_blob(centre, semi, SOFT * 0.95, tag, turn))


def collapse(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Shrinks the lung towards the base, the hilum or between, with its vessels."""
    s = SIDES[f["side"]]
    pivot, scale = {
        "small": ((s * 34, -120, -10), rng.uniform(0.83, 0.87)),
        "moderate": ((s * 26, -50, -12), rng.uniform(0.68, 0.76)),
        "large": ((s * 22, 0, -14), rng.uniform(0.42, 0.55)),
    }[f["severity"]]
    h.collapse[f["side"]] = (np.array(pivot, float), scale)


def free_air(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Air in the cavity, a thin dense pleura and the collapsed lung within."""
    pivot, scale = h.collapse[f["side"]]
    cavity = lung_quadric(h, f["side"])
    lung = lung_quadric(h, f["side"], scale, pivot)
    pleura = lung_quadric(h, f["side"], scale + 0.022, pivot)
    scene.bodies += [
        Body(LAYER["pleural air"], AIR, [cavity], tag=tag),
        Body(LAYER["pleura"], SOFT * 1.3, [pleura, cavity]),
        Body(LAYER["collapsed lung"], h.lung_mu * scale**-1.6, [lung, cavity]),
    ]


def effusion(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Fluid up to a level, hollowed by the lung above it: the meniscus."""
    rise = {"small": (-12, -4), "moderate": (14, 26), "large": (52, 78)}[f["severity"]]
    up = np.array([0.0, 1.0, 0.0])
    for side in SIDES if f["side"] == "both" else (f["side"],):
        level = h.dome[side] + rng.uniform(*rise)
        cavity = lung_quadric(h, side)
        bowl_centre = (SIDES[side] * 52 * h.width, level + 56, 12)
        bowl = ellipsoid(bowl_centre, (86 * h.width, 62, 124 * h.depth))
        edge = [(up, level + 54)]
        scene.bodies += [
            Body(LAYER["fluid"], SOFT, [cavity], edge, tag=tag),
            Body(LAYER["lung core"], h.lung_mu * 1.1, [cavity, bowl], edge),
        ]


def thick_pleura(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """A cap over the apex, or a partly calcified plaque on the lateral wall."""
    side, s = f["side"], SIDES[f["side"]]
    cavity = lung_quadric(h, side)
    if f["place"] == "apical":
        slope = np.array([s * rng.uniform(-0.3, 0.1), -1.0, rng.choice([-0.3, 0.3])])
        plane = (slope, float(slope @ [s * 66 * h.width, rng.uniform(94, 101), -10]))
        scene.bodies.append(Body(LAYER["lesion"], SOFT * 1.25, [cavity], [plane], tag=tag))
        return
    y = rng.uniform(-25, 35)
    wall = s * (67 + 66 * np.sqrt(1 - ((y + 66) / 194) ** 2)) * h.width
    scene.bodies.append(_blob((wall, y, 4), (7.5, rng.uniform(30, 40), 32), SOFT * 0.9, tag))
    for _ in range(5):
        spot = (wall + rng.normal(0, 2), y + rng.uniform(-26, 26), rng.uniform(-15, 15))
        scene.bodies.append(_blob(spot, (3.5, 6, 5), 0.06, tag))


def break_rib(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Cuts one of the ribs 4-7 and drops its outer end by 9-12 mm."""
    number = int(rng.integers(4, 8))
    cut = {"posterior": 3, "lateral": 5, "anterior": 11}[f["place"]]
    h.breaks[f["side"], number] = (cut, np.array([0.0, -rng.uniform(9, 12), 0.0]))


def callus(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """Two dense spindles along the broken ends."""
    side, number, cut, offset = next((*k, *v) for k, v in h.breaks.items() if k[0] == f["side"])
    centre = rib_line(h, SIDES[side], number)[cut] + offset / 2
    line = rib_line(h, SIDES[side], number)
    way = np.degrees(np.arctan2(*(line[cut + 1] - line[cut - 1])[1::-1]))
    for step in (-7, 7):
        shift = rotation("z", way) @ [step, 0, 0]
        scene.bodies.append(
            _blob(centre + shift + (0, step / 3, 0), (11, 7, 8), BONE * 1.9, tag, rotation("z", way))
        )


def device(scene: Scene, h: Habitus, f: dict, rng, tag: int) -> None:
    """A pacemaker with leads, a port or a central venous catheter, or a tracheal tube."""
    s = SIDES.get(f["side"], 1.0)
    floor = h.dome["left"]
    front = 96 * h.depth
    cava = [[s * 24, 101, 30], [-20, 82, 6], [-22, 30, 8]]
    if f["place"] == "pacemaker":
        can = np.array([s * rng.uniform(88, 98) * h.width, rng.uniform(66, 78), front])
        scene.bodies.append(_blob(can, (23, 19, 5), METAL, tag, rotation("z", s * 15)))
        for tip in ([-14, -8, 26], [34, floor + 20, 48]):
            line = np.array([can, [s * 62, 98, 70], *cava, [-16, -14, 18], tip])
            scene.tubes.append(Tube(line, np.full(6, 2.1), METAL * 1.2, tag=tag))
    elif f["place"] == "port catheter":
        port = np.array([s * rng.uniform(82, 92) * h.width, rng.uniform(50, 66), front])
        scene.bodies.append(_blob(port, (13, 13, 6), METAL * 0.6, tag))
        line = np.array([port, [s * 54, 96, 74], *cava, [-20, 2, 10]])
        scene.tubes.append(Tube(line, np.full(5, 2.4), METAL * 1.3, tag=tag))
    elif f["place"] == "catheter":
        line = np.array([[s * 48, 190, -4], [s * 34, 128, 0], *cava, [-20, 4, 10]])
        scene.tubes.append(Tube(line, np.full(5, 2.5), METAL * 1.4, tag=tag))
    else:
        line = np.array([[1, 220, -16], [0, 120, -20], [-1, rng.uniform(56, 70), -25]])
        scene.tubes.append(Tube(line, np.full(2, 5.5), 0.10, core=0.8, tag=tag))
        scene.tubes.append(Tube(line + [3.2, 0, 0], np.full(2, 2.2), METAL * 1.3, tag=tag))


def air_trapping(h: Habitus, f: dict, rng: np.random.Generator) -> None:
    """Low flat domes, dark deep lungs, a narrow heart."""
    drop = rng.uniform(26, 34)
    h.dome = {side: -62 - drop - (6 if side == "left" else 0) for side in SIDES}
    h.dome_flat = 0.42
    h.lung_mu *= 0.66
    h.heart *= 0.86
    h.vessels *= 0.8
    h.depth *= 1.06
    h.retrosternal = 6.0
