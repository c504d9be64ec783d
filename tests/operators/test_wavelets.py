"""Wavelet transforms against dense filter matrices, published filters and what defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import Wavelet
from operators.algebra import daubechies_filter
from operators.solvers import prox_wavelet, soft_threshold


@pytest.mark.parametrize("p", range(1, 11))
def test_filters_are_orthonormal_with_vanishing_moments(p):
    low = daubechies_filter(p)
    assert low.shape == (2 * p,) and not low.flags.writeable
    correlation = np.correlate(low, low, "full")[2 * p - 1 :: 2]
    np.testing.assert_allclose(correlation, np.eye(p)[0], atol=1e-12)
    np.testing.assert_allclose(low.sum(), np.sqrt(2), rtol=1e-12)
    high = low[::-1] * (-1.0) ** np.arange(2 * p)
    position = np.linspace(-1, 1, 2 * p)
    for degree in range(p):
        assert abs(high @ position**degree) < 1e-8
    assert abs(high @ position**p) > 1e-6
    # Extremal phase: the energy comes first.
    energy = np.cumsum(low**2)
    assert p == 1 or np.all(energy >= np.cumsum(low[::-1] ** 2) - 1e-12)


@pytest.mark.slow
def test_filters_are_the_published_ones():
    r = np.sqrt(3)
    np.testing.assert_allclose(daubechies_filter(1), np.full(2, np.sqrt(0.5)), rtol=1e-14)
    db2 = np.array([1 + r, 3 + r, 3 - r, 1 - r]) / (4 * np.sqrt(2))
    np.testing.assert_allclose(daubechies_filter(2), db2, rtol=1e-12)
    # Daubechies, Ten Lectures on Wavelets, table 6.1, N = 4.
    db4 = [0.2303778133, 0.7148465706, 0.6308807679, -0.0279837694]
    db4 += [-0.1870348117, 0.0308413818, 0.0328830117, -0.0105974018]
    np.testing.assert_allclose(daubechies_filter(4), db4, atol=1e-9)


def level_matrix(n, low):
    """One level along an axis of n samples: rows are shifted filters, wrapped around."""
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    half = n // 2
    rows = np.zeros((n, n))
    for k in range(half):
        for j in range(len(low)):
            rows[k, (2 * k + j) % (2 * half)] += low[j]
            rows[n - half + k, (2 * k + j) % (2 * half)] += high[j]
    if n % 2:
        rows[half, n - 1] = 1
    return rows


def reference(x, wavelet, levels):
    """The transform of a two-dimensional image by dense matrices."""
    low = daubechies_filter(1 if wavelet == "haar" else int(wavelet[2:]))
    x, (ny, nx) = x.astype(np.complex128), x.shape
    for _ in range(levels):
        x[:ny, :nx] = level_matrix(ny, low) @ x[:ny, :nx] @ level_matrix(nx, low).T
        ny, nx = (ny + 1) // 2, (nx + 1) // 2
    return x


@pytest.mark.slow
@settings(max_examples=8)
@given(
    shape=st.tuples(st.integers(1, 13), st.integers(2, 13)),
    wavelet=st.sampled_from(["haar", "db2", "db4", "db10"]),
    levels=st.integers(1, 3),
)
def test_transform_is_that_of_dense_matrices_and_orthogonal(shape, wavelet, levels, normal):
    levels = min(levels, (max(shape) - 1).bit_length())
    with jax.enable_x64(True):
        W = Wavelet(shape, wavelet, levels)
        x = normal((2, *shape), np.complex128)
        there, back, other = jax.jit(lambda W, x: (W(x), W.H(W(x)), W(W.H(x))))(W, x)
        np.testing.assert_allclose(there[1], reference(x[1], wavelet, levels), atol=1e-11)
        np.testing.assert_allclose(back, x, atol=1e-11)
        np.testing.assert_allclose(other, x, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("shape, dtype", [((9, 14), np.complex64), ((3, 6, 5), np.float32), ((17,), None)])
def test_wavelet_is_a_true_operator(shape, dtype, assert_linear_operator):
    W = Wavelet(shape, "db2", dtype=dtype)
    assert_linear_operator(W)
    assert W.in_dtype == (dtype or np.complex64)


def test_volumes_are_transformed_along_every_axis(x64, normal):
    x, low = normal((4, 5, 6), np.float64), daubechies_filter(2)
    found = Wavelet((4, 5, 6), "db2", 1, np.float64)(x)
    expected = np.einsum("ai,bj,ck,ijk->abc", *(level_matrix(n, low) for n in (4, 5, 6)), x)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_adjoint_is_the_inverse(x64, normal):
    x = normal((5, 12), np.float64)
    W = Wavelet((5, 12), "db2", 2, np.float64)
    np.testing.assert_allclose(jax.jit(lambda x: W.H(W(x)))(x), x, atol=1e-12)


@pytest.mark.parametrize("wavelet, degree", [("haar", 0), ("db2", 1), ("db4", 3)])
def test_details_of_polynomials_vanish_away_from_the_wrap(x64, wavelet, degree):
    n, taps = 48, max(2, 2 * (degree + 1))
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    image = 1 + x**degree - 0.5 * y**degree + x**degree * y**degree
    W = Wavelet((n, n), wavelet, 1, np.float64)
    coefficients = np.array(W(image))
    half, inner = n // 2, n // 2 - taps // 2 + 1
    for rows, columns in ((0, half), (half, 0), (half, half)):
        assert np.abs(coefficients[rows : rows + inner, columns : columns + inner]).max() < 1e-10
    assert np.abs(W(x ** (degree + 1)))[:inner, half : half + inner].max() > 1e-6


def test_details_are_all_but_the_last_corner():
    details = Wavelet((9, 6), "haar", 2).details
    expected = np.ones((9, 6), bool)
    expected[:3, :2] = False
    np.testing.assert_array_equal(details, expected)
    assert Wavelet((64, 64)).levels == 4 and Wavelet((7, 64)).levels == 1 and Wavelet((1, 64)).levels == 4


@pytest.mark.slow
def test_prox_is_the_thresholding_of_the_details(normal):
    W = Wavelet((8, 9), "db2", 2)
    v = normal((2, 8, 9), np.complex64)
    coefficients = W(v)
    expected = W.H(jnp.where(W.details, soft_threshold(coefficients, 0.7), coefficients))
    np.testing.assert_allclose(prox_wavelet(v, 0.7, W), expected, atol=1e-6)
    np.testing.assert_allclose(prox_wavelet(v, 0.0, W, jax.random.key(1)), v, atol=1e-5)


@pytest.mark.slow
def test_cycle_spinning_is_a_shift_drawn_from_the_key(normal):
    W = Wavelet((8, 12), "db2", 2)
    v = normal((8, 12), np.complex64)
    spin = jax.jit(lambda v, key: prox_wavelet(v, 0.7, W, key))
    shifted = {
        (i, j): np.roll(prox_wavelet(np.roll(v, (i, j), (0, 1)), 0.7, W), (-i, -j), (0, 1))
        for i in range(4)
        for j in range(4)
    }
    drawn = set()
    for seed in range(24):
        found = spin(v, jax.random.key(seed))
        np.testing.assert_array_equal(found, spin(v, jax.random.key(seed)))
        errors = {shift: np.abs(found - image).max() for shift, image in shifted.items()}
        best = min(errors, key=errors.get)
        assert errors[best] < 1e-5
        drawn.add(best)
    assert len(drawn) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Wavelet((1, 1)), ["image_shape", "(1, 1)"]),
        (lambda: Wavelet((8, 8), "db11"), ["wavelet", "db11"]),
        (lambda: Wavelet((8, 8), levels=4), ["levels", "1 and 3", "4"]),
        (lambda: Wavelet((8, 8), levels=0), ["levels", "0"]),
        (lambda: daubechies_filter(0), ["vanishing_moments", "0"]),
        (lambda: prox_wavelet(np.ones((8, 7), np.complex64), 0.1, Wavelet((8, 8))), ["8, 8", "(8, 7)"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
