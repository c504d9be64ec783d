"""How much larger than one operators are, so that gradient steps need not be told."""

import jax
import jax.numpy as jnp

from fedrecon.models.unrolled import CascadeInputs
from operators.solvers import largest_eigenvalue


def excess(inputs: CascadeInputs, iterations: int = 10) -> jax.Array:
    """``max(1, |A|^2)`` of each operator: (batch, 1, ...), with as many axes as images have.

    By power iteration, from below, with one random start for all; no derivatives flow through it. Operators
    of norm 1 or less, such as SENSE with maps of sum |S|^2 = 1, are left as they are: their scale is their
    own. Filtered Radon transforms of few views have norms up to 2.

    Args:
      inputs: of a network.
      iterations: products with the normal operator.
    """
    like = jax.ShapeDtypeStruct(inputs.back_projection.shape[1:], inputs.back_projection.dtype)
    squares = jax.vmap(lambda A: largest_eigenvalue(A.gram, like, iterations=iterations))(inputs.operators)
    found = jax.lax.stop_gradient(jnp.maximum(squares, 1))
    return found.reshape(-1, *(1,) * len(like.shape))
