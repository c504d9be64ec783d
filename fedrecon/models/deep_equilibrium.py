"""Deep equilibrium reconstruction: the fixed point of one step, at the memory of one step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.data_steps import gradient_step
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.regularizers import UNetRegularizer, regularized
from fedrecon.models.unrolled import Cascade, CascadeInputs, cascade_inputs, start_image
from operators import LinearOperator

PyTree = Any


def fixed_point(
    f: Callable[[PyTree, jax.Array], jax.Array],
    arguments: PyTree,
    start: jax.Array,
    *,
    iterations: int,
    tolerance: float,
) -> jax.Array:
    """x with ``x = f(arguments, x)`` by repeated application, differentiated implicitly.

    Iterations end when no example's x changes by more than ``tolerance`` of its norm, or at their bound. The
    backward pass solves ``g = v + (df/dx)^T g`` at x in the same way: its memory is that of one application,
    whatever the number of iterations. Where f is no contraction neither converges.

    Args:
      f: continuously differentiable in both arguments.
      arguments: pytree that derivatives are taken by; leaves of integers and bools have none.
      start: (batch, ...), which no derivative is taken by.
      iterations: bound of the iterations, forward and backward, positive.
      tolerance: not negative.
    """

    def repeated(g: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        def norms(x: jax.Array) -> jax.Array:
            return jnp.sqrt((x * x.conj()).real.sum(tuple(range(1, x.ndim))))

        def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            x, previous, done = state
            return (done < iterations) & (norms(x - previous) > tolerance * norms(x)).any()

        def again(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            x, _, done = state
            return g(x).astype(x.dtype), x, done + 1

        return jax.lax.while_loop(unfinished, again, again((x, x, jnp.int32(0))))[0]

    @jax.custom_vjp
    def solve(arguments: PyTree, start: jax.Array) -> jax.Array:
        return repeated(lambda x: f(arguments, x), start)

    def forward(arguments: PyTree, start: jax.Array) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
        x = solve(arguments, start)
        return x, (arguments, x)

    def backward(residuals: tuple[PyTree, jax.Array], v: jax.Array) -> tuple[PyTree, jax.Array]:
        arguments, x = residuals
        pulled = jax.vjp(lambda x: f(arguments, x).astype(x.dtype), x)[1]
        g = repeated(lambda g: v + pulled(g)[0], v)
        return jax.vjp(lambda a: f(a, x).astype(x.dtype), arguments)[1](g)[0], jnp.zeros_like(x)

    solve.defvjp(forward, backward)
    return solve(arguments, start)


class DeepEquilibrium(nn.Module):
    """The image that a step of `VarNet` leaves as it is: ``x = x - eta (A^H A x - A^H y) - R(x)``.

    "DE-Grad" of the publication, with one step size and one U-Net. Forward and backward pass are
    `fixed_point`: memory does not grow with the iterations, and more of them may be taken in evaluation than
    in training. Untrained it is gradient descent on ||A x - y||^2 / 2, with steps as in `VarNet`. Nothing
    makes R a contraction: where training leaves that range, iterations end at their bound.

    Attributes:
      channels, pools, norm, zero_init: of the U-Net, as in `VarNet`; normalization without statistics.
      iterations: bound of the iterations, forward and backward.
      tolerance: relative change of an image that ends them.

    Source: Gilton, Ongie and Willett, IEEE Trans. Comput. Imaging 7:1123, 2021, arXiv:2102.07944.
    """

    channels: int
    pools: int
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
    iterations: int = 30
    tolerance: float = 1e-3

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images or volumes; arguments and result as in ``VarNet``.

        Raises:
          ValueError: ``norm`` keeps running statistics, which no single step has, or as in ``VarNet``.
        """
        inputs = cascade_inputs(operators, measurements, train, valid, normalized=True)
        state = start_image(inputs, initial)
        regularizer = UNetRegularizer(
            self.channels, self.pools, self.norm, self.zero_init, parent=None, name="regularizer"
        )
        step = regularized(gradient_step(), regularizer, "parallel")
        if self.is_initializing():
            result = Cascade(step, name="cascades")(state, inputs)[0]
            if "batch_stats" in self.variables:
                raise ArgumentError("norm", "a normalization without running statistics", self.norm)
            return result

        def once(arguments: tuple[PyTree, CascadeInputs], x: jax.Array) -> jax.Array:
            params, inputs = arguments
            return Cascade(step, parent=None).apply({"params": params}, x, inputs)[0]

        arguments = self.variables["params"]["cascades"], inputs
        return fixed_point(once, arguments, state, iterations=self.iterations, tolerance=self.tolerance)
