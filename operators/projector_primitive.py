"""Line-driven projection of images as two JAX primitives: each the transpose of the other.

A ray crosses the lines of an image, its rows or its columns, whichever it meets more squarely, at positions
linear in the line's number: ``base + slope * (line - (lines - 1) / 2)``, in pixels. With as many knots as
bins, knots are rays and every line is interpolated at them (Joseph's model); with one knot more, they are the
edges of the bins, and the mean of every line between two edges is taken (distance-driven model). The sum over
lines is multiplied by ``|lengths|``, the ray's path per line.

    rays (t, 2, 2, views, knots): for lines that are rows, then columns: base, slope
    lengths (t, views, bins): negative where lines are columns
    project: images (t, b, ny, nx) -> sinograms (t, b, views, bins)

An operand whose axis t has length one is shared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators import native
from operators.batched_primitive import batch_length, call, over_trajectories, register, sum_to
from operators.mesh import vary_together

project_p = Primitive("project")
back_project_p = Primitive("back_project")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def project(backend: str, shape: tuple[int, int], rays, lengths, images) -> jax.Array:
    """Sinograms (t, b, views, bins) of images (t, b, *shape); see the module's docstring."""
    return call(project_p, (rays, images, lengths), {"shape": shape, "backend": backend})


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def back_project(backend: str, shape: tuple[int, int], rays, lengths, sinograms) -> jax.Array:
    """The exact adjoint of :func:`project`: (t, b, views, bins) -> (t, b, *shape)."""
    return call(back_project_p, (rays, sinograms, lengths), {"shape": shape, "backend": backend})


def _fwd(function, backend, shape, rays, lengths, array):
    kept = array.value if rays.perturbed or lengths.perturbed else None
    return function(backend, shape, rays.value, lengths.value, array.value), (rays.value, lengths.value, kept)


def _bwd(function, backend, shape, residuals, cotangent):
    rays, lengths, kept = residuals
    other = back_project if function is project else project
    gradients = (None, None)
    if kept is not None:
        images, sinograms = (kept, cotangent) if function is project else (cotangent, kept)
        gradients = _ray_gradients(shape, *vary_together(rays, lengths, images, sinograms))
    return *gradients, other(backend, shape, rays, lengths, cotangent)


def _ray_gradients(shape, rays, lengths, images, sinograms):
    # Images are constant here, so that plain JAX gathers and does not scatter.
    def plainly(rays, lengths):
        return _plain_project(rays, images, lengths, shape=shape, backend="jax")

    return jax.vjp(plainly, rays, lengths)[1](sinograms)


for _function in (project, back_project):
    _function.defvjp(
        functools.partial(_fwd, _function), functools.partial(_bwd, _function), symbolic_zeros=True
    )


# Plain JAX.


def _plain_project(rays, images, lengths, *, shape, backend):
    return over_trajectories(_project_one, (rays, images, lengths))


def _plain_back_project(rays, sinograms, lengths, *, shape, backend):
    return over_trajectories(functools.partial(_back_project_one, shape), (rays, sinograms, lengths))


def _project_one(rays, images, lengths):
    total = 0
    for axis, lines in enumerate((images, images.swapaxes(-1, -2))):
        own = jnp.maximum(lengths if axis == 0 else -lengths, 0)
        total = total + own * _sum_over_lines(lines, *rays[axis], lengths.shape[-1])
    return total


def _back_project_one(shape, rays, sinograms, lengths):
    parts = []
    for axis, (lines, pixels) in enumerate((shape, shape[::-1])):
        own = jnp.maximum(lengths if axis == 0 else -lengths, 0)
        parts.append(_spread_to_lines(own * sinograms, *rays[axis], lines, pixels))
    return parts[0] + parts[1].swapaxes(-1, -2)


def _locate(base, slope, line, pixels, integrated):
    """Entries of a line's table and the fractions towards the next, at all knots of one line."""
    offset, last = (0.5, pixels) if integrated else (1, pixels + 1)
    position = jnp.clip(base + slope * line + offset, 0, last)
    entry = jnp.floor(position)
    return entry.astype(jnp.int32), position - entry, position


def _widths(base, slope, line, position):
    width = jnp.diff(base) + jnp.diff(slope) * line
    # Bins beside the image; on a line through the source they have no width.
    return jnp.where(jnp.diff(position) == 0, jnp.inf, width)


