"""Readouts of any raw format, sorted by their purpose and placed on the Cartesian grid of their encoding."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.data.formats.geometry import image_affine, image_geometry, slice_order
from fedrecon.data.formats.hdf5 import DataError
from fedrecon.data.formats.ismrmrd import ISMRMRDHeader

COUNTERS = ("contrast", "phase", "repetition", "set", "encoding")
IMAGING, CALIBRATION, NOISE, REFERENCE = "imaging", "calibration", "noise", "reference"


class Line(NamedTuple):
    """One readout.

    Attributes:
      number: of the acquisition in the file.
      roles: of `IMAGING`, `CALIBRATION` (center of k-space for parallel imaging), `NOISE`, `REFERENCE` (EPI
        readout without phase encoding).
      counters: value by name of `COUNTERS`.
      step: counters of both phase encodings.
      slice: counter.
      center: index of the sample at DC.
      data: complex64 (coils, samples), in the order of measurement.
      reversed: whether k falls along the readout.
      trajectory: float32 (samples, components); no component for Cartesian sampling.
      position: of the middle of the slice, in mm.
      normal: of the slice; zero when unknown.
      inplane: (2, 3) directions of readout and phase encoding in the patient; zeros when unknown.
      centers: counters of both phase encodings in the center of k-space, where a line tells; else zeros.
    """

    number: int
    roles: frozenset[str]
    counters: Mapping[str, int]
    step: tuple[int, int]
    slice: int
    center: int
    data: np.ndarray
    reversed: bool
    trajectory: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    centers: tuple[int, int] = (0, 0)
    inplane: np.ndarray = np.zeros((2, 3))


class Scan(NamedTuple):
    """The lines of one image series.

    Attributes:
      path, key: of the file and of its acquisitions, for errors.
      imaging, calibration, reference: lines by role, in the order of measurement; lines may be in two.
      noise: complex64 (coils, samples), None without noise acquisitions.
      encoding: number of the encoding.
    """

    path: str
    key: str
    imaging: list[Line]
    calibration: list[Line]
    reference: list[Line]
    noise: np.ndarray | None
    encoding: int


def sort_lines(path: str | os.PathLike, key: str, lines: Sequence[Line], select: Mapping[str, int]) -> Scan:
    """Lines by role, of the counters selected.

    Raises:
      DataError: not finite or of other coils than the lines before; no line of an image; several values of
        a counter of which none is selected, or none of the value that is.
    """
    coils = None
    for line in lines:
        where = f"{key}[{line.number}]"
        if not np.isfinite(line.data).all() or not np.isfinite(line.trajectory).all():
            raise DataError(path, where, "finite values", "NaN or infinite")
        if coils not in (None, len(line.data)):
            found = f"{len(line.data)}"
            raise DataError(path, where, f"{coils} coils as in the acquisitions before", found)
        coils = len(line.data)
    images = [line for line in lines if IMAGING in line.roles]
    select = dict(select)
    for name in COUNTERS:
        # Reference scans may be the only lines of an encoding or a set.
        values = sorted({line.counters[name] for line in images})
        if name in select and select[name] not in values:
            raise DataError(path, key, f"{name} {select[name]}", f"{values}")
        if name not in select and len(values) > 1:
            raise DataError(path, key, f"a single {name}, or one selected (select {name}=N)", f"{values}")
        if values:
            select.setdefault(name, values[0])
    chosen = [line for line in images if all(line.counters[n] == v for n, v in select.items())]
    if not chosen:
        raise DataError(path, key, "acquisitions of an image", "none")
    noise = [line.data for line in lines if NOISE in line.roles]
    encoding = select["encoding"]
    # Calibration and reference are often measured once for all contrasts and repetitions.
    here = [line for line in lines if line.counters["encoding"] == encoding]
    return Scan(
        str(path),
        key,
        chosen,
        _nearest([line for line in here if CALIBRATION in line.roles], select),
        _nearest([line for line in here if REFERENCE in line.roles], select),
        np.concatenate(noise, 1) if noise else None,
        encoding,
    )


def _nearest(lines: list[Line], select: Mapping[str, int]) -> list[Line]:
    """Those of the selected counters, or where a counter's value has none, of its first value."""
    for name in COUNTERS:
        values = sorted({line.counters[name] for line in lines})
        if values:
            value = select[name] if select[name] in values else values[0]
            lines = [line for line in lines if line.counters[name] == value]
    return lines


