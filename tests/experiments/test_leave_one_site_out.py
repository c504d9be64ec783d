"""Folds read nothing of the site that they leave out, and figures are differences of what was scored."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from absl import flags

from experiments import leave_one_site_out
from experiments.pipeline import unseen_sites
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.patients_of_runs import Patients
from experiments.pipeline.programs import flag_groups
from experiments.pipeline.unseen_sites import Fold
from fedrecon.data import ClientData
from fedrecon.tasks import classification_task
from fedrecon.training import Budget, FederationSettings, FlagError, Stage, adaptation
from fedrecon.weights import read_weights

SIZES = {"clients": 3, "examples_per_client": 16, "image_size": 8, "rounds": 2, "channels": 4, "pools": 1}


def settings(**options):
    return resolve({"preset": "smoke", **SIZES, **options})


def test_figures_are_drops_and_the_worst_site():
    found = {
        "a": Fold(
            {"federated": 0.7, "local": 0.5, "pooled": 0.8}, dict.fromkeys(unseen_sites.METHODS, 0.9), {}
        ),
        "b": Fold(
            {"federated": 0.9, "local": 0.4, "pooled": 0.8}, dict.fromkeys(unseen_sites.METHODS, 0.8), {}
        ),
    }
    document = unseen_sites.figures("accuracy", {0: found})
    assert document["worst"] == {"site": "a", "external": 0.7}
    assert document["sites"]["b"]["drop"]["federated"] == pytest.approx(-0.1)
    # Two sites: t of one degree of freedom, 12.706, times the standard error .15.
    drop = document["drop"]["federated"]
    assert drop["mean"] == pytest.approx(0.05) and drop["high"] - drop["mean"] == pytest.approx(
        1.906, rel=1e-3
    )
    # Of a loss, lower is better.
    document = unseen_sites.figures("loss", {0: found})
    assert document["worst"]["site"] == "b" and document["sites"]["b"]["drop"]["federated"] == pytest.approx(
        0.1
    )
    assert "Worst site left out, federated: a" in leave_one_site_out.table(
        unseen_sites.figures("accuracy", {0: found})
    )
    assert len(leave_one_site_out.figure(unseen_sites.figures("accuracy", {0: found})).axes) == 1


def test_figures_of_patients_are_means_over_seeds_with_intervals():
    """Dice of a site's patients and their drop; areas under the curve where a site has both classes."""

    def fold(away, home):
        made = [Patients(np.asarray(x), np.asarray(x), np.ones(len(x))) for x in (away, home)]
        every = dict.fromkeys(unseen_sites.METHODS, 0.5)
        return Fold(every, every, {}, {"pooled": made[0]}, {"pooled": {"b": made[1]}})

    seeds = {0: {"a": fold([0.4, 0.6], [0.8])}, 1: {"a": fold([0.3, 0.5], [0.8])}}
    row = unseen_sites.patient_figures("segmentation", seeds)["a"]
    assert row["patients"] == 2 and row["pooled"]["external"]["mean"] == pytest.approx(0.45)
    assert row["pooled"]["inside"] == dict.fromkeys(("mean", "low", "high"), pytest.approx(0.8))
    drop = row["pooled"]["drop"]
    assert drop["mean"] == pytest.approx(0.35) and 0.2 <= drop["low"] < 0.3 < 0.4 < drop["high"] <= 0.5
    document = unseen_sites.figures("dice", seeds, "segmentation")
    assert document["seeds"] == [0, 1] and document["sites"]["a"]["external"]["pooled"] == 0.5
    text = leave_one_site_out.table(document)
    assert "a (2)" in text and "0.450 (0.3" in text
    # Both orders of two patients: areas of 1 and 0.
    said = Patients(np.array([0.2, 0.9]), np.array([0.2, 0.9]), np.array([0.0, 1.0]))
    every = dict.fromkeys(unseen_sites.METHODS, 0.5)
    found = {
        0: {
            "a": Fold(
                every, every, {}, {"pooled": said}, {"pooled": {"b": said._replace(second=1 - said.second)}}
            )
        }
    }
    row = unseen_sites.patient_figures("classification", found)["a"]["pooled"]
    assert (row["external"]["mean"], row["inside"]["mean"], row["drop"]["mean"]) == (1, 0, -1)


@pytest.mark.slow
def test_all_patients_of_a_site_are_told_apart():
    data = load_data(
        resolve({"preset": "smoke", "task": "segmentation", "clients": 3, "patients_per_site": 4})
    )
    site = data.train.names[1]
    whole = unseen_sites.all_of_site(data, site)
    parts = [part.as_arrays()[site] for part in (data.train, data.validation, data.test) if part is not None]
    assert whole.names == (site,) and whole.valid.sum() == sum(len(part["image"]) for part in parts)
    numbers = [len(np.unique(part["volume"])) for part in parts]
    assert len(np.unique(whole.examples["volume"][0])) == sum(numbers) and len(numbers) > 1


