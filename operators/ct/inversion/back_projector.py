"""Interpolating back-projection of filtered views as two JAX primitives: each the transpose of the other.

At pixel (k, i, c), with ``x = c - (nx - 1) / 2``, ``y = (ny - 1) / 2 - i`` and ``z = k - (nz - 1) / 2``,
view v is sampled by linear interpolation at

    side, depth = pose[0:3] . (x, y, 1), pose[3:6] . (x, y, 1);  t = side / depth
    column = detector[0] (t or arctan t) + detector[1]
    row = detector[2] (z + pose[6]) / (depth (1 or sqrt(1 + t^2))) + detector[3]

(the latter of each pair on a curved detector), times ``weights[v, k] / depth^2``; positions outside of the
detector are moved to its edge, and pixels of no positive depth are left out.

    poses (t, views, 7), detector (t, 4), weights (t, views, nz)
    back_project: sinograms (t, b, views, rows, columns) -> volumes (t, b, nz, ny, nx)

An operand whose axis t has length one is shared. There are at least two columns, and at least two rows unless
rows and nz are both one. Derivatives in the poses are those of the plain version.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.algebra import ArgumentError, vary_together
from operators.kernels import batch_length, call, native, over_trajectories, register, sum_to

back_project_p = Primitive("interpolating_back_project")
spread_p = Primitive("interpolating_spread")

# Least depth, as a part of that of the rotation axis, at which a pixel is in front of the source.
MIN_DEPTH = 1e-3


def back_project(
    poses: jax.Array,
    detector: jax.Array,
    weights: jax.Array,
    sinograms: jax.Array,
    shape: tuple[int, ...],
    curved: bool = False,
    backend: str = "auto",
) -> jax.Array:
    """Volumes (t, b, *shape) of sinograms (t, b, views, rows, columns); see the module's docstring."""
    rows, columns = sinograms.shape[-2:]
    if columns < 2 or (rows < 2 and shape[0] > 1):
        raise ArgumentError("back_project: sinograms", "two rows and columns", f"{rows} and {columns}")
    params = {"shape": tuple(shape), "tail": (rows, columns), "curved": bool(curved), "backend": backend}
    return call(back_project_p, (poses, sinograms, detector, weights), params)


# Plain JAX.


def _plain(primitive, *operands, **params):
    return (_plain_back_project if primitive is back_project_p else _plain_spread)(*operands, **params)


def _plain_back_project(poses, sinograms, detector, weights, *, shape, tail, curved, backend):
    function = functools.partial(_gather, shape, curved)
    return over_trajectories(function, (poses, sinograms, detector, weights))


def _plain_spread(poses, volumes, detector, weights, *, shape, tail, curved, backend):
    def one(poses, volumes, detector, weights):
        like = jax.ShapeDtypeStruct((volumes.shape[0], poses.shape[0], *tail), volumes.dtype)
        forward = functools.partial(_gather, shape, curved, poses, detector=detector, weights=weights)
        return jax.linear_transpose(forward, like)(volumes)[0]

    return over_trajectories(one, (poses, volumes, detector, weights))


def _gather(shape, curved, poses, sinograms, detector, weights):
    rows, columns = sinograms.shape[-2:]
    planar = rows == 1 and shape[0] == 1
    z, y, x = (jnp.asarray(np.arange(n) - (n - 1) / 2, poses.dtype) for n in shape)
    y = -y[:, None]

    @jax.checkpoint
    def step(total, view):
        pose, image, weight = view
        side = pose[0] * x + (pose[1] * y + pose[2])
        depth = pose[3] * x + (pose[4] * y + pose[5])
        inverse = jnp.where(depth > MIN_DEPTH, 1 / jnp.maximum(depth, MIN_DEPTH), 0)
        t = side * inverse
        column, along = _split(detector[0] * (jnp.arctan(t) if curved else t) + detector[1], columns)
        flat = image.reshape(image.shape[0], -1)

        def between(index):
            near = jnp.take(flat, index, axis=-1, mode="clip")
            return near + along * (jnp.take(flat, index + 1, axis=-1, mode="clip") - near)

        if planar:
            value = between(column[None])
        else:
            slope = detector[2] * inverse / (jnp.sqrt(1 + t * t) if curved else 1)
            row, up = _split((z + pose[6])[:, None, None] * slope + detector[3], rows)
            low = between(row * columns + column)
            value = low + up * (between((row + 1) * columns + column) - low)
        return total + weight[:, None, None] * inverse**2 * value, None

    start = jnp.zeros((sinograms.shape[0], *shape), sinograms.dtype)
    start, poses, views, weights = vary_together(start, poses, jnp.moveaxis(sinograms, 1, 0), weights)
    return jax.lax.scan(step, start, (poses, views, weights))[0]


def _split(position, count):
    position = jnp.clip(position, 0, count - 1)
    whole = jnp.minimum(jnp.floor(position), count - 2)
    return whole.astype(jnp.int32), position - whole


# Shapes, native kernels and derivatives.


def _out_shape(primitive, poses, array, detector, weights, *, shape, tail, **_):
    own = shape if primitive is back_project_p else (poses.shape[1], *tail)
    return batch_length(poses, array, detector, weights), array.shape[1], *own


def _on_cpu(primitive, poses, array, detector, weights, **params):
    wanted = params["backend"] == "force" or (
        params["backend"] == "auto" and native.supports(array.dtype, "backprojector")
    )
    if not wanted:
        return _plain(primitive, poses, array, detector, weights, **params)
    kind = "gather" if primitive is back_project_p else "spread"
    out_shape = _out_shape(primitive, poses, array, detector, weights, **params)
    return native.back_projector(kind, poses, array, detector, weights, params["curved"], out_shape)


def _jvp(primitive, primals, tangents, **params):
    poses, array, detector, weights = primals
    out = call(primitive, primals, params)
    terms = []
    if not isinstance(tangents[1], ad.Zero):
        terms.append(call(primitive, (poses, tangents[1], detector, weights), params))
    geometry = tangents[0], tangents[2], tangents[3]
    if any(not isinstance(t, ad.Zero) for t in geometry):
        own = [poses, detector, weights]
        moves = [
            jnp.zeros_like(p) if isinstance(t, ad.Zero) else t for p, t in zip(own, geometry, strict=True)
        ]
        terms.append(jax.jvp(lambda p, d, w: _plain(primitive, p, array, d, w, **params), own, moves)[1])
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero.from_primal_value(out)


def _transpose(primitive, cotangent, poses, array, detector, weights, **params):
    if isinstance(cotangent, ad.Zero):
        return (None,) * 4
    other = spread_p if primitive is back_project_p else back_project_p
    out = call(other, (poses, cotangent, detector, weights), params)
    return None, sum_to(out, array.aval.shape[0]), None, None


register(
    back_project_p,
    spread_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