class CartesianScan(NamedTuple):
    """Lines on a grid; see `RawMeasurement` for shapes."""

    kspace: np.ndarray
    mask: np.ndarray
    calibration: np.ndarray | None
    calibration_separate: bool
    crop_shape: tuple[int, ...]
    field_of_view: tuple[float, float, float] | None
    affine: np.ndarray | None


def place_lines(scan: Scan, header: ISMRMRDHeader, remove_oversampling: bool) -> CartesianScan:
    """Puts lines where their counters say.

    Lines that are for calibration alone are measured samples of the image, too, wherever no line of the image
    is, unless the header calls them a separate or external scan, or they are of another contrast or
    repetition. Where the whole readout is measured, its
    oversampling is removed; a partial echo keeps it, so that its samples stay what was measured.

    Raises:
      DataError: a line is outside the grid or of a slice without image.
    """
    grid = _Grid(scan, header)
    lines = [*scan.imaging, *scan.calibration]
    counters = scan.imaging[0].counters
    separate = header.calibration_mode in ("separate", "external") or any(
        line.counters != counters for line in scan.calibration
    )
    kspace, count = grid.sums(scan.imaging)
    extra = [line for line in scan.calibration if IMAGING not in line.roles]
    if extra and not separate:
        more, times = grid.sums(extra)
        fill = (count == 0) & (times > 0)
        kspace += more * fill[:, :, :, None]
        count += times * fill
    measured = count > 0
    kspace /= np.maximum(count, 1)[:, :, :, None]
    calibration = None
    if scan.calibration:
        calibration, times = grid.sums(scan.calibration)
        calibration /= np.maximum(times, 1)[:, :, :, None]
    geometry, kept = grid.geometry, grid.readout
    if remove_oversampling and all(line.data.shape[1] == grid.readout for line in lines):
        kept = geometry.crop[0]
    kspace = grid.arranged(kspace, kept)
    calibration = None if calibration is None else grid.arranged(calibration, kept)
    mask = measured[..., :1].repeat(kept, -1) if kept < grid.readout else measured
    mask = mask.transpose(0, 1, 3, 2)
    nz = grid.encodings[1]
    crop = (*((geometry.crop[2],) if nz > 1 else ()), min(geometry.crop[0], kept), geometry.crop[1])
    view = geometry.voxel and (
        geometry.voxel[2] * nz,
        geometry.voxel[0] * kept,
        geometry.voxel[1] * grid.encodings[0],
    )
    affine = None
    if geometry.voxel:
        affine = image_affine(
            grid.directions, grid.positions, geometry.voxel, (kept, grid.encodings[0], grid.encodings[1])
        )
    if nz == 1:
        kspace, mask = kspace[:, :, 0], mask[:, 0]
        calibration = None if calibration is None else calibration[:, :, 0]
    return CartesianScan(kspace, mask, calibration, separate, crop, view, affine)


