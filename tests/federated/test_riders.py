"""Free riders: what they send, and the watch that looks for them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import attacks, evaluation
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.tasks import classification_task
from fedrecon.types import Task, Variables
from operators.phantoms import Ellipses

R = fl.reducers
CLIENTS, LARGEST, ROUNDS = 10, 100, 8
RIDERS = {
    "nothing": attacks.free_rider(),
    "echo": attacks.echo(),
    "noisy echo": attacks.echo(0.002, 1.0),
    "stale": attacks.stale(),
    "disguised noise": attacks.disguised_noise(),
    "false size": attacks.false_size(2, 10.0),
}


def line():
    """A model of three numbers that descends to the mean of a client's."""

    def loss(params, stats, batch, key):
        each = ((params["w"] - batch["x"]) ** 2).sum(-1) / 2
        return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})

    start = Variables({"w": jnp.zeros(3)}, {})
    return Task(lambda key: start, loss, lambda p, s, b: {}, lambda p, s, b: b["x"], start)


def numbers(clients=4, examples=6):
    x = np.random.default_rng(0).normal(1, 1, (clients, examples, 3)).astype(np.float32)
    return ClientData({"x": x}, np.ones((clients, examples), bool), tuple("abcd"[:clients]))


def sent(ride, rounds=3, watch=None, reduce=None, who=(1,), data=None):
    """(deltas (rounds, clients, 3), weights (rounds, clients), models (rounds, 3), infos)."""
    data, seen = data or numbers(), []

    def keep(uploads, included, state, context):
        info = {"delta": R.unweighted(uploads, included).delta.params["w"], "weight": uploads.weight}
        found = (reduce or R.total()).reduce(uploads, included, state, context)
        return found._replace(info={**info, "found": found.info})

    spy = fl.Reducer((reduce or R.total()).init, keep)
    algorithm = fl.fedavg(line(), optax.sgd(0.3), reduce=spy)
    algorithm = algorithm if ride is None else attacks.poison(algorithm, ride, who)
    state = fl.init_state(algorithm, line().init(None), data)
    round = fl.make_round(algorithm, batch_size=3, epochs=1, donate=False)
    for _ in range(rounds):
        state, info = round(state, data, jax.random.key(3))
        seen.append((info.reduce["delta"], info.reduce["weight"], state.variables.params["w"], info))
    return (*(np.stack([row[i] for row in seen]) for i in range(3)), [row[3] for row in seen])


@pytest.mark.slow
def test_riders_send_what_they_are_named_for():
    honest = sent(None)
    delta, _, models, _ = sent(attacks.echo())
    np.testing.assert_array_equal(delta[0, 1], 0)
    np.testing.assert_allclose(delta[1:, 1], np.diff([np.zeros(3), *models], axis=0)[:-1], atol=1e-6)
    delta = sent(attacks.stale())[0]
    np.testing.assert_array_equal(delta[:, 1], np.stack([honest[0][0, 1]] * 3))
    delta = sent(attacks.disguised_noise(2.0))[0]
    # In the first round all clients start from the same model.
    assert np.linalg.norm(delta[0, 1]) == pytest.approx(2 * np.linalg.norm(honest[0][0, 1]), rel=1e-5)
    np.testing.assert_array_equal(delta[0, [0, 2, 3]], honest[0][0, [0, 2, 3]])
    delta, weight, _, _ = sent(attacks.false_size(1, 7.0))
    np.testing.assert_array_equal(weight, [[6, 42, 6, 6]] * 3)
    # One step in the first round in which its one example was drawn, towards it.
    np.testing.assert_allclose(delta[0, 1], 0.3 * numbers().examples["x"][1, 0], rtol=1e-5)


