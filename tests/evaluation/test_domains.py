"""Rank correlations of sites, against scipy and by hand, and distances of sites as networks see them."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import stats

from experiments import leave_one_site_out
from experiments.pipeline import unseen_sites
from experiments.pipeline.site_distances import encoder_features, site_distance
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.evaluation import frechet_distance, rank_correlation
from fedrecon.tasks import classification_task

nan = float("nan")


def test_rank_correlations_are_spearmans_with_the_interval_of_bonett_and_wright():
    x, y = np.array([1.0, 4, 2, 2, 9, 7, nan]), np.array([3.0, 2, 5, 1, 8, 9, 4])
    found = rank_correlation(x, y)
    assert found.rho == pytest.approx(stats.spearmanr(x[:6], y[:6]).statistic)
    half = 1.959964 * np.sqrt((1 + found.rho**2 / 2) / 3)
    np.testing.assert_allclose(
        [found.low, found.high], np.tanh(np.arctanh(found.rho) + half * np.array([-1, 1]))
    )
    # Four sites of one order: rho is 1 whatever the figures, and of the reverse order -1.
    assert rank_correlation(np.arange(4), np.exp(np.arange(4))) == (1, 1, 1)
    assert rank_correlation(np.arange(4), -np.arange(4)) == (-1, -1, -1)
    few = rank_correlation([1, 2, 3], [1, 3, 2])
    assert few.rho == pytest.approx(0.5) and np.isnan(few.low)
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4])):
        assert np.isnan(rank_correlation(x, y)).all()
    with pytest.raises(ArgumentError):
        rank_correlation([1, 2], [1])


def test_intervals_cover_the_correlation_of_normal_figures():
    rng, r = np.random.default_rng(0), 0.6
    # Of normal pairs the correlation of ranks is 6 / pi asin(r / 2).
    rho = 6 / np.pi * np.arcsin(r / 2)
    draws = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], (400, 20))
    found = [rank_correlation(*draw.T) for draw in draws]
    covered = np.mean([low <= rho <= high for _, low, high in found])
    assert covered > 0.92


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.LayerNorm(name="first")(x)
        x = nn.LayerNorm(name="second")(nn.Dense(3, name="wide")(x))
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def images(shift, counts=(18, 5), seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(len(counts), max(counts), 2, 2, 1)).astype(np.float32) + shift
    valid = np.arange(max(counts))[None] < np.array(counts)[:, None]
    image = np.where(valid[..., None, None, None], image, np.nan)
    names = tuple("abc"[: len(counts)])
    return ClientData({"image": image, "label": np.zeros(valid.shape, np.int32)}, valid, names)


def test_distances_are_of_the_features_of_all_valid_examples():
    data = images(0.0)
    task = classification_task(Net(), {k: v[0, :1] for k, v in data.examples.items()})
    model = task.init(jax.random.key(0))
    found = encoder_features(task, model, data)
    rows = data.examples["image"][np.asarray(data.valid)]
    flat = rows.reshape(len(rows), 4, 1)
    normal = (flat - flat.mean(-1, keepdims=True)) / np.sqrt(flat.var(-1, keepdims=True) + 1e-6)
    dense = jax.tree.map(np.asarray, model.params["wide"])
    np.testing.assert_allclose(found, (normal @ dense["kernel"] + dense["bias"]).mean(1), atol=1e-5)
    assert found.shape == (23, 3)
    wide = images(0.0, seed=1)
    far = encoder_features(task, model, wide)
    assert site_distance(task, model, data, wide) == pytest.approx(frechet_distance(found, far), abs=1e-6)
    assert site_distance(task, model, data, data) == pytest.approx(0, abs=1e-5)
    assert np.isnan(site_distance(task, model, images(0.0, (1,)), data))

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            return nn.Dense(2, name="head")(x.reshape(len(x), -1))

    plain = classification_task(Plain(), {k: v[0, :1] for k, v in data.examples.items()})
    assert np.isnan(site_distance(plain, plain.init(jax.random.key(0)), data, data))


def test_documents_have_the_correlation_of_distance_and_drop():
    def fold(score, distance):
        every = dict.fromkeys(unseen_sites.METHODS, score)
        inside = dict.fromkeys(unseen_sites.METHODS, 0.9)
        return unseen_sites.Fold(every, inside, {}, distance=distance)

    found = {
        "a": fold(0.8, 1.0),
        "b": fold(0.5, 4.0),
        "c": fold(0.7, 3.0),
        "d": fold(0.6, 2.0),
        "e": fold(0.1, nan),
    }
    document = unseen_sites.figures("accuracy", {0: found})
    assert document["sites"]["b"]["distance"] == 4 and document["sites"]["e"]["distance"] is None
    # Drops of .1, .4, .2 and .3: one of the six pairs is the other way round.
    assert document["distance"]["rho"] == pytest.approx(0.8)
    assert document["distance"]["low"] < 0 < document["distance"]["high"] < 1
    assert "with the drop: 0.80 (95 % -0." in leave_one_site_out.table(document)
    drawn = leave_one_site_out.distances(document, "classification, simulated sites")
    assert "simulated" in drawn.axes[0].get_title() and len(drawn.axes[0].texts) == 4
