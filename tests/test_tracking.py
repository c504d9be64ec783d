"""Mirrors of the run log: what arrives in TensorBoard's files and in MLflow is what the log holds."""

import json
import struct
import threading
import time

import numpy as np
import pytest

from experiments import track
from fedrecon.errors import ArgumentError
from fedrecon.runtime import RunLog
from fedrecon.tracking import Tracker, mirror, numbers_of

RECORD = {
    "stage": "r/federated",
    "round": 3,
    "loss": 0.5,
    "kind": "text",
    "absent": None,
    "validation": {"A": {"psnr": 20.0, "dice": None}, "B": {"psnr": 30.0, "dice": 0.25}},
}
NUMBERS = {
    "r/federated/loss": 0.5,
    "r/federated/validation/A/psnr": 20.0,
    "r/federated/validation/B/psnr": 30.0,
    "r/federated/validation/B/dice": 0.25,
    "r/federated/validation_mean/psnr": 25.0,
    "r/federated/validation_mean/dice": 0.25,
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": {"rounds": 3, "seed": 1}, "environment": {}}))
    log = RunLog(folder / "metrics.jsonl")
    for number in (1, 2, 3):
        log.append(**{**RECORD, "round": number, "loss": 1.5 / number})
    return folder, log


def test_numbers_have_names_of_stage_site_and_metric():
    assert numbers_of(RECORD) == NUMBERS


def test_following_hands_on_every_record_once_until_the_results_are_there(run):
    folder, log = run
    seen, finished = [], []

    def go_on():
        time.sleep(0.05)
        # A resumed run writes the last round again.
        log.drop_after("r/federated", 2)
        log.append(**{**RECORD, "loss": 0.5})
        log.append(**{**RECORD, "round": 4})
        (folder / "results.json").write_text("{}")

    thread = threading.Thread(target=go_on)
    thread.start()
    tracker = Tracker(lambda numbers, step: seen.append((step, numbers)), finished.append)
    assert mirror(folder, tracker, follow=True, seconds=0.02, patience=20) == 4
    thread.join()
    assert [step for step, _ in seen] == [1, 2, 3, 4] and finished == [folder]
    assert seen[0][1]["r/federated/loss"] == 1.5


def test_without_following_what_is_there_is_handed_on(run):
    seen = []
    tracker = Tracker(lambda numbers, step: seen.append(step), lambda folder: pytest.fail("not finished"))
    assert mirror(run[0], tracker, follow=False) == 3
    assert seen == [1, 2, 3]


def events(file):
    """The events of a file, by the framing of TFRecord: length, its checksum, data, their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_gets_scalars_settings_and_figures(run):
    pytest.importorskip("tensorboardX")
    from matplotlib.image import imsave

    folder, _ = run
    imsave(folder / "psnr.png", np.random.default_rng(0).uniform(size=(8, 9)))
    (folder / "results.json").write_text("{}")
    for _ in range(2):
        assert track.run(str(folder), None, None, "fedrecon", True).startswith("3 records in ")
    (file,) = (folder / "tensorboard").iterdir()
    values = [(event.step, value) for event in events(file) for value in event.summary.value]
    losses = {step: v.simple_value for step, v in values if v.tag == "r/federated/loss"}
    assert losses == pytest.approx({1: 1.5, 2: 0.75, 3: 0.5})
    assert {v.tag for step, v in values if step == 3} == set(NUMBERS)
    texts = [v.tensor.string_val[0].decode() for _, v in values if v.tag.startswith("settings")]
    assert "| rounds | 3 |" in texts[0]
    (image,) = [v.image for _, v in values if v.tag == "psnr"]
    assert (image.height, image.width) == (8, 9)


def test_mlflow_gets_metrics_parameters_and_files(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder, _ = run
    (folder / "results.json").write_text("{}")
    server = (tmp_path / "mlruns").as_uri()
    track.run(str(folder), None, server, "heads", False)
    client = mlflow.MlflowClient(server)
    (found,) = client.search_runs([client.get_experiment_by_name("heads").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params == {"rounds": "3", "seed": "1"}
    history = client.get_metric_history(found.info.run_id, "r/federated/loss")
    assert {m.step: m.value for m in history} == {1: 1.5, 2: 0.75, 3: 0.5}
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["results.json"]


def test_what_is_no_run_and_two_places_are_refused(run, tmp_path):
    with pytest.raises(ArgumentError, match=r"--workdir: expected the directory of a run, with config\.json"):
        track.run(str(tmp_path), None, None, "fedrecon", False)
    with pytest.raises(ArgumentError, match="--mlflow: expected none with --tensorboard"):
        track.run(str(run[0]), "there", "http://localhost", "fedrecon", False)
