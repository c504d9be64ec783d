"""Iterative reconstruction against dense linear algebra, known fixed points and likelihoods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import LinearOperator, ParallelBeam, Radon, total_variation
from operators.algebra import frozen_pytree, static
from operators.ct import cgls, mlem, os_sart, osem, pwls, sirt, tv, view_subsets

SHAPE = (4, 5)


@frozen_pytree
class Matrix(LinearOperator):
    """A matrix (views, detectors, ny, nx) as an operator."""

    matrix: jax.Array
    in_shape: tuple[int, ...] = static(default=SHAPE)

    out_shape = property(lambda self: self.matrix.shape[:2])
    in_dtype = out_dtype = property(lambda self: self.matrix.dtype)

    def _forward(self, x):
        return jnp.einsum("vdij,...ij->...vd", self.matrix, x)

    def _adjoint(self, y):
        return jnp.einsum("vdij,...vd->...ij", self.matrix, y)


def system(seed=0, views=6, detectors=8, dtype=np.float64):
    """A sparse non-negative operator with one empty row and one empty column, and an image."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((views, detectors, *SHAPE)) * (rng.random((views, detectors, *SHAPE)) < 0.5)
    matrix[2, 3] = 0
    matrix[:, :, 1, 2] = 0
    image = rng.random(SHAPE)
    image[1, 2] = 0
    return Matrix(jnp.asarray(matrix, dtype)), jnp.asarray(image, dtype)


def flat(A):
    return np.asarray(A.matrix).reshape(-1, 20)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("iterations", "tolerance", "nonnegative"))
def run(method, *args, **options):
    return method(*args, **options)


def subsets_of(A, y, count):
    return view_subsets(Matrix, A.matrix, y, count)


SOLVED = {
    "sirt": lambda A, y: sirt(A, y, iterations=6000, relaxation=1.5, nonnegative=True),
    "cgls": lambda A, y: cgls(A, y, iterations=60),
    "mlem": lambda A, y: mlem(A, y, iterations=20_000),
    "os_sart": lambda A, y: os_sart(*subsets_of(A, y, 3), iterations=3000),
    "osem": lambda A, y: osem(*subsets_of(A, y, 3), iterations=7000),
    "pwls": lambda A, y: pwls(A, y, jnp.ones(()), regularization=0.0, iterations=4000),
    "tv": lambda A, y: tv(A, y, 0.0, iterations=9000),
}
SLOWER = ("osem", "pwls", "tv")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOWER)) for name in SOLVED]
)
def test_consistent_data_are_solved(name, x64):
    A, truth = system()
    x, info = jax.jit(SOLVED[name])(A, A(truth))
    assert x.dtype == np.float64 and np.isfinite(x).all() and info.objective is None
    np.testing.assert_allclose(x, truth, atol=1e-10 if name == "cgls" else 2e-3)
    assert x[1, 2] == 0


def test_inconsistent_data_give_the_weighted_least_squares_solution(x64, normal):
    A, truth = system(1)
    y = A(truth) + 0.3 * normal((6, 8), np.float64)
    matrix, data = flat(A), np.asarray(y).ravel()
    plain = np.linalg.lstsq(matrix, data, rcond=None)[0].reshape(SHAPE)
    np.testing.assert_allclose(run(cgls, A, y, iterations=100)[0], plain, atol=1e-9)
    rows = matrix.sum(1)
    root = np.where(rows > 0, 1 / np.sqrt(np.where(rows > 0, rows, 1)), 0)
    weighted = np.linalg.lstsq(root[:, None] * matrix, root * data, rcond=None)[0].reshape(SHAPE)
    found, _ = run(sirt, A, y, iterations=20_000)
    np.testing.assert_allclose(found, weighted, atol=1e-5)
    assert np.abs(weighted - plain).max() > 1e-2


@given(st.integers(0, 1000))
def test_expectation_maximization_keeps_counts_and_never_loses_likelihood(seed):
    with jax.enable_x64(True):
        A, truth = system(seed)
        mean = flat(A) @ np.ravel(truth)
        y = np.random.default_rng(seed).poisson(20 * mean).reshape(A.out_shape).astype(float)
        images = np.asarray(_em_path(A, y))
    mean = images.reshape(len(images), -1) @ flat(A).T
    data = np.ravel(y)
    values = np.where(data > 0, data * np.log(np.where(data > 0, mean, 1)), 0).sum(1) - mean.sum(1)
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    assert images.min() >= 0
    np.testing.assert_allclose(mean.sum(1), data.sum(), rtol=1e-12)


