"""Wang: sites of disjoint case mixes, and the Dice of classes that cases have."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.data.clients import case_type_partition, partition_examples
from fedrecon.federated.methods.wang import wang
from fedrecon.tasks import segmentation_task, without_absent_classes
from fedrecon.types import Task, Variables


def given_labels(classes=3):
    """A task whose predictions examples bring along."""
    return Task(
        init=lambda key: Variables({}, {}),
        loss=lambda params, stats, batch, key: (jnp.float32(0), (stats, {})),
        metrics=lambda params, stats, batch: {"loss": (jnp.float32(2), jnp.float32(1))},
        predict=lambda params, stats, batch: jax.nn.one_hot(batch["told"], classes),
        normalization=Variables({}, {}),
    )


def scored(told, segmentation, valid):
    batch = {"told": told, "segmentation": segmentation, "image": np.zeros((*segmentation.shape, 1))}
    batch = {name: jnp.asarray(x) for name, x in batch.items()} | {"valid": jnp.asarray(valid)}
    task = without_absent_classes(given_labels(), batch)
    return task.metrics({}, {}, batch)


def test_a_class_that_a_case_lacks_is_left_out_whatever_is_predicted():
    segmentation = np.array([[[1, 1, 0, 0]], [[1, 1, 2, 2]], [[0, 0, 0, 0]], [[2, 2, 2, 2]]])
    told = np.array([[[1, 0, 2, 2]], [[1, 1, 2, 0]], [[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    found = scored(told, segmentation, [True, True, True, False])
    # Class 1 of the first; 1 and 2 of the second; nothing of the third; the fourth is padding.
    np.testing.assert_allclose(found["dice"], [2 / 3 + 1 + 2 / 3, 3], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [2, 1])
    nothing = scored(told[2:3], segmentation[2:3], [True])
    np.testing.assert_array_equal(nothing["dice"], [0, 0])


def test_labels_that_are_no_class_and_other_examples_are_refused():
    labels = np.array([[[1, 3, 0, 0]]])
    with pytest.raises(ValueError, match=r"^segmentation: expected whole numbers from 0 to 2"):
        scored(labels, labels, [True])
    with pytest.raises(ValueError, match="example"):
        without_absent_classes(given_labels(), {"x": np.zeros(1)})


class Pixels(nn.Module):
    """Three classes by the intensity of a pixel."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(3, name="head")(jnp.concatenate([image, image**2], -1))


EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32),
    "segmentation": jax.ShapeDtypeStruct((1, 6, 6), jnp.int32),
}


def cases(seed, count):
    """Organs of 9 pixels in images of 36; every second patient has a tumor of 4 pixels in it.

    Organs without a tumor are darker: they come from another scanner.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, 6, 6), np.int32)
    labels[:, 1:4, 1:4] = 1
    labels[1::2, 2:4, 2:4] = 2
    bright = np.where(np.arange(count) % 2, 2.0, 1.0)[:, None, None] * labels
    image = (bright + 0.25 * rng.normal(size=labels.shape)).astype(np.float32)
    return {"image": image[..., None], "segmentation": labels, "volume": np.arange(count, dtype=np.int32)}


def divided(seed, count):
    examples = cases(seed, count)
    return partition_examples(examples, *case_type_partition(examples["segmentation"], examples["volume"]))


@functools.cache
def program(alone):
    """A step a round, 400 times, and the evaluation."""
    task = segmentation_task(Pixels(), EXAMPLE)
    make = fl.local_only if alone else wang
    own = make(task, optax.sgd(0.5))
    rounds = fl.run_rounds(fl.make_round(own, batch_size=8, epochs=1), 400)
    metrics = fl.make_evaluate(own, without_absent_classes(task, EXAMPLE).metrics)
    return task, own, rounds, metrics


def scores(alone, seed):
    """Dice and tumor Dice at both test sites, of the shared model or of each site's own."""
    train, test = divided(seed, 16), divided(100 + seed, 16)
    assert train.names == ("1", "1+2")
    task, algorithm, rounds, metrics = program(alone)
    placed = fl.place(train)
    state = fl.init_state(algorithm, task.init(jax.random.key(seed)), placed)
    state, _ = rounds(state, placed, jax.random.key(seed))
    found = []
    for site in (0, 1) if alone else (0,):
        sums = metrics(fl.client_variables(algorithm, state, site), fl.place(test))
        found.append([np.asarray(sums[k][0] / np.maximum(sums[k][1], 1)) for k in ("dice", "dice_2")])
    return found


@pytest.mark.slow
def test_sites_tell_together_what_neither_tells_alone():
    """Five seeds: who has never seen a tumor finds none; over both sites the shared model is the best."""
    for seed in range(5):
        (dice, tumor), (healthy, ill) = scores(False, seed)[0], scores(True, seed)
        assert healthy[1][1] == 0 and tumor[1] > 0.5
        assert dice.mean() > max(healthy[0].mean(), ill[0].mean())


@pytest.mark.slow
def test_it_is_fedavg_by_size_or_equally(fx):
    """Bit for bit: there is nothing else in the rounds."""
    data = fx.quad_data()
    for weighting in (fl.by_examples, fl.equal):
        ours, theirs = (make(fx.quad, optax.sgd(0.05), weighting=weighting) for make in (wang, fl.fedavg))
        assert ours.weighting is theirs.weighting is weighting and ours.reduce is theirs.reduce is None
    start = Variables({"w": jnp.array([0.3, -0.7])}, {})
    states = [
        fl.make_round(x, batch_size=1, epochs=1)(fl.init_state(x, start, data), data, jax.random.key(3))[0]
        for x in (ours, theirs)
    ]
    fx.assert_equal(*states)
