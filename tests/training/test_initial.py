"""`initialize_from`: which model of what is taken, and what does not fit."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from fedrecon.exports import export_model
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.initial import initial_digest, initial_tasks, initial_variables
from fedrecon.types import Variables
from fedrecon.weights import write_weights


def model(value, features=2):
    kernel = np.full((3, features), value, np.float32)
    return Variables({"dense": {"kernel": kernel}}, {"norm": {"mean": np.full(features, value, np.float32)}})


@pytest.fixture
def folder(tmp_path):
    """A full run, one of one stage, and an export, whose models are told apart by their values."""
    models = {"full/models/reconstruction/federated": 1, "full/models/segmentation/federated": 2}
    models |= {"full/models/segmentation/centralized": 3, "one/models/fedbn": 4, "one/models/fedbn.own": 5}
    models |= {"full/models/segmentation/local": 9}
    for name, value in models.items():
        path = tmp_path / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, model(value), {})
    for name, task, value in (("two", "classification", 7), ("own", "network.py:make", 8)):
        (tmp_path / name / "models").mkdir(parents=True)
        write_weights(tmp_path / name / "models" / "fedavg.npz", model(value), {"task": task})
    example = {"image": np.zeros((1, 3), np.float32)}
    export_model(
        *(tmp_path / "export", lambda params, stats, batch: batch["image"] @ params["dense"]["kernel"]),
        *(model(6), example, {"task": "segmentation"}),
    )
    return tmp_path


def start(text, stage, drawn=None):
    settings = FederationSettings(initialize_from=text and str(text))
    found = initial_variables(settings, stage, drawn or model(0))
    values = {float(x) for x in (found.params["dense"]["kernel"][0, 0], found.stats["norm"]["mean"][0])}
    return values.pop() if len(values) == 1 else values


CASES = [
    ("", "fedavg", 0),
    ("full", "reconstruction/federated", 1),
    ("full", "segmentation/local", 2),
    ("full", "classification/federated", 0),
    ("full:segmentation", "segmentation/federated", 2),
    ("full:segmentation", "reconstruction/federated", 0),
    ("full:segmentation/centralized", "fedavg", 3),
    ("one", "fedavg", 4),
    ("one/models/fedbn.npz", "fedavg", 4),
    ("one/models/fedbn.npz", "reconstruction/centralized", 4),
    ("one/models/fedbn.npz", "segmentation/federated", 0),
    ("one", "reconstruction/federated", 4),
    ("two", "classification/federated", 7),
    ("two:fedavg", "classification/local", 7),
    ("two", "reconstruction/federated", 0),
    ("own", "fedavg", 8),
    ("export", "fedprox", 6),
    ("export", "segmentation/local", 6),
    ("export", "reconstruction/federated", 0),
]
TASKS = [
    ("full", ("segmentation", "reconstruction")),
    ("full:segmentation/centralized", ("segmentation",)),
    ("one:fedbn", ("reconstruction",)),
    ("export", ("segmentation",)),
]


@pytest.mark.parametrize(("text", "tasks"), TASKS)
def test_the_stages_that_have_a_model_are_told(text, tasks, folder):
    assert initial_tasks(str(folder / text)) == tasks and initial_tasks("") == ()


@pytest.mark.parametrize(("text", "stage", "value"), CASES)
def test_each_stage_starts_from_its_own_model(text, stage, value, folder):
    assert start(text and folder / text, stage) == value


def test_the_hash_is_that_of_the_files(folder):
    content = (folder / "one/models/fedbn.npz").read_bytes()
    assert initial_digest(str(folder / "one")) == hashlib.sha256(content).hexdigest()
    before = initial_digest(str(folder / "full"))
    write_weights(folder / "full/models/segmentation/centralized.npz", model(7), {})
    assert initial_digest(str(folder / "full")) != before


REFUSED = {
    "absent": ("absent", "fedavg", "^--initialize_from: expected RUN, .* found '.*absent'"),
    "empty": ("one/models", "fedavg", r"^--initialize_from: .* without models/\*.npz"),
    "stage": ("full:classification", "fedavg", "^--initialize_from: expected RUN, .*found '.*full:class"),
    "several": (
        *("full", "fedavg"),
        "expected .*full:STAGE with one of reconstruction/federated, .* found .*full",
    ),
    "none": (
        *("own", "reconstruction/federated"),
        "expected a model of classification, segmentation, reconstruction, found .*own, of network.py:make$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_refused(case, folder):
    text, stage, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        start(folder / text, stage)


def test_leaves_that_do_not_fit_are_named_with_both_shapes(folder):
    message = (
        r"params/dense/kernel \(3, 2\) there and \(3, 5\) here; stats/norm/mean \(2,\) there and \(5,\) here$"
    )
    with pytest.raises(ValueError, match=message):
        start(folder / "one", "fedavg", model(0, 5))
    other = Variables(model(0).params, {})
    with pytest.raises(ValueError, match=r"stats/norm/mean \(2,\) there and none here$"):
        initial_variables(FederationSettings(initialize_from=str(folder / "one")), "fedavg", other)
    shapes = jax.eval_shape(lambda: model(0, 5))
    with pytest.raises(ValueError, match=r"params/dense/kernel \(3, 2\) there and \(3, 5\) here"):
        initial_variables(FederationSettings(initialize_from=str(folder / "one")), "fedavg", shapes)
    (folder / "one/models/fedbn.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"^--initialize_from: expected weights of .*fedbn.npz"):
        start(folder / "one", "fedavg")


def test_a_new_head_is_drawn_and_the_rest_is_the_model_s(tmp_path):
    """Also of other shapes; without the flag these are refused."""

    def network(value, classes):
        params = {"body": {"kernel": np.full((3, 2), value, np.float32)}}
        params["head"] = {"kernel": np.full((2, classes), value, np.float32)}
        return Variables(params, {"norm": {"mean": np.full(2, value, np.float32)}})

    write_weights(tmp_path / "source.npz", network(5, 10), {})
    settings = FederationSettings(initialize_from=str(tmp_path / "source.npz"))
    with pytest.raises(ValueError, match="head/kernel"):
        initial_variables(settings, "fedavg", network(1, 3))
    found = initial_variables(dataclasses.replace(settings, new_head=True), "fedavg", network(1, 3))
    expected = network(5, 3)
    expected.params["head"]["kernel"][:] = 1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"^--new_head: expected a network with a layer 'head', found dense"):
        initial_variables(dataclasses.replace(settings, new_head=True), "fedavg", model(0))


def test_files_of_other_projects_are_read(tmp_path):
    """By torch where it is there; otherwise the extra is named."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"not weights")
    try:
        import torch
    except ImportError:
        with pytest.raises(ImportError, match=r"fedrecon\[torch\]"):
            start(path, "fedavg")
        return
    with pytest.raises(
        ValueError, match=r"^--initialize_from: expected tensors that torch wrote, found .*model"
    ):
        start(path, "fedavg")
    torch.save({"model": {"a": torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r"^--initialize_from: expected the names of fastMRI.*model.pt: a$"):
        start(path, "fedavg")
