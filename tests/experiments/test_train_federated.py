"""Federated training by name: flags, every algorithm, resuming, interruption."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.pipeline.cohorts import load_cohorts
from experiments.pipeline.drawn_images import simulate_image_classes
from experiments.pipeline.federated_data import load_data, pad_examples
from experiments.pipeline.federated_run import read_results, run
from experiments.pipeline.federated_settings import TrainSettings, check_settings, resolve
from experiments.pipeline.settings import resolve as resolve_full_stack
from fedrecon import catalog
from fedrecon.data import simulate_mri_cohort, simulated_mri_sites, write_mri_cohort
from fedrecon.runtime import Workdir, read_log
from fedrecon.training.catalog_algorithms import algorithms, check_method
from fedrecon.training.components import REDUCERS, make_reducer
from fedrecon.training.named_tasks import TASKS
from fedrecon.training.options import FlagError, changed, flat
from fedrecon.training.scores import summary

TINY = TrainSettings(
    rounds=2, clients=4, examples_per_client=12, classes=2, image_size=8, channels=2, pools=1, batch_size=4
)
TINY_FLAGS = [
    f"--{name}={getattr(TINY, name)}"
    for name in ("clients", "examples_per_client", "classes", "image_size", "channels", "pools", "batch_size")
]


def tiny(**changes):
    """Small settings, without what only simulated images have where others are trained on."""
    settings = changed(TINY, **changes)
    if (settings.task, settings.cohort) == ("classification", "simulated"):
        return settings
    others = {} if settings.cohort != "simulated" else {"patients_per_site": 4}
    defaults = TrainSettings()
    return changed(
        settings, classes=defaults.classes, examples_per_client=defaults.examples_per_client, **others
    )


def train(path, settings, **execution):
    with Workdir(path, flat(settings)) as workdir:
        return run(settings, workdir, **execution)


def check(results, settings):
    assert len(results.own) == 4
    for scores in (results.own, results.released or results.own):
        value, worst = summary(scores, "loss")
        assert math.isfinite(value) and worst >= value
    assert (results.bytes_up > 0) == (settings.federation.algorithm not in ("local_only", "centralized"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What data_scripts.simulate_cohort writes for the cohort that `SIMULATED` makes in memory."""
    path = tmp_path_factory.mktemp("folder") / "cohort"
    write_mri_cohort(path, simulated_mri_sites(2, 3, seed=4), 2, (32, 32), 4)
    return str(path)


SIMULATED = {"clients": 2, "patients_per_site": 3, "image_size": 32}


@pytest.mark.parametrize("task", ["segmentation", "reconstruction"])
def test_a_folder_trains_on_the_data_of_the_same_cohort_in_memory(folder, task):
    base = TrainSettings(task=task, seed=4)
    found = load_data(resolve({"task": task, "seed": 4, "data_dir": folder}))
    expected = load_data(changed(base, **SIMULATED))
    jax.tree.map(
        np.testing.assert_array_equal,
        found._replace(notes="", labels=(), tested=()),
        expected._replace(notes="", labels=(), tested=()),
    )
    # In memory another seed has other patients, in the folder the same.
    assert [[f"{name} of seed 4" for name in names] for names in found.tested] == [
        *map(list, expected.tested)
    ]
    assert found.notes == expected.notes and found.labels == expected.labels


def test_folders_are_classified_by_lesions_and_must_be_for_the_task(folder, tmp_path):
    settings = resolve({"data_dir": folder, "channels": 2, "pools": 1})
    data = load_data(check_settings(settings))
    assert set(data.train.examples) == {"image", "label", "volume"}
    expected = simulate_mri_cohort(simulated_mri_sites(2, 3, seed=4), 3, 2, (32, 32), seed=4).test
    np.testing.assert_array_equal(data.test.examples["label"], expected.examples["label"])
    np.testing.assert_array_equal(data.test.examples["image"][..., 0], expected.examples["target"])
    with pytest.raises(FlagError, match="--pools: expected poolings that leave a pixel of the 32 x 32"):
        load_data(changed(settings, pools=6))
    other = shutil.copytree(folder, tmp_path / "other")
    document = json.loads((other / "cohort.json").read_text()) | {"tasks": ["reconstruction"]}
    (other / "cohort.json").write_text(json.dumps(document))
    with pytest.raises(
        FlagError, match=r"--data_dir: expected a cohort for classification, found .*other/cohort"
    ):
        load_data(changed(settings, data_dir=str(other)))


