"""Images off the origin and oblong pixels, against slow references and images on larger grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, Radon, VectorGeometry, fbp, fdk
from operators.ct import as_vectors, filtered_radon, radon_models
from operators.phantoms import Ellipses, Ellipsoids, project_phantom

ANGLES = np.array([0.2, 1.3, 2.5, 4.1])
TURN = np.arange(180) * (2 * np.pi / 180)
MAKE = {
    "parallel": lambda a: ParallelBeam(a, 21, 1.1, 0.2, -0.4),
    "fan": lambda a: FanBeam(a, 21, 1.9, 40.0, 30.0, detector_offset=0.4, axis_offset=-0.3),
    "curved": lambda a: FanBeam(a, 21, 1.9, 40.0, 30.0, True, detector_offset=0.4),
    "vector": lambda a: as_vectors(FanBeam(a, 21, 1.9, 40.0, 30.0, axis_offset=0.3)),
    "parallel 3d": lambda a: ParallelBeam3D(a, (4, 21), (1.3, 1.1), axis_offset=0.3),
    "cone": lambda a: ConeBeam(a, (4, 21), (2.1, 1.9), 40.0, 30.0, axis_offset=-0.3, axial_offset=0.5),
    "cylinder": lambda a: ConeBeam(a, (4, 21), (2.1, 1.9), 40.0, 30.0, True, pitch=2.0),
    "pose": lambda a: as_vectors(ConeBeam(a, (4, 21), (2.1, 1.9), 40.0, 30.0, row_offset=0.5)),
    "parallel pose": lambda a: as_vectors(ParallelBeam3D(a, (4, 21), (1.3, 1.1), 0.4)),
}
CASES = [(kind, model) for kind, make in MAKE.items() for model in radon_models(make(ANGLES))]

apply = jax.jit(lambda A, x: A(x))
adjoint = jax.jit(lambda A, y: A.H(y))


def place(ndim):
    """Shape, sizes and center of a grid without any symmetry."""
    if ndim == 2:
        return (7, 9), (1.4, 0.8), (2.3, -1.7)
    return (5, 7, 9), (1.7, 1.4, 0.8), (2.3, -1.7, 0.9)


def joseph(geometry, image, sizes, center):
    """Joseph's sums in double precision from rays in the world, one plane of pixels after the other."""
    indices = [np.arange(n) for n in geometry.shape[1:]]
    points, directions = (np.asarray(a, np.float64) for a in geometry.rays(*indices))
    flip = np.array([1, -1, 1])[: image.ndim]
    steps, counts = np.array(sizes[::-1]) * flip, np.array(image.shape[::-1])
    points, directions = (points - center) / steps + (counts - 1) / 2, directions / steps
    main = np.abs(directions[..., :2] if not isinstance(geometry, VectorGeometry) else directions).argmax(-1)
    image, total = image.T, np.zeros(main.shape)
    for axis in range(image.ndim):
        own = (main == axis)[..., None]
        slopes = directions / np.where(own, directions[..., axis : axis + 1], np.inf)
        path = np.linalg.norm(slopes * steps, axis=-1)
        for plane in range(counts[axis]):
            at = points + slopes * (plane - points[..., axis : axis + 1])
            value = 0
            others = [i for i in range(image.ndim) if i != axis]
            low = np.floor(at).astype(int)
            for corner in np.ndindex(*(2,) * len(others)):
                weight, index, inside = 1.0, [None] * image.ndim, True
                index[axis] = np.full(main.shape, plane)
                for other, up in zip(others, corner, strict=True):
                    index[other] = low[..., other] + up
                    weight = weight * (1 - np.abs(at[..., other] - index[other]))
                    inside = inside & (index[other] >= 0) & (index[other] < counts[other])
                    index[other] = np.clip(index[other], 0, counts[other] - 1)
                value = value + np.where(inside, weight, 0) * image[tuple(index)]
            total += np.where(main == axis, path * value, 0)
    return total


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("backend", ["auto", pytest.param("jax", marks=pytest.mark.slow)])
def test_joseph_sums_are_those_of_the_definition(x64, normal, kind, backend):
    geometry = MAKE[kind](ANGLES)
    shape, sizes, center = place(geometry.ndim)
    image = normal(shape, np.float64)
    A = Radon(geometry, shape, sizes, backend=backend, image_center=center)
    expected = joseph(geometry, image, sizes, center)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(apply(A, image), expected, atol=1e-9)


@pytest.mark.parametrize(
    "kind, model",
    [pytest.param(*c, marks=[] if c[0] in ("fan", "pose") else pytest.mark.slow) for c in CASES],
)
@pytest.mark.parametrize("backend", ["auto", pytest.param("jax", marks=pytest.mark.slow)])
def test_the_adjoint_is_exact(x64, normal, kind, model, backend):
    geometry = MAKE[kind](ANGLES)
    shape, sizes, center = place(geometry.ndim)
    A = Radon(geometry, shape, sizes, model, backend, center)
    x, y = normal(shape, np.float64), normal(A.out_shape, np.float64, 1)
    left, right = np.vdot(apply(A, x), y), np.vdot(x, adjoint(A, y))
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-11 * np.linalg.norm(x) * np.linalg.norm(y))


