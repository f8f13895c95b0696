"""The organs of one patient, and the healthy chest made of them.

Organs are ellipsoids and clipped cylinders, bones and vessels are tubes.
"""

from __future__ import annotations

import numpy as np

from emrrg_lib.phantom.shapes import (
    AIR,
    BONE,
    FAT,
    LAYER,
    SIDES,
    SOFT,
    Body,
    Habitus,
    Scene,
    Tube,
    ellipsoid,
    rod,
    rotation,
)


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


def rib_line(h: Habitus, s: float, number: int) -> np.ndarray:
    """Centre line of rib `number` (1-10), from the spine round the side to the front, (15, 3)."""
    start = 134 - 21.5 * (number - 1)
    angle = np.radians(np.linspace(14, 150 - 3.2 * max(number - 6, 0), 15))
    drop = 30 + 9.5 * min(number, 7)
    y = start - drop * (1 - np.cos(angle)) / 2 + 5 * np.sin(angle)
    level = np.clip((y + 66) / 200, -0.9, 0.93)
    girth = np.sqrt(1 - level**2)
    reach = girth * 0.75 + 0.25 * girth**3
    x = s * 141 * h.width * (0.16 + 0.84 * reach) * np.sin(angle) ** 0.8
    z = -8 - 100 * h.depth * (0.2 + 0.8 * reach) * np.cos(angle) + 12 * level
    return np.stack([x, y, z], axis=1)


def build(habitus: Habitus, rng: np.random.Generator) -> Scene:
    """Builds the healthy chest of one patient; `rng` only shapes the vessel trees."""
    scene = Scene()
    _soft_tissue(scene, habitus)
    _lungs_and_domes(scene, habitus)
    _mediastinum(scene, habitus)
    _spine_and_sternum(scene, habitus)
    _shoulders(scene, habitus)
    for side in SIDES:
        for number in range(1, 11):
            scene.tubes += rib(habitus, side, number)
        _vessels(scene, habitus, side, rng)
    return scene


def _soft_tissue(scene: Scene, h: Habitus) -> None:
    base = LAYER["torso"]
    trunk = ellipsoid((0, -90, -2), (170 * h.width, 430, 124 * h.depth))
    inner = ellipsoid((0, -90, -2), (156 * h.width, 400, 112 * h.depth))
    scene.bodies += [Body(base, FAT, [trunk]), Body(base + 2, SOFT, [inner])]
    neck, ends = rod((0, 95, -18), (0, 260, -8), 52)
    scene.bodies.append(Body(base + 2, SOFT, neck, ends))
    for s in SIDES.values():
        turn = rotation("z", s * -24)
        shoulder = ellipsoid((s * 118 * h.width, 122, -18), (86, 52, 66 * h.depth), turn)
        arm = ellipsoid((s * 176 * h.width, 60, -10), (34, 110, 44))
        scene.bodies += [Body(base + 1, SOFT * 0.72, [shoulder]), Body(base, FAT, [arm])]
        if h.breast:
            size = (62 * h.breast, 62 * h.breast, 46 * h.breast)
            centre = (s * 76 * h.width, -62, 84 * h.depth)
            scene.bodies.append(Body(base, FAT, [ellipsoid(centre, size)]))


def _lungs_and_domes(scene: Scene, h: Habitus) -> None:
    for side in SIDES:
        lung = Body(LAYER["lung"], h.lung_mu, [lung_quadric(h, side)])
        dome = Body(LAYER["dome"], SOFT * 0.98, [dome_quadric(h, side)])
        scene.bodies += [lung, dome]
    belly = ellipsoid((0, -190, 4), (140 * h.width, 92, 100 * h.depth))
    scene.bodies.append(Body(LAYER["dome"], SOFT, [belly]))
    top = h.dome["left"] - 24
    bubble = ellipsoid((62 * h.width, top - 8, 26), (30 * h.gas, 15 * h.gas, 26 * h.gas))
    scene.bodies.append(Body(LAYER["gas"], AIR, [bubble]))
    colon = ellipsoid((102 * h.width, top - 34, 20), (13 * h.gas, 22, 16))
    scene.bodies.append(Body(LAYER["gas"], SOFT * 0.3, [colon]))


def _mediastinum(scene: Scene, h: Habitus) -> None:
    scene.bodies += mediastinum_bodies(h)
    layer = LAYER["mediastinum"]
    scene.bodies += [Body(layer, SOFT * 1.02, [q]) for q in heart_quadrics(h)]
    airway = LAYER["airway"]
    trachea, ends = rod((1, 200, -16), (-1, 48, -26), 8.5)
    scene.bodies.append(Body(airway, AIR, trachea, ends))
    for s, drop in ((-1, 24), (1, 16)):
        bronchus, ends = rod((0, 50, -26), (s * 34, 50 - drop, -22), 6)
        scene.bodies.append(Body(airway, AIR, bronchus, ends))


