"""FedMoCo and Wu's two methods: one core, what crosses, and rounds derived again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods import fedmoco as module
from fedrecon.federated.methods.fedmoco import draw_features, fedmoco
from fedrecon.federated.methods.momentum_contrast import (
    contrasted,
    momentum_contrast,
    one_positive,
)
from fedrecon.federated.methods.wu_dermatology import wu_dermatology
from fedrecon.federated.methods.wu_volumetric import wu_volumetric
from tests.federated import contrast_problem as problem

RATE = 0.3
# With all remote features.
METHODS = {
    "fedmoco": (fedmoco, {"queue": 12, "momentum": 0.9, "sampled": 0.25}),
    "wu_dermatology": (wu_dermatology, {"queue": 12, "remote": 24, "positives": 2, "warm_up": 1}),
    "wu_volumetric": (wu_volumetric, {"queue": 12, "drawn_features": 36, "partitions": 2}),
}


def make(name, views=problem.views, **more):
    recipe, options = METHODS[name]
    given = {"contrast": problem.contrast(views), "clients": 3, **options, **more}
    return recipe(problem.TASK, optax.sgd(RATE), **given)


@functools.cache
def rounds(name, views=problem.views, parallel="scan", batch_size=4, **more):
    """The method's rounds on the problem; programs are shared by tests."""
    return problem.rounds_of(make(name, views, **more), parallel=parallel, batch_size=batch_size)


NOISY = {"views": problem.noisy_views, "batch_size": 2}


def some(name):
    """All methods, one of them in the default selection."""
    return [n if n == name else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]


def test_two_rounds_of_fedmoco_are_those_of_its_equations(monkeypatch):
    """With the means in place of draws around them."""
    monkeypatch.setattr(module, "gaussian_draws", lambda key, mean, covariance, which: mean[which])
    clients = problem.data()
    found = problem.rounds_of(make("fedmoco"))(clients, 3)
    w = np.asarray(problem.TASK.init(jax.random.key(1)).params["w"], float)
    sites = [
        problem.Client(clients.examples["x"][i, :n], np.zeros(n), w, 12) for i, n in enumerate((4, 3, 4))
    ]
    means = [None] * 3
    for state, _ in found:
        models, weights, new = [], [], []
        for i, site in enumerate(sites):
            known = [j for j in range(3) if j != i and means[j] is not None]
            signed = [means[known[v % len(known)]] for v in range(3)] if known else []
            remote = problem.unit(np.sign(signed) * np.square(signed)).reshape(-1, problem.FEATURES)

            def value(query, number, site, keys, remote=remote):
                among = np.concatenate([keys[number : number + 1], site.bank, remote])
                return problem.info_nce(query, among, [0], range(1, len(among)), 0.2)

            models.append(site.step(w, value, RATE, 0.9))
            h = problem.unit(np.tanh(site.x @ site.slow))
            new.append((np.sign(h) * np.sqrt(np.abs(h))).mean(0))
            before, after = (problem.unit(np.tanh(site.x @ model)) for model in (w, models[-1]))
            weights.append(max(1 - problem.spearman(before, after), 1e-6))
        means = new
        w = np.average(models, axis=0, weights=weights)
        np.testing.assert_allclose(state.variables.params["w"], w, atol=1e-5)
        np.testing.assert_allclose(state.exchange["mean"], means, atol=1e-5)


def test_two_rounds_of_wu_for_dermatology_are_those_of_the_equations():
    clients = problem.data()
    found = rounds("wu_dermatology")(clients, 3)
    w = np.asarray(problem.TASK.init(jax.random.key(1)).params["w"], float)
    sites = [
        problem.Client(clients.examples["x"][i, :n], np.zeros(n), w, 12) for i, n in enumerate((4, 3, 4))
    ]
    sent = [np.zeros((0, problem.FEATURES))] * 3
    for number, (state, _) in enumerate(found):
        models = []
        for i, site in enumerate(sites):
            remote = np.concatenate([sent[j] for j in range(3) if j != i])

            def value(query, place, site, keys, remote=remote, late=number >= 1):
                among = np.concatenate([keys[place : place + 1], site.bank, remote])
                first = 1 + len(site.bank)
                near = (first + np.argsort(-(remote @ query)))[:2] if late else []
                far = [n for n in range(1, len(among)) if n not in near]
                parts = (problem.info_nce(query, among, p, far, 0.1) for p in ([0], near))
                return tuple(map(sum, zip(*parts, strict=True)))

            models.append(site.step(w, value, RATE, 0.99))
        sent = [site.bank for site in sites]
        w = np.average(models, axis=0, weights=(4, 3, 4))
        np.testing.assert_allclose(state.variables.params["w"], w, atol=1e-5)


