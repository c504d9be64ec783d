"""PRR-FL: stages, models that teach each other, and amplitudes, against numpy in double precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.deputies import next_stage
from fedrecon.federated.methods.prr_fl import prr_fl
from fedrecon.federated.reducers.amplitudes import amplitude_answers
from fedrecon.tasks import unit_score
from fedrecon.types import Task, Variables

CLASSES, FEATURES, EXAMPLES, RATE = 3, 5, 12, 0.4


def predict(params, stats, batch):
    return jax.nn.softmax(batch["x"] * params["scale"] @ params["w"] + params["b"])


def loss(params, stats, batch, key):
    each = -jnp.log(predict(params, stats, batch)[jnp.arange(len(batch["label"])), batch["label"]])
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


def init(key):
    params = {"w": 0.5 * jax.random.normal(key, (FEATURES, CLASSES)), "b": jnp.zeros(CLASSES)}
    return Variables({**params, "scale": jnp.ones(FEATURES)}, {})


TASK = Task(
    init,
    loss,
    lambda p, s, b: {},
    predict,
    Variables({"w": False, "b": False, "scale": True}, {}),
)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data():
    """Three clients of one rule, whose examples are few."""
    x = np.random.default_rng(2).normal(size=(3, EXAMPLES, FEATURES)).astype(np.float32)
    label = (x[..., :3] * np.array([1, 2, -1.5])).argmax(-1)
    return Clients({"x": jnp.asarray(x), "label": jnp.asarray(label)}, jnp.ones((3, EXAMPLES), bool))


def recipe(**options):
    return prr_fl(TASK, optax.sgd(RATE), score=unit_score(TASK), **options)


def rounds(algorithm, count=1, epochs=1, **options):
    clients = data()
    run = fl.make_round(algorithm, batch_size=EXAMPLES, epochs=epochs, donate=False, **options)
    state = fl.init_state(algorithm, TASK.init(jax.random.key(1)), clients)
    for _ in range(count):
        state, info = run(state, clients, jax.random.key(0))
    return state, info


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradients(model, x, label, teacher):
    """Of cross-entropy + KL(teacher || own) in logits: (p - y) + (p - t), each over the examples."""
    z = x * model["scale"] @ model["w"] + model["b"]
    p = softmax(z)
    dz = p - np.eye(CLASSES)[label]
    if teacher is not None:
        dz = dz + p - teacher
    dz /= len(x)
    dx = dz @ model["w"].T
    return {"w": (x * model["scale"]).T @ dz, "b": dz.sum(0), "scale": (dx * x).sum(0)}


def f1(model, x, label):
    found = (x * model["scale"] @ model["w"] + model["b"]).argmax(-1)
    each = []
    for k in range(CLASSES):
        either = (found == k).sum() + (label == k).sum()
        if either:
            each.append(2 * ((found == k) & (label == k)).sum() / either)
    return np.mean(each)


def fourier(models, part):
    """Amplitudes of the mean at low frequencies and each model's own phases."""
    spectra = [np.fft.fft2(m) for m in models]
    mean = np.mean([np.abs(s) for s in spectra], 0)
    fy, fx = (np.abs(np.fft.fftfreq(n, 1 / n)) <= part * n / 2 for n in models[0].shape)
    answers = []
    for s in spectra:
        back = np.fft.ifft2(np.where(fy[:, None] & fx, mean, np.abs(s)) * np.exp(1j * np.angle(s)))
        assert np.abs(back.imag).max() < 1e-6
        answers.append(back.real)
    return answers


def by_hand(count, epochs):
    start = {name: np.asarray(x, np.float64) for name, x in TASK.init(jax.random.key(1)).params.items()}
    clients = data()
    x, label = np.asarray(clients.examples["x"], np.float64), np.asarray(clients.examples["label"])
    personal, deputy = ([dict(start) for _ in range(3)] for _ in range(2))
    stages = set()
    for r in range(count):
        for i in range(3):
            p, q, stage = personal[i], deputy[i], 0
            for _ in range(epochs):
                a, b = f1(p, x[i], label[i]), f1(q, x[i], label[i])
                if stage == 0 or b < 0.7 * a:
                    stage = 1
                elif stage == 1 or b < 0.9 * a:
                    stage = 2
                else:
                    stage = 3
                stage_now = 2 if epochs < 2 else stage
                stages.add(stage_now)
                pp, pq = (softmax(x[i] * m["scale"] @ m["w"] + m["b"]) for m in (p, q))
                gp = gradients(p, x[i], label[i], pq if stage_now >= 2 else None)
                gq = gradients(q, x[i], label[i], pp if stage_now <= 2 else None)
                p = {k: p[k] - RATE * gp[k] for k in p}
                q = {k: q[k] - RATE * gq[k] for k in q}
            personal[i], deputy[i] = p, q
        sent = [dict(q) for q in deputy]
        kernels = fourier([q["w"] for q in deputy], 0.7 + r / 50 * 0.25)
        bias = np.mean([q["b"] for q in deputy], 0)
        deputy = [{**q, "w": w, "b": bias} for q, w in zip(deputy, kernels, strict=True)]
    return personal, sent, deputy, stages


