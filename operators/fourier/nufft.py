"""The non-uniform Fourier transform of MRI as a linear operator."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    Leaf,
    LinearOperator,
    as_inexact,
    assign,
    complex_dtype,
    frozen_pytree,
    is_complex,
    static,
)
from operators.fourier import toeplitz
from operators.fourier.nufft_kernel import choose_layout, toeplitz_is_cheaper
from operators.fourier.nufft_primitive import type1, type2
from operators.fourier.units import check_trajectory
from operators.kernels import native


@frozen_pytree
class NUFFT(LinearOperator):
    """Fourier transform at arbitrary k-space positions: image (..., *image_shape) -> (..., samples).

    ``y_m = N^(-1/2) sum_n x_n exp(-2 pi i k_m . (n - N // 2))``, N the number of pixels under the root and
    the number along each axis in the exponent. It is computed to a relative l2 error of ``eps`` (for images
    that fill the field of view) by an oversampled FFT and a least-squares kernel; the adjoint (type 1) is
    its exact transpose, to rounding. Differentiable in the image and in the trajectory, forwards and
    backwards, to any order: a derivative in the trajectory costs as much as one transform per axis.

    Attributes:
      trajectory: real (..., samples, ndim), cycles per pixel, columns in the order of the image axes:
        (ky, kx) or (kz, ky, kx). It is periodic: positions outside [-1/2, 1/2) wrap. Leading axes stack
        operators: they are broadcast against the leading axes of the images.
      image_shape: (nx,), (ny, nx) or (nz, ny, nx), any sizes.
      eps: relative error, down to 1e-6 in single and 1e-12 in double precision.
      backend: "auto" (native code on CPU where it can be had), or "jax".
      gram_by_toeplitz: computes the gram by Toeplitz embedding; None chooses what is faster on this machine.
      periodic: accepts positions far outside [-1/2, 1/2), which otherwise are taken for a mistake in units.
      spectrum: of the embedding (:func:`operators.fourier.toeplitz.spectrum`), None without; computed when it
        is first asked for, by a gram or by JAX when the operator is an argument of a compiled function.

    Raises:
      ValueError: if a shape, ``eps`` or ``backend`` is not as stated, or the trajectory is not finite or
        looks like radians or 1/FOV.
      TypeError: if the trajectory is not real.

    Example:
      >>> A = operators.NUFFT(jnp.array([[0.0, 0.0], [0.25, 0.0]]), (4, 4))
      >>> print(np.abs(A(jnp.ones((4, 4)))).round(2))
      [4. 0.]
    """

    trajectory: Leaf
    image_shape: tuple[int, ...] = static()
    eps: float = static(default=1e-3)
    backend: str = static(default="auto")
    gram_by_toeplitz: bool | None = static(default=None)
    periodic: bool = static(default=False)
    spectrum: jax.Array | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in np.atleast_1d(self.image_shape))
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ArgumentError("NUFFT: image_shape", "one to three positive integers", shape)
        trajectory = as_inexact(self.trajectory)
        if is_complex(trajectory.dtype):
            raise TypeError(f"NUFFT: trajectory: expected a real dtype, found {trajectory.dtype}")
        if trajectory.dtype not in (jnp.float32, jnp.float64):
            trajectory = trajectory.astype(jnp.float32)
        check_trajectory(trajectory, len(shape), periodic=self.periodic)
        if self.backend not in ("auto", "jax"):
            raise ArgumentError("NUFFT: backend", "'auto' or 'jax'", repr(self.backend))
        eps = float(self.eps)
        if not 0 < eps < 1:
            raise ArgumentError("NUFFT: eps", "a value between 0 and 1", self.eps)
        # Raises when no kernel is that accurate.
        layout = choose_layout(shape, trajectory.shape[-2], eps, trajectory.dtype == np.float64)
        embed = self.gram_by_toeplitz
        if embed is None:
            # Elsewhere gridding costs far more than FFTs.
            slow_gridding = not native.preferred(complex_dtype(trajectory.dtype), self.backend)
            embed = slow_gridding or toeplitz_is_cheaper(layout, shape, trajectory.shape[-2])
        assign(self, trajectory=trajectory, image_shape=shape, eps=eps, gram_by_toeplitz=bool(embed))
        if isinstance(trajectory, jax.core.Tracer):
            # A value of this trace: made later, in one within it, it could not be kept.
            assign(self, spectrum=self._spectrum(None) if embed else None)

    def __getattr__(self, name: str) -> Any:
        # Python asks here for what is not there yet.
        if name != "spectrum":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with jax.ensure_compile_time_eval():
            assign(self, spectrum=self._spectrum(None) if self.gram_by_toeplitz else None)
        return self.spectrum

    # The samples are counted from the end, so that this holds for stacked operators too.
    in_shape = property(lambda self: self.image_shape)
    out_shape = property(lambda self: (self.trajectory.shape[-2],))
    in_dtype = out_dtype = property(lambda self: complex_dtype(self.trajectory.dtype))

    def toeplitz(self, weights: jax.Array | None = None) -> "ToeplitzGram":
        """``x -> A.H(weights * A(x))`` by two FFTs of twice the image, as an operator of its own.

        Worth its construction (one type 1 transform onto twice the image) when it is applied several times.

        Args:
          weights: real, broadcastable to (..., samples); None stands for ones.
        """
        return ToeplitzGram(self._spectrum(weights), self.image_shape, self.backend)

    def _spectrum(self, weights):
        weights = jnp.ones((), self.trajectory.dtype) if weights is None else jnp.asarray(weights)
        weights = jnp.broadcast_to(weights, self.trajectory.shape[:-1]).astype(self.in_dtype)
        return _weighted_spectrum(
            self.trajectory, weights, shape=self.image_shape, eps=self.eps, backend=self.backend
        )

    def _forward(self, x):
        return self._forward_maps(x, None)[..., 0, :]

    def _adjoint(self, y):
        return self._adjoint_maps(y[..., None, :], None)

    def _gram(self, x, weights):
        if self.spectrum is not None and weights is None:
            return _toeplitz_gram(self.spectrum, x, None, self.image_shape, self.backend)
        return super()._gram(x, weights)

    # Maps are multiplied inside the transform; None stands for one map of ones.

    def _gram_maps(self, x, maps, weights):
        if self.spectrum is not None and weights is None:
            return _toeplitz_gram(self.spectrum, x, maps, self.image_shape, self.backend)
        y = self._forward_maps(x, maps)
        return self._adjoint_maps(y if weights is None else weights * y, maps)

    def _forward_maps(self, x, maps):
        points, images, lead = _align(self.trajectory, x, len(self.image_shape))
        maps = None if maps is None else maps[None]
        y = type2(points, maps, images, sign=-1, eps=self.eps, backend=self.backend)
        return _unalign(y, lead)

    def _adjoint_maps(self, y, maps):
        points, values, lead = _align(self.trajectory, y, 2)
        x = type1(
            points,
            None if maps is None else maps[None],
            values,
            shape=self.image_shape,
            sign=1,
            eps=self.eps,
            conjugate=maps is not None,
            backend=self.backend,
        )
        return _unalign(x, lead)


# Compiled as a whole: one by one, its thirty operations would take a second to compile.
@functools.partial(jax.jit, static_argnames=("shape", "eps", "backend"))
def _weighted_spectrum(trajectory, weights, *, shape, eps, backend):
    twice = tuple(2 * n for n in shape)
    points, values, lead = _align(trajectory, weights, 1)
    lags = type1(points, None, values[:, :, None], shape=twice, sign=1, eps=eps, backend=backend)
    # The transform onto twice the image is normalized by the root of its own number of pixels.
    lags = _unalign(lags, lead) * (math.sqrt(math.prod(twice)) / math.prod(shape))
    return toeplitz.spectrum(lags, shape)


@frozen_pytree
class ToeplitzGram(LinearOperator):
    """The gram of a non-uniform transform by Toeplitz embedding: image -> image, Hermitian.

    Made by :meth:`NUFFT.toeplitz`. Source: Fessler et al., IEEE Trans. Signal Process. 53:3393, 2005.

    Attributes:
      spectrum: real, as :func:`operators.fourier.toeplitz.spectrum` returns it.
      image_shape: the shape of the images.
      backend: as that of :class:`NUFFT`.
    """

    spectrum: Leaf
    image_shape: tuple[int, ...] = static()
    backend: str = static(default="auto")

    in_shape = out_shape = property(lambda self: self.image_shape)
    in_dtype = out_dtype = property(lambda self: complex_dtype(self.spectrum.dtype))

    def _forward(self, x):
        return _toeplitz_gram(self.spectrum, x, None, self.image_shape, self.backend)

    _adjoint = _forward


def _toeplitz_gram(spectrum, x, maps, shape, backend):
    each, images, lead = _align(spectrum, x, len(shape), len(shape) + 1)
    gram = toeplitz.gram(each, images, None if maps is None else maps[None], backend)
    return _unalign(gram, lead)


def _align(trajectory, array, core, own_core=2):
    """What trajectories own (t, *own_core), arrays (t, b, *core), either t possibly one, and the way back."""
    count = trajectory.ndim - own_core
    lead_points = trajectory.shape[:count]
    lead = array.shape[: array.ndim - core]
    extra, own = lead[: max(len(lead) - count, 0)], lead[max(len(lead) - count, 0) :]
    try:
        common = np.broadcast_shapes(lead_points, own)
    except ValueError:
        raise ValueError(
            f"NUFFT: the leading axes of the trajectory {lead_points} and of the array {lead} do not "
            "broadcast; flatten interleaves and samples into one axis of samples"
        ) from None
    points = _flatten(trajectory, (), lead_points, common, own_core)[:, 0]
    return points, _flatten(array, extra, own, common, core), (extra, common)


def _flatten(array, extra, own, common, core):
    tail = array.shape[array.ndim - core :]
    if math.prod(own) == 1:
        return array.reshape(1, math.prod(extra), *tail)
    array = jnp.broadcast_to(array, (*extra, *common, *tail))
    array = array.reshape(math.prod(extra), math.prod(common), *tail)
    return jnp.moveaxis(array, 0, 1)


def _unalign(array, lead):
    extra, common = lead
    return jnp.moveaxis(array, 1, 0).reshape(*extra, *common, *array.shape[2:])
