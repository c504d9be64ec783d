"""Axial slices of a head at the height of the lateral ventricles."""

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
    warp,
)

HOSTS = ("white", "gray", "deep gray")
LEVELS = (-8.0, 26.0)


def head(rng: np.random.Generator, grid: Grid) -> list[tuple[str, Array | float]]:
    """Layers of one random head, see `tissues.compose`; z = 0 is the height of the basal ganglia."""
    x, y = warp(rng, grid, ((1.6, 130.0),))
    size = dome(grid.z, -5.0, 105.0)
    half_width, half_length = rng.uniform(61, 69), rng.uniform(77, 86)
    # Foreheads are narrower than the back of the head.
    taper = 1 - np.float32(rng.uniform(0.05, 0.13)) * (y / half_length + 0.35)
    inner = ellipse(x / taper, y, (0, 0), (half_width * size, half_length * size))
    unevenness = random_field(rng, 90, 60)(grid)
    skull = np.float32(rng.uniform(5.5, 8)) * (1 + 0.1 * unevenness)
    scalp = np.float32(rng.uniform(4.5, 8)) * (1 + 0.12 * random_field(rng, 90, 60)(grid))
    opaque = lambda distance: coverage(distance, grid.pixel)  # noqa: E731

    layers: list[tuple[str, Array | float]] = [
        ("air", 1.0),
        ("skin", opaque(inner - skull - scalp)),
        ("fat", opaque(inner - skull - scalp + 2)),
    ]
    for side in (-1, 1):
        temporal = ellipse(x, y, (side * (half_width + 9), 12 + rng.uniform(-6, 6)), (5, 26), side * -8)
        layers.append(
            ("muscle", opaque(np.maximum(temporal, inner - skull - scalp + 2.5)) * _low(grid.z, 15))
        )
    diploe = np.abs(inner - 0.5 * skull) - 0.22 * skull * (1 + 0.4 * random_field(rng, 30, 30)(grid))
    layers += [("bone", opaque(inner - skull)), ("marrow", opaque(diploe)), ("csf", opaque(inner + 0.8))]
    x, y = warp(rng, grid, ((1.3, 60.0), (0.7, 28.0)), (x, y))
    return [*layers, *_brain(rng, grid, x, y, inner, half_width, half_length, opaque)]


def _low(z: Array, height: float) -> Array:
    """1 below the height, 0 above, over 10 mm; ``(nz, 1, 1)``."""
    return np.clip(0.5 - (np.asarray(z) - height) / 10, 0, 1).astype(np.float32)[:, None, None]


def _brain(
    rng: np.random.Generator,
    grid: Grid,
    x: Array,
    y: Array,
    inner: Array,
    half_width: float,
    half_length: float,
    opaque: Callable[[Array], Array],
) -> list[tuple[str, Array]]:
    atrophy = rng.uniform(0.6, 1.5)
    surface = np.float32(1.6 + 1.2 * atrophy) * (1 + 0.3 * random_field(rng, 40, 30)(grid))
    depth = -(inner + surface)
    sulcus = _sulci(rng, grid, x, y, depth, atrophy)
    fissure = np.abs(x + 1.2 * random_field(rng, 45, 30)(grid))
    callosum = np.float32(rng.uniform(0.36, 0.44) * half_length) * (1 - 0.9 * (1 - _low(grid.z, 34)))
    fissure = np.hypot(fissure, np.maximum(callosum - np.abs(y + 3), 0)) - 0.7
    for side in (-1, 1):
        outer = (side * half_width, rng.uniform(4, 14))
        bend = (side * (half_width - rng.uniform(21, 26)), rng.uniform(0, 8))
        sylvian = segment(x, y, outer, bend)
        for end in ((bend[0] * 1.02, bend[1] + 17), (bend[0] * 1.06, bend[1] - 15)):
            sylvian = np.minimum(sylvian, segment(x, y, bend, end))
        fissure = np.minimum(fissure, sylvian - np.float32(0.8 * atrophy) + 60 * (1 - _low(grid.z, 20)))
    cleft = np.minimum(sulcus, fissure)
    thickness = np.float32(rng.uniform(2.8, 3.6)) * (1 + 0.12 * random_field(rng, 25, 20)(grid))
    layers = [
        ("gray", opaque(np.maximum(-depth, -cleft))),
        ("white", opaque(np.maximum(thickness - depth, thickness - cleft))),
    ]
    return layers + _deep_structures(rng, grid, x, y, atrophy, opaque)


