"""Li's noise, mixture and hidden sites against the equations in numpy, and what travels."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.li_moe import hidden_sites, li_moe, noisy_upload
from fedrecon.tasks import classification_task
from fedrecon.tasks.mixtures import EXPERT, GATE, apart, mixture_of_experts
from fedrecon.types import Variables
from tests.federated.payloads import sent, shows

INPUTS, WIDTH = 6, 3
EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, INPUTS), jnp.float32),
    "label": jax.ShapeDtypeStruct((1,), jnp.int32),
}


class Network(nn.Module):
    """Correlations of regions to classes, by one hidden layer."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(jnp.tanh(nn.Dense(WIDTH, name="encoder")(x)))


PLAIN = classification_task(Network(), EXAMPLE)
TASK = mixture_of_experts(PLAIN, EXAMPLE)
START = TASK.init(jax.random.key(1))


def represent(params, stats, batch):
    return jnp.tanh(batch["image"] @ params["encoder"]["kernel"] + params["encoder"]["bias"])


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data(counts=(1, 1), size=4, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(counts), size, INPUTS)).astype(np.float32)
    label = (x[..., 0] + 0.2 * rng.normal(size=x.shape[:2]) > 0).astype(np.int32)
    x[1:, :, 1:] += shift
    valid = np.arange(size) < np.asarray(counts)[:, None]
    return Clients({"image": jnp.asarray(x), "label": jnp.asarray(label)}, jnp.asarray(valid))


def algorithm(task=TASK, optimizer=None, clients=2, **options):
    given = {"represent": represent, "example": EXAMPLE, "latents": 1, "feature_noise": 0.0, "start": 1}
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return li_moe(task, optimizer, clients=clients, **{**given, "noise": 0.0, **options})


def rounds(algorithm, clients, count, task=TASK, batch_size=4):
    return each_round(algorithm, clients, count, task, batch_size)[-1]


def each_round(algorithm, clients, count, task=TASK, batch_size=4):
    round = fl.make_round(algorithm, batch_size=batch_size, epochs=1, donate=False)
    states = [fl.init_state(algorithm, task.init(jax.random.key(1)), clients)]
    for _ in range(count):
        state, info = round(states[-1], clients, jax.random.key(0))
        assert info.applied
        states.append(state)
    return states


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in leaves)


@pytest.mark.slow
def test_with_nothing_of_it_it_is_averaging_bit_for_bit():
    clients = data((4, 3))
    plain = fl.fedavg(PLAIN, optax.sgd(0.1), weighting=fl.equal)
    mine = algorithm(mixture_of_experts(PLAIN, EXAMPLE, mixture=False), strength=0.0)
    found, expected = (rounds(a, clients, 2, PLAIN) for a in (mine, plain))
    assert same(found.variables, expected.variables) and not jax.tree.leaves(found.exchange)


# Noise.


@pytest.mark.parametrize(("law", "deviation"), [("gaussian", 1.0), ("laplace", np.sqrt(2))])
def test_what_is_uploaded_differs_from_the_model_by_the_noise(law, deviation):
    method = noisy_upload(0.01, law)
    params = {"a": 3 * jax.random.normal(jax.random.key(0), (100_000,)), "b": jnp.ones((2, 3))}
    result = fl.ClientResult(Variables(params, {}), 1.0, (), fl.Message(), {}, Variables(params, {}))

    class Context:
        key = jax.random.key(5)

    sent, message, _ = method.finish(result, (), Context)
    noise = np.asarray(sent.delta.params["a"] - params["a"])
    np.testing.assert_allclose(noise.std(), 0.01 * deviation * np.asarray(params["a"]).std(), rtol=0.05)
    assert same(sent.variables, result.variables) and not jax.tree.leaves(message)
    # A tensor of equal entries has no deviation.
    np.testing.assert_array_equal(sent.delta.params["b"], params["b"])


# The mixture.


def batch_of(clients, client=1):
    return {name: x[client] for name, x in clients.examples.items()} | {"valid": clients.valid[client]}


def gated(bias, kernel=0.0):
    gate = {"kernel": jnp.full(INPUTS, kernel), "bias": jnp.float32(bias)}
    return {**START.params, GATE: gate}


def test_the_gate_decides_between_the_network_and_the_expert():
    batch = batch_of(data((4, 3)))
    own, other = apart(*START)
    for bias, chosen in ((40.0, own), (-40.0, other)):
        np.testing.assert_allclose(
            TASK.predict(gated(bias), {}, batch), PLAIN.predict(*chosen, batch), atol=1e-6
        )
        found, expected = TASK.metrics(gated(bias), {}, batch), PLAIN.metrics(*chosen, batch)
        np.testing.assert_allclose(found["accuracy"], expected["accuracy"], atol=1e-6)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    halves = [np.log(PLAIN.predict(*v, batch)) / 2 for v in (own, other)]
    mixed = np.exp(sum(halves))
    np.testing.assert_allclose(TASK.predict(*START, batch), mixed / mixed.sum(-1, keepdims=True), rtol=1e-5)


