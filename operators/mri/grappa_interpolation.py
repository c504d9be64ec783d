"""GRAPPA: missing k-space samples as linear combinations of their measured neighbors in all coils."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import renamed
from operators.mri.calibration import (
    calibration_gram,
    calibration_windows,
    check_kernel_shape,
    check_kspace,
    check_regularization,
    concrete_mask,
    solve_positive,
    tikhonov,
    window_offsets,
)

# Numbers held at once by the solves and by the interpolation: 128 MiB in single precision.
_BATCH_ELEMENTS = 2**24


@renamed(l2="regularization")
def grappa(
    kspace: jax.Array,
    mask: jax.Array,
    calibration: jax.Array | None = None,
    *,
    kernel_shape: tuple[int, int] = (5, 5),
    regularization: float | jax.Array = 0.01,
) -> jax.Array:
    """Fills Cartesian k-space by weights learned from fully sampled parts of it.

    Every missing sample is a linear combination, over all coils, of the measured samples in the window of
    ``kernel_shape`` around it, so any mask will do: regular in one or both directions, or irregular. One set
    of weights is solved for every arrangement of measured samples in the window, by regularized least
    squares on all fully sampled windows. The window ends at the edges of k-space. It should reach a measured
    sample on either side: ``2 R - 1`` samples along an axis undersampled R times. A sample without a
    measured one in its window stays zero. Differentiable in ``kspace``, ``calibration`` and
    ``regularization``.

    Args:
      kspace: (..., coils, ny, nx); values where the mask is zero are ignored. Coils of zeros stay zero.
      mask: zero where a sample is not measured, broadcastable to (ny, nx); (nx,) selects columns. Concrete:
        under ``jax.jit`` it must be a constant.
      calibration: separately measured, fully sampled block (coils, cy, cx) or (..., coils, cy, cx), of any
        scale; None stands for the fully sampled windows of ``kspace`` itself.
      kernel_shape: odd (ky, kx).
      regularization: positive Tikhonov weight in units of the mean eigenvalue of the normal matrix of each
        solve. For n unknowns it is taken as at least ``4 n eps``, where the solve is safe in the working
        precision.

    Returns:
      (..., coils, ny, nx) complex, of the precision of ``kspace``; measured samples are returned bit for bit.

    Raises:
      ValueError: if a shape does not fit, no window is fully sampled, or ``regularization`` is not positive.
      TypeError: if ``mask`` is traced or ``kernel_shape`` is not of integers.

    Source: Griswold et al., Magn. Reson. Med. 47:1202, 2002; local patterns: Yeh et al. (PARS), Magn. Reson.
    Med. 53:1383, 2005.
    """
    kspace, calibration = check_kspace(kspace, calibration, "grappa")
    kernel_shape = check_kernel_shape(kernel_shape, "grappa")
    check_regularization(regularization, "grappa")
    measured = concrete_mask(mask, kspace.shape[-2:], "grappa")
    known = measured if calibration is None else np.ones(calibration.shape[-2:], bool)
    windows = calibration_windows(known, kernel_shape, "grappa")
    groups = _local_patterns(measured, kernel_shape)

    def fill(arrays):
        samples, block = arrays
        gram = calibration_gram(block, windows)
        ry, rx = (k // 2 for k in kernel_shape)
        padded = jnp.pad(samples, ((0, 0), (ry, ry), (rx, rx))).reshape(samples.shape[0], -1)
        filled = samples.reshape(samples.shape[0], -1)
        for group in groups:
            weights = _weights(gram, group, regularization)
            values = _interpolate(padded, weights, group)
            filled = filled.at[:, group["targets"].ravel()].set(values)
            # One group after another: on CPU, batched factorizations running side by side can deadlock (jax
            # 0.10), and an optimization barrier does not order them.
            gram = gram + 0 * weights[0, 0, 0]
        return filled.reshape(samples.shape)

    samples = jnp.where(measured, kspace, 0)
    batch = kspace.shape[:-3]
    if calibration is None:
        calibration = samples
    calibration = jnp.broadcast_to(calibration, batch + calibration.shape[-3:])
    arrays = tuple(a.reshape(-1, *a.shape[-3:]) for a in (samples, calibration))
    filled = jax.lax.map(fill, arrays).reshape(kspace.shape)
    return jnp.where(measured, kspace, filled)


def _local_patterns(measured: np.ndarray, kernel_shape: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Missing samples, sorted by what is measured around them.

    Patterns of similar numbers of measured samples in the window (at most s, more than s / 2) form a group:
      sources: (patterns, s) indices of the measured samples in the window, then of others;
      valid: (patterns, s) which of them are measured;
      pattern: (chunks,) the pattern of each chunk of missing samples;
      targets: (chunks, size) flat indices of the missing samples, each chunk filled up by repetition;
      neighbors: (chunks, size, s) flat indices of the sources in the padded array.
    The chunk size is the mean number of samples of a pattern: at most twice as many chunks as patterns.
    """
    (ny, nx), (ky, kx) = measured.shape, kernel_shape
    width = nx + kx - 1
    padded = np.pad(measured, ((ky // 2,) * 2, (kx // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel_shape).reshape(ny * nx, ky * kx)
    missing = np.flatnonzero(~measured)
    packed, which = np.unique(np.packbits(windows[missing], axis=1), axis=0, return_inverse=True)
    patterns = np.unpackbits(packed, axis=1, count=ky * kx).astype(bool)
    counts, order = patterns.sum(1), np.argsort(which.ravel(), kind="stable")
    members = np.split(missing[order], np.cumsum(np.bincount(which.ravel()))[:-1])
    sizes = np.ceil(np.log2(np.maximum(counts, 1)))
    groups = []
    for exponent in np.unique(sizes[counts > 0]):
        chosen = np.flatnonzero((sizes == exponent) & (counts > 0))
        s = counts[chosen].max()
        sources = np.argsort(~patterns[chosen], axis=1, kind="stable")[:, :s]
        samples = [members[i] for i in chosen]
        size = -(-sum(map(len, samples)) // len(samples))
        chunks = [
            (i, np.resize(own[start : start + size], size))
            for i, own in enumerate(samples)
            for start in range(0, len(own), size)
        ]
        pattern, targets = (np.array(part) for part in zip(*chunks, strict=True))
        first = (targets // nx * width + targets % nx)[..., None]
        offsets = window_offsets(kernel_shape, width)[sources]
        groups.append(
            {
                "sources": sources,
                "valid": np.arange(s) < counts[chosen, None],
                "pattern": pattern,
                "targets": targets,
                "neighbors": first + offsets[pattern][:, None],
            }
        )
    return groups


def _weights(gram: jax.Array, group: dict[str, np.ndarray], regularization: float | jax.Array) -> jax.Array:
    """Weights (patterns, coils * s, coils) of the sources of a group's patterns, zero where not measured."""
    (coils, taps), s = gram.shape[:2], group["sources"].shape[1]
    n = coils * s

    def solve(pattern):
        sources, valid = pattern
        rows = gram[:, sources]
        used = jnp.tile(valid, coils)
        normal = tikhonov(rows[..., sources].reshape(n, n), regularization, used)
        right = jnp.where(used[:, None], rows[..., taps // 2].reshape(n, coils), 0)
        return solve_positive(normal, right)

    patterns = jnp.asarray(group["sources"]), jnp.asarray(group["valid"])
    return jax.lax.map(solve, patterns, batch_size=_batch_size(n * n, len(group["sources"])))


def _interpolate(samples: jax.Array, weights: jax.Array, group: dict[str, np.ndarray]) -> jax.Array:
    """The missing samples (coils, chunks * size) of a group, from the padded ones (coils, rows * columns)."""
    coils = samples.shape[0]

    def apply(chunk):
        pattern, neighbors = chunk
        values = samples[:, neighbors].swapaxes(0, 1).reshape(neighbors.shape[0], -1)
        return jnp.matmul(values, weights[pattern], precision="highest")

    chunks = jnp.asarray(group["pattern"]), jnp.asarray(group["neighbors"])
    elements = coils * group["neighbors"][0].size + weights[0].size
    filled = jax.lax.map(apply, chunks, batch_size=_batch_size(elements, len(group["pattern"])))
    return filled.reshape(-1, coils).T


def _batch_size(elements: int, count: int) -> int:
    return min(max(1, _BATCH_ELEMENTS // elements), count)
