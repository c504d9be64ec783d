"""Strangers' trips: from raw files of hospitals to a network on the next patient, by commands alone."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from fedrecon.data import simulated_mri_sites, write_fastmri
from fedrecon.data.simulation import simulate_mri_patient

pytestmark = pytest.mark.slow


@pytest.fixture
def command(environment, tmp_path):
    """``command("experiments.export", "--workdir=...")`` in the folder of the test: what it printed."""

    def run(program, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_fastmri_files_of_three_hospitals_to_dicom_of_the_next_scan(command, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    pytest.importorskip("safetensors")
    for site in simulated_mri_sites(3, 5, acceleration=1.0, seed=0):
        (tmp_path / "data" / site.name).mkdir(parents=True)
        for number in range(6):
            volume = simulate_mri_patient(site, number, number % 2 == 0, (32, 32), 2, 0)
            volume = dataclasses.replace(volume, mask=None, segmentation=None)
            folder = tmp_path / "data" / site.name if number < 5 else tmp_path
            write_fastmri(folder / f"{site.name}-{number}.h5", volume)
    said = command("data_scripts.check_cohort", "data")
    assert "can train: reconstruction" in said
    training = ("--task=reconstruction", "--rounds=4", "--epochs=4", "--optimizer=adam")
    sizes = ("--learning_rate=0.003", "--channels=4", "--cascades=2")
    said = command("experiments.train_federated", "--workdir=run", "--data_dir=data", *training, *sizes)
    assert "without training" in said and "zero-filled" in said and "\nTV " in said
    found = json.loads((tmp_path / "run" / "baselines.json").read_text())["scores"]
    assert len(found["TV"]) == 3 and all(x["psnr"] > 10 for x in found["TV"].values())
    command("experiments.export", "--workdir=run", "--output=exported")
    card = json.loads((tmp_path / "exported" / "card.json").read_text())
    assert card["trained_on"]["data"] == "measured" and card["scores"]["over_sites"]["psnr"]["sites"] == 3
    (scan,) = tmp_path.glob("head-t2-3T-5.h5")
    said = command(
        "experiments.reconstruct", "--weights=exported", f"--input={scan.name}", "--output=new.dcm"
    )
    assert "of the measured samples" in said and "network: 2 images, " in said
    files = sorted((tmp_path / "new.dcm").iterdir())
    images = [pydicom.dcmread(file) for file in files]
    assert [image.pixel_array.shape for image in images] == [(32, 32)] * 2
    assert all(image.Modality == "MR" and image.pixel_array.std() > 1000 for image in images)


NETWORK = """
import flax.linen as nn
import jax.numpy as jnp

from fedrecon.tasks import module_task


class Network(nn.Module):
    @nn.compact
    def __call__(self, image, train: bool = False):
        x = nn.Conv(16, (5, 5))(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))
        y = nn.relu(nn.Conv(32, (3, 3), strides=(2, 2))(x))
        y = nn.Dropout(0.1, deterministic=not train)(y)
        y = nn.relu(nn.ConvTranspose(16, (4, 4), strides=(2, 2))(y))
        return nn.Conv(2, (3, 3))(jnp.concatenate([x, y], -1))


def cross_entropy(output, batch):
    truth = jnp.stack([1 - batch["segmentation"], batch["segmentation"]], -1)
    return -jnp.mean(jnp.sum(truth * nn.log_softmax(output), -1), (1, 2))


def task(example):
    return module_task(Network(), cross_entropy, example, predict=nn.softmax)
