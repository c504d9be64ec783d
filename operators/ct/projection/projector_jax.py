"""Line-driven projection in plain JAX; both directions gather.

The projection goes from line to line, the adjoint from view to view. A pixel is touched by the few bins whose
rays, or intervals between edges, pass it: a window around the place where the ray through the pixel meets the
detector. The adjoint takes the forward's weight of every bin in the window; those of all others are zero. See
:mod:`operators.ct.projection.projector_primitive` for the operands.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import vary_together
from operators.kernels import over_trajectories

# Bins that are looked at together, and what the bounds of a window may be wrong by, in bins.
_BINS_PER_STEP = 3
_MARGIN = 0.05


def project(
    rays: jax.Array, images: jax.Array, lengths: jax.Array, shadows: jax.Array | None = None, **_: Any
) -> jax.Array:
    """Lowers the primitive of the same name."""
    return over_trajectories(_project_one, (rays, images, lengths))


def back_project(
    rays: jax.Array,
    sinograms: jax.Array,
    lengths: jax.Array,
    shadows: jax.Array,
    *,
    shape: tuple[int, int],
    curved: bool,
    **_: Any,
) -> jax.Array:
    """Lowers the primitive of the same name."""
    function = functools.partial(_back_project_one, shape, curved)
    return over_trajectories(function, (rays, sinograms, lengths, shadows))


def _project_one(rays, images, lengths):
    total = 0
    for axis, lines in enumerate((images, images.swapaxes(-1, -2))):
        total = total + _sum_over_lines(lines, *rays[axis], _own(lengths, axis))
    return total


def _own(lengths, axis):
    return jnp.maximum(-lengths if axis else lengths, 0)


def _positions(base, slope, line, pixels, integrated):
    """Crossings of knots with lines of ``pixels`` pixels, in entries of their tables."""
    offset, last = (0.5, pixels) if integrated else (1, pixels + 1)
    return jnp.clip(base + slope * line + offset, 0, last)


def _numbers(count, dtype):
    return jnp.asarray(np.arange(count) - (count - 1) / 2, dtype)


def _inverse_widths(base, slope, line):
    width = jnp.diff(base) + jnp.diff(slope) * line
    # On a line through the source bins have no width.
    return 1 / jnp.where(jnp.abs(width) > 1e-5, width, jnp.inf)


def _sum_over_lines(images, base, slope, own):
    count, pixels = images.shape[-2:]
    integrated = base.shape[-1] > own.shape[-1]
    if integrated:
        table = jnp.pad(jnp.cumsum(images, -1), ((0, 0), (0, 0), (1, 2)), mode="edge").at[..., 0].set(0)
    else:
        table = jnp.pad(images, ((0, 0), (0, 0), (1, 2)))
    # Each entry with the step to the next, so that one gather serves linear interpolation.
    table = jax.lax.complex(table[..., :-1], jnp.diff(table))

    @jax.checkpoint
    def step(total, line):
        number, row = line
        position = _positions(base, slope, number, pixels, integrated)
        entry = jnp.floor(position)
        pair = row.at[:, entry.astype(jnp.int32)].get(mode="promise_in_bounds")
        value = pair.real + (position - entry) * pair.imag
        if integrated:
            value = jnp.diff(value) * _inverse_widths(base, slope, number)
        # Weights vary from ray to ray: sums of equal pixels would else all be rounded the same way.
        return total + own * value, None

    start = jnp.zeros((images.shape[0], *own.shape), images.dtype)
    start, *_ = vary_together(start, base, images)
    return jax.lax.scan(step, start, (_numbers(count, base.dtype), jnp.moveaxis(table, 1, 0)))[0]


def _back_project_one(shape, curved, rays, sinograms, lengths, shadows):
    ny, nx = shape
    images = sinograms.shape[0]
    integrated = rays.shape[-1] > lengths.shape[-1]

    def view(totals, operands):
        rays, lengths, shadow, rows = operands
        sums = []
        for axis, total in enumerate(totals):
            own = _own(lengths, axis)
            place = functools.partial(_shadow, shadow, curved, axis)
            part = functools.partial(_gather, place, total.shape[1:], *rays[axis], own * rows, integrated)
            total = jax.lax.cond(jnp.any(own > 0), lambda t, part=part: t + part(), lambda t: t, total)
            sums.append(total)
        return tuple(sums), None

    starts = tuple(jnp.zeros((images, *size), sinograms.dtype) for size in ((ny, nx), (nx, ny)))
    starts = tuple(vary_together(start, rays, sinograms, lengths, shadows)[0] for start in starts)
    views = (jnp.moveaxis(rays, 2, 0), lengths, shadows, jnp.moveaxis(sinograms, 1, 0))
    upright, turned = jax.lax.scan(view, starts, views)[0]
    return upright + turned.swapaxes(-1, -2)


def _shadow(shadow, curved, axis, line, along):
    """Where rays through points (line, along) meet the detector, and the points' depth in the beam."""
    column, row = (line, along) if axis else (along, line)
    across, depth = (c[0] + c[1] * column + c[2] * row for c in (shadow[:3], shadow[3:6]))
    place = across / depth
    if curved:
        place = jnp.arctan(place) * shadow[6] + shadow[7]
    return place, depth


