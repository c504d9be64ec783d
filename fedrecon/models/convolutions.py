"""Convolution of images and volumes whose gradients are fast inside loops, and the layers built on it."""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.errors import ArgumentError
from operators.algebra import vary_together
from operators.kernels import (
    Pads,
    convolve,
    input_gradient,
    kernel_gradient,
    native,
    plain_convolution,
    plain_input_gradient,
    plain_kernel_gradient,
)


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> jax.Array:
    """Convolution (cross-correlation, as in every network library) with its own VJP.

    Processes that compute on CPU use native kernels where they are at hand (``operators.backends()``). Where
    they are not, XLA would evaluate the gradients of a plain ``lax`` convolution by a slow path whenever they
    stand in the body of a loop: there the gradient of the input is a forward convolution with the flipped
    kernel and that of the kernel one forward convolution of transposed operands, which both stay on the fast
    path. Other backends keep the gradients of ``lax``. Works under ``jit``, ``scan``, ``vmap`` (of images,
    kernels or both) and ``shard_map``; differentiable in reverse mode.

    On CPU volumes are convolved slice by slice in the plane, with the slices that a window meets side by side
    as features of ``x``, or of the result where it has fewer: kz times the memory of the smaller for a while.

    Args:
      x: (examples, ny, nx, features_in) or (examples, nz, ny, nx, features_in), float.
      kernel: ([kz,] ky, kx, features_in, features_out), the same dtype as ``x``.
      strides: one int, or one for each axis, at least 1.
      padding: "SAME", "VALID" or (low, high) for each axis, zeros, not negative.

    Returns:
      (examples, [nz_out,] ny_out, nx_out, features_out), sum over the window of ``x * kernel``, no bias.

    Raises:
      ValueError: ranks, feature counts, strides or padding do not fit.
      TypeError: the dtypes differ.
    """
    strides = _check(x, kernel, strides, kernel.ndim - 2)
    pads = _explicit_padding(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    x, kernel = vary_together(x, kernel)
    if x.ndim == 4:
        return _convolution(x, kernel, strides, pads)
    if jax.default_backend() != "cpu":
        return _volume_convolution(kernel, strides, pads, x)
    taps, ky, kx, features_in, features = kernel.shape
    if features < features_in and strides[0] == 1:
        phases = _convolution(
            x.reshape(-1, *x.shape[2:]),
            kernel.transpose(1, 2, 3, 0, 4).reshape(ky, kx, features_in, -1),
            strides[1:],
            pads[1:],
        )
        return _sum_of_slices(phases.reshape(*x.shape[:2], *phases.shape[1:]), taps, pads[0])
    slices = _slices(x, taps, strides[0], pads[0])
    y = _convolution(
        slices.reshape(-1, *slices.shape[2:]),
        kernel.transpose(1, 2, 0, 3, 4).reshape(ky, kx, -1, features),
        strides[1:],
        pads[1:],
    )
    return y.reshape(*slices.shape[:2], *y.shape[1:])


def transposed_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> jax.Array:
    """The adjoint of `convolution` with the same kernel, strides and padding, with its own VJP.

    ``<convolution(u, kernel), x> == <u, transposed_convolution(x, kernel)>``: with strides it enlarges, as
    the transposed convolution (or "deconvolution") of networks does.

    Args:
      x: (examples, [nz,] ny, nx, features_in), float.
      kernel: ([kz,] ky, kx, features_out, features_in), the same dtype as ``x``.
      strides: one int, or one for each axis, at least 1.
      padding: that of the convolution. "SAME" gives n * stride pixels, "VALID" (n - 1) * stride + window,
        (low, high) that less low + high.

    Returns:
      (examples, [nz_out,] ny_out, nx_out, features_out).

    Raises:
      ValueError: ranks, feature counts, strides or padding do not fit.
      TypeError: the dtypes differ.
    """
    strides = _check(x, kernel, strides, kernel.ndim - 1)
    window = kernel.shape[:-2]
    whole = [(n - 1) * s + k for n, s, k in zip(x.shape[1:-1], strides, window, strict=True)]
    if padding == "SAME":
        size = [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)]
        pads = _explicit_padding(size, window, strides, padding)
    else:
        pads = (
            ((0, 0),) * len(window)
            if padding == "VALID"
            else _explicit_padding(whole, window, strides, padding)
        )
        size = [n - low - high for n, (low, high) in zip(whole, pads, strict=True)]
    if min(size) < 1:
        raise ArgumentError("padding", f"to leave pixels of {tuple(whole)}", padding)
    x, kernel = vary_together(x, kernel)
    if x.ndim == 4:
        return _transposed(x, kernel, strides, pads, tuple(size))
    if jax.default_backend() != "cpu":
        images = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[-2]), x.dtype)
        convolve = partial(_volume_convolution, kernel, strides, pads)
        return jax.linear_transpose(convolve, images)(x)[0]
    taps, ky, kx, features, features_in = kernel.shape
    slices = _transposed(
        x.reshape(-1, *x.shape[2:]),
        kernel.transpose(1, 2, 0, 3, 4).reshape(ky, kx, -1, features_in),
        strides[1:],
        pads[1:],
        tuple(size[1:]),
    )
    images = jax.ShapeDtypeStruct((x.shape[0], *size, features), x.dtype)
    gather = partial(_slices, taps=taps, stride=strides[0], pads=pads[0])
    return jax.linear_transpose(gather, images)(slices.reshape(*x.shape[:2], *slices.shape[1:]))[0]


