"""Primitives with an operand that several operators share: its gradient is the sum over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import NUFFT, SENSE, CartesianFourier, ConeBeam, FanBeam, Radon
from operators.ct.inversion.back_projector import back_project

TURNS = (0.1, 0.9, 2.3)
MASK = np.random.default_rng(0).random((3, 6, 5)) < 0.5
POINTS = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 20, 2)).astype(np.float32)
MAPS = np.random.default_rng(2).normal(size=(2, 6, 5, 2)).astype(np.float32) @ np.array([1, 1j], np.complex64)

OPERATORS = {
    "cartesian": lambda i: CartesianFourier((6, 5), MASK[i].astype(np.float32)),
    "nufft": lambda i: NUFFT(POINTS[i], (6, 5)),
    "sense": lambda i: SENSE(NUFFT(POINTS[i], (6, 5)), MAPS),
    "fan": lambda i: Radon(FanBeam(np.array([TURNS[i]]), 9, 1.5, 20.0, 15.0), (6, 5)),
    "cone": lambda i: Radon(ConeBeam(np.array([TURNS[i]]), (3, 9), (1.5, 1.5), 20.0, 15.0), (2, 6, 5)),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_gradient_in_a_shared_array_is_the_sum_of_adjoints(kind, normal):
    each = [OPERATORS[kind](i) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    x, y = normal(each[0].in_shape, each[0].in_dtype), normal((3, *each[0].out_shape), each[0].out_dtype, 1)

    @jax.jit
    def both(stacked, x, y):
        def inner(x):
            return jnp.sum((jax.vmap(lambda A: A(x))(stacked) * y.conj()).real)

        return jax.grad(inner)(x), jax.lax.map(lambda pair: pair[0].H(pair[1]), (stacked, y))

    gradient, parts = both(stacked, x, y)
    expected = np.sum(parts, axis=0)
    np.testing.assert_allclose(gradient.conj(), expected, atol=1e-4 * np.abs(expected).max())


def test_the_gradient_in_shared_coil_maps_is_the_sum_over_trajectories(normal):
    x, y = normal((6, 5), np.complex64), normal((3, 2, 20), np.complex64, 1)

    @jax.jit
    def gradients(maps):
        def inner(maps, points, y):
            return jnp.sum((SENSE(NUFFT(points, (6, 5)), maps)(x) * y.conj()).real)

        together = jax.grad(lambda m: jnp.sum(jax.vmap(inner, (None, 0, 0))(m, POINTS, y)))(maps)
        return together, sum(jax.grad(inner)(maps, POINTS[i], y[i]) for i in range(3))

    together, one_by_one = gradients(MAPS)
    np.testing.assert_allclose(together, one_by_one, atol=1e-4 * np.abs(one_by_one).max())


def test_back_projection_of_shared_views_transposes_to_a_sum(normal):
    rng = np.random.default_rng(0)
    poses = rng.uniform(0.5, 1.0, (3, 4, 7)).astype(np.float32) * [0.1, 0.1, 0, 0.01, 0.01, 1, 0]
    detector, weights = np.array([[3.0, 4.0, 0.0, 0.0]]), np.ones((1, 4, 1))
    views, images = normal((1, 1, 4, 1, 9)), normal((3, 1, 1, 6, 5), seed=1)
    poses, detector, weights = (jnp.asarray(a, jnp.float32) for a in (poses, detector, weights))

    @jax.jit
    def gradients(views):
        def inner(views, poses, images):
            return jnp.sum(back_project(poses, detector, weights, views, (1, 6, 5)) * images)

        alone = [jax.grad(inner)(views, poses[i : i + 1], images[i : i + 1]) for i in range(3)]
        return jax.grad(inner)(views, poses, images), sum(alone)

    together, one_by_one = gradients(views)
    np.testing.assert_allclose(together, one_by_one, atol=1e-4 * np.abs(one_by_one).max())