@pytest.mark.parametrize("exclude", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_rounds_of_wu_for_volumes_are_those_of_the_equations(exclude):
    clients = problem.data()
    found = rounds("wu_volumetric", **({} if exclude else {"exclude_own_partition": False}))(clients, 3)
    w = np.asarray(problem.TASK.init(jax.random.key(1)).params["w"], float)
    # floor(2 z / D) of 4 and of 3 slices.
    tags = ([0, 0, 1, 1], [0, 0, 1], [0, 0, 1, 1])
    sites = [problem.Client(clients.examples["x"][i, : len(t)], t, w, 12) for i, t in enumerate(tags)]
    sent = [(np.zeros((0, problem.FEATURES)), np.zeros(0, int))] * 3
    for state, _ in found:
        models = []
        for i, site in enumerate(sites):
            others = [sent[j] for j in range(3) if j != i]
            remote, remote_tags = (np.concatenate([x[k] for x in others]) for k in (0, 1))

            def value(query, place, site, keys, remote=remote, remote_tags=remote_tags):
                among = np.concatenate([keys, site.bank, site.bank, remote])
                kinds = np.concatenate([site.tags, site.bank_tags, site.bank_tags, remote_tags])
                shared = np.arange(len(among)) >= len(keys) + len(site.bank)
                same = kinds == site.tags[place]
                far = np.flatnonzero(shared & (~same if exclude else True))
                parts = (
                    problem.info_nce(query, among, np.flatnonzero(same & which), far, 0.1)
                    for which in (~shared, shared)
                )
                return tuple(map(sum, zip(*parts, strict=True)))

            models.append(site.step(w, value, RATE, 0.99))
        sent = [(site.bank, site.bank_tags) for site in sites]
        w = np.average(models, axis=0, weights=(4, 3, 4))
        np.testing.assert_allclose(state.variables.params["w"], w, atol=1e-5)


@pytest.mark.parametrize("name", ["fedmoco", pytest.param("wu_dermatology", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_without_remote_features_all_are_federated_momentum_contrast_bit_for_bit(name):
    contrast = problem.contrast(problem.noisy_views)
    options = {"queue": 6, "momentum": 0.9, "temperature": 0.2, "views": problem.noisy_views}
    if name == "fedmoco":
        algorithm = make(name, sampled=0.0, weights="equal", **options)
    else:
        algorithm = make(name, remote=0, positives=0, weighting=fl.equal, **options)
    core = momentum_contrast(contrast, queue=6, rate=0.9)
    task = contrasted(problem.TASK, contrast, one_positive(0.2))
    plain = fl.federated(task, optax.sgd(RATE), method=core, weighting=fl.equal)
    found, expected = (problem.rounds_of(x, batch_size=2)(problem.data(), 3) for x in (algorithm, plain))
    for (one, _), (other, _) in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
        jax.tree.map(np.testing.assert_array_equal, one.client.method, other.client.method)
    moved = expected[-1][0].variables.params["w"] - problem.TASK.init(jax.random.key(1)).params["w"]
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize("name", some("wu_volumetric"))
def test_a_client_never_sees_its_own_features_from_the_server(name):
    """What comes back to a client does not depend on what it sent itself."""
    run, clients = rounds(name, **NOISY), problem.data()
    state, _ = run(clients, 1)[-1]

    def after(changed):
        kept = jax.tree.map(lambda x: x.at[changed].set(1 if x.dtype == jnp.int8 else 0.7), state.exchange)
        return run(clients, 1, state._replace(exchange=kept))[0][0].client.method.encoder.params["w"]

    before = run(clients, 1, state)[0][0].client.method.encoder.params["w"]
    for client in range(3):
        same = (np.asarray(after(client)) == np.asarray(before)).all((1, 2))
        assert same[client] and not same[np.arange(3) != client].any(), (name, client)


@pytest.mark.parametrize("name", some("wu_volumetric"))
@pytest.mark.slow
def test_scanned_clients_and_clients_at_once_are_equal_and_resuming_is_exact(name):
    clients = problem.data()
    one, other = (rounds(name, parallel=p, **NOISY)(clients, 3)[-1][0] for p in ("scan", "vmap"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one.variables, other.variables)
    half = jax.tree.map(np.array, rounds(name, **NOISY)(clients, 1)[-1][0])
    resumed = rounds(name, **NOISY)(clients, 2, jax.tree.map(jnp.asarray, half))[-1][0]
    jax.tree.map(
        np.testing.assert_array_equal,
        (resumed.variables, resumed.client, resumed.exchange),
        (one.variables, one.client, one.exchange),
    )


@pytest.mark.parametrize(
    ("name", "more", "up", "down"),
    [
        ("fedmoco", {}, 4 * (3 + 9) + 4, 3 * 4 * (3 + 9)),
        pytest.param("fedmoco", {"diagonal": True}, 8 * 3 + 4, 3 * 8 * 3, marks=pytest.mark.slow),
        ("wu_dermatology", {}, 4 * 12 * 3, 3 * 4 * 12 * 3),
        ("wu_volumetric", {}, 12 * (4 * 3 + 1), 3 * 12 * (4 * 3 + 1)),
    ],
)
@pytest.mark.slow
def test_what_travels_is_what_is_stated(name, more, up, down):
    info = rounds(name, **more)(problem.data(), 1)[-1][1]
    model = 4 * problem.WIDTH * problem.FEATURES
    np.testing.assert_array_equal(info.bytes_up, model + 4 + up)
    np.testing.assert_array_equal(info.bytes_down, model + down)


@pytest.mark.parametrize("name", some("wu_volumetric"))
def test_neither_images_nor_the_momentum_encoder_are_sent(name):
    """Messages are those of features: their shapes have no image's and no layer's."""
    state, _ = rounds(name, **NOISY)(problem.data(), 2)[-1]
    shapes = {x.shape[1:] for x in jax.tree.leaves(state.exchange)}
    assert shapes <= {(3,), (3, 3), (12, 3), (12,)}
    slow = np.asarray(state.client.method.encoder.params["w"])
    # Clients have encoders of their own.
    assert np.abs(slow - slow.mean(0)).max() > 1e-6


def test_the_bank_keeps_its_size_and_the_last_keys_in_order():
    banks = [state.client.method.bank for state, _ in rounds("wu_volumetric")(problem.data(), 5)]
    assert all(bank.features.shape == (3, 12, 3) for bank in banks)
    # Of 3 keys a round in twelve places.
    np.testing.assert_array_equal([bank.place[1] for bank in banks], [3, 6, 9, 0, 3])
    np.testing.assert_array_equal(banks[1].tags[1] >= 0, [True] * 6 + [False] * 6)
    before, after = (np.asarray(bank.features[1]) for bank in banks[3:])
    np.testing.assert_array_equal(after[3:], before[3:])
    assert (after[:3] != before[:3]).any(1).all()
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), 1, rtol=1e-5)


def test_draws_have_the_moments_that_were_sent_and_none_is_of_the_client_itself():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3, 3)) * 0.4
    metadata = {
        "mean": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32),
        "covariance": jnp.asarray(root @ root.transpose(0, 2, 1), jnp.float32),
    }
    count = 20_000
    draws = module.gaussian_draws(
        jax.random.key(0), metadata["mean"], metadata["covariance"], jnp.full(count, 1)
    )
    draws = np.asarray(draws, float)
    covariance = np.asarray(metadata["covariance"][1], float)
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(0) - metadata["mean"][1]) < 5 * deviation / count**0.5).all()
    error = np.sqrt(np.outer(deviation, deviation) ** 2 + covariance**2) / count**0.5
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * error).all()
    spread = module.gaussian_draws(jax.random.key(0), metadata["mean"], jnp.full((3, 3), 0.25), jnp.arange(3))
    assert np.abs(spread - metadata["mean"]).max() < 2.5
    # Evenly of the two others, none of the own, of length 1.
    own = draw_features(jax.random.key(1), metadata, jnp.int32(1), 7, 0.5)
    np.testing.assert_array_equal(own.tags, [0, 2, 0, 2, 0, 2, 0])
    np.testing.assert_allclose(np.linalg.norm(own.features, axis=1), 1, rtol=1e-5)
    # Who has sent nothing is not drawn from; without anybody there is nothing.
    silent = jax.tree.map(lambda x: x.at[0].set(0), metadata)
    np.testing.assert_array_equal(draw_features(jax.random.key(1), silent, jnp.int32(1), 3, 0.5).tags, 2)
    nobody = jax.tree.map(jnp.zeros_like, metadata)
    assert (np.asarray(draw_features(jax.random.key(1), nobody, jnp.int32(1), 3, 0.5).tags) == -1).all()