_VOLUMES = ("NDHWC", "DHWIO", "NDHWC")


def _volume_convolution(kernel, strides, pads, x):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_VOLUMES)


def _slices(x: jax.Array, taps: int, stride: int, pads: tuple[int, int]) -> jax.Array:
    """The slices that each window meets, as features: (n, nz, ny, nx, c) -> (n, nz_out, ny, nx, taps * c)."""
    x = jnp.pad(x, ((0, 0), pads, (0, 0), (0, 0), (0, 0)))
    length = x.shape[1] - taps
    rows = [lax.slice_in_dim(x, k, k + length + 1, stride, 1) for k in range(taps)]
    return jnp.concatenate(rows, axis=-1)


def _sum_of_slices(y: jax.Array, taps: int, pads: tuple[int, int]) -> jax.Array:
    """Sums what the slices of a window gave: (n, nz, ny, nx, taps * f) -> (n, nz_out, ny, nx, f)."""
    y = jnp.pad(y, ((0, 0), pads, (0, 0), (0, 0), (0, 0)))
    length = y.shape[1] - taps + 1
    parts = jnp.split(y, taps, axis=-1)
    return reduce(jnp.add, [lax.slice_in_dim(part, k, k + length, axis=1) for k, part in enumerate(parts)])


def _check(
    x: jax.Array, kernel: jax.Array, strides: int | Sequence[int], features_in: int
) -> tuple[int, ...]:
    """The strides of all axes; ``features_in`` is the kernel's axis of that name."""
    if x.ndim not in (4, 5) or kernel.ndim != x.ndim or x.shape[-1] != kernel.shape[features_in]:
        names = ["features_out", "features_out"]
        names[features_in - kernel.ndim] = "features"
        raise ArgumentError(
            "x",
            f"(examples, [nz,] ny, nx, features) and kernel ([kz,] ky, kx, {', '.join(names)})",
            f"x {x.shape} and kernel {kernel.shape}",
        )
    if x.dtype != kernel.dtype:
        raise TypeError(f"x and kernel: expected one dtype, found {x.dtype} and {kernel.dtype}")
    axes = x.ndim - 2
    strides = (strides,) * axes if isinstance(strides, int) else tuple(strides)
    if len(strides) != axes or min(strides) < 1:
        raise ArgumentError("strides", f"one int or {axes} ints >= 1", strides)
    return strides


def _explicit_padding(
    shape: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: str | Sequence
) -> Pads:
    pairs: Any = padding
    if isinstance(padding, str):
        pairs = lax.padtype_to_pads(shape, window, strides, padding)
    pads: Pads = tuple((int(low), int(high)) for low, high in pairs)
    if len(pads) != len(window) or min(min(pair) for pair in pads) < 0:
        raise ArgumentError("padding", f"'SAME', 'VALID' or {len(window)} pairs of ints >= 0", padding)
    for size, k, (low, high) in zip(shape, window, pads, strict=True):
        if size + low + high < k:
            raise ValueError(
                f"kernel of {tuple(window)} is larger than the padded image {tuple(shape)} + {pads}"
            )
    return pads


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads) -> jax.Array:
    if _native(x):
        return convolve(kernel[None], x[None], strides, pads)[0]
    return plain_convolution(kernel, x, strides, pads)


def _native(x: jax.Array) -> bool:
    return x.dtype in (jnp.float32, jnp.float64) and native.preferred(x.dtype, "auto", "convolution")


