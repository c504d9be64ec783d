"""The checks must pass true operators and catch false ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import (
    SENSE,
    CartesianFourier,
    Diagonal,
    Identity,
    LinearOperator,
    check_adjoint,
    check_gradients,
)
from operators.algebra import frozen_pytree, static


@frozen_pytree
class Wrong(LinearOperator):
    """Multiplication by complex weights with a fault in the adjoint or in the derivative."""

    weights: jax.Array
    fault: str = static(default="none")

    in_shape = out_shape = property(lambda self: self.weights.shape)
    in_dtype = out_dtype = property(lambda self: self.weights.dtype)

    def _forward(self, x):
        if self.fault == "stopped":
            return jax.lax.stop_gradient(self.weights) * x
        return self.weights * x

    def _adjoint(self, y):
        return {
            "none": self.weights.conj() * y,
            "stopped": self.weights.conj() * y,
            "conjugate": self.weights * y,
            "sign": -self.weights.conj() * y,
            "scale": 1.001 * self.weights.conj() * y,
            "sample": (self.weights.conj() * y).at[0].set(0),
            "nan": jnp.nan * y,
        }[self.fault]


@pytest.mark.parametrize("fault", ["conjugate", "sign", "scale", "sample", "nan"])
def test_check_adjoint_catches(fault, normal, key):
    with pytest.raises(ValueError, match="Wrong: relative adjoint error"):
        check_adjoint(Wrong(normal((40,), np.complex64), fault), key)


def test_check_gradients_catches_a_lost_dependence(normal, key):
    with pytest.raises(ValueError, match="leaf 0"):
        check_gradients(Wrong(normal((5,), np.complex64), "stopped"), key)


def test_checks_return_small_errors(normal, key):
    A = Wrong(normal((40,), np.complex64))
    assert 0 <= check_adjoint(A, key) < 1e-6
    assert 0 <= check_gradients(A, key) < 1e-6
    assert check_adjoint(Diagonal(jnp.zeros(3)), key) == 0


@pytest.mark.slow
def test_gradients_of_fourier_operators(normal, key):
    mask = np.abs(normal((5,)))
    A = SENSE(CartesianFourier((4, 5), mask), normal((2, 4, 5), np.complex64))
    check_gradients(A, key)
    check_gradients((1 + 2j) * A @ (Diagonal(normal((4, 5))) - 0.3 * Identity((4, 5))), key)
