"""The example dicts that networks get, made from measured volumes, and the way back."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from operators import ifft2c
from operators.fourier import fourier_resize
from operators.mri import coil_combine, estimate_coil_maps

Array = np.ndarray


def mri_examples(
    kspace: Array,
    mask: Array,
    target: Array,
    calibration_shape: tuple[int, int],
    coils: int | None = None,
    segmentation: Array | None = None,
) -> dict[str, Array]:
    """Examples of one volume, one for each slice, normalized.

    ``scale`` is the 99th percentile of the magnitude of the zero-filled coil combination over the whole
    volume: it is made of the measurement alone. Everything that is an image or k-space is divided by it.

    Args:
      kspace: measured ``(slices, coils, ny, nx)``, complex.
      mask: ``(nx,)`` or ``(ny, nx)``, 1 where measured; other samples are set to zero.
      target: reference magnitude ``(slices, ny, nx)`` in the same unit.
      calibration_shape: (ny, nx) of the fully sampled block around DC.
      coils: number of coils of the result, zeros after the measured ones; None for none.
      segmentation: ``(slices, ny, nx)`` of 0 and 1; ``label`` is 1 where a slice has any 1.

    Returns:
      A dict of numpy arrays with a leading slice axis: ``kspace`` (coils, ny, nx) complex64; ``mask``
      (ny, nx) float32; ``coil_maps`` (coils, ny, nx) complex64, estimated from the calibration block of
      ``kspace``; ``target`` (ny, nx) float32; ``scale`` () float32, physical = normalized * scale;
      ``data_range`` () float32, the largest value of ``target`` in the volume; ``volume`` () int32, zero; and
      ``segmentation`` (ny, nx) float32 and ``label`` () int32 when there is a segmentation.

    Raises:
      ValueError: shapes disagree, there are more than ``coils`` coils, or nothing was measured.
    """
    slices, measured_coils, ny, nx = kspace.shape
    if target.shape != (slices, ny, nx) or mask.shape not in ((nx,), (ny, nx)):
        raise ArgumentError(
            "target and mask",
            f"shapes {(slices, ny, nx)} and {(ny, nx)} or {(nx,)} for k-space {kspace.shape}",
            f"{target.shape} and {mask.shape}",
        )
    if coils is not None and coils < measured_coils:
        raise ArgumentError("coils", f"at least the measured {measured_coils}", coils)
    mask = np.array(np.broadcast_to(mask, (ny, nx)), np.float32)
    kspace = np.asarray(kspace, np.complex64) * mask
    kspace = np.pad(kspace, ((0, 0), (0, (coils or measured_coils) - measured_coils), (0, 0), (0, 0)))
    maps, combined = _estimate(kspace, calibration_shape)
    scale = np.float32(np.percentile(np.abs(combined), 99))
    if not scale > 0:
        raise ArgumentError("kspace", "a signal", "a zero-filled image of zeros")
    result = {
        "kspace": kspace / scale,
        "mask": np.repeat(mask[None], slices, axis=0),
        "coil_maps": np.asarray(maps),
        "target": np.asarray(target, np.float32) / scale,
        "scale": np.full(slices, scale),
    }
    return result | common_entries(result["target"], segmentation)


def common_entries(target: Array, segmentation: Array | None) -> dict[str, Array]:
    """The entries ``data_range``, ``volume``, ``segmentation`` and ``label`` of a volume's examples."""
    slices = len(target)
    result: dict[str, Array] = {
        "data_range": np.full(slices, target.max(), np.float32),
        "volume": np.zeros(slices, np.int32),
    }
    if segmentation is not None:
        result["segmentation"] = np.asarray(segmentation, np.float32)
        result["label"] = np.any(segmentation, axis=(1, 2)).astype(np.int32)
    return result


@functools.partial(jax.jit, static_argnames="calibration_shape")
def _estimate(kspace: jax.Array, calibration_shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    maps = estimate_coil_maps(kspace, calibration_shape)
    return maps, coil_combine(ifft2c(kspace), maps)


def center_columns(columns: int, center_fraction: float) -> int:
    """Number of columns of the fully sampled center, as the masks of `operators` round it; at least 1."""
    return max(round(columns * center_fraction), 1)


def resize_kspace(kspace: Array, matrix: tuple[int, int]) -> Array:
    """Zero-pads or crops the last two axes around DC (index N // 2); the values stay as they are.

    Padding keeps the field of view and interpolates the image; cropping loses resolution.
    """
    for axis, new in zip((-2, -1), matrix, strict=True):
        old = kspace.shape[axis]
        start = max(old // 2 - new // 2, 0)
        kspace = np.take(kspace, np.arange(start, start + min(old, new)), axis)
        before = max(new // 2 - old // 2, 0)
        width = [(0, 0)] * kspace.ndim
        width[axis] = (before, new - min(old, new) - before)
        kspace = np.pad(kspace, width)
    return kspace


def to_native(image: jax.Array, native_shape: tuple[int, int], scale: jax.Array | float) -> jax.Array:
    """Takes a normalized image from the common grid back to the matrix and unit of its scanner.

    Exact for complex images whose k-space is zero outside the native matrix, as those of padded measurements
    are: the result is the orthonormal inverse transform of the native k-space. Magnitudes are not
    band-limited: take them afterwards.

    Args:
      image: ``(..., ny, nx)`` on the common grid, normalized.
      native_shape: (ny, nx) of the scanner's k-space.
      scale: the example's ``scale``, ``()`` or broadcastable to ``image``.

    Returns:
      ``(..., *native_shape)`` in the scanner's unit.
    """
    ny, nx = (int(n) for n in native_shape)
    # Orthonormal transforms of the same samples on more pixels are weaker by the root of their number.
    factor = math.sqrt(math.prod(image.shape[-2:]) / (ny * nx))
    return fourier_resize(jnp.asarray(image) * scale * factor, (ny, nx))
