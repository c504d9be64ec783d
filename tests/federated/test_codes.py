"""Codes of varying length, rotations, factors in turn, and codecs in secure sums and checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon import communication as cm
from fedrecon import federated as fl
from fedrecon.communication import rice
from fedrecon.federated.methods.diloco import diloco
from fedrecon.federated.secure_sum import fixed_point_words
from fedrecon.runtime import Checkpointer
from fedrecon.secure_aggregation import FixedPoint
from fedrecon.types import Variables

SHAPES = ((12, 9), (5,))
SIZE = 113


def code_by_hand(values, bits):
    """The bits of every code, written out: the shortest of all parameters, or fixed widths."""
    found = {255: "".join(f"{v:0{bits}b}"[::-1] for v in values)}
    for k in range(bits):
        high = "".join("0" * (v >> k) + "1" for v in values)
        found[k] = high + "".join(f"{v % 2**k:0{k}b}"[::-1] if k else "" for v in values)
    best = min(found, key=lambda k: (len(found[k]), k))
    text = found[best] + "0" * (-len(found[best]) % 8)
    return bytes([best]) + bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1)))))
def test_codes_are_the_shortest_and_come_back(drawn):
    bits, values = drawn
    expected = code_by_hand(values, bits) if values else b"\0"
    found = rice.encoded(np.asarray(values, np.uint32), bits)
    assert found == expected
    back, end = rice.decoded(found + b"rest", len(values), bits)
    assert back.tolist() == values and end == len(found)


def test_lengths_are_counted_in_compiled_code_and_no_code_is_longer_than_fixed_widths():
    rng = np.random.default_rng(0)
    count = jax.jit(rice.rice_bytes, static_argnums=1)
    for bits, mean in ((4, 0.3), (20, 3000.0), (31, 2.0**29)):
        values = np.minimum(rng.geometric(1 / (1 + mean), 300) - 1, 2**bits - 1).astype(np.uint32)
        code = rice.encoded(values, bits)
        assert int(count(values, bits)) == len(code) <= 1 + -(-300 * bits // 8)
        np.testing.assert_array_equal(rice.decoded(code, 300, bits)[0], values)
    # Of a geometric source the codes take little more than its entropy.
    part = 1 / 4
    entropy = -np.log2(part) - (1 - part) / part * np.log2(1 - part)
    values = rng.geometric(part, 20_000) - 1
    assert entropy < 8 * len(rice.encoded(values, 8)) / 20_000 < entropy + 0.15
    signed = jnp.arange(-5, 6)
    np.testing.assert_array_equal(rice.unzigzag(rice.zigzag(signed)), signed)
    assert sorted(rice.zigzag(signed).tolist()) == list(range(11))
    for wrong in (b"", b"\x04\x00", b"\x00\x05"):
        with pytest.raises(ValueError, match="message: expected"):
            rice.decoded(wrong, 3, 4)


def upload_of(vector, weight=1.0):
    matrix, rest = np.split(np.asarray(vector, np.float32) * weight, [108])
    params = {"0": jnp.asarray(matrix.reshape(12, 9)), "1": jnp.asarray(rest)}
    return fl.Upload(Variables(params, {}), fl.Message(), jnp.float32(weight))


def at(round, client=0, broadcast=()):
    common = jax.random.key(round)
    key = jax.random.fold_in(common, client)
    return fl.Context(
        jnp.int32(round),
        key,
        jnp.int32(client),
        common=common,
        broadcast=broadcast,
        invited=jnp.ones(3, bool),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qsgd", {"coding": "rice", "levels": 3}),
        ("top_k", {"coding": "rice", "fraction": 0.1, "bits": 4}),
        ("top_k", {"coding": "rice", "fraction": 1.0}),
        ("power_sgd", {"alternate": True}),
        ("stochastic", {"rotate": True, "bits": 3}),
    ],
)
def test_messages_have_the_length_that_the_round_measures(name, options):
    named, upload = (
        cm.named_codec(name, **options),
        upload_of(np.random.default_rng(1).normal(size=SIZE) ** 3),
    )
    client, server = named.channel.init(upload)
    for round in range(2):
        broadcast = () if named.channel.broadcast is None else named.channel.broadcast(server)
        here = at(round, 0, broadcast)
        message = cm.upload_message(named, upload, client, here, cm.Envelope())
        encoded, client, info = named.channel.encode(upload, client, here)
        most = named.channel.payload_bytes(encoded)
        if named.channel.measured_bytes is None:
            assert len(message) == most
        else:
            assert len(message) == int(named.channel.measured_bytes(info)) <= most
        _, server, _ = named.channel.decode(encoded, server, here)


@pytest.mark.slow
def test_a_round_counts_what_every_client_sends(fx):
    """Bytes differ by client and round, as their codes do, also behind a clip."""
    codec = cm.qsgd(15, coding="rice")
    algorithm = fl.fedavg(
        fx.regression, optax.sgd(0.05), channel=fl.chain(fl.clip(100.0), cm.compressed(codec))
    )
    infos = fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)(fx.regression_data([3, 5, 2]))[
        1
    ]
    # Header, parameter, norm, statistics and weight; nine levels take a bit each at least, or five at most.
    sent = np.asarray(infos.bytes_up) - (64 + 1 + 4 + 4 * 7 + 4)
    assert sent.min() >= 2 and sent.max() <= 6 and len(np.unique(sent)) > 1
    np.testing.assert_array_equal(infos.channel[0][1]["bytes"], infos.bytes_up.sum(1))


def test_a_chain_measures_by_the_stage_that_counts():
    chain = fl.chain(fl.clip(1.0), cm.compressed(cm.qsgd(coding="rice")))
    assert chain.measured_bytes(({}, {"bytes": 5})) == 5
    assert fl.chain(fl.clip(1.0), cm.compressed(cm.qsgd())).measured_bytes is None


def test_codes_go_down_in_no_message():
    with pytest.raises(ValueError, match="codec: expected one of fixed widths, found qsgd-7-512-rice"):
        cm.with_downlink(None, cm.qsgd(coding="rice"))
    for make, words in (
        (lambda: cm.qsgd(coding="zip"), "coding: expected fixed or rice"),
        (lambda: cm.top_k(0.1, coding="zip"), "coding: expected fixed or rice"),
        (lambda: cm.rotated(cm.stochastic(), 48), "block: expected a power of two, found 48"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_rotations_turn_back():
    """The definition: signs, and the symmetric matrix of (-1)^(number of common bits)."""
    vector = np.random.default_rng(2).normal(size=7)
    leaf, keys = jnp.asarray(vector, jnp.float32), cm.Keys(jax.random.key(0), jax.random.key(1))
    codec = cm.rotated(cm.dense(), 4)
    payload = codec.compress([leaf], keys)
    signs = np.asarray(jax.random.rademacher(keys.common, (4,), jnp.float32))
    matrix = np.asarray([[(-1) ** (i & j).bit_count() for j in range(4)] for i in range(4)]) / 2
    blocks = np.pad(vector, (0, 1)).reshape(2, 4)
    np.testing.assert_allclose(payload["values"], ((signs * blocks) @ matrix).ravel(), atol=1e-6)
    np.testing.assert_allclose(codec.decompress(payload, ((7,),), keys.common)[0], vector, atol=1e-6)


@pytest.mark.slow
def test_rotations_make_ranges_small():
    vector = np.random.default_rng(2).normal(size=SIZE)
    vector[:3] = 100.0
    leaf, keys = jnp.asarray(vector, jnp.float32), cm.Keys(jax.random.key(0), jax.random.key(1))

    def error(codec):
        found = codec.decompress(codec.compress([leaf], keys), ((SIZE,),), keys.common)[0]
        return np.linalg.norm(np.asarray(found) - vector)

    assert error(cm.rotated(cm.stochastic(4))) < 0.6 * error(cm.stochastic(4))
    # 128 levels of 4 bits, bounds, and the seed.
    assert cm.message_bytes(cm.rotated(cm.stochastic(4)).sections(((SIZE,),))) == 64 + 64 + 8 + 8


@pytest.mark.slow
def test_rotated_levels_are_unbiased():
    rng = np.random.default_rng(3)
    leaf, codec = jnp.asarray(rng.normal(size=20) ** 3, jnp.float32), cm.rotated(cm.stochastic(2), 16)

    def once(key):
        keys = cm.Keys(*jax.random.split(key))
        return codec.decompress(codec.compress([leaf], keys), ((20,),), keys.common)[0]

    found = np.asarray(jax.vmap(once)(jax.random.split(jax.random.key(4), 600)))
    assert (np.abs(found.mean(0) - leaf) < 4.5 * found.std(0) / np.sqrt(600)).all() and found.std() > 0.1


def rounds_of(channel, changes, weights, words=None):
    """Mean changes of all rounds, and the clients' states; through words of fixed point, or plainly."""
    uploads = [upload_of(c, w) for c, w in zip(changes[0], weights, strict=True)]
    clients, server = [channel.init(uploads[0])[0]] * len(uploads), channel.init(uploads[0])[1]
    means = []
    for round, change in enumerate(changes):
        broadcast = () if channel.broadcast is None else channel.broadcast(server)
        sent = []
        for n, (c, w) in enumerate(zip(change, weights, strict=True)):
            encoded, clients[n], _ = channel.encode(upload_of(c, w), clients[n], at(round, n, broadcast))
            sent.append(encoded if words is None else words.encode(encoded, (), at(round, n))[0])
        total = jax.tree.map(lambda *x: sum(x), *sent)
        if words is not None:
            total = words.decode(total, (), at(round)._replace(participants=jnp.int32(len(sent))))[0]
        total, server, _ = channel.decode(total, server, at(round, 0, broadcast))
        means.append(
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(total.delta.params)]) / sum(weights)
        )
    return np.asarray(means), clients