def _sum_over_lines(images, base, slope, bins):
    count, pixels = images.shape[-2:]
    integrated = base.shape[-1] > bins
    if integrated:
        table = jnp.pad(jnp.cumsum(images, -1), ((0, 0), (0, 0), (1, 2)), mode="edge").at[..., 0].set(0)
    else:
        table = jnp.pad(images, ((0, 0), (0, 0), (1, 2)))
    numbers = jnp.asarray(np.arange(count) - (count - 1) / 2, base.dtype)

    @jax.checkpoint
    def step(total, line):
        number, row = line
        entry, fraction, position = _locate(base, slope, number, pixels, integrated)
        low = jnp.take(row, entry, axis=-1, mode="clip")
        value = low + fraction * (jnp.take(row, entry + 1, axis=-1, mode="clip") - low)
        if integrated:
            value = jnp.diff(value) / _widths(base, slope, number, position)
        return total + value, None

    start = jnp.zeros((images.shape[0], base.shape[0], bins), images.dtype)
    start, *_ = vary_together(start, base, images)
    return jax.lax.scan(step, start, (numbers, jnp.moveaxis(table, 1, 0)))[0]


def _spread_to_lines(sinograms, base, slope, count, pixels):
    images = sinograms.shape[0]
    integrated = base.shape[-1] > sinograms.shape[-1]

    def line(number):
        entry, fraction, position = _locate(base, slope, number, pixels, integrated)
        value = sinograms
        if integrated:
            value = value / _widths(base, slope, number, position)
            value = jnp.pad(value, ((0, 0), (0, 0), (1, 0))) - jnp.pad(value, ((0, 0), (0, 0), (0, 1)))
        table = jnp.zeros((images, pixels + 3), sinograms.dtype)
        table, *_ = vary_together(table, value)
        return table.at[:, entry].add(value * (1 - fraction)).at[:, entry + 1].add(value * fraction)

    numbers = jnp.asarray(np.arange(count) - (count - 1) / 2, base.dtype)
    table = jnp.moveaxis(jax.lax.map(line, numbers), 1, 0)
    if not integrated:
        return table[..., 1 : pixels + 1]
    return jnp.cumsum(table[..., ::-1], -1)[..., ::-1][..., 1 : pixels + 1]


# Shapes, native kernels and derivatives in the arrays.


def _out_shape(primitive, rays, array, lengths, *, shape, **_):
    tail = lengths.shape[1:] if primitive is project_p else shape
    return batch_length(rays, array, lengths), array.shape[1], *tail


def _on_cpu(primitive, rays, array, lengths, **params):
    native_wanted = params["backend"] == "force" or (
        params["backend"] == "auto" and native.supports(array.dtype, "projector")
    )
    if not native_wanted:
        plain = _plain_project if primitive is project_p else _plain_back_project
        return plain(rays, array, lengths, **params)
    kind = "forward" if primitive is project_p else "adjoint"
    return native.projector(kind, rays, array, lengths, _out_shape(primitive, rays, array, lengths, **params))


def _jvp(primitive, primals, tangents, **params):
    out = call(primitive, primals, params)
    if any(not isinstance(t, ad.Zero) for t in (tangents[0], tangents[2])):
        raise NotImplementedError("forward-mode derivatives of a projector in its geometry are not defined")
    if isinstance(tangents[1], ad.Zero):
        return out, ad.Zero.from_primal_value(out)
    return out, call(primitive, (primals[0], tangents[1], primals[2]), params)


def _transpose(primitive, cotangent, rays, array, lengths, **params):
    if isinstance(cotangent, ad.Zero):
        return None, None, None
    other = back_project_p if primitive is project_p else project_p
    out = call(other, (rays, cotangent, lengths), params)
    return None, sum_to(out, array.aval.shape[0]), None


for _primitive, _plain in ((project_p, _plain_project), (back_project_p, _plain_back_project)):
    register(
        _primitive,
        out_shape=functools.partial(_out_shape, _primitive),
        plain=_plain,
        on_cpu=functools.partial(_on_cpu, _primitive),
        jvp=functools.partial(_jvp, _primitive),
        transpose=functools.partial(_transpose, _primitive),
    )
