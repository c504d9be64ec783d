"""Simulated sensitivities against closed-form and independently integrated magnetic fields."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import rss
from operators.mri import biot_savart_maps, birdcage_maps, loop_field

MU0 = 4e-7 * math.pi
birdcage = jax.jit(birdcage_maps, static_argnums=(0, 1, 2, 3), static_argnames="rings")
biot_savart = jax.jit(
    biot_savart_maps, static_argnums=(0, 1, 2, 3), static_argnames=("loop_radius", "rings", "segments")
)
field_of_loop = jax.jit(loop_field, static_argnames="segments")


def test_the_field_on_the_axis_has_its_closed_form(x64):
    radius, z = 0.07, np.linspace(-0.3, 0.3, 13)
    center, normal = np.array([0.1, -0.2, 0.05]), np.array([1.0, 2.0, -2.0]) / 3
    field = field_of_loop(center + z[:, None] * normal, center, 5 * normal, radius)
    expected = MU0 * radius**2 / (2 * (radius**2 + z**2) ** 1.5)
    np.testing.assert_allclose(field, expected[:, None] * normal, rtol=1e-12, atol=1e-20)


def test_the_field_off_the_axis_is_that_of_the_elliptic_integrals(x64, normal):
    # Smythe, Static and Dynamic Electricity, section 7.10.
    a = 0.1
    rho, z, phi = np.abs(normal((3, 40), float)) * [[0.2], [0.2], [3.0]]
    near, far = (a - rho) ** 2 + z**2, (a + rho) ** 2 + z**2
    keep = near > 0.03**2
    m = 4 * a * rho / far
    k, e = scipy.special.ellipk(m), scipy.special.ellipe(m)
    common = MU0 / (2 * np.pi * np.sqrt(far))
    axial = common * (k + (a**2 - rho**2 - z**2) / near * e)
    radial = common * z / rho * (-k + (a**2 + rho**2 + z**2) / near * e)
    expected = np.stack([radial * np.cos(phi), radial * np.sin(phi), axial], -1)
    points = np.stack([rho * np.cos(phi), rho * np.sin(phi), z], -1)
    found = field_of_loop(points, np.zeros(3), np.array([0.0, 0.0, 1.0]), a, segments=256)
    assert keep.sum() > 20
    np.testing.assert_allclose(found[keep], expected[keep], rtol=1e-9, atol=1e-18)


@pytest.mark.slow
def test_the_field_has_neither_sources_nor_currents_off_the_wire(x64, normal):
    points = 0.05 * normal((20, 3), float)

    def field(point):
        return field_of_loop(point, np.array([0.2, 0.0, 0.1]), np.array([-1.0, 0.3, 0.0]), 0.08)

    jacobians = np.asarray(jax.vmap(jax.jacfwd(field))(points))
    scale = np.abs(jacobians).max()
    np.testing.assert_allclose(np.trace(jacobians, axis1=1, axis2=2), 0, atol=1e-12 * scale)
    # Biot and Savart are curl-free only where the current closes.
    np.testing.assert_allclose(jacobians, jacobians.swapaxes(1, 2), atol=1e-8 * scale)


@pytest.mark.slow
def test_the_field_is_finite_on_the_wire():
    field = field_of_loop(jnp.array([[0.1, 0.0, 0.0]]), jnp.zeros(3), jnp.array([0.0, 0.0, 1.0]), 0.1, 4)
    assert bool(jnp.all(jnp.isfinite(field)))


def test_birdcage_elements_are_straight_wires():
    n, coils, radius = 8, 3, 1.4
    maps = np.asarray(birdcage((n, n), coils, radius))
    axis = (np.arange(n) - (n - 1) / 2) * (2 / n)
    x, y = np.meshgrid(axis, -axis)
    # Biot and Savart along a wire in z: the far ends of the integral are negligible.
    s = np.sinh(np.linspace(-12, 12, 4001))
    fields = []
    for t in 2 * np.pi * np.arange(coils) / coils:
        dx, dy = x - radius * np.cos(t), y - radius * np.sin(t)
        weight = np.trapezoid((dx[..., None] ** 2 + dy[..., None] ** 2 + s**2) ** -1.5, s)
        fields.append((-dy - 1j * dx) * weight)
        at_center = 1j * np.exp(-1j * t)  # the phase of Bx - i By on the axis of the circle
        fields[-1] /= at_center
    expected = np.array(fields) / np.sqrt((np.abs(fields) ** 2).sum(0))
    np.testing.assert_allclose(maps, expected, atol=1e-4)


@pytest.mark.slow
def test_birdcage_rings_fall_off_with_distance():
    maps = np.asarray(birdcage((5, 4, 6), 6, 1.5, rings=2))
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * (2 / n) for n in (5, 4, 6)), indexing="ij")
    t = 2 * np.pi * np.array([0, 1, 2, 0.5, 1.5, 2.5]) / 3
    positions = np.stack([1.5 * np.cos(t), 1.5 * np.sin(t), [-0.5] * 3 + [0.5] * 3])[:, :, None, None, None]
    distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(positions, (x, -y, z), strict=True)))
    expected = 1 / distance / np.sqrt((distance**-2.0).sum(0))
    np.testing.assert_allclose(np.abs(maps), expected, rtol=1e-4)


@pytest.mark.parametrize("turns", [0, 1])
def test_turning_the_array_turns_the_maps(turns):
    """The next of four elements sees the image turned by a quarter; the transverse field turns with it."""
    n = 9
    wires, loops = np.asarray(birdcage((n, n), 4)), np.asarray(biot_savart((n, n), 4, 0.3, 0.2))
    for maps, phase in ((wires, 1.0), (loops, -1j)):
        expected = phase * np.rot90(maps[turns])
        np.testing.assert_allclose(maps[turns + 1], expected, atol=1e-4 * np.abs(maps).max())


@pytest.mark.slow
def test_loops_are_distant_dipoles_when_small(x64):
    radius, shape = 0.4, (4, 6)
    maps = np.asarray(biot_savart(shape, 5, (0.2, 0.3), radius, loop_radius=1e-3))
    y, x = np.meshgrid(
        -(np.arange(4) - 1.5) * 0.05, (np.arange(6) - 2.5) * 0.05, indexing="ij"
    )  # rows run downwards
    expected = []
    for t in 2 * np.pi * np.arange(5) / 5:
        moment = -np.array([np.cos(t), np.sin(t)])
        offset = np.stack([x, y], -1) + radius * moment
        distance = np.linalg.norm(offset, axis=-1, keepdims=True)
        unit = offset / distance
        field = (3 * (unit @ moment)[..., None] * unit - moment) / distance**3
        expected.append(field[..., 0] - 1j * field[..., 1])
    # On the axis of every dipole, at the origin, the field is 2 / radius^3.
    np.testing.assert_allclose(maps, np.array(expected) * radius**3 / (2 * np.sqrt(5)), atol=2e-4)


def test_loops_have_unit_sensitivity_at_the_origin():
    maps = np.asarray(biot_savart((3, 5, 7), 2, (0.2, 0.25, 0.3), 0.18, rings=2, segments=16))
    np.testing.assert_allclose(rss(maps, 0)[1, 2, 3], 1, rtol=1e-5)
    # The first loop is on the right and below, the second on the left and above.
    assert np.unravel_index(np.argmax(np.abs(maps[0])), (3, 5, 7))[::2] == (0, 6)
    np.testing.assert_allclose(maps[1], -maps[0, ::-1, ::-1, ::-1], atol=1e-4 * np.abs(maps).max())


@pytest.mark.slow
@settings(max_examples=4)
@given(
    ny=st.integers(1, 6), nx=st.integers(1, 6), coils=st.integers(1, 3), radius=st.sampled_from([0.5, 1.0])
)
def test_birdcage_maps_are_normalized_wherever_the_elements_are(ny, nx, coils, radius):
    maps = birdcage((ny, nx), coils, radius)
    assert maps.shape == (coils, ny, nx) and maps.dtype == jnp.complex64
    np.testing.assert_allclose(rss(maps), 1, rtol=1e-5)


@pytest.mark.slow
def test_double_precision_is_kept(x64):
    assert birdcage((2, 2), 2).dtype == jnp.complex128
    assert biot_savart((2, 2), 2, 0.2, 0.2, segments=4).dtype == jnp.complex128


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: birdcage_maps((4,), 2), ValueError, ["shape", "(4,)"]),
        (lambda: birdcage_maps((4, 0), 2), ValueError, ["shape", "0"]),
        (lambda: birdcage_maps((4, 4), 0), ValueError, ["coils", "0"]),
        (lambda: birdcage_maps((4, 4), 2, -1.0), ValueError, ["radius", "-1"]),
        (lambda: birdcage_maps((4, 4), 4, rings=3), ValueError, ["rings", "4", "3"]),
        (lambda: biot_savart_maps((4, 4), 2.0, 0.2, 0.2), TypeError, ["coils", "float"]),
        (lambda: biot_savart_maps((4, 4), 2, (0.2,), 0.2), ValueError, ["field_of_view", "(0.2,)"]),
        (lambda: biot_savart_maps((4, 4), 2, 0.2, 0.2, loop_radius=0), ValueError, ["loop_radius", "0"]),
        (lambda: loop_field(jnp.ones((4, 2)), jnp.ones(3), jnp.ones(3), 1.0), ValueError, ["(4, 2)"]),
        (lambda: loop_field(jnp.ones(3), jnp.ones(2), jnp.ones(3), 1.0), ValueError, ["center", "(2,)"]),
        (lambda: loop_field(jnp.ones(3), jnp.ones(3), jnp.ones(3), 1.0, 0), ValueError, ["segments", "0"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
