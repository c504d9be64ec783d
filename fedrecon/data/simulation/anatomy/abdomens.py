"""Axial slices of an abdomen at the height of liver and kidneys, seen from the feet (liver at the left)."""

from collections.abc import Callable

import numpy as np

from fedrecon.data.simulation.anatomy.fields import (
    Array,
    Grid,
    coverage,
    dome,
    ellipse,
    random_field,
    segment,
    smooth_union,
    superellipse,
    warp,
)

HOSTS = ("liver", "spleen", "cortex", "medulla", "pancreas")
LEVELS = (-22.0, 30.0)


def abdomen(rng: np.random.Generator, grid: Grid) -> list[tuple[str, Array | float]]:
    """Layers of one random abdomen, see `tissues.compose`; z = 0 is the height of the renal hilum."""
    x, y = warp(rng, grid, ((3.2, 220.0),))
    half_width, half_height = rng.uniform(148, 172), rng.uniform(98, 118)
    skin = superellipse(x, y, (half_width, half_height), rng.uniform(2.15, 2.6))
    fatness = rng.uniform(8, 24)
    behind = np.clip(-y / half_height, 0, 1)
    fat = np.float32(fatness) * (1 + 0.5 * behind + 0.2 * random_field(rng, 110, 80)(grid))
    muscle = np.float32(rng.uniform(8, 12)) * (1 + 0.25 * random_field(rng, 70, 60)(grid))
    cavity = skin + fat + muscle
    opaque = lambda distance: coverage(distance, grid.pixel)  # noqa: E731
    inside = opaque(cavity)
    spine = (0.0, float(-half_height + 1.25 * fatness + rng.uniform(46, 54)))

    layers: list[tuple[str, Array | float]] = [
        ("air", 1.0),
        ("skin", opaque(skin)),
        ("fat", opaque(skin + 2.2)),
        ("muscle", opaque(skin + fat)),
    ]
    # Thin sheets of fat between the layers of the abdominal wall.
    layers.append(("fat", 0.6 * opaque(np.abs(skin + fat + 0.55 * muscle) - 0.8)))
    layers += _ribs(rng, grid, x, y, skin + fat + 0.5 * muscle, half_width, half_height, opaque)
    layers.append(("fat", inside))
    x, y = warp(rng, grid, ((2.5, 120.0), (1.5, 45.0)), (x, y))
    for name, opacity in _organs(rng, grid, x, y, cavity, spine, opaque):
        layers.append((name, opacity * inside))
    return [*layers, *_back(rng, grid, x, y, skin + fat, spine, opaque)]


