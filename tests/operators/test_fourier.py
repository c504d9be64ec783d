"""The Cartesian Fourier transform against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import CartesianFourier, fft2c, ifft2c
from operators.fourier import fourier_resize

sizes = st.integers(1, 9)


def dft(n):
    """The centered orthonormal DFT matrix from its definition."""
    k = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


@settings(max_examples=8)
@given(ny=sizes, nx=sizes, seed=st.integers(0, 99))
def test_fft2c_is_the_centered_orthonormal_dft(normal, ny, nx, seed):
    x = normal((2, ny, nx), np.complex64, seed)
    expected = dft(ny) @ np.asarray(x) @ dft(nx).T
    kspace, back = jax.jit(lambda x: (fft2c(x), ifft2c(fft2c(x))))(x)
    np.testing.assert_allclose(kspace, expected, atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("double", [False, pytest.param(True, marks=pytest.mark.slow)])
@settings(max_examples=5)
@given(ny=sizes, nx=sizes, kind=st.sampled_from([None, "rows", "columns", "vector", "full"]))
def test_every_mask_gives_a_true_operator(normal, assert_linear_operator, double, ny, nx, kind):
    shape = {"rows": (ny, 1), "columns": (1, nx), "vector": (nx,), "full": (ny, nx)}.get(kind)
    with jax.enable_x64(double):
        mask = None if kind is None else np.abs(normal(shape, float))
        A = CartesianFourier((ny, nx), mask)
        assert A.in_dtype == (jnp.complex128 if double else jnp.complex64)
        assert_linear_operator(A)


def test_unmeasured_samples_are_zero(normal):
    mask = np.arange(6) % 2 == 0
    x = normal((5, 6), jnp.complex64)
    y = CartesianFourier((5, 6), mask)(x)
    np.testing.assert_array_equal(y[:, ~mask], 0)
    np.testing.assert_allclose(y[:, mask], fft2c(x)[:, mask], rtol=1e-6)


def test_gradients_in_the_mask_are_those_of_the_product(normal):
    x, probe, mask = normal((5, 6), np.complex64), normal((5, 6), np.complex64, 1), normal((5, 6))
    gradient = jax.grad(lambda mask: jnp.sum((probe.conj() * CartesianFourier((5, 6), mask)(x)).real))(mask)
    np.testing.assert_allclose(gradient, (probe.conj() * fft2c(x)).real, rtol=1e-4, atol=1e-5)


@given(old=st.integers(2, 16), new=st.integers(1, 24))
@settings(max_examples=8)
def test_fourier_resize_keeps_band_limited_images(old, new):
    # A wave below both sampling limits has a closed form on either grid.
    frequency = min((old - 1) // 2, (new - 1) // 2)

    def wave(n):
        t = (np.arange(n) - n // 2) / n
        return 3 + np.cos(2 * np.pi * frequency * t + 0.4 * (frequency > 0))

    image = np.outer(wave(old), np.ones(4)).astype(np.float32)
    resized = jax.jit(fourier_resize, static_argnums=1)(image, (new, 6))
    assert resized.dtype == jnp.float32
    np.testing.assert_allclose(resized, np.outer(wave(new), np.ones(6)), atol=2e-5)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: CartesianFourier((4,)), ValueError, ["image_shape", "(4,)"]),
        (lambda: CartesianFourier((4, 0)), ValueError, ["image_shape", "(4, 0)"]),
        (lambda: CartesianFourier((4, 5), jnp.ones(4)), ValueError, ["mask", "(4, 5)", "(4,)"]),
        (lambda: CartesianFourier((4, 5), jnp.ones((2, 4, 5))), ValueError, ["mask", "(2, 4, 5)"]),
        (lambda: CartesianFourier((4, 1), jnp.ones((4, 5))), ValueError, ["mask", "(4, 5)"]),
        (lambda: CartesianFourier((4, 5), 1j * jnp.ones(5)), TypeError, ["mask", "complex64"]),
        (lambda: CartesianFourier((4, 5), dtype=jnp.float32), TypeError, ["dtype", "float32"]),
        (lambda: fourier_resize(jnp.ones((4, 4)), (3,)), ValueError, ["shape", "(3,)"]),
        (lambda: fourier_resize(jnp.ones(4), (3, 3)), ValueError, ["image", "(4,)"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
