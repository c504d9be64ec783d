"""How noisy measured samples are, told by the samples alone."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedrecon.tasks.sample_losses import KSPACE, samples_of
from fedrecon.types import Batch

# The median of the absolute value of a normal variable, in standard deviations.
_MEDIAN = 0.67449


def noise_level(batch: Batch) -> jax.Array:
    """Standard deviation of the noise of samples, broadcastable to the "kspace" or "sinogram" of a batch.

    "noise_level" of the batch, (examples,) or with the axes of the samples behind, where there is one. Else
    it is estimated: `noise_deviation` of k-space, of complex samples, so that the mean of |n|^2 is its
    square; `detector_deviation` of sinograms, with "scale" and "pixel_size", by which line integrals have no
    unit.
    Where nothing tells it, 0, as of padding.
    """
    samples = batch[samples_of(batch)]
    if "noise_level" in batch:
        level = jnp.asarray(batch["noise_level"])
    elif samples_of(batch) == KSPACE:
        level = jnp.nan_to_num(noise_deviation(samples))
    else:
        level = detector_deviation(samples, batch["view_mask"], batch["scale"] * batch["pixel_size"])
    return level.reshape(*level.shape, *(1,) * (samples.ndim - level.ndim))


def noise_deviation(kspace: ArrayLike) -> jax.Array:
    """Standard deviation of the noise of a complex sample: ``(examples, coils, ny, nx)`` -> ``(examples,)``.

    From the median magnitude of the samples that are not zero in the outer tenth of either direction, where
    there is little else; for complex normal noise the median is sqrt(log 2) deviations. NaN without any. An
    upper bound: of few pixels and little noise most of what is there is the object's.
    """
    kspace = jnp.asarray(kspace)
    ny, nx = kspace.shape[-2:]
    y, x = (jnp.abs(jnp.arange(n) - n // 2) / (n / 2) for n in (ny, nx))
    outer = (y[:, None] > 0.9) | (x > 0.9)
    magnitude = jnp.abs(kspace)
    chosen = jnp.where(outer & (magnitude > 0), magnitude, jnp.nan)
    return jnp.nanmedian(chosen, axis=(1, 2, 3)) / math.sqrt(math.log(2))


def detector_deviation(sinogram: jax.Array, view_mask: jax.Array, unit: jax.Array) -> jax.Array:
    """Standard deviations of line integrals from photon counts: those of air, and more behind an object.

    The outermost two elements at both ends of a detector see air: the median absolute difference of
    neighbors, over ends and views, tells the deviation s of a line integral of air. Counts fall by exp(-p)
    along a ray of line integral p, and the relative deviation of Poisson counts rises with one over their
    root: s exp(p / 2). The detector's own noise, which counts where few photons arrive, is not in it, and an
    object that reaches beyond the detector makes s too large.

    Args:
      sinogram: (examples, views, detectors) line integrals.
      view_mask: (examples, views), 0 at padding.
      unit: (examples,), by which ``sinogram * unit`` is p, without unit.

    Returns:
      (examples, views, detectors); 0 at padding.
    """
    pairs = jnp.stack([sinogram[..., 0] - sinogram[..., 1], sinogram[..., -1] - sinogram[..., -2]], -1)
    known = jnp.where(view_mask[..., None] != 0, jnp.abs(pairs), jnp.nan)
    air = jnp.nan_to_num(jnp.nanmedian(known, axis=(1, 2))) / (math.sqrt(2) * _MEDIAN)
    attenuated = jnp.exp(0.5 * sinogram * unit[:, None, None])
    return air[:, None, None] * attenuated * view_mask[..., None]
