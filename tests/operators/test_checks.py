"""The checks must pass true operators and catch false ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import (
    NUFFT,
    SENSE,
    BlockDiagonal,
    CartesianFourier,
    ConeBeam,
    Diagonal,
    FanBeam,
    Identity,
    LinearOperator,
    ParallelBeam,
    Radon,
    check_adjoint,
    check_gradients,
    frozen_pytree,
    static,
)
from operators.ct import as_vectors


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


class Undecorated(LinearOperator):
    in_shape = out_shape = (3,)
    in_dtype = out_dtype = np.dtype(np.float32)

    def _forward(self, x):
        return 2 * x

    _adjoint = _forward


@pytest.mark.parametrize(
    "use",
    [
        lambda A, x: check_adjoint(A, jax.random.key(0)),
        lambda A, x: check_gradients(A, jax.random.key(0)),
        lambda A, x: jax.jit(lambda A, x: A(x))(A, x),
        lambda A, x: jax.jit(lambda A, x: A(x))(A.H, x),
        lambda A, x: jax.grad(lambda A: A(x).sum())(A),
        lambda A, x: jax.vmap(lambda A, x: A(x))(A, x[None]),
        lambda A, x: jax.lax.scan(lambda A, _: (A, A(x)), A, length=2),
    ],
)
def test_a_class_without_the_decorator_is_told_of_it(use):
    message = (
        "Undecorated: expected a class decorated by @operators.frozen_pytree, found a class that is no pytree"
    )
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError) as error:
        use(Undecorated(), x)
    assert str(error.value) == message
    np.testing.assert_array_equal(Undecorated()(x), 2 * x)
    assert not hasattr(Identity((3,)), "__jax_array__")


def test_printed_objects_show_shapes(normal):
    angles = np.linspace(0, 3, 180, dtype=np.float32)
    geometry = ParallelBeam(angles, 363)
    short = (
        "ParallelBeam(angles=float32[180], detector_count=363, detector_spacing=1.0, "
        "detector_offset=0.0, axis_offset=0.0)"
    )
    assert repr(geometry) == short
    assert repr(Radon(geometry, (16, 16))).startswith(f"Radon(geometry={short}, image_shape=(16, 16), ")
    cone = ConeBeam(angles, (4, 5), (1.0, 1.0), 30.0, 15.0)
    for printed in (geometry, cone, as_vectors(cone), FanBeam(angles, 41, 0.9, 20.0, 9.0)):
        assert len(repr(printed)) < 300 and "[180" in repr(printed) and "Array" not in repr(printed)
    diagonal = "Diagonal(weights=float32[2,2], dtype=float32, shape=(2,))"
    blocks = repr(BlockDiagonal([Diagonal(normal((2,))), Diagonal(normal((2,)))]))
    assert blocks.startswith(f"BlockDiagonal(operators={diagonal}, in_shape=(2, 2), ")
    shown = []
    jax.jit(lambda A, x: shown.append(repr(A)) or A(x))(Wrong(jnp.ones(3)), jnp.ones(3))
    assert shown == ["Wrong(weights=float32[3], fault='none')"]
    A = NUFFT(normal((400, 2)) / 8, (8, 8), gram_by_toeplitz=True)
    assert "spectrum=None" in repr(A) and "spectrum" not in vars(A)


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
