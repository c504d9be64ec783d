"""Raw scanner data in ISMRMRD files: acquisitions sorted into arrays.

Needs the package ``ismrmrd``, which the extra ``fedrecon[ismrmrd]`` installs.

The header's x (readout) runs along the rows of an image (ny), its y along the columns (nx) and its z along
slices, for Cartesian and other trajectories alike: the layout of fastMRI.

Reference: Inati et al., "ISMRM Raw data format", Magn. Reson. Med. 77:411, 2017.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fedrecon.data.formats.hdf5 import DataError, open_hdf5
from fedrecon.data.formats.ismrmrd import EncodingSpace, ISMRMRDHeader, parse_ismrmrd_header
from fedrecon.errors import ArgumentError

NOISE, CALIBRATION, _CALIBRATION_AND_IMAGING, _REVERSE = 19, 20, 21, 22
# Navigators, phase correction, feedback, dummy and coil correction scans, phase stabilization.
_OTHER = (23, 24, 26, 27, 28, 29, 30, 31)
_COMPRESSED = (53, 54, 55, 56)
_COUNTERS = ("contrast", "phase", "repetition", "set")
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class RawMeasurement:
    """One measurement, sorted.

    Attributes:
      kspace: complex64. Cartesian: ``(slices, coils, ny, nx)``, or ``(slices, coils, nz, ny, nx)`` with a
        second phase encoding; centered, zero where not measured, the mean where measured repeatedly.
        Otherwise ``(slices, coils, spokes, samples)``, spokes in the order of measurement.
      image_shape: ``(ny, nx)`` or ``(nz, ny, nx)`` of the images.
      mask: bool, ``(slices, nx)`` or ``(slices, nz, nx)``: which phase encodings were measured; None with a
        trajectory.
      trajectory: float32 ``(spokes, samples, ndim)`` as the file has it, columns in the order of the image
        axes; None for Cartesian sampling. The format leaves its unit open; cycles per pixel are common.
      calibration: like ``kspace``, the lines measured for calibration, zero elsewhere; None without them.
      noise: complex64 ``(coils, samples)`` of the noise acquisitions, at their own bandwidth; None without.
      field_of_view: of the images in mm along (z, y, x), z being the slice thickness of two-dimensional
        images; None when the file does not know.
      header_xml: text of the header; None when there is none. `write_ismrmrd` makes its own.
    """

    kspace: np.ndarray
    image_shape: tuple[int, ...]
    mask: np.ndarray | None = None
    trajectory: np.ndarray | None = None
    calibration: np.ndarray | None = None
    noise: np.ndarray | None = None
    field_of_view: tuple[float, float, float] | None = None
    header_xml: str | None = None


def read_ismrmrd(
    path: str | os.PathLike,
    *,
    group: str = "dataset",
    select: Mapping[str, int] | None = None,
    remove_oversampling: bool = True,
) -> RawMeasurement:
    """Reads one image series whole, or raises: never a part of it.

    A Cartesian line goes to the column at which the header's encoding limits put it, its ``center_sample``
    to the row ny // 2; a readout as long as the encoded matrix fills it. Navigators, phase corrections, dummy
    and feedback scans are left out. Averages and segments are merged.

    Args:
      path: the file.
      group: name of the HDF5 group of the measurement.
      select: values of the counters ``contrast``, ``phase``, ``repetition`` and ``set`` to read, which a file
        with more than one value of a counter needs.
      remove_oversampling: crop the image along the readout of Cartesian data from the encoded to the
        reconstructed field of view. Orthonormal transforms keep intensities and the noise of a sample.

    Raises:
      DataError: no such file, not ISMRMRD, damaged; an acquisition that does not fit the header or the
        others, or is not finite; reversed (EPI) or compressed readouts, several encoding spaces; several
        values of a counter without ``select``.
      ValueError: ``select`` names no counter.
      ImportError: the package ``ismrmrd`` is not installed.
    """
    select = dict(select or {})
    if not select.keys() <= set(_COUNTERS):
        raise ArgumentError("select", f"some of the counters {_COUNTERS}", sorted(select))
    container_class = ismrmrd_package().file.Container
    with open_hdf5(path) as file:
        if group not in file or not {"xml", "data"} <= set(file[group]):
            found = {name: sorted(entry) for name, entry in file.items() if hasattr(entry, "keys")}
            raise DataError(path, group, "a group with 'xml' and 'data'", f"the groups {found}")
        if file[f"{group}/data"].dtype.names != ("head", "traj", "data"):
            found = f"{file[f'{group}/data'].dtype}"
            raise DataError(path, f"{group}/data", "acquisitions (head, traj, data)", found)
        xml = bytes(file[f"{group}/xml"][0]).decode()
        header = parse_ismrmrd_header(xml, str(path), f"{group}/xml")
        acquisitions = container_class(file[group]).acquisitions
        lines = _Lines(path, f"{group}/data", select)
        for start in range(0, len(acquisitions), _CHUNK):
            for number, acquisition in enumerate(acquisitions[start : start + _CHUNK], start):
                lines.add(number, acquisition)
        imaging = lines.checked()
    trajectories = {line.trajectory.shape[-1] for line in imaging}
    noise = np.concatenate(lines.noise, 1) if lines.noise else None
    if trajectories == {0}:
        kind = ElementTree.fromstring(xml.encode()).findtext("{*}encoding/{*}trajectory") or "cartesian"
        if kind != "cartesian":
            expected = f"acquisitions with the trajectory that the header calls {kind!r}"
            raise DataError(path, f"{group}/data", expected, "acquisitions without trajectory")
        coils = imaging[0].data.shape[0]
        grid = _Grid(path, f"{group}/data", header, xml, coils, imaging, remove_oversampling)
        kspace, mask = grid.place(imaging)
        return RawMeasurement(
            kspace=kspace,
            image_shape=grid.image_shape,
            mask=mask,
            calibration=grid.place(lines.calibration)[0] if lines.calibration else None,
            noise=noise,
            field_of_view=grid.field_of_view,
            header_xml=xml,
        )
    if lines.calibration:
        raise DataError(path, f"{group}/data", "no separate calibration with a trajectory", "some")
    kspace, trajectory = _spokes(path, f"{group}/data", imaging, header.recon.matrix[2] > 1)
    view = header.recon.field_of_view
    return RawMeasurement(
        kspace=kspace,
        image_shape=_image_order(header.recon.matrix)[3 - trajectory.shape[-1] :],
        trajectory=trajectory,
        noise=noise,
        field_of_view=view and _image_order(view),
        header_xml=xml,
    )


def ismrmrd_package() -> Any:
    """The package ``ismrmrd``; raises ImportError that names the extra."""
    try:
        import ismrmrd
        import ismrmrd.file
    except ImportError as error:
        raise ImportError("ISMRMRD files need an extra: pip install 'fedrecon[ismrmrd]'") from error
    return ismrmrd


@dataclasses.dataclass(frozen=True)
class _Line:
    """One readout: its number in the file, its counters, samples (coils, samples) and trajectory."""

    number: int
    step: tuple[int, int]
    slice: int
    center: int
    data: np.ndarray
    trajectory: np.ndarray


class _Lines:
    """Sorts acquisitions by their purpose and checks that they go together."""

    def __init__(self, path: str | os.PathLike, key: str, select: Mapping[str, int]) -> None:
        self.path, self.key, self.select = path, key, select
        self.imaging: list[_Line] = []
        self.calibration: list[_Line] = []
        self.noise: list[np.ndarray] = []
        self.coils: int | None = None
        self.found: dict[str, set[int]] = {name: set() for name in _COUNTERS}

    def add(self, number: int, acquisition: Any) -> None:
        def has(*flags: int) -> bool:
            return any(acquisition.is_flag_set(flag) for flag in flags)

        data = np.array(acquisition.data)
        if has(*_OTHER):
            return
        if has(*_COMPRESSED):
            raise self._error(number, "uncompressed samples", "a compression flag")
        if not np.isfinite(data).all() or not np.isfinite(acquisition.traj).all():
            raise self._error(number, "finite values", "NaN or infinite")
        if self.coils not in (None, len(data)):
            raise self._error(number, f"{self.coils} coils as in the acquisitions before", f"{len(data)}")
        self.coils = len(data)
        if has(NOISE):
            self.noise.append(data)
            return
        first, last = acquisition.discard_pre, data.shape[1] - acquisition.discard_post
        if first >= last:
            raise self._error(number, "samples that are not discarded", f"{data.shape[1]}, all discarded")
        if has(_REVERSE):
            raise self._error(number, "readouts in one direction", "a reversed readout (EPI)")
        if acquisition.encoding_space_ref:
            raise self._error(number, "encoding space 0", f"{acquisition.encoding_space_ref}")
        counters = acquisition.idx
        for name in _COUNTERS:
            self.found[name].add(getattr(counters, name))
        if any(getattr(counters, name) != value for name, value in self.select.items()):
            return
        step = (counters.kspace_encode_step_1, counters.kspace_encode_step_2)
        center = acquisition.center_sample - first
        trajectory = np.array(acquisition.traj[first:last], np.float32)
        line = _Line(number, step, counters.slice, center, data[:, first:last], trajectory)
        if has(CALIBRATION, _CALIBRATION_AND_IMAGING):
            self.calibration.append(line)
        if not has(CALIBRATION) or has(_CALIBRATION_AND_IMAGING):
            self.imaging.append(line)

    def checked(self) -> list[_Line]:
        for name, values in self.found.items():
            if name in self.select and self.select[name] not in values:
                raise DataError(self.path, self.key, f"{name} {self.select[name]}", f"{sorted(values)}")
            if name not in self.select and len(values) > 1:
                raise DataError(self.path, self.key, f"a single {name}, or one selected", f"{sorted(values)}")
        if not self.imaging:
            raise DataError(self.path, self.key, "acquisitions of an image", "none")
        kinds = sorted({line.trajectory.shape[-1] for line in self.imaging})
        if len(kinds) > 1 or kinds[0] == 1:
            expected = "trajectories of two or three components, or none at all"
            raise DataError(self.path, self.key, expected, f"{kinds} components")
        return self.imaging

    def _error(self, number: int, expected: str, found: str) -> DataError:
        return DataError(self.path, f"{self.key}[{number}]", expected, found)


class _Grid:
    """The Cartesian grid of a header, and lines on it."""

    def __init__(
        self,
        path: str | os.PathLike,
        key: str,
        header: ISMRMRDHeader,
        xml: str,
        coils: int,
        imaging: list[_Line],
        remove_oversampling: bool,
    ) -> None:
        self.path, self.key, self.coils = path, key, coils
        encoded, recon = header.encoded, header.recon
        self.readout, *self.encodings = encoded.matrix
        limits = ElementTree.fromstring(xml.encode()).find("{*}encoding/{*}encodingLimits")
        self.centers = [self._center(limits, i, n) for i, n in enumerate(self.encodings, 1)]
        self.slices = sorted({line.slice for line in imaging})
        self.kept = self._kept_readout(encoded, recon) if remove_oversampling else self.readout
        volume = () if self.encodings[1] == 1 else (self.encodings[1],)
        self.image_shape = (*volume, self.kept, self.encodings[0])
        view = encoded.field_of_view
        self.field_of_view = view and (view[2], view[0] * self.kept / self.readout, view[1])

    def place(self, lines: list[_Line]) -> tuple[np.ndarray, np.ndarray]:
        """K-space and mask, as in `RawMeasurement`."""
        nx, nz = self.encodings
        # Phase encodings first, so that a line is contiguous.
        kspace = np.zeros((len(self.slices), nz, nx, self.coils, self.readout), np.complex64)
        counts = np.zeros((len(self.slices), nz, nx), np.int32)
        for line in lines:
            place = self._place(line)
            start = self._start(line)
            kspace[place][:, start : start + line.data.shape[1]] += line.data
            counts[place] += 1
        kspace /= np.maximum(counts, 1)[..., None, None]
        if self.kept < self.readout:
            kspace = np.stack([_crop_readout(one, self.kept) for one in kspace])
        kspace = np.ascontiguousarray(kspace.transpose(0, 3, 1, 4, 2))
        mask = counts > 0
        return (kspace, mask) if nz > 1 else (kspace[:, :, 0], mask[:, 0])

    def _place(self, line: _Line) -> tuple[int, int, int]:
        if line.slice not in self.slices:
            found = f"slice {line.slice}"
            raise DataError(self.path, f"{self.key}[{line.number}]", f"slices {self.slices}", found)
        place = []
        for i, (step, center, n) in enumerate(zip(line.step, self.centers, self.encodings, strict=True), 1):
            index = step - center + n // 2
            if not 0 <= index < n:
                expected = f"kspace_encode_step_{i} from {center - n // 2} to {center - n // 2 + n - 1}"
                raise DataError(self.path, f"{self.key}[{line.number}]", expected, f"{step}")
            place.append(index)
        return self.slices.index(line.slice), place[1], place[0]

    def _start(self, line: _Line) -> int:
        samples = line.data.shape[1]
        start = 0 if samples == self.readout else self.readout // 2 - line.center
        if start < 0 or start + samples > self.readout:
            expected = f"a readout within the {self.readout} samples of the encoded matrix"
            found = f"{samples} samples with center_sample {line.center}"
            raise DataError(self.path, f"{self.key}[{line.number}]", expected, found)
        return start

    def _center(self, limits: ElementTree.Element | None, axis: int, length: int) -> int:
        place = f"kspace_encoding_step_{axis}"
        text = None if limits is None else limits.findtext(f"{{*}}{place}/{{*}}center")
        try:
            return length // 2 if text is None else int(text)
        except ValueError as error:
            where = f"encodingLimits/{place}/center"
            raise DataError(self.path, self.key, f"an integer in {where}", repr(text)) from error

    def _kept_readout(self, encoded: EncodingSpace, recon: EncodingSpace) -> int:
        kept = recon.matrix[0]
        if encoded.field_of_view and recon.field_of_view:
            kept = round(self.readout * recon.field_of_view[0] / encoded.field_of_view[0])
        return min(max(kept, 1), self.readout)


def _crop_readout(kspace: np.ndarray, kept: int) -> np.ndarray:
    """Crops the image along the last axis of k-space around its center N // 2."""
    start = kspace.shape[-1] // 2 - kept // 2
    image = np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho")
    image = np.fft.ifftshift(np.fft.fftshift(image, -1)[..., start : start + kept], -1)
    return np.fft.fftshift(np.fft.fft(image, norm="ortho"), -1).astype(np.complex64)