@pytest.mark.slow
@pytest.mark.parametrize("kind, model", CASES)
def test_gradients_in_the_geometry_are_differences(x64, normal, kind, model):
    shape, sizes, center = place(2 if kind in ("parallel", "fan", "curved", "vector") else 3)
    # Smooth images, so that derivatives are continuous.
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = np.exp(-2 * sum(a**2 for a in axes))
    y = normal(MAKE[kind](ANGLES).shape, np.float64)

    @jax.jit
    def loss(t):
        geometry = MAKE[kind](ANGLES)
        angle, move = jnp.asarray(0.3) * t, 0.2 * t
        if isinstance(geometry, VectorGeometry):
            geometry = VectorGeometry(
                geometry.source * (1 + angle),
                geometry.detector + move,
                geometry.column_axis * (1 - move),
                geometry.row_axis,
                geometry.detector_shape,
                geometry.divergent,
            )
        else:
            geometry = MAKE[kind](ANGLES + angle)
        return jnp.sum(Radon(geometry, shape, sizes, model, "jax", center)(image) * y)

    difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(0.0), difference, rtol=1e-2 if model == "fourier" else 1e-4
    )


@pytest.mark.parametrize(
    "kind, model",
    [
        pytest.param(*c, marks=[] if c[0] in ("parallel", "cone") else pytest.mark.slow)
        for c in CASES
        if c[1] != "joseph"
    ],
)
def test_part_of_an_image_is_projected_as_the_whole(normal, kind, model):
    """Zero around a part, an image has the integrals of that part on a grid of its own, off the center."""
    geometry = MAKE[kind](ANGLES)
    shape = (12, 15) if geometry.ndim == 2 else (6, 12, 15)
    part = (slice(2, 5), slice(2, 7), slice(8, 14))[3 - geometry.ndim :]
    image = np.zeros(shape, np.float32)
    image[part] = normal(image[part].shape)
    middles = [(s.start + s.stop - n) / 2 for s, n in zip(part, shape, strict=True)]
    center = (0.8 * middles[-1], -1.1 * middles[-2], *(1.3 * m for m in middles[:-2]))
    sizes = (1.3, 1.1, 0.8)[3 - geometry.ndim :]
    whole = apply(Radon(geometry, shape, sizes, model), image)
    found = apply(Radon(geometry, image[part].shape, sizes, model, image_center=center), image[part])
    np.testing.assert_allclose(
        found, whole, atol=(2e-3 if model == "fourier" else 2e-5) * np.abs(whole).max()
    )


@pytest.mark.parametrize("kind", ["parallel", "fan", "cone"])
def test_wide_pixels_are_equal_pixels_side_by_side_to_means(x64, normal, kind):
    """Rays that cross rows meet the same means, whether pixels of a row are twice as wide or doubled."""
    geometry = MAKE[kind](np.array([0.1, 3.0]))
    shape = (12, 7) if geometry.ndim == 2 else (3, 12, 7)
    image = normal(shape, np.float64)
    both = image.repeat(2, -1) if geometry.ndim == 2 else image.repeat(2, -1).repeat(2, 0)
    sizes = (0.9, 1.8) if geometry.ndim == 2 else (1.8, 0.9, 1.8)
    found = apply(Radon(geometry, shape, sizes, "distance-driven"), image)
    np.testing.assert_allclose(
        found, apply(Radon(geometry, both.shape, 0.9, "distance-driven"), both), atol=1e-9
    )


def disc_error(image, sizes, center, disc, radius, value):
    """Relative error of the mean in a disc, from the places of the pixels."""
    ny, nx = image.shape
    x = (np.arange(nx) - (nx - 1) / 2) * sizes[1] + center[0] - disc[0]
    y = ((ny - 1) / 2 - np.arange(ny)) * sizes[0] + center[1] - disc[1]
    inside = np.hypot(x, y[:, None]) < radius - 2.5
    assert inside.sum() > 20
    return abs(np.asarray(image)[inside].mean() / value - 1)


