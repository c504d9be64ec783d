"""CT physics and artifacts against closed forms, sampled moments and direct sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from operators import ParallelBeam, Radon
from operators.ct import (
    add_rings,
    add_scatter,
    attenuation_to_hu,
    correct_beam_hardening,
    correct_scatter,
    counts_to_integrals,
    fit_beam_hardening,
    flat_field,
    hu_to_attenuation,
    interpolate_trace,
    lower_dose,
    material_attenuation,
    metal_mask,
    metal_trace,
    polychromatic_integrals,
    remove_rings,
    simulate_counts,
    statistical_weights,
)

ENERGIES = np.arange(30.0, 121, 10)
# A smooth 120 kV-like spectrum.
SPECTRUM = (121 - ENERGIES) * (ENERGIES - 20)
WATER, BONE = (material_attenuation(m, ENERGIES) for m in ("water", "bone"))
REFERENCE = [material_attenuation(m, np.array(70.0)) for m in ("water", "bone")]


def test_hounsfield_units():
    np.testing.assert_allclose(hu_to_attenuation(np.array([-1000, 0, 1000]), 0.02), [0, 0.02, 0.04])
    hu = np.linspace(-1000, 3000, 9)
    np.testing.assert_allclose(attenuation_to_hu(hu_to_attenuation(hu, 0.0193), 0.0193), hu, atol=1e-3)


@pytest.mark.slow
def test_counts_have_the_moments_of_poisson_and_electronic_noise(key):
    integrals = np.array([0.0, 1.0, 3.0, 6.0], np.float32)
    photons = np.array([1e4, 400.0, 1000.0, 2000.0], np.float32)
    counts = simulate_counts(key, np.broadcast_to(integrals, (20_000, 4)), photons, 3.0)
    mean = photons * np.exp(-integrals)
    variance = mean + 9
    np.testing.assert_array_less(np.abs(counts.mean(0) - mean), 5 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(np.var(counts, 0), variance, rtol=0.06)


def test_the_modified_logarithm_is_unbiased_and_finite(key):
    counts = simulate_counts(key, np.full((20_000, 4), 0.5, np.float32), 40.0)
    bias = float(jnp.mean(counts_to_integrals(counts, 40.0))) - 0.5
    plain = float(jnp.mean(counts_to_integrals(counts, 40.0, floor=0.1))) - 0.5
    assert abs(bias) < 0.004 < plain
    np.testing.assert_allclose(plain, 1 / (2 * 40 * np.exp(-0.5)), rtol=0.3)
    extreme = counts_to_integrals(np.array([-5.0, 0, 1e-30, 1e30]), np.array([1e5, 0, 1e5, 1e5]))
    assert np.isfinite(extreme).all() and extreme[1] == 0
    np.testing.assert_allclose(extreme[0], np.log(2e5), rtol=1e-6)
    np.testing.assert_allclose(counts_to_integrals(np.array([50.0]), 100.0, floor=1), np.log(2), rtol=1e-6)


def test_weights_are_inverse_variances(key):
    counts = simulate_counts(key, np.full((20_000, 4), 1.0, np.float32), 2e4, 60.0)
    variance = np.var(counts_to_integrals(counts, 2e4))
    np.testing.assert_allclose(1 / statistical_weights(2e4 * np.exp(-1.0), 60.0), variance, rtol=0.03)
    np.testing.assert_allclose(statistical_weights(np.array([-1.0, 0, 7])), [0, 0, 7])
    assert np.isfinite(jax.grad(lambda c: jnp.sum(statistical_weights(c)))(jnp.zeros(3))).all()


def test_lower_dose_is_a_scan_of_that_dose(key):
    """Mean and variance of the counts, noise of the measurement included."""
    measure, reduce = jax.random.split(key)
    integrals, photons, noise, fraction = np.full((20_000, 4), 1.5, np.float32), 2e4, 20.0, 0.1
    full = simulate_counts(measure, integrals, photons, noise)
    low = lower_dose(reduce, -jnp.log(full / photons), photons, fraction, noise)
    counts = fraction * photons * np.exp(-low) - 0.5
    mean = fraction * photons * np.exp(-1.5)
    np.testing.assert_allclose(counts.mean(), mean, rtol=2e-3)
    np.testing.assert_allclose(np.var(counts), mean + noise**2, rtol=0.03)
    same = lower_dose(key, integrals, photons, 1.0)
    np.testing.assert_allclose(same, integrals, atol=2e-4)


def test_flat_field_recovers_line_integrals_and_survives_zeros(normal):
    integrals = np.abs(normal((2, 5, 4)))
    dark, white = np.full((1, 4), 10.0), 10 + np.array([[[500.0, 800, 0, 700]]])
    raw = dark + (white - dark) * np.exp(-integrals)
    raw[0, 0, 0] = 3
    found = np.asarray(flat_field(raw, white, dark))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[..., 2], 0)
    np.testing.assert_allclose(found[0, 0, 0], -np.log(1e-6), rtol=1e-5)
    np.testing.assert_allclose(found[1][:, [0, 1, 3]], integrals[1][:, [0, 1, 3]], rtol=1e-4, atol=1e-5)


def test_attenuation_of_water_and_bone():
    np.testing.assert_allclose(material_attenuation("water", np.array([60.0, 100])), [0.02059, 0.01707])
    np.testing.assert_allclose(material_attenuation("bone", np.array([60.0])), [0.1 * 1.92 * 0.3148])
    # NIST's value at 70 keV lies between the tabulated ones: 0.1929 cm^2/g (XCOM).
    np.testing.assert_allclose(material_attenuation("water", np.array(70.0)), 0.01929, rtol=5e-3)


@pytest.mark.slow
def test_polychromatic_integrals(x64, normal):
    lengths = np.abs(normal((2, 3, 4), np.float64)) * 50
    found = polychromatic_integrals(lengths, [WATER, BONE], SPECTRUM)
    weights = SPECTRUM / SPECTRUM.sum()
    direct = -np.log(
        sum(
            w * np.exp(-a * lengths[0] - b * lengths[1]) for w, a, b in zip(weights, WATER, BONE, strict=True)
        )
    )
    np.testing.assert_allclose(found, direct, rtol=1e-12)
    # One energy is Beer's law; a long path does not underflow.
    np.testing.assert_allclose(polychromatic_integrals(lengths[:1], [[0.02]], [3.0]), 0.02 * lengths[0])
    assert np.isfinite(polychromatic_integrals(np.full((1, 1), 1e6), [WATER], SPECTRUM)).all()


@pytest.mark.slow
def test_gradients(x64, normal):
    lengths = jnp.asarray(np.abs(normal((2, 3, 4), np.float64)) * 50)
    spectrum = jnp.asarray(SPECTRUM)

    def hardened(v):
        return polychromatic_integrals(v, jnp.asarray([WATER, BONE]), spectrum)

    def scattered(v):
        return correct_scatter(add_scatter(0.05 * v, 0.1, 2.0), 0.1, 2.0)

    def reduced(v):
        return lower_dose(jax.random.key(0), 0.01 * v, 1e4, 0.3, 5.0)

    for function in (hardened, scattered, reduced):
        check_grads(jax.jit(function), (lengths,), order=1, modes=["rev"])


@pytest.mark.slow
def test_beam_hardening_is_corrected():
    water = np.linspace(0, 300, 31, dtype=np.float32)
    measured = polychromatic_integrals(water[None], WATER[None], SPECTRUM)
    truth = REFERENCE[0] * water
    # The longest path has hardened by more than a twentieth.
    assert measured[-1] / water[-1] < 0.95 * measured[1] / water[1]
    coefficients = fit_beam_hardening([WATER], SPECTRUM, REFERENCE[:1], (300.0,))
    assert coefficients.shape == (5,) and coefficients[0] == 0
    np.testing.assert_allclose(correct_beam_hardening(measured, coefficients), truth, atol=0.004)

    bone = np.linspace(0, 40, 31, dtype=np.float32)[::-1]
    both = polychromatic_integrals(np.stack([water, bone]), [WATER, BONE], SPECTRUM)
    truth = truth + REFERENCE[1] * bone
    alone = correct_beam_hardening(both, coefficients)
    table = fit_beam_hardening([WATER, BONE], SPECTRUM, REFERENCE, (300.0, 40.0))
    corrected = correct_beam_hardening(both, table, REFERENCE[1].astype(np.float32) * bone)
    np.testing.assert_allclose(corrected, truth, atol=0.02)
    assert np.abs(alone - truth).max() > 5 * np.abs(corrected - truth).max()


@pytest.mark.slow
def test_scatter_is_undone_to_first_order():
    profile = np.pad(2.5 * np.sqrt(1 - np.linspace(-1, 1, 60) ** 2), 20).astype(np.float32)[None]
    errors = []
    add, correct = jax.jit(add_scatter), jax.jit(correct_scatter)
    for fraction in (0.04, 0.02):
        scattered = add(profile, fraction, 12.0)
        assert (scattered <= profile + 1e-6).all()
        before = np.abs(scattered - profile).max()
        errors.append(np.abs(correct(scattered, fraction, 12.0) - profile).max())
        assert errors[-1] < 0.35 * before
    assert errors[1] < 0.3 * errors[0]
    assert np.isfinite(correct_scatter(np.full((1, 9), 60.0), 1.0, 2.0)).all()


def test_rings_are_removed_and_objects_are_kept():
    angles = np.arange(90) * np.pi / 90
    s = np.arange(101) - 50.0
    # A disc of radius 18, 20 off the axis.
    place = s[None] - 20 * np.cos(angles)[:, None]
    clean = (2 * np.sqrt(np.maximum(18**2 - place**2, 0)) / 40).astype(np.float32)
    gains = np.ones(101)
    gains[[25, 44, 60]] = [1.05, 0.9, 1.08]
    striped = add_rings(clean, gains)
    np.testing.assert_allclose(striped - clean, np.broadcast_to(-np.log(gains), clean.shape), atol=1e-6)
    repaired = remove_rings(striped, 11)
    ring = np.abs(np.mean(striped - clean, 0)).max()
    assert np.abs(np.mean(repaired - clean, 0)).max() < 0.25 * ring
    np.testing.assert_array_equal(remove_rings(clean, 1), clean)
    constant = np.broadcast_to(np.linspace(0, 1, 8)[:, None], (8, 12)).astype(np.float32)
    np.testing.assert_allclose(remove_rings(add_rings(constant, 1 + 0.1 * (np.arange(12) == 5)), 5), constant)


@pytest.mark.parametrize("size", [3, 11, 19])
def test_rings_are_removed_up_to_the_ends_as_by_their_authors(size):
    """scipy's median filter of sorted columns, as in ``remove_stripe_based_sorting`` of sarepy and tomopy."""
    y = np.random.default_rng(0).normal(size=(7, 9))
    order = np.argsort(y, axis=0)
    ranked = scipy.ndimage.median_filter(np.take_along_axis(y, order, 0), (1, size), mode="reflect")
    expected = np.take_along_axis(ranked, np.argsort(order, axis=0), 0)
    np.testing.assert_allclose(remove_rings(y, size), expected, rtol=1e-6)


