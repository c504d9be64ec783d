"""Two-dimensional convolution whose gradients are fast inside loops, and the layers built on it."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from operators import native
from operators.convolution_primitive import (
    Pads,
    convolve,
    input_gradient,
    kernel_gradient,
    plain_convolution,
    plain_input_gradient,
    plain_kernel_gradient,
)
from operators.mesh import vary_together


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> jax.Array:
    """Two-dimensional convolution (cross-correlation, as in every network library) with its own VJP.

    Processes that compute on CPU use native kernels where they are at hand (``operators.backends()``). Where
    they are not, XLA would evaluate the gradients of a plain ``lax`` convolution by a slow path whenever they
    stand in the body of a loop: there the gradient of the input is a forward convolution with the flipped
    kernel and that of the kernel one forward convolution of transposed operands, which both stay on the fast
    path. Other backends keep the gradients of ``lax``. Works under ``jit``, ``scan``, ``vmap`` (of images,
    kernels or both) and ``shard_map``; differentiable in reverse mode.

    Args:
      x: (examples, ny, nx, features_in), float.
      kernel: (ky, kx, features_in, features_out), the same dtype as ``x``.
      strides: one int, or (sy, sx), at least 1.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)), zeros, not negative.

    Returns:
      (examples, ny_out, nx_out, features_out), sum over the window of ``x * kernel``, no bias.

    Raises:
      ValueError: ranks, feature counts, strides or padding do not fit.
      TypeError: the dtypes differ.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"x must be (examples, ny, nx, features) and kernel (ky, kx, features, features_out); "
            f"found x {x.shape} and kernel {kernel.shape}"
        )
    if x.dtype != kernel.dtype:
        raise TypeError(f"x and kernel must have one dtype; found {x.dtype} and {kernel.dtype}")
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    if len(strides) != 2 or min(strides) < 1:
        raise ValueError(f"strides must be one or two ints >= 1; found {strides}")
    pads = _explicit_padding(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _convolution(*vary_together(x, kernel), strides, pads)


def _explicit_padding(
    shape: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: str | Sequence
) -> Pads:
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(shape, window, strides, padding)
    else:
        pads = padding
    pads = tuple((int(low), int(high)) for low, high in pads)
    if len(pads) != 2 or min(min(pair) for pair in pads) < 0:
        raise ValueError(f"padding must be 'SAME', 'VALID' or two pairs of ints >= 0; found {padding}")
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


class Conv(nn.Module):
    """Convolution layer on ``convolution``.

    Attributes:
      features: output features.
      kernel_size: one int or (ky, kx).
      strides: one int or (sy, sx).
      padding: as in ``convolution``.
      use_bias: adds a bias per feature.
      kernel_init: initialiser of the (ky, kx, features_in, features) kernel; He normal by default.
      bias_init: initialiser of the bias; zeros by default.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.he_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (examples, ny, nx, features_in) to (examples, ny_out, nx_out, features)."""
        size = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features))
        dtype = jnp.result_type(x, kernel)
        y = convolution(x.astype(dtype), kernel.astype(dtype), self.strides, self.padding)
        return y + self.param("bias", self.bias_init, (self.features,)) if self.use_bias else y


class Upsample(nn.Module):
    """Transposed convolution 2 x 2 of stride 2: a 1 x 1 convolution to four phases, then a pixel shuffle.

    With non-overlapping windows this is the transposed convolution exactly, without its zero-interleaved
    input: ``y[:, 2i + a, 2j + b, f] = sum_c x[:, i, j, c] kernel[0, 0, c, (2a + b) * features + f]``.

    Attributes:
      features: output features.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (examples, ny, nx, features_in) to (examples, 2 ny, 2 nx, features)."""
        n, ny, nx, _ = x.shape
        phases = Conv(4 * self.features, 1, use_bias=False, name="conv")(x)
        phases = phases.reshape(n, ny, nx, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return phases.reshape(n, 2 * ny, 2 * nx, self.features)
