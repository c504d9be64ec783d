"""Audits by canaries: bounds below the claims of private trainings, above those of broken ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import attacks
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism, private_sum, unreported
from fedrecon.privacy import buffered_strategy_of, epsilon_of, training_event
from fedrecon.types import Task, Variables

CANARIES, REAL, DELTA, PARAMETERS = 240, 16, 1e-5, 400


def linear_task():
    def loss(params, stats, batch, key):
        value = jnp.where(batch["valid"], (batch["x"] @ params["w"] - 1) ** 2, 0).mean()
        return value, (stats, {})

    start = Variables({"w": jnp.zeros(PARAMETERS)}, {})
    return Task(lambda key: start, loss, None, None, Variables({"w": False}, {})), start


@functools.cache
def directions():
    return attacks.unit_directions({"w": jnp.zeros(PARAMETERS)}, CANARIES, jax.random.key(5))


def mechanism(noise, **options):
    given = {"clipping_norm": 0.5, "expected_batch_size": 32, "padded_batch_size": 256, "steps": 1}
    return Mechanism(noise_multiplier=noise, **{**given, **options})


def record_audit(private, rounds, *, images=1, seed=0, score=None, size=2.0):
    """One training of one client whose units are ordinary or canaries, each of ``images`` examples."""
    rng = np.random.default_rng(seed)
    included = rng.random(CANARIES) < 0.5
    numbers = np.concatenate([np.full(REAL, -1), np.where(included, np.arange(CANARIES), -2)])
    numbers = np.repeat(numbers, images).astype(np.int32)
    x = rng.normal(size=(len(numbers), PARAMETERS)).astype(np.float32) / 20
    volume = np.repeat(np.arange(REAL + CANARIES), images).astype(np.int32)
    examples = {"x": x[None], "canary": numbers[None], "volume": volume[None]}
    data = ClientData(examples, np.ones((1, len(numbers)), bool), ("site",))
    task, start = linear_task()
    task = attacks.with_gradient_canaries(task, directions(), size)
    algorithm = fl.federated(task, optax.sgd(1.0), method=fl.private_gradients(private))
    state = fl.init_state(algorithm, start, data)
    one, released = fl.make_round(algorithm), [np.asarray(state.variables.params["w"])]
    for _ in range(rounds):
        state, _ = one(state, data, jax.random.key(seed))
        released.append(np.asarray(state.variables.params["w"]))
    steps = [attacks.canary_scores({"w": x}, directions()) for x in np.diff(released, axis=0)]
    scores = np.sum(steps, 0) if score is None else score(np.stack(steps))
    return attacks.audit_canaries(scores, included, delta=DELTA)


def site_audit(private, rounds, *, seed=0):
    """One training of ordinary sites and of fake ones that send directions."""
    rng = np.random.default_rng(seed)
    included = rng.random(CANARIES) < 0.5
    clients = REAL + CANARIES
    present = np.concatenate([np.ones(REAL, bool), included])[:, None]
    x = rng.normal(size=(clients, 1, PARAMETERS)).astype(np.float32) / 20
    data = ClientData({"x": x}, present, tuple(map(str, range(clients))))
    task, start = linear_task()
    algorithm = fl.federated(
        task, optax.sgd(0.1), method=unreported(), channel=private_sum(private), weighting=fl.equal
    )
    algorithm = attacks.with_site_canaries(algorithm, directions(), REAL, 2.0)
    state = fl.init_state(algorithm, start, data)
    before = np.asarray(state.variables.params["w"])
    rounds = fl.run_rounds(fl.make_round(algorithm, batch_size=1, epochs=1, parallel="vmap"), rounds)
    state, _ = rounds(state, data, jax.random.key(seed))
    change = {"w": np.asarray(state.variables.params["w"]) - before}
    return attacks.audit_canaries(attacks.canary_scores(change, directions()), included, delta=DELTA)


def claim(private, rounds, units=REAL + CANARIES):
    return epsilon_of(training_event(private, rounds=rounds, units=units), DELTA)


def test_perfect_scores_prove_much_and_equal_scores_nothing():
    included = np.arange(60) % 2 == 0
    found = attacks.audit_canaries(included + 0.0, included, delta=DELTA)
    # All right guesses of m canaries: (e^eps / (1 + e^eps))^m <= 0.05 refutes eps; thresholds cost a little.
    exact = np.log(0.05 ** (1 / 60) / (1 - 0.05 ** (1 / 60)))
    assert 0.5 * exact < found.lower <= exact + 1e-3 and found.auc == 1
    assert attacks.audit_canaries(np.zeros(60), included, delta=DELTA).lower == 0
    assert not found.consistent(1.0) and found.consistent(4.0)


def test_directions_have_length_one_and_are_found_again():
    params = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(70)}
    drawn = attacks.unit_directions(params, 5, jax.random.key(0))
    np.testing.assert_allclose(jax.vmap(optax.tree.norm)(drawn), 1, rtol=1e-5)
    scores = attacks.canary_scores(jax.tree.map(lambda d: 3 * d[2], drawn), drawn)
    assert scores[2] == pytest.approx(3, rel=1e-5) and np.abs(np.delete(scores, 2)).max() < 2
    with pytest.raises(ArgumentError, match="included: expected"):
        attacks.audit_canaries(scores, np.ones(5, bool), delta=DELTA)


@pytest.mark.slow
def test_a_null_auditor_reports_nothing():
    rng = np.random.default_rng(0)
    bounds = [
        attacks.audit_canaries(rng.normal(size=100), rng.random(100) < 0.5, delta=DELTA).lower
        for _ in range(100)
    ]
    # With probability 0.05 at most each; 12 of 100 or more have a probability of 0.4 %.
    assert np.sum(np.asarray(bounds) > 0) < 12


RECORDS = [
    (dict(noise=noise, expected_batch_size=size, padded_batch_size=256), rounds)
    for noise in (0.6, 1.0, 3.0)
    for size, rounds in ((256, 1), (256, 4), (32, 6))
]
RECORDS += [(dict(noise=1.0, sampling="balls_in_bins", expected_batch_size=64, steps=4), 2)]
RECORDS += [
    (dict(noise=noise, sampling="fixed", expected_batch_size=64, padded_batch_size=64), rounds)
    for noise, rounds in ((1.0, 1), (2.0, 3))
]
# Four steps in each of three passes.
SCALES, DECAYS, FACTORS = buffered_strategy_of([4], 3, 2)
RECORDS += [
    (
        dict(
            noise=noise,
            sampling="fixed",
            expected_batch_size=64,
            padded_batch_size=64,
            strategy=SCALES,
            decays=DECAYS,
            factors=FACTORS,
        ),
        3,
    )
    for noise in (0.7, 2.0)
]
RECORDS += [(dict(noise=0.6, sampling="balls_in_bins", expected_batch_size=16, steps=16), 3)]
PATIENTS = [(noise, rounds) for noise in (0.7, 4.0) for rounds in (1, 4)]
SITES = [(noise, rounds) for noise in (1.0, 3.0) for rounds in (1, 5)]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "rounds"), RECORDS)
def test_bounds_of_records_are_below_the_claim(options, rounds):
    options = dict(options)
    private = mechanism(options.pop("noise"), **options)
    found = record_audit(private, rounds)
    assert found.consistent(claim(private, rounds)), (found, claim(private, rounds))


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rounds"), PATIENTS)
def test_bounds_of_patients_are_below_the_claim(noise, rounds):
    private = mechanism(
        noise, unit="patient", images=2, units=256, expected_batch_size=256, padded_batch_size=256
    )
    found = record_audit(private, rounds, images=2)
    assert found.consistent(claim(private, rounds)), (found, claim(private, rounds))


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rounds"), SITES)
def test_bounds_of_sites_are_below_the_claim(noise, rounds):
    private = mechanism(
        noise, unit="site", sampling="fixed", expected_batch_size=256, padded_batch_size=256, units=256
    )
    found = site_audit(private, rounds)
    assert found.consistent(claim(private, rounds)), (found, claim(private, rounds))


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", ["no noise", "sigma / 10", "clip after averaging", "mask ignored", "key reused"]
)
def test_broken_builds_are_caught(build, monkeypatch):
    from jax_privacy import clipping, noise_addition

    noise, rounds, score, size = 2.0, 6, None, 2.0
    options = {"expected_batch_size": 16}
    if build == "clip after averaging":
        noise, rounds, size, options = 8.0, 1, 20.0, {"expected_batch_size": 256}
    promised = claim(mechanism(noise, **options), rounds)
    if build == "no noise":
        noise = 0.0
    if build == "sigma / 10":
        noise /= 10
    if build == "mask ignored":
        usual = clipping.clipped_fun

        def unmasked(*arguments, **given):
            inner = usual(*arguments, **given)
            return lambda *a, is_padding_example, **k: inner(*a, **k)

        monkeypatch.setattr(clipping, "clipped_fun", unmasked)
    if build == "clip after averaging":

        def late(fun, *, l2_clip_norm, normalize_by, **given):
            def total(units, key, is_padding_example):
                each = jax.vmap(fun, (0, None))(units, key)
                mean = jax.tree.map(
                    lambda x: jnp.tensordot(~is_padding_example * 1.0, x, 1) / normalize_by, each
                )
                return clipping.clip_pytree(mean, l2_clip_norm)[0]

            return total

        monkeypatch.setattr(clipping, "clipped_fun", late)
    if build == "key reused":
        usual_noise = noise_addition.matrix_factorization_privatizer

        def repeated(matrix, *, stddev, prng_key):
            update = usual_noise(matrix, stddev=stddev, prng_key=jax.random.key(1))
            return update._replace(update=lambda g, s: update.update(g, update.init(g)))

        monkeypatch.setattr(noise_addition, "matrix_factorization_privatizer", repeated)
        # The same noise cancels in differences of rounds, in which canaries come and go.
        rounds, score = 24, lambda steps: steps.std(0)
        promised = claim(mechanism(noise, **options), rounds)
    found = record_audit(mechanism(noise, **options), rounds, score=score, size=size)
    assert not found.consistent(promised), (found, promised)
