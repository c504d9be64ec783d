"""Malicious clients: what they send, by closed forms, and what defenses make of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import attacks
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.tasks import classification_task
from fedrecon.training import FederationSettings, FlagError, changed
from fedrecon.training.components import check_reducer
from fedrecon.training.malicious import parse_attack
from fedrecon.types import Task, Variables

R = fl.reducers
CLIENTS = 5
ROUNDS = 50


def toy(reduce=None):
    """Clients whose change is minus the gradient of <w, x>, their one example x."""

    def loss(params, stats, batch, key):
        return (params["w"] * batch["image"]).sum(), (stats, {})

    task = Task(lambda key: Variables({"w": jnp.zeros(3)}, {}), loss, None, None, Variables({"w": False}, {}))
    return fl.fedavg(task, optax.sgd(1.0), reduce=reduce)


X = np.arange(15, dtype=np.float32).reshape(CLIENTS, 1, 3) + 1


def moved(algorithm):
    data = ClientData({"image": X}, np.ones((CLIENTS, 1), bool), tuple("abcde"))
    state = fl.init_state(algorithm, Variables({"w": jnp.zeros(3)}, {}), data)
    state, _ = fl.make_round(algorithm, batch_size=1, epochs=1)(state, data, jax.random.key(0))
    return np.asarray(state.variables.params["w"])


def test_signs_are_flipped_at_the_chosen_clients_alone():
    deltas = -X[:, 0]
    deltas[[0, 3]] *= -4
    found = moved(attacks.poison(toy(), attacks.sign_flip(4), (3, 0)))
    np.testing.assert_allclose(found, deltas.mean(0), rtol=1e-6)


def test_colluding_clients_fit_to_the_honest():
    deltas = -X[:, 0]
    honest = deltas[[0, 2, 3]]
    crafted = honest.mean(0) - 1.5 * honest.std(0)
    found = moved(attacks.poison(toy(), attacks.alie(1.5), (1, 4)))
    np.testing.assert_allclose(found, (honest.sum(0) + 2 * crafted) / 5, rtol=1e-5)


def test_examples_and_updates_of_attackers():
    batch = {"label": jnp.array([0, 3, 1, -1, 9]), "image": jnp.zeros((5, 4, 4, 1))}
    assert attacks.label_flip(4).examples(batch)["label"].tolist() == [3, 0, 2, -1, 9]
    both = {**batch, "segmentation": jnp.array([[1.0, 0.0, 255.0]])}
    assert attacks.label_flip(2).examples(both)["segmentation"].tolist() == [[0.0, 1.0, 255.0]]
    images = np.random.default_rng(0).normal(size=(4, 5, 6, 1)).astype(np.float32)
    door = attacks.backdoor(2, size=2, part=0.5, boost=3.0)
    changed = door.examples({"image": jnp.asarray(images), "label": jnp.array([0, 1, 0, 1])})
    assert changed["label"].tolist() == [2, 2, 0, 1]
    np.testing.assert_array_equal(changed["image"][2:], images[2:])
    np.testing.assert_array_equal(changed["image"][0, -2:, -2:], np.full((2, 2, 1), images[0].max()))
    np.testing.assert_array_equal(changed["image"][:2, :-2], images[:2, :-2])
    delta = {"w": jnp.ones(2000), "n": jnp.ones(3, jnp.int32)}
    key = jax.random.key(0)
    assert door.update(delta, key)["w"][0] == 3
    sent = attacks.gaussian(2.0).update(delta, key)
    assert abs(float(sent["w"].std()) - 2) < 0.15 and sent["n"].tolist() == [0, 0, 0]
    assert not attacks.free_rider().update(delta, key)["w"].any()
    product = attacks.inner_product(2.0).collude(
        {"w": jnp.array([[1.0], [5.0], [9.0]])}, jnp.array([1, 0, 1], bool)
    )
    assert product["w"].tolist() == [-10.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attack": "backdoor"}, "--attack=backdoor: expected the task classification"),
        ({"attack": "alie"}, "--attack.clients: expected names"),
        ({"attack_options": (("scale", "2"),)}, "--attack: expected an attack"),
        (
            {"attack": "sign_flip", "attack_options": (("clients", "0"), ("scale", "-1"))},
            "--attack.scale: exp",
        ),
        ({"attack": "sign_flip", "attack_options": (("clients", "0"), ("size", "1"))}, r"options \(scale"),
    ],
)
def test_wrong_flags_are_named(given, message):
    with pytest.raises(FlagError, match=message):
        parse_attack(changed(FederationSettings(), **given), ("segmentation",))


def test_the_root_of_fltrust_takes_part():
    settings = changed(FederationSettings(), reduce="fltrust", reduce_options=(("root", "5"),))
    check_reducer(settings, 6)
    with pytest.raises(FlagError, match=r"--reduce.root: expected .*5 clients, found 5"):
        check_reducer(settings, 5)
    with pytest.raises(FlagError, match=r"--sampler: expected all"):
        check_reducer(changed(settings, sampler="uniform", clients_per_round=2), 6)


def test_an_attack_that_must_see_updates_is_refused_where_they_are_hidden():
    hidden = toy()._replace(channel=fl.chain()._replace(linear=False))
    with pytest.raises(ArgumentError, match="channel: expected"):
        attacks.poison(hidden, attacks.alie(), (1,))
    assert attacks.poison(hidden, attacks.sign_flip(), (1,)).reduce is None


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(24)(x.reshape(len(x), -1))))


@functools.cache
def federation():
    rng = np.random.default_rng(0)
    clients, own = 10, 60
    label = np.arange(clients * own + 1000) % 4
    rng.shuffle(label)
    image = 0.8 * rng.normal(size=(4, 8, 8, 1))[label] * rng.uniform(0.4, 0.6, (len(label), 1, 1, 1))
    drawn = {
        "image": (image + rng.normal(size=image.shape)).astype(np.float32),
        "label": label.astype(np.int32),
    }
    train = {k: v[: clients * own].reshape(clients, own, *v.shape[1:]) for k, v in drawn.items()}
    test = {k: jnp.asarray(v[clients * own :]) for k, v in drawn.items()}
    task = classification_task(Net(), {k: v[:1] for k, v in test.items()})
    data = ClientData(train, np.ones((clients, own), bool), tuple(map(str, range(clients))))
    return task, data, test


def accuracy(reduce=None, attack=None, triggered=None):
    task, data, test = federation()
    algorithm = fl.fedavg(task, optax.sgd(0.1), reduce=reduce)
    if attack is not None:
        algorithm = attacks.poison(algorithm, attack, (2, 7))
    state = fl.init_state(algorithm, task.init(jax.random.key(0)), data)
    rounds = fl.run_rounds(fl.make_round(algorithm, batch_size=20, epochs=2), ROUNDS)
    variables = rounds(state, data, jax.random.key(1))[0].variables
    images = test["image"] if triggered is None else attacks.trigger(test["image"], 2)
    label = test["label"] if triggered is None else triggered
    return 100 * float((task.predict(*variables, {**test, "image": images}).argmax(-1) == label).mean())


DEFENSES = {
    "median": R.median(),
    "trimmed_mean": R.trimmed_mean(0.2),
    "multi_krum": R.krum(2, 5),
    "geometric_median": R.geometric_median(),
    "centered_clipping": R.centered_clipping(),
}


@pytest.mark.slow
def test_flipped_signs_are_withstood_by_robust_rules_and_not_by_the_mean():
    clean, attack = accuracy(), attacks.sign_flip(5.0)
    assert clean > 90 and accuracy(attack=attack) < clean - 15
    for name, reduce in DEFENSES.items():
        assert accuracy(reduce, attack) > clean - 3, name


@pytest.mark.slow
def test_robust_rules_cost_nothing_without_an_attack():
    clean = accuracy()
    for name in ("trimmed_mean", "multi_krum", "geometric_median", "centered_clipping"):
        assert accuracy(DEFENSES[name]) > clean - 1, name
    assert accuracy(R.norm_bound()) > clean - 1


@pytest.mark.slow
def test_model_replacement_plants_its_backdoor_in_the_mean_and_a_bound_keeps_it_out():
    door = attacks.backdoor(0, size=2, part=0.5, boost=5.0)
    assert accuracy(attack=door, triggered=0) > 80
    assert accuracy(R.krum(2, 5), door, triggered=0) < 50
