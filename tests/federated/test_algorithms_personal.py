"""Personal models: Ditto, pFedMe, FedPer, FedRep, MOON, and fine-tuning after training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.federated.methods.moon import contrastive_loss
from fedrecon.types import Task, Variables

RATE = 0.05
START = np.array([0.3, -0.7])
COUNTS = [6, 4, 3]
HEAD = Variables({"dense": True, "norm": False}, False)


def last(tree):
    return jax.tree.map(lambda x: x[-1], tree)


def weighted(k, b):
    return (k[:, None] * b).sum(0) / k.sum()


@pytest.mark.slow
@pytest.mark.parametrize("strengths", [(0.5,), pytest.param((0.5, 30.0), marks=pytest.mark.slow)])
def test_ditto_pulls_personal_models_to_the_global_one(fx, strengths):
    """v_i = (a_i b_i + lambda w*) / (a_i + lambda), while w trains as if there were no v_i."""
    for strength in strengths:
        algorithm = fl.ditto(fx.quad, optax.sgd(0.03), strength=strength)
        states, infos = fx.trajectory(fx.quad, algorithm, 300)(fx.quad_data())
        if strength == 0.5:
            plain, _ = fx.trajectory(fx.quad, fl.fedavg(fx.quad, optax.sgd(0.03)), 300)(fx.quad_data())
            fx.assert_equal(states.variables, plain.variables)
        w, a = np.asarray(plain.variables.params["w"][-1]), fx.a[:, None]
        own = last(states.client).method.params["w"]
        np.testing.assert_allclose(own, (a * fx.b + strength * w) / (a + strength), atol=1e-3)
        fx.assert_equal(fl.client_variables(algorithm, last(states), 2).params["w"], own[2])
        np.testing.assert_array_equal(infos.bytes_up, 8 + 4)
    if strength == 30.0:
        np.testing.assert_allclose(own, np.tile(w, (4, 1)), atol=0.5)


@pytest.mark.slow
def test_ditto_without_strength_is_training_alone(fx):
    data = fx.regression_data(COUNTS)
    models = []
    for algorithm in (
        fl.ditto(fx.regression, optax.adam(0.05), strength=0.0),
        fl.local_only(fx.regression, optax.adam(0.05), keep_optimizer=False),
    ):
        states, _ = fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)(data)
        models.append([fl.client_variables(algorithm, last(states), i) for i in range(3)])
    fx.assert_close(*models, 1e-6)


def test_ditto_keeps_a_finite_personal_model(fx):
    """Only what leaves is checked by the round; a personal model that diverges stays as it was."""
    algorithm = fl.ditto(fx.quad, optax.sgd(0.1), personal_optimizer=optax.sgd(1e20))
    states, infos = fx.trajectory(fx.quad, algorithm, 2)(fx.quad_data())
    assert infos.applied.all() and not infos.excluded.any()
    own = np.asarray(states.client.method.params["w"])
    assert np.isfinite(own).all()


def test_pfedme_solves_the_moreau_problem(fx):
    """theta = (a b + lambda y) / (a + lambda), and y moves by -eta a lambda / (a + lambda) (y - b)."""
    algorithm = fl.pfedme(fx.quad, RATE, personal_learning_rate=0.15, inner_steps=60, strength=2.0)
    result = fx.alone(algorithm.client, fx.quad_data(), Variables({"w": jnp.asarray(START)}, {}), steps=1)
    a = fx.a[:, None]
    theta = (a * fx.b + 2 * START) / (a + 2)
    np.testing.assert_allclose(result.client_state.method.params["w"], theta, rtol=1e-4)
    moved = -RATE * a * 2 / (a + 2) * (START - fx.b)
    np.testing.assert_allclose(result.delta.params["w"], moved, rtol=1e-3, atol=1e-5)


def test_pfedme_fixed_point(fx):
    """With one step per round, k_i = p_i a_i lambda / (a_i + lambda); clients evaluate with theta."""
    algorithm = fl.pfedme(
        fx.quad,
        0.1,
        personal_learning_rate=0.15,
        inner_steps=60,
        strength=2.0,
        mixing=0.5,
        weighting=fx.fixed_weights,
    )
    states, _ = fx.trajectory(fx.quad, algorithm, 400, batch_size=1, steps=1)(fx.quad_data())
    w = last(states).variables.params["w"]
    np.testing.assert_allclose(w, weighted(fx.p * fx.a * 2 / (fx.a + 2), fx.b), rtol=1e-3)
    theta = (fx.a[:, None] * fx.b + 2 * w) / (fx.a[:, None] + 2)
    for i in range(4):
        own = fl.client_variables(algorithm, last(states), i).params["w"]
        np.testing.assert_allclose(own, theta[i], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_pfedme_with_a_large_strength_is_fedavg(fx):
    """One gradient per local step, theta being y - grad f(y) / lambda."""
    strength = 1e3
    algorithm = fl.pfedme(
        fx.quad, RATE, personal_learning_rate=1 / (2 * strength), inner_steps=30, strength=strength
    )
    states, _ = fx.trajectory(fx.quad, algorithm, 2)(fx.quad_data())
    plain, _ = fx.trajectory(fx.quad, fl.fedavg(fx.quad, optax.sgd(RATE)), 2)(fx.quad_data())
    np.testing.assert_allclose(
        states.variables.params["w"], plain.variables.params["w"], rtol=1e-2, atol=1e-2
    )


def test_leaves_under_names_leaves(fx):
    variables = fx.regression.init(jax.random.key(0))
    mask = fl.leaves_under(variables, ("dense", "mean"))
    assert mask == Variables(
        {"dense": True, "norm": {"scale": False, "bias": False}},
        {"mean": True, "var": False, "count": False},
    )
    with pytest.raises(ValueError, match=r"names: expected names of leaves, not \['head'\]"):
        fl.leaves_under(variables, ("dense", "head"))


def test_fedrep_trains_the_head_and_then_the_body(fx):
    """Decaying weights and clipping the norm, the optimizer still leaves the frozen leaves bitwise alone."""
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.add_decayed_weights(0.1), optax.sgd(0.5))
    client = fl.fedrep(fx.regression, optimizer, head=HEAD, head_steps=2).client
    data, variables = fx.regression_data(COUNTS), fx.regression.init(jax.random.key(0))
    half, full = fx.alone(client, data, variables, steps=5, batch_size=2, limit=(2, 5))
    same = jax.tree.map(lambda x: jnp.tile(x[None], (3,) + (1,) * x.ndim), variables)
    head, body = (lambda v: v.params["dense"]), (lambda v: (v.params["norm"], v.stats))
    fx.assert_equal(body(half.variables), body(same))
    assert (head(half.variables) != head(same)).all()
    fx.assert_equal(head(full.variables), head(half.variables))
    assert (full.variables.params["norm"]["bias"] != 0).all()
    np.testing.assert_array_equal(full.variables.stats["count"], 3)
    fx.assert_equal(full.delta, jax.tree.map(lambda new, old: new - old[None], full.variables, variables))
    np.testing.assert_array_equal(full.metrics["steps"][0], 5)
    np.testing.assert_array_equal(full.metrics["steps"][1], 1)
    np.testing.assert_array_equal(full.metrics["mse"][1], full.metrics["examples"][0])
    # Two steps of gradients clipped to the head's own norm, from about the same place.
    decayed = 0.5 * 0.1 * np.asarray(variables.params["dense"])
    step = np.asarray(head(half.variables) - head(same)) + 2 * decayed
    assert (np.linalg.norm(step, axis=1) > 0.9 * 0.5e-3).all()


def linear_task(inner):
    """y = x . B beta: the body B (6, 2) is shared, the head beta (2,) is each client's own."""

    def init(key):
        one, two = jax.random.split(key)
        body = jnp.linalg.qr(jax.random.normal(one, (6, inner)))[0]
        return Variables({"body": body, "head": 0.1 * jax.random.normal(two, (inner,))}, {})

    def errors(params, batch):
        error = (batch["x"] @ params["body"] @ params["head"] - batch["y"]) ** 2
        return jnp.where(batch["valid"], error, 0).sum(), batch["valid"].sum()

    def loss(params, stats, batch, key):
        total, count = errors(params, batch)
        return total / jnp.maximum(count, 1), (stats, {})

    def metrics(params, stats, batch):
        return {"mse": errors(params, batch)}

    nothing = Variables({"body": False, "head": False}, {})
    return Task(init, loss, metrics, lambda p, s, b: b["x"] @ p["body"] @ p["head"], nothing)