LINEAR = {
    "random_k": {"fraction": 0.3},
    "shared_top_k": {"fraction": 0.3},
    "count_sketch": {"rows": 3, "columns": 4000, "fraction": 0.2},
    "power_sgd": {},
    "power_sgd alternate": {"alternate": True},
    "majority_vote": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_codecs_that_add_are_the_same_in_a_secure_sum_to_its_step(name):
    """Every codec that adds, one by one; its messages are added as words modulo 2^32, as protocols do."""
    named = cm.named_codec(name.partition(" ")[0], **LINEAR[name])
    assert named.sums
    fixed = FixedPoint.finest(64.0, 3)
    changes, weights = np.random.default_rng(5).normal(size=(3, 3, SIZE)), [1.0, 2.0, 0.5]
    plain, left = rounds_of(named.channel, changes, weights)
    secure, kept = rounds_of(named.channel, changes, weights, fixed_point_words(fixed, largest_weight=2.0))
    # Three clients, each within a step; factors are multiplied by bases of norm 1, of up to 12 rows.
    step = 2 * 2.0**-fixed.bits
    np.testing.assert_allclose(secure, plain, atol=3 * 12 * step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3 * 12 * step), kept, left)
    assert np.abs(plain).max() > 100 * 36 * step or name == "majority_vote"


