"""Ramp filters, the preconditioned Radon transform and filtered back-projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import ParallelBeam, Radon, check_gradients, fbp, rasterize
from operators.ct import SinogramFilter, filtered_radon
from operators.phantoms import Ellipses, ellipse_sinogram

FILTERS = ["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]


def even_angles(views, span=np.pi):
    return np.linspace(0, span, views, endpoint=False)


def disc(center, radius, value):
    return Ellipses([center], [[radius, radius]], [0.0], [value])


def interior(center, radius, shape, pixel):
    y = ((shape[0] - 1) / 2 - np.arange(shape[0])) * pixel - center[1]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel - center[0]
    return x**2 + y[:, None] ** 2 < radius**2


@pytest.mark.parametrize("double, power, weighted", [(False, 1.0, False), (True, 0.5, True)])
def test_sinogram_filter_is_self_adjoint(double, power, weighted, assert_linear_operator, dense_matrix):
    with jax.enable_x64(double):
        weights = np.array([0.0, 1.0, 2.5]) if weighted else None
        A = SinogramFilter(ParallelBeam(even_angles(3), 7, 0.4), power, "hann", weights)
        assert_linear_operator(A)
        matrix = dense_matrix(A)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


def test_ramp_is_the_band_limited_kernel(dense_matrix):
    # Kak and Slaney, equation 61: 1 / 4, then -1 / (pi n)^2 at odd n, over the spacing.
    matrix = dense_matrix(SinogramFilter(ParallelBeam([0.0], 9, 0.4)))
    n = np.arange(9)[:, None] - np.arange(9)
    odd = n % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.where(odd, n, 1)) ** 2, 0.25 * (n == 0)) / 0.4
    np.testing.assert_allclose(matrix, kernel, atol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_enter_by_their_power(power, normal):
    weights = np.array([0.0, 4.0, 9.0], np.float32)
    geometry = ParallelBeam(even_angles(3), 8)
    y = normal((3, 8))
    plain = SinogramFilter(geometry, power)(y)
    weighted = SinogramFilter(geometry, power, weights=weights)
    np.testing.assert_allclose(weighted(y), weights[:, None] ** power * plain, rtol=1e-5)
    gradient = jax.grad(lambda A: jnp.sum(A(y)))(weighted).weights
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("span", [np.pi, 2 * np.pi])
@pytest.mark.parametrize("filter", FILTERS)
def test_fbp_returns_the_attenuation_of_a_disc(filter, span):
    shape, pixel, mu = (96, 90), 1.5, 0.019
    center, radius = (9.0, -14.0), 45.0
    geometry = ParallelBeam(even_angles(240, span), 141, 1.4, 0.3, -0.4)
    sinogram = ellipse_sinogram(disc(center, radius, mu), geometry)
    image = jax.jit(lambda y: fbp(y, geometry, shape, pixel, filter))(sinogram)
    inside = interior(center, radius - 6 * pixel, shape, pixel)
    np.testing.assert_allclose(image[inside], mu, rtol=5e-3)
    np.testing.assert_allclose(image[inside].mean(), mu, rtol=5e-4)
    outside = ~interior(center, radius + 6 * pixel, shape, pixel)
    assert abs(image[outside].mean()) < 2e-3 * mu


def test_fbp_scales_with_the_unit_of_length():
    e = disc((1.0, 2.0), 8.0, 0.5)
    in_mm = ParallelBeam(even_angles(40), 31, 1.0)
    in_cm = ParallelBeam(even_angles(40), 31, 0.1)
    y = ellipse_sinogram(e, in_mm)  # dimensionless: the same in either unit
    np.testing.assert_allclose(
        fbp(y, in_cm, (20, 20), 0.1), 10 * fbp(y, in_mm, (20, 20), 1.0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("double, masked", [(False, True), (True, False)])
def test_filtered_radon_is_a_true_operator(double, masked, assert_linear_operator):
    with jax.enable_x64(double):
        mask = np.array([1, 1, 0, 1, 0]) if masked else None
        B = filtered_radon(ParallelBeam(even_angles(5), 14, 0.8, 0.1), (9, 11), 0.9, mask)
        assert_linear_operator(B)


@pytest.mark.slow
@pytest.mark.parametrize("span", [np.pi, 2 * np.pi])
def test_filtered_radon_is_near_isometric_on_smooth_images(span):
    shape, pixel = (48, 52), 0.7
    y, x = np.mgrid[-1:1:48j, -1:1:52j]
    blob = np.exp(-((x - 0.1) ** 2 + (y + 0.2) ** 2) / 0.15).astype(np.float32)
    B = filtered_radon(ParallelBeam(even_angles(80, span), 81, 0.65), shape, pixel)
    assert np.linalg.norm(B.gram(blob) - blob) < 0.015 * np.linalg.norm(blob)
    np.testing.assert_allclose(np.linalg.norm(B(blob)), np.linalg.norm(blob), rtol=0.01)


@pytest.mark.slow
def test_prepare_maps_measurements_into_the_data_space(normal):
    geometry = ParallelBeam(even_angles(60), 61, 1.0)
    shape = (40, 40)
    mask = np.arange(60) % 3 != 0
    B = filtered_radon(geometry, shape, 1.0, mask)
    x = normal(shape)
    np.testing.assert_allclose(B.prepare(Radon(geometry, shape)(x)), B(x), rtol=1e-4, atol=1e-4)
    # Padded views carry nothing, whatever they hold.
    y = ellipse_sinogram(disc((2.0, 1.0), 12.0, 0.05), geometry)
    spoiled = jnp.where(mask[:, None], y, 1e3)
    np.testing.assert_array_equal(B.prepare(spoiled), B.prepare(y))
    assert not np.any(B.prepare(y)[~mask])


def test_adjoint_of_prepared_data_is_filtered_back_projection():
    shape, pixel, mu, center = (64, 64), 1.5, 0.02, (5.0, -8.0)
    geometry = ParallelBeam(even_angles(180), 95, 1.5)
    y = ellipse_sinogram(disc(center, 30.0, mu), geometry)
    for mask in (None, np.arange(180) % 2 == 0):
        B = filtered_radon(geometry, shape, pixel, mask)
        image = jax.jit(lambda B, y: B.H(B.prepare(y)))(B, y)
        inside = interior(center, 24.0, shape, pixel)
        np.testing.assert_allclose(image[inside].mean(), mu, rtol=2e-3)
        reference = fbp(y, geometry, shape, pixel)
        error = np.linalg.norm((image - reference)[inside])
        assert error < 0.05 * np.linalg.norm(reference[inside])


def test_padded_views_change_nothing(normal):
    """A scan padded with masked views of arbitrary angle is the same operator on the same data."""
    shape, angles = (16, 15), even_angles(6)
    short = filtered_radon(ParallelBeam(angles, 25), shape)
    padded_angles = np.concatenate([angles, [0.3, 0.0]])
    long = filtered_radon(ParallelBeam(padded_angles, 25), shape, 1.0, np.arange(8) < 6)
    x, y = normal(shape), normal((8, 25))

    @jax.jit
    def apply(B, x, y):
        return B(x)[:6], B.gram(x), B.H(B.prepare(y))

    for a, b in zip(apply(long, x, y), apply(short, x, y[:6]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_stacked_operators(normal):
    """Angles and masks stacked per example, built and applied under vmap."""
    shape = (12, 12)
    angles = np.stack([even_angles(5), even_angles(5, np.pi / 2) + 0.2]).astype(np.float32)
    masks = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.float32)
    x, y = normal((2, *shape)), normal((2, 5, 17))

    def build(angles, mask):
        return filtered_radon(ParallelBeam(angles, 17), shape, 1.0, mask)

    stacked = jax.vmap(build)(angles, masks)
    assert (stacked.in_shape, stacked.out_shape) == (shape, build(angles[0], masks[0]).out_shape)

    def apply(B, x, y):
        return B.prepare(y), B.gram(x)

    together, single = jax.jit(jax.vmap(apply))(stacked, x, y), jax.jit(apply)
    for i in range(2):
        alone = single(build(angles[i], masks[i]), x[i], y[i])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)


@pytest.mark.slow
def test_rasterised_discs_survive_the_round_trip():
    e = disc((3.0, 2.0), 11.0, 0.04)
    image = rasterize(e, (40, 40), 40.0)
    geometry = ParallelBeam(even_angles(90), 57)
    back = fbp(Radon(geometry, (40, 40))(image), geometry, (40, 40))
    inside = interior((3.0, 2.0), 8.0, (40, 40), 1.0)
    np.testing.assert_allclose(back[inside].mean(), 0.04, rtol=5e-3)


@pytest.mark.slow
def test_gradients(key):
    geometry = ParallelBeam(even_angles(4) + 0.2, 13, 0.7)
    check_gradients(filtered_radon(geometry, (7, 8), 0.9, np.array([1.0, 0.6, 1.0, 0.3])), key)
    check_gradients(SinogramFilter(geometry, 0.5, weights=np.array([1.0, 0.6, 1.0, 0.3])), key)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda g: SinogramFilter(g, filter="ramp"), ValueError, ["filter", "'ramp'", "ram-lak"]),
        (lambda g: SinogramFilter(g, 0.0), ValueError, ["power", "0.0"]),
        (lambda g: SinogramFilter(g, weights=jnp.ones(3)), ValueError, ["weights", "(4,)", "(3,)"]),
        (lambda g: filtered_radon(g, (5, 5), view_mask=jnp.ones(5)), ValueError, ["view_mask", "(5,)"]),
        (lambda g: filtered_radon(g, (5, 5), view_mask=1j * jnp.ones(4)), TypeError, ["view_mask"]),
        (lambda g: filtered_radon(g, (5, 5)).prepare(jnp.ones((4, 7))), ValueError, ["4, 6", "(4, 7)"]),
        (lambda g: fbp(jnp.ones((4, 7)), g, (5, 5)), ValueError, ["sinogram", "4, 6", "(4, 7)"]),
        (lambda g: fbp(jnp.ones((4, 6)), g, (5,)), ValueError, ["image_shape", "(5,)"]),
        (lambda g: fbp(jnp.ones((4, 6)), g, (5, 5), -1.0), ValueError, ["pixel_size", "-1.0"]),
        (lambda g: fbp(jnp.ones((4, 6)), g, (5, 5), filter="none"), ValueError, ["'none'"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make(ParallelBeam(even_angles(4), 6))
    for word in words:
        assert word in str(caught.value)
