"""What the representations of federated pre-training by contrast are good for, on synthetic vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.alignment import Contrast
from fedrecon.federated.methods.fedmoco import fedmoco
from fedrecon.federated.methods.wu_dermatology import wu_dermatology
from fedrecon.federated.methods.wu_volumetric import wu_volumetric
from fedrecon.types import Variables
from tests.federated import contrast_problem as problem

pytestmark = pytest.mark.slow
SIGNAL, NUISANCE, FEATURES = 4, 12, 8
WIDTH = SIGNAL + NUISANCE


def embed(params, stats, batch):
    return jnp.tanh(batch["x"] @ params["w"]) @ params["v"]


def views(batch, key):
    """The nuisance is drawn anew, the signal disturbed."""
    size = jnp.where(jnp.arange(WIDTH) < SIGNAL, 0.2, 2.0)
    keys = jax.random.split(key)
    return tuple({**batch, "x": batch["x"] + size * jax.random.normal(k, batch["x"].shape)} for k in keys)


def init(key):
    keys = jax.random.split(key)
    return Variables(
        {
            "w": jax.random.normal(keys[0], (WIDTH, 16)) / WIDTH**0.5,
            "v": jax.random.normal(keys[1], (16, FEATURES)) / 4,
        },
        {},
    )


CONTRAST = Contrast(views, lambda p, s, b, key: (embed(p, s, b), s), embed, FEATURES)
TASK = problem.TASK._replace(init=init, predict=embed)


@functools.cache
def program(recipe, clients, rounds, batch_size, **options):
    """``run(examples, start, key) -> variables`` of all valid examples."""
    options = {"contrast": CONTRAST, "clients": clients, **options}
    algorithm = recipe(TASK, optax.adam(0.02), **options)
    round = fl.make_round(algorithm, batch_size=batch_size, epochs=1)

    @jax.jit
    def run(examples, start, key):
        data = problem.Clients(examples, jnp.ones(examples["x"].shape[:2], bool))
        state = fl.init_state(algorithm, start, data)
        return jax.lax.scan(lambda s, _: (round(s, data, key)[0], None), state, length=rounds)[0].variables

    return run


def classes(rng, label):
    """Vectors of two classes, told apart by the first of the signals, among much that says nothing."""
    x = rng.normal(size=(*label.shape, WIDTH))
    x[..., SIGNAL:] *= 2
    x[..., 0] += 3 * (2 * label - 1)
    return x.astype(np.float32)


def probe(variables, few, label, test, truth):
    """Accuracy of ridge regression on features."""
    features = [problem.unit(np.asarray(embed(variables.params, {}, {"x": x}), float)) for x in (few, test)]
    one, other = (np.concatenate([f, np.ones((len(f), 1))], 1) for f in features)
    weights = np.linalg.solve(one.T @ one + 0.1 * np.eye(FEATURES + 1), one.T @ (2 * label - 1))
    return ((other @ weights > 0) == truth).mean()


def silhouette(features, label):
    apart = np.linalg.norm(features[:, None] - features[None], axis=-1)
    same = label[:, None] == label[None]
    own = (apart * same).sum(1) / (same.sum(1) - 1)
    other = (apart * ~same).sum(1) / (~same).sum(1)
    return ((other - own) / np.maximum(own, other)).mean()


def test_a_probe_with_few_labels_is_better_than_on_random_features():
    run = program(fedmoco, 3, 40, 20, queue=64, momentum=0.9)
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        label = rng.integers(2, size=(3, 40))
        x = classes(rng, label)
        few = rng.permutation(120)[:12]
        truth = rng.integers(2, size=400)
        given = (x.reshape(-1, WIDTH)[few], label.reshape(-1)[few], classes(rng, truth), truth)
        start = init(jax.random.key(seed))
        trained = run({"x": jnp.asarray(x)}, start, jax.random.key(seed))
        gains.append(probe(trained, *given) - probe(start, *given))
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / 5**0.5 and np.mean(gains) > 0.03, gains


def test_sites_of_one_class_tell_classes_apart_by_features_of_each_other():
    found = []
    for remote in (64, 0):
        run = program(wu_dermatology, 2, 40, 20, queue=64, momentum=0.9, remote=remote)
        scores = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            label = np.repeat([[0], [1]], 40, 1)
            truth = rng.integers(2, size=200)
            x, test = classes(rng, label), classes(rng, truth)
            trained = run({"x": jnp.asarray(x)}, init(jax.random.key(seed)), jax.random.key(seed))
            features = problem.unit(np.asarray(embed(trained.params, {}, {"x": test}), float))
            scores.append(silhouette(features, truth))
        found.append(scores)
    gain = np.subtract(*found)
    assert gain.mean() > 2 * gain.std(ddof=1) / 5**0.5 and (gain > 0).all(), found


def test_partitions_are_nearer_across_sites_than_other_partitions_of_the_same_site():
    """Volumes of eight slices, whose places turn a signal, at sites with gains and offsets of their own."""
    ratios = {"together": [], "alone": []}
    count, partitions = 8, 4
    for seed in range(5):
        rng = np.random.default_rng(seed)
        directions = 2 * rng.normal(size=(partitions, WIDTH))
        gains, offsets = np.array([0.5, 1.0, 2.0]), 1.5 * rng.normal(size=(3, 1, WIDTH))

        def slices(volumes, rng=rng, directions=directions, gains=gains, offsets=offsets):
            place = np.tile(np.arange(count), volumes)
            x = directions[partitions * place // count] + rng.normal(size=(3, len(place), WIDTH))
            x = gains[:, None, None] * x + offsets
            number = jnp.tile(jnp.asarray(place, jnp.int32), (3, 1))
            examples = {"x": jnp.asarray(x, jnp.float32), "slice": number}
            return examples | {"slices": jnp.full_like(number, count)}, partitions * place // count

        (train, _), (test, tags) = slices(5), slices(5)
        start, key = init(jax.random.key(seed)), jax.random.key(seed)
        options = {"queue": 64, "momentum": 0.9, "drawn_features": 64}
        shared = program(wu_volumetric, 3, 30, 20, **options)(train, start, key)
        alone = program(wu_volumetric, 1, 30, 20, **options)
        own = [alone(jax.tree.map(lambda x, i=i: x[i : i + 1], train), start, key) for i in range(3)]
        for name, models in (("together", [shared] * 3), ("alone", own)):
            h = np.stack([
                problem.unit(np.asarray(embed(m.params, {}, {"x": x}), float))
                for m, x in zip(models, test["x"], strict=True)
            ])  # fmt: skip
            apart = np.linalg.norm(h[:, None, :, None] - h[None, :, None, :], axis=-1)
            same, site = tags[:, None] == tags[None], np.eye(3, dtype=bool)
            ratios[name].append(apart[~site][:, same].mean() / apart[site][:, ~same].mean())
    assert max(ratios["together"]) < 1, ratios
    assert np.mean(ratios["together"]) < 0.7 * np.mean(ratios["alone"]), ratios
