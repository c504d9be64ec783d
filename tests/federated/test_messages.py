"""What travels besides the model: kinds of messages, reducers of them, channels, and rounds undone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.messages import Reduction
from fedrecon.federated.methods.fednova import normalized_averaging
from fedrecon.federated.methods.scaffold import control_variates
from fedrecon.federated.topologies import (
    StreamingRound,
    init_asynchronous,
    init_streaming,
    make_asynchronous_round,
)
from fedrecon.federated.topologies.streaming import load_from
from fedrecon.federated.trees import finite_rows
from fedrecon.types import Variables

RATE, KEY = 0.05, jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
CLIENTS, BROKEN = 5, 2
COUNTS = np.array([1, 5, 3, 4, 2])


def data_of(fx, broken=False):
    """Five clients; the loss of one may be no number."""
    b = np.concatenate([fx.b, [[1.5, 0.5]]]).astype(np.float32)
    if broken:
        b[BROKEN] = np.nan
    return fx.quad_data(np.ones(CLIENTS, np.float32), b, COUNTS)


def reporting():
    """Client i sends i + 1 to be added, 2 i to be averaged and (i, 10 i) to be gathered."""

    def finish(result, memory, context):
        number = context.batches.client.astype(jnp.float32)
        row = jnp.stack([number, 10 * number])
        return result, fl.Message({"sum": number + 1}, {"mean": 2 * number}, {"row": row}), memory

    def receive(state, message, context):
        rows, client, present = message.gathered
        places = jnp.where(present, client, CLIENTS)
        return {
            "sum": message.summed["sum"],
            "mean": message.scalars["mean"],
            "bank": jnp.zeros((CLIENTS, 2)).at[places].add(rows["row"], mode="drop"),
            "present": jnp.zeros(CLIENTS).at[places].add(1.0, mode="drop"),
            "participants": context.participants + 0 * state["participants"],
        }

    def init(variables):
        nothing = {"sum": 0.0, "mean": 0.0, "bank": jnp.zeros((CLIENTS, 2)), "present": jnp.zeros(CLIENTS)}
        return jax.tree.map(jnp.float32, nothing) | {"participants": jnp.int32(0)}

    return fl.Method(finish=finish, server=fl.Exchange(init, lambda state: (), receive))


def assert_received(received, times):
    """Each client ``times`` (clients,): sums without weights, means by examples, rows by number."""
    number, times = np.arange(CLIENTS), np.asarray(times, int)
    np.testing.assert_allclose(received["sum"], (times * (number + 1)).sum())
    mean = (times * COUNTS * 2 * number).sum() / (times * COUNTS).sum()
    np.testing.assert_allclose(received["mean"], mean, rtol=1e-6)
    np.testing.assert_array_equal(received["bank"], np.stack([number, 10 * number], 1) * times[:, None])
    np.testing.assert_array_equal(received["present"], times)
    assert int(received["participants"]) == times.sum()


@pytest.mark.parametrize("gathered", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kinds_of_messages_in_the_star(fx, gathered):
    """Three of five clients take part, one of them without a finite update; gathered or not as a cohort."""
    sampler = fl.uniform_clients(3)
    if not gathered:
        sampler = functools.partial(lambda sampler, *a: sampler(*a), sampler)
    algorithm = fl.federated(fx.quad, optax.sgd(RATE), method=reporting(), sampler=sampler)
    states, infos = fx.trajectory(fx.quad, algorithm, 4)(data_of(fx, broken=True), START)
    joined = np.asarray(infos.participated & ~infos.excluded)
    assert (infos.participated.sum(1) == 3).all() and infos.excluded.any() and not joined[:, BROKEN].any()
    for number, included in enumerate(joined):
        assert_received(jax.tree.map(lambda x, n=number: x[n], states.exchange), included)
    # The model, the sum, the mean, the weight and two gathered numbers; down the model alone.
    np.testing.assert_array_equal(infos.bytes_up, infos.participated * np.uint32(8 + 3 * 4 + 8))
    np.testing.assert_array_equal(infos.bytes_down, infos.participated * np.uint32(8))


def test_kinds_of_messages_streamed(fx):
    algorithm = fl.federated(fx.quad, optax.sgd(RATE), method=reporting(), sampler=fl.uniform_clients(3))
    load = load_from(jax.tree.map(np.asarray, data_of(fx, broken=True)))
    state = init_streaming(algorithm, START, load, CLIENTS)
    with StreamingRound(algorithm, load, cohort=4, batch_size=1, epochs=1) as stream:
        for _ in range(3):
            state, info = stream(state, KEY)
            included = np.zeros(CLIENTS, bool)
            included[info.clients[~info.round.excluded]] = True
            assert_received(state.exchange, included)


@pytest.mark.slow
def test_kinds_of_messages_asynchronous(fx):
    """Three arrivals to a step, among them clients that come twice."""
    algorithm = fl.federated(fx.quad, optax.sgd(RATE), method=reporting())
    round = make_asynchronous_round(algorithm, buffer_size=3, batch_size=1, epochs=1)
    data, excluded = data_of(fx, broken=True), 0
    state = init_asynchronous(algorithm, START, data, concurrency=3)
    for _ in range(4):
        state, info = round(state, data, KEY)
        included = np.asarray(info.included)
        excluded += 3 - included.sum()
        assert_received(state.federation.exchange, np.bincount(info.client[included], minlength=CLIENTS))
    assert excluded


def echoing():
    """The sum of the uploads; every client is answered with its own change."""

    def reduce(uploads, included, state, context):
        def add(x):
            return jnp.where(included.reshape(-1, *[1] * (x.ndim - 1)), x, 0).sum(0)

        answers = {"w": uploads.delta.params["w"] / uploads.weight[:, None]}
        return Reduction(jax.tree.map(add, uploads), answers=answers)

    return fl.Reducer(lambda upload: (), reduce, answer=lambda variables: {"w": jnp.ones(2)})


def test_a_reducer_answers_each_client(fx):
    """Steps along b - y minus the answer, against a plain loop; absent and excluded clients keep theirs."""
    method = fl.Method(correct=lambda g, params, memory, context: {"w": g["w"] + context.batches.answer["w"]})
    algorithm = fl.federated(
        fx.quad, optax.sgd(RATE), method=method, reduce=echoing(), sampler=fl.uniform_clients(3)
    )
    data = data_of(fx, broken=True)
    states, infos = fx.trajectory(fx.quad, algorithm, 4)(data, START)
    w, answers = np.array(START.params["w"]), np.ones((CLIENTS, 2))
    for number, joined in enumerate(infos.participated & ~infos.excluded):
        changes = {}
        for i in np.flatnonzero(joined):
            y = w.copy()
            for _ in range(COUNTS[i]):
                y -= RATE * (y - np.asarray(data.examples["b"])[i, 0] + answers[i])
            changes[i] = y - w
        w = w + sum(COUNTS[i] * d for i, d in changes.items()) / sum(COUNTS[i] for i in changes)
        for i, change in changes.items():
            answers[i] = change
        np.testing.assert_allclose(states.variables.params["w"][number], w, rtol=1e-4)
        np.testing.assert_allclose(states.answers["w"][number], answers, rtol=1e-3, atol=1e-6)
    assert infos.excluded.any() and (answers[BROKEN] == 1).all()
    np.testing.assert_array_equal(infos.bytes_down, infos.participated * np.uint32(8 + 8))

    load = load_from(jax.tree.map(np.asarray, data))
    state = init_streaming(algorithm, START, load, CLIENTS)
    with StreamingRound(algorithm, load, cohort=3, batch_size=1, epochs=1) as stream:
        for _ in range(4):
            state, _ = stream(state, KEY)
    fx.assert_close(state.answers, jax.tree.map(lambda x: x[-1], states.answers), 1e-6)


def test_answers_without_a_first_one_are_refused(fx):
    algorithm = fl.federated(fx.quad, optax.sgd(RATE), reduce=echoing()._replace(answer=None))
    with pytest.raises(ValueError, match=r"reduce\.answer: expected a first answer"):
        fx.trajectory(fx.quad, algorithm, 1)(data_of(fx), START)


def test_answers_that_are_not_finite_are_not_given():
    new = {"a": jnp.array([[1.0, 2.0], [jnp.nan, 1.0], [3.0, jnp.inf]]), "n": jnp.array([7, 8, 9])}
    old = {"a": jnp.zeros((3, 2)), "n": jnp.zeros(3, jnp.int32)}
    found = finite_rows(new, old)
    np.testing.assert_array_equal(found["a"], [[1, 2], [0, 0], [0, 0]])
    np.testing.assert_array_equal(found["n"], [7, 0, 0])


def test_control_variates_have_no_weights(fx):
    """Models are averaged by examples, and c is still the mean of all c_i."""
    algorithm = fl.scaffold(fx.quad, RATE, weighting=fl.by_examples, sampler=fl.uniform_clients(2))
    states, _ = fx.trajectory(fx.quad, algorithm, 20)(fx.quad_data())
    np.testing.assert_allclose(states.exchange["w"], states.client.method["w"].mean(1), atol=1e-6)


@pytest.mark.parametrize("factor", [1e4, pytest.param(1.0, marks=pytest.mark.slow)])
def test_fednova_and_the_median_withstand_a_false_message(fx, factor):
    """The normalizer of one client, times 1e4, moves the model by no more than to the next client's."""
    nova = normalized_averaging(RATE)

    def finish(result, memory, context):
        result, message, memory = nova.finish(result, memory, context)
        wrong = jnp.where(context.batches.client == BROKEN, factor, 1.0)
        return result, jax.tree.map(lambda x: wrong * x, message), memory

    algorithm = fl.federated(
        fx.linear, optax.sgd(RATE), method=nova._replace(finish=finish), reduce=fl.reducers.median()
    )
    data = data_of(fx)
    states, infos = fx.trajectory(fx.linear, algorithm, 1)(data, START)
    steps = COUNTS * np.where(np.arange(CLIENTS) == BROKEN, factor, 1)
    expected = -RATE * np.median(steps) * np.median(data.examples["b"][:, 0], axis=0)
    moved = states.variables.params["w"][0] - START.params["w"]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    assert infos.applied.all()