def _spokes(
    path: str | os.PathLike, key: str, lines: list[_Line], volume: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Non-Cartesian k-space (slices, coils, spokes, samples) and its trajectory."""
    slices = [[line for line in lines if line.slice == i] for i in sorted({line.slice for line in lines})]
    shapes = sorted({line.data.shape[1] for line in lines})
    if len(shapes) > 1 or len({len(group) for group in slices}) > 1:
        counts = sorted({len(group) for group in slices})
        found = f"{counts} spokes of {shapes} samples"
        raise DataError(path, key, "slices of as many spokes of as many samples", found)
    kspace = np.stack([np.stack([line.data for line in group], 1) for group in slices])
    trajectories = np.stack([np.stack([line.trajectory for line in group]) for group in slices])
    if not (trajectories == trajectories[0]).all():
        raise DataError(path, key, "the same trajectory in every slice", "different ones")
    trajectory = trajectories[0]
    if trajectory.shape[-1] == 3 and not volume:
        if trajectory[..., 2].any():
            raise DataError(path, key, "a third component of zeros in two dimensions", "other values")
        trajectory = trajectory[..., :2]
    elif trajectory.shape[-1] == 3:
        trajectory = trajectory[..., [2, 0, 1]]
    return kspace.astype(np.complex64), np.ascontiguousarray(trajectory)


def _image_order(values: tuple) -> tuple:
    """(x, y, z) of the header as (z, x, y), the axes of a volume."""
    return values[2], values[0], values[1]