@pytest.mark.slow
def test_metal_trace():
    image = np.zeros((33, 33), np.float32)
    image[14:18, 20:23] = 5.0
    A = Radon(ParallelBeam(np.arange(12) * np.pi / 12, 49), (33, 33))
    trace = np.asarray(metal_trace(A, metal_mask(image, 2.5)))
    # A block of 4 x 3 pixels around (5, 0): its shadow is as wide as its projection, up to a pixel.
    assert trace.any(1).all() and (trace.sum(1) >= 3).all() and (trace.sum(1) <= 7).all()
    middle = np.abs(
        (trace * np.arange(49)).sum(1) / trace.sum(1) - 24 - 5 * np.cos(np.arange(12) * np.pi / 12)
    )
    assert middle.max() < 1.1


def test_interpolation_restores_linear_functions():
    trace = np.random.default_rng(0).random((12, 49)) < 0.4
    trace[:, [0, -1]] = False
    fill = jax.jit(interpolate_trace)
    linear = np.linspace(1, 2, 12)[:, None] * np.arange(49.0) + 3
    broken = np.where(trace, 99.0, linear)
    np.testing.assert_allclose(fill(broken, trace), linear, rtol=1e-5)
    edge = fill(
        np.array([[9.0, 2, 9, 4, 9], [9, 9, 9, 9, 9]]), np.array([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], bool)
    )
    np.testing.assert_allclose(edge, [[2, 2, 3, 4, 4], [9, 9, 9, 9, 9]])
    gradient = np.asarray(jax.grad(lambda p: jnp.sum(fill(p, trace)))(jnp.asarray(broken)))
    assert not gradient[trace].any() and np.isclose(gradient.sum(), gradient.size)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: flat_field(np.ones((3, 4)), np.ones(5)), ["white", "(3, 4)", "(5,)"]),
        (lambda: flat_field(np.ones((3, 4)), 1.0, np.ones((2, 4))), ["dark", "(3, 4)", "(2, 4)"]),
        (lambda: counts_to_integrals(np.ones(3), 1.0, floor=0.0), ["floor", "positive", "0.0"]),
        (lambda: lower_dose(jax.random.key(0), np.ones(3), 1e3, 1.5), ["fraction", "(0, 1]", "1.5"]),
        (lambda: simulate_counts(jax.random.key(0), np.ones(3), np.ones(2)), ["photons", "(3,)", "(2,)"]),
        (lambda: material_attenuation("gold", ENERGIES), ["material", "water", "gold"]),
        (lambda: material_attenuation("bone", np.array([5.0])), ["energies", "10", "5"]),
        (
            lambda: polychromatic_integrals(np.ones((3, 2)), [WATER], SPECTRUM),
            ["lengths", "materials", "(3, 2)"],
        ),
        (lambda: fit_beam_hardening([WATER], SPECTRUM[1:], [0.02], (9.0,)), ["spectrum", "(9,)"]),
        (lambda: correct_beam_hardening(np.ones(3), np.ones((2, 2))), ["coefficients", "1 axes", "(2, 2)"]),
        (lambda: remove_rings(np.ones((3, 9)), 4), ["size", "odd", "4"]),
        (lambda: correct_scatter(np.ones((1, 3)), 0.1, 1.0, largest_share=1), ["largest_share", "1"]),
        (lambda: interpolate_trace(np.ones((3, 4)), np.ones(3, bool)), ["trace", "(3, 4)", "(3,)"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
