"""Data steps of unrolled networks: each moves a state towards the measurements.

A data step is a ``Step`` of ``fedrecon.models.unrolled``. Steps of gradients are divided by the norms of
their inputs, where these have them; those of primal-dual iterations are made for operators of norm about 1.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.unrolled import CascadeInputs, Step, start_image
from operators import SENSE, CartesianFourier, LinearOperator, cg


def _positive(cascade: nn.Module, name: str, initial: float) -> jax.Array:
    """A positive scalar parameter, trained as its logarithm."""
    return jnp.exp(cascade.param(f"log_{name}", nn.initializers.constant(math.log(initial)), ()))


def gradient_step(initial: float = 1.0) -> Step:
    """``x <- x - eta g`` for images x, with g of ``CascadeInputs.gradient`` and a trained eta, "step".

    Args:
      initial: eta to start from.
    """

    def step(cascade: nn.Module, x: jax.Array, inputs: CascadeInputs) -> jax.Array:
        size = cascade.param("step", nn.initializers.constant(initial), ())
        return x - size * inputs.gradient(x)

    return step


def proximal_step(weight: float = 0.1, cg_iterations: int = 4) -> Step:
    """``x <- argmin_z |A z - y|^2 + w |z - x|^2`` for images x, with a trained w, the parameter "log_weight".

    The minimizer is found by conjugate gradients and differentiated implicitly.

    Args:
      weight: w to start from, positive.
      cg_iterations: upper bound of the iterations of each solve, forward and backward.
    """

    def step(cascade: nn.Module, x: jax.Array, inputs: CascadeInputs) -> jax.Array:
        w = _positive(cascade, "weight", weight)

        def nearest(A: LinearOperator, back: jax.Array, x: jax.Array) -> jax.Array:
            # x plus the solution of (A^H A + w) d = A^H y - A^H A x, which is small near the data.
            residual = back - A.gram(x)
            return x + cg(A.gram, residual, regularization=w, iterations=cg_iterations)[0]

        return jax.vmap(nearest)(inputs.operators, inputs.back_projection, x).astype(x.dtype)

    return step


class PrimalDual(NamedTuple):
    """State of ``primal_dual_step``.

    Attributes:
      image: (batch, *in_shape).
      previous: the image one step before.
      dual: (batch, *out_shape).
    """

    image: jax.Array
    previous: jax.Array
    dual: jax.Array


def start_primal_dual(inputs: CascadeInputs, initial: jax.Array | None) -> PrimalDual:
    """The image of ``start_image`` and a dual variable of zeros."""
    image = start_image(inputs, initial)
    return PrimalDual(image, image, jnp.zeros_like(inputs.forward(image)))


def primal_dual_step(primal: float = 0.9, dual: float = 0.9) -> Step:
    """One iteration of Chambolle and Pock (2011) on |A x - y|^2 / 2, for states ``PrimalDual``.

    ``p <- (p + sigma (A (2 x - x_previous) - y)) / (1 + sigma)`` and ``x <- x - tau A^H p``, with trained
    steps, the parameters "log_primal_step" and "log_dual_step". A proximal map of x belongs after it:
    ``regularized(primal_dual_step(), ...)``.

    Args:
      primal: tau to start from, positive; without regularizer iterations converge for
        ``tau sigma |A|^2 <= 1``.
      dual: sigma to start from, positive.
    """

    def step(cascade: nn.Module, state: PrimalDual, inputs: CascadeInputs) -> PrimalDual:
        tau, sigma = _positive(cascade, "primal_step", primal), _positive(cascade, "dual_step", dual)
        image, previous, p = state
        p = (p + sigma * (inputs.forward(2 * image - previous) - inputs.measurements)) / (1 + sigma)
        return PrimalDual(image - tau * inputs.adjoint(p), image, p)

    return step


def sampled(A: LinearOperator) -> jax.Array:
    """Where ``CartesianFourier``, or ``SENSE`` with it, measures: bool (ny, nx), or of volumes (nz, ny, nx).

    Raises:
      TypeError: of other operators.
    """
    fourier = A.fourier if isinstance(A, SENSE) else A
    if not isinstance(fourier, CartesianFourier):
        raise TypeError(
            f"operators: expected CartesianFourier, or SENSE with it, found {type(fourier).__name__}"
        )
    return jnp.ones(fourier.image_shape, bool) if fourier.mask is None else fourier.mask != 0


def projection_step() -> Step:
    """Puts the measured samples into k-space, exactly, and leaves the others; has no parameters.

    The state is k-space (batch, *out_shape) of ``CartesianFourier`` or of ``SENSE`` with it, whose masks are
    zeros and ones.

    Raises:
      TypeError: when applied to other operators.
    """

    def step(cascade: nn.Module, kspace: jax.Array, inputs: CascadeInputs) -> jax.Array:
        del cascade

        def project(A: LinearOperator, kspace: jax.Array, measured: jax.Array) -> jax.Array:
            return jnp.where(sampled(A), measured, kspace)

        return jax.vmap(project)(inputs.operators, kspace, inputs.measurements)

    return step


def start_kspace(inputs: CascadeInputs, initial: jax.Array | None) -> jax.Array:
    """The measured k-space, with zeros elsewhere; or ``initial``, k-space (batch, *out_shape)."""
    return inputs.measurements if initial is None else initial.astype(inputs.measurements.dtype)