@pytest.mark.parametrize(("count", "epochs"), [(2, 1), (2, 4)])
def test_rounds_are_those_of_the_equations(count, epochs):
    state, info = rounds(recipe(), count, epochs)
    personal, sent, deputy, stages = by_hand(count, epochs)
    assert stages == ({2} if epochs == 1 else {1, 2, 3})
    for i in range(3):
        for name in ("w", "b", "scale"):
            own = state.client.method.params[name][i]
            np.testing.assert_allclose(own, personal[i][name], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(state.private.params[name][i], sent[i][name], rtol=1e-5, atol=1e-5)
        for name in ("w", "b"):
            answer = state.answers.params[name][i]
            np.testing.assert_allclose(answer, deputy[i][name], rtol=1e-5, atol=1e-5)
    # Kernel and bias, and the weight; neither the personal model nor the normalization layer.
    np.testing.assert_array_equal(info.bytes_up, 4 * (FEATURES * CLASSES + CLASSES) + 4)
    np.testing.assert_array_equal(info.bytes_down, 4 * (FEATURES * CLASSES + CLASSES))


@pytest.mark.parametrize(
    ("stage", "personal", "deputy", "expected"),
    [
        (0, 0.5, 0.9, 1),
        (3, 1.0, 0.69, 1),
        (1, 1.0, 0.71, 2),
        (1, 1.0, 0.95, 2),
        (3, 1.0, 0.89, 2),
        (2, 1.0, 0.91, 3),
        (3, 1.0, 0.91, 3),
    ],
)
def test_stages_follow_the_table(stage, personal, deputy, expected):
    assert next_stage(jnp.int32(stage), jnp.float32(personal), jnp.float32(deputy)) == expected


def answers_of(kernels, bias, round=0, included=None):
    shared = Variables({"w": True, "b": True, "scale": False}, {})
    reducer = amplitude_answers(shared, 50, 0.7, lambda summed: summed)
    sent = Variables({"w": kernels, "b": bias, "scale": None}, {})
    upload = fl.Upload((), fl.Message(summed=sent), jnp.ones(len(bias)))
    included = jnp.ones(len(bias), bool) if included is None else included
    context = fl.Context(jnp.int32(round), jax.random.key(0))
    return reducer.reduce(upload, included, (), context).answers.params


@pytest.mark.slow
def test_equal_clients_get_what_they_sent():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    found = answers_of(jnp.tile(kernel[None], (4, 1, 1, 1, 1)), jnp.ones((4, 5)))
    np.testing.assert_allclose(found["w"], np.tile(kernel[None], (4, 1, 1, 1, 1)), atol=1e-6)
    np.testing.assert_array_equal(found["b"], 1)
    assert found["scale"] is None


def test_the_shared_part_grows_with_rounds_and_absent_clients_have_none():
    kernels = jax.random.normal(jax.random.key(0), (3, 16, 16))
    before = np.abs(np.fft.fft2(np.asarray(kernels, np.float64)))
    for round, included in ((0, [1, 1, 1]), (50, [1, 1, 1]), (25, [1, 0, 1])):
        mask = np.array(included, bool)
        found = answers_of(kernels, jnp.ones((3, 2)), round, jnp.asarray(mask))["w"]
        after = np.abs(np.fft.fft2(np.asarray(found, np.float64)))
        part = 0.7 + round / 50 * 0.25
        near = np.abs(np.fft.fftfreq(16, 1 / 16)) <= part * 8
        near = near[:, None] & near
        mean = before[mask].mean(0)
        np.testing.assert_allclose(after[0], np.where(near, mean, before[0]), atol=1e-4)


def test_who_misses_a_round_keeps_models_and_answer():
    state, _ = rounds(recipe(sampler=lambda key, round, history: jnp.arange(3) != 1))
    first = TASK.init(jax.random.key(1)).params
    np.testing.assert_array_equal(state.answers.params["w"][1], first["w"])
    np.testing.assert_array_equal(state.client.method.params["w"][1], first["w"])
    assert not np.array_equal(state.answers.params["w"][0], first["w"])


@pytest.mark.slow
def test_all_clients_at_once_give_the_same(fx):
    ours, theirs = (rounds(recipe(), 2, 3, parallel=p)[0] for p in ("scan", "vmap"))
    fx.assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"start": 1.5}, r"^start: expected a number in \[0, 1\], found 1.5"),
        ({"rounds": 0}, r"^rounds: expected an integer of at least 1, found 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        recipe(**option)
