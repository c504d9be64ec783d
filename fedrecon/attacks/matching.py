"""How near recovered images are to the originals, beside what guessing gives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from fedrecon.errors import ArgumentError
from fedrecon.tasks import ssim


class Match(NamedTuple):
    """Recovered images beside the originals that they fit best, each taken once.

    Attributes:
      psnr, ssim: float (originals,), of each original with the image assigned to it.
      order: int (originals,), which recovered image that is.
      random_psnr: mean PSNR of uniform noise in the range of the originals, assigned likewise.
      mean_psnr: mean PSNR of one constant or mean image for all.
      random_ssim, mean_ssim: the same in SSIM.
    """

    psnr: np.ndarray
    ssim: np.ndarray
    order: np.ndarray
    random_psnr: float
    mean_psnr: float
    random_ssim: float
    mean_ssim: float


def match(
    recovered: jax.Array, originals: jax.Array, *, public: jax.Array | None = None, seed: int = 0
) -> Match:
    """Assigns recovered images to the originals, by the largest sum of PSNR (Hungarian algorithm).

    PSNR and SSIM refer to the range of each original, its largest minus its smallest value, or 1 where it is
    constant.

    Args:
      recovered: (m, ny, nx[, channels]) real, m at least the number of originals.
      originals: (n, ny, nx[, channels]) real.
      public: (k, ny, nx[, channels]), images that anybody has, for the mean image; without any, the baseline
        is a constant, the mean of the originals, which an attacker would have to know.
      seed: of the random guess.

    Raises:
      ValueError: shapes disagree, or there are too few images.
    """
    found, true = (np.asarray(_planes(x), np.float64) for x in (recovered, originals))
    if found.shape[1:] != true.shape[1:] or len(found) < len(true) or not len(true):
        raise ArgumentError("recovered", f"at least {len(true)} images {true.shape[1:]}", found.shape)
    order, psnr, similar = _assigned(found, true)
    rng = np.random.default_rng(seed)
    noise = rng.uniform(true.min(), true.max(), true.shape)
    mean = np.full_like(true, true.mean())
    if public is not None:
        mean = np.broadcast_to(np.asarray(_planes(public), np.float64).mean(0), true.shape)
    guesses = [_assigned(guess, true)[1:] for guess in (noise, mean)]
    return Match(
        psnr,
        similar,
        order,
        float(guesses[0][0].mean()),
        float(guesses[1][0].mean()),
        float(guesses[0][1].mean()),
        float(guesses[1][1].mean()),
    )


def _planes(x: jax.Array) -> jax.Array:
    """(images, channels, ny, nx)."""
    x = jnp.asarray(x)
    if x.ndim not in (3, 4):
        raise ArgumentError("images", "(images, ny, nx) or (images, ny, nx, channels)", x.shape)
    return x[:, None] if x.ndim == 3 else jnp.moveaxis(x, -1, 1)


def _assigned(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of images (n, channels, ny, nx): the place of each original's match, PSNR and SSIM."""
    ranges = np.ptp(true, axis=(1, 2, 3))
    ranges = np.where(ranges > 0, ranges, 1)
    errors = np.stack([((found - t) ** 2).mean((1, 2, 3)) for t in true])
    psnr = 10 * np.log10(ranges[:, None] ** 2 / np.maximum(errors, 1e-12))
    rows, order = linear_sum_assignment(-np.where(np.isfinite(psnr), psnr, -1e6))
    chosen = found[order]
    similar = np.asarray(
        ssim(jnp.asarray(chosen), jnp.asarray(true), jnp.broadcast_to(ranges[:, None], true.shape[:2]))
    ).mean(1)
    return order, psnr[rows, order], similar
