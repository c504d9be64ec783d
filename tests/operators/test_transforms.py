"""Operators as arguments of jit, vmap, grad, scan and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from operators import SENSE, CartesianFourier, Diagonal, ParallelBeam, Radon, cg, total_variation
from operators.ct import filtered_radon

KINDS = ["sense", "radon", "filtered", "composed"]


@pytest.fixture
def make(normal):
    """make(kind, seed): one of a family of operators of equal structure."""

    def build(kind, seed):
        rng = np.random.default_rng(seed)
        geometry = ParallelBeam(np.sort(rng.uniform(0, 3, 5)).astype(np.float32), 11, 0.9)
        if kind == "radon":
            return Radon(geometry, (7, 8))
        if kind == "filtered":
            return filtered_radon(geometry, (7, 8), 1.0, (np.arange(5) < 3 + seed % 3).astype(np.float32))
        A = SENSE(
            CartesianFourier((7, 8), rng.integers(0, 2, 8).astype(np.float32)),
            normal((2, 7, 8), np.complex64, seed),
        )
        return A if kind == "sense" else 2.0 * A @ Diagonal(normal((7, 8), np.complex64, seed + 9)) - 1j * A

    return build


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def loss(A, x):
    return jnp.sum(jnp.abs(A(x)) ** 2) + jnp.sum(jnp.abs(A.gram(x)) ** 2)


def assert_close(found, expected, tolerance=2e-4):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.max(jnp.abs(b)) + 1e-6))


@pytest.mark.parametrize("kind", KINDS)
def test_second_call_does_not_compile_again(kind, make, normal):
    traces = []

    @jax.jit
    def apply(A, x):
        traces.append(A)
        return A.H(A(x))

    for seed in range(3):
        A = make(kind, seed)
        apply(A, normal(A.in_shape, A.in_dtype, seed))
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filtered", "composed"])
def test_stacked_operators_under_vmap_grad_and_scan(kind, make, normal):
    family = [make(kind, seed) for seed in range(3)]
    stacked = stack(family)
    assert (stacked.in_shape, stacked.out_shape) == (family[0].in_shape, family[0].out_shape)
    assert (stacked.in_dtype, stacked.out_dtype) == (family[0].in_dtype, family[0].out_dtype)
    x = normal((3, *stacked.in_shape), stacked.in_dtype)
    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    expected = stack([step(A, v) for A, v in zip(family, x, strict=True)])
    assert_close(jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(stacked, x), expected)
    scanned = jax.jit(lambda A, x: jax.lax.scan(lambda c, a: (c, step(*a)), 0, (A, x))[1])(stacked, x)
    assert_close(scanned, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_axes_are_those_of_vmap(kind, make, normal):
    A = make(kind, 0)
    x = normal((2, 3, *A.in_shape), A.in_dtype)
    y = normal((2, 3, *A.out_shape), A.out_dtype, seed=1)

    @jax.jit
    def both(A, x, y):
        mapped = jax.vmap(jax.vmap(lambda x, y: (A(x), A.H(y), A.gram(x))))(x, y)
        return (A(x), A.H(y), A.gram(x)), mapped

    assert_close(*both(A, x, y), 1e-5)


def shard(function, devices, specs, out):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices")
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((devices,), ("clients",), (auto,), devices=jax.devices()[:devices])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out))


ONE, EACH = PartitionSpec(), PartitionSpec("clients")


@pytest.mark.slow
@pytest.mark.parametrize("kind, devices", [("sense", 2), pytest.param("filtered", 4, marks=pytest.mark.slow)])
def test_sharded_equals_unsharded(kind, devices, make, normal):
    """Values and gradients, with operators sharded along with the data, and replicated."""
    family = [make(kind, seed) for seed in range(devices)]
    stacked = stack(family)
    x = normal((devices, *stacked.in_shape), stacked.in_dtype)
    local = jax.vmap(jax.value_and_grad(loss, (0, 1)))
    assert_close(shard(local, devices, (EACH, EACH), EACH)(stacked, x), jax.jit(local)(stacked, x))
    # Replicated: the gradient with respect to the operator is summed over devices.
    total = jax.grad(lambda A, x: jnp.sum(jax.vmap(loss, in_axes=(None, 0))(A, x)))
    assert_close(shard(total, devices, (ONE, EACH), ONE)(family[0], x), jax.jit(total)(family[0], x))


@pytest.mark.parametrize("kind", [pytest.param("sense", marks=pytest.mark.slow), "radon"])
def test_solvers_sharded_equal_unsharded(kind, make, normal):
    A = make(kind, 0)
    x = normal((2, *A.in_shape), A.in_dtype)

    def solve(A, x):
        y = A(x)
        z = cg(A.gram, A.H(y), regularization=0.3, iterations=4)[0]
        if kind == "sense":
            z = z + total_variation(A, y, 0.1, iterations=3)
        return jnp.sum(jnp.abs(z) ** 2)

    local = jax.vmap(jax.value_and_grad(solve, 1), in_axes=(None, 0))
    assert_close(shard(local, 2, (ONE, EACH), EACH)(A, x), jax.jit(local)(A, x))
