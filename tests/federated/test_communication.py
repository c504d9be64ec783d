"""Codecs: unbiased, within their bounds, exact where they must be, and as long as the round says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon import communication as cm
from fedrecon import federated as fl
from tests.federated.codec_messages import (
    SHAPES,
    SIZE,
    VECTOR,
    context,
    exchange,
    flat,
    keys,
    leaves_of,
    sent,
    upload_of,
)

CODECS = [
    cm.dense(),
    cm.bfloat16(),
    cm.stochastic(1),
    cm.stochastic(5, bucket=16),
    cm.stochastic(16),
    cm.qsgd(7, bucket=16),
    cm.qsgd(100),
    cm.scaled_signs(),
    cm.top_k(0.04),
    cm.top_k(0.5),
    cm.top_k(1.0),
    cm.top_k(0.2, cm.stochastic(4)),
    cm.top_k(0.2, cm.qsgd(3)),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "number",
    [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 3))],
)
def test_a_message_has_the_length_that_the_round_counts_and_comes_back(codec, number):
    shapes = [SHAPES, ((1,),), ((513,),), ((600, 3), (1,))][number]
    vector = np.random.default_rng(number).normal(size=sum(int(np.prod(s)) for s in shapes))
    k = keys(number)
    payload = {name: np.asarray(x) for name, x in codec.compress(leaves_of(vector, shapes), k).items()}
    sections, whose = codec.sections(shapes), cm.Envelope(2**63, number, 5)
    message = cm.serialize(codec.name, sections, payload, whose)
    assert len(message) == cm.message_bytes(sections)
    read, envelope = cm.deserialize(codec.name, sections, message)
    assert envelope == whose
    for name, values in payload.items():
        np.testing.assert_array_equal(np.asarray(read[name], np.float64), values.reshape(-1))
    there = codec.decompress({n: jnp.asarray(x) for n, x in read.items()}, shapes, k.common)
    here = codec.decompress(codec.compress(leaves_of(vector, shapes), k), shapes, k.common)
    np.testing.assert_array_equal(flat(there), flat(here))


def test_bytes_are_those_of_the_formulas():
    size, shapes = 1000, ((1000,),)
    expected = {
        cm.dense(): 4 * size,
        cm.bfloat16(): 2 * size,
        cm.stochastic(3): 375 + 8 * 2,
        cm.qsgd(7): 500 + 4 * 2,
        cm.qsgd(8): 625 + 4 * 2,
        cm.scaled_signs(): 125 + 4,
        cm.top_k(0.01): 4 * 10 + 13,  # ten places of ten bits
        cm.top_k(0.2): 4 * 200 + 125,  # a bit for each value takes less
        cm.top_k(0.2, cm.stochastic(4)): 100 + 8 + 125,
    }
    for codec, length in expected.items():
        assert cm.message_bytes(codec.sections(shapes)) == 64 + length, codec.name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_message_is_named(data):
    codec = cm.stochastic(5, bucket=16)
    payload = {n: np.asarray(x) for n, x in codec.compress(leaves_of(VECTOR), keys()).items()}
    message = cm.serialize(codec.name, codec.sections(SHAPES), payload, cm.Envelope(1, 2, 3))
    if data.draw(st.booleans()):
        place, bit = data.draw(st.integers(0, len(message) - 1)), data.draw(st.integers(0, 7))
        damaged = message[:place] + bytes([message[place] ^ (1 << bit)]) + message[place + 1 :]
    else:
        damaged = message[: data.draw(st.integers(0, len(message) - 1))] + data.draw(st.binary(max_size=3))
    if damaged == message:
        return
    with pytest.raises(ValueError, match="message: expected"):
        cm.deserialize(codec.name, codec.sections(SHAPES), damaged)


def test_messages_of_other_codecs_and_values_that_do_not_fit_are_refused():
    codec, sections = cm.dense(), cm.dense().sections(((2,),))
    message = cm.serialize(codec.name, sections, {"values": np.ones(2, np.float32)}, cm.Envelope())
    with pytest.raises(ValueError, match="message: expected one of the codec 'dense' for this model"):
        cm.deserialize(codec.name, cm.dense().sections(((3,),)), message)
    for wrong, words in (
        ({"values": np.array([1.0, np.nan], np.float32)}, "values: expected finite"),
        ({"values": np.ones(3, np.float32)}, "values: expected 2 values, found 3"),
        ({"value": np.ones(2, np.float32)}, "payload: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            cm.serialize(codec.name, sections, wrong, cm.Envelope())
    with pytest.raises(ValueError, match="levels: expected integers of 3 bits, found 8"):
        cm.serialize("x", (cm.Section("levels", 2, 3),), {"levels": np.array([8, 0])}, cm.Envelope())


@pytest.mark.parametrize(
    "codec",
    [cm.stochastic(1), cm.stochastic(3, bucket=16), cm.qsgd(1, bucket=16), cm.qsgd(7)],
    ids=lambda codec: codec.name,
)
def test_rounding_is_unbiased_and_within_its_bounds(codec):
    draws = 400
    run = jax.vmap(
        lambda key: codec.decompress(codec.compress(leaves_of(VECTOR), cm.Keys(key, key)), SHAPES, key)
    )
    found = run(jax.random.split(jax.random.key(3), draws))
    found = np.concatenate([np.asarray(x, np.float64).reshape(draws, -1) for x in found], 1)
    kind, number, bucket = codec.name.split("-")
    number, bucket = int(number), min(int(bucket), SIZE)
    for start in range(0, SIZE, bucket):
        part, rows = VECTOR[start : start + bucket], found[:, start : start + bucket]
        step = np.linalg.norm(part) / number
        if kind == "stochastic":
            step = (part.max() - part.min()) / (2**number - 1)
        # Rare steps are Poisson: five standard deviations of those seen, and ten.
        error = 5 * rows.std(0) / np.sqrt(draws) + 10 * step / draws
        assert (np.abs(rows.mean(0) - part) <= error).all()
        assert np.abs(rows - part).max() <= step * (1 + 1e-5)
        if kind == "qsgd":
            bound = min(bucket / number**2, np.sqrt(bucket) / number) * (part**2).sum()
            assert np.square(rows - part).sum(1).mean() <= bound
            assert (rows * part >= 0).all()


def test_values_on_levels_and_constants_are_exact():
    codec = cm.stochastic(4)
    steps = np.random.default_rng(1).integers(0, 16, SIZE) * 0.37 - 1.0
    steps[:2] = -1.0, 15 * 0.37 - 1.0
    once = sent(codec, steps)
    np.testing.assert_allclose(once, steps, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(sent(codec, once, 1), once)
    np.testing.assert_array_equal(sent(codec, np.full(SIZE, 0.1)), np.full(SIZE, np.float32(0.1)))
    fine = np.abs(sent(cm.stochastic(16), VECTOR) - VECTOR).max()
    assert fine < 1e-4 * (VECTOR.max() - VECTOR.min())
    for codec in CODECS:
        if codec.name != "scaled_signs":
            np.testing.assert_array_equal(sent(codec, np.zeros(SIZE)), 0)
    tiny = sent(cm.qsgd(1000), np.full(SIZE, 1e-30))
    np.testing.assert_allclose(tiny, 1e-30, rtol=0.1)


def test_the_largest_are_kept_and_of_equals_the_first():
    vector = np.array([1.0, -3.0, 3.0, 0.5, -3.0, 2.0])
    shapes = ((2,), (4,))
    assert sent(cm.top_k(2 / 6), vector, shapes=shapes).tolist() == [0, -3, 3, 0, 0, 0]
    assert sent(cm.top_k(0.01), vector, shapes=shapes).tolist() == [0, -3, 0, 0, 0, 0]
    assert np.count_nonzero(sent(cm.top_k(0.3), VECTOR)) == round(0.3 * SIZE)
    np.testing.assert_array_equal(sent(cm.top_k(1.0), VECTOR), VECTOR.astype(np.float32))


FEEDBACK_NAMES = ["top_k", "signs", "top_k+bits", "random_k", "power_sgd"]
FEEDBACK = [
    cm.compressed(cm.top_k(0.1), error_feedback=True),
    cm.compressed(cm.scaled_signs(), error_feedback=True),
    cm.compressed(cm.top_k(0.2, cm.stochastic(2)), error_feedback=True),
    cm.random_k(0.1),
    cm.power_sgd(1, smallest_ratio=1.0),
]


@pytest.mark.parametrize(
    "channel",
    [
        pytest.param(channel, marks=pytest.mark.slow) if name in ("signs", "top_k") else channel
        for channel, name in zip(FEEDBACK, FEEDBACK_NAMES, strict=True)
    ],
    ids=FEEDBACK_NAMES,
)
def test_what_was_sent_and_what_is_kept_add_up(channel):
    rng, weights = np.random.default_rng(2), [1.0, 3.0]
    states, total = None, np.zeros(SIZE)
    changes = rng.normal(size=(4, 2, SIZE))
    for round in changes:
        mean, states = exchange(channel, round, weights, states)
        total += mean * sum(weights)
    kept = np.zeros(SIZE)
    for client in states[0]:
        if isinstance(client, dict) and set(client) <= {"0000", "0003"}:  # matrices of PowerSGD
            full = np.zeros(SIZE)
            full[:15], full[23:] = np.ravel(client["0000"]), np.ravel(client["0003"])
            kept += full
        else:
            kept += flat(jax.tree.leaves(client))
    expected = (changes * np.array(weights)[:, None]).sum((0, 1))
    np.testing.assert_allclose(total + kept, expected, atol=3e-5)
    assert np.abs(kept).max() > 0.1


@pytest.mark.slow
def test_signs_alone_diverge_where_their_errors_are_not_kept():
    """The counterexample of Karimireddy et al. in one dimension: its expected sign points uphill."""
    rng = np.random.default_rng(0)

    def run(feedback):
        channel = cm.compressed(cm.scaled_signs(), error_feedback=feedback)
        state = channel.init(upload_of(np.zeros(1), shapes=((1,),)))[0]
        encode = jax.jit(channel.encode)
        x = 0.0
        for round in range(400):
            gradient = 4.0 if rng.random() < 0.25 else -1.0  # mean 1/4: f(x) = x / 4
            sign = upload_of(
                np.array([-0.02 * np.sign(gradient) if not feedback else -0.01 * gradient]), shapes=((1,),)
            )
            got, state, _ = encode(sign, state, context(round))
            x += float(got.delta.params["0"][0])
        return x

    assert run(True) < -0.5 and run(False) > 0.5


@pytest.mark.slow
def test_places_that_all_share_add_and_are_unbiased():
    channel = cm.random_k(0.25, error_feedback=False)
    changes = np.random.default_rng(3).normal(size=(3, SIZE))
    weights = [1.0, 2.0, 4.0]
    expected = np.average(changes, axis=0, weights=weights)
    state, found = None, []
    for _ in range(300):
        mean, state = exchange(channel, changes, weights, state)
        found.append(mean)
    kept = round(0.25 * SIZE)
    for mean in found[:5]:
        support = mean != 0
        assert support.sum() == kept
        np.testing.assert_allclose(mean[support], expected[support] * SIZE / kept, rtol=1e-5)
    found = np.array(found)
    assert (np.abs(found.mean(0) - expected) < 5 * found.std(0) / np.sqrt(300) + 1e-6).all()
    encoded = channel.encode(upload_of(changes[0]), (), context())[0]
    assert channel.payload_bytes(encoded) == 64 + 8 + 4 * kept + 4 + 4  # seed, values, count, weight


def test_without_a_common_key_places_are_public_and_change_with_the_round():
    channel = cm.random_k(0.25, error_feedback=False)

    def sent(number, client=0):
        own = fl.Context(jnp.int32(number), jax.random.key(client), jnp.int32(client))
        encoded = channel.encode(upload_of(np.arange(1.0, SIZE + 1)), (), own)[0]
        return np.asarray(encoded.delta.params.values)

    np.testing.assert_array_equal(sent(0, 0), sent(0, 1))
    assert (sent(0) != sent(1)).any()


def test_own_masks_are_averaged_over_those_who_sent():
    channel = cm.random_mask(0.5)
    changes, weights = np.random.default_rng(4).normal(size=(3, SIZE)), np.array([1.0, 2.0, 4.0])
    encoded = [
        channel.encode(upload_of(c, w), (), context(0, n))[0]
        for n, (c, w) in enumerate(zip(changes, weights, strict=True))
    ]
    masks = np.array([np.asarray(e.delta.params.values["weights"]) > 0 for e in encoded])
    assert (masks.sum(1) == round(0.5 * SIZE)).all() and not (masks == masks[0]).all()
    mean, _ = exchange(channel, changes, weights)
    share = masks * weights[:, None]
    expected = np.where(share.sum(0) > 0, (share * changes).sum(0) / np.maximum(share.sum(0), 1), 0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
    mean, _ = exchange(cm.random_mask(1.0), changes, weights)
    np.testing.assert_allclose(mean, np.average(changes, axis=0, weights=weights), rtol=1e-5, atol=1e-6)


def test_bad_numbers_are_named():
    for make, words in (
        (lambda: cm.stochastic(0), "bits: expected an integer from 1 to 16"),
        (lambda: cm.qsgd(0), "levels: expected"),
        (lambda: cm.top_k(0.0), "fraction: expected a number in"),
        (lambda: cm.random_k(1.5), "fraction"),
        (lambda: cm.random_mask(float("nan")), "fraction"),
        (lambda: cm.count_sketch(0), "rows: expected a positive integer"),
        (lambda: cm.count_sketch(momentum=1.0), "momentum"),
        (lambda: cm.power_sgd(0), "rank"),
        (lambda: cm.majority_vote(0.0), "step: expected a positive number"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("top_k", "random_k", "random_mask", "majority_vote")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in cm.CODECS
    ],
)
def test_the_message_of_a_client_has_the_bytes_of_the_round(name):
    named = cm.named_codec(name)
    upload = upload_of(VECTOR, 3.0)
    upload = upload._replace(message=fl.Message(scalars=jnp.float32(2.0), summed=jnp.arange(3)))
    client, server = named.channel.init(upload)
    broadcast = () if named.channel.broadcast is None else named.channel.broadcast(server)
    at = context(4, 1, broadcast)
    encoded, client, _ = named.channel.encode(upload, client, at)
    for state in (named.channel.init(upload)[0], client):  # with nothing kept, and with what was left out
        message = cm.upload_message(named, upload, state, at, cm.Envelope(1, 4, 1))
        assert len(message) == named.channel.payload_bytes(encoded)


def test_unknown_codecs_are_named():
    with pytest.raises(ValueError, match="codec: expected one of dense, bfloat16"):
        cm.named_codec("zip")
