"""Leaves that are frozen, groups of leaves with weights of their own, and what clients evaluate with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.federated.topologies import make_gossip_round, make_ring_round, peer_to_peer
from fedrecon.federated.topologies.streaming import StreamingRound, init_streaming, load_from
from fedrecon.federated.topologies.streaming_evaluation import make_streaming_evaluate
from fedrecon.types import Variables

RATE, KEY = 0.05, jax.random.key(3)
WORK = {"batch_size": 1, "epochs": 1}
W, H = np.array([0.3, -0.7], np.float32), np.array([0.5, -0.25], np.float32)
MODEL = Variables({"w": jnp.asarray(W), "h": jnp.asarray(H)}, {})
MASK = Variables({"w": True, "h": fl.FROZEN}, True)


@functools.cache
def frozen_run(fx):
    """Three rounds of Ditto with h frozen: (algorithm, placed data, states, infos)."""
    algorithm = fl.ditto(fx.pair, optax.sgd(RATE), keep_optimizer=True, share_mask=MASK)
    data = fl.place(fx.quad_data(), frozen=MODEL, validation=fx.quad_data(b=-fx.b))
    round = fl.make_round(algorithm, **WORK, validate=fx.pair.metrics, donate=False)
    states, infos = [fl.init_state(algorithm, MODEL, data)], []
    for _ in range(3):
        state, info = round(states[-1], data, KEY)
        states.append(state)
        infos.append(info)
    return algorithm, data, states, infos


def test_training_with_frozen_leaves_is_training_of_the_others(fx):
    """With h fixed, w goes towards b - h, and the personal models v_i are held near w."""
    _, _, states, infos = frozen_run(fx)
    a, b, weights = fx.a[:, None], fx.b - H, fx.tau[:, None] / fx.tau.sum()
    w, own = W, np.tile(W, (4, 1))
    for state, info in zip(states[1:], infos, strict=True):
        local = b + (1 - RATE * a) ** fx.tau[:, None] * (w - b)
        for step in range(fx.tau.max()):
            own = own - RATE * (step < fx.tau)[:, None] * (a * (own - b) + 0.1 * (own - w))
        np.testing.assert_allclose(info.delta_norm, np.linalg.norm(local - w, axis=1), rtol=1e-5)
        w = (weights * local).sum(0)
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.client.method.params["w"], own, rtol=1e-5, atol=1e-6)


def test_frozen_leaves_are_nowhere_in_the_state_and_never_sent(fx):
    _, data, states, infos = frozen_run(fx)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(states[-1])]
    assert not [path for path in paths if "'h'" in path]
    assert [path for path in paths if "'w'" in path]
    np.testing.assert_array_equal(infos[0].bytes_up, 8 + 4)
    np.testing.assert_array_equal(infos[0].bytes_down, 8)
    # Stored once, whatever the number of clients.
    assert data.frozen.params["h"].shape == (2,)


def test_evaluation_fills_frozen_leaves_in(fx):
    algorithm, data, states, _ = frozen_run(fx)
    last = states[-1]
    whole = [fl.client_variables(algorithm, last, i, frozen=MODEL) for i in range(4)]
    fx.assert_equal([v.params["h"] for v in whole], [H] * 4)
    own = np.asarray(last.client.method.params["w"])
    fx.assert_equal([v.params["w"] for v in whole], list(own))
    assert fl.client_variables(algorithm, last, 0).params["h"] is None
    objective = 0.5 * fx.a * (((own + H - fx.b) ** 2).sum(1) + (H**2).sum())
    total, count = fl.make_evaluate(algorithm, fx.pair.metrics)(last, data)["objective"]
    np.testing.assert_allclose(total / count, objective, rtol=1e-5)
    crossed = fl.make_cross_evaluate(algorithm, fx.pair.metrics)(last, data)["objective"]
    np.testing.assert_allclose(np.diag(crossed[0] / crossed[1]), objective, rtol=1e-5)


def test_the_received_model_is_validated_before_training(fx):
    """On the validation split, where b has the other sign; before the first round it is the initial model."""
    _, _, states, infos = frozen_run(fx)
    for state, info in zip(states[:-1], infos, strict=True):
        w = np.asarray(state.variables.params["w"])
        objective = 0.5 * fx.a * (((w + H + fx.b) ** 2).sum(1) + (H**2).sum())
        total, count = info.validation["objective"]
        np.testing.assert_array_equal(count, fx.tau)
        np.testing.assert_allclose(total / count, objective, rtol=1e-5)


def test_fine_tuning_keeps_frozen_leaves(fx):
    algorithm, data, states, _ = frozen_run(fx)
    tuner, tuned = fl.fine_tune(algorithm, states[-1], fx.pair, optax.sgd(RATE), data, KEY, **WORK)
    w = np.asarray(states[-1].variables.params["w"])
    expected = fx.b - H + (1 - RATE * fx.a[:, None]) ** fx.tau[:, None] * (w - fx.b + H)
    for i in range(4):
        own = fl.client_variables(tuner, tuned, i, frozen=MODEL)
        np.testing.assert_allclose(own.params["w"], expected[i], rtol=1e-5)
        fx.assert_equal(own.params["h"], H)


def test_frozen_leaves_are_those_of_every_peer(fx):
    """Local training of w alone with h filled in, then the mean of three neighbors on a ring."""
    algorithm = fl.fedavg(fx.pair, optax.sgd(RATE), share_mask=MASK)
    data, alone = fl.place(fx.quad_data(), frozen=MODEL), peer_to_peer(algorithm)
    state = fl.init_state(alone, MODEL, data)
    assert state.private.params["h"] is None
    state, info = make_gossip_round(algorithm, **WORK)(state, data, KEY)
    local = fx.b - H + (1 - RATE * fx.a[:, None]) ** fx.tau[:, None] * (W - fx.b + H)
    mixed = sum(np.roll(local, shift, axis=0) for shift in (-1, 0, 1)) / 3
    np.testing.assert_allclose(state.private.params["w"], mixed, rtol=1e-5)
    fx.assert_equal(fl.client_variables(alone, state, 2, frozen=MODEL).params["h"], H)
    np.testing.assert_array_equal(info.bytes_up, 2 * 8)


def test_streamed_clients_know_frozen_leaves_and_public_arrays(fx):
    """The same model bit for bit as with all clients on the device; the public array pulls it aside."""

    def correct(gradient, params, memory, context):
        return jax.tree.map(lambda g: g + context.batches.public["pull"], gradient)

    def run(pull):
        public = {"pull": jnp.float32(pull)}
        data = fl.place(fx.quad_data(), frozen=MODEL, public=public)
        state = fl.init_state(algorithm, MODEL, data)
        for _ in range(2):
            state, _ = round(state, data, KEY)
        return state, data, public

    method = fl.Method(correct=correct)
    algorithm = fl.federated(
        fx.pair, optax.sgd(RATE), method=method, share_mask=MASK, sampler=fl.uniform_clients(2)
    )
    round = fl.make_round(algorithm, **WORK)
    expected, data, public = run(0.5)
    load = load_from(jax.tree.map(np.asarray, fx.quad_data()))
    streamed = init_streaming(algorithm, MODEL, load, 4, public=public)
    with StreamingRound(algorithm, load, cohort=2, **WORK, public=public, frozen=MODEL) as stream:
        for _ in range(2):
            streamed, _ = stream(streamed, KEY)
    fx.assert_equal(streamed.variables, expected.variables)
    assert (run(0.0)[0].variables.params["w"] != expected.variables.params["w"]).all()
    evaluate = make_streaming_evaluate(algorithm, fx.pair.metrics, load, clients=4, cohort=2, frozen=MODEL)
    on_device = fl.make_evaluate(algorithm, fx.pair.metrics)(expected, data)
    fx.assert_close(evaluate(streamed), on_device, 1e-6)


def test_private_leaves_average_over_those_who_took_part(fx):
    algorithm = fl.fedavg(fx.pair, optax.sgd(RATE), share_mask=Variables({"w": True, "h": False}, True))
    state = fl.init_state(algorithm, MODEL, fx.quad_data())
    fx.assert_equal(fl.average_variables(algorithm, state).params["h"], H)
    own = state.private.params | {"h": jnp.arange(8.0).reshape(4, 2)}
    history = state.history._replace(participations=jnp.array([0, 2, 0, 1]))
    state = state._replace(private=state.private._replace(params=own), history=history)
    fx.assert_equal(fl.average_variables(algorithm, state).params["h"], np.array([4.0, 5.0], np.float32))


def test_missing_frozen_leaves_are_named(fx):
    algorithm, _, states, _ = frozen_run(fx)
    ring = make_ring_round(fl.fedavg(fx.pair, optax.sgd(RATE), share_mask=MASK), **WORK)
    with pytest.raises(ValueError, match="expected the frozen leaves of the share mask"):
        ring(states[-1]._replace(client=LocalState()), fx.quad_data(), KEY)
    round = fl.make_round(algorithm, **WORK)
    with pytest.raises(ValueError, match=r"frozen leaves of the share mask .* place\(data, frozen="):
        round(states[-1], fl.place(fx.quad_data()), KEY)
    with pytest.raises(ValueError, match="share_mask: expected leaves of bool or"):
        fl.init_state(algorithm._replace(share_mask=Variables("ice", True)), MODEL, fx.quad_data())
    with pytest.raises(ValueError, match="validation: expected 4 clients"):
        fl.place(fx.quad_data(), validation=jax.tree.map(lambda x: x[:3], fx.quad_data()))


def weighed(fx, weighting):
    algorithm = fl.fedavg(fx.pair, optax.sgd(RATE), weighting=weighting)
    return fx.trajectory(fx.pair, algorithm, 2)(fx.quad_data(), MODEL)


def locally(fx):
    """Every client's w and h after one round."""
    w, h = np.tile(W, (4, 1)), np.tile(H, (4, 1))
    for step in range(fx.tau.max()):
        going = (step < fx.tau)[:, None]
        away = fx.a[:, None] * (w + h - fx.b)
        w, h = w - RATE * going * away, h - RATE * going * (away + fx.a[:, None] * h)
    return w, h


