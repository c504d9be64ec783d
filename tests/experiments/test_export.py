"""Networks of finished runs as folders: predictions, cards, and runs that cannot be exported."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrecon
from experiments import export
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import run
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.data import DataError
from fedrecon.learned import load_network
from fedrecon.runtime import Workdir, describe_environment
from fedrecon.training.model_files import released_file
from fedrecon.training.options import FlagError, flat
from fedrecon.weights import read_weights

SETTINGS = TrainSettings(
    rounds=1, clients=3, examples_per_client=8, classes=2, image_size=8, channels=2, pools=1, batch_size=4
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished training, and what it scored."""
    path = tmp_path_factory.mktemp("finished") / "run"
    with Workdir(path, flat(SETTINGS), describe_environment()) as workdir:
        results, _ = run(SETTINGS, workdir)
    return path, results


def test_the_exported_network_has_the_scores_of_the_run(finished, tmp_path):
    path, results = finished
    card = export.run(str(path), str(tmp_path / "model"), license="CC-BY-4.0")
    assert card == json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["license"] == "CC-BY-4.0" and card["trained_on"]["data"] == "simulated"
    assert card["trained_on"]["training_examples"] == {f"client{i}": 6 for i in range(3)}
    assert "--clients=3" in card["command"] and "--epochs" not in card["command"]
    model = fedrecon.load(tmp_path / "model")
    test = load_data(SETTINGS).test
    for i, name in enumerate(test.names):
        valid = np.asarray(test.valid[i])
        found = model.predict({"image": np.asarray(test.examples["image"][i])[valid]})
        labels = np.asarray(test.examples["label"][i])[valid]
        loss = -np.log(np.asarray(found)[np.arange(len(labels)), labels]).mean()
        assert loss == pytest.approx(results.released[name]["loss"], rel=1e-5)
        assert card["scores"]["released"][name]["loss"] == results.released[name]["loss"]


def test_what_is_no_finished_run_is_refused(finished, tmp_path):
    path, _ = finished
    output = str(tmp_path / "model")
    with pytest.raises(FlagError, match="--workdir: expected the directory of a run"):
        export.run(str(tmp_path), output)
    with pytest.raises(FlagError, match="--stage: expected classification, what the run trained"):
        export.run(str(path), output, "segmentation")
    document = {"config": flat(SETTINGS), "environment": {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(FlagError, match=r"--workdir: expected a finished run, with results\.json"):
        export.run(str(tmp_path), output)
    (tmp_path / "results.json").write_text((path / "results.json").read_text())
    with pytest.raises(FlagError, match="--workdir: expected a run with a model that is handed out"):
        export.run(str(tmp_path), output)
    file = released_file(tmp_path, "fedavg")
    file.parent.mkdir()
    file.write_bytes(released_file(path, "fedavg").read_bytes()[:-100])
    with pytest.raises(DataError, match="expected a released model"):
        export.run(str(tmp_path), output)
    (tmp_path / "config.json").write_text(json.dumps({"config": {"methods": "fedavg"}, "environment": {}}))
    with pytest.raises(FlagError, match="--workdir: expected a run of one method"):
        export.run(str(tmp_path), output)
    with pytest.raises(FlagError, match="--output: expected a new or an empty folder"):
        export.run(str(path), str(tmp_path))


@pytest.mark.nightly
def test_every_stage_of_the_full_stack_is_exported(environment, tmp_path):
    sizes = ("--sites=2", "--patients_per_site=3", "--slices=1", "--image_size=16", "--channels=2")
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "experiments.full_stack",
        f"--workdir={folder}",
        "--preset=smoke",
        *sizes,
    ]
    command += ["--nocomparators", "--finetune_pools=3", "--classification_network=vit"]
    command += ["--segmentation_network=residual-unet-deep-supervision"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for stage in export.STAGES:
        card = export.run(str(folder), str(tmp_path / stage), stage)
        variables, about = read_weights(released_file(folder, f"{stage}/federated"))
        example = {
            name: jax.ShapeDtypeStruct((1, *x["shape"]), x["dtype"]) for name, x in about["inputs"].items()
        }
        task = export.task_of(export.read_run(folder), stage, example)
        rng = np.random.default_rng(0)
        given = {
            name: rng.normal(size=(2, *x["shape"])).astype(x["dtype"]) for name, x in card["inputs"].items()
        }
        expected = np.asarray(task.predict(*variables, jax.tree.map(jnp.asarray, given)))
        found = np.asarray(fedrecon.load(tmp_path / stage).predict(given))
        assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
    ours, theirs = load_network(folder), load_network(tmp_path / "reconstruction")
    assert ours.architecture == theirs.architecture and ours.origin == theirs.origin
    np.testing.assert_equal(tuple(ours.bounds), tuple(theirs.bounds))
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


def test_scores_over_sites_have_intervals():
    from scipy import stats

    values = [20.0, 23.0, 25.0]
    scores = {str(i): {"psnr": v, "dice": None, "loss": "inf"} for i, v in enumerate(values)}
    found = export.over_sites(scores)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert found["psnr"] == pytest.approx({"mean": np.mean(values), "low": low, "high": high, "sites": 3})
    assert found["dice"] == {"mean": None, "low": None, "high": None, "sites": 0}
    assert export.over_sites({}) == {}