"""


def eye(rng, tint):
    """A disc with one dark line across, (32, 32, 3), and the line, both uint8."""
    y, x = np.mgrid[:32, :32] - 16
    disc, angle = x**2 + y**2 < 225, rng.uniform(0, np.pi)
    line = (abs(x * np.sin(angle) - y * np.cos(angle) + 3 * np.sin((x + y) / 6)) < 1.6) & disc
    image = (disc * (1 - 0.6 * line))[..., None] * np.asarray(tint) * 255
    image = image + 6 * rng.normal(size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), line.astype(np.uint8) * 255


@pytest.mark.nightly
def test_pictures_and_masks_to_masks_by_a_network_of_ones_own(command, tmp_path):
    pictures = pytest.importorskip("PIL.Image")
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    sites = {"paris": (0.9, 0.5, 0.2), "kyoto": (0.8, 0.4, 0.3), "lagos": (0.7, 0.3, 0.1)}
    for patients, (site, tint) in enumerate(sites.items(), 6):
        for number in range(patients):
            for kind, pixels in zip(("images", "masks"), eye(rng, tint), strict=True):
                (tmp_path / "data" / site / kind).mkdir(parents=True, exist_ok=True)
                pictures.fromarray(pixels).save(tmp_path / "data" / site / kind / f"p{number}.png")
    image, line = eye(rng, (0.85, 0.45, 0.2))
    pictures.fromarray(image).save(tmp_path / "new.png")
    (tmp_path / "network.py").write_text(NETWORK)
    assert "can train: segmentation" in command("data_scripts.check_cohort", "data")
    training = ("--task=network.py:task", "--optimizer=adam", "--learning_rate=0.01", "--epochs=4")
    command("experiments.train_federated", "--workdir=run", "--data_dir=data", *training, "--rounds=10")
    command("experiments.export", "--workdir=run", "--output=exported")
    command("experiments.predict", "--weights=exported", "--input=new.png", "--output=mask.png")
    found, truth = np.asarray(pictures.open(tmp_path / "mask.png").convert("L")) > 0, line > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    record = json.loads((tmp_path / "mask.png.json").read_text())
    assert record["task"] == "segmentation" and record["out_of_distribution"] == []


def head(rng, ill):
    """A head as (columns, rows, slices), of the ill with a bright spot."""
    x, y, z = np.mgrid[:24, :24, :3]
    values = 100.0 * ((x - 12) ** 2 / 90 + (y - 12) ** 2 / 100 < 1) + 5 * rng.normal(size=x.shape)
    row, column = rng.integers(8, 16, 2)
    return (values + 80 * ill * ((x - column) ** 2 + (y - row) ** 2 + 0 * z < 9)).astype(np.float32)


def test_nifti_volumes_and_a_table_of_labels_to_a_diagnosis(command, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("safetensors")
    rng, rows = np.random.default_rng(0), []
    names = ("healthy", "ill")
    for hospital, patients in (("north", 8), ("south", 9), ("west", 7)):
        (tmp_path / "data" / hospital).mkdir(parents=True)
        for number in range(patients):
            file = f"{hospital}/p{number}.nii.gz"
            image = nibabel.Nifti1Image(head(rng, number % 2), np.diag([1.0, 1, 3, 1]))
            nibabel.save(image, tmp_path / "data" / file)
            rows.append((file, names[number % 2]))
    with (tmp_path / "data" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    for ill, name in enumerate(names):
        image = nibabel.Nifti1Image(head(rng, ill), np.diag([1.0, 1, 3, 1]))
        nibabel.save(image, tmp_path / f"new_{name}.nii.gz")
    assert "can train: classification" in command("data_scripts.check_cohort", "data")
    training = ("--task=classification", "--optimizer=adam", "--learning_rate=0.003", "--epochs=2")
    command("experiments.train_federated", "--workdir=run", "--data_dir=data", *training)
    command("experiments.export", "--workdir=run", "--output=exported")
    for name in names:
        said = command(
            "experiments.predict",
            "--weights=exported",
            f"--input=new_{name}.nii.gz",
            f"--output={name}.csv",
        )
        assert "3 predictions, images as in validation" in said
        with (tmp_path / f"{name}.csv").open() as file:
            assert [row["predicted"] for row in csv.DictReader(file)] == [name] * 3
