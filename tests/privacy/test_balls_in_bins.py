"""Balls in bins: bounds above the truth, by quadrature and by an independent simulation, and close to it."""

import dataclasses

import dp_accounting
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import logsumexp

from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import epsilon_of, training_event
from fedrecon.privacy.balls_in_bins import loss_distribution, overflow
from fedrecon.privacy.events import BallsInBinsDpEvent, event_from_json, event_to_json

MANY = 10**6
PHI = scipy.stats.norm


def divergences(noise, bins, steps, epsilon, *, units=10, most=MANY):
    """Hockey sticks of P against Q and of Q against P."""
    found = loss_distribution(noise, units, bins, steps, most, 1e-3)
    return tuple(part.get_delta_for_epsilon(epsilon) for part in (found._pmf_remove, found._pmf_add))


def test_one_bin_is_the_gaussian_mechanism():
    for noise, epsilon in ((0.7, 2.0), (2.0, 0.3), (0.05, 210.0)):
        first = PHI.cdf(0.5 / noise - epsilon * noise)
        exact = first - np.exp(epsilon) * PHI.cdf(-0.5 / noise - epsilon * noise)
        for found in divergences(noise, 1, 1, epsilon):
            assert exact * (1 - 1e-9) <= found <= exact * 1.002


@pytest.mark.parametrize(("noise", "epsilon"), [(0.5, 1.0), (0.5, 5.0), (1.0, 0.5), (1.0, 2.0), (3.0, 0.2)])
def test_two_bins_equal_quadrature(noise, epsilon):
    """Y_1 + Y_2 against 2 e^eps: the second is integrated in closed form, the first numerically."""

    def log_y(z):
        return z / noise - 0.5 / noise**2

    def inner(z, sign):
        # E (sign (y + Y - k))_+ with y given: of a lognormal Y of mean 1, a Black-Scholes price.
        k = 2 * np.exp(epsilon * sign) - np.exp(log_y(z))
        if k <= 0:
            return 1 - k if sign > 0 else 0.0
        d = -noise * np.log(k) + 0.5 / noise
        return sign * (PHI.cdf(sign * d) - k * PHI.cdf(sign * (d - 1 / noise)))

    for sign, found in zip((1, -1), divergences(noise, 2, 2, epsilon), strict=True):
        factor = 0.5 if sign > 0 else 0.5 * np.exp(epsilon)
        # The kink, where the first bin alone reaches the bound.
        kink = noise * (np.log(2) + sign * epsilon) + 0.5 / noise
        exact = (
            factor
            * quad(
                lambda z, sign=sign: inner(z, sign) * PHI.pdf(z),
                -12,
                12 + 1 / noise,
                points=[kink],
                limit=400,
            )[0]
        )
        assert exact * (1 - 1e-6) <= found <= exact * 1.01 + 1e-15, (sign, exact, found)


@pytest.mark.parametrize(("noise", "bins", "steps"), [(0.6, 10, 10), (1.0, 15, 15), (0.5, 12, 5)])
def test_bounds_are_above_a_simulation_and_close(noise, bins, steps):
    rng, draws = np.random.default_rng(bins), 60_000

    def losses(inside):
        x = rng.normal(0, noise, (draws, bins))
        if inside:
            x[np.arange(draws), rng.integers(bins, size=draws)] += 1
        terms = x / noise**2 - 0.5 / noise**2
        terms[:, steps:] = 0.0  # not released: the ratio of equal densities
        return logsumexp(terms, 1) - np.log(bins)

    inside, outside = losses(True), losses(False)
    for epsilon in (0.2, 1.0):
        for found, loss in zip(divergences(noise, bins, steps, epsilon), (inside, -outside), strict=True):
            excess = np.maximum(0, -np.expm1(epsilon - loss))
            error = excess.std() / draws**0.5
            assert excess.mean() - 4 * error <= found <= 1.01 * excess.mean() + 4 * error + 1e-12