@pytest.mark.slow
def test_fedrep_learns_a_common_subspace(fx):
    """The principal angle to the true one falls geometrically, and one head for all cannot fit."""
    rng, clients, examples = np.random.default_rng(0), 8, 40
    truth = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    x = rng.normal(size=(clients, examples, 6)).astype(np.float32)
    y = np.einsum("cej,jk,ck->ce", x, truth, rng.normal(size=(clients, 2))).astype(np.float32)
    data = fx.clients({"x": jnp.asarray(x), "y": jnp.asarray(y)}, jnp.ones((clients, examples), bool))
    task, sgd = linear_task(2), optax.sgd(0.1)
    head = fl.leaves_under(jax.eval_shape(task.init, jax.random.key(0)), ("head",))
    losses, angles = {}, []
    for name, algorithm in (
        ("fedrep", fl.fedrep(task, sgd, head=head, head_steps=20)),
        ("fedper", fl.fedper(task, sgd, head=head)),
        ("fedavg", fl.fedavg(task, sgd)),
    ):
        states, _ = fx.trajectory(task, algorithm, 60, batch_size=40, steps=25)(data)
        total, count = fl.make_evaluate(algorithm, task.metrics)(last(states), data)["mse"]
        losses[name] = float((total / count).mean())
        if name == "fedrep":
            for body in np.asarray(states.variables.params["body"])[::10]:
                basis = np.linalg.qr(body)[0]
                angles.append(np.linalg.norm((np.eye(6) - truth @ truth.T) @ basis, 2))
    angles = np.array(angles)
    assert (angles[1:4] < 0.6 * angles[:3]).all() and angles[-1] < 0.02, angles
    assert losses["fedrep"] < 0.01 * losses["fedavg"] and losses["fedper"] < 0.1 * losses["fedavg"], losses


