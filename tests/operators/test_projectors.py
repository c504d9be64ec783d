"""Projectors of every model and geometry, on every backend."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import FanBeam, ParallelBeam, Radon, check_adjoint, check_gradients, rasterize
from operators.ct import as_vectors, radon_models
from operators.phantoms import Ellipses, project_phantom

BACKENDS = ("auto", "jax")

project = jax.jit(lambda A, image: A(image))
forward_and_adjoint = jax.jit(lambda A, x, y: (A(x), A.H(y)))


def parallel(views=7, count=19, **fields):
    return ParallelBeam(np.linspace(0.1, np.pi, views, endpoint=False), count, 0.9, **fields)


def fan(views=7, count=19, curved=False, **fields):
    angles = np.linspace(0.1, 2 * np.pi, views, endpoint=False)
    return FanBeam(angles, count, 1.6, 30.0, 25.0, curved=curved, **fields)


GEOMETRIES = {
    "parallel": parallel,
    "fan": fan,
    "curved": lambda: fan(curved=True, detector_offset=0.4),
    "vector": lambda: as_vectors(fan()),
}
CASES = [(kind, model) for kind, make in GEOMETRIES.items() for model in radon_models(make())]


def distance_driven(geometry, shape, pixel):
    """The matrix of the distance-driven model from its definition, for parallel beams."""
    (ny, nx), rows = shape, []
    half = geometry.detector_spacing / 2
    for t in np.asarray(geometry.angles, np.float64):
        cos, sin = np.cos(t), np.sin(t)
        for s in np.asarray(geometry.ray_positions()):
            ray = np.zeros(shape)
            lines, pixels = (ny, nx) if abs(cos) >= abs(sin) else (nx, ny)
            for line in range(lines):
                if abs(cos) >= abs(sin):
                    y = ((ny - 1) / 2 - line) * pixel
                    edges = [((e - y * sin) / cos) / pixel + nx / 2 for e in (s - half, s + half)]
                else:
                    x = (line - (nx - 1) / 2) * pixel
                    edges = [ny / 2 - ((e - x * cos) / sin) / pixel for e in (s - half, s + half)]
                low, high = sorted(edges)
                left = np.arange(pixels)
                overlap = np.clip(np.minimum(left + 1, high) - np.maximum(left, low), 0, None)
                weights = overlap / (high - low) * pixel / max(abs(cos), abs(sin))
                if abs(cos) >= abs(sin):
                    ray[line] = weights
                else:
                    ray[:, line] = weights
            rows.append(ray.ravel())
    return np.array(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distance_driven_is_the_mean_over_elements(x64, dense_matrix, backend):
    geometry = ParallelBeam(np.array([0.0, 0.3, np.pi / 4, 1.2, 2.0, np.pi]), 9, 0.7, 0.2, -0.1)
    A = Radon(geometry, (5, 7), 0.8, "distance-driven", backend)
    expected = distance_driven(geometry, (5, 7), 0.8)
    np.testing.assert_allclose(dense_matrix(A), expected, atol=1e-10)
    np.testing.assert_allclose(dense_matrix(A.H), expected.T, atol=1e-10)


QUICKLY = ("parallel-fourier", "fan-joseph", "fan-distance-driven")
MOST = [pytest.param(*c, marks=() if "-".join(c) in QUICKLY else pytest.mark.slow) for c in CASES]


@pytest.mark.parametrize("kind, model", MOST)
def test_is_a_true_operator(x64, assert_linear_operator, kind, model):
    assert_linear_operator(Radon(GEOMETRIES[kind](), (12, 9), 0.9, model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, model", [("parallel", "joseph"), ("fan", "joseph"), ("fan", "distance-driven")]
)
def test_backends_agree(normal, kind, model):
    image = normal((2, 12, 9))
    native, plain = (Radon(GEOMETRIES[kind](), (12, 9), 0.9, model, backend) for backend in BACKENDS)
    sinogram = normal((2, *native.out_shape), seed=1)
    found, expected = (forward_and_adjoint(A, image, sinogram) for A in (native, plain))
    np.testing.assert_allclose(found[0], expected[0], atol=2e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.slow), "auto"])
def test_lines_through_the_source_add_nothing(x64, assert_linear_operator, backend):
    geometry = FanBeam(np.array([0.0, np.pi / 2, 0.3]), 6, 7.5, 12.0, 8.0, detector_offset=2.0)
    assert_linear_operator(Radon(geometry, (7, 9), 1.125, "distance-driven", backend))


@pytest.mark.slow
@settings(max_examples=40)
@given(
    data=st.data(),
    # Few sizes, as each is compiled: image, detector and views.
    size=st.sampled_from([(13, 8, 24, 3), (6, 14, 9, 4), (1, 1, 1, 1)]),
    pixel=st.floats(0.4, 1.2),
    source=st.floats(12, 60),
    curved=st.booleans(),
    offset=st.floats(-2, 2),
)
def test_the_adjoint_is_exact_for_any_geometry(data, size, pixel, source, curved, offset):
    ny, nx, count, views = size
    angles = np.array(data.draw(st.lists(st.floats(-6, 6), min_size=views, max_size=views)))
    with jax.enable_x64(True):
        spacing = 2.5 * pixel * (ny + nx) / count
        if data.draw(st.booleans()):
            geometry = FanBeam(angles, count, spacing, source, 8.0, curved=curved, detector_offset=offset)
        else:
            geometry = ParallelBeam(angles, count, spacing, offset)
        A = Radon(geometry, (ny, nx), pixel, data.draw(st.sampled_from(radon_models(geometry))))
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=A.in_shape), rng.normal(size=A.out_shape)
        forward, adjoint = map(np.asarray, forward_and_adjoint(A, x, y))
        scale = np.linalg.norm(forward) * np.linalg.norm(y) + np.linalg.norm(x) * np.linalg.norm(adjoint)
        assert abs(np.vdot(forward, y) - np.vdot(x, adjoint)) <= 1e-12 * scale + 1e-300


@pytest.mark.parametrize(
    "kind, model, tolerance",
    [
        pytest.param("fan", "joseph", 1e-5, marks=pytest.mark.slow),
        pytest.param("fan", "distance-driven", 1e-5, marks=pytest.mark.slow),
        # Derivatives in the trajectory of a NUFFT err as the NUFFT does.
        ("parallel", "fourier", 3e-3),
    ],
)
def test_gradients_with_respect_to_image_and_geometry(key, kind, model, tolerance):
    check_gradients(Radon(GEOMETRIES[kind](), (7, 8), 0.9, model), key, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, model", [("fan", "distance-driven"), pytest.param("parallel", "fourier", marks=pytest.mark.slow)]
)
def test_stacked_geometries_and_images(normal, kind, model):
    geometry = GEOMETRIES[kind]()
    moved = dataclasses.replace(geometry, angles=geometry.angles + 0.2)
    operators = [Radon(g, (8, 9), 0.9, model) for g in (geometry, moved)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
    images = normal((2, 3, 8, 9))
    sinograms = normal((2, 3, *operators[0].out_shape), seed=1)
    found = jax.jit(jax.vmap(lambda A, x, y: (A(x), A.H(y))))(stacked, images, sinograms)
    for i, A in enumerate(operators):
        y, back = forward_and_adjoint(A, images[i], sinograms[i])
        np.testing.assert_allclose(found[0][i], y, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1][i], back, rtol=1e-4, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind, model", CASES)
def test_converges_to_the_means_of_analytic_integrals(kind, model):
    ellipses = Ellipses([[3.0, -2.0], [-4.0, 1.0]], [[4.0, 3.0], [2.0, 5.0]], [0.4, -1.0], [0.02, 0.01])
    if kind == "vector":
        geometry = as_vectors(fan(count=61))
    else:
        geometry = parallel(count=61) if kind == "parallel" else fan(count=61, curved=kind == "curved")
    exact = np.asarray(project_phantom(ellipses, geometry, 1 if model == "joseph" else 6))
    errors = []
    for n in (16, 32, 64):
        image = rasterize(ellipses, (n, n), 20.0, supersampling=4)
        errors.append(np.linalg.norm(project(Radon(geometry, (n, n), 20 / n, model), image) - exact))
    errors = np.array(errors) / np.linalg.norm(exact)
    # Elements narrower than coarse pixels: only then is the first error that of the pixels.
    assert errors[2] < 0.03 and errors[2] < 0.5 * errors[0]


@pytest.mark.parametrize("model", ["fourier", pytest.param("joseph", marks=pytest.mark.slow)])
def test_turning_the_object_shifts_the_views(normal, model):
    angles = np.arange(8) * np.pi / 4
    A = Radon(ParallelBeam(angles, 21, 0.7), (11, 11), 0.9, model)
    image = normal((11, 11))
    turned, straight = project(A, np.rot90(image)), project(A, image)
    np.testing.assert_allclose(turned, np.roll(straight, 2, axis=0), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind, model", [("fan", "joseph"), ("curved", "distance-driven")])
def test_no_adjoint_of_plain_jax_scatters(kind, model):
    A = Radon(GEOMETRIES[kind](), (12, 9), 0.9, model, "jax")
    text = jax.jit(lambda A, y: A.H(y)).lower(A, np.zeros(A.out_shape, np.float32)).as_text()
    assert "gather" in text and "scatter" not in text


@pytest.mark.slow
def test_clinical_fan_adjoint_in_single_precision(key):
    geometry = FanBeam(np.arange(30) * 2 * np.pi / 30, 368, 2.5716, 595.0, 490.6)
    for model in radon_models(geometry):
        assert check_adjoint(Radon(geometry, (256, 256), 1.4, model), key) < 1e-6


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Radon(fan(), (80, 80), 0.9), ["source", "outside"]),
        (lambda: Radon(fan(), 8), ["image_shape", "(ny, nx)", "found 8"]),
        (lambda: Radon(fan(), (8, 8), model="fourier"), ["model", "'fourier'", "FanBeam"]),
        (lambda: Radon(parallel(), (8, 8), backend="gpu"), ["backend", "'gpu'"]),
        (lambda: Radon(parallel(detector_offset=99.0), (8, 8)), ["detector", "object"]),
        (lambda: Radon(fan(), (8, 8))(jnp.ones((8, 9))), ["8, 8", "(8, 9)"]),
        (lambda: Radon(fan(), (8, 8)).H(jnp.ones((7, 18))), ["7, 19", "(7, 18)"]),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
