"""First-order solvers against closed forms, optimality conditions and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import Diagonal, FiniteDifferences, admm, fista, pdhg, pogm
from operators.solvers import group_soft_threshold, soft_threshold

WEIGHT = 0.8


@pytest.fixture
def problem(x64, normal):
    """An underdetermined complex least-squares problem with a small l1 term: (matrix, y)."""
    matrix = jnp.asarray(normal((12, 20), np.complex128)) * np.linspace(1, 0.1, 20)
    truth = np.where(np.arange(20) % 4 == 0, normal((20,), np.complex128, seed=1), 0)
    return matrix, matrix @ truth + 0.1 * normal((12,), np.complex128, seed=2)


def lasso(matrix, y, solver, weight=WEIGHT, **options):
    """Minimizes 1/2 |M x - y|^2 + weight |x|_1 by any solver."""
    back, zero = matrix.conj().T @ y, jnp.zeros(matrix.shape[1], matrix.dtype)

    def shrink(v, step):
        return soft_threshold(v, weight * step)

    def gram(v):
        return matrix.conj().T @ (matrix @ v)

    if solver in (fista, pogm):
        return solver(lambda x: gram(x) - back, shrink, zero, **options)
    if solver is admm:
        return admm(gram, back, shrink, cg_iterations=60, cg_tolerance=1e-13, **options)
    return pdhg(
        lambda x: matrix @ x,
        lambda q: matrix.conj().T @ q,
        shrink,
        lambda v, step: (v + step * y) / (1 + step),
        zero,
        **options,
    )


def cost(matrix, y, x, weight=WEIGHT):
    return 0.5 * np.sum(np.abs(matrix @ x - y) ** 2) + weight * np.sum(np.abs(x))


@pytest.mark.parametrize("solver", [fista, pogm, admm, pdhg])
def test_lasso_is_solved(solver, problem):
    matrix, y = problem
    solve = jax.jit(lambda m, y: lasso(m, y, solver, iterations=6000, tolerance=1e-11))
    x, info = solve(matrix, y)
    assert info.iterations < 6000 and info.change <= 1e-11 and info.objective is None
    # Subgradients: M^H (y - M x) is weight * x / |x| on the support and no longer than the weight elsewhere.
    slope = np.asarray(matrix.conj().T @ (y - matrix @ x))
    x = np.asarray(x)
    support = np.abs(x) > 1e-6
    assert 3 <= support.sum() <= 15
    np.testing.assert_allclose(slope[support], WEIGHT * x[support] / np.abs(x[support]), rtol=1e-5)
    assert np.abs(slope[~support]).max() <= WEIGHT * (1 + 1e-6)


@pytest.mark.parametrize("solver", [fista, pogm, admm, pdhg])
def test_lasso_of_an_orthogonal_operator_is_a_soft_threshold(solver, x64, normal):
    matrix = jnp.asarray(np.linalg.qr(normal((9, 9), np.complex128))[0])
    y = normal((9,), np.complex128, seed=1)
    x, _ = jax.jit(lambda y: lasso(matrix, y, solver, iterations=400))(y)
    np.testing.assert_allclose(x, soft_threshold(matrix.conj().T @ y, WEIGHT), atol=1e-8)


@pytest.mark.parametrize("solver", [fista, pogm, admm, pdhg])
def test_without_a_term_it_is_least_squares(solver, x64, normal):
    matrix, y = jnp.asarray(normal((12, 5), np.float64)), normal((12,), np.float64, seed=1)
    x, _ = jax.jit(lambda y: lasso(matrix, y, solver, weight=0.0, iterations=1500))(y)
    np.testing.assert_allclose(x, np.linalg.lstsq(matrix, y, rcond=None)[0], rtol=1e-7)


def test_transforms_of_admm_and_pdhg_agree(x64, normal):
    """Total variation of a signal behind a matrix: a term whose proximal map has no closed form."""
    matrix, y = jnp.asarray(normal((14, 10), np.float64)), normal((14,), np.float64, seed=1)
    D = FiniteDifferences((10,), np.float64)
    options = {"iterations": 20_000, "tolerance": 1e-12}

    def shrink(v, step):
        return group_soft_threshold(v, 2.0 * step, axis=-2)

    split, info = jax.jit(
        lambda y: admm(
            lambda v: matrix.T @ (matrix @ v),
            matrix.T @ y,
            shrink,
            transform=D,
            cg_tolerance=1e-14,
            **options,
        )
    )(y)
    dual, _ = jax.jit(
        lambda y: pdhg(
            lambda x: {"data": matrix @ x, "slope": D(x)},
            lambda q: matrix.T @ q["data"] + D.H(q["slope"]),
            None,
            lambda v, step: {"data": (v["data"] + step * y) / (1 + step), "slope": shrink(v["slope"], step)},
            jnp.zeros(10),
            **options,
        )
    )(y)
    assert info.iterations < 20_000
    np.testing.assert_allclose(split, dual, atol=1e-8)
    jumps = np.abs(np.diff(dual))
    assert 0 < np.sum(jumps < 1e-8) < 9


@pytest.mark.slow
def test_pogm_needs_fewer_iterations_than_fista_and_restarts_help(problem):
    matrix, y = problem
    best, _ = lasso(matrix, y, pogm, iterations=5000)
    best = cost(matrix, y, best)

    def needed(solver, **options):
        _, info = lasso(
            matrix,
            y,
            solver,
            iterations=2000,
            objective=lambda x: 0.5 * jnp.sum(jnp.abs(matrix @ x - y) ** 2) + WEIGHT * jnp.sum(jnp.abs(x)),
            **options,
        )
        # The first step from which on the objective stays within 1e-8 of the minimum.
        return int(np.flatnonzero(np.asarray(info.objective) > best * (1 + 1e-8))[-1]) + 2

    steps = {(s.__name__, r): needed(s, restart=r) for s in (fista, pogm) for r in (False, True)}
    assert steps["pogm", False] < steps["fista", False]
    assert steps["pogm", True] < steps["fista", True] < steps["fista", False]
    assert steps["pogm", True] < steps["pogm", False]


@pytest.mark.parametrize("solver", [fista, pogm])
def test_steps_are_those_of_the_papers(solver, x64):
    """Without a second term POGM is the optimized gradient method (Kim and Fessler 2016)."""
    gram = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    b, count = np.arange(6.0), 4
    x, _ = solver(
        lambda x: gram @ x - b,
        lambda v, step: v,
        jnp.zeros(6),
        lipschitz=4.0,
        iterations=count,
        restart=False,
    )
    ahead = before = np.zeros(6)
    theta = 1.0
    for number in range(count):
        after = ahead - (gram @ ahead - b) / 4
        last = 8 if solver is pogm and number == count - 1 else 4
        new = (1 + np.sqrt(1 + last * theta**2)) / 2
        overshoot = theta / new * (after - ahead) if solver is pogm else 0
        ahead, before, theta = after + (theta - 1) / new * (after - before) + overshoot, after, new
    np.testing.assert_allclose(x, ahead if solver is pogm else before, rtol=1e-10)


@pytest.mark.parametrize("solver, factor", [(fista, 2.0), (pogm, 1.0)])
def test_the_worst_case_bounds_hold(solver, factor, x64):
    """L |x0 - x*|^2 times 2 / (k + 1)^2, and half of it for POGM, on a chain of differences."""
    n = 60
    gram = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    b = jnp.asarray(np.eye(n)[0])
    exact = np.linalg.solve(gram, b)
    lowest = 0.5 * exact @ gram @ exact - b @ exact
    for iterations in (5, 25):
        x, info = solver(
            lambda x: gram @ x - b,
            lambda v, step: v,
            jnp.zeros(n),
            lipschitz=4.0,
            iterations=iterations,
            restart=False,
            objective=lambda x: 0.5 * x @ gram @ x - b @ x,
        )
        excess = info.objective[-1] - lowest
        assert 0 < excess <= factor * 4 * (exact @ exact) / (iterations + 1) ** 2
        np.testing.assert_allclose(info.objective[-1], 0.5 * x @ gram @ x - b @ x)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [fista, pogm, admm, pdhg])
def test_gradients_through_fixed_iterations(solver, problem, normal):
    """Reverse mode against central differences in data, weight and matrix, far from convergence."""
    matrix, y = problem
    probe = normal((20,), np.complex128, seed=8)

    @jax.jit
    def loss(arguments):
        x, _ = lasso(arguments[0], arguments[1], solver, arguments[2], iterations=7)
        return jnp.sum((probe.conj() * x).real)

    arguments = (matrix, jnp.asarray(y), jnp.asarray(WEIGHT))
    gradient = jax.jit(jax.grad(loss))(arguments)
    direction = (normal(matrix.shape, np.complex128, 3), normal(y.shape, np.complex128, 4), np.asarray(0.5))
    # JAX's gradients of real functions of complex arrays are conjugated.
    slope = sum(np.sum(np.asarray(g) * d).real for g, d in zip(gradient, direction, strict=True))
    step = 1e-6
    ahead, behind = (
        loss(tuple(a + h * d for a, d in zip(arguments, direction, strict=True))) for h in (step, -step)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5)


def test_gradients_at_a_zero_solution_are_zero():
    def loss(y):
        results = [lasso(jnp.eye(3, dtype=complex), y, s, iterations=3)[0] for s in (fista, pogm, pdhg)]
        return sum(jnp.sum(x.real) for x in results)

    assert not jax.jit(jax.grad(loss))(jnp.zeros(3, jnp.complex64)).any()


@pytest.mark.slow
@pytest.mark.parametrize("solver", [fista, pogm, admm, pdhg])
def test_callback_history_and_compilation(solver, normal):
    matrix, calls, traces = jnp.asarray(normal((6, 4), np.float32)), [], []

    def objective(y):
        return lambda x: 0.5 * jnp.sum((matrix @ x - y) ** 2) + WEIGHT * jnp.sum(jnp.abs(x))

    @jax.jit
    def solve(y):
        traces.append(y)
        return lasso(
            matrix,
            y,
            solver,
            iterations=500,
            tolerance=1e-4,
            objective=objective(y),
            callback=lambda i, value: calls.append((int(i), float(value))),
        )

    y = normal((6,), np.float32, seed=1)
    x, info = solve(y)
    jax.effects_barrier()
    count = int(info.iterations)
    assert 1 < count < 500
    assert sorted(i for i, _ in calls) == list(range(1, count + 1))
    np.testing.assert_allclose([value for _, value in sorted(calls)], info.objective[:count])
    np.testing.assert_array_equal(info.objective[count:], info.objective[count - 1])
    np.testing.assert_allclose(info.objective[-1], objective(y)(x), rtol=1e-5)
    solve(normal((6,), np.float32, seed=2))
    assert len(traces) == 1
    # Without an objective the callback gets the change; a run of fixed length makes every step.
    calls.clear()
    _, info = lasso(matrix, y, solver, iterations=6, callback=lambda i, v: calls.append((int(i), float(v))))
    jax.effects_barrier()
    assert sorted(i for i, _ in calls) == [1, 2, 3, 4, 5, 6] and info.iterations == 6
    np.testing.assert_allclose(max(calls)[1], info.change)
    # Without a callback the program holds no call.
    program = str(jax.make_jaxpr(lambda y: lasso(matrix, y, solver, iterations=6))(y))
    assert "callback" not in program


def test_vmapped_problems_are_independent(normal):
    matrix, y = jnp.asarray(normal((6, 4), np.float32)), normal((3, 6), np.float32, seed=1)
    y[1] = 0
    for solver in (fista, pdhg):
        run = jax.jit(lambda y, solver=solver: lasso(matrix, y, solver, iterations=300, tolerance=1e-5))
        together, info = jax.jit(jax.vmap(run))(y)
        assert info.iterations.shape == (3,) and info.iterations[1] < info.iterations[0]
        for i in range(3):
            np.testing.assert_allclose(together[i], run(y[i])[0], atol=1e-5)


@pytest.mark.parametrize("solver", [fista, pogm, admm])
def test_random_proximal_maps_get_one_key_per_iteration(solver):
    """Reproducible, different in every step, and folded from the key and the index."""
    key = jax.random.key(3)
    seen = []

    def prox(v, step, key):
        jax.debug.callback(lambda u: seen.append(float(u)), jax.random.uniform(key))
        return v

    run = {
        fista: lambda: fista(lambda x: x, prox, jnp.ones(2), iterations=4, key=key),
        pogm: lambda: pogm(lambda x: x, prox, jnp.ones(2), iterations=4, key=key),
        admm: lambda: admm(lambda x: x, jnp.ones(2), prox, iterations=4, key=key),
    }[solver]
    run()
    jax.effects_barrier()
    expected = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(4)]
    np.testing.assert_allclose(sorted(seen), sorted(expected))


def test_zero_problems_stay_finite():
    zero = Diagonal(jnp.zeros(3))
    for solver in (fista, pogm):
        x, info = solver(zero.gram, lambda v, step: v, jnp.ones(3), iterations=3)
        np.testing.assert_array_equal(x, 1)
        assert info.change == 0
    x, _ = pdhg(zero, zero.H, None, lambda v, step: v, jnp.ones(3), iterations=3)
    np.testing.assert_array_equal(x, 1)
    x, _ = admm(zero.gram, jnp.zeros(3), lambda v, step: soft_threshold(v, step), iterations=3)
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: fista(lambda x: x, lambda v, s: v, jnp.ones(3), iterations=0), ["fista", "iterations", "0"]),
        (lambda: pogm(lambda x: x[:2], lambda v, s: v, jnp.ones(3)), ["pogm", "float32[3]", "float32[2]"]),
        (lambda: fista(lambda x: 1j * x, lambda v, s: v, jnp.ones(3)), ["float32[3]", "complex64[3]"]),
        (lambda: admm(lambda x: x, jnp.ones(3), lambda v, s: v, x0=jnp.ones(2)), ["x0", "(3,)", "(2,)"]),
        (lambda: admm(lambda x: x[:2], jnp.ones(3), lambda v, s: v), ["admm: gram(b)", "float32[2]"]),
        (
            lambda: pdhg(lambda x: x, lambda q: q[:1], None, lambda v, s: v, jnp.ones(3)),
            ["pdhg", "float32[1]"],
        ),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
