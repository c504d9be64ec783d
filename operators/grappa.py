"""GRAPPA: missing k-space samples as linear combinations of their measured neighbours in all coils."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.geometry import positive_integer
from operators.linear_operator import as_inexact, complex_dtype
from operators.measured import check_measured

# Numbers held at once by the solves and by the interpolation: 128 MiB in single precision.
_BATCH_ELEMENTS = 2**24


def grappa(
    kspace: jax.Array,
    mask: jax.Array,
    calibration: jax.Array | None = None,
    *,
    kernel_shape: tuple[int, int] = (5, 5),
    l2: float | jax.Array = 0.01,
) -> jax.Array:
    """Fills Cartesian k-space by weights learnt from fully sampled parts of it.

    Every missing sample is a linear combination, over all coils, of the measured samples in the window of
    ``kernel_shape`` around it, so any mask will do: regular in one or both directions, or irregular. One set
    of weights is solved for every arrangement of measured samples in the window, by regularised least
    squares on all fully sampled windows. The window ends at the edges of k-space. It should reach a measured
    sample on either side: ``2 R - 1`` samples along an axis undersampled R times. A sample without a
    measured one in its window stays zero. Differentiable in ``kspace``, ``calibration`` and ``l2``.

    Args:
      kspace: (..., coils, ny, nx); values where the mask is zero are ignored. Coils of zeros stay zero.
      mask: zero where a sample is not measured, broadcastable to (ny, nx); (nx,) selects columns. Concrete:
        under ``jax.jit`` it must be a constant.
      calibration: separately measured, fully sampled block (coils, cy, cx) or (..., coils, cy, cx), of any
        scale; None stands for the fully sampled windows of ``kspace`` itself.
      kernel_shape: odd (ky, kx).
      l2: positive Tikhonov weight in units of the mean eigenvalue of the normal matrix of each solve. For n
        unknowns it is taken as at least ``4 n eps``, where the solve is safe in the working precision.

    Returns:
      (..., coils, ny, nx) complex, of the precision of ``kspace``; measured samples are returned bit for bit.

    Raises:
      ValueError: if a shape does not fit, no window is fully sampled, or ``l2`` is not positive.
      TypeError: if ``mask`` is traced or ``kernel_shape`` is not of integers.

    Source: Griswold et al., Magn. Reson. Med. 47:1202, 2002; local patterns: Yeh et al. (PARS), Magn. Reson.
    Med. 53:1383, 2005.
    """
    kspace, calibration = check_kspace(kspace, calibration, "grappa")
    kernel_shape = check_kernel_shape(kernel_shape, "grappa")
    check_l2(l2, "grappa")
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
            weights = _weights(gram, group, l2)
            values = _interpolate(padded, weights, group)
            filled = filled.at[:, group["targets"].ravel()].set(values)
            # One group after another: on CPU, batched factorisations running side by side can deadlock (jax
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


def check_kspace(kspace, calibration, where: str) -> tuple[jax.Array, jax.Array | None]:
    """Complex k-space and calibration of one dtype whose axes agree; raises ValueError naming ``where``."""
    kspace = as_inexact(check_measured(kspace, jnp.complex64, f"{where}: kspace", finite=False))
    if kspace.ndim < 3 or not kspace.size:
        raise ValueError(f"{where}: kspace must be (..., coils, ny, nx), found shape {kspace.shape}")
    kspace = kspace.astype(complex_dtype(kspace.dtype))
    if calibration is None:
        return kspace, None
    calibration = check_measured(calibration, jnp.complex64, f"{where}: calibration")
    coils, batch = kspace.shape[-3], kspace.shape[:-3]
    shape = calibration.shape
    if len(shape) < 3 or shape[-3] != coils or shape[:-3] not in ((), batch):
        raise ValueError(
            f"{where}: calibration must be ({coils}, cy, cx) or have the leading axes {batch} of kspace, "
            f"found shape {shape}"
        )
    return kspace, calibration.astype(kspace.dtype)


def check_kernel_shape(kernel_shape, where: str) -> tuple[int, int]:
    """``kernel_shape`` as two odd integers; raises ValueError or TypeError naming ``where``."""
    shape = tuple(positive_integer(k, f"{where}: kernel_shape") for k in kernel_shape)
    if len(shape) != 2 or any(k % 2 == 0 for k in shape):
        raise ValueError(f"{where}: kernel_shape must be two odd integers, found {kernel_shape}")
    return shape


def check_l2(l2, where: str) -> None:
    """Raises ValueError naming ``where`` unless ``l2`` is positive; a traced one passes."""
    if not isinstance(l2, jax.core.Tracer) and not (np.ndim(l2) == 0 and 0 < l2 < np.inf):
        raise ValueError(f"{where}: l2 must be a positive number, found {l2}")


def concrete_mask(mask, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask as booleans (ny, nx) on the host; TypeError if traced, ValueError if it does not fit."""
    if isinstance(mask, jax.core.Tracer):
        raise TypeError(f"{where}: mask must be concrete, found a traced array; close over it under jit")
    mask = np.asarray(mask) != 0
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"{where}: mask must be broadcastable to (ny, nx) = {shape}, found shape {mask.shape}"
        ) from None


