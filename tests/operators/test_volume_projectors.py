"""Projectors of volumes: every geometry, model and backend."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, Radon, VectorGeometry
from operators.ct import as_vectors, radon_models
from operators.phantoms import Ellipsoids, project_phantom, rasterize_phantom

BACKENDS = ("auto", "jax")
SHAPE, PIXEL = (5, 4, 7), 0.9


def turn(views, start=0.1):
    return np.linspace(start, start + 2 * np.pi, views, endpoint=False)


def cone(views=3, detector=(4, 6), spacing=(1.9, 2.1), **fields):
    return ConeBeam(turn(views), detector, spacing, 12.0, 7.0, **fields)


def tilted(views=6, detector=(4, 6), divergent=True, distance=14.0):
    """Sources all around, so that rays run mainly along x, y and z, and detectors turned in their plane."""
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(views, 3, 3)))[0]
    axes[0] = np.roll(np.eye(3), 1, axis=0) + 0.1 * rng.normal(size=(3, 3))
    source = distance * axes[:, 0] if divergent else -axes[:, 0]
    center = -9 * axes[:, 0] + rng.normal(size=(views, 3))
    return VectorGeometry(source, center, 2.1 * axes[:, 1], 1.9 * axes[:, 2], detector, divergent)


GEOMETRIES = {
    "parallel": lambda: ParallelBeam3D(turn(4), (5, 6), (0.8, 1.1), 0.3, 0.4, -0.2),
    "cone": lambda: cone(row_offset=0.3, detector_offset=0.2),
    "fine": lambda: cone(2, (9, 7), (0.7, 0.5), row_offset=2.0, detector_offset=-1.0),
    "helix": lambda: cone(pitch=3.0, row_offset=0.5, axis_offset=0.2, axial_offset=-2.0),
    "curved": lambda: cone(curved=True, detector_offset=0.4),
    "vector": tilted,
    "parallel vector": lambda: tilted(4, divergent=False),
}
CASES = [(kind, model) for kind, make in GEOMETRIES.items() for model in radon_models(make())]


def cases(*quickly):
    """All cases, the others than these marked slow."""
    return [pytest.param(*c, marks=() if c in quickly else pytest.mark.slow) for c in CASES]


project = jax.jit(lambda A, volume: A(volume))
forward_and_adjoint = jax.jit(lambda A, x, y: (A(x), A.H(y)))
rays_of = jax.jit(lambda geometry, rows, columns: geometry.rays(rows, columns))


@functools.cache
def reference(kind, model):
    """The matrix of a model from its definition, ray by ray and plane by plane, in double precision."""
    geometry, shape, pixel = GEOMETRIES[kind](), SHAPE, PIXEL
    size = np.array(shape[::-1])
    rows, columns = geometry.shape[1:]
    flip = np.array([1, -1, 1])

    def rays(r, c):
        return [
            np.asarray(a, np.float64) * f
            for a, f in zip(rays_of(geometry, r, c), (flip / pixel, flip), strict=True)
        ]

    def on_plane(ray, axis, plane):
        point, direction = ray
        return (
            point
            + direction * (plane - (size[axis] - 1) / 2 - point[axis]) / direction[axis]
            + (size - 1) / 2
        )

    def hat(n, x):
        return np.maximum(1 - np.abs(np.arange(n) - x), 0)

    def shadow(n, a, b):
        low, high = min(a, b), max(a, b)
        left = np.arange(n) - 0.5
        return np.clip(np.minimum(left + 1, high) - np.maximum(left, low), 0, None) / (high - low)

    center = rays(np.arange(rows), np.arange(columns))
    across = rays(np.arange(rows), np.arange(columns + 1) - 0.5)
    up = rays(np.arange(rows + 1) - 0.5, np.arange(columns))
    matrix = np.zeros((*geometry.shape, *shape))
    for v, i, j in np.ndindex(geometry.shape):
        ray = [a[v, i, j] for a in center]
        speed = np.abs(ray[1])
        axis = np.argmax(speed if isinstance(geometry, VectorGeometry) else speed[:2])
        others = [a for a in (2, 1, 0) if a != axis]
        for plane in range(size[axis]):
            if model == "joseph":
                at = on_plane(ray, axis, plane)
                factors = [hat(size[a], at[a]) for a in others]
            else:
                ends = [on_plane([a[v, i, j + k] for a in across], axis, plane)[others[1]] for k in (0, 1)]
                edges = [on_plane([a[v, i + k, j] for a in up], axis, plane)[2] for k in (0, 1)]
                factors = [shadow(size[2], *edges), shadow(size[others[1]], *ends)]
            slab = np.moveaxis(matrix[v, i, j], 2 - axis, 0)[plane]
            slab[...] = np.outer(*factors) * pixel * np.linalg.norm(ray[1]) / speed[axis]
    return matrix.reshape(geometry.views * rows * columns, -1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind, model", cases(("vector", "joseph")))
def test_matrix_is_that_of_the_definition(x64, dense_matrix, kind, model, backend):
    A = Radon(GEOMETRIES[kind](), SHAPE, PIXEL, model, backend)
    expected = reference(kind, model)
    assert np.count_nonzero(expected) > 100
    np.testing.assert_allclose(dense_matrix(A), expected, atol=1e-10)
    np.testing.assert_allclose(dense_matrix(A.H), expected.T, atol=1e-10)


@pytest.mark.parametrize(
    "kind, model", [("curved", "joseph"), pytest.param("vector", "joseph", marks=pytest.mark.slow)]
)
def test_is_a_true_operator(assert_linear_operator, kind, model):
    assert_linear_operator(Radon(GEOMETRIES[kind](), SHAPE, PIXEL, model))


# Longer than any vector, with rows that miss the volume on both sides; rows finer and coarser than voxels.
LONG = {
    "inside": lambda: cone(5, (21, 19), (1.6, 1.5), pitch=8.0),
    "beyond": lambda: cone(5, (70, 19), (1.6, 1.5)),
    "fine": lambda: cone(5, (90, 19), (0.4, 1.5)),
    "coarse": lambda: cone(5, (9, 11), (6.1, 3.5)),
    "vector": lambda: tilted(5, (20, 20), distance=40.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, model", [(kind, model) for kind, make in LONG.items() for model in radon_models(make())]
)
def test_backends_agree(normal, kind, model):
    shape = (41, 12, 9)
    native, plain = (Radon(LONG[kind](), shape, PIXEL, model, backend) for backend in BACKENDS)
    volume, sinogram = normal((2, *shape)), normal((2, *native.out_shape))

    found = [np.asarray(a, float) for a in forward_and_adjoint(native, volume, sinogram)]
    for array, expected in zip(found, forward_and_adjoint(plain, volume, sinogram), strict=True):
        assert np.linalg.norm(array - expected) < 3e-5 * np.linalg.norm(expected)
    difference = np.vdot(found[0], sinogram) - np.vdot(volume, found[1])
    assert abs(difference) < 1e-6 * np.linalg.norm(found[0]) * np.linalg.norm(sinogram)


@pytest.mark.parametrize(
    "kind, model, adjoint",
    [
        *(
            pytest.param(*c, adjoint, marks=pytest.mark.slow)
            for c in CASES
            for adjoint in ((False, True) if c[0] in ("curved", "vector") else (False,))
        ),
    ],
)
def test_gradients_with_respect_to_array_and_geometry(x64, normal, kind, model, adjoint):
    A = Radon(GEOMETRIES[kind](), SHAPE, PIXEL, model)
    start, end = (A.out_shape, A.in_shape) if adjoint else (A.in_shape, A.out_shape)
    array, probe = normal(start, float), normal(end, float, seed=1)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def value_and_gradients(A, array):
        return jnp.vdot(probe, (A._adjoint if adjoint else A._forward)(array))

    leaves, structure = jax.tree.flatten((A, array))
    gradients = jax.tree.leaves(value_and_gradients(A, array)[1])
    for i, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        step = 1e-7 * normal(np.shape(leaf), float, seed=i)
        ends = [[*leaves[:i], leaf + sign * step, *leaves[i + 1 :]] for sign in (1, -1)]
        ahead, behind = (value_and_gradients(*jax.tree.unflatten(structure, values))[0] for values in ends)
        scale = np.linalg.norm(gradient) * np.linalg.norm(step)
        assert scale > 0
        assert abs(ahead - behind - 2 * np.vdot(gradient, step)) < 1e-4 * scale + 1e-13 * abs(ahead)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, model", [("cone", "joseph"), pytest.param("vector", "joseph", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("backend", ["auto", pytest.param("jax", marks=pytest.mark.slow)])
def test_stacked_geometries_and_volumes(normal, kind, model, backend):
    geometry = GEOMETRIES[kind]()
    moved = jax.tree.map(lambda leaf: 1.01 * leaf, geometry)
    operators = [Radon(g, SHAPE, PIXEL, model, backend) for g in (geometry, moved)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
    volumes = normal((2, 3, *SHAPE))

    @jax.jit
    @jax.vmap
    def both(A, volume):
        y = A(volume)
        return y, A.H(y)

    found = both(stacked, volumes)
    for i, A in enumerate(operators):
        y, back = forward_and_adjoint(A, volumes[i], found[0][i])
        np.testing.assert_allclose(found[0][i], y, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1][i], back, rtol=1e-4, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, model",
    [
        ("cone", "distance-driven"),
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in (("cone", "joseph"), ("vector", "joseph"), ("parallel", "distance-driven"))
        ),
    ],
)
def test_converges_to_analytic_integrals(kind, model):
    phantom = Ellipsoids(
        [[1.0, -0.5, 0.4], [-1.2, 0.6, -0.5]], [[2.0, 1.5, 1.2], [1.0, 2.0, 1.8]], [0.4, -1.0], [0.02, 0.01]
    )
    geometry = {
        "cone": lambda: cone(4, (25, 31), (0.5, 0.5)),
        "vector": lambda: as_vectors(cone(4, (25, 31), (0.5, 0.5), row_offset=0.2)),
        "parallel": lambda: ParallelBeam3D(turn(4), (25, 31), (0.3, 0.3)),
    }[kind]()
    exact = np.asarray(project_phantom(phantom, geometry, 1 if model == "joseph" else 4))
    errors = []
    # Single rays see the steps of the voxels, which elements average.
    coarse, fine = (8, 48) if model == "joseph" else (8, 32)
    for n in (coarse, fine):
        volume = rasterize_phantom(phantom, (n, n, n), 8 / n)
        errors.append(np.linalg.norm(project(Radon(geometry, (n, n, n), 8 / n, model), volume) - exact))
    errors = np.array(errors) / np.linalg.norm(exact)
    assert errors[1] < 0.06 and errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("model", ["distance-driven", pytest.param("joseph", marks=pytest.mark.slow)])
def test_the_middle_row_is_the_fan(normal, model):
    image, angles = normal((9, 11)), turn(5)
    rows = Radon(cone(5, (1, 14), (0.02, 1.4)), (3, 9, 11), PIXEL, model)
    fan = Radon(FanBeam(angles, 14, 1.4, 12.0, 7.0), (9, 11), PIXEL, model)
    # Elements count from their middle here, from the mean of their edges there.
    found, expected = project(rows, np.tile(image, (3, 1, 1)))[:, 0], project(fan, image)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_upright_parallel_rows_are_slices(normal):
    volume = normal((6, 9, 8))
    A = Radon(ParallelBeam3D(turn(5), (6, 14), (PIXEL, 0.7)), (6, 9, 8), PIXEL)
    flat = Radon(ParallelBeam(turn(5), 14, 0.7), (9, 8), PIXEL)
    found, expected = project(A, volume), project(flat, volume)
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=15)
@given(
    data=st.data(),
    # Few sizes, as each is compiled: volume, detector and views.
    size=st.sampled_from([((9, 5, 7), (20, 6), 3), ((2, 8, 9), (3, 9), 2), ((1, 1, 1), (1, 1), 1)]),
    rows=st.floats(0.1, 4),
    source=st.floats(10, 40),
    curved=st.booleans(),
    offset=st.floats(-1, 1),
    pitch=st.floats(-3, 3),
)
def test_the_adjoint_is_exact_for_any_geometry(data, size, rows, source, curved, offset, pitch):
    shape, detector, views = size
    angles = np.array(data.draw(st.lists(st.floats(-6, 6), min_size=views, max_size=views)))
    with jax.enable_x64(True):
        geometry = ConeBeam(
            angles, detector, (rows, 30 / detector[1]), source, 8.0, curved, pitch, offset, offset, offset
        )
        A = Radon(geometry, shape, PIXEL, data.draw(st.sampled_from(radon_models(geometry))))
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=A.in_shape), rng.normal(size=A.out_shape)
        forward, adjoint = map(np.asarray, forward_and_adjoint(A, x, y))
        scale = np.linalg.norm(forward) * np.linalg.norm(y) + np.linalg.norm(x) * np.linalg.norm(adjoint)
        assert abs(np.vdot(forward, y) - np.vdot(x, adjoint)) <= 1e-12 * scale + 1e-300


def test_moved_geometries_do_not_compile_again(normal):
    traces = []

    @jax.jit
    def traced(A, volume):
        traces.append(A)
        return A(volume)

    volume = normal(SHAPE)
    for distance in (12.0, 13.0):
        geometry = dataclasses.replace(cone(), source_distance=distance)
        assert traced(Radon(geometry, SHAPE, PIXEL), volume).shape == geometry.shape
    assert len(traces) == 1


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Radon(cone(), (9, 9)), ["image_shape", "(nz, ny, nx)", "ConeBeam", "(9, 9)"]),
        (lambda: Radon(cone(), (9, 40, 40)), ["source", "outside"]),
        (lambda: Radon(cone(), SHAPE, model="fourier"), ["model", "'fourier'", "ConeBeam"]),
        (lambda: Radon(tilted(), SHAPE, model="distance-driven"), ["model", "('joseph',)", "VectorGeometry"]),
        (lambda: Radon(cone(row_offset=99.0), SHAPE), ["detector", "object", "row, column"]),
        (lambda: Radon(cone(), SHAPE)(jnp.ones((5, 7, 4))), ["5, 4, 7", "(5, 7, 4)"]),
        (lambda: Radon(cone(), SHAPE).H(jnp.ones((3, 6, 4))), ["3, 4, 6", "(3, 6, 4)"]),
        (lambda: Radon(object(), SHAPE), ["geometry", "ConeBeam", "object"]),
    ],
)
def test_errors(make, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