def test_the_full_stack_takes_sites_from_a_folder_and_the_rest_from_the_preset(folder):
    settings = resolve_full_stack({"data_dir": folder, "preset": "smoke"})
    assert (settings.cohort, settings.network, settings.cascades) == ("folder", "modl", 2)
    cohorts, sites = load_cohorts(settings), simulated_mri_sites(2, 3, seed=4)
    expected = simulate_mri_cohort(sites, 3, 2, (32, 32), seed=4)
    assert cohorts.shared_images and cohorts.reconstruction.unseen is None
    for part in ("train", "validation", "test"):
        found, wanted = getattr(cohorts.reconstruction, part), getattr(expected, part)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert [row[0] for row in cohorts.sites] == ["site", *(site.name for site in sites)]
    with pytest.raises(FlagError, match="--finetune_pools: expected poolings that leave a pixel"):
        load_cohorts(changed(settings, finetune_pools=6))


@pytest.mark.slow
def test_a_run_on_a_folder_has_the_results_of_the_same_cohort_in_memory(folder, tmp_path):
    given = {"task": "segmentation", "seed": 4, "rounds": 2, "channels": 2, "pools": 1}
    train(tmp_path / "folder", resolve({**given, "data_dir": folder}))
    train(tmp_path / "memory", resolve({**given, **SIMULATED}))
    found, expected = ((tmp_path / run / "results.json").read_text() for run in ("folder", "memory"))
    assert found == expected and '"dice"' in found
    config = json.loads((tmp_path / "folder" / "config.json").read_text())["config"]
    assert (config["cohort"], config["data_dir"]) == ("folder", folder)


# What precedes the rounds, or follows them, with fewer steps, and the shortest key.
_SHORTER = {
    "cheng": (("key_bits", "2048"),),
    "fedsim": (("simulator_rounds", "5"),),
    "medisecfed": (("images", "8"), ("inversion_steps", "2")),
}
# What `test_alignment` runs, which takes long to compile.
_ELSEWHERE = {"fl_mrcm", "li_moe", "vafl"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*algorithms()} - _ELSEWHERE))
def test_every_algorithm_runs(name, tmp_path):
    settings = changed(TINY, algorithm=name)
    kinds = [need for need in catalog.lookup(name).needs if need in TASKS]
    if kinds and "classification" not in kinds and "memory" not in catalog.lookup(name).needs:
        small = {"clients": 4, "patients_per_site": 3, "image_size": 32, "batch_size": 4}
        settings = TrainSettings(task=kinds[0], rounds=2, channels=2, pools=1, **small)
        settings = changed(settings, algorithm=name)
    if "memory" in catalog.lookup(name).needs:
        with pytest.raises(FlagError, match=r"^--algorithm: expected experiments.continual, whose blocks"):
            train(tmp_path, settings)
        return
    if "contrast" in catalog.lookup(name).needs:
        with pytest.raises(FlagError, match=r"^--algorithm: expected experiments.finetune --pretraining"):
            check_method(settings.federation, (settings.task,))
        return
    if "mechanism" in catalog.lookup(name).needs:
        settings = changed(settings, dp_epsilon=8.0, dp_batch_size=4, batch_size=TrainSettings().batch_size)
    if name in ("ji", "fednorm"):
        with pytest.raises(FlagError, match=r"^--clock: expected a policy, such as wait"):
            check_method(settings.federation, (settings.task,))
        settings = changed(settings, clock="wait")
    settings = changed(settings, algorithm_options=_SHORTER.get(name, ()))
    results, cost = train(tmp_path, settings)
    check(results, settings)
    assert cost.compile_seconds > 0 and cost.rounds_per_second > 0
    records = read_log(tmp_path / "metrics.jsonl")
    assert [record["round"] for record in records] == [1, 2]
    assert not results.course.excluded


