"""Image and coil sensitivities estimated together from the same measurement."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    as_inexact,
    check_measured,
    is_complex,
    positive_integer,
    positive_number,
    squared,
)
from operators.solvers import cg


def nlinv(
    fourier: LinearOperator,
    kspace: jax.Array,
    iterations: int = 9,
    *,
    regularization: float = 1.0,
    reduction: float = 0.5,
    smoothness: float = 1 / 64,
    order: float = 32.0,
    cg_iterations: int = 30,
    cg_tolerance: float = 1e-3,
) -> tuple[jax.Array, jax.Array]:
    """Image and sensitivities by regularized nonlinear inversion: no calibration region is needed.

    ``fourier(maps[c] * image) = kspace[c]`` is solved for both by the iteratively regularized Gauss-Newton
    method: from x_0, an image of ones and maps of zeros, each step minimizes
    ``|F(x) + F'(x) dx - y|^2 + a_n |x + dx - x_0|^2`` by conjugate gradients, with
    ``a_n = regularization * reduction ** n``. Maps are smooth: they are the inverse Fourier transform of
    coefficients times ``(1 + smoothness * |q|^2) ** (-order / 2)``, q in cycles per field of view, and x
    holds the coefficients. More steps fit finer detail, and more noise. Operator and k-space are scaled
    inside, so that the weights mean the same for any of them, and the image scales with the k-space.

    Only the product of image and maps is determined: it is divided so that ``sum |maps|^2 = 1``. A phase that
    is smooth belongs to the maps. Coils of zeros (padding) get zero maps; where all maps are zero they are
    the constant ``coils ** -0.5``.

    Args:
      fourier: operator on complex images, such as ``CartesianFourier(shape, mask)`` or ``NUFFT(...)``.
      kspace: (..., coils, *fourier.out_shape), noise pre-whitened.
      iterations: Gauss-Newton steps.
      regularization: weight of the first step.
      reduction: factor between the weights of one step and the next, less than 1.
      smoothness: the weight of high frequencies in the maps, per squared cycle per field of view.
      order: exponent of that weight.
      cg_iterations: bound of the conjugate gradient iterations of a step.
      cg_tolerance: relative residual at which they stop. Gradients of the result are exact for steps solved
        to the end, see :func:`operators.cg`.

    Returns:
      (image, maps): (..., *fourier.in_shape) and (..., coils, *fourier.in_shape), complex.

    Raises:
      ValueError: if ``kspace`` does not fit ``fourier`` or a number is out of range.
      TypeError: if ``fourier`` is no operator of complex images, or a number is of the wrong kind.

    Source: Uecker et al., Magn. Reson. Med. 60:674, 2008.
    """
    if not isinstance(fourier, LinearOperator) or not is_complex(fourier.in_dtype):
        found = getattr(fourier, "in_dtype", type(fourier).__name__)
        raise TypeError(f"nlinv: fourier: expected a LinearOperator on complex images, found {found}")
    kspace = as_inexact(check_measured(kspace, fourier.out_dtype, "nlinv: kspace"))
    shape, samples = fourier.in_shape, fourier.out_shape
    axes = 1 + len(samples)
    if kspace.ndim < axes or kspace.shape[kspace.ndim - axes + 1 :] != samples or not kspace.size:
        expected = ", ".join(str(n) for n in samples)
        raise ArgumentError("nlinv: kspace", f"(..., coils, {expected})", kspace.shape)
    iterations = positive_integer(iterations, "nlinv: iterations")
    cg_iterations = positive_integer(cg_iterations, "nlinv: cg_iterations")
    if positive_number(reduction, "nlinv: reduction") >= 1:
        raise ArgumentError("nlinv: reduction", "a number less than 1", reduction)
    weights = positive_number(regularization, "nlinv: regularization") * reduction ** np.arange(iterations)
    smooth_maps = _SmoothMaps(
        shape, positive_number(smoothness, "nlinv: smoothness"), positive_number(order, "nlinv: order")
    )

    def one(kspace):
        return _estimate(fourier, kspace, smooth_maps, weights, (cg_tolerance, cg_iterations))

    batch = kspace.shape[: kspace.ndim - axes]
    if not batch:
        return one(kspace)
    results = jax.vmap(one)(kspace.reshape(-1, *kspace.shape[len(batch) :]))
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), results)


class _SmoothMaps:
    """Maps of an image's shape from coefficients, decaying as a Sobolev norm demands, and the adjoint."""

    def __init__(self, shape: tuple[int, ...], smoothness: float, order: float) -> None:
        frequencies = np.meshgrid(*(n * np.fft.fftfreq(n) for n in shape), indexing="ij")
        self.decay = (1 + smoothness * sum(q**2 for q in frequencies)) ** (-order / 2)
        self.grid = tuple(range(-len(shape), 0))

    # Native order of the transform: the origin of the maps is a phase of their coefficients.
    def __call__(self, coefficients: jax.Array) -> jax.Array:
        weighted = jnp.asarray(self.decay, coefficients.real.dtype) * coefficients
        return math.sqrt(self.decay.size) * jnp.fft.ifftn(weighted, axes=self.grid)

    def adjoint(self, maps: jax.Array) -> jax.Array:
        transformed = jnp.fft.fftn(maps, axes=self.grid) / math.sqrt(self.decay.size)
        return jnp.asarray(self.decay, maps.real.dtype) * transformed