def test_every_codec_that_adds_is_tried_in_a_secure_sum():
    assert {n.partition(" ")[0] for n in LINEAR} == {n for n in cm.CODECS if cm.named_codec(n).sums}


def test_factors_in_turn_find_the_best_approximation_and_lose_nothing():
    rng = np.random.default_rng(6)
    full, rest = rng.normal(size=(12, 9)) * np.geomspace(1, 0.1, 9), rng.normal(size=5)
    channel = cm.power_sgd(2, smallest_ratio=1.0, alternate=True)
    upload = upload_of(np.concatenate([full.ravel(), rest]))
    encode = jax.jit(channel.encode)

    def run(rounds, forget):
        client, server = channel.init(upload)
        sent, measured = 0, []
        for round in range(rounds):
            total, client, info = encode(upload, client, at(round, 0, channel.broadcast(server)))
            total, server, _ = channel.decode(total, server, at(round))
            sent, last = sent + np.asarray(total.delta.params["0"]), np.asarray(total.delta.params["0"])
            measured.append(int(info["bytes"]))
            if forget:
                client = jax.tree.map(jnp.zeros_like, client)
        return last, sent, client, measured

    last, *_ = run(12, True)
    best = np.linalg.norm(np.linalg.svd(full, compute_uv=False)[2:])
    assert best <= np.linalg.norm(last - full) < 1.02 * best
    _, sent, client, measured = run(5, False)
    np.testing.assert_allclose(sent + np.asarray(client["0000"]), 5 * full, atol=1e-4)
    # Header, weight and vector; 12 rows in even rounds and 9 columns in odd ones, rank 2.
    assert measured == [64 + 4 + 4 * 5 + 4 * 2 * n for n in (12, 9, 12, 9, 12)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "channel",
    [
        cm.compressed(cm.top_k(0.2, cm.stochastic(3)), error_feedback=True),
        cm.forgetting(cm.random_k(0.2), 3),
        cm.power_sgd(1, smallest_ratio=1.0, alternate=True),
        cm.count_sketch(3, 8, fraction=0.2),
    ],
    ids=["top_k", "random_k", "power_sgd", "count_sketch"],
)
def test_what_is_kept_survives_a_checkpoint_bit_for_bit(fx, channel, tmp_path):
    algorithm = fl.fedavg(fx.regression, optax.sgd(0.05), channel=channel)
    data, round = fx.regression_data([3, 5]), fl.make_round(algorithm, batch_size=2, epochs=1, donate=False)
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data)
    step = functools.partial(round, data=data, key=jax.random.key(7))
    for _ in range(2):
        state = step(state)[0]
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(2, state)
    checkpointer.wait()
    blank = fl.init_state(algorithm, fx.regression.init(jax.random.key(9)), data)
    number, restored = checkpointer.restore(blank)
    checkpointer.close()
    assert number == 2
    kept = jax.tree.leaves((restored.client_channel, restored.channel))
    assert any(np.abs(np.asarray(x)).max() > 0 for x in kept)
    for _ in range(2):
        state, restored = step(state)[0], step(restored)[0]
    fx.assert_equal(state, restored)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("name", cm.CODECS)
