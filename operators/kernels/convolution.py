"""Two-dimensional convolution and its gradients as JAX primitives: bilinear, and closed under derivatives.

    convolve:         kernels (t, ky, kx, c, f), images (t, n, ny, nx, c) -> (t, n, ny_out, nx_out, f)
    input_gradient:   kernels (t, ky, kx, c, f), cotangents (t, n, ny_out, nx_out, f) -> (t, n, ny, nx, c)
    kernel_gradient:  images (t, n, ny, nx, c), cotangents (t, b, n, ny_out, nx_out, f)
                      -> (t, b, ky, kx, c, f)

An operand whose axis t has length one is shared; b counts cotangents of the same images. Parameters are the
strides, the pads ((top, bottom), (left, right)) of zeros, and the ``size`` of what shapes do not tell:
(ny, nx) for the gradient of the images, (ky, kx) for that of the kernels.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.kernels import native
from operators.kernels.batched import batch_length, call, over_trajectories, register, sum_to

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], ...]

convolve_p = Primitive("convolve")
input_gradient_p = Primitive("convolve_input_gradient")
kernel_gradient_p = Primitive("convolve_kernel_gradient")


def convolve(
    kernels: jax.Array, images: jax.Array, strides: tuple[int, int], pads: Pads, backend: str = "auto"
) -> jax.Array:
    """Cross-correlation of every batch of images with its kernel; see the module's docstring."""
    return _bind(convolve_p, kernels, images, strides, pads, None, backend)


def input_gradient(
    kernels: jax.Array,
    cotangents: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    size: tuple[int, int],
    backend: str = "auto",
) -> jax.Array:
    """Transpose of :func:`convolve` in the images, of ``size`` (ny, nx)."""
    return _bind(input_gradient_p, kernels, cotangents, strides, pads, tuple(size), backend)


def kernel_gradient(
    images: jax.Array,
    cotangents: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    size: tuple[int, int],
    backend: str = "auto",
) -> jax.Array:
    """Transpose of :func:`convolve` in the kernels, of ``size`` (ky, kx), for each of b cotangents."""
    return _bind(kernel_gradient_p, images, cotangents, strides, pads, tuple(size), backend)


def _bind(primitive, first, second, strides, pads, size, backend):
    params = {"strides": strides, "pads": pads, "size": size, "backend": backend}
    return call(primitive, (first, second), params)


# Plain JAX, for one kernel.