@pytest.mark.parametrize(
    ("power", "diagonal"), [(0.5, False), pytest.param(1.0, True, marks=pytest.mark.slow)]
)
def test_metadata_are_the_moments_of_all_images_under_the_momentum_encoder(power, diagonal):
    more = {"power": power, "diagonal": True} if diagonal else {}
    clients = problem.data()
    state, _ = rounds("fedmoco", **more)(clients, 2)[1]
    for i, n in enumerate((4, 3, 4)):
        w = np.asarray(state.client.method.encoder.params["w"][i], float)
        h = problem.unit(np.tanh(np.asarray(clients.examples["x"][i, :n], float) @ w))
        h = np.sign(h) * np.abs(h) ** power
        covariance = np.cov(h.T, bias=True)
        np.testing.assert_allclose(state.exchange["mean"][i], h.mean(0), atol=1e-6)
        expected = np.diag(covariance) if diagonal else covariance
        np.testing.assert_allclose(state.exchange["covariance"][i], expected, atol=1e-6)


def test_equal_models_weigh_equally_and_who_moved_more_weighs_more():
    def weights(mode, correlations):
        algorithm = make("fedmoco", weights=mode)
        message = [fl.Message(scalars={"correlation": jnp.float32(r)}) for r in correlations]
        contexts = [fl.Context(jnp.int32(0), jax.random.key(0), message=m) for m in message]
        found = np.asarray(
            [algorithm.weighting(jnp.float32(n), c) for n, c in zip((5, 9), contexts, strict=True)]
        )
        return found / found.sum()

    np.testing.assert_allclose(weights("divergence", (1, 1)), 0.5)
    np.testing.assert_allclose(weights("divergence", (0.9, 0.6)), (0.2, 0.8), rtol=1e-5)
    np.testing.assert_allclose(weights("similarity", (0.9, 0.6)), (0.6, 0.4), rtol=1e-5)
    np.testing.assert_allclose(weights("similarity", (-0.9, -0.1)), 0.5)
    np.testing.assert_allclose(weights("equal", (0.9, 0.6)), 0.5)
    assert make("fedmoco").weighting(jnp.float32(0), fl.Context(0, None, message=fl.Message(
        scalars={"correlation": jnp.float32(0)}))) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("fedmoco", {"queue": 0}, "queue: expected a positive integer"),
        ("fedmoco", {"momentum": 1.5}, "momentum: expected"),
        ("fedmoco", {"sampled": -1.0}, "sampled: expected"),
        ("fedmoco", {"images": 1}, "images: expected"),
        ("fedmoco", {"power": 0.0}, "exponent: expected"),
        ("fedmoco", {"weights": "most"}, "weights: expected one of divergence"),
        ("wu_dermatology", {"remote": -1}, "remote: expected"),
        ("wu_dermatology", {"strength": -1.0}, "strength: expected"),
        ("wu_volumetric", {"partitions": 0}, "partitions: expected"),
        ("wu_volumetric", {"drawn_features": 0}, "drawn_features: expected"),
    ],
)
def test_what_is_out_of_range_is_refused(name, more, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(name, **more)


def test_privacy_is_refused_since_features_are_disclosed():
    with pytest.raises(ValueError, match="features of its examples"):
        make("fedmoco", method=fl.Method(hides=True))


@pytest.mark.slow
def test_weights_are_found_beside_another_method():
    both = make("fedmoco", method=fl.proximal(0.1))
    state, info = problem.rounds_of(both)(problem.data(), 2)[-1]
    assert info.applied and np.isfinite(np.asarray(state.variables.params["w"])).all()
