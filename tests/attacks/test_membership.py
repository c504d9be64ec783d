"""Membership inference, against direct computation and on trainings whose answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from fedrecon import attacks
from fedrecon.errors import ArgumentError
from fedrecon.tasks import classification_task


def test_figures_are_those_of_the_roc_curve():
    rng = np.random.default_rng(0)
    members = rng.random(3000) < 0.4
    scores = rng.normal(size=3000) + 1.5 * members
    found = attacks.membership_figures(scores, members)
    assert found.auc == pytest.approx(roc_auc_score(members, scores))
    assert found.auc_interval[0] < stats.norm.cdf(1.5 / np.sqrt(2)) < found.auc_interval[1]
    fpr, tpr, _ = roc_curve(members, scores)
    assert found.tpr_1 == pytest.approx(tpr[fpr <= 0.01].max())
    assert found.tpr_0_1 == pytest.approx(tpr[fpr <= 0.001].max())
    assert found.tpr_1_interval[0] < found.tpr_1 < found.tpr_1_interval[1]
    # Equal scores are no information, and cross no threshold.
    same = attacks.membership_figures(np.ones(10), np.arange(10) < 5)
    assert same.auc == 0.5 and same.tpr_1 == 0
    with pytest.raises(ArgumentError, match="members: expected"):
        attacks.membership_figures(scores, np.ones(3000, bool))


def test_likelihood_ratios_are_those_of_normal_densities():
    rng = np.random.default_rng(1)
    halves = attacks.shadow_halves(8, 5, seed=3)
    assert (halves.sum(0) == 4).all() and len(np.unique(halves, axis=1).T) > 1
    shadows, scores = rng.normal(size=(8, 5)), rng.normal(size=5)
    groups = [[shadows[halves[:, i] == inside, i] for i in range(5)] for inside in (False, True)]
    spread = [np.sqrt(np.mean([(x - np.median(x)) ** 2 for x in group])) for group in groups]
    out, inside = (
        [stats.norm(np.median(x), s).logpdf(v) for x, v in zip(group, scores, strict=True)]
        for group, s in zip(groups, spread, strict=True)
    )
    np.testing.assert_allclose(attacks.lira(scores, shadows, halves), np.subtract(inside, out), rtol=1e-9)
    offline = attacks.lira(scores, shadows, halves, online=False)
    expected = [stats.norm(np.median(x), spread[0]).logcdf(v) for x, v in zip(groups[0], scores, strict=True)]
    np.testing.assert_allclose(offline, expected, rtol=1e-9)
    with pytest.raises(ArgumentError, match="members: expected"):
        attacks.lira(scores, shadows, np.ones((8, 5), bool))


def test_logits_of_the_true_class_against_the_others():
    p = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    expected = [np.log(0.7 / 0.3), np.log(0.25 / 0.75)]
    np.testing.assert_allclose(attacks.logit_scores(p, [0, 1]), expected)
    np.testing.assert_allclose(attacks.mean_over_rounds([[1, 2], [3, 6]]), [2, 4])


class Wide(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(128)(x.reshape(len(x), -1))))


EXAMPLES, SHADOWS = 160, 16


def overfit(noise=0.0, key=0):
    """Scores (models, examples) of networks that learn random halves of random labels, and the halves."""
    rng = np.random.default_rng(2)
    batch = {
        "image": jnp.asarray(rng.normal(size=(EXAMPLES, 4, 5, 1)), jnp.float32),
        "label": jnp.asarray(rng.integers(2, size=EXAMPLES)),
    }
    task = classification_task(Wide(), batch)
    start = task.init(jax.random.key(0))

    @jax.jit
    def train(half, key):
        def one(params, image, label):
            alone = {"image": image[None], "label": label[None], "valid": jnp.ones(1, bool)}
            return task.loss(params, {}, alone, key)[0]

        def step(params, key):
            each = jax.vmap(jax.grad(one), (None, 0, 0))(params, batch["image"], batch["label"])
            if noise:
                sizes = jax.vmap(optax.tree.norm)(each)
                share = half * jnp.minimum(1, 1 / sizes)
                rough = optax.tree.random_like(key, params, jax.random.normal)
                total = jax.tree.map(
                    lambda g, n: jnp.tensordot(share, g, 1) + noise * n.astype(g.dtype), each, rough
                )
            else:
                total = jax.tree.map(lambda g: jnp.tensordot(half * 1.0, g, 1), each)
            return jax.tree.map(lambda p, g: p - 0.3 * g / half.sum(), params, total), None

        params, _ = jax.lax.scan(step, start.params, jax.random.split(key, 100))
        return task.predict(params, {}, batch)

    halves = attacks.shadow_halves(SHADOWS + 2, EXAMPLES, seed=key)
    scores = [
        attacks.logit_scores(train(half, jax.random.key(i)), batch["label"]) for i, half in enumerate(halves)
    ]
    return np.stack(scores), halves


@pytest.mark.slow
def test_overfit_networks_are_seen_through_and_private_ones_are_not():
    scores, halves = overfit()
    found = attacks.lira(scores[-1], scores[:-2], halves[:-2])
    online = attacks.membership_figures(found, halves[-1])
    assert online.auc > 0.9, online
    assert attacks.membership_figures(scores[-1], halves[-1]).auc > 0.7
    offline = attacks.lira(scores[-1], scores[:-2], halves[:-2], online=False)
    assert attacks.membership_figures(offline, halves[-1]).auc > 0.8
    shuffled = np.random.default_rng(0).permutation(halves[-1])
    assert abs(attacks.membership_figures(found, shuffled).auc - 0.5) < 0.12
    # 100 releases with noise of 40 clipping norms cost an epsilon below 1 at delta 1e-5.
    scores, halves = overfit(noise=40.0)
    private = attacks.membership_figures(attacks.lira(scores[-1], scores[:-2], halves[:-2]), halves[-1])
    assert private.auc <= 0.6, private
