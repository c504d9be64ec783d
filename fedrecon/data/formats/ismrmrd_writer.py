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
      measurement: Cartesian phase encodings are those of ``mask``, without it those that are not zero.
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
        shapes |= {"mask": (kspace.shape[0], *kspace.shape[2:-2], kspace.shape[-1])}
        shapes |= {"calibration": kspace.shape}
    else:
        shapes |= {"mask": None, "calibration": None, "trajectory": (*kspace.shape[2:], len(shape))}
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
    steps = (nx, nz) if measurement.trajectory is None else (len(measurement.trajectory), 1)
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
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0)
    return xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])


def _acquisitions(package: Any, measurement: RawMeasurement) -> Iterator[Any]:
    if measurement.noise is not None:
        for start in range(0, measurement.noise.shape[1], _LONGEST_READOUT):
            noise = package.Acquisition.from_array(measurement.noise[:, start : start + _LONGEST_READOUT])
            noise.set_flag(NOISE)
            yield noise
    kspace, trajectory = measurement.kspace, measurement.trajectory
    if trajectory is not None:
        trajectory = trajectory if trajectory.shape[-1] == 2 else trajectory[..., [1, 2, 0]]
        for i, spokes in enumerate(kspace):
            for spoke, path in enumerate(trajectory):
                yield _acquisition(package, spokes[:, spoke], i, (spoke, 0), path)
        return
    calibration = measurement.calibration
    if calibration is not None:
        for place in zip(*np.nonzero(calibration.any((1, -2))), strict=True):
            line = _acquisition(package, _line(calibration, place), place[0], _steps(place))
            line.set_flag(CALIBRATION)
            yield line
    mask = measurement.mask
    mask = kspace.any((1, -2)) if mask is None else mask
    for place in zip(*np.nonzero(mask), strict=True):
        yield _acquisition(package, _line(kspace, place), place[0], _steps(place))


def _line(kspace: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """The readout (coils, ny) of one slice and phase encoding."""
    index: tuple[Any, ...] = (place[0], slice(None), *place[1:-1], slice(None), place[-1])
    return kspace[index]


def _steps(place: tuple[int, ...]) -> tuple[int, int]:
    return int(place[-1]), int(place[1]) if len(place) == 3 else 0


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
