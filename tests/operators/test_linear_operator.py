"""The algebra of operators against the algebra of their matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from operators import CartesianFourier, Diagonal, Identity


@pytest.fixture
def pair(normal):
    """Two complex operators (3, 4) -> (3, 4) without structure in common."""
    A = CartesianFourier((3, 4), np.abs(normal((3, 4), np.float32)))
    return A, Diagonal(normal((3, 4), jnp.complex64))


class Matrix:
    """Enough of a matrix to evaluate an expression written for operators."""

    __array_ufunc__ = None

    def __init__(self, array):
        self.array = np.asarray(array)

    @property
    def H(self):
        return Matrix(self.array.conj().T)

    def __matmul__(self, other):
        return Matrix(self.array @ other.array)

    def __add__(self, other):
        return Matrix(self.array + other.array)

    def __sub__(self, other):
        return Matrix(self.array - other.array)

    def __neg__(self):
        return Matrix(-self.array)

    def __mul__(self, scalar):
        return Matrix(np.asarray(scalar) * self.array)

    __rmul__ = __mul__

    def __truediv__(self, scalar):
        return Matrix(self.array / scalar)


@pytest.mark.parametrize(
    "combine",
    [
        lambda A, B: A @ B,
        lambda A, B: A + B,
        lambda A, B: A - B,
        lambda A, B: -A,
        lambda A, B: A.H,
        lambda A, B: A.H @ B,
        lambda A, B: 2 * A,
        lambda A, B: A * 0.5,
        lambda A, B: A / 4,
        lambda A, B: (1 - 2j) * A,
        lambda A, B: np.float32(3) * A,
        lambda A, B: jnp.asarray(1 + 1j) * A,
        lambda A, B: (A @ B - 1j * B.H).H,
    ],
)
def test_algebra_is_that_of_matrices(combine, pair, dense_matrix):
    A, B = pair
    combined = combine(A, B)
    expected = combine(Matrix(dense_matrix(A)), Matrix(dense_matrix(B))).array
    np.testing.assert_allclose(dense_matrix(combined), expected, atol=3e-6)


def test_compositions_are_true_operators(pair, assert_linear_operator):
    A, B = pair
    for combined in ((A @ B - 1j * B.H).H, (0.5 - 2j) * (A @ B), A.H @ A / 3 + B):
        assert_linear_operator(combined)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_identity_and_diagonal(dtype, normal, assert_linear_operator):
    x = normal((5, 2, 3), dtype)
    np.testing.assert_array_equal(Identity((2, 3), dtype)(x), x)
    weights = normal((2, 3), dtype)
    np.testing.assert_allclose(Diagonal(weights)(x), weights * x, rtol=1e-6)
    for A in (Identity((2, 3), dtype), Diagonal(weights), Diagonal(np.arange(6).reshape(2, 3), dtype)):
        assert_linear_operator(A)


def test_real_images_of_complex_operators(pair, assert_linear_operator):
    # The adjoint of the real embedding is the real part, through products, sums and complex scalars.
    real = Identity((3, 4))
    A, _ = pair
    for B in (A @ real, 1j * real, A @ ((2 - 1j) * real), A @ real + 1j * real, A @ real + real):
        assert B.in_dtype == jnp.float32 and B.out_dtype == jnp.complex64
        assert_linear_operator(B)


def test_scalars_are_leaves_and_may_be_traced(pair, normal):
    A, _ = pair
    x = normal(A.in_shape, A.in_dtype)
    value, slope = jax.jit(jax.value_and_grad(lambda s: jnp.sum(jnp.abs((s * A)(x)) ** 2)))(3.0)
    np.testing.assert_allclose(slope, 2 * value / 3, rtol=1e-5)
    assert (2.0 * Identity((2,))).out_dtype == jnp.float32


def test_double_precision(x64, normal, assert_linear_operator):
    A = CartesianFourier((3, 4), np.abs(normal((3, 4), float)))
    B = Diagonal(normal((3, 4), jnp.complex128))
    assert A.in_dtype == jnp.complex128
    assert_linear_operator(2.0 * A @ B - 1j * B)
    assert CartesianFourier((3, 4), dtype=jnp.complex64).in_dtype == jnp.complex64


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda A: A(jnp.ones((3, 5), jnp.complex64)), ValueError, ["(..., 3, 4)", "(3, 5)"]),
        (lambda A: A(jnp.ones((4,), jnp.complex64)), ValueError, ["(..., 3, 4)", "(4,)"]),
        (lambda A: A.H(jnp.ones((4, 3), jnp.complex64)), ValueError, ["CartesianFourier.H", "(4, 3)"]),
        (lambda A: A(jnp.ones((3, 4), int)), TypeError, ["complex64", "int32"]),
        (lambda A: Identity((3, 4))(jnp.ones((3, 4), jnp.complex64)), TypeError, ["float32", "complex64"]),
        (lambda A: A.gram(jnp.ones((3, 4)), jnp.ones((3, 5))), ValueError, ["weights", "(3, 5)"]),
        (lambda A: A.gram(jnp.ones((3, 4)), jnp.ones((2, 3, 4))), ValueError, ["weights", "(2, 3, 4)"]),
        (lambda A: A.gram(jnp.ones((3, 4)), 1j * jnp.ones((3, 4))), TypeError, ["weights", "complex64"]),
        (lambda A: A @ Identity((3, 5)), ValueError, ["(3, 4)", "(3, 5)"]),
        (lambda A: A + Identity((3, 5)), ValueError, ["(3, 4)", "(3, 5)"]),
        (lambda A: A + Identity((3, 4)), TypeError, ["complex64", "float32"]),
        (lambda A: Identity((3, 4)) @ A, TypeError, ["complex64", "float32"]),
        (lambda A: A * A, TypeError, ["use @"]),
        (lambda A: jnp.ones(3) * A, ValueError, ["scalar", "(3,)"]),
        (lambda A: A @ jnp.ones((3, 4)), TypeError, ["@"]),
        (lambda A: A + 1, TypeError, ["+"]),
        (lambda A: Diagonal(1j * jnp.ones(3), jnp.float32), TypeError, ["complex64", "float32"]),
    ],
)
def test_errors_name_what_was_expected_and_found(call, error, words):
    with pytest.raises(error) as caught:
        call(CartesianFourier((3, 4)))
    for word in words:
        assert word in str(caught.value)


def test_operators_are_frozen():
    with pytest.raises(AttributeError):
        operators.Identity((2,)).shape = (3,)