def test_contrastive_loss():
    rng = np.random.default_rng(0)
    z, target, former = (rng.normal(size=s).astype(np.float32) for s in ((5, 4), (5, 4), (2, 5, 4)))
    value = jax.jit(jax.value_and_grad(lambda *z: contrastive_loss(*z, 0.5).sum(), argnums=(0, 1, 2)))

    def cosine(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    near, far = np.exp(cosine(z, target) / 0.5), np.exp(cosine(z, former) / 0.5)
    loss, gradient = value(z, target, former, np.array([True, True]))
    np.testing.assert_allclose(loss, -np.log(near / (near + far.sum(0))).sum(), rtol=1e-5)
    assert np.abs(gradient[0]).max() > 1e-2 and not np.any(gradient[2])
    loss, gradient = value(z, target, former, np.array([True, False]))
    np.testing.assert_allclose(loss, -np.log(near / (near + far[0])).sum(), rtol=1e-5)
    # An empty pool says nothing; with z_g = z_p there is nothing to choose.
    loss, gradient = value(z, target, former, np.array([False, False]))
    assert float(loss) == 0 and not np.any(gradient[0])
    loss, gradient = value(z, target, np.stack([target, target]), np.array([True, False]))
    np.testing.assert_allclose(loss, 5 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], 0, atol=1e-6)


def hidden(params, stats, batch):
    return jnp.tanh(batch["x"] * params["norm"]["scale"] + params["norm"]["bias"])


@pytest.mark.slow
def test_moon_remembers_its_former_models(fx):
    algorithm = fl.moon(fx.regression, optax.sgd(0.1), represent=hidden, pool=2)
    data = fx.regression_data(COUNTS, shift=False)
    states, infos = fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)(data)
    np.testing.assert_array_equal(states.client.method.filled, [[1] * 3, [2] * 3, [2] * 3])
    pool = states.client.method.models.params["dense"]
    fx.assert_equal(pool[1:, :, 1], pool[:-1, :, 0])
    # The mean of the newest models is the server's model.
    p = np.array(COUNTS) / sum(COUNTS)
    mean = np.einsum("c,rcj->rj", p, pool[:, :, 0])
    np.testing.assert_allclose(states.variables.params["dense"], mean, rtol=1e-4, atol=1e-5)
    plain, expected = fx.trajectory(
        fx.regression, fl.fedavg(fx.regression, optax.sgd(0.1)), 3, batch_size=2, epochs=1
    )(data)
    # The pool is empty in the first round, and the contrast is at work in the others.
    fx.assert_close(*(jax.tree.map(lambda x: x[0], s.variables) for s in (states, plain)), 1e-6)
    assert (
        np.abs(states.variables.params["norm"]["bias"] - plain.variables.params["norm"]["bias"]).max() > 1e-4
    )
    fx.assert_equal(infos.bytes_up, expected.bytes_up)


def trained(fx, data, mesh=None):
    algorithm = fl.fedbn(fx.regression, optax.sgd(0.1))
    states, _ = fx.trajectory(fx.regression, algorithm, 2, mesh=mesh, batch_size=2, epochs=1)(data)
    return algorithm, last(states)


