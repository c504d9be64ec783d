"""Further metrics of classifications, against slow references."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedrecon.evaluation import kappa
from fedrecon.tasks import class_scores_task, classification_task, findings_task, ordered_task
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(4)
LABEL, VALID = RNG.integers(0, 4, 40), np.arange(40) < 33
# With ties.
P = np.round(RNG.dirichlet(np.ones(4), 40), 1).astype(np.float32)
BATCH = {"p": jnp.asarray(P), "label": jnp.asarray(LABEL), "valid": jnp.asarray(VALID)}
TASK = Task(
    init=lambda key: Variables({}, {}),
    loss=lambda params, stats, batch, key: (0.0, (stats, {})),
    metrics=lambda params, stats, batch: {"plain": (jnp.float32(1), jnp.float32(2))},
    predict=lambda params, stats, batch: batch["p"],
    normalization=Variables({}, {}),
)


def test_scores_of_classes_are_those_of_pairs_and_counts():
    found = class_scores_task(TASK, {}).metrics({}, {}, BATCH)
    assert found["plain"] == (1, 2)
    for c in range(4):
        own = LABEL == c  # noqa: SIM300
        positive, negative = P[VALID & own, c], P[VALID & ~own, c]
        expected = stats.mannwhitneyu(positive, negative).statistic
        np.testing.assert_allclose(found[f"auc_class{c}"], (expected, positive.size * negative.size))
        said = P.argmax(1) == c
        true = (own & said & VALID).sum()
        wrong = ((own ^ said) & VALID).sum()
        np.testing.assert_allclose(found[f"f1_class{c}"], (2 * true, 2 * true + wrong))
    two = class_scores_task(TASK, {}).metrics({}, {}, BATCH | {"p": BATCH["p"][:, :2]})
    assert sorted(two) == ["auc_class1", "f1_class1", "plain"]
    broken = class_scores_task(TASK, {}).metrics({}, {}, BATCH | {"p": BATCH["p"].at[0].set(jnp.nan)})
    assert np.isnan(broken["f1_class0"][0])


class Linear(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(2, use_bias=False)(image.reshape(len(image), -1))


@pytest.mark.parametrize(("make", "shape"), [(classification_task, (3,)), (findings_task, (3, 2))])
def test_losses_are_multiplied_by_weights(make, shape):
    image = jnp.asarray(RNG.normal(size=(3, 2, 2, 1)), jnp.float32)
    batch = {"image": image, "label": jnp.ones(shape, jnp.int32), "valid": jnp.arange(3) < 2}
    task = make(Linear(), batch)
    weight = np.asarray(RNG.random(shape), np.float32)
    params = {"Dense_0": {"kernel": jnp.asarray([[0.3, -0.2]] * 4)}}
    logits = np.asarray(image).reshape(3, -1) @ np.full((4, 2), [0.3, -0.2])
    if len(shape) == 1:
        each = weight * (np.log(np.exp(logits).sum(1)) - logits[:, 1])
    else:
        each = (weight * np.log1p(np.exp(-logits))).mean(1)
    found = task.loss(params, {}, batch | {"weight": jnp.asarray(weight)}, jax.random.key(0))[0]
    np.testing.assert_allclose(found, each[:2].mean(), rtol=1e-5)
    assert task.loss(params, {}, batch, jax.random.key(0))[0] != found


def test_kappa_is_that_of_the_definition():
    """One client: the ratio is kappa; two: sums add, and a constant model has none."""
    total, count = ordered_task(TASK, {}).metrics({}, {}, BATCH)["kappa"]
    np.testing.assert_allclose(total / count, kappa(P.argmax(1)[VALID], LABEL[VALID], "linear"), rtol=1e-5)
    constant = ordered_task(TASK, {}).metrics({}, {}, BATCH | {"p": jnp.ones((40, 4)) / 4})["kappa"]
    assert abs(constant[0] / constant[1]) < 1e-6
    perfect = ordered_task(TASK, {}).metrics({}, {}, BATCH | {"p": jax.nn.one_hot(LABEL, 4)})["kappa"]
    assert perfect[0] == perfect[1] > 0
    same = {"p": jnp.eye(4)[jnp.zeros(40, int)], "label": jnp.zeros(40, int), "valid": jnp.asarray(VALID)}
    np.testing.assert_array_equal(ordered_task(TASK, {}).metrics({}, {}, same)["kappa"], [0, 0])
    broken = ordered_task(TASK, {}).metrics({}, {}, BATCH | {"p": jnp.asarray(P).at[0].set(jnp.nan)})
    assert np.isnan(broken["kappa"][0])
