"""``--task=FILE:name``: a network and a loss of one's own, from the file to the table of results."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedrecon
from experiments import compare as program
from experiments.pipeline.federated_data import load_data, make_task
from experiments.pipeline.federated_run import print_results, run
from experiments.pipeline.federated_settings import check_settings, resolve
from experiments.pipeline.programs import read_own_files
from fedrecon.runtime import Workdir, WorkdirError
from fedrecon.training.options import changed, flat
from fedrecon.training.own_files import load_task
from tests.data.hospital_files import write_pictures

ROOT = Path(__file__).resolve().parents[2]

TASK = '''"""Brightness of the image's left half as a regression, by a linear layer."""

import flax.linen as nn

from fedrecon.tasks import module_task


class Linear(nn.Module):
    @nn.compact
    def __call__(self, image, deterministic):
        x = nn.Dropout(0.1, deterministic=deterministic)(image.reshape(len(image), -1))
        return nn.Dense(1)(x)[:, 0]


def half(output, batch):
    reference = batch["image"][:, :, :4, 0].mean((1, 2))
    return (output - reference) ** 2


def make(example):
    metrics = {"distance": lambda z, b: abs(half(z, b)) ** 0.5}
    return module_task(Linear(), half, example, metrics=metrics)


WIDTH = 3
'''
SIZES = {"rounds": 2, "patients_per_site": 4, "clients": 3, "image_size": 16, "learning_rate": 1e-3}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return str(path)


def settings_of(file, **options):
    task = f"{file}:make"
    return check_settings(resolve({**SIZES, "task": task, "task_sha256": load_task(task)[1], **options}))


def train(folder, settings, **options):
    with Workdir(folder, flat(settings)) as workdir:
        return run(settings, workdir, parallel="scan", **options)


@pytest.mark.slow
def test_an_own_task_is_trained_compared_and_is_the_one_of_python(file, tmp_path, capsys):
    settings = settings_of(file)
    results, cost = train(tmp_path / "run", settings)
    print_results(settings, results, cost)
    table = capsys.readouterr().out
    assert "distance" in table and "loss" in table and "worst client" in table
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["task"] == settings.task and len(config["task.sha256"]) == 64
    # The same from Python, bit for bit: the same function, keys and data.
    data = load_data(settings)
    parts = (data.train, data.test, data.validation)
    found = fedrecon.run(
        *(parts, lambda example: make_task(settings, example)),
        workdir=tmp_path / "python",
        parallel="scan",
        rounds=2,
        learning_rate=1e-3,
    )
    assert found.scores == results.own and found.bytes_up == results.bytes_up
    planned = program.plan(settings, ["fedavg", "fedprox"], {"fedavg": (), "fedprox": (), "reduce": ()})
    rows = program.compare(
        *(planned, [0], Workdir(tmp_path / "both", {})), baseline="fedavg", metric="distance", parallel="scan"
    )
    own = {row.method: row.interval.mean for row in rows if row.model == "own"}
    assert own["fedavg"] == pytest.approx(found.mean["distance"], rel=1e-5)
    with pytest.raises(ValueError, match="--metric: expected one of distance, loss, found 'dice'"):
        program.compare(
            *(planned, [0], Workdir(tmp_path / "both", {})), baseline="fedavg", metric="dice", parallel="scan"
        )
    Path(file).write_text(TASK + "# Another line.\n")
    with pytest.raises(WorkdirError, match=r"--task.sha256: was '\w{64}', now"):
        train(tmp_path / "run", settings_of(file))


UNET = '''"""A small U-Net in plain flax."""

import flax.linen as nn
import jax.numpy as jnp

from fedrecon.tasks import module_task


class SmallUNet(nn.Module):
    @nn.compact
    def __call__(self, image, train: bool):
        def block(x, features):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))

        fine = block(image, 8)
        coarse = block(nn.max_pool(fine, (2, 2), (2, 2)), 16)
        coarse = nn.Dropout(0.1, deterministic=not train)(coarse)
        x = jnp.concatenate([fine, nn.ConvTranspose(8, (2, 2), (2, 2))(coarse)], -1)
        return nn.Conv(1, (1, 1))(block(x, 8))[..., 0]