def test_gradients_are_those_of_the_equations():
    """In numpy: a l_f + (1 - a) l_h for network and gate; for the expert its own loss alone."""
    batch = batch_of(data((4, 3)))
    params = gated(0.3, 0.2)
    gradient = jax.grad(lambda p: TASK.loss(p, {}, batch, jax.random.key(0))[0])(params)
    own, other = apart(params, {})
    valid, label = np.asarray(batch["valid"]), np.asarray(batch["label"])
    x = np.asarray(batch["image"], float)

    def forward(p):
        h = np.tanh(x @ np.asarray(p["encoder"]["kernel"], float) + np.asarray(p["encoder"]["bias"]))
        logits = h @ np.asarray(p["head"]["kernel"], float) + np.asarray(p["head"]["bias"])
        e = np.exp(logits - logits.max(-1, keepdims=True))
        return h, e / e.sum(-1, keepdims=True)

    def back(p, weight):
        h, said = forward(p)
        out = weight[:, None] * (said - np.eye(2)[label])
        inner = out @ np.asarray(p["head"]["kernel"], float).T * (1 - h**2)
        return {
            "encoder": {"kernel": x.T @ inner, "bias": inner.sum(0)},
            "head": {"kernel": h.T @ out, "bias": out.sum(0)},
        }

    a = 1 / (1 + np.exp(-(x @ np.full(INPUTS, 0.2) + 0.3)))
    share = valid / valid.sum()
    losses = [-np.log(forward(p)[1][np.arange(4), label]) for p in (own.params, other.params)]
    slope = share * a * (1 - a) * (losses[0] - losses[1])
    expected = {
        **back(own.params, share * a),
        EXPERT: back(other.params, share),
        GATE: {"kernel": x.T @ slope, "bias": slope.sum()},
    }
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, atol=1e-5), gradient, expected)
    value = TASK.loss(params, {}, batch, jax.random.key(0))[0]
    by_hand = (share * (a * losses[0] + (1 - a) * losses[1] + losses[1])).sum()
    np.testing.assert_allclose(value, by_hand, rtol=1e-5)


def test_expert_gate_and_images_are_in_no_message():
    mark = np.array([7.0, -3.0, 11.0, 2.0, -5.0, 13.0], np.float32)
    clients = data((4, 3))
    clients.examples["image"] = clients.examples["image"].at[:, 0].set(mark)
    chosen = algorithm(latents=5, noise=0.01)
    state, payloads = sent(chosen, START, clients, 3, batch_size=2)
    assert shows(payloads, mark) == []
    assert not any(name in path for path in payloads for name in (EXPERT, GATE, "optimizer"))
    assert {x.shape for path, x in payloads.items() if "latents" in path} == {(2, 5, WIDTH)}
    private = state.private.params
    assert (np.asarray(private[GATE]["kernel"][0]) != np.asarray(private[GATE]["kernel"][1])).any()
    kernels = private[EXPERT]["head"]["kernel"]
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).any()
    assert private["head"]["kernel"] is None


# Hidden sites.


def test_a_step_hides_the_site_as_the_equations_say():
    """Both clients have one example and know one latent of the other: nothing is left to chance."""
    clients = data()
    initial, first, second = each_round(algorithm(PLAIN, strength=0.7), clients, 2, PLAIN)
    player = initial.client.method.params
    own_player = jax.tree.map(lambda x: np.asarray(x[0], float), player)
    assert same(first.client.method.params, player)
    p1 = jax.tree.map(lambda x: np.asarray(x, float), first.variables.params)
    x, label = np.asarray(clients.examples["image"][:, 0], float), np.asarray(clients.examples["label"][:, 0])
    stale = np.asarray(first.exchange["latents"], float)
    models = []
    for client in range(2):
        h = np.tanh(x[client] @ p1["encoder"]["kernel"] + p1["encoder"]["bias"])
        e = np.exp(h @ p1["head"]["kernel"] + p1["head"]["bias"])
        out = e / e.sum() - np.eye(2)[label[client]]
        back = p1["head"]["kernel"] @ out
        d = jax.tree.map(np.copy, own_player)

        def said(z, target, d=d):
            a = z @ d[0]["kernel"] + d[0]["bias"]
            r = np.maximum(a, 0)
            o = 1 / (1 + np.exp(-(r @ d[1]["kernel"] + d[1]["bias"]))) - target
            inner = d[1]["kernel"] @ o * (a > 0)
            own = [
                {"kernel": np.outer(z, inner), "bias": inner},
                {"kernel": np.outer(r, o), "bias": o},
            ]
            return own, d[0]["kernel"] @ inner

        mine, theirs = said(h, 1.0)[0], said(stale[1 - client, 0], 0.0)[0]
        for layer, a, b in zip(d, mine, theirs, strict=True):
            for name in layer:
                # The first step of Adam.
                g = a[name] + b[name]
                layer[name] = layer[name] - 1e-4 * g / (np.abs(g) + 1e-8)
        back = back + 0.7 * (said(h, 1.0)[1] + said(h, 0.0)[1])
        inner = back * (1 - h**2)
        models.append(
            {
                "encoder": {"kernel": np.outer(x[client], inner), "bias": inner},
                "head": {"kernel": np.outer(h, out), "bias": out},
            }
        )
        found = jax.tree.map(lambda leaf, i=client: leaf[i], second.client.method.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, d)
    expected = jax.tree.map(lambda w, a, b: w - 0.1 * (a + b) / 2, p1, *models)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), second.variables.params, expected)