INVERTED = {
    "fourier": (ParallelBeam(TURN[:90], 64, 0.9, 0.2), {"method": "fourier"}),
    "interpolation": (ParallelBeam(TURN[:90], 64, 0.9, 0.2), {"method": "interpolation"}),
    "fan": (FanBeam(TURN, 80, 1.3, 70.0, 50.0), {}),
    "curved": (FanBeam(TURN, 80, 1.3, 70.0, 50.0, True, axis_offset=0.4), {}),
    "cone": (ConeBeam(TURN, (12, 80), (2.2, 1.3), 70.0, 50.0), {}),
    "upright": (ParallelBeam3D(TURN[:90], (12, 64), (1.2, 0.9), axis_offset=0.3), {}),
    "helix": (ConeBeam(4 * TURN, (16, 80), (2.2, 1.3), 70.0, 50.0, pitch=4.0, axial_offset=-8.0), {}),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            k, marks=[] if k in ("fourier", "interpolation", "fan", "cone", "upright") else pytest.mark.slow
        )
        for k in INVERTED
    ],
)
def test_filtered_back_projection_on_any_grid(kind):
    """A disc, or a long ellipsoid, off the axis: on a grid of its own, and as a part of the whole image."""
    geometry, options = INVERTED[kind]
    invert, ndim = (fbp, 2) if geometry.ndim == 2 else (fdk, 3)
    disc, radius, value = (9.0, -7.0), 8.0, 0.02
    if ndim == 2:
        phantom = Ellipses([disc], [[radius, radius]], [0.0], [value])
    else:
        phantom = Ellipsoids([(*disc, 0.3)], [[radius, radius, 60.0]], [0.0], [value])
    y = jax.jit(project_phantom, static_argnames="bins")(phantom, geometry, bins=2)
    sizes, center = (1.5, 1.3, 0.7)[3 - ndim :], (8.0, -8.0, 0.9)[:ndim]
    image = np.asarray(invert(y, geometry, (3, 16, 30)[3 - ndim :], sizes, image_center=center, **options))
    middle = image if ndim == 2 else image[1]
    assert disc_error(middle, sizes[-2:], center, disc, radius, value) < 5e-3
    shape, part = (5, 40, 48)[3 - ndim :], (slice(2, 5), slice(22, 36), slice(25, 43))[3 - ndim :]
    middles = [(s.start + s.stop - n) / 2 for s, n in zip(part, shape, strict=True)]
    sizes = (1.5, 1.1, 0.9)[3 - ndim :]
    center = (0.9 * middles[-1], -1.1 * middles[-2], *(1.5 * m for m in middles[:-2]))
    whole = np.asarray(invert(y, geometry, shape, sizes, **options))[part]
    alone = invert(y, geometry, whole.shape, sizes, image_center=center, **options)
    np.testing.assert_allclose(alone, whole, atol=5e-3 * value)


@pytest.mark.parametrize(
    "kind",
    ["fan", pytest.param("fourier", marks=pytest.mark.slow), pytest.param("helix", marks=pytest.mark.slow)],
)
def test_a_scan_around_another_axis_is_inverted_as_around_the_origin(kind, normal):
    geometry, _ = INVERTED[kind]
    y = normal(geometry.shape)
    invert, ndim = (fbp, 2) if geometry.ndim == 2 else (fdk, 3)
    vectors, move = as_vectors(geometry), np.array([11.0, -6.0, 2.0])[:ndim]
    moved = VectorGeometry(
        vectors.source + (move if vectors.divergent else 0),
        vectors.detector + move,
        vectors.column_axis,
        vectors.row_axis,
        vectors.detector_shape,
        vectors.divergent,
    )
    shape = (3, 20, 24)[3 - ndim :]
    expected = np.asarray(invert(y, geometry, shape, 1.2))
    found = invert(y, moved, shape, 1.2, image_center=tuple(move.tolist()))
    np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


def test_the_preconditioned_transform_keeps_images_of_any_grid():
    grid = {"pixel_size": (1.3, 0.8), "image_center": (4.0, -3.0)}
    B = filtered_radon(ParallelBeam(TURN[:90], 64, 0.8), (20, 30), **grid)
    axes = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 30), indexing="ij")
    image = np.exp(-6 * sum(a**2 for a in axes)).astype(np.float32)
    found = jax.jit(lambda x: B.gram(x))(image)
    assert np.linalg.norm(found - image) < 0.05 * np.linalg.norm(image)


def test_equal_sizes_and_the_origin_are_the_default():
    geometry = MAKE["cone"](ANGLES)
    plain, same = (
        Radon(geometry, (3, 4, 5), 0.8),
        Radon(geometry, (3, 4, 5), (0.8, 0.8, 0.8), image_center=(0, 0, 0)),
    )
    assert jax.tree.structure(plain) == jax.tree.structure(same) and same.pixel_size == 0.8


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda g: Radon(g, (8, 9), (1.0, 2.0, 3.0)), "Radon: pixel_size: .* each axis of \\(ny, nx\\)"),
        (lambda g: Radon(g, (8, 9), (1.0, -2.0)), "Radon: pixel_size: expected a positive number"),
        (
            lambda g: Radon(g, (8, 9), image_center=(1.0, 2.0, 3.0)),
            "Radon: image_center: expected \\(x, y\\)",
        ),
        (lambda g: Radon(g, (8, 9), image_center=(1.0, np.nan)), "Radon: image_center: expected a finite"),
        (
            lambda g: Radon(g, (8, 9), image_center=(300.0, 0.0)),
            "Radon: detector: expected to see the object",
        ),
        (lambda g: Radon(g, (8, 9), image_center=(8.0, -39.0)), "Radon: source: expected outside"),
        (lambda g: fbp(np.zeros(g.shape, np.float32), g, (8, 9), image_center=(1.0,)), "fbp: image_center"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make(MAKE["fan"](ANGLES))
