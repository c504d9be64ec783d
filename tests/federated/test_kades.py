"""Kades: what is agreed on before the rounds, and the rate of one training in several rounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.messages import Context
from fedrecon.federated.methods.agreed_intensities import FINGERPRINT, agree, clipped_task
from fedrecon.federated.methods.kades import kades
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(4)
COUNTS = np.array([3, 0, 1])
VALID = np.arange(3)[None] < COUNTS[:, None]
LABELS = RNG.integers(0, 2, (3, 3, 4, 4)).astype(np.int32)
IMAGES = (RNG.normal(size=(3, 3, 4, 4, 2)) * (1 + np.arange(3)[:, None, None, None, None])).astype(np.float32)
IMAGES[~VALID] = 1e6
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


def seen(params, stats, batch):
    return jax.nn.softmax(batch["image"] * params["w"], -1)


TASK = Task(
    init=lambda key: Variables({"w": jax.random.normal(key, (2,))}, {}),
    loss=lambda params, stats, batch, key: (seen(params, stats, batch).sum(), (stats, {})),
    metrics=lambda params, stats, batch: {"loss": (batch["image"].sum(), jnp.float32(1))},
    predict=seen,
    normalization=Variables({"w": False}, {}),
)


class Sites(NamedTuple):
    """As client data."""

    examples: dict
    valid: np.ndarray


def agreed(labels=LABELS, fingerprint="estimate", **options):
    sites = Sites({"image": IMAGES, "segmentation": labels}, VALID)
    task = clipped_task(TASK, {name: x[0] for name, x in sites.examples.items()}, fingerprint=fingerprint)
    variables = task.init(jax.random.key(0))
    return task, agree(task, variables, sites, jax.random.key(1), fingerprint=fingerprint, **options)


@pytest.mark.parametrize("mode", ["estimate", "accurate"])
def test_all_sites_clip_and_scale_by_the_foreground_of_all(mode):
    task, found = agreed(fingerprint=mode)
    pixels = [IMAGES[i][VALID[i]][LABELS[i][VALID[i]] > 0] for i in (0, 2)]
    everything = np.concatenate(pixels).astype(np.float64)
    told = found.variables.stats[FINGERPRINT]
    np.testing.assert_allclose(told["mean"], everything.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["deviation"], everything.std(0), rtol=1e-6)

    def limits(share):
        if mode == "accurate":
            return np.quantile(everything, share, axis=0, method="inverted_cdf")
        own = [np.quantile(x, share, axis=0, method="inverted_cdf") for x in pixels]
        return np.average(own, axis=0, weights=[len(x) for x in pixels])

    low, high = (limits(share).astype(np.float32) for share in (0.005, 0.995))
    np.testing.assert_allclose(told["low"], low, rtol=1e-6)
    np.testing.assert_allclose(told["high"], high, rtol=1e-6)
    assert found.frozen == (FINGERPRINT,)
    # Number, mean, deviation, three percentiles and two extremes; two limits, mean and deviation of each
    # channel; 32 or 33 times six questions and their answers.
    asked = (found.bytes_up[0] - 4 * (1 + 7 * 2)) / (4 * 3 * 2)
    assert asked == 0 if mode == "estimate" else asked in (32, 33)
    np.testing.assert_array_equal(found.bytes_up - found.bytes_down, [28, 0, 28])
    batch = {"image": jnp.asarray(IMAGES[0]), "segmentation": LABELS[0], "valid": VALID[0]}
    image = (np.clip(IMAGES[0], low, high) - told["mean"]) / told["deviation"]
    expected = seen(found.variables.params, {}, {"image": jnp.asarray(image)})
    np.testing.assert_allclose(task.predict(*found.variables, batch), expected, rtol=2e-5)


def test_everybody_starts_from_the_mean_of_what_sites_draw():
    _, found = agreed(fingerprint="none", average_initial=True)
    draws = [TASK.init(jax.random.fold_in(jax.random.key(1), i)).params["w"] for i in (0, 2)]
    np.testing.assert_allclose(found.variables.params["w"], (draws[0] + draws[1]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found.bytes_up, [8, 0, 8])
    np.testing.assert_array_equal(found.bytes_down, [8, 0, 8])
    # One model of all, which every client is sent: there are no others to begin with.
    assert found.own is None
    task, nothing = agreed(fingerprint="none")
    assert task is TASK and not nothing.bytes_up.any()


def test_labels_that_do_not_agree_and_other_mistakes_are_refused():
    other = LABELS.copy()
    other[2, 0, 0, 0] = 2
    with pytest.raises(ValueError, match=r"^clients: expected labels below 2, .* found 2 at client 2$"):
        agreed(other)
    with pytest.raises(ValueError, match=r"^clients: expected some foreground at one of them, found none$"):
        agreed(0 * LABELS)
    with pytest.raises(ValueError, match=r"^fingerprint: expected one of estimate, accurate, none"):
        clipped_task(TASK, {}, fingerprint="guess")
    with pytest.raises(ValueError, match=r"^example: expected one with 'image' and 'segmentation', found x$"):
        clipped_task(TASK, {"x": np.zeros(1)})
    with pytest.raises(ValueError, match=r"^power: expected a number of 0 or more, found -1$"):
        kades(TASK, optax.sgd(0.1), rounds=2, power=-1)


def test_the_rate_at_the_end_of_a_round_is_that_of_one_training():
    whole, parts = (kades(TASK, optax.sgd(0.1), rounds=n).schedule for n in (1, 5))
    for t in range(5):
        context = Context(jnp.int32(t), jax.random.key(0), steps=jnp.int32(7))
        work = parts(context)
        once = whole(context._replace(round=jnp.int32(0)))
        for part in (0.0, 0.3, 1.0):
            np.testing.assert_allclose(work.rate(part), once.rate((t + part) / 5), rtol=1e-5, atol=1e-6)
        assert work.steps == 7
    np.testing.assert_allclose(once.rate(jnp.array([0.0, 0.5])), [1, 0.5**0.9], rtol=1e-6)


@pytest.mark.slow
def test_rounds_of_one_client_are_one_training(fx):
    """Four rounds of a pass and one of four end at the same model."""
    data = jax.tree.map(lambda x: x[1:2], fx.quad_data())
    found = []
    for rounds, epochs in ((4, 1), (1, 4)):
        own = kades(fx.quad, optax.sgd(0.05), rounds=rounds)
        states, _ = fx.trajectory(fx.quad, own, rounds, batch_size=1, epochs=epochs)(data)
        found.append(np.asarray(states.variables.params["w"][-1]))
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.slow
def test_of_a_constant_rate_it_is_fedavg_bit_for_bit(fx):
    own = kades(fx.regression, optax.sgd(0.05), rounds=2, power=0.0)
    data = fx.regression_data([5, 3, 1, 4])
    ours, theirs = (
        fx.trajectory(fx.regression, x, 2, batch_size=2, epochs=2)(data)[0]
        for x in (own, fl.fedavg(fx.regression, optax.sgd(0.05)))
    )
    fx.assert_equal(ours.variables, theirs.variables)
