"""Block-diagonal operators against their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import SENSE, BlockDiagonal, CartesianFourier, Identity, ParallelBeam, Radon


@pytest.fixture
def frames(normal):
    rng, maps = np.random.default_rng(0), jnp.asarray(normal((2, 4, 5), np.complex64))
    return [SENSE(CartesianFourier((4, 5), rng.integers(0, 2, 5)), maps) for _ in range(3)]


@pytest.mark.slow
def test_series_of_masks_is_a_true_operator_that_shares_its_maps(frames, normal, assert_linear_operator):
    A = BlockDiagonal(frames)
    assert (A.in_shape, A.out_shape) == ((3, 4, 5), (3, 2, 4, 5))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(A)) == [(2, 4, 5), (3, 1, 5)]
    assert_linear_operator(A)
    x = normal((2, 3, 4, 5), np.complex64)
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(A(x)[:, i], frame(x[:, i]), atol=1e-6)
        np.testing.assert_allclose(A.H(A(x))[:, i], frame.H(frame(x[:, i])), atol=1e-5)


def test_weights_broadcast_from_the_right(frames, normal):
    A, x = BlockDiagonal(frames), normal((3, 4, 5), np.complex64)
    for shape in ((5,), (2, 1, 5), (1, 2, 4, 5), (3, 1, 1, 1), (3, 2, 4, 5), ()):
        weights = np.abs(normal(shape, np.float32))
        np.testing.assert_allclose(A.gram(x, weights), A.H(weights * A(x)), atol=1e-5)


@pytest.mark.slow
def test_series_of_angles(normal):
    views = [Radon(ParallelBeam(np.arange(3) + t, 9), (6, 5)) for t in (0.1, 0.4)]
    A = BlockDiagonal(views)
    x = normal((2, 6, 5), np.float32)
    np.testing.assert_allclose(A(x)[1], views[1](x[1]), atol=1e-5)
    gradient = jax.grad(lambda A: jnp.sum(A(x) ** 2))(A)
    assert jax.tree.structure(gradient) == jax.tree.structure(A)


@pytest.mark.parametrize(
    "blocks, error, words",
    [
        ([], ValueError, ["operators", "at least one"]),
        ([np.eye(2)], TypeError, ["LinearOperator", "ndarray"]),
        ([Identity((2,)), Identity((3,))], ValueError, ["structure"]),
        ([Identity((2,)), Identity((2,), np.complex64)], ValueError, ["structure", "complex64"]),
        ([CartesianFourier((2, 2)), CartesianFourier((2, 2), np.ones(2))], ValueError, ["structure"]),
        (
            [Radon(ParallelBeam(np.zeros(n), 4), (2, 2)) for n in (1, 2)],
            ValueError,
            ["out_shape", "(1, 4)", "(2, 4)"],
        ),
    ],
)
def test_errors(blocks, error, words):
    with pytest.raises(error) as caught:
        BlockDiagonal(blocks)
    for word in words:
        assert word in str(caught.value)
