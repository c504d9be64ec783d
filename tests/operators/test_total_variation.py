"""Total variation and total generalized variation against their definitions and other programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from operators import (
    SENSE,
    CartesianFourier,
    Identity,
    ParallelBeam,
    Radon,
    rasterize,
    shepp_logan,
    total_variation,
)
from operators.solvers import total_generalized_variation


def sense(normal, shape):
    mask = (np.random.default_rng(0).random(shape) < 0.6).astype(np.float32)
    return SENSE(CartesianFourier(shape, mask), normal((3, *shape), np.complex64))


def objective(A, y, weight, x):
    x = np.asarray(x)
    down = np.diff(x, axis=0, append=x[-1:])
    right = np.diff(x, axis=1, append=x[:, -1:])
    variation = np.sqrt(np.abs(down) ** 2 + np.abs(right) ** 2).sum()
    return 0.5 * np.sum(np.abs(np.asarray(A(x) - y)) ** 2) + weight * variation


def test_total_variation_denoises_as_chambolle(normal):
    from skimage.restoration import denoise_tv_chambolle

    image = np.asarray(rasterize(shepp_logan(), (32, 30)))
    noisy = image + 0.1 * normal(image.shape)
    A, weight = Identity(image.shape), 0.05
    x = jax.jit(total_variation, static_argnames="iterations")(A, noisy, weight, iterations=300)
    # skimage minimizes 1/2 |x - y|^2 + weight * TV(x) as well.
    reference = denoise_tv_chambolle(noisy, weight=weight, eps=1e-9, max_num_iter=3000)
    ours, theirs = objective(A, noisy, weight, x), objective(A, noisy, weight, reference)
    assert ours <= theirs * (1 + 1e-4)
    assert np.linalg.norm(x - reference) < 0.02 * np.linalg.norm(reference)


@pytest.mark.slow
@pytest.mark.parametrize("kind, scale", [("sense", 1e-3), ("radon", 50.0)])
def test_total_variation_reaches_a_minimum_at_any_scale(kind, scale, normal):
    if kind == "sense":
        A = sense(normal, shape=(16, 14))
    else:
        A = Radon(ParallelBeam(np.linspace(0, np.pi, 12, endpoint=False), 24), (16, 14))
    image = scale * rasterize(shepp_logan(), (16, 14)).astype(A.in_dtype)
    y = A(image) + 0.02 * scale * normal(A.out_shape, A.out_dtype)
    weight = 0.05 * scale
    x = jax.jit(total_variation, static_argnames="iterations")(A, y, weight, iterations=800)
    best = objective(A, y, weight, x)
    assert best < objective(A, y, weight, image)
    # No smooth or random direction leads downhill.
    for seed in range(4):
        step = 3e-3 * scale * normal(A.in_shape, A.in_dtype, seed)
        assert objective(A, y, weight, x + step) > best
    assert objective(A, y, weight, 1.003 * x) > best and objective(A, y, weight, 0.997 * x) > best


def test_total_variation_batches_and_limits(normal):
    A = sense(normal, shape=(8, 8))
    y = normal((2, *A.out_shape), np.complex64)
    solve = jax.jit(total_variation, static_argnames="iterations")
    together = solve(A, y, 0.1, iterations=30)
    for i in range(2):
        np.testing.assert_allclose(together[i], solve(A, y[i], 0.1, iterations=30), atol=1e-4)
    assert not solve(A, 0 * y, 0.1, iterations=30).any()
    # With an enormous weight only the mean of the image is left.
    flat = solve(Identity((8, 8)), np.abs(normal((8, 8))), 1e3, iterations=400)
    np.testing.assert_allclose(flat, np.abs(normal((8, 8))).mean(), rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("solve", [total_variation, total_generalized_variation])
def test_a_tolerance_ends_primal_dual_runs(solve, normal):
    image = np.asarray(rasterize(shepp_logan(), (16, 14)))
    noisy = image + 0.1 * normal(image.shape)
    A = Identity(image.shape)
    x, info = solve(A, noisy, 0.05, iterations=2000, tolerance=1e-4, return_info=True)
    assert info.converged and info.change <= 1e-4 and info.iterations < 2000
    longer = solve(A, noisy, 0.05, iterations=2000)
    np.testing.assert_allclose(x, longer, atol=5e-3)


def generalized_variation_cost(x, w, ratio):
    """The definition, smoothed by 1e-5 where lengths vanish; x real (ny, nx), w (2, ny, nx)."""
    down, right = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    first_y = jnp.pad(down - w[0, :-1], ((0, 1), (0, 0)))
    first_x = jnp.pad(right - w[1, :, :-1], ((0, 0), (0, 1)))

    def back(v, axis):
        return jnp.pad(jnp.diff(v, axis=axis), [(1, 0) if a == axis else (0, 0) for a in (0, 1)])

    mixed = (back(w[0], 1) + back(w[1], 0)) / 2
    first = jnp.sqrt(first_y**2 + first_x**2 + 1e-10)
    second = jnp.sqrt(back(w[0], 0) ** 2 + back(w[1], 1) ** 2 + 2 * mixed**2 + 1e-10)
    return jnp.sum(first) + ratio * jnp.sum(second)


@pytest.mark.slow
def test_total_generalized_variation_is_the_minimum_of_its_definition(x64, normal):
    (ny, nx), weight, ratio = (4, 5), 0.8, 1.5
    A = Radon(ParallelBeam(np.array([0.1, 0.9, 1.7]), 9), (ny, nx))
    ramp = np.linspace(0, 2, ny)[:, None] + np.linspace(0, 1, nx) + 2.0 * (np.arange(nx) > 2)
    y = A(ramp) + 0.1 * normal(A.out_shape, np.float64)

    @jax.jit
    def cost(values):
        x, w = values[: ny * nx].reshape(ny, nx), values[ny * nx :].reshape(2, ny, nx)
        return 0.5 * jnp.sum((A(x) - y) ** 2) + weight * generalized_variation_cost(x, w, ratio)

    slope = jax.jit(jax.grad(cost))
    options = {"maxiter": 5000, "gtol": 1e-5}
    best = minimize(cost, np.zeros(3 * ny * nx), jac=slope, method="BFGS", options=options)
    x = jax.jit(lambda y: total_generalized_variation(A, y, weight, ratio=ratio, iterations=4000))(y)
    np.testing.assert_allclose(x, best.x[: ny * nx].reshape(ny, nx), atol=5e-3)


def test_linear_images_have_no_generalized_variation():
    ramp = 1 + 0.5 * jnp.linspace(-1, 1, 12)[:, None] - jnp.linspace(0, 1, 9)
    A = Identity((12, 9))
    x = jax.jit(lambda y: total_generalized_variation(A, y, 0.5, iterations=3000))(ramp)
    np.testing.assert_allclose(x, ramp, atol=2e-3)
    flat = jax.jit(lambda y: total_variation(A, y, 0.5, iterations=500))(ramp)
    assert jnp.max(jnp.abs(flat - ramp)) > 0.1


def test_a_small_weight_converges_soon():
    """Few lines of two coils: 150 steps are as close to the minimum as makes no difference."""
    ramp = jnp.linspace(0.2, 1, 32)
    maps = jnp.stack([ramp, ramp[::-1]])[:, None] * jnp.ones((2, 32, 32))
    columns = jnp.asarray(np.random.default_rng(1).random(32) < 0.3).at[14:18].set(True)
    A = SENSE(CartesianFourier((32, 32), columns), maps / jnp.linalg.norm(maps, axis=0))
    y = A(jnp.asarray(np.kron(np.eye(4), np.ones((8, 8))), jnp.complex64))
    solve = jax.jit(lambda n: total_variation(A, y, 1e-3, n), static_argnums=0)
    assert objective(A, y, 1e-3, solve(150)) < 1.02 * objective(A, y, 1e-3, solve(3000))
