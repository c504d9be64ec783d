"""Methods and channels of few bytes: parts in turn, updates down, what is forgotten, noise before codecs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import communication as cm
from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.diloco import diloco
from fedrecon.types import Variables


def alternating(key, round, history):
    """The second client is away in rounds 1, 4, ..."""
    return jnp.array([True, True, True, True]).at[1].set(round % 3 != 1)


def test_parts_in_turn_follow_their_definition(fx):
    """Two coordinates, a part each, of clients that keep what is not exchanged; one is sometimes away."""
    rate, outer, momentum, rounds = 0.05, 0.7, 0.5, 5
    algorithm = cm.streaming_diloco(
        fx.quad,
        optax.sgd(rate),
        parts=2,
        server_learning_rate=outer,
        momentum=momentum,
        sampler=alternating,
        weighting=fl.equal,
    )
    states, infos = fx.trajectory(fx.quad, algorithm, rounds)(fx.quad_data())
    server, velocity = np.array([0.3, -0.7]), np.zeros(2)
    own, last = np.tile(server, (4, 1)), np.full(4, -1)
    for turn in range(rounds):
        present = [i for i in range(4) if i != 1 or turn % 3 != 1]
        changes = []
        for i in present:
            # What was exchanged since the client was last there is taken over.
            for past in range(max(last[i], 0), turn):
                own[i][past % 2] = server[past % 2]
            for _ in range(fx.tau[i]):
                own[i] -= rate * fx.a[i] * (own[i] - fx.b[i])
            changes.append(own[i] - server)
            last[i] = turn
        part, mean = turn % 2, np.mean(changes, 0)
        velocity[part] = momentum * velocity[part] + mean[part]
        server = server.copy()
        server[part] += outer * (mean[part] + momentum * velocity[part])
        np.testing.assert_allclose(states.variables.params["w"][turn], server, rtol=1e-4, atol=1e-5)
    # One number, the header and the weight; down the part, or everything, statistics of nothing, two turns.
    assert set(np.asarray(infos.bytes_up)[0]) == {4 + 64 + 4}
    down = np.asarray(infos.bytes_down)
    assert down[0].tolist() == [16] * 4 and down[1].tolist() == [12, 0, 12, 12]
    assert down[2].tolist() == [12, 16, 12, 12]


@pytest.mark.slow
def test_one_part_is_diloco(fx):
    ends = []
    for make in (diloco, lambda *a, **o: cm.streaming_diloco(*a, parts=1, **o)):
        algorithm = make(fx.regression, optax.adam(0.05))
        run = fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)
        ends.append(run(fx.regression_data([3, 5]))[0].variables)
    fx.assert_close(*ends)


@pytest.mark.slow
def test_quantized_changes_are_those_of_averaging_in_expectation(fx):
    """FedPAQ: the mean over keys of a round is that of FedAvg, within four standard errors."""
    data, start = fx.quad_data(), Variables({"w": jnp.array([0.3, -0.7])}, {})

    def after(algorithm, count):
        round = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
        state = fl.init_state(algorithm, start, data)
        keys = jax.random.split(jax.random.key(5), count)
        ends = [round(state, data, key) for key in keys]
        return np.array([end[0].variables.params["w"] for end in ends]), ends[0][1]

    plain = after(fl.fedavg(fx.quad, optax.sgd(0.05)), 1)[0][0]
    found, info = after(cm.fedpaq(fx.quad, optax.sgd(0.05), levels=1), 300)
    assert found.std(0).min() > 0.01
    assert (np.abs(found.mean(0) - plain) < 4 * found.std(0) / np.sqrt(300)).all()
    # Two numbers of two bits, a norm, the header and the weight.
    assert info.bytes_up.tolist() == [1 + 4 + 64 + 4] * 4
    with pytest.raises(TypeError, match="channel"):
        cm.fedpaq(fx.quad, optax.sgd(0.1), channel=fl.clip(1.0))


def test_the_server_keeps_what_it_does_not_send(fx):
    """What clients have and what is kept are the model of a server that sends everything."""
    rng = np.random.default_rng(0)
    start = {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.zeros(5)}
    plain = fl.fedavg(fx.quad, optax.sgd(0.1), server_optimizer=optax.sgd(0.5, 0.9))
    for codec, exact in ((cm.top_k(0.2), False), (cm.dense(), True)):
        behind = cm.with_downlink(plain, codec)
        theirs, ours = start, start
        state, reference = behind.server_optimizer.init(start), plain.server_optimizer.init(start)
        for _ in range(4):
            change = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), start)
            updates, state = behind.server_optimizer.update(change, state, theirs)
            expected, reference = plain.server_optimizer.update(change, reference, ours)
            sent = sum(int((x != 0).sum()) for x in jax.tree.leaves(updates))
            assert sent == (17 if exact else 3)
            theirs, ours = optax.apply_updates(theirs, updates), optax.apply_updates(ours, expected)
        whole = jax.tree.map(jnp.add, theirs, state.left_out)
        fx.assert_close(whole, ours)
        if exact:
            fx.assert_equal(theirs, ours)


@pytest.mark.slow
def test_clients_that_missed_a_round_get_the_whole_model(fx):
    plain = fl.fedavg(fx.regression, optax.sgd(0.05), sampler=alternating)
    behind = cm.with_downlink(plain, cm.dense())
    work = {"batch_size": 2, "epochs": 1}
    data = fx.regression_data([3, 5, 2, 4])
    (states, infos), (expected, before) = (
        fx.trajectory(fx.regression, a, 3, **work)(data) for a in (behind, plain)
    )
    fx.assert_close(states.variables, expected.variables)
    released = behind.release(jax.tree.map(lambda x: x[-1], states))
    fx.assert_close(released.params, jax.tree.map(lambda x: x[-1], expected.variables.params))
    # A dense update has the 9 parameters and a header; no longer than the model, it saves nothing.
    assert infos.bytes_down.tolist() == before.bytes_down.tolist()
    half = behind._replace(update_bytes=lambda params: 10)
    infos = fx.trajectory(fx.regression, half, 3, **work)(data)[1]
    full, less = 4 * (9 + 7), 10 + 4 * 7
    assert infos.bytes_down.tolist() == [[full] * 4, [less, 0, less, less], [less, full, less, less]]
    own = plain._replace(release=lambda state: state.variables)
    with pytest.raises(ValueError, match="downlink: expected none with a method that hands out a model"):
        cm.with_downlink(own, cm.dense())


def upload_of(values):
    return fl.Upload(Variables({"x": jnp.asarray(values, jnp.float32)}, {}), fl.Message(), jnp.float32(1))


def at(round, broadcast=()):
    key = jax.random.key(round)
    return fl.Context(jnp.int32(round), key, jnp.int32(0), common=key, broadcast=broadcast)


def test_what_is_kept_is_dropped_after_idle_rounds():
    channel = cm.forgetting(cm.compressed(cm.top_k(0.25), error_feedback=True), 20)
    upload = upload_of([4.0, 3.0, 2.0, 1.0])
    _, kept, _ = channel.encode(upload, channel.init(upload)[0], at(1))
    for round, expected in ((21, [0, 6, 0, 0]), (22, [4, 0, 0, 0])):
        sent = channel.encode(upload, kept, at(round))[0]
        np.testing.assert_array_equal(sent.delta.params["x"], expected)
    named = cm.named_codec("top_k", fraction=0.25, idle_rounds=20)
    state = named.channel.encode(upload, named.channel.init(upload)[0], at(1))[1]
    for round in (21, 22):
        message = cm.upload_message(named, upload, state, at(round), cm.Envelope())
        assert len(message) == named.channel.payload_bytes(upload)
    with pytest.raises(ValueError, match="idle_rounds: expected a positive integer"):
        cm.forgetting(channel, -1)


def test_places_that_the_server_publishes_follow_the_largest_of_the_sum():
    channel = cm.shared_top_k(0.4, explored=0.25)
    rng = np.random.default_rng(1)
    base = 0.01 * rng.normal(size=10)
    base[[2, 7]] = 5.0, -6.0
    clients, server = [channel.init(upload_of(base))[0]] * 2, channel.init(upload_of(base))[1]
    sent, total, seen = np.zeros(10), np.zeros(10), []
    for round in range(12):
        places = np.asarray(server["places"])
        assert len(set(places)) == 4
        seen.append(places)
        uploads = [upload_of(base + 0.01 * rng.normal(size=10)) for _ in clients]
        encoded = [
            channel.encode(u, c, at(round, channel.broadcast(server)))
            for u, c in zip(uploads, clients, strict=True)
        ]
        clients = [e[1] for e in encoded]
        both = jax.tree.map(lambda *x: sum(x), *[e[0] for e in encoded])
        assert channel.payload_bytes(encoded[0][0]) == 64 + 4 * 4 + 4
        decoded, server, _ = channel.decode(both, server, at(round))
        sent += np.asarray(decoded.delta.params["x"])
        total += sum(np.asarray(u.delta.params["x"]) for u in uploads)
        np.testing.assert_allclose(sent + sum(np.asarray(c) for c in clients), total, rtol=1e-4, atol=1e-4)
    # Once found, the largest stay; the others come and go.
    assert all({2, 7} <= set(places) for places in seen[-4:])
    assert len({tuple(places) for places in seen[-6:]}) > 1


def test_estimates_of_sketches_are_unbiased_and_other_seeds_are_refused():
    rng = np.random.default_rng(2)
    vector = jnp.asarray(rng.normal(size=60), jnp.float32)
    draw = jax.vmap(lambda seed: cm.estimates(cm.sketch(vector, 3, 16, seed), 60, seed))
    found = np.asarray(draw(jnp.arange(150)))
    error = found - np.asarray(vector)
    assert np.abs(error).max() > 1
    assert np.abs(error.mean(0) / (error.std(0) / np.sqrt(150))).max() < 4.5
    first, second = (cm.named_codec("count_sketch", rows=3, columns=16, seed=seed) for seed in (1, 2))
    upload = upload_of(np.arange(60.0))
    sections = (cm.Section("rest/0000", 48, 32, "float"), cm.Section("rest/0001", 1, 32, "float"))
    message = cm.upload_message(first, upload, (), at(0), cm.Envelope())
    cm.deserialize(first.name, sections, message)
    with pytest.raises(ValueError, match="message: expected one of the codec"):
        cm.deserialize(second.name, sections, message)


@pytest.mark.slow
def test_what_a_codec_keeps_is_that_of_noised_changes(fx):
    """One example changes what is noised by the clipping norm at most, whatever earlier rounds have left."""
    norm, size, rng = 0.5, 4.0, np.random.default_rng(3)
    b = rng.normal(size=(1, 8, 6)).astype(np.float32) * 3
    valid = jnp.ones((1, 8), bool)
    channel = cm.compressed(cm.top_k(0.3), error_feedback=True)

    def algorithm(noise):
        private = fl.private_gradients(Mechanism(norm, noise, size, 8, steps=1))
        return fl.fedavg(fx.linear, optax.sgd(1.0), method=private, channel=channel)

    start, key = Variables({"w": jnp.zeros(6)}, {}), jax.random.key(1)
    data = fx.clients({"b": jnp.asarray(b), "a": jnp.ones((1, 8))}, valid)
    noised = algorithm(2.0)
    round = fl.make_round(noised, donate=False)
    state = fl.init_state(noised, start, data)
    for _ in range(3):
        state, _ = round(state, data, key)
    upload = jax.jit(fl.traffic.first_upload, static_argnums=0)
    sent = upload(noised, state, data, key)
    flat = np.asarray(sent.state["w"])
    assert np.abs(flat).max() > 0
    quiet = fl.traffic.first_upload(algorithm(0.0), state, data, key)
    gaps = []
    for example in range(8):
        other = b.copy()
        other[0, example] = 0
        without = fx.clients({"b": jnp.asarray(other), "a": jnp.ones((1, 8))}, valid)
        there = upload(noised, state, without, key)
        np.testing.assert_array_equal(there.state["w"], flat)
        # Uploads are means over the expected batch, times the number of examples.
        change = np.asarray(sent.upload.delta.params["w"] - there.upload.delta.params["w"]) * size / 8
        gaps.append(np.linalg.norm(change))
    assert 0.9 * norm < max(gaps) <= norm * (1 + 1e-4)
    encoded, kept, _ = channel.encode(sent.upload, sent.state, sent.context)
    through = np.asarray(kept["w"] + encoded.delta.params["w"])
    np.testing.assert_allclose(
        through, flat + np.asarray(sent.upload.delta.params["w"]), rtol=1e-5, atol=1e-5
    )
    noise = np.asarray(sent.upload.delta.params["w"] - quiet.upload.delta.params["w"])
    assert np.abs(noise).max() > 0.1 and np.abs(through - flat - noise).max() > 0
