"""Networks and losses over seeds: one directory a training, means over seeds, and what is extended."""

import json

import numpy as np
import pytest

from experiments.compare_recon import compare, plan, report
from experiments.evaluate_recon import evaluate
from fedrecon.learned import load_network

SMALL = {"rounds": 1, "patients_per_site": 4, "image_size": 16, "channels": 2, "pools": 1, "cascades": 2}


def test_sizes_of_one_network_are_its_own():
    planned = plan(SMALL, ["fbpconvnet", "varnet"], ["l1", "nmse"], {"varnet": (("cascades", "3"),)})
    assert list(planned) == ["fbpconvnet, l1", "fbpconvnet, nmse", "varnet, l1", "varnet, nmse"]
    assert [s.cascades for s in planned.values()][2:] == [3, 3]
    assert [s.loss for s in planned.values()] == ["l1", "nmse"] * 2
    assert list(plan(SMALL, ["varnet"], ["l1_ssim"], {})) == ["varnet"]


@pytest.mark.slow
def test_scores_are_those_of_each_run_and_grow_by_seeds(tmp_path):
    planned = plan(SMALL, ["varnet"], ["l1_ssim"], {})
    first = compare(planned, [0], tmp_path)
    both = compare(planned, [0, 1], tmp_path)
    assert both["varnet"][0] == first["varnet"][0] and set(both["TV"]) == {0, 1}
    found = evaluate(next(iter(planned.values())), load_network(tmp_path / "varnet/l1_ssim/seed-0"), 0.9)[0][
        "methods"
    ]
    for ours, theirs in (("varnet", "network"), ("TV", "TV")):
        np.testing.assert_allclose(both[ours][0]["psnr"], found[theirs]["psnr"]["mean"], rtol=1e-5)
    document = report(both, "varnet", tmp_path)
    of = document["methods"]["zero-filled"]["psnr"]
    np.testing.assert_allclose(of["mean"], np.mean([m["psnr"] for m in both["zero-filled"].values()]))
    np.testing.assert_allclose(
        of["difference"]["mean"], of["mean"] - document["methods"]["varnet"]["psnr"]["mean"], rtol=1e-5
    )
    assert json.loads((tmp_path / "comparison.json").read_text()) == document
    assert (tmp_path / "comparison.png").stat().st_size > 1000
