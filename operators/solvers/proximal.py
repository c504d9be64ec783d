"""Proximal maps ``argmin_x g(x) + 1/2 |x - v|^2`` and projections, of real and complex arrays.

Thresholds are the weight of the term times the step: the solvers' ``prox(v, step)`` for the term
``weight * |x|_1`` is ``lambda v, step: soft_threshold(v, step * weight)``.
"""

import functools

import jax
import jax.numpy as jnp

from operators.algebra import (
    ArgumentError,
    FiniteDifferences,
    Wavelet,
    as_inexact,
    is_complex,
    real_dtype,
    safe_sqrt,
    squared,
)
from operators.solvers.first_order import fista
from operators.solvers.linear import positive


def soft_threshold(v: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Proximal map of ``threshold * sum |x|``: shrinks magnitudes by the threshold and keeps phases.

    Args:
      v: real or complex, of any shape.
      threshold: broadcastable to ``v``; negative ones count as zero, so that nothing ever grows.

    Returns:
      Array of the shape and dtype of ``v``; its gradient is zero, not NaN, at zero.

    Source: Donoho, IEEE Trans. Inf. Theory 41:613, 1995.
    """
    return group_soft_threshold(v, threshold, axis=())


def group_soft_threshold(
    v: jax.Array, threshold: float | jax.Array, axis: int | tuple[int, ...]
) -> jax.Array:
    """Proximal map of ``threshold * sum_groups |x_group|_2``, a group being what runs along ``axis``.

    Args:
      v: real or complex, of any shape.
      threshold: broadcastable to ``v`` with ``axis`` of length one; negative ones count as zero.
      axis: the axis or axes shrunk jointly (coils, echoes, components of a gradient).

    Returns:
      Array of the shape and dtype of ``v``.

    Source: Yuan and Lin, J. R. Stat. Soc. B 68:49, 2006.
    """
    v = as_inexact(v)
    length = safe_sqrt(jnp.sum(squared(v), axis=axis, keepdims=True))
    threshold = jnp.maximum(jnp.asarray(threshold, length.dtype), 0)
    return v * jnp.where(length > threshold, 1 - threshold / positive(length), 0)


def project_box(
    v: jax.Array, lower: float | jax.Array = 0.0, upper: float | jax.Array = jnp.inf
) -> jax.Array:
    """The nearest array with ``lower <= x <= upper``, by default the non-negative one.

    Args:
      v: real, of any shape.
      lower: broadcastable to ``v``.
      upper: broadcastable to ``v``, nowhere below ``lower``.

    Returns:
      Array of the shape and dtype of ``v``.

    Raises:
      TypeError: if ``v`` is complex.
    """
    v = as_inexact(v)
    if is_complex(v.dtype):
        raise TypeError(f"project_box: v: expected a real dtype, found {v.dtype}")
    return jnp.clip(v, jnp.asarray(lower, v.dtype), jnp.asarray(upper, v.dtype))


def project_l2_ball(
    v: jax.Array,
    radius: float | jax.Array,
    center: float | jax.Array = 0.0,
    axis: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """The nearest array with ``|x - center|_2 <= radius``.

    Args:
      v: real or complex, of any shape.
      radius: non-negative, broadcastable to ``v`` with ``axis`` of length one.
      center: broadcastable to ``v``.
      axis: the axis or axes of the norm; None: all of them.

    Returns:
      Array of the shape and dtype of ``v``.
    """
    v = as_inexact(v)
    center = jnp.asarray(center, v.dtype)
    offset = v - center
    length = safe_sqrt(jnp.sum(squared(offset), axis=axis, keepdims=True))
    radius = jnp.asarray(radius, length.dtype)
    return jnp.where(length > radius, center + offset * (radius / positive(length)), v)


def prox_total_variation(
    v: jax.Array, threshold: float | jax.Array, *, ndim: int = 2, iterations: int = 100
) -> jax.Array:
    """Proximal map of ``threshold * TV``, TV the isotropic total variation over the last ``ndim`` axes.

    TV sums over pixels the length of the forward differences of :class:`operators.FiniteDifferences`.
    Accelerated projected gradients on the dual, a fixed number of them; images of a batch are independent.

    Args:
      v: (..., ny, nx) or, for ``ndim=3``, (..., nz, ny, nx), real or complex.
      threshold: non-negative, a scalar or broadcastable to ``v`` with the last ``ndim`` axes of length one.
      ndim: number of image axes.
      iterations: number of dual steps.

    Returns:
      Array of the shape and dtype of ``v``.

    Raises:
      ValueError: if ``v`` has fewer than ``ndim`` axes, or a number is not positive.

    Source: Chambolle, J. Math. Imaging Vis. 20:89, 2004; Beck and Teboulle, IEEE Trans. Image Process.
    18:2419, 2009.
    """
    v = as_inexact(v)
    if not 1 <= ndim <= v.ndim:
        raise ArgumentError("prox_total_variation: v", f"ndim = {ndim} >= 1 axes", v.shape)
    D = FiniteDifferences(v.shape[v.ndim - ndim :], v.dtype)
    threshold = jnp.asarray(threshold, real_dtype(v.dtype))
    if threshold.ndim:
        threshold = jnp.expand_dims(threshold, threshold.ndim - ndim)
    # No restart: it would couple the images of a batch.
    dual, _ = fista(
        lambda p: D(D.H(p) - v),
        lambda p, step: project_l2_ball(p, threshold, axis=-1 - ndim),
        jnp.zeros_like(D(v)),
        lipschitz=4 * ndim,
        iterations=iterations,
        restart=False,
    )
    return v - D.H(dual)


def singular_value_threshold(matrix: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Proximal map of ``threshold * |X|_*``, the sum of the singular values.

    Differentiable also where singular values coincide or vanish.

    Args:
      matrix: (..., rows, columns), real or complex.
      threshold: non-negative, a scalar or broadcastable to the leading axes.

    Returns:
      Array of the shape and dtype of ``matrix``.

    Raises:
      ValueError: if ``matrix`` has fewer than two axes.

    Source: Cai, Candes and Shen, SIAM J. Optim. 20:1956, 2010.
    """
    matrix = as_inexact(matrix)
    if matrix.ndim < 2:
        raise ArgumentError("singular_value_threshold", "(..., rows, columns)", matrix.shape)
    threshold = jnp.asarray(threshold, real_dtype(matrix.dtype))
    if matrix.shape[-2] < matrix.shape[-1]:
        return jnp.matrix_transpose(_shrink_tall(jnp.matrix_transpose(matrix), threshold))
    return _shrink_tall(matrix, threshold)


@jax.custom_jvp
def _shrink_tall(matrix, threshold):
    u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return _product(u * jnp.maximum(s - threshold[..., None], 0)[..., None, :], vh)


@_shrink_tall.defjvp
def _shrink_tall_jvp(primals, tangents):
    # The derivative of a spectral function, by divided differences, which are bounded for a shrinkage.
    (matrix, threshold), (matrix_dot, threshold_dot) = primals, tangents
    u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
    limit = threshold[..., None]
    kept, above = jnp.maximum(s - limit, 0), s > limit
    row, column = above[..., :, None], above[..., None, :]
    gap = jnp.abs(s[..., :, None] - s[..., None, :])
    mixed = jnp.maximum(kept[..., :, None], kept[..., None, :]) / positive(gap)
    symmetric = jnp.where(row & column, 1, jnp.where(row | column, mixed, 0))
    total = s[..., :, None] + s[..., None, :]
    skew = (kept[..., :, None] + kept[..., None, :]) / positive(total)
    v = jnp.matrix_transpose(vh).conj()
    uh = jnp.matrix_transpose(u).conj()
    right = _product(matrix_dot, v)
    inside = _product(uh, right)
    turned = jnp.matrix_transpose(inside).conj()
    core = symmetric * (inside + turned) / 2 + skew * (inside - turned) / 2
    outside = (right - _product(u, inside)) * (kept / positive(s))[..., None, :]
    level = u * (above * threshold_dot[..., None])[..., None, :]
    return _product(u * kept[..., None, :], vh), _product(_product(u, core) + outside - level, vh)


# Accelerators round the factors of single-precision products unless told otherwise.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def prox_locally_low_rank(
    v: jax.Array,
    threshold: float | jax.Array,
    block_shape: tuple[int, int],
    shift: tuple[int, int] | jax.Array = (0, 0),
) -> jax.Array:
    """Proximal map of ``threshold * sum_blocks |X_block|_*``, X_block the (pixels, frames) matrix of a block.

    Blocks tile the image without overlap from pixel ``shift`` on, cyclically; the last ones along an axis
    that is no multiple of the block are smaller. A random shift per iteration avoids the blocks' edges.

    Args:
      v: dynamic series (..., frames, ny, nx), real or complex.
      threshold: non-negative scalar.
      block_shape: (by, bx) in pixels.
      shift: (sy, sx), integers; may be traced.

    Returns:
      Array of the shape and dtype of ``v``.

    Raises:
      ValueError: if ``v`` has fewer than three axes or ``block_shape`` is not two positive integers.

    Source: Zhang, Pauly and Levesque, Magn. Reson. Med. 73:655, 2015.
    """
    v = as_inexact(v)
    check_blocks("prox_locally_low_rank", v.shape, block_shape)
    shift = jnp.asarray(shift)
    rolled = jnp.roll(v, -shift, (-2, -1))
    blocks = singular_value_threshold(split_blocks(rolled, block_shape), threshold)
    return jnp.roll(join_blocks(blocks, v.shape, block_shape), shift, (-2, -1))


