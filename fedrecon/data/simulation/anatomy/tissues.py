"""Tissues, their magnetic and X-ray properties, and the fractions of them that fill an image."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Tissue(NamedTuple):
    """Properties of a tissue.

    Attributes:
      proton_density: relative to water.
      t1: longitudinal relaxation time at 1.5 T, ms.
      t2: transverse relaxation time, ms.
      t1_exponent: T1 grows as (field strength / 1.5 T) to this power.
      hounsfield: CT number in HU, portal-venous phase in the abdomen, native in the head.
    """

    proton_density: float
    t1: float
    t2: float
    t1_exponent: float
    hounsfield: float


# Typical values, after Stanisz et al., MRM 54:507, 2005, and de Bazelaire et al., Radiology 230:652, 2004.
TISSUES = {
    "air": Tissue(0.0, 1000, 50, 0.0, -1000),
    "skin": Tissue(0.60, 400, 35, 0.3, 40),
    "fat": Tissue(0.90, 280, 75, 0.2, -95),
    "muscle": Tissue(0.80, 950, 38, 0.4, 55),
    "bone": Tissue(0.05, 500, 2, 0.3, 900),
    "marrow": Tissue(0.65, 450, 55, 0.2, 220),
    "csf": Tissue(1.00, 4000, 1500, 0.0, 8),
    "gray": Tissue(0.81, 1050, 98, 0.4, 38),
    "deep gray": Tissue(0.80, 880, 86, 0.4, 37),
    "white": Tissue(0.70, 600, 76, 0.4, 27),
    "blood": Tissue(0.85, 1400, 160, 0.2, 150),
    "liver": Tissue(0.75, 580, 46, 0.5, 105),
    "spleen": Tissue(0.80, 1050, 75, 0.3, 118),
    "cortex": Tissue(0.82, 960, 88, 0.3, 170),
    "medulla": Tissue(0.86, 1400, 105, 0.3, 120),
    "pancreas": Tissue(0.78, 580, 48, 0.4, 85),
    "wall": Tissue(0.80, 900, 50, 0.3, 65),
    "fluid": Tissue(0.95, 2500, 350, 0.0, 15),
}


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """A stack of slices as fractions of tissues.

    Attributes:
      tissues: names, keys of `TISSUES`, then ``"lesion"``.
      fractions: float32 ``(tissues, nz, ny, nx)``, summing to one over tissues.
      texture: float32 ``(nz, ny, nx)``, zero mean, unit variance.
      lesion: properties of the lesions; None when there are none.
    """

    tissues: tuple[str, ...]
    fractions: Array
    texture: Array
    lesion: Tissue | None

    def properties(self) -> tuple[Tissue, ...]:
        """Properties of each of the tissues."""
        return tuple(self.lesion or TISSUES["air"] if n == "lesion" else TISSUES[n] for n in self.tissues)


def compose(layers: Sequence[tuple[str, Array | float]]) -> tuple[tuple[str, ...], Array]:
    """Fractions of tissues from layers painted one over another.

    Args:
      layers: pairs (tissue, opacity in [0, 1]), the bottom first, whose opacity is taken as 1.

    Returns:
      The tissues in the order of `TISSUES`, and their fractions float32 ``(tissues, ...)``.
    """
    used = {name for name, _ in layers}
    names = tuple(name for name in TISSUES if name in used)
    left = np.ones(np.broadcast_shapes(*[np.shape(opacity) for _, opacity in layers]), np.float32)
    fractions = np.zeros((len(names), *left.shape), np.float32)
    for name, opacity in reversed(layers[1:]):
        visible = left * opacity
        fractions[names.index(name)] += visible
        left = left - visible
    fractions[names.index(layers[0][0])] += left
    return names, fractions