def test_groups_of_leaves_have_weights_of_their_own(fx):
    """w by numbers of examples, h from clients 1 and 3 alone."""

    def weighting(weight, context):
        return Variables({"w": weight, "h": (context.client % 2).astype(jnp.float32)}, weight)

    states, infos = weighed(fx, weighting)
    w, h = locally(fx)
    found = jax.tree.map(lambda x: x[0], states.variables.params)
    np.testing.assert_allclose(found["w"], np.average(w, axis=0, weights=fx.tau), rtol=1e-5)
    np.testing.assert_allclose(found["h"], h[1::2].mean(0), rtol=1e-5)
    # Two leaves and three weights; who has no weight for h does not send it.
    np.testing.assert_array_equal(infos.bytes_up, [[20, 28, 20, 28]] * 2)


def test_equal_weights_of_groups_are_one_weight_bit_for_bit(fx):
    grouped, _ = weighed(fx, lambda weight, context: Variables({"w": weight, "h": weight}, weight))
    plain, _ = weighed(fx, fl.by_examples)
    fx.assert_equal(grouped, plain)


def test_personalization_sees_the_unlabeled_batch(fx):
    """A client moves its model to the mean of its inputs; what is named as a label is not in the batch."""
    seen = []

    def personalize(variables, state, batch):
        if batch is None:
            return variables
        seen.append(set(batch))
        valid = batch["valid"][:, None]
        mean = jnp.where(valid, batch["b"], 0).sum(0) / valid.sum()
        return Variables({"w": variables.params["w"] + mean}, variables.stats)

    algorithm = fl.federated(fx.quad, optax.sgd(RATE), method=fl.Method(personalize=personalize))
    data, variables = fx.quad_data(), Variables({"w": jnp.asarray(W)}, {})
    state = fl.init_state(algorithm, variables, data)
    evaluate = fl.make_evaluate(algorithm, fx.quad.metrics, labels=("a",))
    total, count = evaluate(state, data)["objective"]
    np.testing.assert_allclose(total / count, 0.5 * fx.a * (W**2).sum(), rtol=1e-5)
    assert seen and all(names == {"b", "valid"} for names in seen)
    fx.assert_equal(fl.client_variables(algorithm, state, 0).params["w"], W)
    total, count = evaluate(variables, data)["objective"]
    np.testing.assert_allclose(total / count, 0.5 * fx.a * ((W - fx.b) ** 2).sum(1), rtol=1e-5)
