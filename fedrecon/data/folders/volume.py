"""What one patient has in one file: k-space or images, with their masks, labels and places."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data.folders.files import Item
from fedrecon.data.folders.manifest import Intensity

EIGHT_BITS = Intensity("window", 0.0, 255.0)
HOUNSFIELD = Intensity("window", -1000.0, 1000.0)
OTHERS = Intensity("percentile", 1.0, 99.5)
# Of k-space that a trajectory has to cover to be fully sampled; the last points lie at its rim.
_SAMPLED = 0.98


class Rays(NamedTuple):
    """Line integrals of parallel beams, which see from all sides.

    Attributes:
      values: float32 ``(slices, views, elements)``, dimensionless.
      angles: float64 ``(views,)`` in radians, as of `operators.ParallelBeam`.
      axis_offset: place of the rotation axis along the detector, in elements from its middle.
      pixel_size: width of an element in the unit of the file.
    """

    values: np.ndarray
    angles: np.ndarray
    axis_offset: float
    pixel_size: float


class Volume(NamedTuple):
    """What one patient has in one file.

    Attributes:
      site, patient, part: of the patient; part is None where nobody says it.
      name: of the file, for messages.
      path: of the same.
      kspace: complex64 ``(slices, coils, ny, nx)``, full unless ``sampling`` is there; None of images.
      image: ``(slices, ny, nx, channels)`` in the unit of the file; None of k-space.
      segmentation: uint8 ``(slices, ny, nx)`` of 0 and 1; None without.
      labels: of the slices; None without.
      sampling: bool ``(ny, nx)`` where k-space was measured, with a reference; None where it is full.
      reference: float32 ``(slices, ny, nx)``, what the sampled k-space is to become.
      spacing: (z, y, x) in mm; None where the file does not know.
      unit: of the image, in words.
      intensity: the rule for images of its kind.
      gridded: what was brought to the grid of ``kspace``, in words; empty where it was measured there.
      rays: of CT; None of others, and where ``lacks`` says what is wrong with them, as expected and found.
      sampled: part of the field of view's k-space that samples off the grid cover.
    """

    site: str
    patient: str
    part: str | None
    name: str
    path: Path
    kspace: np.ndarray | None = None
    image: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    sampling: np.ndarray | None = None
    reference: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    unit: str = ""
    intensity: Intensity = OTHERS
    gridded: str = ""
    sampled: float = 1.0
    rays: Rays | None = None
    lacks: tuple[str, str] | None = None

    @property
    def slices(self) -> int:
        """Their number."""
        values = self.image if self.kspace is None else self.kspace
        assert values is not None, "one of both is there"
        return len(values)

    @property
    def undersampling(self) -> str:
        """What a reference lacks that was made of too few samples off the grid, in words; else empty."""
        if self.sampled >= _SAMPLED:
            return ""
        return f"{self.gridded} cover {100 * self.sampled:.0f} % of k-space: streaks are in the reference"

    @property
    def matrix(self) -> tuple[int, int]:
        """(ny, nx)."""
        if self.kspace is not None:
            return self.kspace.shape[-2:]
        assert self.image is not None, "one of both is there"
        return self.image.shape[1:3]


def some_slices(volume: Volume, kept: np.ndarray) -> Volume:
    """The volume of the slices with these numbers."""

    def some(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    return volume._replace(
        kspace=some(volume.kspace),
        image=some(volume.image),
        segmentation=some(volume.segmentation),
        reference=some(volume.reference),
        rays=volume.rays and volume.rays._replace(values=volume.rays.values[kept]),
        labels=None if volume.labels is None else tuple(volume.labels[i] for i in kept),
    )


def volume_of(item: Item, **values: Any) -> Volume:
    """The volume of a file with what its item knows."""
    name = item.name if item.group is None else f"{item.name} {item.group}"
    return Volume(item.site, item.patient, item.part, name, item.path, **values)


def labels_of(item: Item, slices: int) -> tuple[str, ...] | None:
    """The label of a file for each of its slices."""
    return None if item.label is None else (item.label,) * slices