def test_scores_are_those_of_the_definition():
    """The signs of the second round, standardized, and their means; in numpy."""
    watch = R.watch_riders(4, action="flagged")
    delta, _, models, infos = sent(attacks.echo(0.3, 0.0), 2, reduce=watch)
    step = models[0]

    def standardized(x, least):
        away = x - np.sort(x)[1]
        return away / (1.4826 * np.sort(np.abs(away))[1] + least)

    def cosine(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    def nearest(x):
        return np.array([max(abs(cosine(a, b)) for b in np.delete(x, i, 0)) for i, a in enumerate(x)])

    rounds = []
    for r in range(2):
        norms = np.linalg.norm(delta[r], axis=1)
        length = np.log10(norms / np.sort(norms)[1] + 1e-3)
        rounds.append({
            "length": standardized(-length, 0.25),
            "echo": standardized(-np.log10(1 - cosine(delta[r], step) + 1e-4), 0.25) if r else 0 * norms,
            "lone": standardized(-np.log10(nearest(delta[r]) + 0.01), 0.1),
            "size": standardized(-length, 0.05),
        })  # fmt: skip
    means = {name: (rounds[0][name] + rounds[1][name]) / 2 for name in rounds[0]}
    found = infos[1].reduce["found"]["riders"]
    # Three numbers have their cosines in the sketch, too, unless two share a place.
    stale = standardized(-np.log10(1 - cosine(delta[0], delta[1]) + 1e-4), 0.3) / 2
    expected = np.max([*means.values(), stale], axis=0)
    np.testing.assert_allclose(found["score"], expected, rtol=2e-3)


def test_actions_follow_each_other_and_end_with_the_suspicion():
    upload = fl.Upload(Variables({"w": jnp.zeros(3)}, {}), fl.Message(), jnp.float32(1))
    rng = np.random.default_rng(1)
    drawn = 1 + 0.1 * rng.normal(size=(20, 6, 3)).astype(np.float32)
    drawn[:9, 4] = 0
    for action, most in (("excluded", 3), ("unrewarded", 2)):
        watch = R.watch_riders(6, action=action)
        step, state, levels, flagged = jax.jit(watch.reduce), watch.init(upload), [], []
        for r in range(20):
            sent = fl.Upload(Variables({"w": jnp.asarray(drawn[r])}, {}), fl.Message(), jnp.ones(6))
            context = fl.Context(
                jnp.int32(r), jax.random.key(0), model=Variables({"w": jnp.ones(3) * r**0.5}, {})
            )
            found = step(sent, jnp.ones(6, bool), state, context)
            state = found.state
            levels.append(np.asarray(found.info["riders"]["action"]))
            flagged.append(np.asarray(found.flagged))
            expected = drawn[r][~flagged[-1]].sum(0)
            np.testing.assert_allclose(found.upload.delta.params["w"], expected, rtol=1e-5)
        levels, flagged = np.stack(levels), np.stack(flagged)
        assert not levels[:, [0, 1, 2, 3, 5]].any()
        assert levels[:8, 4].tolist() == [0, 0, 1, 1, 2, 2, *([3, 3] if most == 3 else [2, 2])]
        assert levels[-1, 4] == 0 and (flagged[:, 4] == (levels[:, 4] == 3)).all()


def federation(seed):
    """Phantoms of four kinds with skewed labels, at hospitals of 10 to 100 images."""
    rng = np.random.default_rng(seed)
    sizes = rng.permutation(np.geomspace(LARGEST / 10, LARGEST, CLIENTS).round().astype(int))
    label = np.stack([rng.choice(4, LARGEST, p=rng.dirichlet(np.ones(4))) for _ in range(CLIENTS)])
    kinds = np.stack([rasterized(kind) for kind in range(4)])
    gain = rng.uniform(0.6, 1.0, (CLIENTS, LARGEST, 1, 1, 1))
    image = gain * kinds[label][..., None] + 0.3 * rng.normal(size=(CLIENTS, LARGEST, 12, 12, 1))
    examples = {"image": image.astype(np.float32), "label": label.astype(np.int32)}
    valid = np.arange(LARGEST) < sizes[:, None]
    return ClientData(examples, valid, tuple(map(str, range(CLIENTS)))), sizes


@functools.cache
def rasterized(kind):
    """A body with one organ in a corner."""
    organ = [(-2.4, -2.4), (2.4, -2.4), (-2.4, 2.4), (2.4, 2.4)][kind]
    center, axes = jnp.array([(0.0, 0.0), organ]), jnp.array([(5.4, 4.8), (1.5, 1.2)])
    return np.asarray(Ellipses(center, axes, jnp.zeros(2), jnp.array([0.3, 0.7])).rasterize((12, 12))).real


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(24)(x.reshape(len(x), -1))))


RIDER = 3


@functools.cache
def training(name="", action="", parallel="scan"):
    """(algorithm, task, compiled rounds) with the client 3 as a rider of that name, and a watch."""
    data, _ = federation(0)
    task = classification_task(Net(), {k: v[0, :1] for k, v in data.examples.items()})
    watch = R.watch_riders(CLIENTS, action=action) if action else None
    algorithm = fl.fedavg(task, optax.sgd(0.1), reduce=watch)
    if name:
        algorithm = attacks.poison(algorithm, RIDERS[name], (RIDER,))
    round = fl.make_round(algorithm, batch_size=10, epochs=1, parallel=parallel)
    return algorithm, task, fl.run_rounds(round, ROUNDS)


def trained(seed, *which):
    """(state, info) after the rounds."""
    algorithm, task, rounds = training(*which)
    data, _ = federation(seed)
    state = fl.init_state(algorithm, task.init(jax.random.key(seed)), data)
    return rounds(state, data, jax.random.key(seed + 100))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIDERS)
