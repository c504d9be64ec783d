"""Reconstruction networks by name: training, resuming, and scores of patients with intervals."""

import jax
import numpy as np
import pytest

from experiments.evaluate_recon import differences, evaluate, intervals
from experiments.export import read_run
from experiments.pipeline.federated_run import run
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.recon_report import table
from fedrecon.data import ClientData
from fedrecon.learned import load_network
from fedrecon.runtime import Workdir
from fedrecon.training.options import flat

TINY = TrainSettings(
    task="reconstruction",
    network="modl",
    loss="multi_operator",
    rounds=1,
    patients_per_site=4,
    image_size=16,
    channels=2,
    pools=1,
    cascades=2,
)


@pytest.mark.slow
def test_networks_are_trained_and_evaluated(tmp_path):
    with Workdir(tmp_path, flat(TINY)) as workdir:
        run(TINY, workdir)
    assert read_run(tmp_path).settings == TINY
    network = load_network(tmp_path)
    moved = network._replace(variables=jax.tree.map(lambda x: 1.2 * x, network.variables))
    found, drawn, _ = evaluate(TINY, network, 0.8, (1.0,), members=[moved])
    assert set(found["methods"]) == {"zero-filled", "CG-SENSE (L2)", "TV", "network", "ensemble"}
    judged = found["deviations"]["ensemble"]
    assert judged["count"] == 2 and "ensemble, deviation" in table(found)
    assert all(of["spread"]["ratio"] > 0 for of in judged["sites"].values())
    assert "TV" in table(found) and len(drawn.axes) > 12
    sites = found["intervals"]["sites"]
    assert all(0 <= of["common"]["coverage"] <= 1 and of["common"]["pixels"] > 0 for of in sites.values())
    assert set(found["lesions"]["1"]) == set(found["methods"]) and "contrast of 1 px" in table(found)
    assert all(0 <= of["null"] <= of["weak"] <= 1 for of in found["undetermined"]["sites"].values())
    of = found["methods"]["network"]["psnr"]
    assert of["low"] <= of["mean"] <= of["high"] and of["patients"] >= len(sites)


def data(count):
    """Two sites of that many images of ones, the last one padding."""
    valid = np.ones((2, count), bool)
    valid[:, -1] = False
    target = np.ones((2, count, 6, 6), np.float32)
    return ClientData({"target": target}, valid, ["a", "b"])


def test_intervals_cover_what_calibration_says():
    """Errors of one site are ten times those of the other: the common quantile is that of all pixels."""
    rng = np.random.default_rng(0)

    def images(count):
        noise = rng.normal(size=(2, count, 6, 6)).astype(np.float32)
        part = data(count)
        noise *= np.array([0.1, 0.01], np.float32)[:, None, None, None]
        found = dict(zip("ab", 1 + noise, strict=True))
        return found, dict(found), {name: (part, i) for i, name in enumerate("ab")}

    document, widths = intervals(images(40), images(60), 0.9)
    covered = {site: of["common"]["coverage"] for site, of in document["sites"].items()}
    own = {site: of["own"]["coverage"] for site, of in document["sites"].items()}
    assert covered["b"] == 1 and covered["a"] < 0.87
    assert abs(np.mean(list(covered.values())) - 0.9) < 0.03
    assert all(abs(value - 0.9) < 0.03 for value in own.values())
    assert document["sites"]["a"]["common"]["pixels"] == 59 * 36 and widths["a"].shape == (60, 6, 6)


def test_differences_are_of_the_same_patients():
    scores = {
        "zero-filled": {"a": {m: np.array([1.0, 2.0, np.nan]) for m in ("psnr", "ssim", "nmse")}},
        "network": {"a": {m: np.array([2.0, 3.0, 9.0]) for m in ("psnr", "ssim", "nmse")}},
    }
    found = differences(scores)["zero-filled"]["psnr"]
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0, "patients": 2}
