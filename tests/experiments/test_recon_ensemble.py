"""Ensembles of networks: which runs vote together, and what their deviation tells."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.pipeline.federated_run import training_key
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.recon_ensemble import judge, mean_and_deviation, open_members, table
from fedrecon.data import ClientData
from fedrecon.learned import Architecture, CheckedNetwork, Signs, save_network
from fedrecon.training import flat
from fedrecon.types import Variables

OWN = TrainSettings(task="reconstruction", cohort="simulated_mri", network="modl")
MEASURED = dataclasses.replace(OWN, cohort="heads")


@pytest.fixture
def run(tmp_path):
    """Makes a finished run with a network."""

    def make(name, settings, program="train_federated"):
        folder = tmp_path / name
        folder.mkdir()
        config = flat(settings) | {"program": program}
        (folder / "config.json").write_text(json.dumps({"config": config, "environment": {}}))
        (folder / "results.json").write_text("{}")
        weights = Variables({"w": np.full(2, settings.member, np.float32)}, {})
        architecture = Architecture("modl", 2, 2, 1)
        save_network(folder / "network.npz", CheckedNetwork(architecture, weights, Signs(1, 1, 1), "a test"))
        return str(folder)

    return make


def test_members_are_runs_that_differ_in_nothing_else(run, tmp_path):
    folders = [run(f"{i}", dataclasses.replace(OWN, member=i)) for i in (1, 2)]
    folders.append(run("seed", dataclasses.replace(OWN, seed=5)))
    found = open_members(folders, tmp_path, OWN)
    assert [float(n.variables.params["w"][0]) for n in found] == [1, 2, 0]


REFUSED = {
    "network": (OWN, dict(network="varnet"), "alone, found .* with --network=varnet instead of modl$"),
    "cohort": (OWN, dict(patients_per_site=9), "with --patients_per_site=9 instead of"),
    "twice": (OWN, {}, "--ensemble: expected another --member than that of "),
    "split": (
        MEASURED,
        dict(seed=1),
        "--ensemble: expected --seed=0 and another --member, .*found .*--seed=1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_runs_are_refused(case, run, tmp_path):
    own, changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        open_members([run("other", dataclasses.replace(own, **changes))], tmp_path, own)
    with pytest.raises(ValueError, match=r"^--ensemble: expected the directory of a run"):
        open_members([str(tmp_path / "none")], tmp_path, own)


def test_members_begin_elsewhere_and_the_first_where_the_seed_does():
    keys = [jax.random.key_data(training_key(3, member)).tolist() for member in range(3)]
    assert keys[0] == jax.random.key_data(jax.random.key(3)).tolist() and len({*map(tuple, keys)}) == 3


def test_normal_errors_are_covered_and_calibration_mends_a_factor():
    """Backgrounds and padding, where errors are huge, do not count."""
    rng = np.random.default_rng(0)

    def voted(count, factor):
        target = np.ones((2, count, 20, 20), np.float32)
        target[..., :5] = 0
        valid = np.ones((2, count), bool)
        valid[:, -1] = False
        deviation = rng.uniform(0.05, 0.2, target.shape).astype(np.float32)
        mean = target + deviation * rng.normal(size=target.shape) * factor
        mean[..., :5] = mean[:, -1] = 7
        part = ClientData({"target": target}, valid, ["a", "b"])
        sites = {name: (part, i) for i, name in enumerate("ab")}
        return dict(zip("ab", mean, strict=True)), dict(zip("ab", deviation, strict=True)), sites

    for factor, normal in ((1, 0.9), (3, 0.416)):
        found = judge(voted(20, factor), voted(20, factor), 0.8)
        for of in found["sites"].values():
            assert of["spread"]["pixels"] == 19 * 300 and abs(of["spread"]["ratio"] - factor) < 0.05 * factor
            assert abs(of["normal"]["coverage"] - normal) < 0.02
            assert abs(of["calibrated"]["coverage"] - 0.8) < 0.03
        assert "80 % calibrated" in table("ensemble", found) and json.dumps(found)
    alone = judge(None, voted(4, 1), 0.8)
    assert np.isnan(alone["quantile"]) and "nan" in table("ensemble", alone)


def test_the_deviation_is_that_of_a_sample():
    mean, deviation = mean_and_deviation({"a": np.array([[1.0, 2], [3, 2]])})
    np.testing.assert_allclose(mean["a"], [2, 2])
    np.testing.assert_allclose(deviation["a"], [2**0.5, 0])