def _forward(x, kernel, strides, pads):
    return _convolution(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, residuals, cotangent):
    x, kernel = residuals
    if _native(x):
        dx = input_gradient(kernel[None], cotangent[None], strides, pads, x.shape[1:3])[0]
        return dx, kernel_gradient(x[None], cotangent[None, None], strides, pads, kernel.shape[:2])[0, 0]
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=partial(_gradients_by_forward_convolutions, strides, pads),
        default=partial(_gradients_by_lax, strides, pads),
    )


_convolution.defvjp(_forward, _backward)


def _gradients_by_lax(strides, pads, x, kernel, cotangent):
    return jax.vjp(lambda x, k: plain_convolution(k, x, strides, pads), x, kernel)[1](cotangent)


def _gradients_by_forward_convolutions(strides, pads, x, kernel, cotangent):
    dx = plain_input_gradient(kernel, cotangent, strides, pads, x.shape[1:3])
    return dx, plain_kernel_gradient(x, cotangent, strides, pads, kernel.shape[:2])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _transposed(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads, size: tuple[int, int]
) -> jax.Array:
    if _native(x):
        return input_gradient(kernel[None], x[None], strides, pads, size)[0]
    return plain_input_gradient(kernel, x, strides, pads, size)


def _transposed_forward(x, kernel, strides, pads, size):
    return _transposed(x, kernel, strides, pads, size), (x, kernel)


def _transposed_backward(strides, pads, size, residuals, cotangent):
    x, kernel = residuals
    if _native(x):
        dx = convolve(kernel[None], cotangent[None], strides, pads)[0]
        return dx, kernel_gradient(cotangent[None], x[None, None], strides, pads, kernel.shape[:2])[0, 0]
    dx = plain_convolution(kernel, cotangent, strides, pads)
    return dx, plain_kernel_gradient(cotangent, x, strides, pads, kernel.shape[:2])


_transposed.defvjp(_transposed_forward, _transposed_backward)


class Conv(nn.Module):
    """Convolution layer on ``convolution``, of images or of volumes.

    Attributes:
      features: output features.
      kernel_size: one int, or one for each axis.
      strides: one int, or one for each axis.
      padding: as in ``convolution``.
      use_bias: adds a bias per feature.
      transpose: by ``transposed_convolution``, which enlarges by the strides.
      kernel_init: initializer of the ([kz,] ky, kx, features_in, features) kernel; He normal by default.
      bias_init: initializer of the bias; zeros by default.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    transpose: bool = False
    kernel_init: Callable = nn.initializers.he_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (examples, [nz,] ny, nx, features_in) to (examples, [nz_out,] ny_out, nx_out, features)."""
        size = self.kernel_size
        size = (size,) * (x.ndim - 2) if isinstance(size, int) else tuple(size)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features))
        dtype = jnp.result_type(x, kernel)
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if self.transpose:
            y = transposed_convolution(x, kernel.swapaxes(-1, -2), self.strides, self.padding)
        else:
            y = convolution(x, kernel, self.strides, self.padding)
        return y + self.param("bias", self.bias_init, (self.features,)) if self.use_bias else y


class Upsample(nn.Module):
    """Transposed convolution 2 x 2 of stride 2: a 1 x 1 convolution to four phases, then a pixel shuffle.

    With non-overlapping windows this is the transposed convolution exactly, without its zero-interleaved
    input: ``y[:, 2i + a, 2j + b, f] = sum_c x[:, i, j, c] kernel[0, 0, c, (2a + b) * features + f]``. Volumes
    have eight phases.

    Attributes:
      features: output features.
      factors: by how much each axis grows, which is the stride; 2 by default.
    """

    features: int
    factors: Sequence[int] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (examples, [nz,] ny, nx, features_in) to (examples, [2 nz,] 2 ny, 2 nx, features)."""
        n, *shape, _ = x.shape
        axes = len(shape)
        factors = tuple(self.factors) or (2,) * axes
        phases = Conv(math.prod(factors) * self.features, 1, use_bias=False, name="conv")(x)
        phases = phases.reshape(n, *shape, *factors, self.features)
        interleaved = [axis for k in range(1, 1 + axes) for axis in (k, k + axes)]
        phases = phases.transpose(0, *interleaved, 1 + 2 * axes)
        return phases.reshape(n, *(f * k for f, k in zip(factors, shape, strict=True)), self.features)