def test_other_sites_are_what_is_left():
    data = load_data(settings())
    name = data.train.names[1]
    rest = unseen_sites.without_site(data, name)
    assert rest.train.names == rest.test.names == (data.train.names[0], data.train.names[2])
    assert rest.unseen.names == (name,)
    np.testing.assert_array_equal(rest.counts, data.counts[[0, 2]])
    planned = unseen_sites.plan(settings())
    assert [s.federation.algorithm for s in planned.values()] == ["fedavg", "local_only", "centralized"]
    with pytest.raises(FlagError, match="expected one that exchanges something, found local_only"):
        unseen_sites.plan(settings(federation=FederationSettings("local_only")))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x.reshape(len(x), -1))
        return nn.Dense(2, name="head")(x)


@pytest.mark.slow
def test_adaptation_by_images_and_by_a_few_patients():
    rng = np.random.default_rng(0)
    image = (3 + 2 * rng.normal(size=(1, 12, 2, 2, 1))).astype(np.float32)
    label = (image.mean((2, 3, 4)) > 3).astype(np.int32)
    volume = np.repeat(np.arange(6, dtype=np.int32), 2)[None]
    own = ClientData({"image": image, "label": label, "volume": volume}, np.ones((1, 12), bool), ("site",))
    task = classification_task(Net(), {k: v[0, :1] for k, v in own.examples.items()})
    model = task.init(jax.random.key(0))
    stage = Stage("fedavg", task, model, own, jax.random.key(1), jax.random.key(2))
    adapted = adaptation.adapt_statistics(stage, model, own)
    pixels = image.reshape(12, 4)
    np.testing.assert_allclose(adapted.stats["norm"]["mean"], pixels.mean(0), rtol=0.4)
    again = adaptation.adapt_statistics(
        stage, model, ClientData({**own.examples, "label": 1 - label}, own.valid, own.names)
    )
    np.testing.assert_array_equal(again.stats["norm"]["mean"], adapted.stats["norm"]["mean"])
    assert adapted.params is model.params
    few = adaptation.first_patients(own, 2)
    np.testing.assert_array_equal(few.valid[0], np.arange(12) < 4)
    # Nothing but the head changes, and only the patients with labels count.
    spoiled = ClientData(
        {**few.examples, "image": np.where(few.valid[..., None, None, None], image, np.nan)},
        few.valid,
        few.names,
    )
    budget = Budget(1, 1, 4, 0.1)
    after = adaptation.tuned(stage, FederationSettings(), budget, model, spoiled, 2, "head")
    np.testing.assert_array_equal(after.params["norm"]["scale"], model.params["norm"]["scale"])
    assert np.isfinite(after.params["head"]["kernel"]).all()
    assert np.abs(after.params["head"]["kernel"] - model.params["head"]["kernel"]).max() > 1e-3
    scores = adaptation.site_metrics(stage, model, own)
    assert 0 <= scores["accuracy"] <= 1


class Sealed:
    """Test data of a site that nobody may look at before trainings have come to their end."""

    def __init__(self, data, folder):
        self.data, self.folder = data, folder

    def __getattr__(self, name):
        if name != "names" and not list(self.folder.glob("models/*.npz")):
            raise AssertionError("read before the training had come to its end")
        return getattr(self.data, name)


@pytest.mark.slow
def test_nothing_of_the_site_is_read_before_its_fold_has_trained(tmp_path, monkeypatch):
    base, site = settings(rounds=1), "client1"
    data = load_data(base)
    planned = {"federated": unseen_sites.plan(base)["federated"]}
    plain = unseen_sites.without_site

    def sealed(data, name):
        rest = plain(data, name)
        return rest._replace(unseen=Sealed(rest.unseen, tmp_path / "a" / "folds" / name / "federated"))

    monkeypatch.setattr(unseen_sites, "without_site", sealed)
    for found, metric, fold in unseen_sites.folds(planned, data, tmp_path / "a", [], 1, 1):
        assert metric == "accuracy" and np.isfinite(fold.external["federated"]), found
    # Its training data may be anything.
    index = data.train.names.index(site)
    examples = {k: np.array(v) for k, v in data.train.examples.items()}
    examples["image"][index] = np.nan
    monkeypatch.setattr(unseen_sites, "without_site", plain)
    other = data._replace(train=dataclasses.replace(data.train, examples=examples))
    fold = next(f for s, _, f in unseen_sites.folds(planned, other, tmp_path / "b", [], 1, 1) if s == site)
    assert np.isfinite(fold.external["federated"])
    file = f"folds/{site}/federated/models/fedavg.npz"
    models = [read_weights(tmp_path / which / file)[0] for which in "ab"]
    for a, b in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
def test_sites_of_one_distribution_have_no_drop(tmp_path):
    base = settings(clients=4, examples_per_client=80, classes=2, rounds=6)
    planned = {"federated": unseen_sites.plan(base)["federated"]}
    found = {site: fold for site, _, fold in unseen_sites.folds(planned, load_data(base), tmp_path, [], 1, 1)}
    for fold in found.values():
        fold.external.update(local=0.0, pooled=0.0)
        fold.inside.update(local=0.0, pooled=0.0)
    drop = unseen_sites.figures("accuracy", {0: found})["drop"]["federated"]
    assert drop["low"] <= 0 <= drop["high"]


def test_help_knows_the_flags_it_shows_first():
    values = flags.FlagValues()
    leave_one_site_out.define_flags(values)
    groups = flag_groups(TrainSettings, values)
    assert set(leave_one_site_out.FIRST) <= {flag.name for members in groups.values() for flag in members}
