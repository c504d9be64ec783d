"""What holds for every planar geometry: exact adjoints, linearity, symmetries, convergence."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import FanBeam, ParallelBeam, Radon, VectorGeometry
from operators.ct import radon_models

VIEWS, BINS, PIXEL = 3, 23, 0.9
SHAPES = {
    "parallel": (12, 9),
    "fan": (7, 14),
    "curved": (11, 11),
    "vector": (9, 10),
    "vector parallel": (10, 6),
}
MODELS = {kind: ("joseph", "distance-driven") for kind in SHAPES} | {
    "parallel": radon_models(ParallelBeam([0.0], 1))
}
CASES = [(kind, model) for kind in SHAPES for model in MODELS[kind]]

small = st.floats(-1.5, 1.5)
# Whole turns, limited arcs and views in any order.
angles = st.lists(st.floats(-6.2, 6.2), min_size=VIEWS, max_size=VIEWS).map(np.array)


@st.composite
def geometries(draw, kind):
    """One of a kind whose static fields are always the same, so that it compiles once."""
    theta, shift, axis = draw(angles), np.array(draw(small)), np.array(draw(small))
    if kind == "parallel":
        return ParallelBeam(theta, BINS, 0.7, shift, axis)
    source, detector = draw(st.floats(14, 60)), draw(st.floats(3, 40))
    if kind in ("fan", "curved"):
        return FanBeam(theta, BINS, 1.1, source, detector, kind == "curved", shift, axis)
    tilt, size = theta + draw(st.floats(-0.4, 0.4)), draw(st.floats(0.6, 1.5))
    forward = np.stack([-np.sin(theta), np.cos(theta)], -1)
    column = size * np.stack([np.cos(tilt), np.sin(tilt)], -1)
    divergent = kind == "vector"
    rays = -source * forward if divergent else forward
    return VectorGeometry(rays, detector * forward + shift * column, column, None, BINS, divergent)


@jax.jit
def probe(A, x, y):
    return A(x), A.H(y)


def check_pair(A, seed):
    """The dot test and linearity, both ways."""
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(3, *shape)).astype(A.in_dtype) for shape in (A.in_shape, A.out_shape))
    x[2], y[2] = 2 * x[0] - 3 * x[1], 2 * y[0] - 3 * y[1]
    forward, adjoint = (np.asarray(a, np.float64) for a in probe(A, x, y))
    tolerance = 1e-12 if A.in_dtype == np.float64 else 1e-5
    for out in (forward, adjoint):
        size = np.linalg.norm(out[0]) + np.linalg.norm(out[1])
        assert np.linalg.norm(out[2] - 2 * out[0] + 3 * out[1]) <= 10 * tolerance * size
    for i in range(3):
        left, right = np.vdot(forward[i], y[i]), np.vdot(x[i], adjoint[i])
        scale = np.linalg.norm(forward[i]) * np.linalg.norm(y[i])
        scale += np.linalg.norm(x[i]) * np.linalg.norm(adjoint[i])
        assert abs(left - right) <= tolerance * scale + 1e-30


def check_any(data, kind, model, backend, double):
    with jax.enable_x64(double):
        geometry = data.draw(geometries(kind))
        geometry = jax.tree.map(lambda a: np.asarray(a, np.float64 if double else np.float32), geometry)
        A = Radon(dataclasses.replace(geometry), SHAPES[kind], PIXEL, model, backend)
        check_pair(A, data.draw(st.integers(0, 99)))


@pytest.mark.parametrize(
    "kind, model, backend", [("vector", "joseph", "auto"), ("fan", "distance-driven", "jax")]
)
@settings(max_examples=12)
@given(data=st.data())
def test_adjoints_are_exact_and_operators_linear(kind, model, backend, data):
    check_any(data, kind, model, backend, True)


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("backend", ["auto", "jax"])
@pytest.mark.parametrize("kind, model", CASES)
@settings(max_examples=15)
@given(data=st.data())
def test_adjoints_are_exact_for_every_kind_and_backend(kind, model, backend, double, data):
    check_any(data, kind, model, backend, double)


@jax.jit
def project(A, x):
    return A(x)


def check_symmetries(data, kind, model):
    """Turning the object by a quarter is turning the views; mirroring it mirrors the detector."""
    with jax.enable_x64(True):
        geometry = data.draw(geometries(kind))
        image = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(11, 11))
        A = Radon(geometry, (11, 11), PIXEL, model)
        y = project(A, image)

        def moved(**fields):
            return dataclasses.replace(A, geometry=dataclasses.replace(geometry, **fields))

        tolerance = 5e-3 if model == "fourier" else 1e-9
        turned = project(moved(angles=geometry.angles + math.pi / 2), np.rot90(image))
        np.testing.assert_allclose(turned, y, atol=tolerance * np.abs(y).max())
        mirrored = moved(
            angles=-geometry.angles,
            detector_offset=-geometry.detector_offset,
            axis_offset=-geometry.axis_offset,
        )
        mirrored = project(mirrored, image[:, ::-1])[:, ::-1]
        np.testing.assert_allclose(mirrored, y, atol=tolerance * np.abs(y).max())


@settings(max_examples=10)
@given(data=st.data())
def test_the_views_follow_the_object(data):
    check_symmetries(data, "fan", "joseph")


@pytest.mark.slow
@pytest.mark.parametrize("kind, model", [c for c in CASES if "vector" not in c[0]])
@settings(max_examples=15)
@given(data=st.data())
def test_the_views_follow_the_object_in_every_model(kind, model, data):
    check_symmetries(data, kind, model)


def check_convergence(data, kind, model):
    """The error for a sum of bells is bounded by the square of the pixels."""
    with jax.enable_x64(True):
        geometry = data.draw(geometries(kind))
        pairs = st.tuples(st.floats(-2, 2), st.floats(-2, 2))
        centers, width = data.draw(st.lists(pairs, min_size=1, max_size=2)), data.draw(st.floats(0.9, 1.3))
        nodes, weights = np.polynomial.legendre.leggauss(1 if model == "joseph" else 4)
        peak = math.sqrt(2 * math.pi) * width
        exact = np.zeros(geometry.shape)
        for node, weight in zip(nodes, weights / 2, strict=True):
            points, directions = map(np.asarray, geometry.rays(np.arange(BINS) + node / 2))
            directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
            for center in centers:
                offset = points - np.array(center)
                distance = offset[..., 0] * directions[..., 1] - offset[..., 1] * directions[..., 0]
                exact += weight * peak * np.exp(-((distance / width) ** 2) / 2)
        for n in (20, 40):
            size = 14 / n
            x = (np.arange(n) - (n - 1) / 2) * size
            image = sum(
                np.exp(-((x - a) ** 2 + (x[::-1, None] - b) ** 2) / (2 * width**2)) for a, b in centers
            )
            error = np.sqrt(np.mean((project(Radon(geometry, (n, n), size, model), image) - exact) ** 2))
            # Distance-driven means over an element are uniform on lines of the image, not on the element.
            floor = {"joseph": 1e-4, "distance-driven": 2e-3, "fourier": 1e-3}[model]
            assert error < (0.12 * (size / width) ** 2 + floor) * peak * len(centers)


@settings(max_examples=8)
@given(data=st.data())
def test_errors_fall_with_the_square_of_the_pixels(data):
    check_convergence(data, "curved", "joseph")


@pytest.mark.slow
@pytest.mark.parametrize("kind, model", CASES)
@settings(max_examples=10)
@given(data=st.data())
def test_errors_fall_with_the_square_of_the_pixels_in_every_model(kind, model, data):
    check_convergence(data, kind, model)
