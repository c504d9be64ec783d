"""Focal lesions: irregular, inside plausible tissue, with at least one slice of the stack left free."""

import numpy as np

from fedrecon.data.simulation.anatomy.fields import Array, Grid, coverage, random_field
from fedrecon.data.simulation.anatomy.tissues import TISSUES, Tissue


def draw_lesions(
    rng: np.random.Generator, grid: Grid, host: Array, radii: tuple[float, float], most: int = 3
) -> Array:
    """Opacity of 1 to ``most`` lesions.

    Args:
      rng: source of randomness.
      grid: the grid; with more than one slice, one end of the stack stays free of lesions.
      host: fraction of plausible tissue ``(nz, ny, nx)``; lesions are confined to it.
      radii: smallest and largest in-plane radius, mm.
      most: largest number of lesions.

    Returns:
      float32 ``(nz, ny, nx)`` in [0, 1].
    """
    slices = len(grid.z)
    free = int(rng.choice([0, slices - 1]))
    total = np.zeros(host.shape, np.float32)
    for _ in range(rng.integers(1, most + 1)):
        radius = rng.uniform(*radii)
        shape = random_field(rng, 1.6 * radius, radius)
        turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
        level = int(rng.choice([i for i in range(slices) if i != free or slices == 1]))
        height = radius
        if slices > 1:
            height = min(height, 0.9 * abs(grid.z[level] - grid.z[free]))
        x0, y0 = _place(rng, grid, host[level], radius)
        cross = np.sqrt(np.clip(1 - ((grid.z - grid.z[level]) / height) ** 2, 0, 1))[:, None, None]
        dx, dy = grid.x - x0, (grid.y - y0)[:, None]
        u = np.cos(turn) * dx + np.sin(turn) * dy
        v = (np.cos(turn) * dy - np.sin(turn) * dx) / aspect
        distance = np.hypot(u, v) + 0.16 * radius * shape(grid) - radius * cross
        opacity = coverage(distance, 1.5 * grid.pixel) * (cross > 0) * host
        total = np.maximum(total, opacity.astype(np.float32))
    return total


def _place(rng: np.random.Generator, grid: Grid, host: Array, radius: float) -> tuple[float, float]:
    """The center, of random ones in plausible tissue, whose surroundings are plausible tissue the most."""
    rows, columns = np.nonzero(host > 0.8)
    if not len(rows):
        rows, columns = np.nonzero(host >= host.max())
    chosen = rng.integers(0, len(rows), 24)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    reach = np.concatenate([[0.0], np.repeat([0.5, 0.9], 6)]) * radius / grid.pixel
    angles = np.concatenate([[0.0], angles])
    r = np.clip(np.rint(rows[chosen, None] + reach * np.sin(angles)), 0, host.shape[0] - 1).astype(int)
    c = np.clip(np.rint(columns[chosen, None] + reach * np.cos(angles)), 0, host.shape[1] - 1).astype(int)
    # Rounded, so that the choice does not hang on the last bit; the first of equals is random already.
    best = int(np.argmax(np.round(host[r, c].mean(axis=1), 3)))
    return float(grid.x[columns[chosen[best]]]), float(grid.y[rows[chosen[best]]])


def lesion_tissue(rng: np.random.Generator, kind: str) -> Tissue:
    """Properties of one patient's lesions, which take up contrast agent: short T1, long T2, high density.

    Bright in every weighting, as fat is in T1 and fluid in T2.
    """
    base = TISSUES["white" if kind == "head" else "liver"]
    t1, t2 = rng.uniform(320, 480), rng.uniform(130, 240)
    contrast = rng.uniform(*((70, 110) if kind == "head" else (90, 140)))
    return Tissue(rng.uniform(0.92, 1.05), t1, t2, 0.0, base.hounsfield + contrast)