@jax.jit
def _em_path(A, y):
    def step(x, _):
        new, _ = mlem(A, y, x0=x, iterations=1)
        return new, new

    start, _ = mlem(A, y, iterations=1)
    return jax.lax.scan(step, start, length=8)[1]


@pytest.mark.slow
def test_expectation_maximization_with_background_and_one_subset(x64):
    A, truth = system()
    y = A(truth) + 0.7
    x, _ = run(mlem, A, y, background=0.7, iterations=20_000)
    np.testing.assert_allclose(x, truth, atol=2e-3)
    # The truth is a fixed point, and one subset is the whole.
    np.testing.assert_allclose(mlem(A, A(truth), x0=truth, iterations=1)[0], truth, rtol=1e-12)
    np.testing.assert_allclose(
        osem([A], [y], iterations=3)[0], mlem(A, y, iterations=3)[0], rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(
        os_sart([A], [y], iterations=3)[0], sirt(A, y, iterations=3)[0], rtol=1e-12, atol=1e-14
    )
    assert not run(mlem, A, -y, iterations=2)[0].any()


def test_subsets_of_unequal_structure_give_the_same_as_scanned_ones(x64):
    A, truth = system()
    y = A(truth)
    parts = [Matrix(A.matrix[:2]), Matrix(A.matrix[2:])], [y[:2], y[2:]]
    x, _ = run(os_sart, *parts, iterations=3000)
    np.testing.assert_allclose(x, truth, atol=2e-3)


@pytest.mark.parametrize("huber", [None, 0.02])
def test_penalized_weighted_least_squares_is_stationary(huber, x64, normal):
    A, truth = system(2)
    y = A(truth) + 0.1 * normal((6, 8), np.float64)
    weights = jnp.asarray(np.random.default_rng(3).random((6, 8)))
    x, _ = run(pwls, A, y, weights, regularization=0.4, huber=huber, nonnegative=False, iterations=4000)
    root = np.sqrt(np.asarray(weights).ravel())
    differences = []
    for axis in (0, 1):
        for index in np.ndindex(*SHAPE):
            ahead = tuple(np.add(index, np.eye(2, dtype=int)[axis]))
            if ahead[axis] < SHAPE[axis]:
                row = np.zeros(SHAPE)
                row[index], row[ahead] = -1, 1
                differences.append(row.ravel())
    D = np.array(differences)
    if huber is None:
        stacked = np.concatenate([root[:, None] * flat(A), 0.4**0.5 * D])
        exact = np.linalg.lstsq(stacked, np.r_[root * np.asarray(y).ravel(), np.zeros(len(D))], rcond=None)[0]
        np.testing.assert_allclose(np.ravel(x), exact, atol=1e-7)
    slope = D @ np.ravel(x)
    slope = slope if huber is None else np.clip(slope, -huber, huber)
    residual = np.asarray(weights * (A(x) - y)).ravel()
    np.testing.assert_allclose(flat(A).T @ residual + 0.4 * D.T @ slope, 0, atol=1e-6)
    assert huber is None or (np.abs(D @ np.ravel(x)) > huber).any()


@pytest.mark.slow
def test_total_variation_is_the_shared_problem_with_positivity(x64, normal):
    A, truth = system(4)
    y = A(truth) + 0.05 * normal((6, 8), np.float64)
    free, _ = run(tv, A, y, 0.05, nonnegative=False, iterations=4000)
    np.testing.assert_allclose(free, total_variation(A, y, 0.05, iterations=4000), atol=1e-5)
    bound, _ = run(tv, A, y - 2, 0.05, iterations=4000)
    assert np.min(bound) == 0
    # Without noise and with a weight beyond all bounds the image is flat.
    level = run(tv, A, y, 1e3, iterations=4000)[0]
    assert np.ptp(level) < 1e-3


METHODS = {
    "sirt": lambda A, y: sirt(A, y, iterations=4, nonnegative=True)[0],
    "os_sart": lambda A, y: os_sart(*subsets_of(A, y, 3), iterations=2)[0],
    "cgls": lambda A, y: cgls(A, y, iterations=4)[0],
    "mlem": lambda A, y: mlem(A, y, iterations=4)[0],
    "osem": lambda A, y: osem(*subsets_of(A, y, 2), iterations=2)[0],
    "pwls": lambda A, y: pwls(A, y, jnp.ones(()), regularization=0.1, huber=0.1, iterations=4)[0],
    "tv": lambda A, y: tv(A, y, 0.05, iterations=4)[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_gradients_batches_and_empty_data(name, x64):
    A, truth = system(5)
    solve, y = METHODS[name], A(truth) + 0.1
    probe = jnp.asarray(np.random.default_rng(6).standard_normal(SHAPE))
    both = jax.jit(lambda A, y: solve(A, y))(A, jnp.stack([y, jnp.zeros_like(y)]))
    assert both.shape == (2, *SHAPE) and np.isfinite(both).all() and not both[1].any()

    @jax.jit
    def value_and_gradient(A, y):
        return jax.value_and_grad(lambda y: jnp.sum(probe * solve(A, y)))(y)

    direction = jnp.asarray(np.random.default_rng(7).standard_normal(y.shape))
    value, gradient = value_and_gradient(A, y)
    if name not in ("pwls", "tv"):  # whose steps are common to a batch, or scaled by it
        np.testing.assert_allclose(jnp.sum(probe * both[0]), value, rtol=1e-9)
    ahead, behind = (value_and_gradient(A, y + h * direction)[0] for h in (1e-6, -1e-6))
    np.testing.assert_allclose(jnp.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)


def test_tolerance_objective_and_callback(x64):
    A, truth = system()
    y, calls = A(truth), []
    x, info = sirt(
        A,
        y,
        iterations=5000,
        tolerance=1e-4,
        objective=lambda x: jnp.sum((A(x) - y) ** 2),
        callback=lambda i, value: calls.append((int(i), float(value))),
    )
    jax.effects_barrier()
    count = int(info.iterations)
    assert 1 < count < 5000 and info.change <= 1e-4
    assert [i for i, _ in sorted(calls)] == list(range(1, count + 1))
    np.testing.assert_allclose(info.objective[count - 1], jnp.sum((A(x) - y) ** 2))
    assert cgls(A, y, iterations=100, tolerance=1e-8)[1].iterations < 60


@pytest.mark.slow
def test_projector_and_its_subsets():
    """A disc from a real projector: a few passes over subsets equal many steps."""
    grid = np.hypot(*(np.mgrid[:24, :24] - 11.5))
    image = jnp.asarray(grid < 8, jnp.float32) * 0.05
    angles = jnp.arange(24) * (jnp.pi / 24)

    def projector(angles):
        return Radon(ParallelBeam(angles, 35), (24, 24))

    y = projector(angles)(image)
    subsets, parts = view_subsets(projector, angles, y, 8)
    assert len(subsets) == 8 and parts[0].shape == (3, 35)
    order = [round(float(A.geometry.angles[0]) * 24 / np.pi) for A in subsets]
    assert sorted(order) == list(range(8))
    for solve in (os_sart, osem):
        x, _ = run(solve, subsets, parts, iterations=5)
        assert np.linalg.norm(x - image) < 0.2 * np.linalg.norm(image)


A32, IMAGE32 = system(dtype=np.float32)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: sirt(A32, jnp.ones((3, 3))), ["sirt: y", "6, 8", "(3, 3)"]),
        (lambda: sirt(A32, A32(IMAGE32), x0=jnp.ones(3)), ["sirt: x0", "4, 5", "(3,)"]),
        (lambda: cgls(A32, A32(IMAGE32), iterations=0), ["cgls", "iterations", "0"]),
        (lambda: pwls(A32, A32(IMAGE32), jnp.ones(3), regularization=1.0), ["weights", "(6, 8)", "(3,)"]),
        (lambda: os_sart([A32], []), ["os_sart", "1 and 0"]),
        (lambda: osem([A32, A32], [A32(IMAGE32), jnp.ones(3)]), ["osem: y[1]", "(3,)"]),
        (lambda: osem([A32], [A32(IMAGE32)], background=[]), ["background", "1 subsets", "0"]),
        (lambda: subsets_of(A32, A32(IMAGE32), 4), ["count", "6 views", "4"]),
        (lambda: subsets_of(A32, jnp.ones((5, 8)), 3), ["y: expected 6 views", "(5, 8)"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