@pytest.mark.slow
def test_a_finished_run_is_read_and_a_run_in_two_halves_equals_a_whole_one(tmp_path, monkeypatch):
    settings = changed(
        TINY,
        algorithm="scaffold",
        algorithm_options=(("learning_rate", "0.02"),),
        rounds=3,
        sampler="uniform",
        clients_per_round=3,
    )
    results, _ = train(tmp_path / "whole", settings)
    check(results, settings)
    assert (tmp_path / "whole" / "partition.png").stat().st_size > 5_000
    again, cost = train(tmp_path / "whole", settings)
    assert cost.compile_seconds is None
    assert json.dumps(again._asdict()) == json.dumps(results._asdict())

    from fedrecon.training import faults

    rounds = []

    def interrupted_record(info, names):
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return record(info, names)

    record = faults.round_record
    monkeypatch.setattr(faults, "round_record", interrupted_record)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halves", settings)
    assert not (tmp_path / "halves" / "results.json").exists()
    monkeypatch.setattr(faults, "round_record", record)
    train(tmp_path / "halves", settings)
    files = [(tmp_path / name / "results.json").read_bytes() for name in ("whole", "halves")]
    assert files[0] == files[1]
    logs = [
        [{k: v for k, v in r.items() if "seconds" not in k} for r in read_log(tmp_path / d / "metrics.jsonl")]
        for d in ("whole", "halves")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 3
    with Workdir(tmp_path / "whole", flat(settings)) as workdir:
        assert read_results(workdir)[0].counts == results.counts
    with pytest.raises(ValueError, match=r"--algorithm.learning_rate: was '0.02', now '0.03'"):
        train(tmp_path / "whole", changed(settings, algorithm_options=(("learning_rate", "0.03"),)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "dirichlet", "minimum_examples": 4, "optimizer": "adam", "norm": "batch"},
        {"partition": "dirichlet_balanced", "minimum_examples": 4, "optimizer": "momentum"},
        {
            "partition": "quantity",
            "minimum_examples": 4,
            "reduce": "krum",
            "reduce_options": (("keep", "2"),),
            "clients": 5,
        },
        {"partition": "shards", "reduce": "median", "sampler": "poisson", "clients_per_round": 3},
        {
            "feature_shift": 0.5,
            "algorithm": "fedbn",
            "norm": "group",
            "channels": 4,
            "reduce": "geometric_median",
        },
        {"reduce": "trimmed_mean", "sampler": "weighted", "clients_per_round": 3},
        {"reduce": "geometric_median", "weighting": "equal"},
        {"sampler": "longest_absent", "clients_per_round": 2},
        {"sampler": "highest_loss", "clients_per_round": 2, "epochs": 2},
        {"task": "segmentation", "image_size": 32, "partition": "natural", "norm": "batch"},
        {"task": "segmentation", "image_size": 32, "partition": "dirichlet", "minimum_examples": 4},
        {"task": "reconstruction", "image_size": 32, "cascades": 2, "batch_size": 2},
        {"algorithm": "centralized", "epochs": 2},
        {"algorithm": "local_only", "sampler": "uniform", "clients_per_round": 2},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)
def test_tasks_partitions_samplers_and_reducers(changes, tmp_path):
    settings = tiny(**changes)
    results, _ = train(tmp_path, settings)
    assert len(results.own) == settings.clients
    assert math.isfinite(summary(results.own, "loss")[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"task": "segmentation", "cohort": "retina", "image_size": 32},
        {
            "task": "segmentation",
            "cohort": "retina",
            "image_size": 32,
            "partition": "dirichlet",
            "clients": 3,
            "concentration": 5.0,
            "minimum_examples": 4,
        },
        {"cohort": "xray", "image_size": 28},
    ],
)
def test_measured_cohorts(changes, tmp_path, measured_data):
    base = {"clients": 0, "data_dir": str(measured_data("multisite").parent), "rounds": 1}
    settings = tiny(**{**base, **changes})
    results, _ = train(tmp_path, settings)
    assert len(results.own) >= 3 and math.isfinite(summary(results.own, "loss")[0])


