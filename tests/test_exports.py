"""Exported networks: the same predictions with jax alone, for other batches, and damaged folders refused."""

import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import fedrecon
from fedrecon import ArgumentError, Variables
from fedrecon.data import DataError
from fedrecon.exports import export_model, write_export
from fedrecon.learned import load_network
from fedrecon.models import MoDL
from fedrecon.tasks import mri_measure, reconstruction_task
from fedrecon.weights import from_named_arrays, named_arrays, read_weights, write_weights

SHAPE = (2, 16, 16)
# Programs compiled with and without native kernels.
ROUNDING = 3e-6
EXAMPLE = {
    "kspace": jax.ShapeDtypeStruct((1, *SHAPE), jnp.complex64),
    "coil_maps": jax.ShapeDtypeStruct((1, *SHAPE), jnp.complex64),
    "mask": jax.ShapeDtypeStruct((1, *SHAPE[1:]), jnp.float32),
    "target": jax.ShapeDtypeStruct((1, *SHAPE[1:]), jnp.float32),
    "data_range": jax.ShapeDtypeStruct((1,), jnp.float32),
    "volume": jax.ShapeDtypeStruct((1,), jnp.int32),
}


def batch(count, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(2, 2, count, *SHAPE))
    kspace, maps = parts[0] + 1j * parts[1]
    mask = (rng.uniform(size=(count, *SHAPE[1:])) < 0.5).astype(np.float32)
    return {"kspace": kspace.astype(np.complex64), "coil_maps": maps.astype(np.complex64), "mask": mask}


def predictions(task, variables, given):
    """The network's own, compiled."""
    return np.asarray(jax.jit(task.predict)(*variables, jax.tree.map(jnp.asarray, given)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, and the folder that it was exported to."""
    task = reconstruction_task(MoDL(cascades=1, channels=2, pools=1), mri_measure, EXAMPLE)
    variables = task.init(jax.random.key(0))
    folder = tmp_path_factory.mktemp("exported") / "model"
    card = export_model(folder, task.predict, variables, EXAMPLE, {"task": "reconstruction"})
    assert card["inputs"].keys() == {"kspace", "coil_maps", "mask"}
    return task, variables, folder


def test_predictions_are_those_of_the_network_for_any_number_of_examples(exported):
    task, variables, folder = exported
    model, given = fedrecon.load(folder), batch(3)
    expected = predictions(task, variables, given)
    for count in (1, 3):
        found = np.asarray(model.predict({name: x[:count] for name, x in given.items()}))
        assert found.shape == (count, *SHAPE[1:])
        assert np.abs(found - expected[:count]).max() < ROUNDING * np.abs(expected).max()


def test_inputs_of_other_dtypes_are_cast_and_unknown_ones_ignored(exported):
    model, given = fedrecon.load(exported[2]), batch(2)
    expected = np.asarray(model.predict(given))
    wider = {name: x.astype(np.complex128 if np.iscomplexobj(x) else np.int64) for name, x in given.items()}
    assert np.array_equal(model.predict({**wider, "patient": "unknown"}), expected)


@pytest.mark.slow
def test_the_folder_needs_jax_alone(exported, tmp_path):
    task, variables, folder = exported
    given = batch(3)
    np.savez(tmp_path / "given.npz", **given)
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fedrecon", "operators", "experiments", "flax", "optax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from pathlib import Path
import jax, numpy, safetensors.numpy
folder, given, output = map(Path, sys.argv[1:])
program = jax.export.deserialize(bytearray((folder / "predict.stablehlo").read_bytes()))
weights = safetensors.numpy.load_file(folder / "weights.safetensors")
numpy.save(output, program.call(weights, dict(numpy.load(given))))
"""
    output = tmp_path / "output.npy"
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "given.npz"), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = predictions(task, variables, given)
    assert np.abs(np.load(output) - expected).max() < ROUNDING * np.abs(expected).max()


def test_weights_are_those_of_the_network_by_name(exported):
    _, variables, folder = exported
    found = safetensors.numpy.load_file(folder / "weights.safetensors")
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], leaf) for name, leaf in expected.items())