def check_blocks(name: str, shape: tuple[int, ...], block_shape: tuple[int, int]) -> None:
    """Raises unless ``shape`` is (..., frames, ny, nx) and ``block_shape`` two positive integers."""
    if len(shape) < 3:
        raise ArgumentError(name, "a series (..., frames, ny, nx)", f"shape {shape}")
    if len(block_shape) != 2 or min(block_shape) < 1:
        raise ArgumentError(f"{name}: block_shape", "two positive integers", tuple(block_shape))


def split_blocks(v: jax.Array, block_shape: tuple[int, int]) -> jax.Array:
    """(..., frames, ny, nx) -> (..., blocks, pixels, frames), zeros where a block leaves the image."""
    (by, bx), (frames, ny, nx) = block_shape, v.shape[-3:]
    # Rows of zeros change no singular value: a block at the edge acts as a smaller one.
    v = jnp.pad(v, [(0, 0)] * (v.ndim - 2) + [(0, -ny % by), (0, -nx % bx)])
    batch, (rows, columns) = v.shape[:-3], (v.shape[-2] // by, v.shape[-1] // bx)
    v = v.reshape(*batch, frames, rows, by, columns, bx)
    order = [len(batch) + i for i in (1, 3, 2, 4, 0)]
    return v.transpose(*range(len(batch)), *order).reshape(*batch, rows * columns, by * bx, frames)


def join_blocks(blocks: jax.Array, shape: tuple[int, ...], block_shape: tuple[int, int]) -> jax.Array:
    """Inverse of :func:`split_blocks` for an array of ``shape``."""
    (by, bx), (frames, ny, nx), batch = block_shape, shape[-3:], shape[:-3]
    rows, columns = -(-ny // by), -(-nx // bx)
    blocks = blocks.reshape(*batch, rows, columns, by, bx, frames)
    order = [len(batch) + i for i in (4, 0, 2, 1, 3)]
    image = blocks.transpose(*range(len(batch)), *order).reshape(*batch, frames, rows * by, columns * bx)
    return image[..., :ny, :nx]


def prox_wavelet(
    v: jax.Array, threshold: float | jax.Array, wavelet: Wavelet, key: jax.Array | None = None
) -> jax.Array:
    """Proximal map of ``threshold * |W x|_1`` over the details of an orthogonal wavelet transform.

    The approximations of the last level are not penalized. With a key the transform is that of the image
    shifted cyclically by random numbers of pixels below ``2 ** levels`` along every axis, the same for a
    whole batch: over many calls this approaches the translation-invariant transform (cycle spinning).

    Args:
      v: (..., *image_shape), real or complex.
      threshold: non-negative scalar, or broadcastable to ``v``.
      wavelet: the transform W, of a dtype to which that of ``v`` promotes.
      key: typed PRNG key of the shift; None: no shift.

    Returns:
      (..., *image_shape) of ``wavelet.dtype``.

    Raises:
      ValueError, TypeError: if ``v`` does not fit ``wavelet``.

    Source: Coifman and Donoho, Translation-invariant de-noising, 1995; Figueiredo and Nowak, IEEE Trans.
    Image Process. 12:906, 2003.
    """
    axes = tuple(range(-len(wavelet.image_shape), 0))
    if key is not None:
        assert wavelet.levels is not None, "set when it was made"
        shift = jax.random.randint(key, (len(axes),), 0, 2**wavelet.levels)
        v = jnp.roll(v, tuple(shift), axes)
    coefficients = wavelet(v)
    x = wavelet.H(jnp.where(wavelet.details, soft_threshold(coefficients, threshold), coefficients))
    return x if key is None else jnp.roll(x, tuple(-shift), axes)
