"""Raw scanner data in ISMRMRD files: acquisitions sorted into arrays.

Needs the package ``ismrmrd``, which the extra ``fedrecon[ismrmrd]`` installs.

The header's x (readout) runs along the rows of an image (ny), its y along the columns (nx) and its z along
slices, for Cartesian and other trajectories alike: the layout of fastMRI.

Reference: Inati et al., "ISMRM Raw data format", Magn. Reson. Med. 77:411, 2017.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedrecon.data.formats import lines as sorting
from fedrecon.data.formats.echo_planar import correct_lines
from fedrecon.data.formats.geometry import image_geometry
from fedrecon.data.formats.hdf5 import DataError, open_hdf5
from fedrecon.data.formats.ismrmrd import ISMRMRDHeader, parse_ismrmrd_header
from fedrecon.data.formats.lines import COUNTERS, Line, Scan, place_lines, place_spokes, sort_lines
from fedrecon.errors import ArgumentError

NOISE, CALIBRATION, _CALIBRATION_AND_IMAGING, _REVERSE = 19, 20, 21, 22
_REFERENCE = 24
# Navigators, feedback, dummy and coil correction scans, phase stabilization.
_OTHER = (23, 26, 27, 28, 29, 30, 31)
_COMPRESSED = (53, 54, 55, 56)
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class RawMeasurement:
    """One measurement, sorted.

    Attributes:
      kspace: complex64. Cartesian: ``(slices, coils, ny, nx)``, or ``(slices, coils, nz, ny, nx)`` with a
        second phase encoding; centered, zero where not measured, the mean where measured repeatedly.
        Otherwise ``(slices, coils, spokes, samples)``, spokes in the order of measurement.
      image_shape: ``(ny, nx)`` or ``(nz, ny, nx)`` of the images.
      mask: bool, ``(slices, ny, nx)`` or ``(slices, nz, ny, nx)``: which samples were measured; None with a
        trajectory and for files that do not tell.
      trajectory: float32 ``(spokes, samples, ndim)`` as the file has it, with a leading axis of slices where
        they have their own, columns in the order of the image axes; None for Cartesian sampling. The format
        leaves its unit open; cycles per pixel are common.
      calibration: like ``kspace``, the lines measured for calibration, zero elsewhere; None without them.
      calibration_separate: whether these are a scan of their own; else they are part of ``kspace``.
      noise: complex64 ``(coils, samples)`` of the noise acquisitions, at their own bandwidth; None without.
      field_of_view: of ``image_shape`` in mm along (z, y, x), z being the distance of two-dimensional slices,
        or their thickness where the file tells no positions; None when the file does not know.
      crop_shape: the middle of the images that is to be shown, like ``image_shape``: without oversampling of
        phase and slab, and of the readout where it was not removed; None: all.
      affine: (4, 4) from the index (y, x, z or slice, 1) of the images to mm in the patient, x to the left, y
        to the back, z to the head (of one who lies on the back with the head first); None when not known.
      header_xml: text of the header; None when there is none. `write_ismrmrd` makes its own.
      notes: what was done to the data, in words.
    """

    kspace: np.ndarray
    image_shape: tuple[int, ...]
    mask: np.ndarray | None = None
    trajectory: np.ndarray | None = None
    calibration: np.ndarray | None = None
    calibration_separate: bool = True
    noise: np.ndarray | None = None
    field_of_view: tuple[float, float, float] | None = None
    crop_shape: tuple[int, ...] | None = None
    affine: np.ndarray | None = None
    header_xml: str | None = None
    notes: tuple[str, ...] = ()


def read_ismrmrd(
    path: str | os.PathLike,
    *,
    group: str = "dataset",
    select: Mapping[str, int] | None = None,
    remove_oversampling: bool = True,
) -> RawMeasurement:
    """Reads one image series whole, or raises: never a part of it.

    A Cartesian line goes to the column at which the header's encoding limits put it, its ``center_sample``
    to the row ny // 2; a readout as long as the encoded matrix fills it. Lines for calibration alone are
    measured samples, too, unless the header calls them separate. Navigators, dummy and feedback scans are
    left out. Averages and segments are merged. Reversed readouts (EPI) are turned; where there are lines for
    phase correction, the delay between both directions comes from them, see `correct_lines`. A scan is a
    volume where its second phase encoding takes several values, whatever the header's matrix.

    Args:
      path: the file.
      group: name of the HDF5 group of the measurement.
      select: values of the counters ``contrast``, ``phase``, ``repetition`` and ``set``, and the number of
        the ``encoding`` space, which a file with more than one of them needs.
      remove_oversampling: crop the image along the readout of Cartesian data from the encoded to the
        reconstructed field of view, unless readouts are partial echoes. Orthonormal transforms keep
        intensities and the noise of a sample.

    Raises:
      DataError: no such file, not ISMRMRD, damaged; an acquisition that does not fit the header or the
        others, or is not finite; compressed readouts; several values of a counter without ``select``.
      ValueError: ``select`` names no counter.
      ImportError: the package ``ismrmrd`` is not installed.
    """
    select = dict(select or {})
    if not select.keys() <= set(COUNTERS):
        raise ArgumentError("select", f"some of the counters {COUNTERS}", sorted(select))
    key = f"{group}/data"
    xml, lines = read_ismrmrd_lines(path, group)
    scan = sort_lines(path, key, lines, select)
    header = parse_ismrmrd_header(xml, str(path), f"{group}/xml", scan.encoding)
    kinds = sorted({line.trajectory.shape[-1] for line in scan.imaging})
    if len(kinds) > 1 or kinds[0] == 1:
        expected = "trajectories of two or three components, or none at all"
        raise DataError(path, key, expected, f"{kinds} components")
    if kinds == [0]:
        if header.trajectory not in ("cartesian", "epi"):
            expected = f"acquisitions with the trajectory that the header calls {header.trajectory!r}"
            raise DataError(path, key, expected, "acquisitions without trajectory")
        return cartesian_measurement(scan, header, remove_oversampling, xml=xml)
    if any(sorting.IMAGING not in line.roles for line in scan.calibration):
        raise DataError(path, key, "no separate calibration with a trajectory", "some")
    kspace, trajectory, distance = place_spokes(scan, header.recon.matrix[2] > 1)
    x, y, z = header.recon.matrix
    volume = trajectory.shape[-1] == 3
    matrix = (x, y, z if volume else 1)
    voxel = image_geometry(header.recon, header.recon, matrix, distance).voxel
    return RawMeasurement(
        kspace=kspace,
        image_shape=(z, x, y) if volume else (x, y),
        trajectory=trajectory,
        noise=scan.noise,
        field_of_view=voxel and (voxel[2] * matrix[2], voxel[0] * x, voxel[1] * y),
        header_xml=xml,
    )


def cartesian_measurement(
    scan: Scan,
    header: ISMRMRDHeader,
    remove_oversampling: bool,
    *,
    train: bool = False,
    xml: str | None = None,
) -> RawMeasurement:
    """The measurement of sorted lines on a Cartesian grid, corrected and placed.

    Args:
      scan: its lines.
      header: of its encoding.
      remove_oversampling: see `read_ismrmrd`.
      train: see `correct_lines`.
      xml: text of the file's header.

    Raises:
      DataError: as `correct_lines` and `place_lines`.
    """
    scan, notes = correct_lines(scan, header, train)
    placed = place_lines(scan, header, remove_oversampling)
    return RawMeasurement(
        kspace=placed.kspace,
        image_shape=placed.kspace.shape[2:],
        mask=placed.mask,
        calibration=placed.calibration,
        calibration_separate=placed.calibration_separate,
        noise=scan.noise,
        field_of_view=placed.field_of_view,
        crop_shape=placed.crop_shape,
        affine=placed.affine,
        header_xml=xml,
        notes=notes,
    )


def read_ismrmrd_lines(path: str | os.PathLike, group: str = "dataset") -> tuple[str, list[Line]]:
    """The text of the header, and the acquisitions that are for something; see `read_ismrmrd` for errors."""
    container_class = ismrmrd_package().file.Container
    key = f"{group}/data"
    with open_hdf5(path) as file:
        if group not in file or not {"xml", "data"} <= set(file[group]):
            found = {name: sorted(entry) for name, entry in file.items() if hasattr(entry, "keys")}
            raise DataError(path, group, "a group with 'xml' and 'data'", f"the groups {found}")
        if file[key].dtype.names != ("head", "traj", "data"):
            raise DataError(path, key, "acquisitions (head, traj, data)", f"{file[key].dtype}")
        xml = bytes(file[f"{group}/xml"][0]).decode()
        parse_ismrmrd_header(xml, str(path), f"{group}/xml")
        acquisitions = container_class(file[group]).acquisitions
        return xml, list(_lines(path, key, acquisitions))


def ismrmrd_package() -> Any:
    """The package ``ismrmrd``; raises ImportError that names the extra."""
    try:
        import ismrmrd
        import ismrmrd.file
    except ImportError as error:
        raise ImportError("ISMRMRD files need an extra: pip install 'fedrecon[ismrmrd]'") from error
    return ismrmrd


def _lines(path: str | os.PathLike, key: str, acquisitions: Any) -> Iterator[Line]:
    for start in range(0, len(acquisitions), _CHUNK):
        for number, acquisition in enumerate(acquisitions[start : start + _CHUNK], start):
            line = _line(path, f"{key}[{number}]", number, acquisition)
            if line is not None:
                yield line


def _line(path: str | os.PathLike, where: str, number: int, acquisition: Any) -> Line | None:
    def has(*flags: int) -> bool:
        return any(acquisition.is_flag_set(flag) for flag in flags)

    if has(*_OTHER):
        return None
    if has(*_COMPRESSED):
        raise DataError(path, where, "uncompressed samples", "a compression flag")
    data = np.array(acquisition.data, np.complex64)
    counters, noise = acquisition.idx, has(NOISE)
    first, last = acquisition.discard_pre, data.shape[1] - acquisition.discard_post
    if noise:
        first, last = 0, data.shape[1]
    if first >= last:
        raise DataError(path, where, "samples that are not discarded", f"{data.shape[1]}, all discarded")
    roles = {sorting.NOISE} if noise else {sorting.REFERENCE} if has(_REFERENCE) else set()
    if not roles and has(CALIBRATION, _CALIBRATION_AND_IMAGING):
        roles.add(sorting.CALIBRATION)
    if not roles or has(_CALIBRATION_AND_IMAGING):
        roles.add(sorting.IMAGING)
    values = {name: int(getattr(counters, name)) for name in COUNTERS[:-1]}
    return Line(
        number=number,
        roles=frozenset(roles),
        counters=values | {"encoding": int(acquisition.encoding_space_ref)},
        step=(counters.kspace_encode_step_1, counters.kspace_encode_step_2),
        slice=counters.slice,
        center=acquisition.center_sample - first,
        data=data[:, first:last],
        reversed=has(_REVERSE),
        trajectory=np.array(acquisition.traj[first:last], np.float32),
        position=np.array(acquisition.position[:], np.float64),
        normal=np.array(acquisition.slice_dir[:], np.float64),
        inplane=np.array([acquisition.read_dir[:], acquisition.phase_dir[:]], np.float64),
    )
