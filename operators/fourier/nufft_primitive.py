"""The two non-uniform FFTs as JAX primitives: each the transpose of the other, differentiable in everything.

Both take a batch of trajectories, images and coils at once, so that ``vmap`` enlarges the work of one call:

    type 2:  y[t, b, c, m] = N^(-1/2) sum_n maps[t, c, n] u[t, b, n] exp(sign 2 pi i points[t, m] . n)
    type 1:  u[t, b, n] = N^(-1/2) sum_c maps[t, c, n] sum_m y[t, b, c, m] exp(sign 2 pi i points[t, m] . n)

An operand whose axis t has length one is shared by all trajectories. Pixels n are centered.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.fourier import nufft_jax
from operators.fourier.nufft_kernel import Layout, choose_layout
from operators.kernels import batch_length, call, native, over_trajectories, register, sum_to

type2_p = Primitive("nufft_type2")
type1_p = Primitive("nufft_type1")


def type2(
    points: jax.Array,
    maps: jax.Array | None,
    u: jax.Array,
    *,
    sign: int,
    eps: float,
    conjugate: bool = False,
    backend: str = "auto",
) -> jax.Array:
    """Type 2 of (t, m, ndim), (t, c, *shape) or None, (t, b, *shape) -> (t, b, c, m).

    ``conjugate`` takes the conjugate of the maps. See the module's docstring.
    """
    return _bind(type2_p, points, maps, u, u.shape[2:], sign, eps, conjugate, backend)


def type1(
    points: jax.Array,
    maps: jax.Array | None,
    y: jax.Array,
    *,
    shape: tuple[int, ...],
    sign: int,
    eps: float,
    conjugate: bool = False,
    backend: str = "auto",
) -> jax.Array:
    """Type 1 of (t, m, ndim), (t, c, *shape) or None, (t, b, c, m) -> (t, b, *shape)."""
    return _bind(type1_p, points, maps, y, shape, sign, eps, conjugate, backend)


def _bind(primitive, points, maps, array, shape, sign, eps, conjugate, backend):
    operands = (points, array) if maps is None else (points, array, maps)
    params = {"shape": tuple(shape), "sign": sign, "eps": eps, "conjugate": conjugate, "backend": backend}
    if not points.shape[1]:
        return jnp.zeros_like(array, shape=_out_shape(primitive, *operands, **params))
    return call(primitive, operands, params)


def _layout(points: jax.Array, shape: tuple[int, ...], eps: float) -> Layout:
    return choose_layout(shape, points.shape[1], eps, points.dtype == np.float64)


def _out_shape(primitive, points, array, maps=None, *, shape, **_):
    length = batch_length(points, array, *([] if maps is None else [maps]))
    if primitive is type2_p:
        return length, array.shape[1], 1 if maps is None else maps.shape[1], points.shape[1]
    return length, array.shape[1], *shape


# Plain JAX, one trajectory at a time.


def _plain(primitive, points, array, maps=None, *, shape, sign, eps, conjugate, backend):
    layout = _layout(points, shape, eps)
    if maps is not None and conjugate:
        maps = maps.conj()
    function = functools.partial(_plain_type2 if primitive is type2_p else _plain_type1, layout, sign, shape)
    return over_trajectories(function, (points, array, maps))


def _plain_type2(layout, sign, shape, points, u, maps):
    planes = u[:, None] if maps is None else u[:, None] * maps
    y = nufft_jax.type2(points, planes.reshape(-1, *shape), layout, sign)
    return y.reshape(*planes.shape[:2], -1)


def _plain_type1(layout, sign, shape, points, y, maps):
    planes = nufft_jax.type1(points, y.reshape(-1, y.shape[-1]), layout, sign, shape)
    planes = planes.reshape(*y.shape[:2], *shape)
    return planes[:, 0] if maps is None else jnp.sum(planes * maps, axis=1)


# Native, on CPU where it can be had.


def _on_cpu(primitive, points, array, maps=None, **params):
    if params["backend"] == "jax" or not native.supports(array.dtype):
        return _plain(primitive, points, array, maps, **params)
    return native.nufft(
        "type2" if primitive is type2_p else "type1",
        points,
        array,
        maps,
        _layout(points, params["shape"], params["eps"]),
        params["sign"],
        params["conjugate"],
        params["shape"],
        _out_shape(primitive, points, array, maps, **params),
    )


# Derivatives.


def _jvp(primitive, primals, tangents, **params):
    points, array, *maps = primals
    d_points, d_array, *d_maps = tangents
    out = call(primitive, primals, params)
    terms = []
    if not isinstance(d_array, ad.Zero):
        terms.append(call(primitive, (points, d_array, *maps), params))
    if d_maps and not isinstance(d_maps[0], ad.Zero):
        linear = d_maps[0].conj() if params["conjugate"] else d_maps[0]
        terms.append(call(primitive, (points, array, linear), {**params, "conjugate": False}))
    if not isinstance(d_points, ad.Zero):
        terms.append(_moved(primitive, primals, d_points, params))
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero.from_primal_value(out)


def _moved(primitive, primals, d_points, params):
    """The change of the transform when its points move: ``sign 2 pi i n`` comes down from the exponent."""
    points, array, *maps = primals
    shape, ndim = params["shape"], len(params["shape"])
    factor = params["sign"] * 2j * math.pi
    real = points.dtype
    pixels = [np.arange(n) - n // 2 for n in shape]
    ramps = jnp.asarray(np.stack(np.meshgrid(*pixels, indexing="ij")), real)
    moves = jnp.moveaxis(d_points, -1, 1)
    if primitive is type2_p:
        stacked = (array[:, None] * ramps[:, None]).reshape(array.shape[0], -1, *shape)
        y = call(primitive, (points, stacked, *maps), params)
        y = y.reshape(y.shape[0], ndim, -1, *y.shape[2:])
        return factor * jnp.sum(y * moves[:, :, None, None], axis=1)
    stacked = array[:, None] * moves[:, :, None, None]
    stacked = stacked.reshape(stacked.shape[0], -1, *array.shape[2:])
    u = call(primitive, (points, stacked, *maps), params)
    u = u.reshape(u.shape[0], ndim, -1, *shape)
    return factor * jnp.sum(u * ramps[:, None], axis=1)


def _transpose(primitive, cotangent, points, array, *maps, **params):
    if isinstance(cotangent, ad.Zero):
        return (None,) * (2 + len(maps))
    other = type1_p if primitive is type2_p else type2_p
    if ad.is_undefined_primal(array):
        out = call(other, (points, cotangent, *maps), params)
        return (None, sum_to(out, array.aval.shape[0]), *([None] * len(maps)))
    # Linear in the maps: both transforms end, or begin, in a product of images.
    shape = params["shape"]
    values, images = (cotangent, array) if primitive is type2_p else (array, cotangent)
    planes = values.reshape(values.shape[0], -1, 1, values.shape[-1])
    grids = call(type1_p, (points, planes), params).reshape(-1, *values.shape[1:3], *shape)
    return None, None, sum_to(jnp.sum(grids * images[:, :, None], axis=1), maps[0].aval.shape[0])


register(
    type2_p,
    type1_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