class _Grid:
    """The grid of an encoding: slices, both phase encodings and the readout."""

    def __init__(self, scan: Scan, header: ISMRMRDHeader) -> None:
        self.path, self.key = scan.path, scan.key
        self.coils = len(scan.imaging[0].data)
        self.readout, *self.encodings = header.encoded.matrix
        centers = list(header.centers)
        steps = {line.step[1] for line in (*scan.imaging, *scan.calibration)}
        # Headers may call slices a slab: it is one where the second phase encoding takes several values.
        if len(steps) == 1 and self.encodings[1] > 1:
            self.encodings[1], centers[1] = 1, steps.pop()
        self.centers = [n // 2 if c is None else c for c, n in zip(centers, self.encodings, strict=True)]
        self.slices, distance = stacked_slices(scan.imaging)
        first = {line.slice: line for line in reversed(scan.imaging)}
        self.positions = np.array([first[counter].position for counter in self.slices])
        self.directions = np.array([*scan.imaging[0].inplane, scan.imaging[0].normal])
        matrix = (self.readout, *self.encodings)
        self.geometry = image_geometry(header.encoded, header.recon, matrix, distance)

    def sums(self, lines: list[Line]) -> tuple[np.ndarray, np.ndarray]:
        """Sums (slices, nz, nx, coils, readout), and the number of samples in each (..., nx, readout)."""
        nx, nz = self.encodings
        kspace = np.zeros((len(self.slices), nz, nx, self.coils, self.readout), np.complex64)
        count = np.zeros((len(self.slices), nz, nx, self.readout), np.int32)
        for line in lines:
            place = self._place(line)
            data = line.data[:, ::-1] if line.reversed else line.data
            start = self._start(line)
            samples = slice(start, start + data.shape[1])
            kspace[place][:, samples] += data
            count[place][samples] += 1
        return kspace, count

    def arranged(self, kspace: np.ndarray, kept: int) -> np.ndarray:
        """(slices, coils, nz, ny, nx), the image cropped along the readout."""
        if kept < self.readout:
            kspace = np.stack([_crop_readout(one, kept) for one in kspace])
        return np.ascontiguousarray(kspace.transpose(0, 3, 1, 4, 2))

    def _place(self, line: Line) -> tuple[int, int, int]:
        where = f"{self.key}[{line.number}]"
        if line.slice not in self.slices:
            raise DataError(self.path, where, f"slices {self.slices}", f"slice {line.slice}")
        place = []
        for i, (step, center, n) in enumerate(zip(line.step, self.centers, self.encodings, strict=True), 1):
            index = step - center + n // 2
            if not 0 <= index < n:
                expected = f"kspace_encode_step_{i} from {center - n // 2} to {center - n // 2 + n - 1}"
                raise DataError(self.path, where, expected, f"{step}")
            place.append(index)
        return self.slices.index(line.slice), place[1], place[0]

    def _start(self, line: Line) -> int:
        samples = line.data.shape[1]
        center = samples - 1 - line.center if line.reversed else line.center
        start = 0 if samples == self.readout else self.readout // 2 - center
        if start < 0 or start + samples > self.readout:
            expected = f"a readout within the {self.readout} samples of the encoded matrix"
            found = f"{samples} samples with center_sample {line.center}"
            raise DataError(self.path, f"{self.key}[{line.number}]", expected, found)
        return start


def stacked_slices(lines: Sequence[Line]) -> tuple[list[int], float | None]:
    """The slice counters in the order of their stack, and the distance of slices in mm, None when unknown."""
    first: dict[int, Line] = {}
    for line in lines:
        first.setdefault(line.slice, line)
    counters = sorted(first)
    positions, normals = (
        np.array([getattr(first[i], name) for i in counters], np.float64) for name in ("position", "normal")
    )
    order, distance = slice_order(positions, normals)
    return [counters[i] for i in order], distance


def _crop_readout(kspace: np.ndarray, kept: int) -> np.ndarray:
    """Crops the image along the last axis of k-space around its center N // 2."""
    start = kspace.shape[-1] // 2 - kept // 2
    image = np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho")
    image = np.fft.ifftshift(np.fft.fftshift(image, -1)[..., start : start + kept], -1)
    return np.fft.fftshift(np.fft.fft(image, norm="ortho"), -1).astype(np.complex64)


def place_spokes(scan: Scan, volume: bool) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Non-Cartesian k-space (slices, coils, spokes, samples), its trajectory and the distance of slices.

    The trajectory is (spokes, samples, ndim), with a leading axis of slices where these have their own.

    Raises:
      DataError: slices have different numbers of spokes or samples, or a third component is not zero.
    """
    lines = scan.imaging
    counters, distance = stacked_slices(lines)
    slices = [[line for line in lines if line.slice == i] for i in counters]
    shapes = sorted({line.data.shape[1] for line in lines})
    if len(shapes) > 1 or len({len(group) for group in slices}) > 1:
        counts = sorted({len(group) for group in slices})
        found = f"{counts} spokes of {shapes} samples"
        raise DataError(scan.path, scan.key, "slices of as many spokes of as many samples", found)
    kspace = np.stack([np.stack([line.data for line in group], 1) for group in slices])
    trajectory = np.stack([np.stack([line.trajectory for line in group]) for group in slices])
    if (trajectory == trajectory[0]).all():
        trajectory = trajectory[0]
    if trajectory.shape[-1] == 3 and not volume:
        if trajectory[..., 2].any():
            found = "other values"
            raise DataError(scan.path, scan.key, "a third component of zeros in two dimensions", found)
        trajectory = trajectory[..., :2]
    elif trajectory.shape[-1] == 3:
        trajectory = trajectory[..., [2, 0, 1]]
    return kspace.astype(np.complex64), np.ascontiguousarray(trajectory), distance
