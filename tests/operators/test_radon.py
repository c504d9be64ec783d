"""The Radon transform against its definition, analytic sinograms and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import ParallelBeam, Radon, check_gradients, rasterize
from operators.phantoms import Ellipses, ellipse_sinogram

GEOMETRIES = st.fixed_dictionaries(
    {
        "detector_count": st.integers(1, 23),
        "detector_spacing": st.sampled_from([0.3, 0.998, 1.0, 2.5]),
        "detector_offset": st.sampled_from([0.0, -0.7]),
        "axis_offset": st.sampled_from([0.0, 1.3]),
    }
)


project = jax.jit(lambda A, image: A(image))


def joseph(geometry, shape, pixel):
    """The matrix of Joseph's method from its definition, one ray and one line of pixels at a time."""
    (ny, nx), rows = shape, []
    for t in np.asarray(geometry.angles, np.float64):
        cos, sin = np.cos(t), np.sin(t)
        for s in geometry.ray_positions():
            ray = np.zeros(shape)
            if abs(cos) >= abs(sin):
                for i in range(ny):
                    x = (s - ((ny - 1) / 2 - i) * pixel * sin) / cos
                    weights = 1 - np.abs(np.arange(nx) - (x / pixel + (nx - 1) / 2))
                    ray[i] = np.maximum(weights, 0) * pixel / abs(cos)
            else:
                for c in range(nx):
                    y = (s - (c - (nx - 1) / 2) * pixel * cos) / sin
                    weights = 1 - np.abs(np.arange(ny) - ((ny - 1) / 2 - y / pixel))
                    ray[:, c] = np.maximum(weights, 0) * pixel / abs(sin)
            rows.append(ray.ravel())
    return np.array(rows)


@settings(max_examples=5)
@given(
    fields=GEOMETRIES,
    ny=st.integers(1, 9),
    nx=st.integers(1, 9),
    pixel=st.sampled_from([0.5, 1.0, 1.7]),
    angles=st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=5),
)
def test_matrix_is_josephs(dense_matrix, fields, ny, nx, pixel, angles):
    with jax.enable_x64(True):
        geometry = ParallelBeam(np.array(angles), **fields)
        A = Radon(geometry, (ny, nx), pixel)
        expected = joseph(geometry, (ny, nx), pixel)
        np.testing.assert_allclose(dense_matrix(A), expected, atol=1e-9)
        np.testing.assert_allclose(dense_matrix(A.H), expected.T, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@settings(max_examples=2)
@given(fields=GEOMETRIES, shape=st.sampled_from([(17, 17), (12, 31), (40, 7)]))
def test_radon_is_a_true_operator(assert_linear_operator, double, fields, shape):
    with jax.enable_x64(double):
        angles = np.linspace(0, np.pi, 7, endpoint=False)  # 45 degrees and the axes included
        assert_linear_operator(Radon(ParallelBeam(angles, **fields), shape, 0.9))


def test_clinical_size_adjoint_in_single_precision(key):
    from operators import check_adjoint

    angles = np.linspace(0, np.pi, 60, endpoint=False)
    assert check_adjoint(Radon(ParallelBeam(angles, 513), (362, 362)), key) < 2e-6


def test_orientation():
    """x to the right, y up, row 0 at the top; offsets move along the detector axis."""
    image = np.zeros((5, 7), np.float32)
    image[0, 5] = 1  # x = 2, y = 2

    def peak(angle, **offsets):
        return int(project(Radon(ParallelBeam([angle], 11, **offsets), image.shape), image)[0].argmax()) - 5

    assert peak(0.0) == 2  # detector along x
    assert peak(np.pi / 2) == 2  # detector along y
    assert peak(np.pi) == -2
    assert peak(3 * np.pi / 4) == 0
    assert peak(0.0, detector_offset=1.0) == 1
    assert peak(0.0, axis_offset=1.0) == 3


def test_sum_of_a_view_is_the_mass(normal):
    # Rays dense enough sum every pixel completely, whatever the angle.
    image = np.abs(normal((9, 12)))
    spacing, pixel = 0.05, 0.8
    geometry = ParallelBeam(np.linspace(0, 3, 5), 400, spacing)
    sums = project(Radon(geometry, image.shape, pixel), image).sum(-1) * spacing
    np.testing.assert_allclose(sums, image.sum() * pixel**2, rtol=2e-3)


def test_converges_to_analytic_line_integrals():
    ellipses = Ellipses([[3.0, -2.0], [-4.0, 1.0]], [[6.0, 3.0], [2.0, 5.0]], [0.4, -1.0], [0.02, 0.01])
    geometry = ParallelBeam(np.linspace(0, np.pi, 9, endpoint=False), 61, 0.35, 0.2, -0.1)
    exact = ellipse_sinogram(ellipses, geometry)
    errors = []
    for n in (24, 48, 96):
        image = rasterize(ellipses, (n, n), 20.0, supersampling=4)
        errors.append(jnp.linalg.norm(project(Radon(geometry, (n, n), 20 / n), image) - exact))
    errors = np.array(errors) / jnp.linalg.norm(exact)
    assert errors[2] < 0.015 and (errors[1:] < 0.7 * errors[:-1]).all()


def test_agrees_with_scikit_image():
    from skimage.transform import radon

    image = np.array(rasterize(Ellipses([[3.0, 4.0]], [[9.0, 5.0]], [0.3], [1.0]), (41, 41), 41.0))
    degrees = np.arange(0, 180, 20.0)
    ours = project(Radon(ParallelBeam(np.deg2rad(degrees), 41), (41, 41)), image)
    theirs = radon(image, degrees).T
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_gradients_with_respect_to_image_and_angles(key):
    geometry = ParallelBeam(np.linspace(0, np.pi, 5, endpoint=False) + 0.123, 19, 0.7, 0.1)
    check_gradients(Radon(geometry, (9, 11)), key)


def test_the_gradient_is_the_adjoint_and_holds_no_scatter(normal):
    A = Radon(ParallelBeam(np.linspace(0, 3, 6), 21), (12, 10), backend="jax")
    x, y = normal(A.in_shape), normal(A.out_shape)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(A(x) * y)))
    np.testing.assert_allclose(gradient(x), A.H(y), atol=1e-4)
    text = gradient.lower(x).as_text()
    assert "gather" in text and "scatter" not in text