@pytest.mark.slow
def test_fine_tuning_goes_on_from_the_released_model(fx):
    data = fx.regression_data(COUNTS)
    data = data._replace(valid=data.valid.at[2].set(False))
    algorithm, state = trained(fx, data)
    received = [fl.client_variables(algorithm, state, i) for i in range(3)]
    key, options = jax.random.key(9), {"batch_size": 2, "epochs": 2}
    common = (algorithm, state, fx.regression)
    none, kept = fl.fine_tune(*common, optax.sgd(0.1), data, key, **(options | {"epochs": 0}))
    fx.assert_equal([fl.client_variables(none, kept, i) for i in range(3)], received)

    tuner, tuned = fl.fine_tune(*common, optax.adam(0.1), data, key, **options)
    np.testing.assert_array_equal(tuned.history.participations, [1, 1, 0])
    models = [fl.client_variables(tuner, tuned, i) for i in range(3)]
    fx.assert_equal(models[2], received[2])
    update = fl.local_training(fx.regression.loss, optax.adam(0.1)).update
    keys = jax.random.split(jax.random.fold_in(jax.random.split(jax.random.fold_in(key, 0), 3)[1], 0), 3)
    index, mask = fl.batching.shuffled_epochs(2, 2)(data.valid[0], keys[0])
    examples = {name: x[0] for name, x in data.examples.items()}
    batches = fl.Batches(examples, index, data.valid[0].sum(), data.valid[0], jnp.int32(0))
    alone = jax.jit(update)(received[0], (), LocalState(), batches, mask, keys[1])
    fx.assert_close(models[0], alone.variables, 1e-6)

    evaluate = fl.make_evaluate(tuner, fx.regression.metrics)
    before, after = (np.asarray(evaluate(s, data)["mse"][0]) for s in (kept, tuned))
    assert (after[:2] < before[:2]).all() and after[2] == 0
    with pytest.raises(ValueError, match="epochs"):
        fl.fine_tune(*common, optax.sgd(0.1), data, key, batch_size=2, epochs=-1)
    with pytest.raises(ValueError, match="expected 3 clients"):
        short = jax.tree.map(lambda x: x[:2], data)
        fl.fine_tune(*common, optax.sgd(0.1), short, key, **options)


def test_fine_tuning_begins_with_what_is_released(fx):
    """For AFL that is the mean of the server's models, not the one that clients train from."""
    algorithm = fl.afl(fx.quad, optax.sgd(RATE), clients=4)
    states, _ = fx.trajectory(fx.quad, algorithm, 3)(fx.quad_data())
    state = last(states)
    options = {"batch_size": 1, "epochs": 0}
    tuner, tuned = fl.fine_tune(
        algorithm, state, fx.quad, optax.sgd(0.1), fx.quad_data(), jax.random.key(9), **options
    )
    released = np.asarray(states.variables.params["w"]).mean(0)
    assert (np.asarray(state.variables.params["w"]) != released).all()
    for i in range(4):
        np.testing.assert_allclose(fl.client_variables(tuner, tuned, i).params["w"], released, rtol=1e-5)


@pytest.mark.slow
def test_fine_tuning_the_head_leaves_the_rest(fx):
    data = fx.regression_data([4, 3, 2, 4])
    mesh = fl.client_mesh()
    algorithm, state = trained(fx, data, mesh)
    tuner, tuned = fl.fine_tune(
        algorithm,
        state,
        fx.regression,
        optax.sgd(0.1),
        data,
        jax.random.key(9),
        batch_size=2,
        epochs=1,
        head=HEAD,
        mesh=mesh,
        parallel="vmap",
    )
    for i in range(4):
        old, new = fl.client_variables(algorithm, state, i), fl.client_variables(tuner, tuned, i)
        fx.assert_equal((old.params["norm"], old.stats), (new.params["norm"], new.stats))
        assert (np.asarray(old.params["dense"]) != np.asarray(new.params["dense"])).all()


def test_errors_name_the_argument(fx):
    sgd = optax.sgd(0.1)
    for match, make in (
        ("strength", lambda: fl.ditto(fx.quad, sgd, strength=-1.0)),
        ("strength", lambda: fl.pfedme(fx.quad, strength=0.0)),
        ("inner_steps", lambda: fl.pfedme(fx.quad, inner_steps=0)),
        ("head_steps", lambda: fl.fedrep(fx.quad, sgd, head=Variables(True, True), head_steps=-1)),
        ("strength", lambda: fl.moon(fx.quad, sgd, represent=hidden, strength=-1.0)),
        ("temperature", lambda: fl.moon(fx.quad, sgd, represent=hidden, temperature=0.0)),
        ("pool", lambda: fl.moon(fx.quad, sgd, represent=hidden, pool=0)),
    ):
        with pytest.raises(ValueError, match=match):
            make()
