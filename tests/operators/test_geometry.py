"""CT geometries: round trips, positions, derivatives and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, Radon, VectorGeometry
from operators.ct import Geometry, check_object

ANGLES = np.array([-0.4, 0.0, 1.1, 2.9])


def make(kind, offset=0.3, axis=-0.7):
    both = {"detector_offset": offset, "axis_offset": axis}
    return {
        "parallel": lambda: ParallelBeam(ANGLES, 9, 0.8, **both),
        "fan": lambda: FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, **both),
        "fan curved": lambda: FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, curved=True, **both),
        "parallel 3d": lambda: ParallelBeam3D(ANGLES, (6, 9), (1.2, 0.8), row_offset=0.4, **both),
        "cone": lambda: ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, row_offset=0.4, **both),
        "helix": lambda: ConeBeam(
            ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, pitch=3.0, axial_offset=-1.0, **both
        ),
        "helix curved": lambda: ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, True, 3.0, **both),
        "vector parallel": lambda: vectors(2, False),
        "vector fan": lambda: vectors(2, True),
        "vector parallel 3d": lambda: vectors(3, False),
        "vector cone": lambda: vectors(3, True),
    }[kind]()


KINDS = ["parallel", "fan", "fan curved", "parallel 3d", "cone", "helix", "helix curved"]
VECTORS = ["vector parallel", "vector fan", "vector parallel 3d", "vector cone"]


def vectors(ndim, divergent):
    rng = np.random.default_rng(ndim)
    normal = rng.standard_normal((4, ndim))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    axes = rng.standard_normal((2, 4, ndim))
    axes -= 0.8 * (axes * normal).sum(-1, keepdims=True) * normal
    source = -7 * normal if divergent else normal
    row = axes[1] if ndim == 3 else None
    return VectorGeometry(source, 5 * normal, axes[0], row, (6, 9)[3 - ndim :], divergent)


rays = jax.jit(lambda g, *indices: g.rays(*indices))


@pytest.mark.parametrize("kind", KINDS + VECTORS)
def test_every_geometry_follows_the_protocol(kind):
    assert isinstance(make(kind), Geometry)


def test_what_does_not_follow_the_protocol_is_refused():
    class RaysAlone:
        ndim = 2

        def rays(self, columns):
            return columns, columns

    with pytest.raises(TypeError, match=r"Radon: geometry: expected one of .*, found RaysAlone"):
        Radon(RaysAlone(), (4, 4))


@pytest.mark.parametrize("kind", KINDS + VECTORS)
def test_rays_and_detector_coordinates_are_inverse(x64, kind):
    geometry = make(kind)
    indices = [np.array([-0.5, 0.0, 2.25, 5.5]), np.array([-0.5, 1.0, 4.0, 7.3, 8.5])][3 - geometry.ndim :]
    points, directions = rays(geometry, *indices)
    shape = (4, *(i.size for i in indices), geometry.ndim)
    assert points.shape == directions.shape == shape and points.dtype == geometry.dtype == np.float64
    assert geometry.shape == (4, *((6, 9)[3 - geometry.ndim :])) and geometry.views == 4
    expected = np.stack(np.meshgrid(*indices, indexing="ij"), axis=-1)
    expected = expected[:, 0] if geometry.ndim == 2 else expected
    # Any point of the ray, in front of the source.
    for s in (0.6, 1.7):
        found = jax.jit(lambda g, p: g.detector_coordinates(p))(geometry, points + s * directions)
        for view in range(4):
            np.testing.assert_allclose(found[view, view], expected, atol=1e-9)


@pytest.mark.parametrize("curved", [False, True])
def test_fan_positions(x64, curved):
    """Source and detector where the conventions put them, by plain trigonometry."""
    geometry = FanBeam([0.7], 5, 2.0, 30.0, 10.0, curved, detector_offset=0.5)
    points, directions = (np.asarray(a)[0] for a in geometry.rays(np.arange(5)))
    cos, sin = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(points, np.tile([30 * sin, -30 * cos], (5, 1)), atol=1e-12)
    s = (np.arange(5) - 2) * 2.0 + 0.5
    depth, side = (40 * np.cos(s / 40), 40 * np.sin(s / 40)) if curved else (40 + 0 * s, s)
    elements = np.stack([30 * sin - sin * depth + cos * side, -30 * cos + cos * depth + sin * side], -1)
    np.testing.assert_allclose(points + directions, elements, atol=1e-12)
    gaps = np.linalg.norm(np.diff(elements, axis=0), axis=-1)
    np.testing.assert_allclose(gaps, 80 * np.sin(1 / 40) if curved else 2.0)


def test_the_axis_is_where_its_offset_says(x64):
    # The rotation axis projects to the same index in every view: its offset, magnified.
    origin = np.zeros(2)
    parallel = ParallelBeam(ANGLES, 9, 0.8, 0.3, -0.7)
    np.testing.assert_allclose(parallel.detector_coordinates(origin), 4 + (-0.7 - 0.3) / 0.8)
    fan = FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, False, 0.3, -0.7)
    np.testing.assert_allclose(fan.detector_coordinates(origin), 4 + (-0.7 * 16 / 11 - 0.3) / 0.8)


def test_helix_climbs_by_its_pitch(x64):
    angles = np.linspace(0, 6 * np.pi, 37)
    points, _ = ConeBeam(angles, (1, 1), (1, 1), 11.0, 5.0, pitch=3.0, axial_offset=-4.5).rays([0], [0])
    np.testing.assert_allclose(points[:, 0, 0, 2], np.linspace(-4.5, 4.5, 37), atol=1e-12)


@settings(max_examples=10)
@given(tilt=st.floats(-1, 1), curved=st.booleans())
def test_cone_contains_fan(tilt, curved):
    """The middle row of a cone beam is the fan beam, and a far source is a parallel beam."""
    with jax.enable_x64(True):
        angles = ANGLES + tilt
        fan = FanBeam(angles, 9, 0.8, 11.0, 5.0, curved, 0.3, -0.7)
        cone = ConeBeam(angles, (5, 9), (1.2, 0.8), 11.0, 5.0, curved, 0.0, 0.3, 0.0, -0.7)
        columns = np.arange(9)
        for flat, deep in zip(rays(fan, columns), rays(cone, np.array([2]), columns), strict=True):
            np.testing.assert_allclose(deep[:, 0, :, :2], flat, atol=1e-12)
            np.testing.assert_allclose(deep[..., 2], 0, atol=1e-12)
        far = FanBeam(angles, 9, 0.8, 1e9, 5.0, curved, 0.3, -0.7)
        parallel = ParallelBeam(angles, 9, 0.8, 0.3, -0.7)
        point = np.array([1.3, -0.4])
        expected = parallel.detector_coordinates(point)
        np.testing.assert_allclose(far.detector_coordinates(point), expected, atol=1e-6)


@pytest.mark.slow
def test_every_number_is_differentiable_and_maps(x64):
    """Derivatives agree with differences; geometries stacked leaf by leaf go through vmap."""
    geometry = make("helix curved")
    point = jnp.array([0.5, -0.8, 1.4])
    leaves, structure = jax.tree.flatten(geometry)
    assert len(leaves) == 8

    @jax.jit
    def place(leaves):
        return jax.tree.unflatten(structure, leaves).detector_coordinates(point)

    tangents = [jnp.full(leaf.shape, 0.3 + 0.1 * i) for i, leaf in enumerate(leaves)]
    _, found = jax.jit(lambda a, b: jax.jvp(place, (a,), (b,)))(leaves, tangents)
    step = 1e-5
    up, down = (place([a + h * b for a, b in zip(leaves, tangents, strict=True)]) for h in (step, -step))
    np.testing.assert_allclose(found, (up - down) / (2 * step), rtol=1e-6)
    both = jax.tree.map(lambda *a: jnp.stack(a), geometry, jax.tree.map(lambda a: a + 0.1, geometry))
    mapped = jax.vmap(lambda g: g.rays(np.arange(6.0), np.arange(9.0))[1])(both)
    np.testing.assert_allclose(mapped[0], geometry.rays(np.arange(6.0), np.arange(9.0))[1], atol=1e-12)


@pytest.mark.slow
def test_parallel_offsets_are_static_numbers_or_leaves():
    fixed = ParallelBeam(ANGLES, 5, 0.5, 0.2, axis_offset=0.1)
    assert len(jax.tree.leaves(fixed)) == 1 and fixed.detector_offset == 0.2
    assert fixed.ray_positions().dtype == np.float64
    rebuilt = jax.tree.map(lambda a: a, fixed)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(fixed) and rebuilt.axis_offset == 0.1
    other = ParallelBeam(ANGLES, 5, 0.5, 0.3, axis_offset=0.1)
    assert jax.tree.structure(other) != jax.tree.structure(fixed)
    # Inside a compiled function they are concrete, as the projectors' tables need them.
    assert jax.jit(lambda g: jnp.asarray(float(g.ray_positions()[0])))(fixed) == pytest.approx(-0.9)
    moving = ParallelBeam(ANGLES, 5, 0.5, 0.2, axis_offset=jnp.float32(0.1))
    assert len(jax.tree.leaves(moving)) == 2
    for a, b in zip(rays(moving, np.arange(5)), rays(fixed, np.arange(5)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)

    def sum_of_squares(offset):
        return jnp.sum(ParallelBeam(ANGLES, 5, 0.5, axis_offset=offset).rays(np.arange(5))[0] ** 2)

    # 4 views of sum_j (s_j - a)^2: the derivative is 4 * 5 * 2 a.
    assert jax.grad(sum_of_squares)(0.1) == pytest.approx(4.0, rel=1e-5)


def test_a_quarter_shift_interleaves_opposite_views(x64):
    spacing = 0.8
    geometry = ParallelBeam([0.3, 0.3 + np.pi], 8, spacing, detector_offset=spacing / 4)
    near, far = np.asarray(geometry.rays(np.arange(8))[0]) @ [np.cos(0.3), np.sin(0.3)]
    np.testing.assert_allclose(np.diff(np.sort(np.concatenate([near, far]))), spacing / 2)


def good(**changes):
    fields = {"detector_spacing": 0.8, "source_distance": 11.0, "detector_distance": 5.0} | changes
    return FanBeam(**({"angles": ANGLES, "detector_count": 9} | fields))


def cone(**changes):
    fields = {"detector_shape": (6, 9), "detector_spacing": (1, 1), "source_distance": 11.0}
    return ConeBeam(**({"angles": ANGLES, "detector_distance": 5.0} | fields | changes))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: good(angles=np.arange(0, 180, 10.0)), ValueError, ["FanBeam: angles", "radians", "170"]),
        (lambda: good(angles=[0, np.nan]), ValueError, ["angles", "finite", "nan"]),
        (lambda: good(angles=np.zeros((2, 2))), ValueError, ["angles", "(views,)", "(2, 2)"]),
        (lambda: good(detector_count=0), ValueError, ["detector_count", "positive", "0"]),
        (lambda: good(detector_spacing=-1.0), ValueError, ["detector_spacing", "positive", "-1"]),
        (lambda: good(source_distance=0.0), ValueError, ["source_distance", "positive", "0"]),
        (lambda: good(detector_distance=-5), ValueError, ["FanBeam: detector_distance", "positive", "-5"]),
        (lambda: good(detector_offset=np.inf), ValueError, ["detector_offset", "finite", "inf"]),
        (lambda: good(axis_offset=[1.0, 2.0]), ValueError, ["axis_offset", "scalar", "(2,)"]),
        (lambda: good(axis_offset=1j), TypeError, ["axis_offset", "real", "complex"]),
        (lambda: good(axis_offset="1"), TypeError, ["axis_offset", "real"]),
        (lambda: ParallelBeam(ANGLES, 3, axis_offset=np.nan), ValueError, ["axis_offset", "finite"]),
        (lambda: cone(detector_shape=(6,)), ValueError, ["detector_shape", "(rows, columns)", "(6,)"]),
        (lambda: cone(detector_spacing=1.0), ValueError, ["detector_spacing", "column_spacing", "1.0"]),
        (lambda: cone(angles=np.arange(0, 720, 10.0), pitch=2.0), ValueError, ["angles", "radians", "10"]),
        (lambda: cone(angles=np.arange(0, 720, 1.0)), ValueError, ["angles", "radians", "719"]),
        (
            lambda: VectorGeometry(np.ones((4, 2)), np.ones((3, 2)), np.ones((4, 2)), None, (5,)),
            ValueError,
            ["detector", "(4, 2)", "(3, 2)"],
        ),
        (
            lambda: VectorGeometry(*np.ones((3, 4, 3)), None, (5, 5)),
            ValueError,
            ["row_axis", "array in three dimensions", "None"],
        ),
        (lambda: make("cone").detector_coordinates(np.ones(2)), ValueError, ["points", "(..., 3)", "(2,)"]),
        (lambda: check_object(make("fan"), (30, 30), 1.0, "Radon"), ValueError, ["Radon", "source", "15"]),
        (
            lambda: check_object(make("cone"), (5, 5), 1.0, "Radon"),
            ValueError,
            ["image_shape", "(nz, ny, nx)"],
        ),
        (
            lambda: check_object(make("fan", offset=200.0), (8, 8), 1.0, "Radon"),
            ValueError,
            ["Radon", "detector: expected to see the object", "9"],
        ),
        (
            lambda: check_object(cone(row_offset=500.0), (4, 8, 8), 1.0, "Radon"),
            ValueError,
            ["detector: expected to see the object", "[6, 9]"],
        ),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_helices_of_many_turns_and_sound_objects_pass():
    cone(angles=np.linspace(0, 60 * np.pi, 1000), pitch=0.1)
    for kind in KINDS:
        geometry = make(kind)
        check_object(geometry, (6, 8, 8)[3 - geometry.ndim :], 1.0, "Radon")
    # The source may pass the corners of the image, which are empty.
    check_object(good(), (20, 20), 1.0, "Radon")
    jax.jit(lambda g: check_object(g, (30, 30), 1.0, "Radon"))(make("fan"))


def test_concrete_geometries_are_checked_inside_compiled_functions():
    fan = make("fan")
    with pytest.raises(ValueError, match="source: expected outside"):
        jax.jit(lambda x: (check_object(fan, (30, 30), 1.0, "Radon"), x)[1])(1.0)
    jax.jit(lambda x: (check_object(fan, (8, 8), 1.0, "Radon"), x)[1])(1.0)


def test_half_precision_is_not_kept():
    geometry = ParallelBeam(np.array([0.1, 1.2], np.float16), 9)
    assert geometry.dtype == np.float32
    found = jax.eval_shape(Radon(geometry, (5, 5)), np.ones((5, 5), np.float16))
    assert found.dtype == np.float32