def plain_convolution(kernel: jax.Array, x: jax.Array, strides: tuple[int, int], pads: Pads) -> jax.Array:
    """The convolution of ``lax``: (n, ny, nx, c) -> (n, ny_out, nx_out, f)."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS)


def plain_input_gradient(
    kernel: jax.Array, cotangent: jax.Array, strides: tuple[int, int], pads: Pads, size: tuple[int, int]
) -> jax.Array:
    """The gradient of the input, (n, *size, c), as a convolution with the flipped kernel."""
    window, low, excess = _spread(kernel.shape[:2], cotangent.shape[1:3], size, strides, pads)
    return lax.conv_general_dilated(
        cotangent,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(k - 1 - lo, high) for k, lo, high in zip(window, low, excess, strict=True)],
        lhs_dilation=None if strides == (1, 1) else strides,
        dimension_numbers=DIMENSIONS,
    )


def plain_kernel_gradient(
    x: jax.Array, cotangent: jax.Array, strides: tuple[int, int], pads: Pads, window: tuple[int, int]
) -> jax.Array:
    """The gradient of the kernel, (*window, c, f), as one convolution of transposed operands."""
    window, low, excess = _spread(window, cotangent.shape[1:3], x.shape[1:3], strides, pads)
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        cotangent.transpose(1, 2, 0, 3),
        (1, 1),
        [(lo, k - 1 - high) for k, lo, high in zip(window, low, excess, strict=True)],
        rhs_dilation=None if strides == (1, 1) else strides,
        dimension_numbers=DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)


def _spread(window, out, size, strides, pads):
    # High pads such that the gradients come out in the shapes of the input and of the kernel.
    low = [pair[0] for pair in pads]
    excess = [n - ((m - 1) * s + 1) + lo for n, m, s, lo in zip(size, out, strides, low, strict=True)]
    return window, low, excess


def _plain(primitive, first, second, *, strides, pads, size, backend):
    if primitive is convolve_p:
        return over_trajectories(lambda k, x: plain_convolution(k, x, strides, pads), (first, second))
    if primitive is input_gradient_p:
        return over_trajectories(
            lambda k, y: plain_input_gradient(k, y, strides, pads, size), (first, second)
        )

    def gradients(x, cotangents):
        if cotangents.shape[0] == 1:
            return plain_kernel_gradient(x, cotangents[0], strides, pads, size)[None]
        return jax.vmap(lambda y: plain_kernel_gradient(x, y, strides, pads, size))(cotangents)

    return over_trajectories(gradients, (first, second))


# Shapes, native kernels and derivatives.


def _out_shape(primitive, first, second, *, strides, pads, size, **_):
    length = batch_length(first, second)
    if primitive is convolve_p:
        sizes = zip(second.shape[2:4], first.shape[1:3], strides, pads, strict=True)
        return (
            length,
            second.shape[1],
            *((n + low + high - k) // s + 1 for n, k, s, (low, high) in sizes),
            first.shape[4],
        )
    if primitive is input_gradient_p:
        return length, second.shape[1], *size, first.shape[3]
    return length, second.shape[1], *size, first.shape[4], second.shape[5]


_KINDS = {convolve_p: "forward", input_gradient_p: "input", kernel_gradient_p: "kernel"}


def _on_cpu(primitive, first, second, **params):
    shape = _out_shape(primitive, first, second, **params)
    wanted = params["backend"] == "force" or (
        params["backend"] == "auto" and native.supports(second.dtype, "convolution") and math.prod(shape) > 0
    )
    if not wanted:
        return _plain(primitive, first, second, **params)
    return native.convolution(_KINDS[primitive], first, second, params["strides"], params["pads"], shape)


def _jvp(primitive, primals, tangents, **params):
    out = call(primitive, primals, params)
    terms = [
        call(primitive, [t if i == k else p for i, p in enumerate(primals)], params)
        for k, t in enumerate(tangents)
        if not isinstance(t, ad.Zero)
    ]
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero.from_primal_value(out)


def _transpose(primitive, cotangent, first, second, **params):
    if isinstance(cotangent, ad.Zero):
        return None, None
    rules = {
        convolve_p: _transpose_convolution,
        input_gradient_p: _transpose_input_gradient,
        kernel_gradient_p: _transpose_kernel_gradient,
    }
    wanted = 0 if ad.is_undefined_primal(first) else 1
    aval = (first, second)[wanted].aval
    out = sum_to(rules[primitive](cotangent, first, second, aval.shape, params), aval.shape[0])
    return (out, None) if wanted == 0 else (None, out)


def _transpose_convolution(cotangent, kernels, images, shape, params):
    if ad.is_undefined_primal(kernels):
        params = {**params, "size": shape[1:3]}
        return call(kernel_gradient_p, (images, cotangent[:, None]), params)[:, 0]
    return call(input_gradient_p, (kernels, cotangent), {**params, "size": shape[2:4]})


def _transpose_input_gradient(cotangent, kernels, images, shape, params):
    if ad.is_undefined_primal(kernels):
        return call(kernel_gradient_p, (cotangent, images[:, None]), {**params, "size": shape[1:3]})[:, 0]
    return call(convolve_p, (kernels, cotangent), {**params, "size": None})


def _transpose_kernel_gradient(cotangent, images, cotangents, shape, params):
    # Kernels here are what is the cotangent: one for every t and b.
    length, count = cotangent.shape[:2]
    kernels = cotangent.reshape(-1, *cotangent.shape[2:])

    def each(array):
        return jnp.broadcast_to(array, (length, count, *array.shape[2:])).reshape(-1, *array.shape[2:])

    if ad.is_undefined_primal(images):
        out = call(input_gradient_p, (kernels, each(cotangents)), {**params, "size": shape[2:4]})
        return jnp.sum(out.reshape(length, count, *out.shape[1:]), axis=1)
    out = call(convolve_p, (kernels, each(images[:, None])), {**params, "size": None})
    return out.reshape(length, count, *out.shape[1:])


register(
    convolve_p,
    input_gradient_p,
    kernel_gradient_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
