"""Filtered back-projection of every planar geometry, its weights, and the back-projector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import operators
from operators import ConeBeam, FanBeam, ParallelBeam, VectorGeometry, fbp, fdk, shepp_logan
from operators.ct.inversion.back_projector import back_project
from operators.ct.inversion.ramp_filters import ramp_response
from operators.ct.inversion.short_scan import angular_coverage, fan_weights, helical_coverage, parker_weights
from operators.kernels import native
from operators.phantoms import Ellipses, rasterize_phantom

project_phantom = jax.jit(operators.phantoms.project_phantom, static_argnames="bins")

MU = 0.019
SHAPE, PIXEL = (60, 64), 1.5
CENTER, RADIUS = (7.0, -9.0), 28.0
# The steepest ray through the detector of ``fan_of`` lies 0.29 from the central one.
SHORT = np.pi + 2 * 0.31


def even(views, arc=2 * np.pi, start=0.0):
    return start + np.arange(views) * (arc / views)


def disc(center=CENTER, radius=RADIUS, value=MU):
    return Ellipses([center], [[radius, radius]], [0.0], [value])


def inside(shape, pixel, center, radius):
    y = ((shape[0] - 1) / 2 - np.arange(shape[0])) * pixel - center[1]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel - center[0]
    return x**2 + y[:, None] ** 2 < radius**2


def assert_disc(image, shape=SHAPE, pixel=PIXEL, center=CENTER, radius=RADIUS, value=MU):
    """The attenuation within 0.5 % on average and 2 % everywhere in the disc, next to nothing around it."""
    image = np.asarray(image)
    interior = image[inside(shape, pixel, center, radius - 5 * pixel)]
    np.testing.assert_allclose(interior.mean(), value, rtol=5e-3)
    np.testing.assert_allclose(interior, value, rtol=2e-2)
    outside = ~inside(shape, pixel, center, radius + 5 * pixel)
    outside &= inside(shape, pixel, (0.0, 0.0), 44.0)
    assert np.abs(image[outside]).mean() < 1e-2 * value


def fan_of(angles, curved=False, **offsets):
    return FanBeam(angles, 121, 1.6, 200.0, 130.0, curved, **offsets)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "angles, offsets",
    [
        (even(240), {}),
        (even(240)[::-1] + 0.4, {"detector_offset": 0.4}),
        (even(240, SHORT), {}),
        (even(240, SHORT, 2.5), {"axis_offset": 3.0, "detector_offset": -5.0}),
        (-even(240, SHORT, 1.0), {"detector_offset": 0.4}),
        (even(240, 4.8, -3.0), {"axis_offset": -2.0}),
    ],
    ids=["full", "quarter-shift", "short", "off-axis", "clockwise", "over-scan"],
)
def test_fans_return_the_attenuation_of_a_disc(curved, angles, offsets):
    geometry = fan_of(angles, curved, **{"detector_offset": 0.0, "axis_offset": 0.0, **offsets})
    image = fbp(project_phantom(disc(), geometry, bins=3), geometry, SHAPE, PIXEL)
    assert_disc(image)


@pytest.mark.parametrize("curved", [False, True])
def test_wide_fans_keep_the_attenuation_far_from_the_center(curved):
    """Small discs near the edge of the field of view of a fan of 80 degrees."""
    centers, radius = [(36.0, 4.0), (-25.0, -27.0)], 6.0
    geometry = FanBeam(even(360), 181, 1.0 if curved else 1.3, 70.0, 58.0, curved)
    phantom = Ellipses(centers, [[radius, radius]] * 2, [0.0, 0.0], [MU, 2 * MU])
    image = np.asarray(fbp(project_phantom(phantom, geometry, bins=3), geometry, (128, 128), 0.75))
    for center, value in zip(centers, (MU, 2 * MU), strict=True):
        interior = image[inside((128, 128), 0.75, center, radius - 2.5)]
        np.testing.assert_allclose(interior.mean(), value, rtol=3e-3)
        np.testing.assert_allclose(interior, value, rtol=0.1)


@pytest.mark.parametrize("filter", ["shepp-logan", "cosine", "hamming", "hann"])
def test_every_filter_keeps_the_scale_of_fans(filter):
    geometry = fan_of(even(240), curved=filter in ("cosine", "hann"))
    sinogram = project_phantom(disc(), geometry, bins=3)
    assert_disc(fbp(sinogram, geometry, SHAPE, PIXEL, filter, cutoff=0.8))


@pytest.mark.parametrize("method", ["fourier", "interpolation"])
@pytest.mark.parametrize(
    "angles",
    [
        even(180, np.pi),
        even(180),
        np.linspace(0, np.pi, 180),
        np.pi * np.sort(np.random.default_rng(0).uniform(size=180) * 0.004 + np.linspace(0, 1, 180) ** 1.3),
        np.mod(2.39996 * np.arange(180), 2 * np.pi),
    ],
    ids=["half", "full", "both ends", "uneven", "golden"],
)
def test_parallel_beams_of_any_angles_return_the_attenuation_of_a_disc(method, angles):
    geometry = ParallelBeam(angles, 101, 1.5, 0.375, -2.0)
    image = fbp(project_phantom(disc(), geometry, bins=3), geometry, SHAPE, PIXEL, "hann", method=method)
    assert_disc(image)


def test_methods_agree_where_the_detector_sees_the_object():
    geometry = ParallelBeam(even(180, np.pi), 101, 1.5, 0.3)
    sinogram = project_phantom(disc(), geometry, bins=3)
    fourier, other = (
        fbp(sinogram, geometry, SHAPE, PIXEL, "hann", method=m) for m in ("fourier", "interpolation")
    )
    assert np.linalg.norm(fourier - other) < 0.02 * np.linalg.norm(other)
    # Smooth objects: to the accuracy of either interpolation.
    blurred = jnp.asarray(
        np.apply_along_axis(np.convolve, 1, sinogram, np.hanning(15) / 7, "same"), jnp.float32
    )
    fourier, other = (fbp(blurred, geometry, SHAPE, PIXEL, method=m) for m in ("fourier", "interpolation"))
    assert np.linalg.norm(fourier - other) < 0.005 * np.linalg.norm(other)


def test_fourier_is_at_least_as_close_to_the_phantom():
    phantom = shepp_logan()
    phantom = Ellipses(32 * phantom.center, 32 * phantom.axes, phantom.angle, phantom.value)
    image = rasterize_phantom(phantom, (64, 64))
    disc = inside((64, 64), 1.0, (0, 0), 32)
    for views in (24, 200):
        geometry = ParallelBeam(even(views, np.pi), 91)
        sinogram = project_phantom(phantom, geometry, bins=4)
        errors = [
            np.linalg.norm((fbp(sinogram, geometry, (64, 64), method=m) - image)[disc])
            for m in ("fourier", "interpolation")
        ]
        assert errors[0] < 1.01 * errors[1]


def test_limited_arcs_stay_finite_and_bounded():
    for geometry in (
        ParallelBeam(even(180, 2.0, 0.3), 101, 1.5),
        fan_of(even(240, 2.0, 0.3), detector_offset=0.0, axis_offset=0.0),
        fan_of(even(240, 3.3), True, detector_offset=0.0, axis_offset=0.0),
    ):
        sinogram = project_phantom(disc(), geometry, bins=3)
        image = np.asarray(fbp(sinogram, geometry, SHAPE, PIXEL))
        assert np.isfinite(image).all() and np.abs(image).max() < 3 * MU
        assert image[inside(SHAPE, PIXEL, CENTER, 10.0)].mean() > 0.5 * MU


# Weights.


@given(st.floats(-7, 7), st.floats(np.pi, 2 * np.pi), st.floats(-0.5, 0.5), st.floats(0, 1))
def test_parker_weights_of_conjugate_rays_sum_to_one(start, arc, fan, part):
    with jax.enable_x64(True):
        angle = start + arc * part
        conjugate = angle + np.pi - 2 * fan
        weight = float(parker_weights(jnp.array([angle]), jnp.array([fan]), start, arc)[0, 0])
        other = float(parker_weights(jnp.array([conjugate]), jnp.array([-fan]), start, arc)[0, 0])
        measured = np.mod(conjugate - start, 2 * np.pi) <= arc
        assert -1e-9 <= weight <= 1 + 1e-9
        near_edge = min(abs(np.mod(conjugate - start, 2 * np.pi) - e) for e in (0, arc, 2 * np.pi)) < 1e-6
        if not near_edge and 1e-9 < part < 1 - 1e-9:
            np.testing.assert_allclose(weight + (other if measured else 0), 1, atol=1e-6)


def test_views_stand_for_the_gaps_next_to_them():
    whole = angular_coverage(np.array([0.1, 0.3, 0.7, 1.5, 2.5]), np.pi)
    assert whole.complete
    np.testing.assert_allclose(whole.weights[1:4], [0.3, 0.6, 0.9])
    np.testing.assert_allclose(whole.weights.sum(), np.pi)
    # In any order and any half turn.
    turned = angular_coverage(np.array([0.7 + 3 * np.pi, 0.1 - np.pi, 2.5, 0.3, 1.5]), np.pi)
    np.testing.assert_allclose(turned.weights, whole.weights[[2, 0, 4, 1, 3]])
    arc = angular_coverage(5.9 + 0.05 * np.arange(40), 2 * np.pi)
    assert not arc.complete
    np.testing.assert_allclose(arc.weights, 0.05)
    np.testing.assert_allclose([arc.start, arc.arc], [5.875, 2.0])
    # Traced angles give the same, and so does a scan given as an argument.
    traced = jax.jit(angular_coverage, static_argnums=1)(5.9 + 0.05 * np.arange(40), 2 * np.pi)
    for a, b in zip(traced, arc, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)
    np.testing.assert_allclose(helical_coverage(np.array([1.0, 9.0, 3.0])).weights, [2, 6, 4])


@pytest.mark.parametrize("views", [60, 400])
def test_random_angles_cover_the_half_turn(views):
    """Some of their gaps are ten times the mean; a view next to one still stands for half of it."""
    for seed in range(5):
        angles = np.random.default_rng(seed).uniform(0, np.pi, views)
        coverage = angular_coverage(angles, np.pi)
        assert coverage.complete
        np.testing.assert_allclose(coverage.weights.sum(), np.pi)

    # A wedge that was left out stays one, and so do two.
    angles = np.random.default_rng(0).uniform(0, np.pi, 400)
    kept = (angles < 1) | ((angles > 1.5) & (angles < 2)) | (angles > 2.5)
    assert angular_coverage(angles[kept], np.pi).weights.sum() < np.pi - 0.9


def test_a_full_turn_counts_every_ray_half():
    coverage = angular_coverage(even(90), 2 * np.pi)
    np.testing.assert_allclose(coverage.weights, 2 * np.pi / 90)
    np.testing.assert_array_equal(fan_weights(coverage, even(90), np.linspace(-0.3, 0.3, 5)), 0.5)


def test_cutoff_stretches_the_window():
    whole, half = ramp_response(64, 0.5, "hann"), ramp_response(64, 0.5, "hann", 0.5)
    ramp = ramp_response(64, 0.5)
    np.testing.assert_allclose(half[:17] / ramp[:17], (whole / ramp)[::2], atol=1e-12)
    np.testing.assert_array_equal(half[17:], 0)
    geometry = ParallelBeam(even(180, np.pi), 101, 1.5)
    sinogram = project_phantom(disc(), geometry, bins=3)
    sharp, smooth = (fbp(sinogram, geometry, SHAPE, PIXEL, cutoff=c) for c in (1.0, 0.3))
    assert_disc(fbp(sinogram, geometry, SHAPE, PIXEL, "cosine", cutoff=0.7))
    assert np.abs(np.diff(smooth)).max() < 0.7 * np.abs(np.diff(sharp)).max()


@pytest.mark.parametrize("pixel", [0.6, 3.0])
@pytest.mark.parametrize(
    "geometry", [ParallelBeam(even(180, np.pi), 101, 1.5), fan_of(even(240))], ids=["parallel", "fan"]
)
def test_pixels_of_any_size_keep_the_scale(geometry, pixel):
    shape = tuple(int(n * PIXEL / pixel) for n in SHAPE)
    image = fbp(project_phantom(disc(), geometry, bins=3), geometry, shape, pixel, "hann")
    interior = np.asarray(image)[inside(shape, pixel, CENTER, RADIUS - 6)]
    np.testing.assert_allclose(interior.mean(), MU, rtol=5e-3)


def test_no_images_at_once_are_none():
    parallel, fan = ParallelBeam(even(8, np.pi), 17), FanBeam(even(8), 17, 2.0, 30.0, 20.0)
    for geometry in (parallel, fan):
        assert fbp(jnp.zeros((0, 8, 17)), geometry, (12, 10)).shape == (0, 12, 10)


def test_shapes_that_are_no_shapes_are_named():
    cone = ConeBeam(even(4), (8, 9), (3.0, 3.0), 40.0, 20.0)
    with pytest.raises(ValueError, match=r"fbp: image_shape: expected \(ny, nx\), found 12"):
        fbp(jnp.zeros((8, 17)), ParallelBeam(even(8, np.pi), 17), 12)
    with pytest.raises(ValueError, match=r"fdk: image_shape: expected \(nz, ny, nx\), found 12"):
        fdk(jnp.zeros((4, 8, 9)), cone, 12)


# The back-projector.


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape, rows, curved", [((1, 9, 37), 1, True), ((20, 5, 6), 40, False)])
def test_native_and_plain_back_projection_agree(double, shape, rows, curved, normal):
    if not native.supports(np.float64 if double else np.float32, "backprojector"):
        pytest.skip("no native back-projector here")
    with jax.enable_x64(double):
        dtype, views, columns = np.float64 if double else np.float32, 4, 45
        rng = np.random.default_rng(1)
        poses = rng.uniform(-0.02, 0.02, (2, views, 7)) + np.array([0.03, 0, 0, 0, 0, 1, 0.4])
        detector = np.array([[1.3 / 0.03, columns / 2, 1.5, rows / 2]])
        weights = rng.uniform(0.5, 1, (1, views, shape[0]))
        operands = [jnp.asarray(a, dtype) for a in (poses, detector, weights)]
        y = normal((1, 2, views, rows, columns), dtype)

        def apply(backend):
            def gather(y):
                return back_project(*operands, y, shape, curved, backend)

            volume = gather(y)
            return volume, jax.linear_transpose(gather, y)(volume)[0]

        (a, back_a), (b, back_b) = (jax.jit(apply, static_argnums=0)(n) for n in ("auto", "jax"))
        tolerance = 1e-12 if double else 2e-5
        for found, exact in ((a, b), (back_a, back_b)):
            assert np.linalg.norm(found - exact) < tolerance * np.linalg.norm(exact)
        np.testing.assert_allclose(np.vdot(a, a), np.vdot(y, back_a), rtol=10 * tolerance)


@pytest.mark.parametrize("backend", ["auto", pytest.param("jax", marks=pytest.mark.slow)])
def test_gradients_in_the_sinogram_are_the_transpose(backend, normal):
    fan, cone = fan_of(even(4), curved=True), ConeBeam(even(4), (8, 9), (3.0, 3.0), 40.0, 20.0)
    for invert, geometry, shape in ((fbp, fan, (6, 7)), (fdk, cone, (4, 5, 6))):
        x, y = normal(shape), normal(geometry.shape, seed=1)

        def inner(y, invert=invert, geometry=geometry, shape=shape, x=x):
            return jnp.vdot(x, invert(y, geometry, shape, 3.0, backend=backend))

        value, gradient = jax.value_and_grad(inner)(y)
        np.testing.assert_allclose(np.vdot(gradient, y), value, rtol=1e-4)


def test_the_axis_is_differentiable():
    with jax.enable_x64(True):
        angles = even(40)
        sinogram = project_phantom(disc(), fan_of(angles, axis_offset=1.0), bins=2)

        def sharpness(offset):
            image = fbp(sinogram, fan_of(angles, axis_offset=offset), (24, 24), 4.0, "hann")
            return jnp.sum(image**2)

        found = jax.grad(sharpness)(0.3)
        step = 1e-5
        exact = (sharpness(0.3 + step) - sharpness(0.3 - step)) / (2 * step)
        np.testing.assert_allclose(found, exact, rtol=1e-3)


@pytest.mark.slow
def test_batches_dtypes_and_compilation(normal, compiled):
    geometry = fan_of(even(4))
    y = normal((2, 3, *geometry.shape))
    together = fbp(y, geometry, (8, 9))
    assert together.shape == (2, 3, 8, 9) and together.dtype == jnp.float32
    one = fbp(y[1, 2], geometry, (8, 9))
    np.testing.assert_allclose(together[1, 2], one, rtol=1e-4, atol=1e-6)
    fbp(2 * y[1, 2], fan_of(even(4) + 0.1), (8, 9))
    assert compiled("_fbp") == 2  # for the batch and for one
    traced = jax.jit(lambda y, g: fbp(y, g, (8, 9)))(y[1, 2], geometry)
    np.testing.assert_allclose(traced, one, rtol=1e-3, atol=1e-5)
    with jax.enable_x64(True):
        double = fbp(y[1, 2].astype(np.float64), fan_of(even(4)), (8, 9))
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(double, one, rtol=1e-3, atol=1e-5)


FAN, CONE = fan_of(even(4)), ConeBeam(even(4), (5, 6), (9.0, 9.0), 90.0, 50.0)
VOLUME = (12, 30, 32)
SPIRAL = ConeBeam(even(4, 5.0), (5, 6), (9.0, 9.0), 90.0, 50.0, pitch=3.0)
POSES = VectorGeometry(np.ones((4, 2)), np.ones((4, 2)), np.ones((4, 2)), None, (5,), False)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fbp(jnp.ones((4, 7)), FAN, SHAPE), ValueError, ["fbp: sinogram", "4, 121", "(4, 7)"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, (5, 5, 5)), ValueError, ["image_shape", "(5, 5, 5)"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, 0.0), ValueError, ["pixel_size", "0.0"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, filter="ramp"), ValueError, ["ram-lak", "'ramp'"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, cutoff=1.5), ValueError, ["cutoff", "(0, 1]", "1.5"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, cutoff=0.0), ValueError, ["cutoff", "0.0"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, method="fourier"), ValueError, ["FanBeam", "'fourier'"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, backend="gpu"), ValueError, ["backend", "'gpu'"]),
        (lambda: fbp(jnp.ones((4, 121)), FAN, (600, 600)), ValueError, ["source"]),
        (
            lambda: fbp(jnp.ones((4, 121)), FAN, SHAPE, PIXEL, "hann", cutoff="1"),
            TypeError,
            ["cutoff", "str"],
        ),
        (
            lambda: fbp(jnp.ones((4, 5)), POSES, SHAPE),
            TypeError,
            ["ParallelBeam or FanBeam", "VectorGeometry"],
        ),
        (lambda: fbp(jnp.ones((4, 5, 6)), CONE, SHAPE), TypeError, ["ConeBeam", "fdk"]),
        (lambda: fdk(jnp.ones((4, 121)), FAN, VOLUME), TypeError, ["FanBeam", "fbp"]),
        (lambda: fdk(jnp.ones((4, 5, 6)), CONE, (5, 5)), ValueError, ["image_shape", "(5, 5)"]),
        (
            lambda: fdk(jnp.ones((4, 6, 5)), CONE, VOLUME),
            ValueError,
            ["fdk: sinogram", "4, 5, 6", "(4, 6, 5)"],
        ),
        (lambda: fdk(jnp.ones((4, 5, 6)), SPIRAL, VOLUME), ValueError, ["full turn", "found 5"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
