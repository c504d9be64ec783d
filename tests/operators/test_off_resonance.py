"""Off-resonance against the direct sum over pixels in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import NUFFT, SENSE, CartesianFourier, Identity, OffResonance, cg_sense, rasterize, shepp_logan
from operators.mri import field_map_from_echoes, off_resonance_segments

SHAPE = (12, 10)
DURATION = 0.02


def smooth_field(shape=SHAPE, hertz=80.0):
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return hertz * (np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.3) - 0.5 * x * y - 0.4)


def decay(shape=SHAPE):
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return 40 + 30 * np.sin(2 * x + y)


def spiral(samples=150):
    t = np.linspace(0, 1, samples)
    trajectory = 0.49 * t[:, None] * np.stack([np.sin(30 * t), np.cos(30 * t)], -1)
    return trajectory, 0.005 + DURATION * t


def exact(trajectory, times, field, r2=0.0):
    """The matrix of the direct sum (samples, pixels)."""
    positions = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in field.shape), indexing="ij"), -1)
    fourier = np.exp(-2j * np.pi * trajectory @ positions.reshape(-1, 2).T)
    rates = np.ravel(r2 + 2j * np.pi * field)
    return fourier * np.exp(-np.outer(times, rates)) / np.sqrt(field.size)


def cartesian(shape=SHAPE):
    """Trajectory and line-by-line times of an echo-planar readout of a Cartesian grid."""
    k = np.stack(np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij"), -1)
    times = 0.01 + DURATION * np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
    return k.reshape(-1, 2), times


def error(found, expected):
    return float(np.linalg.norm(np.ravel(found - expected)) / np.linalg.norm(np.ravel(expected)))


@functools.partial(jax.jit, static_argnames=("segments", "method"))
def applied(fourier, field, times, segments, x, r2=None, method="svd"):
    return OffResonance(fourier, field, times, segments, r2, method)(x)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svd", "min-max"])
def test_error_against_the_direct_sum_falls_quickly(method, x64, normal):
    trajectory, times = spiral()
    field, r2, x = smooth_field(), decay(), normal(SHAPE, complex)
    expected = exact(trajectory, times, field, r2) @ x.ravel()
    F = NUFFT(trajectory, SHAPE, eps=1e-10)
    errors = {n: error(applied(F, field, times, n, x, r2, method), expected) for n in (2, 5, 7, 11)}
    assert errors[2] > 0.1 and errors[5] < 0.03 and errors[7] < 1e-3 and errors[11] < 1e-6


def test_single_precision(normal):
    trajectory, times = spiral()
    field, x = smooth_field(), normal(SHAPE, np.complex64)
    expected = exact(trajectory, times, field) @ x.ravel()
    F = NUFFT(trajectory.astype(np.float32), SHAPE, eps=1e-5)
    for method in ("svd", "min-max"):
        found = applied(F, field.astype(np.float32), times.astype(np.float32), 12, x, method=method)
        assert found.dtype == np.complex64 and error(found, expected) < 5e-5


def test_lines_of_a_cartesian_readout(x64, normal):
    trajectory, times = cartesian()
    field, x = smooth_field(), normal(SHAPE, complex)
    found = applied(CartesianFourier(SHAPE), field, times, 11, x)
    np.testing.assert_allclose(found.ravel(), exact(trajectory, times.ravel(), field) @ x.ravel(), atol=1e-5)
    rows = applied(CartesianFourier(SHAPE), field, times[:, :1], 11, x, np.zeros(SHAPE, np.float32))
    expected = exact(trajectory, np.broadcast_to(times[:, :1], SHAPE).ravel(), field) @ x.ravel()
    np.testing.assert_allclose(rows.ravel(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@settings(max_examples=2)
@given(
    ny=st.integers(1, 5),
    nx=st.integers(1, 5),
    coils=st.integers(0, 2),
    segments=st.integers(1, 4),
    method=st.sampled_from(["svd", "min-max"]),
)
def test_off_resonance_is_a_true_operator(
    normal, assert_linear_operator, double, ny, nx, coils, segments, method
):
    with jax.enable_x64(double):
        F = CartesianFourier((ny, nx))
        if coils:
            F = SENSE(F, normal((coils, ny, nx), complex))
        times = np.linspace(0, DURATION, nx)
        field, r2 = 50 * normal((ny, nx), float), np.abs(normal((ny, nx), float, 1))
        A = jax.jit(OffResonance, static_argnums=(3, 5))(F, field, times, segments, r2, method)
        assert A.out_shape == F.out_shape
        assert_linear_operator(A)


@pytest.mark.parametrize("method", ["svd", "min-max"])
@pytest.mark.parametrize("hertz", [0.0, 55.0])
def test_constant_fields_are_a_phase(hertz, method, x64, normal):
    trajectory, times = spiral()
    F, x = NUFFT(trajectory, SHAPE, eps=1e-6), normal(SHAPE, complex)
    found = applied(F, np.full(SHAPE, hertz), times, 7, x, method=method)
    np.testing.assert_allclose(found, np.exp(-2j * np.pi * hertz * times) * F(x), atol=1e-7)
    at_once = applied(F, smooth_field(), np.full(150, 0.01), 2, x, method=method)
    np.testing.assert_allclose(at_once, F(np.exp(-2j * np.pi * smooth_field() * 0.01) * x), atol=1e-6)


def test_coils_inside_and_outside(normal):
    maps, times = normal((3, *SHAPE), np.complex64), np.linspace(0, DURATION, SHAPE[1])
    F, x = CartesianFourier(SHAPE), normal(SHAPE, np.complex64)
    fields = np.stack([smooth_field(), smooth_field(hertz=20.0)]).astype(np.float32)

    @jax.jit
    def both(field):
        inside = OffResonance(SENSE(F, maps), field, times, 6)
        return inside(x), SENSE(OffResonance(F, field, times, 6), maps)(x), inside

    inside, outside, _ = both(fields[0])
    np.testing.assert_allclose(inside, outside, atol=1e-4)
    # Fields of a batch get operators of their own, which are stacked like any others.
    together, _, operators = jax.jit(jax.vmap(both))(fields)
    np.testing.assert_allclose(together[0], inside, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(lambda A: A(x))(operators), together, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svd", "min-max"])
@pytest.mark.parametrize("flat", [False, True])
def test_map_gradients_are_those_of_the_exact_model(flat, method, x64, normal):
    trajectory, times = spiral(60)
    field, r2 = (np.zeros(SHAPE), np.full(SHAPE, 30.0)) if flat else (smooth_field(), decay())
    F = NUFFT(trajectory, SHAPE, eps=1e-10)
    x, y = normal(SHAPE, complex), normal((60,), complex, 1)

    @jax.jit
    def loss(field, r2):
        return jnp.sum(jnp.abs(OffResonance(F, field, times, 10, r2, method)(x) - y) ** 2)

    def reference(field, r2):
        return np.sum(np.abs(exact(trajectory, times, field, r2) @ x.ravel() - y) ** 2)

    found = jax.grad(loss, (0, 1))(field, r2)
    rng, step = np.random.default_rng(0), 1e-3
    for _ in range(3):
        df, dr = rng.standard_normal((2, *SHAPE))
        slopes = (
            reference(field + step * df, r2) - reference(field - step * df, r2),
            reference(field, r2 + step * dr) - reference(field, r2 - step * dr),
        )
        for gradient, direction, slope in zip(found, (df, dr), slopes, strict=True):
            scale = np.linalg.norm(gradient)
            assert abs(np.sum(gradient * direction) - slope / (2 * step)) < 1e-4 * scale


@pytest.mark.slow
def test_segments_needed(x64, normal):
    trajectory, times = spiral()
    x, counts = normal(SHAPE, complex), []
    F = NUFFT(trajectory, SHAPE, eps=1e-10)
    for hertz, r2 in ((30.0, None), (150.0, decay())):
        field = smooth_field(hertz=hertz)
        expected = exact(trajectory, times, field, 0.0 if r2 is None else r2) @ x.ravel()
        for tolerance in (1e-2, 1e-4) if r2 is None else (1e-4,):
            n = off_resonance_segments(field, times, tolerance, r2)
            counts.append(n)
            assert error(applied(F, field, times, n, x, r2), expected) < 2 * tolerance
            assert error(applied(F, field, times, n + 3, x, r2, "min-max"), expected) < 2 * tolerance
    assert counts[0] < counts[1] < counts[2]
    assert off_resonance_segments(np.zeros(SHAPE), times, 0.05) == 1


@pytest.mark.slow
def test_correction_removes_the_blur(normal):
    trajectory, times = spiral(400)
    image = np.asarray(rasterize(shepp_logan(), SHAPE)).astype(np.complex64)
    field = smooth_field()
    matrix = exact(trajectory, times, field)
    y = (matrix @ image.ravel()).astype(np.complex64)
    gram = matrix.conj().T @ matrix + 0.05 * np.eye(image.size)
    expected = np.linalg.solve(gram, matrix.conj().T @ y).reshape(SHAPE)
    F = NUFFT(trajectory.astype(np.float32), SHAPE, eps=1e-5)
    A = OffResonance(F, field.astype(np.float32), times.astype(np.float32), 8)
    corrected, blurred = (cg_sense(B, y, regularization=0.05, iterations=60) for B in (A, F))
    assert error(corrected, expected) < 1e-3
    assert error(corrected, image) < 0.6 * error(blurred, image)


@pytest.mark.slow
def test_field_map_by_gradient_descent(x64):
    trajectory, times = spiral(400)
    image = 0.5 + np.asarray(rasterize(shepp_logan(), SHAPE))
    basis = np.stack([smooth_field(hertz=1.0), np.ones(SHAPE), np.linspace(-1, 1, 10) * np.ones(SHAPE)])
    truth = np.array([30.0, -8.0, 10.0])
    y = exact(trajectory, times, np.tensordot(truth, basis, 1)) @ image.ravel()
    F = NUFFT(trajectory, SHAPE, eps=1e-6)

    @jax.jit
    @jax.value_and_grad
    def loss(coefficients):
        field = jnp.tensordot(coefficients, basis, 1)
        return jnp.sum(jnp.abs(OffResonance(F, field, times, 8)(image.astype(complex)) - y) ** 2)

    coefficients, rate = jnp.zeros(3), 1.0
    value, gradient = loss(coefficients)
    start = float(value)
    for _ in range(60):
        new_value, new_gradient = loss(coefficients - rate * gradient)
        if new_value < value:
            coefficients, value, gradient = coefficients - rate * gradient, new_value, new_gradient
            rate *= 2
        else:
            rate /= 4
    assert value < 1e-4 * start
    np.testing.assert_allclose(coefficients, truth, atol=0.5)


def test_field_map_from_echoes(normal):
    field, r2, times = smooth_field(), decay(), np.array([0.002, 0.004, 0.009, 0.020])
    signal = np.exp(-np.multiply.outer(times, r2 + 2j * np.pi * field))
    images = signal[:, None] * normal((3, *SHAPE), complex)
    images[..., 0, 0] = 0
    estimate = jax.jit(lambda z: field_map_from_echoes(z, times[: z.shape[-4]]))
    found = np.asarray(estimate(images.astype(np.complex64)))
    assert found[0, 0] == 0
    np.testing.assert_allclose(found.ravel()[1:], field.ravel()[1:], atol=1e-2)
    np.testing.assert_allclose(estimate(images[:2].astype(np.complex64))[1:], field[1:], atol=1e-2)
    # Late echoes lower the noise although their phases wrap.
    noisy = (images + 0.02 * normal(images.shape, complex, 1)).astype(np.complex64)
    deviations = [np.std((estimate(noisy[:n]) - field)[1:]) for n in (2, 4)]
    assert deviations[1] < 0.5 * deviations[0]
    batch = np.stack([images, images[:, ::-1]]).astype(np.complex64)
    np.testing.assert_allclose(estimate(batch)[1], found, atol=1e-2)
    zero = jnp.zeros((2, 1, 3, 3), jnp.complex64)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(estimate(z))))(zero)
    assert not gradient.any()


@pytest.mark.parametrize(
    "make, kind, words",
    [
        (lambda F, f, t: OffResonance(F, f[1:], t, 4), ValueError, ["field_map", "(4, 5)", "(3, 5)"]),
        (lambda F, f, t: OffResonance(F, f, t[1:], 4), ValueError, ["times", "(4, 5)", "(4,)"]),
        (lambda F, f, t: OffResonance(F, f, t, 4, f[:2]), ValueError, ["r2_map", "(2, 5)"]),
        (lambda F, f, t: OffResonance(F, 1j * f, t, 4), TypeError, ["field_map", "complex"]),
        (lambda F, f, t: OffResonance(F, f, t, 0), ValueError, ["segments", "0"]),
        (lambda F, f, t: OffResonance(F, f, t, 4, method="hanning"), ValueError, ["method", "hanning"]),
        (lambda F, f, t: OffResonance(f, f, t, 4), TypeError, ["fourier", "LinearOperator"]),
        (lambda F, f, t: OffResonance(Identity((4, 5)), f, t, 4), TypeError, ["complex", "float32"]),
        (lambda F, f, t: off_resonance_segments(f, t, 0.0), ValueError, ["tolerance", "0.0"]),
        (lambda F, f, t: off_resonance_segments(f[:0], t), ValueError, ["field_map", "(0, 5)"]),
        (lambda F, f, t: field_map_from_echoes(f + 1j, t[:2]), ValueError, ["images", "2, coils", "(4, 5)"]),
        (lambda F, f, t: field_map_from_echoes(f, t[:2]), TypeError, ["images", "float32"]),
        (lambda F, f, t: field_map_from_echoes(f + 1j, t[::-1]), ValueError, ["echo_times", "increase"]),
    ],
)
def test_errors(make, kind, words):
    with pytest.raises(kind) as caught:
        make(CartesianFourier((4, 5)), jnp.zeros((4, 5)), jnp.linspace(0, 0.01, 5))
    for word in words:
        assert word in str(caught.value)
