"""Scores of each patient, against formulas in plain numpy."""

import numpy as np
import pytest

from experiments.pipeline.patient_scores import overall, patient_scores, worst_cases
from fedrecon.data import ClientData

# Site B has one example less, and volume 1 of A is blank.
VOLUME = np.array([[0, 0, 1, 2], [0, 1, 1, 0]])
VALID = np.array([[True] * 4, [True, True, True, False]])


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    target = rng.uniform(0.1, 1, (2, 4, 9, 8)).astype(np.float32)
    target[0, 2] = 0
    largest = np.zeros((2, 4), np.float32)
    for i in range(2):
        for v in range(3):
            here = VALID[i] & (VOLUME[i] == v)
            if here.any():
                largest[i, here] = target[i, here].max()
    data = ClientData({"target": target, "data_range": largest, "volume": VOLUME}, VALID, ("A", "B"))
    noise = rng.normal(size=target.shape).astype(np.float32)
    # The second patient of B, in the last slice, is the worst of the good method.
    strength = np.array([[0.01, 0.02, 0.01, 0.04], [0.01, 0.02, 0.08, 9]], np.float32)[..., None, None]
    images = {"good": target + strength * noise, "poor": target + 0.3 * noise, "reference": target}
    by_site = {method: dict(zip("AB", x, strict=True)) for method, x in images.items()}
    return by_site, {"A": (data, 0), "B": (data, 1)}, target


def expected(image, target, site, volume, what):
    chosen = VALID[site] & (VOLUME[site] == volume)
    x, t = image[chosen].astype(float), target[site][chosen].astype(float)
    error = np.square(x - t)
    if what == "psnr":
        return 20 * np.log10(t.max()) - 10 * np.log10(error.mean())
    return error.sum() / np.square(t).sum()


def test_each_patient_has_scores_of_the_whole_volume_and_blank_ones_none(case):
    images, tests, target = case
    found = patient_scores(images, tests)
    assert set(found) == {"good", "poor"}
    for method in found:
        for i, site in enumerate("AB"):
            scores = found[method][site]
            assert len(scores["psnr"]) == (3, 2)[i]
            for volume in range((3, 2)[i]):
                if (site, volume) == ("A", 1):
                    assert np.isnan([scores[name][1] for name in ("psnr", "nmse", "ssim")]).all()
                    continue
                for what in ("psnr", "nmse"):
                    value = expected(images[method][site], target, i, volume, what)
                    assert scores[what][volume] == pytest.approx(value, rel=2e-4)


def test_means_are_over_patients_and_intervals_hold_them(case):
    images, tests, _ = case
    scores = patient_scores(images, tests)["good"]
    found = overall(scores, "psnr")
    values = np.concatenate([scores["A"]["psnr"][[0, 2]], scores["B"]["psnr"]])
    assert found["patients"] == 4 and found["mean"] == pytest.approx(values.mean())
    assert values.min() <= found["low"] < found["mean"] < found["high"] <= values.max()


def test_the_worst_patient_of_each_site_is_shown_where_its_error_is_largest(case):
    images, tests, _ = case
    scores = patient_scores(images, tests)
    worst = worst_cases(scores, images, tests, "good", 2)
    assert [(x.site, x.patient, x.example) for x in worst] == [("B", 1, 2), ("A", 2, 3)]
    assert worst[0].scores["poor"] == pytest.approx(scores["poor"]["B"]["psnr"][1])
    assert len(worst_cases(scores, images, tests, "good", 1)) == 1
