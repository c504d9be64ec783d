"""The reconstruct command by a trained network: images, what is said of them, and what is refused."""

import functools
import json

import h5py
import jax
import numpy as np
import pytest

import operators
from experiments.reconstruct import ReconstructOptions, run
from fedrecon.data import Measurement, read_measurement
from fedrecon.evaluation import error_scale
from fedrecon.learned import (
    MARGIN,
    Architecture,
    CheckedNetwork,
    IntervalBound,
    Signs,
    measured_examples,
    save_network,
)
from fedrecon.tasks import mri_measure, reconstruction_task
from tests.experiments.scans import SHAPE, images, write_phantom, write_spokes


@functools.cache
def variables():
    kspace, mask = operators.fft2c(np.ones((1, 2, *SHAPE), np.complex64)), np.ones((1, *SHAPE), bool)
    scan = Measurement("test", np.asarray(kspace), SHAPE, mask, None, None, None, SHAPE, None)
    task = reconstruction_task(Architecture("modl", 1, 2, 1).build(), mri_measure, measured_examples(scan)[0])
    return task.init(jax.random.key(0))


def network(bound=10.0, physics="mri", interval=None):
    bounds = Signs(bound, float("nan"), bound)
    return CheckedNetwork(
        Architecture("modl", 1, 2, 1), variables(), bounds, "modl trained on nothing", physics, None, interval
    )


def write_run(folder, **changes):
    folder.mkdir()
    save_network(folder / "network.npz", network(**changes))
    return str(folder)


def unexplained(image, path):
    """Part of the samples of a fully sampled file that an image in its unit leaves, by plain sums."""
    batch = measured_examples(read_measurement(path))[0]
    maps, y, scale = (np.asarray(batch[name][0]) for name in ("coil_maps", "kspace", "scale"))
    expected = np.asarray(operators.fft2c((maps * image / scale).astype(np.complex64)))
    return np.linalg.norm(expected - y) / np.linalg.norm(y)


@pytest.mark.slow
def test_the_network_of_a_run_reconstructs_a_file(tmp_path, capsys):
    """In the unit of the file, and what is said of the image is true."""
    path = write_phantom(tmp_path / "k.h5", scale=1e-3)
    image, record = images(tmp_path / "k.h5", weights=write_run(tmp_path / "run"))
    residual = unexplained(image[0], path)
    assert 0 < residual < 0.5 and record["residual"] == pytest.approx(residual, rel=1e-2)
    assert record["method"] == "network" and record["out_of_distribution"] == ""
    out = capsys.readouterr().out
    assert f"residual {record['residual']:.3g}" in out and f"in validation at most {10 / MARGIN:.3g}" in out
    assert "modl trained on nothing" in out and "1 images, as in training" in out and "notice" not in out


@pytest.mark.slow
def test_a_network_is_compared_with_all_samples(tmp_path):
    write_phantom(tmp_path / "k.h5")
    file = f"{write_run(tmp_path / 'run')}/network.npz"
    _, record = images(tmp_path / "k.h5", weights=file, acceleration=2.0, center_fraction=0.3)
    assert record["acceleration"] > 1.5 and record["psnr"] > 10


def test_a_measurement_unlike_those_of_training_is_told(tmp_path, capsys):
    write_phantom(tmp_path / "k.h5")
    _, record = images(tmp_path / "k.h5", weights=write_run(tmp_path / "run", bound=1e-6))
    out = capsys.readouterr().out
    assert (
        "notice: 1 of 1 images: the network leaves" in out
        and "notice: 1 of 1 images: the network changes" in out
    )
    assert "1 images, outside of what the network was trained on" in out
    assert "unexplained" in record["out_of_distribution"]


def test_intervals_are_half_as_wide_as_calibrated_and_in_the_unit_of_the_image(tmp_path, capsys):
    path = write_phantom(tmp_path / "k.h5", scale=1e-3)
    folder = write_run(tmp_path / "run", interval=IntervalBound(0.8, 1.5))
    image, record = images(tmp_path / "k.h5", weights=folder)
    with h5py.File(tmp_path / "k.h5.out.h5") as file:
        found = file["half_width"][0]
    batch = measured_examples(read_measurement(path))[0]
    maps, y, scale = (np.asarray(batch[name][0]) for name in ("coil_maps", "kspace", "scale"))
    start = np.abs((maps.conj() * np.asarray(operators.ifft2c(y))).sum(0))
    want = 1.5 * scale * error_scale(np.abs(image) / scale, start[None])[0]
    np.testing.assert_allclose(found, want, rtol=1e-3)
    assert record["interval_level"] == 0.8
    assert record["interval_half_width"] == pytest.approx(want.mean() / np.abs(image).max(), rel=1e-3)
    assert "intervals that held 80 % of the pixels in validation are ±" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        ({"method": "cg-sense"}, "--method: expected none with --weights.*found cg-sense"),
        ({"coil_maps": "walsh"}, "--coil_maps: expected none with --weights"),
        ({"weight": 0.1}, "--weight: expected none with --weights"),
        (
            {"weights": "{}/absent"},
            "--weights: expected the folder of a run .* or a network.npz, found .*absent",
        ),
        (
            {"weights": "{}/ct"},
            "--weights: expected a network of MRI.*found one of CT .modl trained on nothing",
        ),
        ({"input": "spokes.h5"}, "--weights: expected Cartesian sampling.*, in --input, found a trajectory"),
        (
            {"input": "hollow.h5"},
            "--weights: expected a fully sampled center of k-space, in --input, found none",
        ),
    ],
)
def test_what_a_network_cannot_take_is_refused_by_name(tmp_path, options, words):
    write_phantom(tmp_path / "k.h5")
    hollow = np.arange(32) != 16
    write_phantom(tmp_path / "hollow.h5", mask=hollow)
    write_spokes(tmp_path / "spokes.h5")
    folder = write_run(tmp_path / "run")
    write_run(tmp_path / "ct", physics="ct")
    options = {"input": "k.h5", "weights": folder, **options}
    options["weights"] = options["weights"].format(tmp_path)
    options["input"] = str(tmp_path / options["input"])
    with pytest.raises(ValueError, match=words):
        run(ReconstructOptions(output=str(tmp_path / "out.h5"), **options))
    assert not (tmp_path / "out.h5").exists()


def test_what_is_known_of_the_images_is_written_as_json(tmp_path):
    write_phantom(tmp_path / "k.h5")
    folder, place = write_run(tmp_path / "run"), {"output": str(tmp_path / "out.h5")}
    run(
        ReconstructOptions(str(tmp_path / "k.h5"), **place, weights=folder, json=str(tmp_path / "known.json"))
    )
    found = json.loads((tmp_path / "known.json").read_text())
    with h5py.File(tmp_path / "out.h5") as file:
        assert found["residual"] == file.attrs["residual"]
    assert found["settings"]["network"] == "modl" and found["out_of_distribution"] == ""
    for wrong, words in (
        ("absent/known.json", "a file in an existing"),
        ("k.h5", "another file than --input"),
    ):
        with pytest.raises(ValueError, match=f"--json: expected {words}"):
            run(ReconstructOptions(str(tmp_path / "k.h5"), **place, json=str(tmp_path / wrong)))