def dice(logits, batch):
    mask, found = batch["segmentation"] > 0.5, logits > 0
    size = mask.sum((1, 2)) + found.sum((1, 2))
    return jnp.where(size > 0, 2 * (mask & found).sum((1, 2)) / size, jnp.nan)


def make(example):
    return module_task(
        SmallUNet(), "binary_cross_entropy", example, target="segmentation", metrics={"dice": dice}
    )
'''


@pytest.mark.slow
def test_an_own_unet_segments_the_pictures_of_three_sites(tmp_path):
    write_pictures(tmp_path / "eyes", {"a": (32, 32), "b": (32, 40), "c": (28, 32)}, patients=6)
    (tmp_path / "unet.py").write_text(UNET)
    flags = {"workdir": "run", "data_dir": "eyes", "task": "unet.py:make", "optimizer": "adam"}
    flags |= {"learning_rate": 0.01, "rounds": 25, "batch_size": 4}
    command = [sys.executable, "-m", "experiments.train_federated"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"client +train +test +dice +loss", done.stdout)
    own = json.loads((tmp_path / "run" / "results.json").read_text())["own"]
    assert set(own) == {"a", "b", "c"} and all(scores["dice"] > 0.8 for scores in own.values())
    assert (tmp_path / "run" / "learning_curves.png").stat().st_size > 10_000


FILES = {
    "no name": ("mine.py", "", "^--task: expected FILE:name of a task, .* found"),
    "no file": ("absent.py:make", "", "^--task: expected a Python file, found 'absent.py'"),
    "no module": ("absent:make", "", "^--task: expected a Python file, found 'absent': no such file"),
    "wrong name": (":mage", "", r"mine.py: expected a task, .*\(module_task, half, make\), found mage$"),
    "a number": (":WIDTH", "", "mine.py: expected a task, .* found WIDTH = 3$"),
    "syntax": (":make", "def make(:\n", "mine.py, line 1: expected Python, found"),
    "import": (":make", "\nimport flux\n", "mine.py, line 2: ModuleNotFoundError: No module named 'flux'"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_file_is_named(case, file):
    name, text, message = FILES[case]
    if text:
        Path(file).write_text(text)
    name = file + name if name.startswith(":") else name
    with pytest.raises(ValueError, match=message) as found:
        load_task(name)
    assert str(found.value).startswith("--task: ") and "\n" not in str(found.value)
    if ":" in name:
        with pytest.raises(SystemExit, match="--task: "):
            read_own_files(["p", "--task", name])


LINES = {
    "key": (
        'batch["image"]',
        'batch["grade"]',
        r"expected keys of the examples \(.*image, .*\), found 'grade'",
    ),
    "scalar": ("(output - reference) ** 2", "((output - reference) ** 2).mean()", "loss: expected one value"),
    "result": ("return module_task(Linear(), half", "return (Linear(), half", "expected a fedrecon.Task"),
    "typo": ("nn.Dense(1)", "nn.Danse(1)", "AttributeError: .*Danse"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_task_that_does_not_fit_the_data_is_named(case, file):
    old, new, message = LINES[case]
    assert TASK.count(old) == 1
    Path(file).write_text(TASK.replace(old, new).replace("example, metrics=metrics)", "example)"))
    settings = settings_of(file)
    example = {
        "image": np.zeros((1, 8, 8, 1), np.float32),
        "label": np.zeros(1, np.int32),
        "volume": np.zeros(1, np.int32),
    }
    with pytest.raises(ValueError, match=message) as found:
        make_task(settings, example)
    assert "\n" not in str(found.value)


def test_a_module_is_as_good_as_a_file(file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    made, digest = load_task("mine:make")
    assert digest == load_task(f"{file}:make")[1] and made.__module__ == "mine"
    monkeypatch.delitem(sys.modules, "mine")


def test_flags_of_the_networks_of_the_package_are_refused_with_an_own_one(file):
    with pytest.raises(ValueError, match=r"^--channels: expected a --task of the package"):
        settings_of(file, channels=4)
    with pytest.raises(ValueError, match=r"^--task: expected one of .* or FILE:name, found 'triage'"):
        check_settings(resolve({"task": "triage"}))
    assert "task.sha256" not in flat(resolve({})) and changed(settings_of(file), rounds=3).rounds == 3