def test_what_is_no_number_is_sent_by_no_codec(name, wrong):
    """Votes and places that are drawn would not show it."""
    vector = np.zeros(SIZE)
    vector[7] = wrong
    with pytest.raises(ValueError, match="upload: expected finite values"):
        cm.upload_message(cm.named_codec(name), upload_of(vector), (), at(0), cm.Envelope())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["stochastic", "top_k", "signs", "random_k", "power_sgd", "count_sketch"])
def test_leaves_of_half_precision_have_messages_of_the_same_length(name, dtype):
    """Codecs compute and send in single precision, whatever the dtype of the leaves."""
    named = cm.named_codec(name)
    single = upload_of(np.random.default_rng(8).normal(size=SIZE))
    kept = {"1": single.delta.params["1"]} if name == "power_sgd" else {}
    half = jax.tree.map(lambda x: x.astype(dtype), single.delta.params) | kept
    upload = single._replace(delta=Variables(half, {}))
    client, server = named.channel.init(upload)
    here = at(0, 0, () if named.channel.broadcast is None else named.channel.broadcast(server))
    encoded = named.channel.encode(upload, client, here)[0]
    lengths = [
        len(cm.upload_message(named, u, named.channel.init(u)[0], here, cm.Envelope()))
        for u in (upload, single)
    ]
    assert lengths[0] == lengths[1] == named.channel.payload_bytes(encoded)


@pytest.mark.slow
def test_without_feedback_what_was_sent_does_not_add_up_and_with_everything_nothing_is_kept():
    vector = np.arange(1.0, SIZE + 1)
    for fraction, feedback, gap in ((0.2, False, True), (0.2, True, False), (1.0, True, False)):
        channel = cm.compressed(cm.top_k(fraction), error_feedback=feedback)
        means, (kept,) = rounds_of(channel, np.tile(vector, (3, 1, 1)), [1.0])
        rest = np.concatenate([np.ravel(x) for x in jax.tree.leaves(kept)]) if feedback else 0
        missing = np.abs(means.sum(0) + rest - 3 * vector).max()
        assert (missing > 10) == gap and (gap or missing < 1e-4)
        assert fraction < 1 or not np.any(rest)


@pytest.mark.slow
def test_bases_do_not_depend_on_signs_of_factors_and_are_the_same_again():
    """A QR of another sign spans the same space: what is sent of the next round's change is the same."""
    changes = np.random.default_rng(9).normal(size=(2, 1, SIZE))
    flipped = changes * np.array([-1.0, 1.0])[:, None, None]
    first, again, other = (
        rounds_of(cm.power_sgd(2, smallest_ratio=1.0), c, [1.0])[0] for c in (changes, changes, flipped)
    )
    np.testing.assert_array_equal(first, again)
    # Clients that keep minus what they kept: the sums of both rounds tell the second's own part apart.
    channel = cm.power_sgd(2, smallest_ratio=1.0)
    _, server = channel.init(upload_of(changes[0, 0]))
    ends = []
    for sign in (1, -1):
        turned = jax.tree.map(lambda x, s=sign: s * x, server)
        kept = {"0000": jnp.zeros((12, 9))}
        encoded = channel.encode(upload_of(changes[1, 0]), kept, at(1, 0, turned))[0]
        ends.append(np.asarray(channel.decode(encoded, turned, at(1))[0].delta.params["0"]))
    np.testing.assert_allclose(*ends, atol=1e-5)
    np.testing.assert_allclose(other[0], -first[0], atol=1e-5)


@pytest.mark.slow
def test_diloco_of_one_step_is_data_parallel_descent(fx):
    """Inner SGD, no outer momentum: w - rate x mean gradient, of all clients' examples alike."""
    algorithm = diloco(fx.quad, optax.sgd(0.05), momentum=0.0, server_learning_rate=1.0, weighting=fl.equal)
    run = fx.trajectory(fx.quad, algorithm, 3, batch_size=1, steps=1)
    places = np.asarray(run(fx.quad_data())[0].variables.params["w"])
    w = np.array([0.3, -0.7])
    for place in places:
        w = w - 0.05 * np.mean(np.reshape(fx.a, (4, -1)) * (w - np.asarray(fx.b)), axis=0)
        np.testing.assert_allclose(place, w, rtol=1e-5, atol=1e-6)