class _Problem(NamedTuple):
    """What is solved: ``gram(maps * image) / gain = measured``, from the coefficients ``start``."""

    gram: Callable[[jax.Array], jax.Array]
    gain: jax.Array
    measured: jax.Array
    start: jax.Array
    smooth_maps: _SmoothMaps


def _estimate(fourier, kspace, smooth_maps, weights, limits):
    """Image and maps of one measurement (coils, *fourier.out_shape)."""
    measured = fourier.H(kspace)
    energy = jnp.sum(squared(measured))
    gain = jnp.sum((measured.conj() * fourier.gram(measured)).real) / jnp.where(energy > 0, energy, 1)
    gain = jnp.where(gain > 0, gain, 1)
    scale = jnp.sqrt(energy / smooth_maps.decay.size) / gain
    scale = jnp.where(scale > 0, scale, 1)
    measured = measured / (gain * scale)
    start = jnp.concatenate([jnp.ones_like(measured[:1]), jnp.zeros_like(measured)])
    problem = _Problem(fourier.gram, gain, measured, start, smooth_maps)

    def step(x, weight):
        return x + _gauss_newton_update(problem, x, weight, limits), None

    x, _ = jax.lax.scan(step, start, jnp.asarray(weights, measured.real.dtype))
    return _normalized(x[0], smooth_maps(x[1:]), scale)


def _gauss_newton_update(problem, x, weight, limits):
    """The step from x, the image and then the coefficients of the maps, by the linearized problem."""
    gram, gain, measured, start, smooth_maps = problem
    image, maps = x[0], smooth_maps(x[1:])

    def adjoint(images):
        combined = jnp.sum(maps.conj() * images, axis=0, keepdims=True)
        return jnp.concatenate([combined, smooth_maps.adjoint(image.conj() * images)])

    def normal(dx):
        return adjoint(gram(image * smooth_maps(dx[1:]) + dx[0] * maps) / gain)

    misfit = adjoint(measured - gram(image * maps) / gain)
    tolerance, iterations = limits
    update, _ = cg(
        normal,
        misfit + weight * (start - x),
        regularization=weight,
        tolerance=tolerance,
        iterations=iterations,
    )
    return update


def _normalized(image, maps, scale):
    """The image, and maps of unit norm in every pixel: constant where all of them are zero."""
    power = jnp.sum(squared(maps), axis=0)
    root = jnp.sqrt(jnp.where(power > 0, power, 1))
    maps = jnp.where(power > 0, maps / root, len(maps) ** -0.5)
    return jnp.where(power > 0, scale * root * image, 0), maps
