"""`fedrecon.run`: closed forms, all kinds of data and methods, resuming, and what is refused."""

import asyncio
import shutil
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedrecon
from experiments import export
from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.data import DataError
from fedrecon.data.clients import cohort_from_arrays, stack_clients
from fedrecon.runtime import WorkdirError
from fedrecon.tasks import module_task
from fedrecon.training import Stage
from fedrecon.training.results import keep_program

COUNTS = {"a": 5, "b": 9, "c": 7}
RATE = 0.1


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[:, 0]


def site(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return {"image": x, "label": x @ [1.0, -2.0, 0.5] + seed, "patient": np.arange(count) // 2}


def task(example):
    return module_task(Linear(), "squared_error", example)


SITES = {name: site(count, seed) for seed, (name, count) in enumerate(COUNTS.items())}


@pytest.fixture(scope="module")
def parts():
    """(train, test, validation) of the sites, of which test is validation, too."""
    cohort = cohort_from_arrays(SITES)
    return cohort.train, cohort.test, cohort.test


def go(parts, folder, method="fedavg", **options):
    given = {"rounds": 3, "batch_size": 16, "learning_rate": RATE, "parallel": "scan", **options}
    return fedrecon.run(parts, task, method, workdir=folder, **given)


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    return go(parts, tmp_path_factory.mktemp("whole") / "run")


def numpy_fedavg(train, rounds, rate, first=None):
    """Means of squared errors at three clients, a step of gradient descent a round, averaged by size."""
    if first is None:
        example = {name: x[0] for name, x in train.examples.items()}
        first = task(example).init(jax.random.fold_in(jax.random.key(0), 1))
    dense = first.params["Dense_0"]
    w = np.append(np.asarray(dense["kernel"], float)[:, 0], np.asarray(dense["bias"], float))
    for _ in range(rounds):
        moved = []
        for i in range(train.clients):
            x = np.asarray(train.examples["image"][i][train.valid[i]], float)
            x, y = np.c_[x, np.ones(len(x))], train.examples["label"][i][train.valid[i]]
            moved.append(w - rate * 2 * x.T @ (x @ w - y) / len(x))
        w = np.average(moved, axis=0, weights=train.counts)
    return w


def test_fedavg_of_a_linear_model_is_the_one_of_numpy(parts, whole):
    expected = numpy_fedavg(parts[0], 3, RATE)
    found = whole.variables.params["Dense_0"]
    np.testing.assert_allclose(np.append(found["kernel"][:, 0], found["bias"]), expected, rtol=2e-5)
    losses = {}
    for i, name in enumerate(COUNTS):
        x, y = (np.asarray(parts[1].examples[k][i][parts[1].valid[i]], float) for k in ("image", "label"))
        losses[name] = np.square(x @ expected[:3] + expected[3] - y).mean()
        np.testing.assert_allclose(whole.scores[name]["loss"], losses[name], rtol=1e-4)
    np.testing.assert_allclose(whole.mean["loss"], np.mean(list(losses.values())), rtol=1e-4)
    np.testing.assert_allclose(whole.worst["loss"], max(losses.values()), rtol=1e-4)
    assert whole.released == whole.scores and not whole.personal
    assert [record["round"] for record in whole.history] == [1, 2, 3]
    assert set(whole.history[0]["validation"]) == set(COUNTS)
    # Five numbers and a weight of four bytes each, of three clients in three rounds.
    assert whole.bytes_up == whole.bytes_down + 9 * 4 == 9 * 4 * 5
    assert whole.course.curve == "validation loss" and whole.course.rounds == 3


def test_a_run_of_a_closure_is_exported_by_the_command(parts, whole, tmp_path):
    """The program has nothing but the run, which keeps what the task predicts."""
    card = export.run(str(whole.workdir), str(tmp_path / "model"))
    assert (card["task"], card["trained_on"]["data"], card["inputs"]) == (
        "own",
        "not stated",
        {"image": {"shape": [3], "dtype": "float32"}},
    )
    call = "fedrecon.run(cohort, task, 'fedavg', workdir='RUN', rounds=3, batch_size=16, learning_rate=0.1)"
    assert card["command"] == call
    assert card["scores"]["released"]["a"]["loss"] == pytest.approx(whole.released["a"]["loss"])
    w, image = numpy_fedavg(parts[0], 3, RATE), np.random.default_rng(0).normal(size=(4, 3))
    found = fedrecon.load(tmp_path / "model").predict({"image": image})
    np.testing.assert_allclose(found, image @ w[:3] + w[3], atol=1e-5)
    folder = tmp_path / "copy"
    shutil.copytree(whole.workdir, folder)
    program = folder / "models" / "fedavg.stablehlo"
    program.write_bytes(program.read_bytes()[:100])
    with pytest.raises(DataError, match=r"fedavg\.stablehlo.*expected a program of fedrecon\.run"):
        export.run(str(folder), str(tmp_path / "other"))
    program.unlink()
    with pytest.raises(DataError, match=r"fedavg\.stablehlo.*same call of fedrecon\.run .* no such file"):
        export.run(str(folder), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"^--stage: expected own, .* found segmentation"):
        export.run(str(folder), str(tmp_path / "other"), "segmentation")
    # The same call, of a run that came to its end before.
    go(parts, folder, report=pytest.fail)
    assert export.run(str(folder), str(tmp_path / "other")) == card


def test_of_a_network_that_cannot_be_exported_the_reason_is_told(parts, whole, tmp_path):
    def predict(params, stats, batch):
        return jnp.eye(int(batch["image"].shape[0])) @ batch["image"]

    made = task({name: x[0] for name, x in parts[0].examples.items()})._replace(predict=predict)
    stage = Stage("fedavg", made, whole.variables, parts[0], jax.random.key(0), jax.random.key(0))
    with pytest.warns(UserWarning, match="the trained network cannot be exported: ArgumentError: predict: "):
        keep_program(tmp_path, stage, whole.variables)
    keep_program(tmp_path, stage, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_finished_run_is_read_and_an_interrupted_one_continued(parts, whole, tmp_path):
    lines = []

    def stop(line):
        lines.append(line)
        if line == "fedavg, round 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(parts, tmp_path / "halves", report=stop)
    again = go(parts, tmp_path / "halves", report=lines.append)
    assert lines.count("fedavg, round 1") == 1 and lines.count("fedavg, round 3") == 2
    jax.tree.map(np.testing.assert_array_equal, again.variables, whole.variables)
    assert again.scores == whole.scores
    read = go(parts, tmp_path / "halves", report=pytest.fail)
    jax.tree.map(np.testing.assert_array_equal, read.variables, whole.variables)
    assert read.scores == whole.scores and str(read.course) == str(again.course)
    # Three rounds from where three ended are not six, but begin there.
    onward = go(parts, tmp_path / "onward", initialize_from=str(tmp_path / "halves"))
    start = jax.tree.map(np.asarray, whole.variables)
    np.testing.assert_allclose(
        np.append(onward.variables.params["Dense_0"]["kernel"], onward.variables.params["Dense_0"]["bias"]),
        numpy_fedavg(parts[0], 3, RATE, start),
        rtol=2e-5,
    )
    with pytest.raises(ValueError, match=r"^initialize_from: expected RUN"):
        go(parts, tmp_path / "nowhere", initialize_from="absent")
    more = go(parts, tmp_path / "halves", rounds=4)
    assert more.course.rounds == 4 and len(more.history) == 4
    others = {"seed": 1, "learning_rate": 0.2, "clip_norm": 1.0, "method": "fedadam", "rounds": 2}
    for name, value in others.items():
        with pytest.raises(WorkdirError, match=f"{dict(method='algorithm').get(name, name)}:"):
            go(parts, tmp_path / "halves", **{name: value})
    changed = jax.tree.map(lambda x: x.copy(), parts[0])
    changed.examples["image"][0, 0, 0] += 1
    with pytest.raises(WorkdirError, match=r"other settings \(cohort: was"):
        go((changed, *parts[1:]), tmp_path / "halves")
    with pytest.raises(WorkdirError, match=r"other settings \(task: was"):
        fedrecon.run(
            parts,
            lambda example: module_task(Linear(), "absolute_error", example),
            workdir=tmp_path / "halves",
            rounds=4,
            batch_size=16,
            learning_rate=RATE,
        )


def plain(task, optimizer, **options):
    return fl.federated(task, optimizer, **options)


@pytest.mark.slow
def test_methods_may_be_values(parts, whole, tmp_path):
    made = task({name: x[0] for name, x in parts[0].examples.items()})
    kinds = {
        "method": (fl.Method(), {}),
        "recipe": (plain, {}),
        "catalog recipe": (fl.fedavg, {}),
        "algorithm": (fl.fedavg(made, optax.sgd(RATE)), {"learning_rate": 0.05}),
    }
    before = catalog.entries()
    for kind, (method, options) in kinds.items():
        found = go(parts, tmp_path / kind, method, **options)
        jax.tree.map(np.testing.assert_array_equal, found.variables, whole.variables)
    assert catalog.entries() == before
    # Statistics of nobody are shared: everybody keeps what it has.
    alone = fl.fedavg(made, optax.sgd(RATE), share_mask=fedrecon.Variables(False, False))
    own = go(parts, tmp_path / "alone", alone)
    assert set(own.personal) == set(COUNTS) and own.scores != whole.scores
    local = go(parts, tmp_path / "local", "local_only")
    assert local.variables is None and not local.released
    jax.tree.map(np.testing.assert_array_equal, local.personal, own.personal)


def test_arrays_are_divided_by_patient():
    sites = {"x": {**site(20, 0), "image": np.arange(20)[:, None]}}
    cohort = cohort_from_arrays(sites, fractions=(0.6, 0.2, 0.2), seed=3)
    seen = {}
    for part in ("train", "validation", "test"):
        data = getattr(cohort, part)
        members = data.examples["image"][0, data.valid[0], 0]
        # Two examples of each patient; "volume" counts them within the part.
        whose = [int(p) for p in np.repeat(cohort.patients[part][0], 2)]
        assert (members // 2).tolist() == whose
        assert (
            data.examples["volume"][0, data.valid[0]].tolist()
            == np.repeat(range(len(whose) // 2), 2).tolist()
        )
        seen[part] = set(whose)
    assert [len(s) for s in seen.values()] == [6, 2, 2] and len(set.union(*seen.values())) == 10
    assert data.examples["label"].dtype == np.float32 and data.examples["image"].dtype == np.int32


def test_labels_that_are_texts_are_numbered_over_all_hospitals():
    texts = {"x": ["mild", "none", "mild"] * 3, "y": np.array(["severe", "none", "none"] * 3, object)}
    sites = {name: {"image": np.arange(9.0), "label": label} for name, label in texts.items()}
    cohort = cohort_from_arrays(sites)
    assert cohort.labels == ("mild", "none", "severe") and cohort.train.examples["label"].dtype == np.int32
    for i, name in enumerate(sites):
        for part in (cohort.train, cohort.validation, cohort.test):
            image, label = (part.examples[key][i, part.valid[i]] for key in ("image", "label"))
            assert [cohort.labels[n] for n in label] == [texts[name][int(k)] for k in image]
    mixed = {**sites, "z": {"image": np.arange(9.0), "label": np.arange(9)}}
    with pytest.raises(ValueError, match=r"^cohort\['x'\]\['label'\]: expected an array .* of numbers"):
        cohort_from_arrays(mixed)


@pytest.mark.slow
def test_threads_and_running_event_loops_train_as_they_do_alone(parts, whole, tmp_path):
    """As cells of a notebook; two methods that are values have one name."""
    hooks = sys.unraisablehook, threading.excepthook

    async def both():
        made = [asyncio.to_thread(go, parts, tmp_path / name, fl.Method()) for name in "ab"]
        return await asyncio.gather(*made)

    async def here():
        return go(parts, tmp_path / "c")

    for found in (*asyncio.run(both()), asyncio.run(here())):
        jax.tree.map(np.testing.assert_array_equal, found.variables, whole.variables)
    assert (sys.unraisablehook, threading.excepthook) == hooks


REFUSED = {
    "few": ({"a": site(4, 0)}, {}, r"^cohort: expected patients for training, .* found 2 in 'a'"),
    "nan": ({"a": {"image": [[0.0], [np.nan]]}}, {}, r"^cohort\['a'\]\['image'\]: .* in example 1"),
    "text": ({"a": {"image": ["x", "y"]}}, {}, r"^cohort\['a'\]\['image'\]: expected an array"),
    "length": ({"a": {"image": np.ones((3, 1)), "label": np.ones(2)}}, {}, r"^cohort\['a'\]: .*'label': 2"),
    "keys": ({**SITES, "d": {"image": np.ones((9, 3))}}, {}, r"^client 'd': expected the keys"),
    "none": ({}, {}, "^cohort: expected at least one hospital"),
    "list": ([1, 2], {}, "^cohort: expected a Cohort, .* found list"),
    "rate": (SITES, {"learning_rate": -1}, "^learning_rate: expected a positive number, found -1"),
    "rounds": (SITES, {"rounds": 2.5}, "^rounds: expected a positive whole number, found 2.5"),
    "name": (SITES, {"momentum": 0.9}, "^momentum: expected an argument of run, or one of .*optimizer"),
    "kind": (SITES, {"patience": "long"}, "^patience: expected a value of int, found 'long'"),
    "need": (SITES, {"discount": 0.2}, "^discount: expected topology=asynchronous with it"),
    "method": (SITES, {"method": "fedmagic"}, "^algorithm: expected one of .*fedprox"),
    "value": (SITES, {"method": 3}, "^method: expected a name of the catalog, .* found int"),
    "option": (SITES, {"options": {"strength": 1}}, r"^options.strength: expected one of fedavg's options"),
    "task": (SITES, {"task": "triage"}, "^task: expected .* or a task, found 'triage'"),
    "result": (SITES, {"task": lambda e: 3}, "^task: expected a fedrecon.Task, .* function that returns int"),
    "key": (
        *(SITES, {"task": lambda e: module_task(Linear(), lambda z, b: z + b["grade"], e)}),
        r"^task: expected keys of the examples \(image, label, volume\), found 'grade'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(case, tmp_path):
    cohort, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as found:
        fedrecon.run(cohort, **{"task": task, "workdir": tmp_path / "run", **options})
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()


def test_clients_of_other_parts_are_refused(parts):
    other = stack_clients([{"image": np.ones((2, 3), np.float32)}], ("z",))
    with pytest.raises(ValueError, match=r"^cohort: expected the same clients in all parts"):
        fedrecon.run((parts[0], other), task, workdir="unused")


@pytest.mark.slow
def test_batch_statistics_are_averaged_and_stay_with_fedbn(parts, tmp_path):
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(1)(nn.BatchNorm(not train, momentum=0.0)(x))[:, 0]

    def normalized(example):
        return module_task(Normalized(), "squared_error", example)

    given = {"rounds": 1, "batch_size": 16, "parallel": "scan"}
    shared = fedrecon.run(parts, normalized, workdir=tmp_path / "a", **given)
    means = [x[v].mean(0) for x, v in zip(parts[0].examples["image"], parts[0].valid, strict=True)]
    mean = shared.variables.stats["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, np.average(means, axis=0, weights=parts[0].counts), atol=1e-6)
    own = fedrecon.run(parts, normalized, "fedbn", workdir=tmp_path / "b", **given)
    for name, expected in zip(COUNTS, means, strict=True):
        np.testing.assert_allclose(own.personal[name].stats["BatchNorm_0"]["mean"], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"^dp_epsilon: expected .*running statistics"):
        fedrecon.run(parts, normalized, workdir=tmp_path / "c", dp_epsilon=5.0, batch_size=2)


@pytest.mark.slow
def test_patience_keeps_the_best_round(parts, tmp_path):
    # The rate is too high to converge: the first round after the start is the best.
    short = go(parts, tmp_path / "short", learning_rate=0.6, rounds=1)
    found = go(parts, tmp_path / "long", learning_rate=0.6, rounds=20, patience=2)
    assert found.course.best_round == 1 and found.course.rounds == 3 and found.course.converged
    jax.tree.map(np.testing.assert_array_equal, found.variables, short.variables)
    assert jnp.isfinite(found.mean["loss"])
