"""Coil maps of measured slices: the center of k-space that they come from, and how well they explain it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon.data import Measurement
from operators.mri import center_slice

COIL_MAPS = ("calibration", "walsh", "espirit")
# Maps of a smaller center of k-space leave aliases as bright as the object.
SMALLEST_CALIBRATION = 6
# Where maps do not explain the calibration, this part of the misfit acts as noise does.
_MISFIT = 0.25


def calibration_block(sampled: np.ndarray, size: int) -> tuple[int, int]:
    """The (ny, nx) of the fully sampled block around DC whose edges are at most ``size``.

    Of several, that with the longest shorter edge, then the largest; (0, 0) when DC is not sampled.
    """
    ny, nx = sampled.shape
    best, columns = (0, 0), min(nx, size)
    for rows in range(1, min(ny, size) + 1):
        while columns and not sampled[center_slice(ny, rows), center_slice(nx, columns)].all():
            columns -= 1
        if columns:
            best = max(best, (rows, columns), key=lambda block: (min(block), block[0] * block[1]))
    return best


def calibration_size(measurement: Measurement, index: int, size: int) -> tuple[int, int]:
    """The (ny, nx) of the block that coil maps of a slice come from, with edges of at most ``size``."""
    return calibration_block(calibrated(measurement, index), size)


def calibrated(measurement: Measurement, index: int) -> np.ndarray:
    """Samples (ny, nx), bool, that the calibration of a slice has."""
    if measurement.calibration is not None:
        return np.any(measurement.calibration, (0, 1))
    return np.ones(measurement.image_shape, bool) if measurement.mask is None else measurement.mask[index]


def coil_maps(kspace: jax.Array, block: tuple[int, int], kind: str, noise: Any) -> jax.Array:
    """Maps (coils, ny, nx) of one of `COIL_MAPS` from a block of k-space; those of ESPIRiT weighted.

    The background is weighted by what it may hold beside the object: the noise, between 0.2 and 0.5.
    """
    window = np.zeros(kspace.shape[-2:], np.float32)
    place = tuple(center_slice(n, c) for n, c in zip(window.shape, block, strict=True))
    window[place] = np.outer(*(np.hanning(c + 2)[1:-1] for c in block))
    if kind == "calibration":
        return operators.mri.estimate_coil_maps(kspace, block)
    if kind == "espirit":
        # Cropped maps would leave no background, and equal ones let aliased signal stay in it.
        kernel = tuple(min(6, (n + 1) // 2) for n in block)
        maps, values = operators.espirit_maps(kspace, block, kernel, crop=0.0)
        inside = operators.mri.espirit_support(values, 0.0)
        energy = jnp.sum(inside * operators.rss(operators.ifft2c(window * kspace)) ** 2)
        power = energy / jnp.maximum(jnp.sum(inside), 1)
        background = noise * (2 * len(kspace)) ** 0.5
        floor = jnp.clip(4 * background / jnp.sqrt(jnp.where(power > 0, power, 1)), 0.2, 0.5)
        return maps * operators.mri.espirit_support(values, floor)
    return operators.mri.walsh_maps(operators.ifft2c(window * kspace))


def misfit(maps: jax.Array, gridded: jax.Array, block: tuple[int, int], y: jax.Array) -> jax.Array:
    """What the errors of maps add to those of a sample's real and imaginary part, as a standard deviation.

    The part of the calibration block that no image times the maps explains, relative to the block, applies to
    all samples alike. Noise is in it, too, but small where signals are large.
    """
    place = (slice(None), *(center_slice(n, c) for n, c in zip(gridded.shape[-2:], block, strict=True)))
    known = gridded[place]
    images = operators.ifft2c(jnp.zeros_like(gridded).at[place].set(known))
    explained = maps * operators.mri.coil_combine(images, maps)
    rest = known - operators.fft2c(explained)[place]
    ratio = jnp.sum(jnp.abs(rest) ** 2) / jnp.maximum(jnp.sum(jnp.abs(known) ** 2), 1e-30) / 2
    measured = jnp.maximum(jnp.sum(jnp.any(y != 0, axis=0)), 1)
    return _MISFIT * jnp.sqrt(ratio * jnp.sum(jnp.abs(y) ** 2) / measured)