@pytest.mark.parametrize("reducer", ["krum", "screen", pytest.param("median", marks=pytest.mark.slow)])
def test_scaffold_withstands_a_false_message(fx, reducer):
    """The update of the client in the middle is sound, its control variate is 1e4 times what it should be."""
    variates = control_variates(RATE)

    def finish(result, memory, context):
        result, message, memory = variates.finish(result, memory, context)
        wrong = jnp.where(context.batches.client == BROKEN, 1e4, 1.0)
        return result, jax.tree.map(lambda x: wrong * x, message), memory

    reduce = {
        "krum": fl.reducers.krum(1),
        "median": fl.reducers.median(),
        "screen": fl.reducers.screen(norm_factor=5.0),
    }[reducer]
    algorithm = fl.federated(
        fx.quad, optax.sgd(RATE), method=variates._replace(finish=finish), reduce=reduce, weighting=fl.equal
    )
    data = data_of(fx)
    b = np.array(data.examples["b"][:, 0])
    # In the middle: it is the one that Krum would choose by updates alone.
    b[BROKEN] = np.delete(b, BROKEN, 0).mean(0)
    data = fx.quad_data(np.ones(CLIENTS, np.float32), b, np.full(CLIENTS, 3))
    states, infos = fx.trajectory(fx.quad, algorithm, 10)(data, START)
    path = np.asarray(states.variables.params["w"])
    low, high = np.minimum(b.min(0), START.params["w"]), np.maximum(b.max(0), START.params["w"])
    assert ((path > low - 0.5) & (path < high + 0.5)).all(), path[-3:]
    assert infos.applied.all()
    if reducer != "median":
        # Who sends it is left out.
        assert np.asarray(infos.excluded)[:, BROKEN].all()


