"""From the spaces of a scan to pixels: what is cropped, and how large voxels are.

The encoded space is what the gradients encode, with the oversampling of readout, phase and slab; the
reconstructed space is what the operator prescribed. Images are cropped from the first field of view to the
second and keep their pixels: the reconstructed matrix may be interpolated, which adds nothing.

Reference: Inati et al., "ISMRM Raw data format", Magn. Reson. Med. 77:411, 2017.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.data.formats.ismrmrd import EncodingSpace

# Distances of slices below this many mm are those of repeated positions.
_SAME_PLACE = 1e-3
# How far directions may be from unit vectors, and slices from equal distances, as a part of these.
_UNIT, _UNEVEN = 1e-3, 0.05


class ImageGeometry(NamedTuple):
    """Of images on the grid of a measurement, axes in the header's order (x: readout, y, z).

    Attributes:
      crop: number of pixels (x, y, z) in the middle that are to be shown.
      voxel: distance of pixels in mm along (x, y, z), along z that of the slices of a two-dimensional scan;
        None when the header does not tell all of them.
    """

    crop: tuple[int, int, int]
    voxel: tuple[float, float, float] | None


def image_geometry(
    encoded: EncodingSpace,
    recon: EncodingSpace,
    matrix: Sequence[int] | None = None,
    slice_distance: float | None = None,
) -> ImageGeometry:
    """The one rule of all readers.

    Args:
      encoded: space of the encoding.
      recon: space of the prescribed images.
      matrix: samples of the measurement along (x, y, z), z being 1 for a two-dimensional scan whatever the
        header says; None: those of the encoded space. An axis that has already been cropped to the
        reconstructed field of view is taken as such; any other number of samples covers the encoded one.
      slice_distance: in mm, see `slice_order`; None: two-dimensional slices lie as far apart as they are
        thick, which is the reconstructed extent along z.
    """
    matrix = encoded.matrix if matrix is None else tuple(matrix)
    encoded_view = encoded.field_of_view or (0.0, 0.0, 0.0)
    recon_view = recon.field_of_view or (0.0, 0.0, 0.0)
    crop, voxel = [], []
    for axis, samples in enumerate(matrix):
        before, after = encoded_view[axis], recon_view[axis]
        if axis == 2 and samples == 1:
            thickness = after / recon.matrix[2] or before / encoded.matrix[2]
            crop.append(1)
            voxel.append(slice_distance or thickness)
            continue
        known = before > 0 and after > 0
        kept = round(encoded.matrix[axis] * after / before) if known else recon.matrix[axis]
        view = after if known and samples == kept != encoded.matrix[axis] else before
        crop.append(min(max(round(samples * after / view) if known else kept, 1), samples))
        voxel.append(view / samples)
    known = min(voxel) > 0
    return ImageGeometry((crop[0], crop[1], crop[2]), (voxel[0], voxel[1], voxel[2]) if known else None)


def image_affine(
    directions: np.ndarray, positions: np.ndarray, voxel: Sequence[float], matrix: Sequence[int]
) -> np.ndarray | None:
    """The place of an image in the patient.

    Args:
      directions: (3, 3), rows are unit vectors along the readout, the phase encoding and across slices.
      positions: (slices, 3) in mm, of the middle of every slice in the order of the stack, or of the slab.
      voxel: size in mm along (x, y, z).
      matrix: pixels along (x, y, z), z being 1 for a two-dimensional scan.

    Returns:
      (4, 4) from the index (x, y, z or slice, 1) to mm; None where the directions are not known, and where
      slices are not at equal distances.
    """
    if np.abs(directions @ directions.T - np.eye(3)).max() > _UNIT:
        return None
    result = np.eye(4)
    result[:3, :3] = directions.T * np.array(voxel)
    if len(positions) > 1:
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
        even = positions[0] + np.arange(len(positions))[:, None] * step
        distance = float(np.linalg.norm(step))
        if np.abs(positions - even).max() > max(_UNEVEN * distance, _SAME_PLACE):
            return None
        result[:3, 2] = step if distance > _SAME_PLACE else result[:3, 2]
    middle = np.array([matrix[0] // 2, matrix[1] // 2, matrix[2] // 2])
    result[:3, 3] = positions[0] - result[:3, :3] @ middle
    return result


def slice_order(positions: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, float | None]:
    """The order in which slices are to be stacked, and their distance along the common normal.

    Slices stay in the order of their counters where their positions rise or fall with it; else, as after an
    interleaved numbering, they are sorted by position. The distance is that of the outermost ones over the
    number of gaps.

    Args:
      positions: (slices, 3) in mm.
      normals: (slices, 3), zero where the file does not tell: the line through the first and last position.

    Returns:
      Indices of the slices, and the distance in mm: None for a single slice, for slices at one place and for
      slices that are not parallel.
    """
    count = len(positions)
    order = np.arange(count)
    if count < 2:
        return order, None
    lengths = np.linalg.norm(normals, axis=1)
    if (lengths > 0).all():
        normals = normals / lengths[:, None]
        if np.abs(normals @ normals[0]).min() < 0.999:
            return order, None
        normal = normals[0]
    else:
        apart = positions - positions[0]
        normal = apart[np.argmax(np.linalg.norm(apart, axis=1))]
        normal = normal / (np.linalg.norm(normal) or 1)
    along = positions @ normal
    distance = float(np.ptp(along) / (count - 1))
    if distance < _SAME_PLACE:
        return order, None
    steps = np.diff(along)
    return (order if (steps > 0).all() or (steps < 0).all() else np.argsort(along, kind="stable")), distance
