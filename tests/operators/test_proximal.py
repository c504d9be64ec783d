"""Proximal maps against closed forms, optimality conditions and numerical minimization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from operators import FiniteDifferences
from operators.solvers import (
    group_soft_threshold,
    project_box,
    project_l2_ball,
    prox_locally_low_rank,
    prox_total_variation,
    singular_value_threshold,
    soft_threshold,
)


def nuclear(x):
    return np.linalg.svd(x, compute_uv=False).sum()


@pytest.mark.parametrize(
    "shape, dtype", [((6, 5), np.complex64), ((1, 4), np.float32), ((3, 2, 4), np.float32)]
)
def test_finite_differences(shape, dtype, normal, assert_linear_operator):
    D = FiniteDifferences(shape, dtype)
    assert_linear_operator(D)
    x = normal(shape, dtype)
    for axis in range(len(shape)):
        last = np.take(x, [-1], axis)
        np.testing.assert_array_equal(D(x)[axis], np.diff(x, axis=axis, append=last))
    assert FiniteDifferences(shape).in_dtype == np.complex64


def test_soft_threshold_closed_form(x64):
    v = np.array([3.0, -0.5, 0.0, -2.0])
    np.testing.assert_allclose(soft_threshold(v, 1.0), [2, 0, 0, -1])
    z = 3 * np.exp(1j * np.linspace(0, 6, 5))
    np.testing.assert_allclose(soft_threshold(z, 1.0), z * 2 / 3)
    np.testing.assert_allclose(soft_threshold(v, np.array([1.0, 0.1, 0.1, 5.0])), [2, -0.4, 0, 0], atol=1e-15)
    np.testing.assert_array_equal(soft_threshold(v, -1.0), v)


MAPS = {
    "soft": (lambda v, t: soft_threshold(v, t), lambda x: np.abs(x).sum()),
    "group": (
        lambda v, t: group_soft_threshold(v, t, axis=-2),
        lambda x: np.linalg.norm(x, axis=-2).sum(),
    ),
    "nuclear": (lambda v, t: singular_value_threshold(v, t), nuclear),
    "locally low rank": (
        lambda v, t: prox_locally_low_rank(v.reshape(2, 3, 1, 2), t, (1, 2)).reshape(v.shape),
        lambda x: sum(nuclear(b) for b in x.reshape(2, 3, 2)),
    ),
    "total variation": (
        lambda v, t: prox_total_variation(v, t, iterations=800),
        lambda x: np.sqrt(
            np.abs(np.diff(x, axis=-2, append=x[..., -1:, :])) ** 2
            + np.abs(np.diff(x, axis=-1, append=x[..., -1:])) ** 2
        ).sum(),
    ),
}


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_prox_is_the_minimizer(kind, dtype, x64, normal):
    """No point is better, near or far; and for the subgradient p = v - x: g(z) >= g(x) + <p, z - x>."""
    prox, g = MAPS[kind]
    v, threshold = normal((4, 3), dtype), 0.6
    x = np.asarray(jax.jit(prox)(v, threshold))
    assert x.dtype == dtype
    p = v - x
    assert np.linalg.norm(p) > 0.1 and np.linalg.norm(x) > 0.1
    # A norm: <p, x> = t g(x) and <p, z> <= t g(z) for all z.
    np.testing.assert_allclose(np.vdot(p, x).real, threshold * g(x), rtol=1e-5)
    for seed in range(200):
        z = normal((4, 3), dtype, seed)
        assert np.vdot(p, z).real <= threshold * g(z) * (1 + 1e-6)
    # The worst z are those along p and those at which the conjugate norm is attained.
    for z in (p, x, np.sign(p.real).astype(dtype), v):
        assert np.vdot(p, z).real <= threshold * g(z) * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("kind", MAPS)
def test_prox_agrees_with_numerical_minimization(kind, x64, normal):
    prox, g = MAPS[kind]
    v, threshold = normal((4, 3), np.float64, seed=5), 0.4

    def objective(x):
        return threshold * g(x.reshape(4, 3)) + 0.5 * np.sum((x - v.ravel()) ** 2)

    found = objective(np.asarray(jax.jit(prox)(v, threshold)).ravel())
    best = minimize(objective, v.ravel(), method="Powell", options={"maxiter": 4000, "ftol": 1e-10}).fun
    # Powell stops short of the kinks: it is never better, and not far off.
    assert found <= best * (1 + 1e-7)
    assert best <= found * 1.05


@pytest.mark.slow
@settings(max_examples=8)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    threshold=st.sampled_from([0.0, 0.3, 2.0]),
    scale=st.sampled_from([0.0, 1e-6, 1.0]),
)
def test_moreau_identity(shape, threshold, scale, normal):
    """What the joint shrinkage removes is the projection onto the dual ball."""
    v = scale * normal(shape, np.complex64)
    removed = v - group_soft_threshold(v, threshold, axis=0)
    projected = project_l2_ball(v, threshold, axis=0)
    np.testing.assert_allclose(removed, projected, atol=1e-6 * max(scale, 1e-9))


def test_projections(normal):
    v = normal((3, 4), np.float32)
    np.testing.assert_array_equal(project_box(v), np.maximum(v, 0))
    np.testing.assert_array_equal(project_box(v, -0.2, 0.5), np.clip(v, -0.2, 0.5))
    center = normal((3, 4), np.float32, seed=1)
    x = np.asarray(project_l2_ball(v, 0.5, center))
    np.testing.assert_allclose(np.linalg.norm(x - center), 0.5, rtol=1e-6)
    np.testing.assert_allclose((x - center) / 0.5, (v - center) / np.linalg.norm(v - center), rtol=1e-4)
    np.testing.assert_array_equal(project_l2_ball(v, 100.0, center), v)
    np.testing.assert_array_equal(project_l2_ball(v, 0.0, center), center)


def test_total_variation_images_of_a_batch_are_independent(normal):
    v = normal((3, 6, 5), np.complex64)
    solve = jax.jit(lambda v, t: prox_total_variation(v, t, iterations=30))
    together = solve(v, jnp.array([0.1, 0.3, 1.0]).reshape(3, 1, 1))
    for i, threshold in enumerate((0.1, 0.3, 1.0)):
        np.testing.assert_allclose(together[i], solve(v[i], threshold), atol=1e-5)
    np.testing.assert_allclose(solve(v, 0.0), v, atol=1e-6)


def test_total_variation_of_volumes_and_signals(x64, normal):
    flat = prox_total_variation(normal((3, 4, 5), np.float64), 50.0, ndim=3, iterations=400)
    np.testing.assert_allclose(flat, normal((3, 4, 5), np.float64).mean() * np.ones((3, 4, 5)), atol=1e-3)
    # A step of height h over halves of n samples loses t / n on either side.
    step = np.repeat([0.0, 1.0], 5)
    found = prox_total_variation(step, 0.5, ndim=1, iterations=500)
    np.testing.assert_allclose(found, np.repeat([0.1, 0.9], 5), atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_singular_values_are_shrunk(shape, x64, normal):
    matrix = normal((2, *shape), np.complex128)
    x = singular_value_threshold(matrix, jnp.array([0.8, 1.7]))
    for i, threshold in enumerate((0.8, 1.7)):
        u, s, vh = np.linalg.svd(matrix[i], full_matrices=False)
        np.testing.assert_allclose(x[i], u @ np.diag(np.maximum(s - threshold, 0)) @ vh, atol=1e-12)


def test_gradients_of_the_singular_value_threshold(x64, normal):
    def loss(matrix, threshold, weights):
        return jnp.sum((weights.conj() * singular_value_threshold(matrix, threshold)).real)

    loss = jax.jit(loss)
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    for shape in ((5, 3), (3, 5)):
        for dtype in (np.float64, np.complex128):
            matrix, weights, direction = (normal(shape, dtype, seed) for seed in range(3))
            s = np.linalg.svd(matrix, compute_uv=False)
            threshold, step = (s[1] + s[2]) / 2, 1e-6
            by_matrix, by_threshold = gradient(matrix, threshold, weights)
            ahead, behind = (loss(matrix + h * direction, threshold, weights) for h in (step, -step))
            # JAX's gradients of real functions of complex arrays are conjugated.
            slope = np.sum(np.asarray(by_matrix) * direction).real
            np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
            ahead, behind = (loss(matrix, threshold + h, weights) for h in (step, -step))
            np.testing.assert_allclose(by_threshold, (ahead - behind) / (2 * step), rtol=1e-6)


def test_gradients_where_singular_values_coincide_or_vanish(x64):
    # For equal singular values s the derivative along a symmetric matrix is f'(s) times it, along a skew one
    # f(s) / s times it.
    matrix, threshold = jnp.eye(3), 0.25
    symmetric = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    skew = jnp.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    @jax.jit
    def along(matrix, direction):
        return jax.jvp(lambda m: singular_value_threshold(m, threshold), (matrix,), (direction,))[1]

    np.testing.assert_allclose(along(matrix, symmetric), symmetric, atol=1e-12)
    np.testing.assert_allclose(along(matrix, skew), 0.75 * skew, atol=1e-12)
    assert not along(0.1 * matrix, symmetric).any() and not along(0 * matrix, symmetric).any()
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(prox_locally_low_rank(v, 0.5, (2, 2)) ** 2)))
    assert not gradient(jnp.zeros((3, 4, 4))).any()


@settings(max_examples=6)
@given(
    ny=st.integers(1, 7),
    nx=st.integers(1, 7),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    shift=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_blocks_tile_the_image(ny, nx, block, shift, normal):
    with jax.enable_x64(True):
        v = normal((2, 3, ny, nx), np.complex128)
        found = jax.jit(prox_locally_low_rank, static_argnums=2)(v, 0.7, block, jnp.array(shift))
    rolled = np.roll(v, (-shift[0], -shift[1]), (-2, -1))
    expected = np.zeros_like(v)
    for i in range(0, ny, block[0]):
        for j in range(0, nx, block[1]):
            part = (slice(None), slice(None), slice(i, i + block[0]), slice(j, j + block[1]))
            for x, out in zip(rolled, expected, strict=True):
                matrix = x[part[1:]].reshape(3, -1)
                u, s, vh = np.linalg.svd(matrix, full_matrices=False)
                out[part[1:]] = ((u * np.maximum(s - 0.7, 0)) @ vh).reshape(x[part[1:]].shape)
    np.testing.assert_allclose(found, np.roll(expected, shift, (-2, -1)), atol=1e-12)


@pytest.mark.parametrize("kind", MAPS)
def test_gradients_at_zero_are_finite(kind):
    prox, _ = MAPS[kind]

    @jax.jit
    @jax.grad
    def gradient_of(v):
        x = prox(v, 0.5)
        return jnp.sum(jnp.abs(x) ** 2 + x.real)

    gradient = gradient_of(jnp.zeros((4, 3), jnp.complex64))
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: project_box(np.ones(3, np.complex64)), TypeError, ["v", "complex64"]),
        (lambda: prox_total_variation(np.ones(3), 0.1), ValueError, ["v", "2", "(3,)"]),
        (lambda: singular_value_threshold(np.ones(3), 0.1), ValueError, ["rows, columns", "(3,)"]),
        (lambda: prox_locally_low_rank(np.ones((4, 4)), 0.1, (2, 2)), ValueError, ["frames", "(4, 4)"]),
        (
            lambda: prox_locally_low_rank(np.ones((3, 4, 4)), 0.1, (2, 0)),
            ValueError,
            ["block_shape", "(2, 0)"],
        ),
        (lambda: FiniteDifferences(()), ValueError, ["image_shape", "()"]),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
