"""When iterative solvers stop, and what they report."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from operators.algebra import positive_integer
from operators.solvers.linear import positive, vector_norm

Objective = Callable[[Any], jax.Array]
Callback = Callable[[Any, Any], None]


class SolverInfo(NamedTuple):
    """How a run of a first-order solver ended.

    Attributes:
      iterations: number of steps made, an int32 scalar.
      change: the solver's relative change in the last step, a real scalar.
      converged: whether that reached the tolerance, a boolean scalar; False where there was none.
      objective: (iterations,) objective after every step, the last one repeated where the run stopped early;
        None where no objective was given.
    """

    iterations: jax.Array
    change: jax.Array
    converged: jax.Array
    objective: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Stopping:
    """How long a solver runs, and what it reports after every step.

    Without ``tolerance`` exactly ``iterations`` steps are made in a ``lax.scan``, so that reverse-mode
    derivatives of the result are those of the unrolled iteration. With ``tolerance`` the run ends in a
    ``lax.while_loop`` as soon as the solver's relative change reaches it, and has no reverse-mode derivative.

    Attributes:
      name: of the solver, for errors.
      iterations: number of steps, or its upper bound where there is a tolerance.
      tolerance: relative change at which to stop; None: never.
      objective: function of x whose value after every step is kept in :class:`SolverInfo`, a constant to
        differentiation.
      callback: ``callback(iteration, value)``, called on the host after every step, counted from 1; the value
        is the objective where there is one, and the relative change otherwise.

    Raises:
      ValueError, TypeError: if ``iterations`` is no positive integer.
    """

    name: str
    iterations: int
    tolerance: float | jax.Array | None = None
    objective: Objective | None = None
    callback: Callback | None = None

    def __post_init__(self) -> None:
        positive_integer(self.iterations, f"{self.name}: iterations")

    def run(
        self, step: Callable[[Any, jax.Array], tuple[Any, jax.Array]], state: tuple[Any, ...]
    ) -> tuple[Any, SolverInfo]:
        """Repeats ``step(state, index) -> (state, change)``; x is the first element of the state.

        Args:
          step: one step of the solver; ``index`` is int32, counted from 0.
          state: where to start.

        Returns:
          (x, :class:`SolverInfo`).
        """
        # Zeros of the data's own kind vary over the mesh axes over which the data do.
        zero = jax.lax.stop_gradient(jnp.zeros_like(vector_norm(state[0])))
        history = None if self.objective is None else jnp.zeros(self.iterations, zero.dtype) + zero
        carry = (state, zero.astype(jnp.int32), zero + jnp.inf, history)

        def advance(carry):
            state, index, _, history = carry
            state, change = step(state, index)
            value = change
            if self.objective is not None:
                value = jax.lax.stop_gradient(self.objective(state[0])).astype(zero.dtype)
                history = history.at[index].set(value)
            if self.callback is not None:
                jax.debug.callback(self.callback, index + 1, value)
            return state, index + 1, change, history

        if self.tolerance is None:
            carry, _ = jax.lax.scan(lambda carry, _: (advance(carry), None), carry, length=self.iterations)
        else:
            carry = jax.lax.while_loop(self._continues, advance, carry)
        state, count, change, history = carry
        if history is not None:
            history = jnp.where(jnp.arange(self.iterations) < count, history, history[count - 1])
        converged = zero > 0 if self.tolerance is None else change <= self.tolerance
        return state[0], SolverInfo(count, change, converged, history)

    def _continues(self, carry):
        _, index, change, _ = carry
        return (index < self.iterations) & (change > self.tolerance)


def relative_change(new: Any, old: Any) -> jax.Array:
    """Norm of ``new - old`` relative to that of ``new``, a constant to differentiation."""
    return relative_norm(jax.tree.map(lambda u, v: u - v, new, old), new)


def relative_norm(difference: Any, *references: Any) -> jax.Array:
    """Norm of an array or pytree relative to the largest of ``references``, a constant to differentiation.

    Where all references are zero it is the norm itself.
    """
    # Norms are not differentiable at zero, and no derivative is wanted.
    difference, *references = jax.lax.stop_gradient((difference, *references))
    size = vector_norm(references[0])
    for reference in references[1:]:
        size = jnp.maximum(size, vector_norm(reference))
    change = vector_norm(difference)
    return jnp.where(size > 0, change / positive(size), change)
