"""Quality of reconstructed images, per volume, as fastMRI reports it."""

import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics

WINDOW = 7


def _window_mean(x: jax.Array) -> jax.Array:
    for axis in (x.ndim - 2, x.ndim - 1):
        size = x.shape[axis] - WINDOW + 1
        windows = [lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(WINDOW)]
        x = jnp.asarray(sum(windows))
    return x / WINDOW**2


def ssim(images: jax.Array, targets: jax.Array, data_range: jax.Array) -> jax.Array:
    """Structural similarity with the constants of scikit-image and fastMRI (Wang et al. 2004).

    7 x 7 uniform window, k1 = 0.01, k2 = 0.03, sample covariance, mean over the windows that lie wholly
    inside the image.

    Args:
      images: (..., ny, nx) real.
      targets: (..., ny, nx) real.
      data_range: (...), span of the values, positive.

    Returns:
      (...), at most 1.

    Raises:
      ValueError: an image is smaller than the window.
    """
    if min(images.shape[-2:]) < WINDOW:
        raise ArgumentError("ssim", f"images of at least {WINDOW} x {WINDOW} pixels", images.shape)
    mean_x, mean_y = _window_mean(images), _window_mean(targets)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_x = unbiased * (_window_mean(images * images) - mean_x * mean_x)
    variance_y = unbiased * (_window_mean(targets * targets) - mean_y * mean_y)
    covariance = unbiased * (_window_mean(images * targets) - mean_x * mean_y)
    c1, c2 = (jnp.square(k * data_range)[..., None, None] for k in (0.01, 0.03))
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean((-2, -1))


def magnitude(images: jax.Array) -> jax.Array:
    """Absolute value of complex images; real images as they are."""
    return jnp.abs(images) if jnp.iscomplexobj(images) else images


def reconstruction_metrics(images: jax.Array, batch: Batch) -> Metrics:
    """NMSE, PSNR and SSIM per volume, summed over the volumes of one client.

    With x the volume and t its target: NMSE = |x - t|^2 / |t|^2; PSNR = 10 log10(range^2 / mean (x - t)^2)
    in dB; SSIM = mean over slices of ``ssim``. The range is the maximum of the reference volume. Blank
    volumes, whose range is 0, are not counted; a volume with an image that is not finite makes the sums so.

    Args:
      images: (examples, ny, nx); the magnitude of complex images is compared.
      batch: "target" (examples, ny, nx); "data_range" (examples,) maximum of the volume's target; "volume"
        (examples,) int identifier of the volume; "valid" (examples,) bool. Volumes must be complete.

    Returns:
      {"nmse", "psnr", "ssim"}: (sum over volumes, number of volumes).
    """
    scores, present = volume_scores(images, batch)
    return {name: total(score, present) for name, score in scores.items()}


def volume_scores(images: jax.Array, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
    """NMSE, PSNR and SSIM of each volume of one client, see `reconstruction_metrics`.

    Args:
      images, batch: as there.

    Returns:
      ({"nmse", "psnr", "ssim"}: (examples,), counted (examples,) bool): in the increasing order of the
      identifiers of the volumes, those of padding included, and then without meaning where ``counted`` is
      False, as for blank volumes and beyond the number of volumes.
    """
    images, target, valid = magnitude(images), jnp.asarray(batch["target"]), batch["valid"]
    examples = valid.shape[0]
    _, volume = jnp.unique(batch["volume"], return_inverse=True, size=examples, fill_value=0)

    def per_volume(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(jnp.where(valid, values, 0), volume, num_segments=examples)

    slices = per_volume(jnp.ones(examples, target.dtype))
    present = (slices > 0) & (per_volume(jnp.asarray(batch["data_range"])) != 0)
    slices = jnp.where(present, slices, 1)
    data_range = jnp.where(valid & (batch["data_range"] != 0), batch["data_range"], 1)
    error = per_volume(jnp.square(images - target).sum((1, 2)))
    energy = jnp.where(present, per_volume(jnp.square(target).sum((1, 2))), 1)
    peak = jnp.where(present, per_volume(data_range) / slices, 1)
    mse = jnp.where(present, error / (slices * target.shape[1] * target.shape[2]), 1)
    scores = {
        "nmse": error / energy,
        "psnr": 10 * jnp.log10(jnp.square(peak) / mse),
        "ssim": per_volume(ssim(images, target, data_range)) / slices,
    }
    return scores, present