@pytest.mark.parametrize("bound", [0.8, pytest.param(1e-3, marks=pytest.mark.slow)])
def test_the_bound_of_updates_does_not_scale_messages(fx, bound):
    """Normalized averaging by hand: deltas clipped apart from the numbers of steps, which are longer."""
    channel = fl.chain(fl.clip(bound))
    algorithm = fl.fednova(fx.linear, RATE, channel=channel)
    data = data_of(fx)
    states, _ = fx.trajectory(fx.linear, algorithm, 1)(data, START)
    p = COUNTS / COUNTS.sum()
    b = np.asarray(data.examples["b"][:, 0], np.float64)
    directions = -RATE * b
    scale = np.minimum(1, bound / np.linalg.norm(directions, axis=1))
    if bound > 0.5:
        assert (scale == 1).all() and COUNTS.max() > bound
    expected = (p @ COUNTS) * (p @ (scale[:, None] * directions))
    moved = states.variables.params["w"][0] - START.params["w"]
    np.testing.assert_allclose(moved, expected, rtol=1e-4)


def counting(rollback=None, payload_bytes=None):
    """A channel that counts its rounds at the server, which clients are told, and its uses at clients."""
    return fl.Channel(
        init=lambda upload: (jnp.int32(0), jnp.int32(10)),
        encode=lambda upload, state, context: (upload, state + 1, {"told": context.broadcast}),
        decode=lambda total, state, context: (total, state + 1, {"told": context.broadcast}),
        broadcast=lambda state: state,
        rollback=rollback,
        payload_bytes=payload_bytes,
    )


