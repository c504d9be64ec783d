"""Checks that every operator must pass, and a dense reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def normal(shape, dtype=np.float32, seed=0):
    """Standard normal numbers of any dtype, drawn by numpy: compiling a sampler per shape takes longer."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def complex_normal(rng, shape, dtype):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def relative(found, expected):
    """Norm of the difference over that of what is expected, or absolute where that is zero."""
    scale = np.linalg.norm(np.ravel(expected))
    return np.linalg.norm(np.ravel(np.asarray(found) - expected)) / (scale if scale else 1)


apply = jax.jit(lambda A, x: A(x))


def dense_matrix(A):
    """The matrix of an operator: (outputs, inputs), column by column."""
    n = int(np.prod(A.in_shape))
    columns = apply(A, np.eye(n, dtype=A.in_dtype).reshape(n, *A.in_shape))
    return np.asarray(columns).reshape(n, -1).T


@jax.jit
def probe(A, x, weights, noise):
    y = A(jnp.concatenate([x, 2.5 * x[:1] - x[1:]]))
    some = weights[..., :1]
    return {
        "forward": y,
        "single": A(x[1]),
        "adjoint": A.H(jnp.stack([y[:2], weights * y[:2], some * y[:2]])),
        "single adjoint": A.H(noise),
        "gram": (A.gram(x), A.gram(x, weights), A.gram(x, some)),
    }


def adjoint_error(x, forward, noise, back, gram):
    """``|<A x, y> - <x, A.H y>| / (|A x| |y|)`` for y that is half noise and half A x."""
    x, forward, noise, back, gram = (
        np.ravel(a).astype(complex if np.iscomplexobj(a) else float) for a in (x, forward, noise, back, gram)
    )
    scale, own = np.linalg.norm(noise), np.linalg.norm(forward) or 1.0
    y = noise / scale + forward / own
    difference = np.vdot(forward, y) - np.vdot(x, back / scale + gram / own)
    if not (np.iscomplexobj(x) and np.iscomplexobj(forward)):
        difference = difference.real
    return abs(difference) / (own * np.linalg.norm(y))


def assert_linear_operator(A):
    """Shapes, dtypes, linearity, batching, the dot test, and gram with and without weights."""
    double = min(jnp.finfo(A.in_dtype).bits, jnp.finfo(A.out_dtype).bits) == 64
    tolerance = 1e-12 if double else 1e-5
    assert (A.H.in_shape, A.H.out_shape) == (A.out_shape, A.in_shape)
    assert (A.H.in_dtype, A.H.out_dtype) == (A.out_dtype, A.in_dtype)
    assert jax.tree.structure(A.H.H) == jax.tree.structure(A)
    assert all(a is b for a, b in zip(jax.tree.leaves(A.H.H), jax.tree.leaves(A), strict=True))
    x = normal((2, *A.in_shape), A.in_dtype)
    weights = np.abs(normal(A.out_shape, jnp.finfo(A.out_dtype).dtype, seed=1))
    noise = normal(A.out_shape, A.out_dtype, seed=2)
    found = jax.tree.map(np.asarray, probe(A, x, weights, noise))
    y = found["forward"]
    assert y.shape == (3, *A.out_shape) and y.dtype == A.out_dtype
    for image in found["gram"]:
        assert image.shape == x.shape and image.dtype == A.in_dtype

    def close(a, b):
        assert np.linalg.norm(np.ravel(a - b)) <= 20 * tolerance * max(np.linalg.norm(np.ravel(b)), 1e-6)

    close(found["single"], y[1])
    close(y[2], 2.5 * y[0] - y[1])
    for gram, back in zip(found["gram"], found["adjoint"], strict=True):
        close(gram, back)
    for i in range(2):
        error = adjoint_error(x[i], y[i], noise, found["single adjoint"], found["adjoint"][0, i])
        assert error <= tolerance


@pytest.fixture(name="assert_linear_operator", scope="session")
def assert_linear_operator_fixture():
    return assert_linear_operator


@pytest.fixture(name="normal", scope="session")
def normal_fixture():
    return normal


@pytest.fixture(name="dense_matrix", scope="session")
def dense_matrix_fixture():
    return dense_matrix


@pytest.fixture(scope="session")
def key():
    return jax.random.key(7)
