"""SENSE, coil maps and combination."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import (
    NUFFT,
    SENSE,
    CartesianFourier,
    Diagonal,
    Identity,
    LinearOperator,
    fft2c,
    rasterize,
    rss,
    shepp_logan,
)
from operators.mri import coil_combine, estimate_coil_maps


def smooth_maps(coils, shape):
    """Smooth complex sensitivities from points around the field of view, sum |S|^2 = 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    t = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    maps = np.exp(-((x - np.cos(t)) ** 2 + (y - np.sin(t)) ** 2) / 2 + 1j * (x * np.sin(t) + t))
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


@pytest.mark.parametrize("double", [pytest.param(False, marks=pytest.mark.slow), True])
@settings(max_examples=3)
@given(coils=st.integers(1, 4), ny=st.integers(1, 7), nx=st.integers(1, 7), seed=st.integers(0, 9))
def test_sense_is_a_true_operator(normal, assert_linear_operator, double, coils, ny, nx, seed):
    with jax.enable_x64(double):
        maps = normal((coils, ny, nx), complex, seed)
        A = SENSE(CartesianFourier((ny, nx), np.abs(normal((nx,), float))), maps)
        assert A.out_shape == (coils, ny, nx)
        assert_linear_operator(A)
        x = normal((ny, nx), complex, 1)
        expected = A.fourier.mask * fft2c(maps * x)
        np.testing.assert_allclose(A(x), expected, atol=1e-5)


def test_sense_wraps_any_fourier_operator(normal, assert_linear_operator):
    maps = smooth_maps(3, (5, 4))
    F = Diagonal(normal((5, 4), jnp.complex64)) @ CartesianFourier((5, 4))
    assert_linear_operator(SENSE(F, maps))
    assert_linear_operator(SENSE(CartesianFourier((5, 4)), maps) @ Identity((5, 4)))


@pytest.mark.parametrize("kind", ["cartesian", "plain", "nufft", "toeplitz"])
def test_products_with_maps_equal_the_plain_route(normal, kind):
    """Operators that multiply maps inside their transform agree with the default of `LinearOperator`."""
    shape, maps = (6, 5), smooth_maps(3, (6, 5))
    k = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2)).astype(np.float32)
    A = (
        CartesianFourier(
            shape, np.abs(normal(shape, float)), backend="auto" if kind == "cartesian" else "jax"
        )
        if kind in ("cartesian", "plain")
        else NUFFT(k, shape, eps=1e-5, gram_by_toeplitz=kind == "toeplitz")
    )
    x, y = normal((2, *shape), jnp.complex64), normal((2, 3, *A.out_shape), jnp.complex64, 1)
    plain = LinearOperator
    for found, expected in (
        (A._forward_maps(x, maps), plain._forward_maps(A, x, maps)),
        (A._adjoint_maps(y, maps), plain._adjoint_maps(A, y, maps)),
        (A._gram_maps(x, maps, None), plain._gram_maps(A, x, maps, None)),
    ):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    direct = np.stack([A(maps[c] * x) for c in range(3)], 1)
    np.testing.assert_allclose(plain._forward_maps(A, x, maps), direct, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("coils", [1, 4])
def test_estimated_maps_are_those_of_the_scanner(coils):
    shape = (64, 48)
    maps = smooth_maps(coils, shape)
    image = np.asarray(rasterize(shepp_logan(), shape))
    estimated = estimate_coil_maps(fft2c(maps * image), (20, 20))
    np.testing.assert_allclose(jnp.sum(jnp.abs(estimated) ** 2, 0), 1, rtol=1e-5)
    # Equal up to the image's own phase: compare products with the first coil's conjugate.
    inside = image > 0.1
    relative = np.abs(estimated * estimated[:1].conj() - maps * maps[:1].conj())[:, inside]
    assert relative.mean() < 0.02
    combined = coil_combine(maps * image, estimated)
    assert np.abs(np.abs(combined) - image)[inside].mean() < 0.02 * image[inside].mean()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
@settings(max_examples=2)
@given(ny=st.integers(1, 9), nx=st.integers(1, 9), data=st.data())
def test_maps_are_normalized_and_finite_for_any_data(normal, scale, ny, nx, data):
    block = data.draw(st.integers(1, ny)), data.draw(st.integers(1, nx))
    kspace = np.complex64(scale) * normal((2, 3, ny, nx), np.complex64)
    kspace[:, 2] = 0  # a padded coil
    maps = jax.jit(estimate_coil_maps, static_argnums=1)(kspace, block)
    np.testing.assert_allclose(jnp.sum(jnp.abs(maps) ** 2, -3), 1, rtol=1e-4)
    if scale:
        np.testing.assert_array_equal(maps[:, 2], 0)


def test_maps_read_only_the_center(normal):
    kspace = normal((2, 12, 10), jnp.complex64)
    outside = np.ones((12, 10), bool)
    outside[4:8, 3:7] = False
    spoiled = np.where(outside, 100.0, kspace)
    np.testing.assert_array_equal(estimate_coil_maps(kspace, (4, 4)), estimate_coil_maps(spoiled, (4, 4)))


def test_rss_and_combination_agree_on_normalized_maps(normal):
    maps = smooth_maps(4, (6, 5))
    image = np.abs(normal((3, 1, 6, 5)))
    np.testing.assert_allclose(rss(maps * image), image[:, 0], rtol=1e-5)
    np.testing.assert_allclose(coil_combine(maps * image, maps), image[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rss(image, axis=0), np.sqrt((image**2).sum(0)), rtol=1e-6)


@pytest.mark.slow
def test_gradients_are_finite_at_zero():
    zero = jnp.zeros((2, 3, 3), jnp.complex64)
    assert bool(jnp.all(jax.grad(lambda x: jnp.sum(rss(x)))(zero) == 0))
    gradient = jax.grad(lambda x: jnp.sum(estimate_coil_maps(x, (2, 2)).real))(zero)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda F: SENSE(F, jnp.ones((2, 4, 6))), ValueError, ["coil_maps", "(2, 4, 6)", "4, 5"]),
        (lambda F: SENSE(F, jnp.ones((4, 5))), ValueError, ["coil_maps", "(4, 5)"]),
        (lambda F: SENSE(F, jnp.ones((0, 4, 5))), ValueError, ["coil_maps", "(0, 4, 5)"]),
        (lambda F: SENSE(Identity((4, 5)), jnp.ones((2, 4, 5))), TypeError, ["complex", "float32"]),
        (lambda F: SENSE(jnp.ones(3), jnp.ones((2, 4, 5))), TypeError, ["LinearOperator"]),
        (
            lambda F: SENSE(F, jnp.ones((2, 4, 5))).H(jnp.ones((3, 4, 5))),
            ValueError,
            ["2, 4, 5", "(3, 4, 5)"],
        ),
        (lambda F: estimate_coil_maps(jnp.ones((2, 4, 5)), (5, 5)), ValueError, ["(4, 5)", "(5, 5)"]),
        (lambda F: estimate_coil_maps(jnp.ones((4, 5)), (2, 2)), ValueError, ["kspace", "(4, 5)"]),
        (lambda F: coil_combine(jnp.ones((3, 4, 5)), jnp.ones((2, 4, 5))), ValueError, ["(3, 4, 5)"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make(CartesianFourier((4, 5)))
    for word in words:
        assert word in str(caught.value)
