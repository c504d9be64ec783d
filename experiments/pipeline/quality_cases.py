"""Undersampled slices of measured files, for the comparison of libraries."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

import operators
from experiments.reconstruct import sampling_mask
from fedrecon.classical import ClassicalSettings, PreparedMeasurement, prepare, reconstruct, undersample
from fedrecon.classical_maps import calibration_size, coil_maps
from fedrecon.data import Measurement, read_measurement
from fedrecon.data.formats import DataError

SCANS = (
    "brain_8ch_poisson",
    "brain_cimax3t_16ch",
    "phantom_skyra3t_2ch",
    "skyra_32ch",
    "heads_multivendor:siemens_prismafit_richland",
)
MASKS = ("random", "random-2d", "equispaced", "poisson-disc")
CALIBRATION = 24
_CENTER_FRACTION = 0.08
_SIMULATED_COILS = 8
_SIMULATED_NOISE = 0.01


class Case(NamedTuple):
    """One undersampled slice.

    Attributes:
      scan: name of the file, with ``:group`` for images of which the measurement is simulated.
      mask: one of `MASKS`.
      acceleration: samples of the grid over those measured, as asked for.
      prepared: the undersampled measurement, of one slice.
      reference: root of the sum of squares of all samples, (ny, nx).
    """

    scan: str
    mask: str
    acceleration: float
    prepared: PreparedMeasurement
    reference: np.ndarray

    @property
    def kspace(self) -> np.ndarray:
        """(coils, ny, nx), zero where not measured."""
        return self.prepared.measurement.kspace[0]

    @property
    def name(self) -> str:
        """The case in words."""
        return f"{self.scan}, {self.mask}, {self.acceleration:g}x"


def scan_file(folder: str, scan: str) -> Path:
    """The file of a scan."""
    return Path(folder) / f"{scan.partition(':')[0]}.h5"


def fully_sampled(folder: str, scan: str) -> PreparedMeasurement:
    """A slice of a file: the first, completed where it is undersampled, or simulated from an image.

    Raises:
      ValueError: no such group, or a file is not as it should be.
    """
    path, group = scan_file(folder, scan), scan.partition(":")[2]
    if group:
        return prepare(_simulated(path, group))
    prepared = prepare(read_measurement(path, slices=[0]))
    mask = prepared.measurement.mask
    return prepared if mask is None or mask.all() else _completed(prepared, mask)


def _completed(prepared: PreparedMeasurement, mask: np.ndarray) -> PreparedMeasurement:
    """With samples of `l1-wavelet` where there are none."""
    image = reconstruct(prepared, ClassicalSettings("l1-wavelet", "espirit", CALIBRATION))
    kspace = prepared.measurement.kspace
    block = calibration_size(prepared.measurement, 0, CALIBRATION)
    maps = np.asarray(coil_maps(kspace[0], block, "espirit", prepared.noise))
    unit = np.maximum(np.asarray(operators.rss(maps)), 1e-6)
    filled = np.asarray(operators.fft2c(maps / unit * image))
    full = dataclasses.replace(
        prepared.measurement,
        kspace=np.where(mask[:, None], kspace, filled).astype(np.complex64),
        mask=np.ones_like(mask),
    )
    return prepared._replace(measurement=full)


def _simulated(path: Path, group: str) -> Measurement:
    """The middle image of a group with a smooth phase, in coils around it, with 1 % of noise."""
    with h5py.File(path) as file:
        if group not in file:
            raise DataError(path, group, f"one of its groups {', '.join(file)}", "none of this name")
        images = file[group]["image"]
        image = np.asarray(images[len(images) // 2], np.float32)
    image, rng = image / image.max(), np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y])
    phase = np.exp(1j * np.tensordot(rng.normal(size=6), terms, 1))
    maps = np.asarray(operators.mri.birdcage_maps(image.shape, _SIMULATED_COILS))
    kspace = np.asarray(operators.fft2c(maps * image * phase))
    noise = rng.normal(size=(2, *kspace.shape))
    kspace = (kspace + _SIMULATED_NOISE * (noise[0] + 1j * noise[1])).astype(np.complex64)
    return Measurement(
        format="simulated",
        kspace=kspace[None],
        image_shape=image.shape,
        mask=np.ones((1, *image.shape), bool),
        trajectory=None,
        calibration=None,
        noise=None,
        crop_shape=image.shape,
        pixel_size=None,
    )


def draw_mask(kind: str, shape: tuple[int, int], acceleration: float) -> np.ndarray:
    """A mask (nx,) or (ny, nx); "random-2d" takes single samples and a center of calibration."""
    if kind != "random-2d":
        # Kernels of ESPIRiT need a block around them.
        fraction = max(_CENTER_FRACTION, (16 if kind == "poisson-disc" else 8) / min(shape))
        return sampling_mask(kind, shape, acceleration, fraction, seed=0)
    mask = np.zeros(shape, bool)
    mask[tuple(operators.mri.center_slice(n, max(16, round(_CENTER_FRACTION * n))) for n in shape)] = True
    rest = round(mask.size / acceleration) - mask.sum()
    others = np.flatnonzero(~mask)
    mask.flat[np.random.default_rng(0).choice(others, max(rest, 0), replace=False)] = True
    return mask


def cases(
    folder: str, scans: Sequence[str], masks: Sequence[str], accelerations: Sequence[float]
) -> Iterator[tuple[str, Case | str]]:
    """Names and cases; instead of a case that cannot be undersampled like that, the reason."""
    for scan in scans:
        full = fully_sampled(folder, scan)
        reference = reconstruct(full, ClassicalSettings("rss"))[0]
        for kind, factor in itertools.product(masks, accelerations):
            name = f"{scan}, {kind}, {factor:g}x"
            try:
                mask = draw_mask(kind, full.measurement.image_shape, factor)
                yield name, Case(scan, kind, factor, undersample(full, mask), reference)
            except ValueError as error:
                yield name, " ".join(str(error).split())
