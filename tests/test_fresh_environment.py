"""Exported networks in an environment of their own, with jax, flatbuffers and safetensors alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fedrecon.exports import export_model
from fedrecon.models import Classifier, MoDL, UNet
from fedrecon.tasks import classification_task, mri_measure, reconstruction_task, segmentation_task

ROOT = Path(__file__).resolve().parents[1]
LOADER = """
import importlib.util, json, sys
from pathlib import Path

import jax, numpy, safetensors.numpy

assert not any(importlib.util.find_spec(name) for name in ("fedrecon", "operators", "flax", "optax", "h5py"))
for folder, given, output in json.loads(sys.argv[1]):
    program = jax.export.deserialize(bytearray((Path(folder) / "predict.stablehlo").read_bytes()))
    weights = safetensors.numpy.load_file(Path(folder) / "weights.safetensors")
    inputs = json.loads((Path(folder) / "card.json").read_text())["inputs"]
    batch = {name: x.astype(inputs[name]["dtype"]) for name, x in safetensors.numpy.load_file(given).items()}
    numpy.save(output, program.call(weights, batch))
"""
SIDE = 16
IMAGE = {"image": jax.ShapeDtypeStruct((1, SIDE, SIDE, 1), jnp.float32)}
SCAN = {
    "kspace": jax.ShapeDtypeStruct((1, 2, SIDE, SIDE), jnp.complex64),
    "coil_maps": jax.ShapeDtypeStruct((1, 2, SIDE, SIDE), jnp.complex64),
    "mask": jax.ShapeDtypeStruct((1, SIDE, SIDE), jnp.float32),
    "target": jax.ShapeDtypeStruct((1, SIDE, SIDE), jnp.float32),
    "data_range": jax.ShapeDtypeStruct((1,), jnp.float32),
    "volume": jax.ShapeDtypeStruct((1,), jnp.int32),
}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment with the pinned versions of what a reader of exports needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    names = ("jax", "numpy", "flatbuffers", "safetensors")
    pins = re.findall(rf"^(?:{'|'.join(names)})==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert len(pins) == len(names)
    options = ["--quiet", "--disable-pip-version-check", "--retries=1", "-c", str(ROOT / "constraints.txt")]
    command = [folder / "bin" / "python", "-m", "pip", "install", *options, *pins]
    done = subprocess.run(command, capture_output=True, text=True)
    if re.search(r"Failed to establish|NewConnectionError|Temporary failure|timed out", done.stderr):
        pytest.skip("no packages can be installed here")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "bin" / "python"


def networks():
    label = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    mask = {"segmentation": jax.ShapeDtypeStruct((1, SIDE, SIDE), jnp.int32)}
    classes = classification_task(Classifier(4, 1, classes=3), IMAGE | label)
    structures = segmentation_task(UNet(4, 1), IMAGE | mask)
    images = reconstruction_task(MoDL(cascades=1, channels=2, pools=1), mri_measure, SCAN)
    yield "classification", classes, IMAGE | label, ("image",)
    yield "segmentation", structures, IMAGE | mask, ("image",)
    yield "reconstruction", images, SCAN, ("kspace", "coil_maps", "mask")


def draw(specs, names, count):
    """Random inputs; the squares of coil maps add up to one, masks are zeros and ones."""
    rng = np.random.default_rng(count)
    for name in names:
        shape = (count, *specs[name].shape[1:])
        x = rng.normal(size=shape) + 1j * rng.normal(size=shape) * (specs[name].dtype == jnp.complex64)
        if name == "coil_maps":
            x /= np.sqrt(np.sum(np.abs(x) ** 2, 1, keepdims=True))
        yield name, x if specs[name].dtype == jnp.complex64 else (x.real > 0 if name == "mask" else x.real)


@pytest.mark.slow
def test_exports_predict_as_the_network_in_an_environment_without_this_package(python, tmp_path):
    """For one example and several, and for inputs of other dtypes, whose rounding is all that differs."""
    jobs, expected = [], []
    for kind, task, specs, names in networks():
        variables = task.init(jax.random.key(3))
        export_model(tmp_path / kind, task.predict, variables, specs, {"task": kind})
        for count, dtype in ((1, "float32"), (5, "float32"), (3, "float64"), (2, "float16"), (2, "bfloat16")):
            batch = dict(draw(specs, names, count))
            given = {
                name: x.astype(np.complex64 if np.iscomplexobj(x) else jnp.dtype(dtype))
                for name, x in batch.items()
            }
            path = tmp_path / f"{kind}-{count}-{dtype}"
            safetensors.numpy.save_file(given, path)
            jobs.append((str(tmp_path / kind), str(path), f"{path}.npy"))
            narrow = {name: jnp.asarray(x.astype(specs[name].dtype)) for name, x in given.items()}
            expected.append(np.asarray(jax.jit(task.predict)(*variables, narrow)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-I", "-c", LOADER, json.dumps(jobs)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for (_, _, output), wanted in zip(jobs, expected, strict=True):
        found = np.load(output)
        assert found.shape == wanted.shape
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        print(Path(output).name, error)
        assert error < 1e-6, (output, error)