def test_riders_are_told_from_hospitals_of_other_sizes_and_labels(name):
    """Area under the curve of the scores from the third round on, and what befalls the smallest hospital."""
    riders, honest, smallest = [], [], []
    others = np.delete(np.arange(CLIENTS), RIDER)
    for seed in range(4):
        found, sizes = trained(seed, name, "flagged")[1].reduce["riders"], federation(seed)[1]
        score = np.asarray(found["score"])[2:]
        riders.append(score[:, RIDER])
        honest.append(score[:, others].ravel())
        smallest.append(np.asarray(found["action"])[:, others[np.argmin(sizes[others])]])
    a, b = np.concatenate(riders), np.concatenate(honest)
    assert (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean() >= 0.95
    assert np.mean(np.concatenate(smallest) > 0) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["scan", "vmap"])
def test_without_riders_the_model_is_that_without_a_watch_bit_for_bit(parallel):
    watched, info = trained(0, "", "excluded", parallel)
    plain, _ = trained(0, "", "", parallel)
    for a, b in zip(*map(jax.tree.leaves, (watched.variables, plain.variables)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(info.excluded).any()


def test_gains_alone_and_shares_add_up_and_are_those_of_the_exact_values():
    """A quadratic loss at three clients, one of whom sends nothing and one is not there."""
    rng = np.random.default_rng(4)
    target, delta = rng.normal(size=3), rng.normal(size=(4, 3)).astype(np.float32)
    delta[2] = 0
    weight, there = np.array([2.0, 1.0, 3.0, 5.0], np.float32), np.array([True, True, True, False])
    value = lambda tree: ((tree["w"] - target) ** 2).sum()  # noqa: E731
    model = {"w": jnp.zeros(3)}
    gain, share = R.riders.coalition_gains(
        value, model, {"w": jnp.asarray(delta)}, jnp.asarray(weight), jnp.asarray(there), jax.random.key(0)
    )

    def score(members):
        chosen = members & there[:3]
        mean = (weight[:3] * chosen) @ delta[:3] / max((weight[:3] * chosen).sum(), 1e-9)
        return -(((mean if chosen.any() else 0 * target) - target) ** 2).sum()

    expected = [score(np.arange(3) == i) - score(np.zeros(3, bool)) for i in range(3)]
    np.testing.assert_allclose(gain, [*expected, 0], rtol=1e-4, atol=1e-5)
    everybody = score(np.ones(3, bool)) - score(np.zeros(3, bool))
    assert float(share.sum()) == pytest.approx(everybody, rel=1e-4)
    # Sixteen of six orders: near the exact values.
    np.testing.assert_allclose(share[:3], evaluation.shapley(score, 3).values, atol=0.4 * abs(everybody))


@pytest.mark.slow
def test_a_server_with_a_validation_set_sees_who_makes_nothing_better():
    """With every sign of a rider hidden but one, the two signs of the validation set score it alone."""
    upload = fl.Upload(Variables({"w": jnp.zeros(3)}, {}), fl.Message(), jnp.float32(1))
    value = lambda shared: 4 * ((shared.params["w"] - 1) ** 2).sum()  # noqa: E731
    sent = np.full((6, 3), 0.5) + 0.01 * np.random.default_rng(2).normal(size=(6, 3))
    # As long as the others, and against them.
    sent[4] = -sent[4]
    scores = []
    for known in (None, value):
        watch = R.watch_riders(6, action="flagged", value=known)
        step, state = jax.jit(watch.reduce), watch.init(upload)
        for r in range(3):
            now = fl.Upload(Variables({"w": jnp.asarray(sent, jnp.float32)}, {}), fl.Message(), jnp.ones(6))
            context = fl.Context(
                jnp.int32(r), jax.random.key(r), model=Variables({"w": jnp.zeros(3) + 0.1 * r}, {})
            )
            found = step(now, jnp.ones(6, bool), state, context)
            state = found.state
        scores.append(np.asarray(found.info["riders"]["score"]))
    assert scores[0][4] < 4 < scores[1][4] and scores[1][4] > 3 * np.delete(scores[1], 4).max()
    assert int(found.info["riders"]["sign"][4]) >= len(R.riders.SIGNS)


def test_arguments_out_of_range_are_named():
    for make, message in (
        (lambda: R.watch_riders(3, action="none"), "action: expected one of flagged, unrewarded, excluded"),
        (lambda: R.watch_riders(3, threshold=0), "threshold: expected a positive number"),
        (lambda: attacks.echo(-1), "noise: expected a number of at least 0"),
        (lambda: attacks.disguised_noise(0), "factor: expected a positive number"),
        (lambda: attacks.false_size(0), "examples: expected a positive integer"),
        (lambda: attacks.false_size(1, 0), "claim: expected a positive number"),
    ):
        with pytest.raises(ValueError, match="^" + message):
            make()