def test_before_its_start_it_is_averaging():
    clients = data((4, 3))
    plain = fl.fedavg(PLAIN, optax.sgd(0.1), weighting=fl.equal)
    late, expected = (rounds(a, clients, 2, PLAIN) for a in (algorithm(PLAIN, start=2), plain))
    np.testing.assert_allclose(
        late.variables.params["encoder"]["kernel"], expected.variables.params["encoder"]["kernel"], atol=1e-6
    )
    assert float(late.exchange["rounds"]) == 2 and late.exchange["known"].all()


def test_who_is_away_keeps_the_features_that_are_known():
    method = hidden_sites(represent, EXAMPLE, 3, latents=2)
    server = {"latents": jnp.ones((3, 2, WIDTH)), "known": jnp.array([1.0, 0, 0]), "rounds": jnp.zeros(())}
    found = fl.messages.Gathered(
        {"latents": 5 * jnp.ones((2, 2, WIDTH))}, jnp.array([1, 0]), jnp.array([True, False])
    )
    new = method.server.receive(server, fl.Message(gathered=found), None)
    np.testing.assert_array_equal(new["latents"][:, 0, 0], [1, 5, 1])
    np.testing.assert_array_equal(new["known"], [1, 1, 0])


def probed(a, b):
    """Accuracy of a linear probe of two domains, fitted to the first halves, on the second ones."""
    n = len(a) // 2
    x = np.c_[np.concatenate([a[:n], b[:n], a[n:], b[n:]]), np.ones(4 * n)]
    label = np.tile(np.repeat([1.0, -1.0], n), 2)
    weights = np.linalg.lstsq(x[: 2 * n], label[: 2 * n], rcond=1e-6)[0]
    return (np.sign(x[2 * n :] @ weights) == label[2 * n :]).mean()


@pytest.mark.slow
def test_a_fresh_probe_tells_the_sites_apart_less_well_at_the_same_accuracy():
    clients = data((256, 256), 256, 1.0)
    found = []
    for strength in (0.0, 1.0):
        chosen = algorithm(
            PLAIN,
            optax.adam(3e-3),
            strength=strength,
            latents=64,
            feature_noise=1e-3,
            hidden=8,
            discriminator_rate=3e-3,
            start=5,
        )
        round = fl.make_round(chosen, batch_size=32, epochs=1, donate=False)
        state = fl.init_state(chosen, PLAIN.init(jax.random.key(1)), clients)
        state, _ = fl.run_rounds(round, 80)(state, clients, jax.random.key(0))
        latents = np.asarray(represent(*state.variables, clients.examples))
        said = PLAIN.predict(*state.variables, {"image": clients.examples["image"].reshape(-1, INPUTS)})
        accuracy = (np.argmax(said, -1) == np.asarray(clients.examples["label"]).ravel()).mean()
        found.append((probed(*latents), accuracy))
    (before, plain), (after, aligned) = found
    assert before > 0.7 and after < 0.6 and abs(aligned - plain) <= 0.03, found


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"noise": -1.0}, "^noise: expected a number of at least 0"),
        ({"law": "cauchy"}, "^law: expected gaussian or laplace, found 'cauchy'"),
        ({"strength": -1.0}, "^strength: expected a number of at least 0"),
        ({"latents": 0}, "^latents: expected a positive number"),
        ({"start": -1}, "^start: expected a number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        algorithm(**option)


def test_tasks_with_such_leaves_or_without_images_are_refused():
    with pytest.raises(ValueError, match=r"^task: expected parameters by name"):
        mixture_of_experts(TASK, EXAMPLE)
    with pytest.raises(ValueError, match=r"^example: expected one with 'image'"):
        mixture_of_experts(PLAIN, {"x": EXAMPLE["image"]})
