"""Cartesian sampling with coils as two JAX primitives: each the transpose of the other.

    forward:  y[t, b, c] = mask[t] * F(maps[t, c] * u[t, b])
    adjoint:  u[t, b] = sum_c maps[t, c] * F(mask[t] * y[t, b, c])

F is the centered orthonormal transform with the given sign in the exponent, a symmetric matrix. Both are
linear in every operand. An operand whose axis t has length one is shared by all masks.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.fourier.centered_fft import fft2c, ifft2c
from operators.fourier.nufft_kernel import smooth_size
from operators.kernels import batch_length, call, native, register, sum_to

forward_p = Primitive("cartesian_forward")
adjoint_p = Primitive("cartesian_adjoint")


def forward(
    mask: jax.Array,
    maps: jax.Array | None,
    u: jax.Array,
    *,
    sign: int = -1,
    conjugate: bool = False,
    backend: str = "auto",
) -> jax.Array:
    """(t, ny, nx), (t, c, ny, nx) or None, (t, b, ny, nx) -> (t, b, c, ny, nx); c is 1 without maps.

    ``conjugate`` takes the conjugate of the maps. See the module's docstring.
    """
    return _bind(forward_p, mask, maps, u, sign, conjugate, backend)


def adjoint(
    mask: jax.Array,
    maps: jax.Array | None,
    y: jax.Array,
    *,
    sign: int = 1,
    conjugate: bool = True,
    backend: str = "auto",
) -> jax.Array:
    """(t, ny, nx), (t, c, ny, nx) or None, (t, b, c, ny, nx) -> (t, b, ny, nx)."""
    return _bind(adjoint_p, mask, maps, y, sign, conjugate, backend)


def _bind(primitive, mask, maps, array, sign, conjugate, backend):
    operands = (mask, array) if maps is None else (mask, array, maps)
    return call(primitive, operands, {"sign": sign, "conjugate": conjugate, "backend": backend})


def _out_shape(primitive, mask, array, maps=None, **_):
    lead = (batch_length(mask, array, *([] if maps is None else [maps])), array.shape[1])
    coils = () if primitive is adjoint_p else (1 if maps is None else maps.shape[1],)
    return *lead, *coils, *mask.shape[1:]


def _plain(primitive, mask, array, maps=None, *, sign, conjugate, backend):
    transform = fft2c if sign < 0 else ifft2c
    shape = _out_shape(primitive, mask, array, maps)
    mask = mask[:, None, None]
    if maps is not None:
        maps = (maps.conj() if conjugate else maps)[:, None]
    if primitive is forward_p:
        planes = array[:, :, None]
        y = mask * transform(planes if maps is None else maps * planes)
    else:
        planes = transform(mask * array)
        y = jnp.sum(planes if maps is None else maps * planes, axis=2)
    return jnp.broadcast_to(y, shape)


def _on_cpu(primitive, mask, array, maps=None, **params):
    smooth = all(smooth_size(n) == n for n in mask.shape[1:])
    if params["backend"] != "force" and not (
        params["backend"] == "auto" and smooth and native.supports(array.dtype)
    ):
        return _plain(primitive, mask, array, maps, **params)
    kind = "cartesian" if primitive is forward_p else "cartesian_adjoint"
    shape = _out_shape(primitive, mask, array, maps)
    return native.cartesian(kind, mask, array, maps, params["sign"], params["conjugate"], shape)


def _jvp(primitive, primals, tangents, **params):
    mask, array, *maps = primals
    d_mask, d_array, *d_maps = tangents
    out = call(primitive, primals, params)
    terms = []
    if not isinstance(d_mask, ad.Zero):
        terms.append(call(primitive, (d_mask, array, *maps), params))
    if not isinstance(d_array, ad.Zero):
        terms.append(call(primitive, (mask, d_array, *maps), params))
    if d_maps and not isinstance(d_maps[0], ad.Zero):
        linear = d_maps[0].conj() if params["conjugate"] else d_maps[0]
        terms.append(call(primitive, (mask, array, linear), {**params, "conjugate": False}))
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero.from_primal_value(out)


def _transpose(primitive, cotangent, mask, array, *maps, **params):
    if isinstance(cotangent, ad.Zero):
        return (None,) * (2 + len(maps))
    is_forward = primitive is forward_p
    if ad.is_undefined_primal(array):
        out = call(adjoint_p if is_forward else forward_p, (mask, cotangent, *maps), params)
        return (None, sum_to(out, array.aval.shape[0]), *([None] * len(maps)))
    values, images = (cotangent, array) if is_forward else (array, cotangent)
    if ad.is_undefined_primal(mask):
        ones = jnp.ones((1, *mask.aval.shape[1:]), mask.aval.dtype)
        spectra = call(forward_p, (ones, images, *maps), params)
        product = jnp.sum((values * spectra).real, axis=(1, 2))
        return (sum_to(product, mask.aval.shape[0]), None, *([None] * len(maps)))
    planes = values.reshape(values.shape[0], -1, 1, *values.shape[3:])
    grids = call(adjoint_p, (mask, planes), params)
    grids = grids.reshape(-1, *values.shape[1:])
    return None, None, sum_to(jnp.sum(grids * images[:, :, None], axis=1), maps[0].aval.shape[0])


register(
    forward_p,
    adjoint_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
