"""Random anatomies: stacks of axial slices of heads and abdomens as fractions of tissues."""

import numpy as np

from fedrecon.data.simulation.anatomy.abdomens import HOSTS as ABDOMEN_HOSTS
from fedrecon.data.simulation.anatomy.abdomens import LEVELS as ABDOMEN_LEVELS
from fedrecon.data.simulation.anatomy.abdomens import abdomen
from fedrecon.data.simulation.anatomy.fields import Grid, random_field
from fedrecon.data.simulation.anatomy.heads import HOSTS as HEAD_HOSTS
from fedrecon.data.simulation.anatomy.heads import LEVELS as HEAD_LEVELS
from fedrecon.data.simulation.anatomy.heads import head
from fedrecon.data.simulation.anatomy.lesions import draw_lesions, lesion_tissue
from fedrecon.data.simulation.anatomy.tissues import TISSUES, Anatomy, Tissue, compose
from fedrecon.errors import ArgumentError

__all__ = ["ANATOMIES", "TISSUES", "Anatomy", "Grid", "Tissue", "random_field", "simulate_anatomy"]

# Layers, hosts of lesions, heights of the stack's middle, radii of lesions, wavelength of texture; in mm.
ANATOMIES = {
    "head": (head, HEAD_HOSTS, HEAD_LEVELS, (5.0, 14.0), 7.0),
    "abdomen": (abdomen, ABDOMEN_HOSTS, ABDOMEN_LEVELS, (10.0, 22.0), 12.0),
}


def simulate_anatomy(
    kind: str,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    slices: int,
    spacing: float,
    lesions: bool,
    smallest_lesion: float = 0.0,
) -> Anatomy:
    """Draws one patient.

    Args:
      kind: ``"head"`` or ``"abdomen"``.
      rng: source of randomness.
      x: pixel centers ``(nx,)`` in mm, increasing.
      y: pixel centers ``(ny,)`` in mm, decreasing (row 0 is anterior).
      slices: number of neighboring slices.
      spacing: between slices, mm.
      lesions: whether the patient has lesions: then 1 to 3, and one end slice of several is free of them.
      smallest_lesion: lower bound of the radius of lesions, mm (what the image can show).

    Raises:
      ValueError: unknown ``kind``.
    """
    if kind not in ANATOMIES:
        raise ArgumentError("anatomy", f"one of {sorted(ANATOMIES)}", repr(kind))
    draw, hosts, levels, (least, largest), grain = ANATOMIES[kind]
    z = rng.uniform(*levels) + spacing * (np.arange(slices) - (slices - 1) / 2)
    grid = Grid(np.asarray(x, float), np.asarray(y, float), z, float(x[1] - x[0]))
    names, fractions = compose(draw(rng, grid))
    coarse = random_field(rng, grain, grain)
    lesion, opacity = None, np.zeros(fractions.shape[1:], np.float32)
    if lesions:
        lesion = lesion_tissue(rng, kind)
        host = sum(fractions[names.index(name)] for name in hosts if name in names)
        least = max(least, smallest_lesion)
        opacity = draw_lesions(rng, grid, host, (least, max(largest, 1.5 * least)))
    fractions = np.concatenate([fractions * (1 - opacity), opacity[None]])
    # Two scales of equal strength, as tissue has structure down to the size of a pixel.
    fine = random_field(rng, grain / 3, grain / 3)
    texture = np.float32(np.sqrt(0.5)) * (coarse(grid) + fine(grid))
    return Anatomy((*names, "lesion"), fractions, texture, lesion)
