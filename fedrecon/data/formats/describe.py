"""Descriptions of the contents of data files."""

import os

import h5py
import numpy as np

from fedrecon.data.formats.fastmri import read_fastmri
from fedrecon.data.formats.hdf5 import open_hdf5, read_attributes


def describe_file(path: str | os.PathLike, single_coil: bool = False) -> list[str]:
    """Lines of text on an HDF5 file: on a fastMRI volume if it has k-space, else on its data sets.

    Args:
      path: the file.
      single_coil: see `read_fastmri`.

    Raises:
      DataError: the file cannot be read, or it has k-space and is no fastMRI volume.
    """
    lines = []

    def visit(name: str, entry: h5py.Dataset | h5py.Group) -> None:
        if isinstance(entry, h5py.Dataset):
            lines.append(f"{name}: {entry.shape} {entry.dtype}")

    with open_hdf5(path) as file:
        if "kspace" not in file:
            file.visititems(visit)
            return lines + [f"{key}: {value}" for key, value in read_attributes(file).items()]
    return _describe_volume(path, single_coil)


def _describe_volume(path: str | os.PathLike, single_coil: bool) -> list[str]:
    volume = read_fastmri(path, single_coil=single_coil)
    slices, coils, ny, nx = volume.kspace.shape
    lines = [
        f"k-space: {slices} slices, {coils} coils, {ny} x {nx}, largest {np.abs(volume.kspace).max():.4g}"
    ]
    if volume.mask is None:
        lines.append("mask: none, all samples are measured")
    else:
        kind = "columns" if volume.mask.ndim == 1 else "samples"
        measured = int(volume.mask.sum())
        rate = f"acceleration {volume.mask.size / measured:.3g}" if measured else "nothing is measured"
        lines.append(f"mask: {measured} of {volume.mask.size} {kind}, {rate}")
    if volume.reconstruction_rss is not None:
        reference = volume.reconstruction_rss
        shape = " x ".join(map(str, reference.shape))
        lines.append(f"reference: {shape}, {reference.min():.4g} to {reference.max():.4g}")
    if volume.segmentation is not None:
        marked = int(volume.segmentation.any(axis=(1, 2)).sum())
        lines.append(f"segmentation: {marked} of {slices} slices marked")
    if volume.header is not None:
        for name, space in (("encoded", volume.header.encoded), ("reconstructed", volume.header.recon)):
            extent = "unknown" if space.field_of_view is None else f"{space.field_of_view} mm"
            lines.append(f"{name} matrix (x, y, z): {space.matrix}, field of view {extent}")
    return lines + [f"{key}: {value}" for key, value in volume.attributes.items()]