def _ribs(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    middle: Array,
    half_width: float,
    half_height: float,
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    layers = []
    for degrees in (-35, -5, 28, 152, 185, 215):
        turn = np.deg2rad(degrees + rng.uniform(-9, 9))
        along = np.abs(np.arctan2(y / half_height, x / half_width) - turn + np.pi) % (2 * np.pi) - np.pi
        length = rng.uniform(6, 12) * dome(grid.z, rng.uniform(10, 45), 32)
        rib = np.hypot(np.abs(along) * half_width / np.maximum(length, 1e-3), middle / 4.0) - 1
        rib = rib * 4.0 + 30 * (length < 1)
        layers += [("bone", opaque(rib)), ("marrow", opaque(rib + 2.2))]
    return layers


def _hollow(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    center: tuple[float, float],
    axes: tuple[Array, Array],
    degrees: float,
    gas_level: float,
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    """A hollow organ: wall, fluid, and gas above a level (patients lie on their back)."""
    outline = ellipse(x, y, center, axes, degrees)
    content = opaque(outline + np.float32(rng.uniform(2.5, 4)))
    gas = content * opaque(center[1] + gas_level - y)
    return [("wall", opaque(outline)), ("fluid", content), ("air", gas)]


def _organs(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    cavity: Array,
    spine: tuple[float, float],
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    z, low = grid.z, spine[1]
    layers = []
    for _ in range(14):
        center = (rng.uniform(-55, 105), low + rng.uniform(38, 120))
        size = rng.uniform(10, 17) * dome(z, rng.uniform(-45, 12), rng.uniform(22, 40))
        level = rng.choice([-5.0, 3.0, 8.0, 40.0], p=[0.1, 0.15, 0.25, 0.5])
        aspect, turn = rng.uniform(1.0, 1.8), rng.uniform(0, 180)
        layers += _hollow(rng, x, y, center, (size * aspect, size), turn, level, opaque)
    colon = dome(z, -20, 60) * rng.uniform(15, 20)
    layers += _hollow(rng, x, y, (112, low + 20), (colon, colon), 0, rng.uniform(-4, 10), opaque)
    stomach = dome(z, 32, 45)
    axes = (rng.uniform(38, 50) * stomach, rng.uniform(24, 32) * stomach)
    layers += _hollow(rng, x, y, (58, low + 88), axes, -25, rng.uniform(-5, 14), opaque)

    lobes = 2.2 * random_field(rng, 16, 14)(grid)
    pancreas = np.minimum(
        segment(x, y, (-24, low + 42), (14, low + 54)), segment(x, y, (14, low + 54), (66, low + 46))
    )
    layers.append(("pancreas", opaque(pancreas - 9 * dome(z, 8, 28) + lobes + 20 * (dome(z, 8, 28) == 0))))
    spleen = dome(z, 28, 52)
    center = (rng.uniform(108, 118), low + rng.uniform(22, 36))
    spleen = ellipse(x, y, center, (23 * spleen, rng.uniform(38, 48) * spleen), rng.uniform(8, 22))
    layers.append(("spleen", opaque(np.maximum(spleen, cavity + 3))))
    layers += _liver(rng, grid, x, y, cavity, low, opaque)
    for side, height in ((-1, -8), (1, 2)):
        layers += _kidney(rng, grid, x, y, side, height, low, opaque)
    return layers


def _liver(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    cavity: Array,
    low: float,
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    bulk = dome(grid.z, 30, rng.uniform(66, 80))
    left = dome(grid.z, 38, rng.uniform(48, 60))
    right_lobe = ellipse(x, y, (-82, low + 58), (rng.uniform(62, 72) * bulk, rng.uniform(66, 76) * bulk), -12)
    left_lobe = ellipse(x, y, (-8, low + 102), (rng.uniform(52, 72) * left, rng.uniform(24, 32) * left), 10)
    liver = np.maximum(smooth_union(right_lobe, left_lobe, 30), cavity + 3)
    ridges, step = random_field(rng, 60, 30), 1.0
    # Veins: the zero lines of a smooth field, thinning towards the surface.
    value = ridges(grid)
    slope = np.hypot(
        ridges(grid._replace(x=grid.x + step)) - value, ridges(grid._replace(y=grid.y + step)) - value
    )
    vein = np.abs(value) / np.maximum(slope / step, np.float32(0.02))
    vein = vein - np.clip((-liver - 8) / 12, 0, 1) * np.float32(2.6)
    bladder = dome(grid.z, rng.uniform(-12, 5), 26)
    center = (rng.uniform(-52, -40), low + rng.uniform(72, 84))
    bladder = ellipse(x, y, center, (12 * bladder, 19 * bladder), rng.uniform(-30, 10))
    return [
        ("liver", opaque(liver)),
        ("blood", opaque(np.maximum(vein, liver + 8))),
        ("wall", opaque(bladder - 1.5)),
        ("fluid", opaque(bladder)),
    ]


def _kidney(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    side: int,
    height: float,
    low: float,
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    size = dome(grid.z, height + rng.uniform(-5, 5), rng.uniform(48, 58))
    center, turn = (side * rng.uniform(60, 68), low + rng.uniform(0, 10)), side * rng.uniform(18, 34)
    axes = (rng.uniform(21, 25), rng.uniform(27, 32))
    outline = ellipse(x, y, center, (axes[0] * size, axes[1] * size), turn)
    sinus_center = (center[0] - side * 13, center[1] + 7)
    open_sinus = dome(grid.z, height, 26)
    sinus = ellipse(x, y, sinus_center, (13 * open_sinus, 10 * open_sinus), side * 20)
    outline = np.maximum(
        outline,
        -ellipse(x, y, (sinus_center[0] - side * 12, sinus_center[1] + 4), (10 * open_sinus, 8 * open_sinus)),
    )
    pyramids = outline + 7 + 3.0 * random_field(rng, 17, 14)(grid)
    gerota = opaque(outline - 7)
    return [
        ("fat", gerota),
        ("cortex", opaque(outline)),
        ("medulla", opaque(np.maximum(pyramids, outline + 4))),
        ("fat", opaque(np.maximum(sinus, outline))),
        ("fluid", 0.7 * opaque(sinus + 6.5)),
    ]


def _back(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    wall: Array,
    spine: tuple[float, float],
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    """Vertebra, muscles of the back, aorta and vena cava."""
    low = spine[1]
    layers = []
    streaks = np.abs(random_field(rng, 14, 40)(grid))
    for side in (-1, 1):
        erector = ellipse(x, y, (side * 33, low - 32), (rng.uniform(26, 31), rng.uniform(19, 23)), side * 8)
        erector = np.maximum(erector, wall + 1)
        quadratus = ellipse(x, y, (side * 62, low - 22), (17, 11), side * -25)
        psoas = ellipse(x, y, (side * 36, low + 1), (rng.uniform(10, 15), rng.uniform(14, 20)), side * 15)
        for muscle in (erector, np.maximum(quadratus, wall + 1), psoas):
            layers.append(("muscle", opaque(muscle)))
        layers.append(("fat", 0.7 * opaque(np.maximum(erector + 3, 8 * streaks - 1.2))))
    process = np.minimum(segment(x, y, (0, low - 38), (0, low - 58)) - 3, 1e3)
    for side in (-1, 1):
        process = np.minimum(process, segment(x, y, (0, low - 38), (side * 15, low - 26)) - 4)
        process = np.minimum(process, segment(x, y, (side * 14, low - 24), (side * 13, low - 10)) - 4.5)
        transverse = segment(x, y, (side * 14, low - 24), (side * 38, low - 27)) - 3.5
        process = np.minimum(process, transverse + 20 * (1 - dome(grid.z, rng.uniform(-15, 15), 20)))
    body = ellipse(x, y, spine, (rng.uniform(21, 25), rng.uniform(16, 19)))
    canal = ellipse(x, y, (0, low - 26), (10, 8.5))
    layers += [
        ("bone", opaque(process)),
        ("marrow", opaque(process + 2.4)),
        ("bone", opaque(body)),
        ("marrow", opaque(body + 2.2)),
        ("csf", opaque(canal)),
        ("white", opaque(canal + 3.5)),
    ]
    aorta = ellipse(x, y, (rng.uniform(4, 12), low + rng.uniform(29, 33)), (10, 10))
    cava = ellipse(x, y, (rng.uniform(-24, -18), low + rng.uniform(25, 31)), (13, rng.uniform(7, 10)), 20)
    return layers + [("wall", opaque(aorta - 1.2)), ("blood", opaque(aorta)), ("blood", opaque(cava))]
