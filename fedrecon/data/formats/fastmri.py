"""Multi-coil Cartesian MRI volumes in the HDF5 layout of the fastMRI data set.

Reference: Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", arXiv:1811.08839.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_array, read_attributes, read_text
from fedrecon.data.formats.ismrmrd import ISMRMRDHeader, parse_ismrmrd_header
from fedrecon.files import replacing


@dataclasses.dataclass(frozen=True)
class FastMRIVolume:
    """One volume of multi-coil Cartesian k-space.

    Attributes:
      kspace: complex64 ``(slices, coils, ny, nx)``, centered, orthonormal; samples not measured are zero.
      mask: bool ``(nx,)`` (columns) or ``(ny, nx)``, True where measured; None when all samples are.
      reconstruction_rss: float32 ``(slices, height, width)``, root-sum-of-squares reference, whose height and
        width may be a crop; None when there is none.
      segmentation: uint8 ``(slices, ny, nx)``, 0 or 1; None when there is none. Not part of fastMRI.
      header_xml: text of the ISMRMRD header; None when there is none.
      attributes: the file's attributes (``max``, ``norm``, ``patient_id``, ``acquisition``).
    """

    kspace: np.ndarray
    mask: np.ndarray | None = None
    reconstruction_rss: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    header_xml: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def header(self) -> ISMRMRDHeader | None:
        """The parsed header, None when there is none."""
        return None if self.header_xml is None else parse_ismrmrd_header(self.header_xml)


def read_fastmri(
    path: str | os.PathLike, *, single_coil: bool | None = False, require_header: bool = False
) -> FastMRIVolume:
    """Reads a volume whole, or raises: never a part of it.

    Args:
      path: the file.
      single_coil: the file is of fastMRI's single-coil track, whose ``kspace`` is ``(slices, ny, nx)``; the
        result has one coil. None: it is where ``kspace`` has three axes.
      require_header: a file without ``ismrmrd_header`` is an error.

    Raises:
      DataError: no such file, not HDF5, truncated, empty; or an entry is missing, of the wrong type, number
        of axes or shape, without elements, not finite, or a mask or segmentation that is not 0 or 1.
    """
    with open_hdf5(path) as file:
        axes = (3, 4) if single_coil is None else (3,) if single_coil else (4,)
        kspace = read_array(file, "kspace", kinds="c", ndim=axes, dtype=np.complex64)
        kspace = kspace[:, None] if kspace.ndim == 3 else kspace
        slices, _, ny, nx = kspace.shape
        mask = rss = segmentation = header = None
        if "mask" in file:
            mask = read_array(file, "mask", kinds="biuf", ndim=(1, 2))
            _check_mask(path, mask, (ny, nx))
            mask = mask.astype(bool)
        if "reconstruction_rss" in file:
            shape = (slices, None, None)
            rss = read_array(file, "reconstruction_rss", kinds="f", ndim=3, dtype=np.float32, shape=shape)
        if "segmentation" in file:
            segmentation = read_array(file, "segmentation", kinds="iu", ndim=3, shape=(slices, ny, nx))
            _check_binary(path, "segmentation", segmentation)
            segmentation = segmentation.astype(np.uint8)
        if "ismrmrd_header" in file or require_header:
            header = read_text(file, "ismrmrd_header")
            parse_ismrmrd_header(header, str(path))
        return FastMRIVolume(kspace, mask, rss, segmentation, header, read_attributes(file))


def write_fastmri(path: str | os.PathLike, volume: FastMRIVolume) -> None:
    """Writes a volume in one step: a failure leaves the old file, or none, and nothing else.

    ``max`` and ``norm`` of ``reconstruction_rss`` become attributes, as in fastMRI, unless they are given.

    Raises:
      DataError: the volume is not one that `read_fastmri` would read back; nothing is written.
      OSError: the folder does not exist or cannot be written.
    """
    _check_volume(path, volume)
    attributes = dict(volume.attributes)
    if volume.reconstruction_rss is not None:
        attributes.setdefault("max", float(volume.reconstruction_rss.max()))
        attributes.setdefault("norm", float(np.linalg.norm(volume.reconstruction_rss)))

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = volume.kspace
        if volume.mask is not None:
            file["mask"] = volume.mask.astype(np.uint8)
        if volume.reconstruction_rss is not None:
            file["reconstruction_rss"] = volume.reconstruction_rss
        if volume.segmentation is not None:
            file["segmentation"] = volume.segmentation
        if volume.header_xml is not None:
            file["ismrmrd_header"] = volume.header_xml
        for key, value in attributes.items():
            file.attrs[key] = value


def _check_volume(path: str | os.PathLike, volume: FastMRIVolume) -> None:
    kspace = volume.kspace
    _check_array(path, "kspace", kspace, np.complex64, 4)
    slices, _, ny, nx = kspace.shape
    if volume.mask is not None:
        _check_array(path, "mask", volume.mask, np.bool_, volume.mask.ndim)
        _check_mask(path, volume.mask, (ny, nx))
    if volume.reconstruction_rss is not None:
        _check_array(path, "reconstruction_rss", volume.reconstruction_rss, np.float32, 3)
        if len(volume.reconstruction_rss) != slices:
            found = f"shape {volume.reconstruction_rss.shape}"
            raise DataError(path, "reconstruction_rss", f"{slices} slices as in kspace", found)
    if volume.segmentation is not None:
        _check_array(path, "segmentation", volume.segmentation, np.uint8, 3)
        _check_binary(path, "segmentation", volume.segmentation)
        if volume.segmentation.shape != (slices, ny, nx):
            found = f"shape {volume.segmentation.shape}"
            raise DataError(path, "segmentation", f"shape {(slices, ny, nx)}", found)
    if volume.header_xml is not None:
        parse_ismrmrd_header(volume.header_xml, str(path))


def _check_array(path: str | os.PathLike, key: str, value: np.ndarray, dtype: type, ndim: int) -> None:
    if value.dtype != dtype or value.ndim != ndim or value.size == 0:
        expected = f"{np.dtype(dtype)} with {ndim} axes and at least one element"
        raise DataError(path, key, expected, f"{value.dtype} of shape {value.shape}")
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        raise DataError(path, key, "finite values", f"{int((~np.isfinite(value)).sum())} NaN or infinite")


def _check_mask(path: str | os.PathLike, mask: np.ndarray, shape: tuple[int, int]) -> None:
    if mask.shape not in (shape, shape[1:]):
        raise DataError(path, "mask", f"shape {shape[1:]} or {shape} as in kspace", f"shape {mask.shape}")
    _check_binary(path, "mask", mask)


def _check_binary(path: str | os.PathLike, key: str, values: np.ndarray) -> None:
    if not np.isin(values, (0, 1)).all():
        raise DataError(path, key, "values 0 and 1", f"values from {values.min()} to {values.max()}")
