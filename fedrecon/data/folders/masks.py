"""Masks of images, from files beside them."""

from pathlib import Path

import numpy as np

from fedrecon.data.folders.files import PICTURES, Item
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.formats import DataError, read_dicom_slices, read_nifti, read_picture


def segmentation_of(
    item: Item, manifest: Manifest, shape: tuple[int, ...], affine: np.ndarray | None
) -> np.ndarray | None:
    """The segmentation of an image of ``shape`` (slices, ny, nx); ``affine`` is its place, if it has one."""
    if item.mask is None:
        return None
    path, name = item.mask, item.mask.name.lower()
    place = None
    if name.endswith(PICTURES):
        values = read_picture(path, indices=True)
        if values.ndim == 4:
            if (values != values[..., :1]).any():
                raise DataError(path, None, "a gray picture, or one with a palette, as a mask", "colors")
            values = values[..., 0]
    elif name.endswith((".nii", ".nii.gz")):
        mask = read_nifti(path)
        values, place = mask.values, mask.affine
    else:
        series = read_dicom_slices(path)
        values, place = series.values, series.affine
    if values.shape != shape:
        raise DataError(path, None, f"shape {tuple(shape)}, that of {item.path.name}", f"{values.shape}")
    if place is not None and affine is not None:
        corners = np.array([[0, 0, 0, 1], [shape[2], shape[1], shape[0], 1]]).T
        apart = float(np.abs((place - affine) @ corners).max())
        if apart > 0.5 * np.linalg.norm(affine[:3, :2], axis=0).max():
            raise DataError(
                path, None, f"the place in the scanner of {item.path.name}", f"{apart:.1f} mm off"
            )
    return structure_of(path, None, values, manifest)


def structure_of(path: Path, key: str | None, values: np.ndarray, manifest: Manifest) -> np.ndarray:
    """1 where a mask shows the structure; of several, their numbers."""
    found = [float(v) for v in np.unique(values[np.isfinite(values)])]
    if not np.isfinite(values).all():
        raise DataError(path, key, "finite values", "NaN or infinite")
    if manifest.structures is not None:
        count = len(manifest.structures)
        if unknown := [v for v in found if v not in range(count + 1)]:
            expected = f"whole numbers from 0 to {count} ({', '.join(manifest.structures)})"
            raise DataError(path, key, expected, f"{', '.join(f'{v:g}' for v in unknown[:6])}")
        return values.astype(np.uint8)
    if manifest.structure is not None:
        unknown = [v for v in found if v != int(v)]
        if unknown:
            raise DataError(path, key, "whole numbers", f"{unknown[:5]}")
        return np.isin(values, manifest.structure).astype(np.uint8)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        expected = (
            "0 and one other value, or in the manifest those of the structure (structure) or names of the "
            "values 1, 2, ... (labels)"
        )
        shown = ", ".join(f"{v:g}" for v in found[:6])
        raise DataError(path, key, expected, f"{len(found)} values, {shown}")
    return (values != 0).astype(np.uint8)


def nearest(masks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Masks ``(slices, ny, nx)`` on another grid of the same field of view."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(shape, masks.shape[1:], strict=True)
    )
    return masks[:, rows][:, :, columns]