def failing_exchange(round):
    """Counts rounds; after the given one its state is no number."""
    return fl.Exchange(
        lambda variables: jnp.float32(0),
        lambda state: state,
        lambda state, message, context: jnp.where(context.round == round, jnp.nan, state + 1),
    )


def failing_server(round, in_state):
    """Steps as given; in the round of that number the state, or else the step, is no number."""

    def update(gradient, state, params=None):
        failed = jnp.where(state[0] == round, jnp.nan, 0.0)
        new = (state[0] + 1, state[1] + failed if in_state else state[1])
        return jax.tree.map(lambda g: -g if in_state else -g + failed, gradient), new

    return optax.GradientTransformation(lambda params: (jnp.float32(0), jnp.float32(0)), update)


def summing():
    """A reducer with a state: the number of rounds it was applied in."""

    def reduce(uploads, included, state, context):
        kept = included.reshape(-1, 1)
        total = jax.tree.map(lambda x: jnp.where(kept if x.ndim > 1 else included, x, 0).sum(0), uploads)
        return Reduction(total, state + 1, None, {"arrived": context.arrived.sum(), "before": state})

    return fl.Reducer(lambda upload: jnp.int32(0), reduce)


# Each fails in the second of three rounds.
FAILURES = {
    "nobody": {"sampler": lambda key, round, history: jnp.full(history.loss.shape, round != 1)},
    "exchange": {"method": fl.Method(server=failing_exchange(1))},
    "server_state": {"server_optimizer": failing_server(1, True)},
    "model": {"server_optimizer": failing_server(1, False)},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_round_that_is_not_applied_moves_nothing(fx, failure):
    """But what a channel keeps by its own rollback."""
    options = {"method": fl.Method(server=failing_exchange(-1)), "reduce": summing()} | FAILURES[failure]
    channel = fl.chain(counting(), counting(lambda before, after: after, lambda upload: 7))
    optimizer = optax.sgd(RATE, momentum=0.9)
    algorithm = fl.federated(fx.quad, optimizer, channel=channel, keep_optimizer=True, **options)
    states, infos = fx.trajectory(fx.quad, algorithm, 3)(fx.quad_data())
    goes_on = failure in ("nobody", "exchange")
    np.testing.assert_array_equal(infos.applied, [True, False, goes_on])
    first, second, third = (jax.tree.map(lambda x, n=n: x[n], states) for n in range(3))
    fx.assert_equal(second._replace(round=1, channel=()), first._replace(channel=()))
    np.testing.assert_array_equal(states.channel[0][:2], [11, 11])
    np.testing.assert_array_equal(states.channel[1], [11, 12, 13])
    np.testing.assert_array_equal(states.reduce, [1, 1, 1 + goes_on])
    np.testing.assert_array_equal(infos.reduce["before"], [0, 1, 1])
    np.testing.assert_array_equal(infos.reduce["arrived"], [4, 0 if failure == "nobody" else 4, 4])
    if goes_on:
        np.testing.assert_array_equal(states.exchange, [1, 1, 2])
        np.testing.assert_array_equal(third.history.participations, 2)
        np.testing.assert_array_equal(third.client_channel, 2 * np.ones((2, 4)))
    # Clients and the server's end were told the counts from before the round; of clients the sum is reported.
    encoded, decoded = infos.channel
    sampled = np.asarray(infos.participated).sum(1)
    np.testing.assert_array_equal(encoded[0]["told"], sampled * [10, 11, 11])
    np.testing.assert_array_equal(encoded[1]["told"], sampled * [10, 11, 12])
    np.testing.assert_array_equal(decoded[1]["told"], [10, 11, 12])
    np.testing.assert_array_equal(infos.bytes_up, infos.participated * np.uint32(7))
    np.testing.assert_array_equal(infos.bytes_down, infos.participated * np.uint32(8 + 4 + 8))


def masked_sum():
    """Secure aggregation by pairwise masks, which cancel among those who arrive."""

    def mask(context, one, other, upload):
        """What client ``one`` adds for ``other``: the opposite of what that one adds for it."""
        low, high = jnp.minimum(one, other), jnp.maximum(one, other)
        key = jax.random.fold_in(jax.random.fold_in(context.common, low), high)
        leaves, structure = jax.tree.flatten(upload)
        keys = jax.random.split(key, len(leaves))
        sign = jnp.sign(other - one).astype(jnp.float32)
        noise = [sign * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, noise)

    def masks(context, one, others, upload):
        """The sum over ``others``, bool (clients,)."""
        each = jax.vmap(lambda other: mask(context, one, other, upload))(jnp.arange(len(others)))
        return jax.tree.map(lambda x: jnp.tensordot(others.astype(jnp.float32), x, 1), each)

    def encode(upload, state, context):
        own = masks(context, context.client, context.invited, upload)
        return jax.tree.map(jnp.add, upload, own), state, {"size": optax.tree.norm(own)}

    def decode(total, state, context):
        missing = context.invited & ~context.arrived
        each = jax.vmap(lambda one: masks(context, one, missing, total))(jnp.arange(len(missing)))
        left = jax.tree.map(lambda x: jnp.tensordot(context.arrived.astype(jnp.float32), x, 1), each)
        return jax.tree.map(jnp.subtract, total, left), state, {}

    return fl.Channel(lambda upload: ((), ()), encode, decode, linear=False)


@pytest.mark.slow
@pytest.mark.parametrize("count", [None, 4])
def test_masked_sums_survive_a_client_that_drops_out(fx, count):
    """One of four of five invited clients, or of all, sends nothing finite: the sum is that of the others."""
    sampler = None if count is None else fl.uniform_clients(count)
    options = {"weighting": fl.equal, "sampler": sampler}
    masked = fl.scaffold(fx.quad, RATE, channel=masked_sum(), **options)
    plain = fl.scaffold(fx.quad, RATE, **options)
    data = data_of(fx, broken=True)
    (found, infos), (expected, _) = (fx.trajectory(fx.quad, a, 3)(data, START) for a in (masked, plain))
    assert infos.excluded.any() and infos.applied.all()
    assert (infos.channel[0]["size"] > 1).all()
    fx.assert_close((found.variables, found.exchange), (expected.variables, expected.exchange), 5e-7)
    with pytest.raises(ValueError, match="reduce: expected the sum"):
        fl.scaffold(fx.quad, RATE, channel=masked_sum(), reduce=fl.reducers.median())