def calibration_windows(measured: np.ndarray, kernel_shape: tuple[int, int], where: str) -> np.ndarray:
    """Flat indices (windows, ky * kx) of the samples of all fully sampled windows.

    Raises:
      ValueError: if there is none.
    """
    ny, nx = measured.shape
    ky, kx = kernel_shape
    if ky > ny or kx > nx:
        starts = np.empty((0, 2), int)
    else:
        views = np.lib.stride_tricks.sliding_window_view(measured, kernel_shape)
        starts = np.argwhere(views.all((-2, -1)))
    if not len(starts):
        raise ValueError(
            f"{where}: calibration needs a fully sampled block of at least kernel_shape {kernel_shape}, "
            f"found none in {measured.shape}"
        )
    return (starts @ [nx, 1])[:, None] + _window_offsets(kernel_shape, nx)


def calibration_gram(kspace: jax.Array, windows: np.ndarray) -> jax.Array:
    """Normal matrix of the calibration matrix, whose rows are the windows of all coils.

    Args:
      kspace: (coils, ny, nx) complex.
      windows: flat indices (windows, ky * kx).

    Returns:
      (coils, ky * kx, coils, ky * kx), Hermitian, scaled so that the largest sample has magnitude one.
    """
    coils, taps = kspace.shape[0], windows.shape[1]
    rows = kspace.reshape(coils, -1)[:, windows.T].reshape(coils * taps, -1)
    # A tiny scale under- or overflows when squared.
    scale = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(scale > 0, scale, 1)
    gram = jnp.matmul(rows.conj(), rows.T, precision="highest")
    return gram.reshape(coils, taps, coils, taps)


def tikhonov(gram: jax.Array, l2: float | jax.Array, used: jax.Array | None = None) -> jax.Array:
    """``gram + l2 * (its mean eigenvalue) * I``, safely positive definite; the identity if ``gram`` is zero.

    Args:
      gram: (n, n) Hermitian positive semi-definite.
      l2: non-negative.
      used: (n,) booleans: rows and columns that are not used become those of the identity. None: all are.
    """
    n = gram.shape[0]
    used = jnp.ones(n, bool) if used is None else used
    gram = jnp.where(used[:, None] & used, gram, 0)
    count = jnp.sum(used)
    mean = jnp.trace(gram).real / count
    floor = 4 * count * float(jnp.finfo(gram.dtype).eps)
    weight = jnp.maximum(jnp.asarray(l2, mean.dtype), floor) * mean
    diagonal = jnp.where(used & (weight > 0), weight, 1)
    return gram + jnp.diag(diagonal)


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a Hermitian positive definite system (n, n) for the columns of ``right``."""
    # jax.scipy.linalg.solve(assume_a="pos") has a wrong gradient for complex matrices.
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), right)


def _window_offsets(kernel_shape: tuple[int, int], width: int) -> np.ndarray:
    """Flat offsets of a window's samples from its first one, in an array of ``width`` columns."""
    ky, kx = kernel_shape
    return (np.arange(ky)[:, None] * width + np.arange(kx)).ravel()


def _local_patterns(measured: np.ndarray, kernel_shape: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Missing samples, sorted by what is measured around them.

    Patterns of similar numbers of measured samples in the window (at most s, more than s / 2) form a group:
      sources: (patterns, s) indices of the measured samples in the window, then of others;
      valid: (patterns, s) which of them are measured;
      pattern: (chunks,) the pattern of each chunk of missing samples;
      targets: (chunks, size) flat indices of the missing samples, each chunk filled up by repetition;
      neighbours: (chunks, size, s) flat indices of the sources in the padded array.
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
        offsets = _window_offsets(kernel_shape, width)[sources]
        groups.append(
            {
                "sources": sources,
                "valid": np.arange(s) < counts[chosen, None],
                "pattern": pattern,
                "targets": targets,
                "neighbours": first + offsets[pattern][:, None],
            }
        )
    return groups


def _weights(gram: jax.Array, group: dict[str, np.ndarray], l2: float | jax.Array) -> jax.Array:
    """Weights (patterns, coils * s, coils) of the sources of a group's patterns, zero where not measured."""
    (coils, taps), s = gram.shape[:2], group["sources"].shape[1]
    n = coils * s

    def solve(pattern):
        sources, valid = pattern
        rows = gram[:, sources]
        used = jnp.tile(valid, coils)
        normal = tikhonov(rows[..., sources].reshape(n, n), l2, used)
        right = jnp.where(used[:, None], rows[..., taps // 2].reshape(n, coils), 0)
        return solve_positive(normal, right)

    patterns = jnp.asarray(group["sources"]), jnp.asarray(group["valid"])
    return jax.lax.map(solve, patterns, batch_size=_batch_size(n * n, len(group["sources"])))


def _interpolate(samples: jax.Array, weights: jax.Array, group: dict[str, np.ndarray]) -> jax.Array:
    """The missing samples (coils, chunks * size) of a group, from the padded ones (coils, rows * columns)."""
    coils = samples.shape[0]

    def apply(chunk):
        pattern, neighbours = chunk
        values = samples[:, neighbours].swapaxes(0, 1).reshape(neighbours.shape[0], -1)
        return jnp.matmul(values, weights[pattern], precision="highest")

    chunks = jnp.asarray(group["pattern"]), jnp.asarray(group["neighbours"])
    elements = coils * group["neighbours"][0].size + weights[0].size
    filled = jax.lax.map(apply, chunks, batch_size=_batch_size(elements, len(group["pattern"])))
    return filled.reshape(-1, coils).T


def _batch_size(elements: int, count: int) -> int:
    return min(max(1, _BATCH_ELEMENTS // elements), count)