def _spine_and_sternum(scene: Scene, h: Habitus) -> None:
    for level in range(15):
        y = 176 - 24.5 * level
        z = -66 - 14 * np.cos((y - 10) / 95) * h.depth
        size = 15.5 + 0.25 * level
        up, barrel = np.array([0.0, 1.0, 0.0]), ellipsoid((0, y, z), (size + 3, 20, size + 1))
        plates = [(up, y + 9.3), (-up, 9.3 - y)]
        scene.bodies += [
            Body(1, 0.0175, [barrel], plates, added=True),
            Body(1, 0.014, [ellipsoid((0, y - 9, z - 34), (3.2, 11, 13))], added=True),
        ]
        for s in (-1, 1):
            pedicle = ellipsoid((s * 13, y + 3, z - 17), (4, 6, 8))
            process = ellipsoid((s * 26, y + 2, z - 24), (13, 4.5, 4.5))
            scene.bodies += [
                Body(1, 0.020, [pedicle], added=True),
                Body(1, 0.012, [process], added=True),
            ]
    for y, half, z in ((78, 22, 84), (20, 40, 95)):
        z = z * h.depth + h.retrosternal
        plate = ellipsoid((0, y, z), (17, half, 6), rotation("x", 12))
        scene.bodies.append(Body(1, 0.022, [plate], added=True))


def _shoulders(scene: Scene, h: Habitus) -> None:
    t = np.linspace(0, 1, 9)[:, None]
    for s in SIDES.values():
        w = h.width
        y, z = 112 + 14 * t + 5 * np.sin(2 * np.pi * t), 58 - 66 * t + 12 * np.sin(np.pi * t)
        clavicle = np.hstack([s * (16 + 118 * t) * w, y, z])
        scene.tubes.append(Tube(clavicle, np.linspace(7.0, 5.4, 8), BONE * 1.05, core=0.45))
        corners = np.array([[104, 108, -88], [98, 20, -104], [112, -22, -106], [150, 92, -70]])
        border = corners * [s * w, 1, h.depth]
        scene.tubes.append(Tube(border, np.full(3, 3.0), BONE * 0.8))
        spine = np.array([[103, 92, -96], [140, 116, -84], [166, 128, -50]]) * [s * w, 1, h.depth]
        scene.tubes.append(Tube(spine, np.array([4.0, 6.0]), BONE * 0.8, core=0.4))
        blade = ellipsoid((s * 122 * w, 48, -92 * h.depth), (24, 62, 3), rotation("z", s * 14))
        head = ellipsoid((s * 170 * w, 108, -26), (23, 24, 23))
        scene.bodies += [Body(1, BONE * 0.5, [bone], added=True) for bone in (blade, head)]
        shaft = np.array([[172 * s * w, 104, -26], [184 * s * w, -40, -20]])
        scene.tubes.append(Tube(shaft, np.array([11.0]), BONE * 0.8, core=0.6))


def rib(h: Habitus, side: str, number: int) -> list[Tube]:
    """Tubes of one rib: posterior and anterior halves, since they overlap in a PA view."""
    line = rib_line(h, SIDES[side], number)
    cut, offset = h.breaks.get((side, number), (7, np.zeros(3)))
    halves = [line[: cut + 1], line[cut:] + offset]
    if cut < 7:
        halves[1:] = [line[cut:8] + offset, line[7:] + offset]
    elif cut > 7:
        halves[:1] = [line[:8], line[7 : cut + 1]]
    radius = 4.6 if number > 1 else 4.2
    return [Tube(p, np.full(len(p) - 1, radius), BONE * h.ribs, core=0.5) for p in halves]


def _vessels(scene: Scene, h: Habitus, side: str, rng: np.random.Generator) -> None:
    """Grows a branching tree from the hilum; branches leaving the lung are cut."""
    s = SIDES[side]
    headings = np.array(
        [
            [0.35, 1, 0.25],
            [0.7, 0.8, -0.3],
            [1, 0.35, 0.4],
            [1, -0.1, -0.4],
            [0.85, -0.7, 0.5],
            [0.6, -1, -0.4],
            [0.25, -1, -0.7],
        ]
    )
    headings = headings * [s, 1, 1] + rng.normal(0, 0.12, headings.shape)
    tips = hilum(h, side) + 5 * headings + rng.normal(0, 5, headings.shape)
    radius, length = 3.4 * h.vessels, 30.0
    lung = lung_quadric(h, side)
    pivot, scale = h.collapse.get(side, (np.zeros(3), 1.0))
    domes = [dome_quadric(h, side)] + heart_quadrics(h)[:2]
    for generation in range(5):
        step = headings / np.linalg.norm(headings, axis=1, keepdims=True)
        ends = tips + step * length * rng.uniform(0.8, 1.2, (len(step), 1))
        keep = inside(ends, lung, 0.97)
        for body in domes:
            keep &= ~inside(ends, body)
        tips, ends, step = tips[keep], ends[keep], step[keep]
        middle = (tips + ends) / 2 + rng.normal(0, 0.06 * length, tips.shape)
        points = pivot + (np.stack([tips, middle, ends], axis=1) - pivot) * scale
        width = np.full(2, radius)
        scene.tubes += [Tube(branch, width, SOFT * 1.5) for branch in points]
        spread = rng.normal(0, 0.45, (2, *step.shape))
        headings = np.concatenate([step + spread[0], step - spread[0] + 0.4 * spread[1]])
        tips = np.concatenate([ends, ends])
        radius, length = radius * 0.74, length * (0.86 if generation else 0.75)