def _sulci(rng: np.random.Generator, grid: Grid, x: Array, y: Array, depth: Array, atrophy: float) -> Array:
    """Signed distance to the sulci: zero lines of waves around the brain, which close with depth."""
    modes = 20
    angle, radius = np.arctan2(y, x), np.maximum(np.hypot(x, y), 15)
    waves = rng.integers(9, 24, modes)
    inward, upward = rng.normal(size=modes) * 0.07, rng.normal(size=modes) * 0.09
    phases = rng.uniform(0, 2 * np.pi, modes)
    wander = 0.05 * random_field(rng, 38, 25)(grid)
    value = slope_around = slope_inward = np.float32(0)
    heights = np.asarray(grid.z, np.float32)[:, None, None]
    for m, k, kz, phase in zip(waves, inward, upward, phases, strict=True):
        argument = np.float32(m) * (angle + wander) + np.float32(k) * depth + np.float32(kz) * heights
        sine, cosine = np.sin(argument + np.float32(phase)), np.cos(argument + np.float32(phase))
        value = value + cosine
        slope_around, slope_inward = slope_around - m * sine, slope_inward - np.float32(k) * sine
    slope = np.hypot(slope_around / radius, slope_inward)
    distance = np.abs(value) / np.maximum(slope, np.float32(0.25))
    reach = np.float32(19) * (1 + 0.35 * random_field(rng, 35, 25)(grid))
    width = np.float32(0.9 * atrophy) * np.clip(1.2 - depth / reach, 0, 1)
    return np.hypot(distance, np.maximum(depth - reach, 0)) - width


def _deep_structures(
    rng: np.random.Generator, grid: Grid, x: Array, y: Array, atrophy: float, opaque: Callable[[Array], Array]
) -> list[tuple[str, Array]]:
    layers = []
    wide = rng.uniform(0.75, 1.1) * (0.7 + 0.3 * atrophy)
    body, nuclei = dome(grid.z, 12, 32), dome(grid.z, 2, 26)
    ventricles: Array | None = None
    for side in (-1, 1):
        shift = rng.uniform(-1, 1, 2)
        place = lambda px, py, shift=shift, side=side: (side * px + shift[0], py + shift[1])  # noqa: E731
        layers += [
            ("deep gray", opaque(ellipse(x, y, place(17, 21), (5.2 * nuclei, 9.5 * nuclei), side * -18))),
            ("deep gray", opaque(ellipse(x, y, place(27, 5), (5.2 * nuclei, 14.5 * nuclei), side * -14))),
            (
                "deep gray",
                0.55 * opaque(ellipse(x, y, place(21.5, 1), (3.4 * nuclei, 8 * nuclei), side * -28)),
            ),
            ("deep gray", opaque(ellipse(x, y, place(10.5, -12), (8.5 * nuclei, 12.5 * nuclei), side * 22))),
        ]
        front = ellipse(x, y, place(8.5, 23), (3.9 * wide * body, 13 * body), side * -22)
        back = ellipse(x, y, place(20, -31), (4.6 * wide * body, 15 * body), side * 24)
        middle = ellipse(x, y, place(11, 0), (4.2 * wide * body, 24 * body), side * 4)
        high = 40 * _low(grid.z, 14)
        horns = smooth_union(smooth_union(front, back, 6), middle + high, 6)
        ventricles = horns if ventricles is None else np.minimum(ventricles, horns)
    third = segment(x, y, (0, 6), (0, -14)) - np.float32(1.5 * wide) + 40 * (1 - _low(grid.z, 6))
    assert ventricles is not None
    layers.append(("csf", opaque(np.minimum(ventricles, third))))
    for side in (-1, 1):
        plexus = ellipse(x, y, (side * 20, -27), (2.2 * body, 5 * body), side * 24)
        layers.append(("blood", 0.6 * opaque(plexus)))
    return layers