@pytest.mark.slow
def test_second_order_reverse(normal):
    A = Radon(ParallelBeam(np.linspace(0, 3, 4), 11), (6, 6))
    x, v = normal(A.in_shape), normal(A.in_shape, seed=1)
    product = jax.jit(jax.grad(lambda x: jnp.vdot(jax.grad(lambda x: 0.5 * jnp.sum(A(x) ** 2))(x), v)))(x)
    np.testing.assert_allclose(product, A.gram(v), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: ParallelBeam(np.linspace(0, 180, 9), 5), ValueError, ["radians", "180"]),
        (lambda: ParallelBeam(np.zeros((2, 3)), 5), ValueError, ["angles", "(2, 3)"]),
        (lambda: ParallelBeam([], 5), ValueError, ["angles", "(0,)"]),
        (lambda: ParallelBeam([1j], 5), TypeError, ["angles", "complex"]),
        (lambda: ParallelBeam([0.0], 0), ValueError, ["detector_count", "0"]),
        (lambda: ParallelBeam([0.0], 5.5), TypeError, ["detector_count", "float"]),
        (lambda: ParallelBeam([0.0], 5, 0.0), ValueError, ["detector_spacing", "0.0"]),
        (lambda: ParallelBeam([0.0], 5, -1), ValueError, ["detector_spacing", "-1"]),
        (lambda: ParallelBeam([0.0], 5, detector_offset=np.nan), ValueError, ["detector_offset", "nan"]),
        (lambda: ParallelBeam([0.0], 5, axis_offset="1"), TypeError, ["axis_offset", "str"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4,)), ValueError, ["image_shape", "(4,)"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4, 0)), ValueError, ["image_shape", "0"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4, 4), 0.0), ValueError, ["pixel_size", "0.0"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4, 4), model="pixel"), ValueError, ["model", "'pixel'"]),
        (lambda: Radon([0.0], (4, 4)), TypeError, ["ParallelBeam", "list"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4, 4))(jnp.ones((4, 5))), ValueError, ["4, 4", "(4, 5)"]),
        (lambda: Radon(ParallelBeam([0.0], 5), (4, 4))(1j * jnp.ones((4, 4))), TypeError, ["complex64"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