def test_programs_call_no_native_kernel_and_name_no_file(exported):
    content = (exported[2] / "predict.stablehlo").read_bytes()
    program = jax.export.deserialize(bytearray(content))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert "fedrecon" not in program.mlir_module()
    assert b".py" not in content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("mask"), "batch: expected the key 'mask'"),
        (
            lambda b: b.update(mask=b["mask"][:, :8]),
            r"batch\['mask'\]: expected the shape \(examples, 16, 16\)",
        ),
        (lambda b: b.update(mask=b["mask"][:1]), "batch: expected as many examples in every input"),
        (lambda b: b.update(mask=b["mask"] + 1j), r"batch\['mask'\]: expected real numbers"),
        (lambda b: b.update({k: x[:0] for k, x in b.items()}), "batch: expected as many .* at least one"),
    ],
)
def test_batches_that_do_not_fit_are_refused(exported, change, message):
    given = batch(2)
    change(given)
    with pytest.raises(ArgumentError, match=message):
        fedrecon.load(exported[2]).predict(given)


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors", "predict.stablehlo"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other"])
def test_damaged_folders_are_refused_by_the_name_of_the_file(exported, tmp_path, name, damage):
    folder = tmp_path / "model"
    shutil.copytree(exported[2], folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "other":
        (folder / name).write_bytes(other(name, content))
    elif damage != "missing":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    refusing = "predict.stablehlo" if damage == "other" else name
    with pytest.raises(ArgumentError, match=re.escape(str(folder / refusing))):
        fedrecon.load(folder)


def other(name, content):
    """A sound file of its kind that does not fit the others."""
    if name == "card.json":
        card = json.loads(content)
        card["inputs"]["mask"]["shape"] = [8, 8]
        return json.dumps(card).encode()
    if name == "weights.safetensors":
        weights = safetensors.numpy.load(content)
        return safetensors.numpy.save({key: np.concatenate([x, x]) for key, x in weights.items()})
    function = jax.jit(lambda weights, batch: batch["mask"])
    example = {"mask": jax.ShapeDtypeStruct((1, *SHAPE[1:]), jnp.float32)}
    return bytes(jax.export.export(function)({}, example).serialize())


def test_nothing_is_overwritten_and_nothing_half_written(exported, tmp_path, monkeypatch):
    task, variables, folder = exported
    with pytest.raises(ArgumentError, match="folder: expected a new or an empty folder"):
        export_model(folder, task.predict, variables, EXAMPLE, {})
    program = (folder / "predict.stablehlo").read_bytes()
    with pytest.raises(TypeError):
        write_export(tmp_path / "new", program, variables, {"unfit": object()})
    with pytest.raises(ValueError, match="other weights"):
        write_export(tmp_path / "new", program, Variables({}, {}), {})

    def full(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_export(tmp_path / "new", program, variables, {})
    assert not list(tmp_path.iterdir())


def test_networks_for_one_number_of_examples_are_refused(tmp_path):
    variables = Variables({"w": np.ones(3, np.float32)}, {})
    example = {"image": np.zeros((1, 3), np.float32)}

    def predict(params, stats, batch):
        return jnp.asarray(np.eye(int(batch["image"].shape[0]))) @ batch["image"] * params["w"]

    with pytest.raises(ArgumentError, match="predict: expected a network for any number of examples"):
        export_model(tmp_path / "model", predict, variables, example, {})


def test_exports_of_other_tasks_are_no_unrolled_network(exported):
    with pytest.raises(DataError, match="the card of an unrolled network"):
        load_network(exported[2])


def test_weights_survive_their_file(tmp_path):
    variables = Variables({"a": {"b": np.arange(3.0)}, "c": np.int32(2)}, {"m": np.ones((2, 1), np.float32)})
    write_weights(tmp_path / "w.npz", variables, {"epoch": 3})
    found, about = read_weights(tmp_path / "w.npz")
    assert about == {"epoch": 3}
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert named_arrays(found).keys() == {"params/a/b", "params/c", "stats/m"}


def test_groups_without_leaves_survive_their_file(tmp_path):
    variables = Variables({"a": {"b": np.ones(2), "c": {}}}, {"reconstruction": {}, "task": {"d": {}}})
    write_weights(tmp_path / "w.npz", variables, {})
    found, about = read_weights(tmp_path / "w.npz")
    assert about == {} and jax.tree.structure(found) == jax.tree.structure(variables)
    # A group of none at all, and files without the list of them.
    for variables in (Variables({"a": np.ones(2)}, {}), Variables({}, {})):
        write_weights(tmp_path / "w.npz", variables, {})
        assert jax.tree.structure(read_weights(tmp_path / "w.npz")[0]) == jax.tree.structure(variables)
        with np.load(tmp_path / "w.npz") as file:
            assert "empty" not in file.files


@pytest.mark.parametrize("name", ["weights/a", "params", "params/"])
def test_names_of_other_groups_are_refused(name):
    with pytest.raises(ArgumentError, match="names that begin with params or stats and a slash"):
        from_named_arrays({name: np.zeros(1)})
