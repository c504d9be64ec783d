"""The reconstruction stage: which model sees which example, its scores, the tuning of weights."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.pipeline import examples, reconstruction
from experiments.pipeline.examples import signs_of_clients
from experiments.pipeline.programs import MOST_DEVICES, cpu_devices
from fedrecon.data import ClientData
from fedrecon.learned import Signs
from fedrecon.runtime import available_processors
from fedrecon.training.scores import cross_site_scores

WEIGHTS = reconstruction._WEIGHTS


def clients(valid):
    """Clients of 8 x 8 targets whose pixels are numbered by client and example, each example a volume."""
    valid = np.asarray(valid, bool)
    count, examples = valid.shape
    number = 1.0 + np.arange(count * examples).reshape(count, examples)
    target = np.broadcast_to(number[..., None, None], (*number.shape, 8, 8)).astype(np.float32)
    arrays = {
        "target": target,
        "data_range": number.astype(np.float32),
        "volume": np.broadcast_to(np.arange(examples), number.shape),
    }
    return ClientData(arrays, valid, tuple(f"site {i}" for i in range(count)))


@pytest.mark.parametrize("chunk", [1, 2, 6])
def test_every_valid_example_is_seen_by_the_model_of_its_client(monkeypatch, chunk):
    monkeypatch.setattr(examples, "CHUNK", chunk)
    data = clients([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 1, 1]])
    one, other = np.float32(2), np.float32(10)
    sizes = []

    def function(model, batch):
        sizes.append(len(batch["target"]))
        return model * batch["target"]

    found = reconstruction.images_of(function, [one, one, other, other], data)
    factor = np.array([2, 2, 10, 10])[:, None, None, None]
    expected = factor * data.examples["target"] * data.valid[..., None, None]
    np.testing.assert_array_equal(found, expected)
    # The examples of clients with the same model share chunks, all of one size.
    assert sizes == [chunk] * (-(-3 // chunk) + -(-6 // chunk))


def test_signs_are_told_by_client():
    data = clients([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    images, signs = signs_of_clients(
        lambda model, batch: -model * batch["target"],
        lambda found, batch: Signs(*(found[:, 0, 0] + i for i in range(3))),
        [np.float32(1)] * 3,
        data,
    )
    np.testing.assert_array_equal(images, data.examples["target"][data.valid])
    assert [list(own.noise) for own in signs] == [[0, -1], [], [-7, -8]]
    nobody = dataclasses.replace(data, valid=np.zeros_like(data.valid))
    images, signs = signs_of_clients(None, None, [None] * 3, nobody)
    assert images is None and [len(own.residual) for own in signs] == [0, 0, 0]


def test_every_network_is_scored_at_home_and_elsewhere():
    data = clients(np.ones((3, 2)))
    errors = np.array([0.1, 0.01, 0.001], np.float32)

    def predict(models, data):
        return np.stack([(1 + m) * x for m, x in zip(models, data.examples["target"], strict=True)])

    sums = reconstruction._cross_sums(predict, list(errors), data)
    home, away = cross_site_scores(sums, data.names)
    # Constant targets, whose range is their value: PSNR is -20 log10 of the relative error.
    for i, site in enumerate(data.names):
        assert home[site]["psnr"] == pytest.approx(20 * (i + 1), abs=0.01)
        assert away[site]["psnr"] == pytest.approx((120 - 20 * (i + 1)) / 2, abs=0.01)


@pytest.mark.parametrize("best", range(len(WEIGHTS)))
def test_the_best_weight_is_found_by_climbing(best):
    asked = []

    def score(weight):
        asked.append(weight)
        return -abs(np.log10(weight / WEIGHTS[best]))

    assert reconstruction._best_weight(score) == WEIGHTS[best]
    assert len(asked) == len(set(asked)) <= 3 + abs(best - len(WEIGHTS) // 2)


def test_a_run_resumes_on_as_many_devices_as_it_began_with(tmp_path):
    default = min(available_processors(), MOST_DEVICES)
    assert cpu_devices(tmp_path) == default >= 1
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"environment": {"backend": "cpu", "devices": ["cpu"] * 5}}))
    assert cpu_devices(tmp_path) == 5
    for other in ('{"environment": {"backend": "gpu", "devices": ["a", "b", "c"]}}', "{", "[]", "{}"):
        file.write_text(other)
        assert cpu_devices(tmp_path) == default
