"""Writing ISMRMRD files from arrays."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedrecon.data.formats.hdf5 import DataError
from fedrecon.data.formats.ismrmrd_files import CALIBRATION, NOISE, RawMeasurement, ismrmrd_package
from fedrecon.files import replacing

_LONGEST_READOUT = 65535


def write_ismrmrd(path: str | os.PathLike, measurement: RawMeasurement, *, group: str = "dataset") -> None:
    """Writes a measurement that `read_ismrmrd` reads back, in one step: a failure leaves no half of it.

    Every measured phase encoding or spoke becomes one acquisition, after those of the noise. The header is
    made of the arrays: encoded and reconstructed space are the same.

    Args:
      path: the file.
      measurement: Cartesian samples are those of ``mask``, which may leave out its axis of the readout;
        without it those of phase encodings that are not all zero. A readout in several pieces becomes as many
        acquisitions.
      group: name of the HDF5 group of the measurement.

    Raises:
      DataError: an array has another shape than `RawMeasurement` says, or is not finite; nothing is written.
      OSError: the folder does not exist or cannot be written.
      ImportError: the package ``ismrmrd`` is not installed.
    """
    package = ismrmrd_package()
    _check(path, measurement)
    with replacing(path) as temporary, package.File(os.fspath(temporary), "w") as file:
        container = file[group]
        container.header = _header(package, measurement)
        container.acquisitions = list(_acquisitions(package, measurement))


def _check(path: str | os.PathLike, measurement: RawMeasurement) -> None:
    kspace, shape = measurement.kspace, measurement.image_shape
    cartesian = measurement.trajectory is None
    axes = 2 + (len(shape) if cartesian else 2)
    if kspace.dtype != np.complex64 or kspace.ndim != axes or not kspace.size or len(shape) not in (2, 3):
        expected = f"complex64 with {axes} axes for images {shape}"
        raise DataError(path, "kspace", expected, f"{kspace.dtype} of shape {kspace.shape}")
    if cartesian and kspace.shape[2:] != shape:
        raise DataError(path, "image_shape", f"{kspace.shape[2:]} as in k-space", f"{shape}")
    shapes: dict[str, tuple | None] = {"noise": (kspace.shape[1], None)}
    if cartesian:
        mask = measurement.mask
        phases = (kspace.shape[0], *kspace.shape[2:-2], kspace.shape[-1])
        whole = mask is not None and mask.ndim == kspace.ndim - 1
        shapes |= {"mask": (kspace.shape[0], *kspace.shape[2:]) if whole else phases}
        shapes |= {"calibration": kspace.shape}
    else:
        assert measurement.trajectory is not None, "the branch"
        own = () if measurement.trajectory.ndim == 3 else kspace.shape[:1]
        shapes |= {"mask": None, "calibration": None, "trajectory": (*own, *kspace.shape[2:], len(shape))}
    for name, wanted in shapes.items():
        value = getattr(measurement, name)
        if value is None:
            continue
        if wanted is None:
            raise DataError(path, name, "none with a trajectory", f"shape {value.shape}")
        if len(value.shape) != len(wanted) or any(
            n is not None and n != m for n, m in zip(wanted, value.shape, strict=True)
        ):
            raise DataError(path, name, f"shape {wanted} to go with k-space {kspace.shape}", f"{value.shape}")
    for name in ("kspace", "calibration", "noise", "trajectory"):
        value = getattr(measurement, name)
        if value is not None and not np.isfinite(value).all():
            raise DataError(path, name, "finite values", "NaN or infinite")


def _header(package: Any, measurement: RawMeasurement) -> Any:
    xsd = package.xsd
    *volume, ny, nx = measurement.image_shape
    nz = volume[0] if volume else 1
    z, y, x = measurement.field_of_view or (0.0, 0.0, 0.0)
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=ny, y=nx, z=nz), fieldOfView_mm=xsd.fieldOfViewMm(x=y, y=x, z=z)
    )
    steps = (nx, nz) if measurement.trajectory is None else (measurement.trajectory.shape[-3], 1)
    limits = [xsd.limitType(minimum=0, maximum=n - 1, center=n // 2) for n in steps]
    encoding = xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limits[0],
            kspace_encoding_step_2=limits[1],
            slice=xsd.limitType(minimum=0, maximum=len(measurement.kspace) - 1, center=0),
        ),
        trajectory=xsd.trajectoryType("cartesian" if measurement.trajectory is None else "other"),
        parallelImaging=None if measurement.calibration is None else _parallel_imaging(xsd, measurement),
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0)
    return xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])


def _parallel_imaging(xsd: Any, measurement: RawMeasurement) -> Any:
    mode = "separate" if measurement.calibration_separate else "embedded"
    return xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=1, kspace_encoding_step_2=1),
        calibrationMode=xsd.calibrationModeType(mode),
    )


def _acquisitions(package: Any, measurement: RawMeasurement) -> Iterator[Any]:
    if measurement.noise is not None:
        for start in range(0, measurement.noise.shape[1], _LONGEST_READOUT):
            noise = package.Acquisition.from_array(measurement.noise[:, start : start + _LONGEST_READOUT])
            noise.set_flag(NOISE)
            yield noise
    kspace, trajectory = measurement.kspace, measurement.trajectory
    if trajectory is not None:
        trajectory = trajectory if trajectory.shape[-1] == 2 else trajectory[..., [1, 2, 0]]
        trajectory = np.broadcast_to(trajectory, (len(kspace), *trajectory.shape[-3:]))
        for i, (spokes, paths) in enumerate(zip(kspace, trajectory, strict=True)):
            for spoke, path in enumerate(paths):
                yield _acquisition(package, spokes[:, spoke], i, (spoke, 0), path)
        return
    calibration = measurement.calibration
    if calibration is not None:
        lines = np.any(calibration, (1, -2))[..., None, :]
        lines = np.broadcast_to(lines, (len(kspace), *kspace.shape[2:]))
        for line in _pieces(package, calibration, lines):
            line.set_flag(CALIBRATION)
            yield line
    mask = measurement.mask
    mask = np.any(kspace, (1, -2)) if mask is None else mask
    if mask.ndim < kspace.ndim - 1:
        mask = np.broadcast_to(mask[..., None, :], (len(kspace), *kspace.shape[2:]))
    yield from _pieces(package, kspace, mask)


def _pieces(package: Any, kspace: np.ndarray, mask: np.ndarray) -> Iterator[Any]:
    """The measured pieces of every readout: where they do not reach DC, it is among samples to discard."""
    rows = kspace.shape[-2]
    for place in zip(*np.nonzero(mask.any(-2)), strict=True):
        index: tuple[Any, ...] = (place[0], *place[1:-1], slice(None), place[-1])
        edges = np.flatnonzero(np.diff(mask[index].astype(np.int8), prepend=0, append=0))
        line = kspace[(place[0], slice(None), *index[1:])]
        steps = int(place[-1]), int(place[1]) if len(place) == 3 else 0
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            start = min(first, rows // 2)
            piece = _acquisition(package, line[:, start:last], place[0], steps)
            piece.center_sample, piece.discard_pre = int(rows // 2 - start), int(first - start)
            yield piece


def _acquisition(
    package: Any, data: np.ndarray, index: int, steps: tuple[int, int], trajectory: np.ndarray | None = None
) -> Any:
    samples = data.shape[1]
    acquisition = package.Acquisition.from_array(
        np.ascontiguousarray(data),
        None if trajectory is None else np.ascontiguousarray(trajectory, np.float32),
        center_sample=samples // 2,
    )
    acquisition.idx.slice = int(index)
    acquisition.idx.kspace_encode_step_1, acquisition.idx.kspace_encode_step_2 = steps
    return acquisition
