"""Retrospective undersampling: examples of fully sampled volumes on a common grid."""

import zlib

import jax
import numpy as np

from fedrecon.data.clients.examples import center_columns, mri_examples, resize_kspace
from operators import ifft2c, random_mask, rss


def mask_key(seed: int, name: str) -> jax.Array:
    """The key of a mask: of the seed and the name of what it is for, and of nothing else."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) >> 1)


def undersampled_examples(
    kspace: np.ndarray,
    key: jax.Array,
    matrix: tuple[int, int],
    coils: int,
    acceleration: float,
    center_fraction: float,
    segmentation: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The slices of a volume under one random mask of its columns, drawn on its own matrix.

    Measurement and reference are brought to the common grid by zero-padding or cropping k-space around its
    center; samples outside the native matrix are not measured.

    Args:
      kspace: fully sampled ``(slices, coils, ny, nx)``.
      key: of the mask.
      matrix: (ny, nx) of the common grid.
      coils: of the examples, zeros after the measured ones.
      acceleration: expected, of the native matrix.
      center_fraction: fully sampled fraction of the columns of the native matrix.
      segmentation: ``(slices, *matrix)`` of 0 and 1.

    Returns:
      Those of `mri_examples`, and ``native_shape`` (2,) int32.
    """
    native = kspace.shape[-2:]
    columns = np.asarray(random_mask(key, native[1], acceleration, center_fraction))
    mask = resize_kspace(np.broadcast_to(columns, native), matrix)
    # All coils at once: one shape compiles once.
    padded = np.pad(kspace, ((0, 0), (0, coils - kspace.shape[1]), (0, 0), (0, 0)))
    common = resize_kspace(padded, matrix)
    reference = np.asarray(rss(ifft2c(common)))
    block = center_columns(native[1], center_fraction)
    # Between an odd and an even matrix the center block moves by one: the samples in both are fully sampled.
    block = min(block - (native[1] - matrix[1]) % 2 * (1 - block % 2), matrix[1])
    rows = min(2 * block, native[0] - (native[0] - matrix[0]) % 2, matrix[0])
    examples = mri_examples(common, mask, reference, (rows, max(block, 1)), coils, segmentation)
    return examples | {"native_shape": np.tile(np.asarray(native, np.int32), (len(kspace), 1))}