@pytest.mark.slow
def test_room_for_more_examples_changes_no_result(tmp_path):
    settings = changed(TINY, rounds=1)
    data = load_data(settings)
    results, _ = train(tmp_path / "as it is", settings)
    padded = pad_examples(data, train=data.train.valid.shape[1] + 3, test=data.test.valid.shape[1] + 2)
    wider, _ = train(tmp_path / "padded", settings, data=padded)
    for client, scores in results.own.items():
        np.testing.assert_allclose(list(scores.values()), list(wider.own[client].values()), rtol=1e-5)


def test_simulated_classes_are_balanced_learnable_and_drawn_from_the_seed():
    data = simulate_image_classes(100, 4, 16, seed=3)
    assert data["image"].shape == (100, 16, 16, 1) and data["image"].dtype == np.float32
    assert np.bincount(data["label"]).tolist() == [25] * 4
    np.testing.assert_array_equal(data["image"], simulate_image_classes(100, 4, 16, seed=3)["image"])
    assert np.any(data["image"] != simulate_image_classes(100, 4, 16, seed=4)["image"])


def test_natural_clients_are_alike_and_dirichlet_ones_are_not():
    alike = load_data(changed(TINY, examples_per_client=40))
    assert alike.train.names == ("client0", "client1", "client2", "client3")
    assert alike.counts.sum(1).tolist() == [40] * 4
    assert (alike.train.counts + alike.test.counts).tolist() == [40] * 4
    settings = changed(TINY, examples_per_client=40, partition="dirichlet", concentration=0.05)
    skewed = load_data(settings)
    assert skewed.counts.sum() == 160 and skewed.counts.sum(1).min() >= 10
    assert (skewed.counts.max(1) / skewed.counts.sum(1)).mean() > 0.8
    np.testing.assert_array_equal(skewed.counts.sum(1), skewed.train.counts + skewed.test.counts)


def test_reducers_have_the_defaults_they_need():
    for name in REDUCERS:
        assert make_reducer(changed(TINY, reduce=name).federation) is not None


def test_too_few_patients_name_the_flags():
    settings = changed(TINY, partition="dirichlet", concentration=1e-3, minimum_examples=1)
    with pytest.raises(ValueError, match="raise --minimum_examples"):
        load_data(settings)


def command(*arguments):
    return [sys.executable, "-m", "experiments.train_federated", *arguments]


def press_control_c(environment, flags, when):
    """Runs the command, and presses Ctrl-C as soon as ``when(process)``: exit code and what stderr got."""
    process = subprocess.Popen(
        command(*flags),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells let what runs in the background ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not when(process):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.slow
def test_control_c_ends_in_one_line_and_leaves_a_run_that_continues(environment, tmp_path):
    path = tmp_path / "run"
    flags = [*TINY_FLAGS, "--rounds=300", f"--workdir={path}"]

    def importing(process):
        return "jaxlib" in Path(f"/proc/{process.pid}/maps").read_text()

    found = press_control_c(environment, flags, importing)
    assert found == (130, "\nInterrupted; nothing was written.\n") and not path.exists()
    for rounds in (1, 5, 10):

        def reached(process, rounds=rounds):
            return len(read_log(path / "metrics.jsonl")) >= rounds

        found = press_control_c(environment, flags, reached)
        assert found == (130, f"\nInterrupted. The same command with --workdir={path} continues.\n")
        assert not (path / "results.json").exists()
        assert not [file for file in path.rglob("*") if file.suffix == ".tmp"]
    refused = subprocess.run(
        command(*flags, "--noresume"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode == 1 and "--noresume" in refused.stderr
    finished = subprocess.run(
        command(*flags), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "worst client" in finished.stdout and "rounds/s" in finished.stdout
    assert [r["round"] for r in read_log(path / "metrics.jsonl")] == list(range(1, 301))
