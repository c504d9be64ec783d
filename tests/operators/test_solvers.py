"""Solvers against dense linear algebra and optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import SENSE, CartesianFourier, Diagonal, Identity, cg, cg_sense, operator_norm


def sense(normal, dtype=np.complex64, shape=(6, 5)):
    real = np.zeros((), dtype).real.dtype
    mask = (np.arange(shape[1]) % 2 == 0).astype(real)
    return SENSE(CartesianFourier(shape, mask), normal((3, *shape), dtype))


@pytest.mark.parametrize("dtype", [np.complex128, np.float64])
def test_cg_solves_the_regularized_system(dtype, x64, normal, dense_matrix):
    matrix = normal((12, 8), dtype)
    b = normal((8,), dtype, seed=1)
    expected = np.linalg.solve(matrix.conj().T @ matrix + 0.3 * np.eye(8), b)
    x, info = cg(lambda v: matrix.conj().T @ (matrix @ v), b, regularization=0.3, tolerance=1e-12)
    np.testing.assert_allclose(x, expected, rtol=1e-9)
    assert info.iterations <= 12 and info.residual <= 1e-12
    again, info = cg(
        lambda v: matrix.conj().T @ (matrix @ v), b, x0=expected, regularization=0.3, tolerance=1e-9
    )
    np.testing.assert_allclose(again, expected, rtol=1e-9)
    assert info.iterations == 0


def test_cg_sense_is_least_squares(x64, normal, dense_matrix):
    A = sense(normal, np.complex128)
    y = normal(A.out_shape, np.complex128, seed=2)
    matrix = dense_matrix(A)
    expected = np.linalg.lstsq(matrix, y.ravel(), rcond=None)[0].reshape(A.in_shape)
    x = cg_sense(A, y, tolerance=1e-13, iterations=200)
    np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-9)


def test_cg_stops_at_the_bound_and_at_zero():
    gram = Diagonal(jnp.arange(1.0, 50.0)).gram
    b = jnp.ones(49)
    for l2 in (0.0, 50.0):
        x, info = cg(gram, b, regularization=l2, iterations=3)
        residual = np.linalg.norm(b - (gram(x) + l2 * x)) / np.linalg.norm(b)
        assert info.iterations == 3 and 0 < info.residual < 1
        np.testing.assert_allclose(info.residual, residual, rtol=1e-4)
    _, info = cg(gram, b, regularization=50.0, tolerance=1e-3)
    assert 1e-5 < info.residual <= 1e-3
    x, info = cg(gram, 0 * b)
    assert info.iterations == 0 and not x.any() and info.residual == 0
    # An inconsistent system: finite, whatever the null space holds.
    x, _ = cg(Diagonal(jnp.array([1.0, 0.0])).gram, jnp.array([2.0, 0.0]))
    np.testing.assert_allclose(x, [2.0, 0.0])
    x, _ = cg(Diagonal(jnp.array([0.0, 0.0])).gram, jnp.ones(2))
    assert bool(jnp.all(jnp.isfinite(x)))


def test_gradients_through_cg_are_those_of_the_dense_solution(x64, normal):
    b = jnp.asarray(normal((6, 5), np.complex128, seed=3))
    A = sense(normal, np.complex128)

    def matrix(maps):
        operator = SENSE(A.fourier, maps)
        return jax.vmap(operator.gram)(jnp.eye(30, dtype=complex).reshape(30, 6, 5)).reshape(30, 30).T

    def by_cg(maps, b, l2):
        x, _ = cg(SENSE(A.fourier, maps).gram, b, regularization=l2, tolerance=1e-13, iterations=300)
        return jnp.sum(jnp.sin(x.real) + x.imag**2)

    def by_solve(maps, b, l2):
        x = jnp.linalg.solve(matrix(maps) + l2 * jnp.eye(30), b.ravel())
        return jnp.sum(jnp.sin(x.real) + x.imag**2)

    arguments = (A.coil_maps, b, 0.2)
    found = jax.jit(jax.grad(by_cg, (0, 1, 2)))(*arguments)
    expected = jax.jit(jax.grad(by_solve, (0, 1, 2)))(*arguments)
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-7, atol=1e-8)


def test_second_derivatives_through_cg(x64):
    def solution(t):
        weights = jnp.stack([t, t + 1])
        return jnp.sum(cg(lambda v: weights * v, jnp.ones(2), tolerance=1e-13)[0])

    t = 1.5
    expected = 2 / t**3 + 2 / (t + 1) ** 3
    np.testing.assert_allclose(jax.grad(jax.grad(solution))(t), expected, rtol=1e-9)


def test_vmapped_systems_are_independent(normal):
    A = sense(normal)
    y = normal((3, *A.out_shape), np.complex64, seed=4)
    y[1] = 0
    together = jax.vmap(lambda y: cg_sense(A, y, regularization=0.1))(y)
    alone = jax.jit(lambda y: cg_sense(A, y, regularization=0.1))
    for i in range(3):
        np.testing.assert_allclose(together[i], alone(y[i]), atol=2e-5)


def test_operator_norm(normal, dense_matrix, key):
    A = sense(normal)
    expected = np.linalg.norm(dense_matrix(A), 2)
    assert 0.98 * expected < operator_norm(A, key, iterations=60) < 1.001 * expected
    np.testing.assert_allclose(operator_norm(-3.0 * Identity((4,)), key), 3, rtol=1e-6)
    assert operator_norm(Diagonal(jnp.zeros(4)), key) == 0


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda A: cg(A.gram, jnp.ones((6, 5)), x0=jnp.ones(5)), ValueError, ["x0", "(6, 5)", "(5,)"]),
        (lambda A: cg(A.gram, jnp.ones((6, 5)), iterations=-1), ValueError, ["iterations", "-1"]),
        (lambda A: cg_sense(A, jnp.ones((2, 6, 5), complex)), ValueError, ["3, 6, 5", "(2, 6, 5)"]),
    ],
)
def test_errors(call, error, words, normal):
    with pytest.raises(error) as caught:
        call(sense(normal))
    for word in words:
        assert word in str(caught.value)