def _gather(place, size, base, slope, rows, integrated):
    lines, pixels = size
    bins, dtype = rows.shape[-1], rows.dtype
    line, along = _numbers(lines, dtype)[:, None], _numbers(pixels, dtype)
    reach = 0.5 if integrated else 1.0
    (left, depth), (right, other) = place(line, along - reach), place(line, along + reach)
    low, high = jnp.minimum(left, right) - _MARGIN, jnp.maximum(left, right) + _MARGIN
    if integrated:  # Bins whose intervals overlap, not those whose centers are inside.
        low, high = low - 0.5, high + 0.5
    # Beside the source, every ray may pass a pixel.
    all_bins = ~(depth * other > 0)
    first = jnp.clip(jnp.where(all_bins, 0, jnp.ceil(low)), 0, bins).astype(jnp.int32)
    last = jnp.clip(jnp.where(all_bins, bins - 1, jnp.floor(high)), -1, bins - 1).astype(jnp.int32)
    steps = (jnp.max(last - first) + _BINS_PER_STEP) // _BINS_PER_STEP

    number = _numbers(lines, dtype)[:, None]
    position = _positions(base, slope, number, pixels, integrated)
    values = jnp.broadcast_to(rows[:, None], (*rows.shape[:1], lines, bins))
    if integrated:
        values = values * _inverse_widths(base, slope, number)
    # Behind the last bin, one of zeros.
    position = jnp.pad(position, ((0, 0), (0, bins + 1 - position.shape[1])), mode="edge")
    values = jnp.pad(values, ((0, 0), (0, 0), (0, 1)))
    table = jax.lax.complex(jnp.broadcast_to(position, values.shape), values)
    table = table.reshape(rows.shape[0], -1)
    start = (bins + 1) * np.arange(lines, dtype=np.int32)[:, None]
    entry = np.arange(pixels, dtype=dtype) + (0 if integrated else 1)

    def knot(k):
        return table.at[:, start + jnp.minimum(k, bins)].get(mode="promise_in_bounds")

    def several(step, total):
        k = first + step * _BINS_PER_STEP
        ray = knot(k)
        for i in range(_BINS_PER_STEP):
            if integrated:
                after = knot(k + i + 1)
                left, right = (jnp.clip(knot.real - entry, 0, 1) for knot in (ray, after))
                total, ray = total + (right - left) * ray.imag, after
            else:
                total = total + jnp.maximum(1 - jnp.abs(ray.real - entry), 0) * ray.imag
                if i + 1 < _BINS_PER_STEP:
                    ray = knot(k + i + 1)
        return total

    total = jnp.zeros((rows.shape[0], lines, pixels), dtype)
    total, *_ = vary_together(total, table, first)
    return jax.lax.fori_loop(0, steps, several, total)