@pytest.mark.parametrize(("noise", "bins"), [(0.3, 3), (2.0, 40), (8.0, 300), (30.0, 75)])
def test_no_mass_is_lost(noise, bins):
    found = loss_distribution(noise, 8 * bins, bins, bins, MANY, 1e-3)
    assert max(part._infinity_mass for part in (found._pmf_remove, found._pmf_add)) < 1e-13
    # The variance of the likelihood ratio's mean is known: its total variation is at most half the deviation.
    assert 0 < found.get_delta_for_epsilon(0) <= 0.5 * np.sqrt(np.expm1(noise**-2) / bins)


def test_full_bins_cost_what_they_tell():
    assert overflow(31, 4, 12) == pytest.approx(
        sum(scipy.stats.binom.pmf(k, 30, 0.25) for k in range(12, 31)), rel=1e-9
    )
    free, full = (divergences(1.0, 15, 15, 1.0, units=120, most=most)[0] for most in (MANY, 12))
    alone = divergences(1.0, 1, 1, 1.0)[0]
    p = overflow(120, 15, 12)
    # At least the units in full bins are not hidden by the others.
    assert (1 - p) * free + p * alone <= full * 1.001
    assert full < (1 - 15 * p) * free + 15 * p * alone
    assert divergences(1.0, 15, 15, 1.0, units=120, most=1)[0] == pytest.approx(alone, rel=1e-3)


def test_trainings_are_composed_of_passes_and_their_beginnings():
    mechanism = Mechanism(1.0, 1.1, 10, 200, steps=45, sampling="balls_in_bins")
    event = training_event(mechanism, rounds=2, units=200)
    whole, part = (BallsInBinsDpEvent(1.1, 200, 20, steps, 200) for steps in (20, 5))
    assert [(e.event, e.count) for e in event.events] == [(whole, 4), (part, 2)]
    assert event_from_json(event_to_json(event)) == event
    short = dataclasses.replace(mechanism, steps=5)
    found = [
        epsilon_of(training_event(m, rounds=2, units=200), 1e-5)
        for m in (short, mechanism, dataclasses.replace(mechanism, steps=60))
    ]
    assert 0 < found[0] < found[1] < found[2]
    noiseless = training_event(dataclasses.replace(mechanism, noise_multiplier=0.0), rounds=1, units=200)
    assert epsilon_of(noiseless, 1e-5) == np.inf
    with pytest.raises(ValueError, match="for the relation ADD_OR_REMOVE_ONE"):
        from fedrecon.privacy.composition import composed_epsilon

        composed_epsilon(((event_to_json(whole), 1),), "ADD_OR_REMOVE_ONE", 1e-5)


@pytest.mark.slow
def test_epochs_are_below_poisson_sampling_and_above_a_simulation():
    """Figure 1 of Chua et al.: at equal noise balls in bins cost no more than Poisson samples."""
    noise, bins, passes, delta = 0.8, 25, 4, 1e-5
    mechanism = Mechanism(1.0, noise, 8, 200, steps=bins, sampling="balls_in_bins")
    found = epsilon_of(training_event(mechanism, rounds=passes, units=200), delta)
    poisson = dataclasses.replace(mechanism, sampling="poisson")
    assert found < epsilon_of(training_event(poisson, rounds=passes, units=200), delta)
    gaussian = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), passes)
    assert found < 0.6 * epsilon_of(gaussian, delta)
    # The truth at a larger delta, from draws of whole trainings.
    rng, draws = np.random.default_rng(0), 200_000
    loss = np.zeros(draws)
    for _ in range(passes):
        x = rng.normal(0, noise, (draws, bins))
        x[:, 0] += 1
        loss += logsumexp(x / noise**2 - 0.5 / noise**2, 1) - np.log(bins)
    bound = epsilon_of(training_event(mechanism, rounds=passes, units=200), 1e-3)

    def delta_of(epsilon):
        return np.maximum(0, -np.expm1(epsilon - loss)).mean()

    error = np.maximum(0, -np.expm1(bound - loss)).std() / draws**0.5
    assert delta_of(bound) <= 1e-3 + 4 * error
    assert brentq(lambda e: delta_of(e) - 1e-3, 0, 20) == pytest.approx(bound, rel=0.03)
