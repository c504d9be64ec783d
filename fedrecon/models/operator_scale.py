"""How large operators are, so that gradient steps need not be told."""

import jax
import jax.numpy as jnp

from operators import SENSE, CartesianFourier, LinearOperator


def squared_norms(operators: LinearOperator, products: int = 4) -> jax.Array | None:
    """|A|^2 of stacked operators by power iteration, (batch,) float; None for Cartesian MRI, where it is 1.

    Few views of CT, and samples that are dense in the center of k-space, have much larger ones: about
    pi N / (2 V) for a filtered Radon transform of V views of N x N pixels. Four products from noise find
    three quarters of it or more, which is near enough for gradient descent with steps of 1 over it (less
    than 2 / |A|^2). From below, with one random start for all; no derivative is taken.

    Args:
      operators: stacked leaf by leaf.
      products: with the normal operator.
    """
    fourier = operators.fourier if isinstance(operators, SENSE) else operators
    if isinstance(fourier, CartesianFourier):
        return None

    def squared_norm(A: LinearOperator) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return A.gram(x / _size(x)), None

        start = jax.random.normal(jax.random.key(0), A.in_shape, A.in_dtype)
        # The first product is of what the operator's arrays vary over, as the carry of the loop must be.
        return _size(jax.lax.scan(step, step(start, None)[0], length=products - 1)[0])

    return jax.lax.stop_gradient(jax.vmap(squared_norm)(operators))


def _size(x: jax.Array) -> jax.Array:
    size = jnp.linalg.norm(x.ravel())
    return jnp.maximum(size, jnp.finfo(size.dtype).tiny)


def excess(operators: LinearOperator) -> jax.Array | float:
    """``max(1, |A|^2)`` of each operator: (batch, 1, ...), with as many axes as images have; or 1.

    By eleven products. Operators of norm 1 or less, such as SENSE with maps of sum |S|^2 = 1, are left as
    they are: their scale is their own. Filtered Radon transforms of few views have norms up to 2.

    Args:
      operators: stacked leaf by leaf.
    """
    squares = squared_norms(operators, 11)
    if squares is None:
        return 1.0
    return jnp.maximum(squares, 1).reshape(-1, *(1,) * len(operators.in_shape))
