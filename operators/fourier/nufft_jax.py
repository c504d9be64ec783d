"""The non-uniform FFT in plain JAX: gridding by gathers and scatters, for any backend and precision."""

import functools
import math

import jax
import jax.numpy as jnp

from operators.algebra import complex_dtype
from operators.fourier.cartesian import centered_resize
from operators.fourier.nufft_kernel import Layout


def type2(points: jax.Array, images: jax.Array, layout: Layout, sign: int) -> jax.Array:
    """``y[p, m] = sum_n scale[n] images[p, n] exp(sign 2 pi i points[m] . n)``, n centered.

    Args:
      points: (samples, ndim) real, cycles per pixel.
      images: (planes, *image_shape) complex.
      layout: grid, kernel and scale.
      sign: -1 or 1.

    Returns:
      (planes, samples) complex.
    """
    shape = images.shape[1:]
    axes = tuple(range(1, images.ndim))
    grid = centered_resize(_scaled(images, layout), layout.grid_shape)
    grid = jnp.roll(grid, [-(g // 2) for g in layout.grid_shape], axes)
    grid = _transform(grid, len(shape), sign)
    cells = jnp.moveaxis(grid.reshape(images.shape[0], math.prod(layout.grid_shape)), 0, -1)
    # A contiguous row of planes per cell: one gather moves all of them.
    cells = _as_real(cells)

    def add(total, tap):
        index, weight = tap
        return total + weight[:, None] * cells[index], None

    zero = jnp.zeros_like(cells, shape=(points.shape[0], cells.shape[1]))
    total = _over_taps(add, zero + 0 * points[:1, :1].astype(zero.dtype), points, layout)
    return jnp.moveaxis(_as_complex(total), -1, 0)


def type1(points: jax.Array, values: jax.Array, layout: Layout, sign: int, shape: tuple) -> jax.Array:
    """``images[p, n] = scale[n] sum_m values[p, m] exp(sign 2 pi i points[m] . n)``: the transpose of type 2.

    Args:
      points: (samples, ndim) real, cycles per pixel.
      values: (planes, samples) complex.
      layout: grid, kernel and scale.
      sign: -1 or 1.
      shape: image_shape.

    Returns:
      (planes, *shape) complex.
    """
    planes = values.shape[0]
    rows = _as_real(jnp.moveaxis(values, 0, -1))

    def add(cells, tap):
        index, weight = tap
        return cells.at[index].add(weight[:, None] * rows), None

    zero = jnp.zeros_like(rows, shape=(math.prod(layout.grid_shape), rows.shape[1]))
    cells = _over_taps(add, zero + 0 * points[:1, :1].astype(zero.dtype), points, layout)
    grid = jnp.moveaxis(_as_complex(cells), -1, 0).reshape(planes, *layout.grid_shape)
    axes = tuple(range(1, grid.ndim))
    grid = jnp.roll(_transform(grid, len(shape), sign), [g // 2 for g in layout.grid_shape], axes)
    return _scaled(centered_resize(grid, shape), layout)


def _over_taps(add, start, points, layout):
    """Folds ``add`` over all taps: flat cell indices and weights, (samples,) each."""
    taps = [_taps(points[:, a], g, layout) for a, g in enumerate(layout.grid_shape)]
    flat_index, weight = taps[0]
    for cells, (index, factor) in zip(layout.grid_shape[1:], taps[1:], strict=True):
        flat_index = (flat_index[:, None] * cells + index[None]).reshape(-1, index.shape[-1])
        weight = (weight[:, None] * factor[None]).reshape(-1, factor.shape[-1])
    return jax.lax.scan(add, start, (flat_index, weight), unroll=layout.kernel.width)[0]


@functools.partial(jax.named_call, name="nufft_taps")
def _taps(points, cells, layout):
    """Cells and weights of all taps along one axis: (width, samples) int32 and real."""
    kernel = layout.kernel
    fraction, base = _fraction(points, cells)
    first = jnp.floor(fraction - kernel.width / 2) + 1
    u = 2 * (first - (fraction - kernel.width / 2)) - 1
    coefficients = jnp.asarray(kernel.coefficients, points.dtype)[..., None]
    weight = coefficients[-1] * jnp.ones_like(u)
    for coefficient in coefficients[-2::-1]:
        weight = weight * u + coefficient
    index = base + first.astype(jnp.int32) + jnp.arange(kernel.width, dtype=jnp.int32)[:, None]
    return jnp.mod(index, cells), weight


def _fraction(points, cells):
    """``points * cells`` as a small remainder and an integer, without the rounding of the product."""
    points = points - jnp.round(points)
    exponent, mantissa = (8, 11) if points.dtype == jnp.float32 else (11, 25)
    # Both halves have so few bits that their products with the number of cells are exact.
    high = jax.lax.reduce_precision(points, exponent, mantissa)
    base = jnp.floor(high * cells)
    return (high * cells - base) + (points - high) * cells, base.astype(jnp.int32)


def _scaled(images, layout):
    for axis, scale in enumerate(layout.scales):
        axes = (1,) * (len(layout.scales) - axis - 1)
        images = images * jnp.asarray(scale, images.real.dtype).reshape(-1, *axes)
    return images


def _transform(grid, ndim, sign):
    axes = tuple(range(-ndim, 0))
    if sign < 0:
        return jnp.fft.fftn(grid, axes=axes)
    return jnp.fft.ifftn(grid, axes=axes) * math.prod(grid.shape[-ndim:])


def _as_real(rows):
    return jnp.stack([rows.real, rows.imag], axis=-1).reshape(rows.shape[0], 2 * rows.shape[1])


def _as_complex(rows):
    pairs = rows.reshape(rows.shape[0], rows.shape[1] // 2, 2)
    return jax.lax.complex(pairs[..., 0], pairs[..., 1]).astype(complex_dtype(rows.dtype))
