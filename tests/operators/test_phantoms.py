"""Analytic phantoms against quadrature, closed forms and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import CartesianFourier, ParallelBeam, ellipse_kspace, ifft2c, rasterize, shepp_logan
from operators.fourier import jinc
from operators.fourier.bessel import bessel_j1
from operators.phantoms import Ellipses, ellipse_sinogram

ONE = ([[0.31, -0.22]], [[0.4, 0.15]], [0.6], [1.7])


@pytest.mark.parametrize("double", [False, True])
def test_bessel_j1(double):
    with jax.enable_x64(double):
        dtype = np.float64 if double else np.float32
        x = np.concatenate([[0, 1e-20, 1e-6, 25], np.linspace(-60, 60, 4001), np.geomspace(1, 5e3, 999)])
        x = x.astype(dtype)
        exact = scipy.special.j1(x.astype(np.float64))
        envelope = np.minimum(np.abs(x) / 2, np.sqrt(2 / np.pi / np.maximum(np.abs(x), 1)))
        # The argument's own rounding moves the phase of the oscillation.
        rounding = np.finfo(dtype).eps * (4 + 2 * np.abs(x))
        assert (np.abs(bessel_j1(x) - exact) <= 4 * rounding * envelope).all()
        np.testing.assert_allclose(jinc(np.zeros(1, dtype)), 0.5, rtol=1e-6)


def test_rasterize_areas_and_orientation():
    # The mass of an image is the area of the ellipse times its value; its centroid is the center.
    image = np.asarray(rasterize(Ellipses(*ONE), (120, 90), (2.0, 1.8), supersampling=6))
    height, width = 2.0 / 120, 1.8 / 90
    np.testing.assert_allclose(image.sum() * height * width, 1.7 * np.pi * 0.4 * 0.15, rtol=2e-3)
    x = (np.arange(90) - 44.5) * width
    y = (59.5 - np.arange(120)) * height
    mass = image / image.sum()
    mean_x, mean_y = (mass * x).sum(), (mass * y[:, None]).sum()
    np.testing.assert_allclose([mean_x, mean_y], [0.31, -0.22], atol=2e-3)
    covariance = (mass * (x - mean_x) * (y - mean_y)[:, None]).sum()
    # Rotated counter-clockwise with y up: positive covariance (a^2 - b^2) / 8 sin(2 angle).
    np.testing.assert_allclose(covariance, (0.4**2 - 0.15**2) / 8 * np.sin(1.2), rtol=2e-2)


def test_overlapping_values_add():
    e = shepp_logan()
    image = rasterize(e, (101, 101), supersampling=1)
    assert image[50, 50] == pytest.approx(1 - 0.8, abs=1e-6)
    original = rasterize(shepp_logan(modified=False), (101, 101), supersampling=1)
    assert original[50, 50] == pytest.approx(1.02, abs=1e-6)
    # The small ellipses at the bottom are in the lower half: y is up.
    assert abs(image[80, 50] - 0.3) < 1e-6 and abs(image[13, 50] - 0.2) < 1e-6


@settings(max_examples=4)
@given(shape=st.sampled_from([(8, 8), (7, 9), (12, 5), (1, 6)]))
def test_kspace_is_the_fourier_integral(shape):
    """Against brute-force quadrature over the ellipse, at every sample."""
    with jax.enable_x64(True):
        e, fov = Ellipses(*ONE), (1.9, 2.3)
        found = ellipse_kspace(e, shape, fov)
        r, t = (np.arange(400) + 0.5) / 400, 2 * np.pi * np.arange(200) / 200
        u, v = 0.4 * np.outer(r, np.cos(t)), 0.15 * np.outer(r, np.sin(t))
        x = 0.31 + np.cos(0.6) * u - np.sin(0.6) * v
        y = -0.22 + np.sin(0.6) * u + np.cos(0.6) * v
        weight = 1.7 * 0.4 * 0.15 * r[:, None] * (1 / 400) * (2 * np.pi / 200)
        ny, nx = shape
        height, width = fov[0] / ny, fov[1] / nx
        # Pixel coordinates n - N // 2 of CartesianFourier.
        column = x / width + (nx - 1) / 2 - nx // 2
        row = (ny - 1) / 2 - y / height - ny // 2
        for i in range(ny):
            for j in range(nx):
                phase = -2j * np.pi * ((i - ny // 2) * row / ny + (j - nx // 2) * column / nx)
                integral = (weight * np.exp(phase)).sum() / (height * width * np.sqrt(ny * nx))
                np.testing.assert_allclose(found[i, j], integral, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(96, 96), (95, 128)])
def test_kspace_agrees_with_the_rasterised_image(shape):
    e = shepp_logan()
    image = rasterize(e, shape, supersampling=8)
    exact, sampled = ellipse_kspace(e, shape), CartesianFourier(shape)(image)
    low = tuple(slice(n // 2 - 6, n // 2 + 7) for n in shape)
    assert np.abs((exact - sampled)[low]).max() < 2e-3 * np.abs(exact).max()
    # DC is the mass, whatever the matrix; the rest is the image up to ringing.
    center = exact[shape[0] // 2, shape[1] // 2]
    mass = float(jnp.sum(e.value * jnp.prod(e.axes, axis=1))) * np.pi
    np.testing.assert_allclose(center.real, mass * np.sqrt(shape[0] * shape[1]) / 4, rtol=1e-5)
    assert np.linalg.norm(ifft2c(exact) - image) < 0.12 * np.linalg.norm(image)


def test_kspace_keeps_the_energy():
    # Parseval: the energy of an ellipse is value^2 times its area, as the matrix grows.
    e, n = Ellipses(*ONE), 128
    energy = float(jnp.sum(jnp.abs(ellipse_kspace(e, (n, n), 2.0)) ** 2)) * (2 / n) ** 2
    np.testing.assert_allclose(energy, 1.7**2 * np.pi * 0.4 * 0.15, rtol=0.02)


def test_sinogram_is_the_line_integral():
    e = Ellipses([[0.31, -0.22], [-0.1, 0.3]], [[0.4, 0.15], [0.2, 0.25]], [0.6, -2.0], [1.7, -0.4])
    geometry = ParallelBeam(np.linspace(-1, 4, 7), 23, 0.06, 0.01, -0.02)
    found = np.asarray(ellipse_sinogram(e, geometry))
    along, step = np.linspace(-1.5, 1.5, 30001, retstep=True)
    for i, t in enumerate(np.asarray(geometry.angles)):
        for j, s in enumerate(geometry.ray_positions()):
            x = s * np.cos(t) - along * np.sin(t)
            y = s * np.sin(t) + along * np.cos(t)
            total = 0.0
            for c, a, phi, value in zip(e.center, e.axes, e.angle, e.value, strict=True):
                u = np.cos(phi) * (x - c[0]) + np.sin(phi) * (y - c[1])
                v = np.cos(phi) * (y - c[1]) - np.sin(phi) * (x - c[0])
                total += float(value) * ((u / a[0]) ** 2 + (v / a[1]) ** 2 <= 1).sum() * step
            assert abs(found[i, j] - total) < 2e-3


@pytest.mark.slow
def test_gradients_of_the_analytic_forms_are_finite():
    e = shepp_logan()
    geometry = ParallelBeam(np.linspace(0, 3, 5), 31, 0.1)

    def energy(e):
        return jnp.sum(ellipse_sinogram(e, geometry) ** 2) + jnp.sum(jnp.abs(ellipse_kspace(e, (9, 9))) ** 2)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(energy))(e)):
        assert bool(jnp.all(jnp.isfinite(leaf)))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Ellipses([[0, 0]], [[1, 1]], [0], 1.0), ValueError, ["value"]),
        (lambda: Ellipses([[0, 0]], [[1, 1], [1, 1]], [0], [1.0]), ValueError, ["axes", "(1, 2)", "(2, 2)"]),
        (lambda: rasterize(shepp_logan(), (4,)), ValueError, ["shape", "(4,)"]),
        (lambda: rasterize(shepp_logan(), (4, 4), 0.0), ValueError, ["field_of_view", "0.0"]),
        (lambda: rasterize(shepp_logan(), (4, 4), (1, 2, 3)), ValueError, ["field_of_view"]),
        (lambda: rasterize(shepp_logan(), (4, 4), supersampling=0), ValueError, ["supersampling", "0"]),
        (lambda: ellipse_kspace(shepp_logan(), (4, 0)), ValueError, ["image_shape", "0"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
