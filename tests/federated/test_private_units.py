"""Patients and sites as units of privacy, and batches and noise other than Poisson and independent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.stats

from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism, private_sum
from fedrecon.federated.messages import Context, Message, Upload
from fedrecon.federated.methods.dp_fedavg import dp_sgd, private_batching
from fedrecon.privacy.strategies import sensitivity, strategy_of
from fedrecon.types import Variables

KEY = jax.random.key(3)
# Seven patients with one to five images, in mixed order, and padding with their numbers.
OWNED = np.array([3, 1, 5, 2, 1, 4, 2])
IDS = np.random.default_rng(0).permutation(np.repeat(np.arange(7) * 3 + 2, OWNED))
PATIENTS = {"volume": jnp.asarray(np.concatenate([IDS, [2, 0, 5]]), jnp.int32)}
VALID = jnp.arange(len(IDS) + 3) < len(IDS)
BY_PATIENT = Mechanism(0.5, 0.0, 7, 7, unit="patient", units=7, images=5)


def linear_loss(params, stats, batch, key):
    """The gradient is the mean of the examples."""
    value = jnp.where(batch["valid"], batch["x"] @ params["w"], 0).sum()
    return value / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


@functools.partial(jax.jit, static_argnums=0)
def train(mechanism, examples, valid, key=KEY):
    """What leaves a client."""
    update = dp_sgd(linear_loss, optax.sgd(1.0), mechanism)
    variables = Variables({"w": jnp.zeros(examples["x"].shape[1])}, {})
    index, mask = update.batching(examples, valid, key)
    batches = fl.Batches(examples, index, valid.sum(), valid, jnp.int32(0))
    result = update.update(variables, (), update.init(variables), batches, mask, jax.random.fold_in(key, 1))
    return result.delta.params["w"]


def images(seed=0, width=30, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(len(VALID), width)).astype(np.float32)


def test_all_images_of_a_patient_are_clipped_once():
    """The sum of clipped means by hand; zeroing a patient moves it by C at most, any other edit by 2 C."""
    x = images(scale=0.2)
    x[IDS.size :] = 1e9

    def moved(x, **changes):
        mechanism = dataclasses.replace(BY_PATIENT, **changes)
        return np.asarray(train(mechanism, {**PATIENTS, "x": jnp.asarray(x)}, VALID))

    means = np.stack([x[: IDS.size][patient == IDS].mean(0) for patient in np.unique(IDS)])
    clipped = means * np.minimum(1, 0.5 / np.linalg.norm(means, axis=1))[:, None]
    np.testing.assert_allclose(moved(x), -clipped.sum(0) / 7, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved(x, microbatch_size=1), moved(x), rtol=1e-5, atol=1e-7)
    largest = np.unique(IDS)[np.argmax(OWNED)]
    own = np.flatnonzero(largest == IDS)
    for value in (1e6, -1e6, np.nan, 0.0):
        other = x.copy()
        other[own] = value
        change = np.linalg.norm(moved(other) - moved(x)) * 7
        bound = 0.5 if value == 0.0 or np.isnan(value) else 1.0
        assert change <= bound * (1 + 1e-4)
    high, low = x.copy(), x.copy()
    high[own], low[own] = 1e6, -1e6
    np.testing.assert_allclose(np.linalg.norm(moved(high) - moved(low)) * 7, 2 * 0.5, rtol=1e-3)


@pytest.mark.parametrize("sampling", ["poisson", "balls_in_bins", "fixed"])
def test_batches_hold_whole_patients(sampling):
    size = 3 if sampling == "fixed" else 7
    mechanism = Mechanism(1.0, 1.0, 3, size, steps=6, unit="patient", sampling=sampling, epochs=2, images=5)
    mechanism = dataclasses.replace(mechanism, units=7)
    batching = jax.jit(private_batching(mechanism))
    seen = np.zeros((300, 6, len(VALID)), int)
    for number, key in enumerate(jax.random.split(KEY, 300)):
        index, mask = (np.asarray(x) for x in batching(PATIENTS, VALID, key))
        assert index.shape == (6, size * 5)
        np.add.at(seen[number], (np.repeat(np.arange(6), size * 5), index.ravel()), mask.ravel().astype(int))
    assert seen.max() == 1 and not seen[..., IDS.size :].any()
    by_patient = np.stack([seen[..., : IDS.size][..., p == IDS].mean(-1) for p in np.unique(IDS)], -1)
    assert set(np.unique(by_patient)) == {0, 1}
    np.testing.assert_allclose(by_patient.mean((0, 1)), 3 / 7 if sampling == "poisson" else 1 / 3, atol=0.06)
    passes = by_patient.reshape(300, 2, 3, 7).sum(2)
    sizes = by_patient.sum(-1).ravel()
    if sampling == "poisson":
        np.testing.assert_allclose(sizes.var(), 7 * 3 / 7 * 4 / 7, rtol=0.15)
        assert len(np.unique(passes)) > 2
    else:
        # Every patient once in a pass of three steps.
        assert (passes == 1).all()
    if sampling == "balls_in_bins":
        np.testing.assert_allclose(sizes.var(), 7 * 1 / 3 * 2 / 3, rtol=0.15)
    if sampling == "fixed":
        assert set(sizes) == {3, 1}


def test_passes_of_correlated_noise_keep_their_order():
    """Two visits of a unit are a pass apart, in every round; an order that is not is told apart."""
    fixed = Mechanism(1.0, 1.0, 3, 3, unit="patient", sampling="fixed", epochs=3, units=7, images=5)
    matrix = dataclasses.replace(fixed, strategy=(1.0,), factors=(1.0,) * 4)

    def gaps(mechanism):
        orders, draw = [], jax.jit(private_batching(mechanism))
        for key in jax.random.split(KEY, 2):
            index, mask = (np.asarray(x) for x in draw(PATIENTS, VALID, key))
            orders += [set(np.asarray(PATIENTS["volume"])[i[m]]) for i, m in zip(index, mask, strict=True)]
        steps = {p: np.flatnonzero([p in order for order in orders]) for p in np.unique(IDS)}
        return {int(gap) for found in steps.values() for gap in np.diff(found)}

    assert gaps(matrix) == {3} and min(gaps(fixed)) < 3


def test_the_identity_strategy_is_the_noise_of_dp_sgd():
    examples = {"x": jnp.asarray(images(width=50))}
    plain = Mechanism(1.0, 1.5, 5, 5, sampling="fixed")
    matrix = dataclasses.replace(plain, strategy=(1.0,), factors=(1.0,) * 5)
    valid = VALID & (jnp.arange(len(VALID)) < 5)
    # One step with all examples in both.
    found, expected = (train(m, examples, valid) for m in (matrix, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["banded", "buffered"])
def test_correlated_noise_solves_for_independent_noise(kind):
    """C times the stream of noise over two rounds has independent entries of the stated size."""
    if kind == "banded":
        strategy, factors = strategy_of([4], passes=4, bands=3)
        decays, coefficients = (), np.r_[strategy, np.zeros(13)]
    else:
        strategy, decays, factors = (0.4, 0.2), (0.9, 0.3), (np.inf,) * 4 + (3.0,)
        coefficients = np.r_[1, [0.4 * 0.9**i + 0.2 * 0.3**i for i in range(15)]]
        factors = (*factors[:4], sensitivity(coefficients, 4, 4))
    width, z, bound = 3000, 1.3, 0.7
    mechanism = Mechanism(
        bound, z, 2, 2, sampling="fixed", epochs=2, strategy=strategy, decays=decays, factors=factors
    )
    examples, valid = {"x": jnp.zeros((8, width))}, jnp.ones(8, bool)
    variables, moves = Variables({"w": jnp.zeros(width)}, {}), []
    # One step at a time, so that each step's noise is seen.
    single = dp_sgd(linear_loss, optax.sgd(1.0), dataclasses.replace(mechanism, epochs=1))
    state = single.init(variables)
    # Memory does not grow with the training: banded noise has its past draws, buffers one number each.
    assert jax.tree.leaves(state)[0].shape == (2, width)
    index, mask = single.batching(examples, valid, KEY)
    step = jax.jit(single.update)
    for number in range(8):
        rows = slice(number % 4, number % 4 + 1)
        batches = fl.Batches(examples, index[rows], jnp.int32(8), valid, jnp.int32(0))
        result = step(variables, (), state, batches, mask[rows], jax.random.fold_in(KEY, number))
        state = result.client_state
        moves.append(np.asarray(result.delta.params["w"]))
    noise = -np.stack(moves) * 2 / (z * bound * factors[4])
    matrix = scipy.linalg.toeplitz(coefficients[:8], np.zeros(8))
    white = matrix @ noise
    np.testing.assert_allclose(np.cov(white), np.eye(8), atol=0.12)
    assert abs(np.corrcoef(noise)[0, 1]) > 0.2
    # A unit in steps 1, 5, 9 and 13: the largest change of C times the sums.
    taken = np.zeros(16)
    taken[::4] = 1
    full = scipy.linalg.toeplitz(coefficients, np.zeros(16))
    np.testing.assert_allclose(factors[4], np.linalg.norm(full @ taken), rtol=1e-4)
    assert factors[1] == np.inf


def site_upload(values, weight):
    return Upload(
        Variables({"w": weight * jnp.asarray(values, jnp.float32)}, {}), Message(), jnp.float32(weight)
    )


def site_round(channel, uploads, key=KEY, state=None):
    """(mean delta, server state) of a round of these uploads."""
    client, server = channel.init(uploads[0])
    server = server if state is None else state
    context = Context(jnp.int32(0), key, broadcast=channel.broadcast(server) if channel.broadcast else ())
    encoded = [channel.encode(upload, client, context)[0] for upload in uploads]
    total = jax.tree.map(lambda *leaves: sum(leaves), *encoded)
    total, server, _ = channel.decode(total, server, context)
    return np.asarray(total.delta.params["w"] / total.weight), server


def test_sites_count_the_same_and_the_divisor_is_fixed():
    mechanism = Mechanism(0.5, 0.0, 4.0, 10, unit="site", units=10)
    channel = private_sum(mechanism)
    rows = np.random.default_rng(1).normal(size=(3, 20))
    rows[1] *= 1e-2
    expected = sum(row * min(1, 0.5 / np.linalg.norm(row)) for row in rows) / 4
    weights = (300.0, 2.0, 1e-3)
    uploads = [site_upload(row, weight) for row, weight in zip(rows, weights, strict=True)]
    found, _ = site_round(channel, uploads)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # Removing a site moves the mean by C / 4, exactly where it was clipped.
    without, _ = site_round(channel, uploads[1:])
    np.testing.assert_allclose(np.linalg.norm(found - without), 0.5 / 4, rtol=1e-5)


def test_noise_of_sites_is_drawn_once_a_round_also_of_nobody():
    mechanism = Mechanism(0.5, 1.2, 4.0, 10, unit="site", units=10)
    channel = private_sum(mechanism)
    nobody = [site_upload(np.zeros(4000), 0.0)]
    draws = [site_round(channel, nobody, key)[0] * 4 / (1.2 * 0.5) for key in jax.random.split(KEY, 2)]
    for draw in draws:
        assert scipy.stats.kstest(draw, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(draws)[0, 1]) < 0.1


def test_the_clipping_norm_follows_the_median_and_is_paid_for():
    mechanism = Mechanism(0.1, 0.5, 100.0, 100, unit="site", sampling="fixed", units=100, count_noise=5.0)
    channel = private_sum(mechanism)
    assert mechanism.sum_multiplier > 0.5
    # Both releases together: precisions of the unit-sensitivity Gaussians add.
    np.testing.assert_allclose(mechanism.sum_multiplier**-2 + (2 * 5.0) ** -2, 0.5**-2)
    norms = np.exp(np.random.default_rng(0).normal(size=100))
    uploads = jax.vmap(lambda norm: site_upload(jnp.ones(1) * norm, 1.0))(jnp.asarray(norms, jnp.float32))
    client, bound = channel.init(jax.tree.map(lambda x: x[0], uploads))

    @jax.jit
    def step(bound, key):
        context = Context(jnp.int32(0), key, broadcast=channel.broadcast(bound))
        encoded = jax.vmap(lambda upload: channel.encode(upload, client, context)[0])(uploads)
        total, new, _ = channel.decode(jax.tree.map(lambda x: x.sum(0), encoded), bound, context)
        return new, total.delta.params["w"][0]

    for key in jax.random.split(KEY, 80):
        bound, _ = step(bound, key)
    np.testing.assert_allclose(bound, np.median(norms), rtol=0.15)
    found = [float(step(bound, key)[1]) for key in jax.random.split(KEY, 200)]
    np.testing.assert_allclose(np.std(found), mechanism.sum_multiplier * bound, rtol=0.15)
    # A round that is not applied has released its count all the same.
    assert channel.rollback(1.0, 2.0) == 2.0
    with pytest.raises(ValueError, match="count_noise: expected more than half"):
        dataclasses.replace(mechanism, noise_multiplier=10.0)


def test_what_would_travel_without_noise_is_refused():
    channel = private_sum(Mechanism(1.0, 1.0, 4.0, 10, unit="site", units=10))
    upload = site_upload(np.zeros(2), 1.0)
    with pytest.raises(ValueError, match="the model alone"):
        channel.init(upload._replace(message=Message(summed=jnp.zeros(1))))
    with pytest.raises(ValueError, match="numbers that noise can be added to"):
        channel.init(upload._replace(delta=Variables({"n": jnp.int32(1)}, {})))
    with pytest.raises(ValueError, match="example or patient"):
        fl.private_gradients(Mechanism(1.0, 1.0, 4.0, 10, unit="site", units=10))


def test_stream_of_noise_is_not_taken_back(fx):
    """Where the server applies nothing, parameters stay, and the noise goes on."""
    strategy, factors = strategy_of([2], passes=4, bands=2)
    mechanism = Mechanism(1.0, 1.0, 4, 4, sampling="fixed", epochs=1, strategy=strategy, factors=factors)
    algorithm = fl.federated(fx.quad, optax.sgd(0.1), method=fl.private_gradients(mechanism))
    broken = optax.GradientTransformation(
        lambda p: (), lambda g, s, p=None: (jax.tree.map(lambda x: x * np.nan, g), s)
    )
    algorithm = algorithm._replace(server_optimizer=broken)
    data = fx.quad_data(counts=np.full(4, 8))
    before = fl.init_state(algorithm, Variables({"w": jnp.zeros(2)}, {}), data)
    after, info = fl.make_round(algorithm, donate=False)(before, data, KEY)
    assert not info.applied
    np.testing.assert_array_equal(after.variables.params["w"], before.variables.params["w"])
    assert (np.abs(np.asarray(after.client.method["w"])).sum((1, 2)) > 0).all()
    # A strategy of one band keeps nothing.
    single = dataclasses.replace(mechanism, strategy=(1.0,), factors=(2.0,) * 3)
    algorithm = fl.federated(fx.quad, optax.sgd(0.1), method=fl.private_gradients(single))
    state = fl.init_state(algorithm, Variables({"w": jnp.zeros(2)}, {}), data)
    assert jax.eval_shape(fl.make_round(algorithm), state, data, KEY)[1].applied.shape == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "fixed"}, "padded_batch_size: expected expected_batch_size"),
        ({"strategy": (1.0,), "factors": (1.0,)}, "sampling: expected fixed with a matrix strategy"),
        ({"unit": "hospital"}, "unit: expected one of"),
        ({"unit": "site", "sampling": "balls_in_bins"}, "poisson or fixed of whole sites"),
        ({"count_noise": 1.0}, "count_noise: expected 0"),
        (
            {
                "sampling": "fixed",
                "padded_batch_size": 4,
                "strategy": (0.5,),
                "factors": (1.0,),
                "decays": (0.1, 0.2),
            },
            "decays: expected as many as the 1 scales",
        ),
        ({"images": 0}, "images: expected an integer"),
        ({"sampling": "fixed", "padded_batch_size": 4, "strategy": (1.0,)}, "factors: expected"),
    ],
)
def test_mechanisms_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Mechanism(
            **{
                "clipping_norm": 1.0,
                "noise_multiplier": 1.0,
                "expected_batch_size": 4,
                "padded_batch_size": 12,
                **changes,
            }
        )
