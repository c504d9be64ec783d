"""Trajectories are what their names say, within the limits they promise; delays are what shifts them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import fft2c, radial_trajectory
from operators.fourier import gradient_waveform
from operators.mri import (
    cartesian_trajectory,
    epi_trajectory,
    estimate_gradient_delays,
    gradient_delay,
    kooshball_trajectory,
    phyllotaxis_trajectory,
    propeller_trajectory,
    radial_angles,
    rosette_trajectory,
    spiral_trajectory,
    stack_of_spirals,
    stack_of_stars,
    stack_trajectory,
)

SYSTEM = {"gradient_limit": 0.03, "slew_limit": 120.0, "dwell_time": 4e-6}


def dense_ndft(image, k):
    """The non-uniform Fourier transform of its definition: (ny, nx), (samples, 2) -> (samples,)."""
    ey, ex = (
        np.exp(-2j * np.pi * np.outer(k[:, d], np.arange(n) - n // 2)) for d, n in enumerate(image.shape)
    )
    return np.einsum("my,yx,mx->m", ey, image, ex) / np.sqrt(image.size)


EXAMPLES = {
    "cartesian": lambda: cartesian_trajectory((6, 5)),
    "cartesian 3-D": lambda: cartesian_trajectory((3, 4, 5)),
    "epi": lambda: epi_trajectory((6, 7), shots=3, samples=11, ramp_fraction=0.4),
    "radial": lambda: radial_trajectory(5, 8, "tiny-golden", full_circle=True),
    "center-out": lambda: radial_trajectory(5, 8, center_out=True, full_circle=True),
    "kooshball": lambda: kooshball_trajectory(9, 7),
    "kooshball center-out": lambda: kooshball_trajectory(9, 7, center_out=True),
    "phyllotaxis": lambda: phyllotaxis_trajectory(5, 4, 8),
    "rosette": lambda: rosette_trajectory(3, 50, oscillations=4, rotations=3),
    "spiral": lambda: spiral_trajectory(12, 24, field_of_view=0.2, **SYSTEM),
    "stars": lambda: stack_of_stars(4, 5, 8, "golden", tiny_index=3),
    "spirals": lambda: stack_of_spirals(3, 12, 24, field_of_view=0.2, **SYSTEM),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_range_and_dtype(name):
    k = EXAMPLES[name]()
    assert k.ndim == 3 and k.shape[-1] in (2, 3) and k.dtype == jnp.float32
    assert np.abs(k).max() <= 0.5
    with jax.enable_x64(True):
        double = EXAMPLES[name]()
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(double, k, atol=1e-6)


@settings(max_examples=6)
@given(ny=st.integers(1, 9), nx=st.integers(1, 9))
def test_cartesian_and_epi_sample_the_fourier_transform(normal, ny, nx):
    image = normal((ny, nx), np.complex64)
    expected = np.array(fft2c(image))
    k = np.asarray(cartesian_trajectory((ny, nx)), np.float64)
    assert k.shape == (ny, nx, 2)
    np.testing.assert_allclose(dense_ndft(image, k.reshape(-1, 2)).reshape(ny, nx), expected, atol=1e-5)
    expected[1::2] = expected[1::2, ::-1]
    k = np.asarray(epi_trajectory((ny, nx)), np.float64)
    np.testing.assert_allclose(dense_ndft(image, k[0]).reshape(ny, nx), expected, atol=1e-5)


def test_cartesian_volume_counts_like_the_arrays():
    k = np.asarray(cartesian_trajectory((2, 3, 4))).reshape(2, 3, 4, 3)
    z, y, x = np.meshgrid([-0.5, 0], [-1 / 3, 0, 1 / 3], [-0.5, -0.25, 0, 0.25], indexing="ij")
    np.testing.assert_allclose(k, np.stack([z, y, x], -1), rtol=1e-6)


def test_epi_shots_and_ramps():
    ny, nx, samples, ramp = 12, 16, 400, 0.5
    with jax.enable_x64(True):
        k = np.asarray(epi_trajectory((ny, nx), shots=3, samples=samples, ramp_fraction=ramp))
    k = k.reshape(3, 4, samples, 2)
    lines = np.round(k[..., 0, 0] * ny).astype(int)
    np.testing.assert_array_equal(lines, (np.arange(4) * 3 + np.arange(3)[:, None]) - 6)
    np.testing.assert_array_equal(k[..., 0], k[..., :1, 0] * np.ones(samples))
    np.testing.assert_array_equal(k[:, 1::2, ::-1, 1], k[:, ::2, :, 1])
    # The gradient is a trapezoid: its plateau lasts half of the time, its ramps rise linearly from zero.
    gradient = np.diff(k[0, 0, :, 1]) * samples
    np.testing.assert_allclose(gradient[101:299], 4 / 3, rtol=1e-9)
    np.testing.assert_allclose(gradient[:99], 4 / 3 * (np.arange(99) + 0.5) / 100, rtol=1e-6)
    np.testing.assert_allclose(gradient.sum() / samples, 1, rtol=1e-4)
    assert k[0, 0, samples // 2, 1] == 0


def test_angles():
    golden, tiny = np.deg2rad(111.246117975), np.deg2rad(23.62814)
    np.testing.assert_allclose(radial_angles(4), np.pi * np.arange(4) / 4)
    np.testing.assert_allclose(radial_angles(4, full_circle=True), np.pi * np.arange(4) / 2)
    np.testing.assert_allclose(radial_angles(9, "golden"), golden * np.arange(9) % np.pi, atol=1e-9)
    np.testing.assert_allclose(radial_angles(9, "tiny-golden"), tiny * np.arange(9) % np.pi, atol=1e-5)
    np.testing.assert_allclose(radial_angles(9, "golden"), radial_angles(9, "tiny-golden", tiny_index=1))
    # On the full circle the golden step is the complement of the golden angle of 137.51 degrees.
    np.testing.assert_allclose(
        radial_angles(2, "golden", full_circle=True)[1], 2 * np.pi - 2.39996323, rtol=1e-8
    )


@settings(max_examples=10)
@given(start=st.integers(0, 99), count=st.integers(2, 60), index=st.integers(1, 8))
def test_golden_angles_cover_the_circle(start, count, index):
    """Gaps between consecutive spokes take two or three lengths (three-distance theorem), none too wide."""
    angles = np.sort(radial_angles(start + count, "tiny-golden", tiny_index=index)[start:])
    gaps = np.diff(np.append(angles, angles[0] + np.pi))
    distinct = np.sort(gaps)[np.append(True, np.diff(np.sort(gaps)) > 1e-9)]
    assert len(distinct) <= 3
    if count > 3 * index:
        assert gaps.max() < 3 * np.pi / count


@pytest.mark.parametrize("samples", [8, 9])
@pytest.mark.parametrize("make", [radial_trajectory, kooshball_trajectory])
def test_spokes_are_straight_equidistant_and_through_dc(make, samples):
    with jax.enable_x64(True):
        k = np.asarray(make(7, samples))
        outward = np.asarray(make(7, samples, center_out=True))
    assert (k[:, samples // 2] == 0).all() and (outward[:, 0] == 0).all()
    for spokes, spacing in ((k, 1 / samples), (outward, 0.5 / samples)):
        steps = np.diff(spokes, axis=1)
        np.testing.assert_allclose(np.linalg.norm(steps, axis=-1), spacing)
        np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-12)


def test_radial_orientation():
    """Columns are (ky, kx); angles turn from kx towards ky."""
    k = np.asarray(radial_trajectory(2, 4))
    np.testing.assert_allclose(k[0], np.stack([np.zeros(4), [-0.5, -0.25, 0, 0.25]], -1), atol=1e-7)
    np.testing.assert_allclose(k[1], np.stack([[-0.5, -0.25, 0, 0.25], np.zeros(4)], -1), atol=1e-7)


def test_kooshball_is_uniform():
    """Moments of uniform directions: <n n^T> = 1/3, <z^4> = 1/5; and <n> = 0 for the whole sphere."""
    half = np.asarray(kooshball_trajectory(2000, 2))[:, 0] / -0.5
    whole = np.asarray(kooshball_trajectory(2000, 2, center_out=True))[:, 1] / 0.25
    for n in (half, whole):
        np.testing.assert_allclose(n.T @ n / len(n), np.eye(3) / 3, atol=0.01)
        np.testing.assert_allclose(np.mean(n**4, axis=0), 1 / 5, atol=0.01)
    assert (half[:, 0] >= 0).all()
    np.testing.assert_allclose(whole.mean(0), 0, atol=0.01)


def test_phyllotaxis():
    interleaves, spokes = 13, 20
    n = np.asarray(phyllotaxis_trajectory(interleaves, spokes, 2), np.float64)[:, 0] / -0.5
    np.testing.assert_allclose(np.linalg.norm(n, axis=-1), 1, rtol=1e-5)
    n = n.reshape(interleaves, spokes, 3)
    # Within an interleave the polar angle rises and steps stay small: thirteen golden angles are five turns.
    polar = np.arccos(np.clip(n[..., 0], -1, 1))
    assert (np.diff(polar, axis=1) > 0).all()
    np.testing.assert_allclose(polar[-1, -1], np.pi / 2, rtol=1e-5)
    np.testing.assert_allclose(
        np.sort(polar, axis=None) ** 2, np.pi**2 / 4 * np.arange(1, 261) / 260, atol=1e-4
    )
    azimuth = np.unwrap(np.arctan2(n[..., 1], n[..., 2]), axis=1)
    step = 13 * np.deg2rad(137.50776) - 10 * np.pi
    np.testing.assert_allclose(np.diff(azimuth, axis=1), step, atol=1e-3)


@given(blades=st.integers(1, 5), lines=st.integers(1, 6), samples=st.sampled_from([8, 9, 16]))
@settings(max_examples=8)
def test_propeller_blades_are_rotated_strips(blades, lines, samples):
    k = np.asarray(propeller_trajectory(blades, lines, samples, matrix=8)).reshape(blades, lines, samples, 2)
    x = (np.arange(samples) - samples // 2) / samples
    y = (np.arange(lines) - lines // 2) / 8
    for blade, angle in zip(k, np.pi * np.arange(blades) / blades, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(blade[..., 1] * cos + blade[..., 0] * sin, x + 0 * y[:, None], atol=1e-6)
        np.testing.assert_allclose(blade[..., 0] * cos - blade[..., 1] * sin, y[:, None] + 0 * x, atol=1e-6)


def test_rosette():
    k = np.asarray(rosette_trajectory(3, 400, oscillations=5, rotations=2), np.float64)
    radius = np.linalg.norm(k, axis=-1)
    np.testing.assert_allclose(
        radius, 0.5 * np.abs(np.sin(10 * np.pi * np.arange(400) / 400)) * np.ones((3, 1)), atol=1e-6
    )
    # Ten petals: DC is crossed every 40 samples; interleaves are rotated by a third of a turn.
    assert (radius[:, ::40] < 1e-6).all()
    turn = np.exp(2j * np.pi / 3)
    z = k[..., 1] + 1j * k[..., 0]
    np.testing.assert_allclose(z[1:], z[:-1] * turn, atol=1e-6)


def test_stacks():
    plane = radial_trajectory(5, 8, "golden")
    stack = np.asarray(stack_of_stars(4, 5, 8, "golden")).reshape(4, 5, 8, 3)
    for kz, partition in zip([-0.5, -0.25, 0, 0.25], stack, strict=True):
        np.testing.assert_array_equal(partition[..., 0], kz)
        np.testing.assert_array_equal(partition[..., 1:], plane)
    spiral = spiral_trajectory(12, 24, field_of_view=0.2, **SYSTEM)
    stack = np.asarray(stack_of_spirals(3, 12, 24, field_of_view=0.2, **SYSTEM))
    np.testing.assert_array_equal(stack, stack_trajectory(spiral, 3))
    np.testing.assert_array_equal(stack[12:24, :, 1:], spiral)


@pytest.mark.slow
@settings(max_examples=12)
@given(
    interleaves=st.sampled_from([1, 3, 16, 48]),
    matrix=st.sampled_from([16, 64, 160]),
    fov=st.sampled_from([0.05, 0.24]),
    gradient=st.sampled_from([0.01, 0.04, 0.2]),
    slew=st.sampled_from([40.0, 200.0]),
    dwell=st.sampled_from([2e-6, 1e-5]),
    density=st.sampled_from([(1.0, 1.0), (3.0, 0.5), (0.4, 2.0)]),
)
def test_spirals_keep_the_limits_and_use_them(interleaves, matrix, fov, gradient, slew, dwell, density):
    with jax.enable_x64(True):
        k = spiral_trajectory(
            interleaves,
            matrix,
            field_of_view=fov,
            gradient_limit=gradient,
            slew_limit=slew,
            dwell_time=dwell,
            density=density,
        )
        gradients = np.asarray(gradient_waveform(k[0], fov / matrix, dwell))
    k = np.asarray(k)
    # The gradient is zero before the first sample.
    gradients = np.concatenate([np.zeros((1, 2)), gradients])
    strength = np.linalg.norm(gradients, axis=-1)
    slews = np.linalg.norm(np.diff(gradients, axis=0), axis=-1) / dwell
    nyquist = 1 / (42.577478518e6 * fov * dwell)
    assert strength.max() <= min(gradient, nyquist) * 1.0001 and slews.max() <= slew * 1.0001
    # Fastest: at every time one of the limits is (nearly) active.
    active = np.maximum(strength[1:] / min(gradient, nyquist), slews / slew)
    assert np.quantile(active[1:], 0.02) > 0.93
    # It starts at DC, its radius grows to the edge, and interleaves are rotated copies.
    radius = np.linalg.norm(k, axis=-1)
    assert radius[0, 0] == 0 and (np.diff(radius[0]) > 0).all() and radius.max() < 0.5
    assert radius[0, -1] + 1.1 * (radius[0, -1] - radius[0, -2]) >= 0.5
    z = k[..., 1] + 1j * k[..., 0]
    np.testing.assert_allclose(
        z, z[:1] * np.exp(2j * np.pi * np.arange(interleaves) / interleaves)[:, None], atol=1e-9
    )


@pytest.mark.parametrize("density", [(1.0, 1.0), (2.0, 0.5)])
def test_distance_of_spiral_turns(density):
    """Along a ray, neighboring turns of all interleaves are 1 / (density(|k|) matrix) apart."""
    interleaves, matrix = 4, 32
    k = np.asarray(
        spiral_trajectory(interleaves, matrix, field_of_view=0.2, density=density, **SYSTEM), np.float64
    )
    radius = np.linalg.norm(k, axis=-1)
    angle = np.unwrap(np.arctan2(k[..., 0], k[..., 1])[:, 1:], axis=1)
    crossings = []
    for turns, radii in zip(angle / (2 * np.pi), radius[:, 1:], strict=True):
        whole = np.arange(np.ceil(turns[0]), np.floor(turns[-1]) + 1)
        crossings.extend(np.interp(whole, turns, radii))
    crossings = np.sort(crossings)
    assert len(crossings) >= 8
    middle = (crossings[1:] + crossings[:-1]) / 2
    expected = 1 / (matrix * (density[0] + (density[1] - density[0]) * middle / 0.5))
    np.testing.assert_allclose(np.diff(crossings), expected, rtol=0.02)


def test_spirals_take_less_time_on_better_gradients():
    limits = itertools.product((0.01, 0.04), (50.0, 200.0))
    samples = [
        spiral_trajectory(8, 64, field_of_view=0.2, gradient_limit=g, slew_limit=s, dwell_time=2e-6).shape[1]
        for g, s in limits
    ]
    assert samples[3] < samples[2] < samples[0] and samples[3] < samples[1] < samples[0]


def test_delay_of_spokes_is_exact():
    k = radial_trajectory(6, 9)
    delays = np.array([0.7, -1.3])
    index = np.arange(9) - 4 - delays[:, None]
    angles = radial_angles(6)
    expected = np.stack([np.outer(np.sin(angles), index[0]), np.outer(np.cos(angles), index[1])], -1) / 9
    np.testing.assert_allclose(gradient_delay(k, delays), expected, atol=1e-6)


@settings(max_examples=8)
@pytest.mark.slow
@given(samples=st.integers(2, 9), delay=st.floats(-3, 3))
def test_delay_of_polynomials_is_exact(samples, delay):
    """Through n samples up to the fourth, polynomials of lower degree are themselves."""
    degree = min(samples, 4) - 1
    t = np.arange(samples) / 4
    with jax.enable_x64(True):
        k = np.stack([t**degree, 1 - t], -1)
        shifted = t - delay / 4
        delayed = gradient_delay(k, np.array([delay, 0.0]))
        np.testing.assert_allclose(delayed, np.stack([shifted**degree, 1 - t], -1), atol=1e-10)


def test_delay_of_a_spiral():
    """Delayed by two samples it is two samples behind; halves of a sample lie in between to third order."""
    k = spiral_trajectory(12, 24, field_of_view=0.2, **SYSTEM)
    late = np.asarray(gradient_delay(k, np.array([2.0, 0.0])))
    np.testing.assert_array_equal(late[:, 2:, 0], k[:, :-2, 0])
    np.testing.assert_array_equal(late[..., 1], k[..., 1])
    twice = gradient_delay(gradient_delay(k, np.array([0.5, 0.5])), np.array([0.5, 0.5]))
    np.testing.assert_allclose(twice[:, 4:], k[:, 3:-1], atol=1e-5)


def test_delays_are_found_by_gradient_descent():
    """The derivative in the delays is that of the trajectory in time, and leads to the true delays."""
    with jax.enable_x64(True):
        nominal, truth = jnp.asarray(radial_trajectory(8, 16)), jnp.array([0.4, -0.3])
        measured = jnp.sin(7 * gradient_delay(nominal, truth).sum(-1))

        @jax.jit
        @jax.grad
        def slope(delays):
            found = jnp.sin(7 * gradient_delay(nominal, delays).sum(-1))
            return jnp.mean((found - measured) ** 2)

        delays = jnp.zeros(2)
        for _ in range(200):
            delays -= 4 * slope(delays)
        np.testing.assert_allclose(delays, truth, atol=1e-4)


@pytest.mark.parametrize("spokes", [24, 33])
@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.3, -0.5), (1.4, 0.62)])
def test_delays_are_estimated(normal, spokes, delays):
    """Measurements of a smooth object along delayed spokes, at nominal positions."""
    n = np.arange(24) - 12
    y, x = n[:, None], n
    image = np.exp(-(((y - 2) / 6) ** 2) - (x / 4) ** 2) + 0.7j * np.exp(
        -(((y + 3) / 3) ** 2) - ((x - 4) / 5) ** 2
    )
    nominal = radial_trajectory(spokes, 48, full_circle=True)
    actual = np.asarray(gradient_delay(nominal, np.array(delays)), np.float64)
    kspace = dense_ndft(image, actual.reshape(-1, 2)).reshape(spokes, 48)
    kspace = kspace + 1e-3 * normal(kspace.shape, complex)
    np.testing.assert_allclose(estimate_gradient_delays(kspace, nominal), delays, atol=0.03)


PLANE = np.zeros((3, 8, 2))
GOOD = {"field_of_view": 0.2, **SYSTEM}


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: cartesian_trajectory((4,)), ValueError, ["image_shape", "(4,)"]),
        (lambda: cartesian_trajectory((4, 0)), ValueError, ["image_shape", "0"]),
        (lambda: epi_trajectory((6, 4), shots=4), ValueError, ["shots", "6", "4"]),
        (lambda: epi_trajectory((6, 4), ramp_fraction=1.2), ValueError, ["ramp_fraction", "1.2"]),
        (lambda: radial_trajectory(0, 8), ValueError, ["spokes", "0"]),
        (lambda: radial_trajectory(4, 8.0), TypeError, ["samples", "float"]),
        (lambda: radial_trajectory(4, 8, "silver"), ValueError, ["order", "'silver'", "tiny-golden"]),
        (lambda: radial_trajectory(4, 8, "tiny-golden", tiny_index=0), ValueError, ["tiny_index", "0"]),
        (lambda: phyllotaxis_trajectory(5, 0, 8), ValueError, ["spokes", "0"]),
        (lambda: propeller_trajectory(4, 9, 16, matrix=8), ValueError, ["lines", "8", "9"]),
        (lambda: rosette_trajectory(2, 8, oscillations=np.inf, rotations=1), ValueError, ["oscillations"]),
        (lambda: stack_trajectory(PLANE[0], 4), ValueError, ["trajectory", "(8, 2)"]),
        (lambda: stack_trajectory(PLANE + 3, 4), ValueError, ["cycles/pixel", "from_radians"]),
        (lambda: spiral_trajectory(4, 32, **GOOD | {"slew_limit": 0.0}), ValueError, ["slew_limit", "0"]),
        (lambda: spiral_trajectory(4, 32, **GOOD, density=(1.0,)), ValueError, ["density", "(1.0,)"]),
        (lambda: spiral_trajectory(4, 32, **GOOD, density=(1.0, 0.0)), ValueError, ["density", "0"]),
        (lambda: spiral_trajectory(4, 1, **GOOD), ValueError, ["matrix", "at least 2", "1"]),
        (lambda: gradient_delay(PLANE, np.zeros(3)), ValueError, ["delays", "(2,)", "(3,)"]),
        (lambda: gradient_delay(PLANE[:, :1], np.zeros(2)), ValueError, ["two samples", "(3, 1, 2)"]),
        (lambda: estimate_gradient_delays(PLANE[..., 0], PLANE[:2]), ValueError, ["(2, 8, 2)", "(3, 8)"]),
        (
            lambda: estimate_gradient_delays(np.ones((1, 8)), radial_trajectory(1, 8)),
            ValueError,
            ["trajectory", "45 degrees"],
        ),
        (
            lambda: jax.jit(lambda y: estimate_gradient_delays(y, PLANE))(np.ones((3, 8))),
            TypeError,
            ["concrete"],
        ),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
