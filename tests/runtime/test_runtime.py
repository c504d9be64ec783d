"""The working directory, run log, checkpoints and the loop over rounds."""

import json
import math
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Checkpointer, RunLog, Workdir, WorkdirError, read_log, train


def test_write_atomically_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("crash")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_workdir_resumes_only_the_same_configuration(tmp_path):
    with Workdir(tmp_path / "run", {"rounds": 3, "seed": 0}) as workdir:
        assert not workdir.resumed
    with Workdir(tmp_path / "run", {"rounds": 3, "seed": 0}) as workdir:
        assert workdir.resumed
    with pytest.raises(WorkdirError, match="--rounds: was 3, now 4"):
        Workdir(tmp_path / "run", {"rounds": 4, "seed": 0})
    with pytest.raises(WorkdirError, match="noresume"):
        Workdir(tmp_path / "run", {"rounds": 3, "seed": 0}, resume=False)


def test_workdir_is_exclusive(tmp_path):
    with Workdir(tmp_path, {}), pytest.raises(WorkdirError, match="another process"):
        Workdir(tmp_path, {})
    Workdir(tmp_path, {}).close()


def test_workdir_names_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="writable directory"):
        Workdir(tmp_path / "file", {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json"):
        Workdir(tmp_path, {})


@given(cut=st.integers(min_value=0, max_value=40))
def test_a_torn_last_line_is_ignored_and_repaired(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = RunLog(path)
    log.append("a", 1, loss=1.5)
    whole = path.read_bytes()
    log.append("a", 2, loss=2.5)
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    complete = len(read_log(path))
    assert complete in (1, 2)
    RunLog(path).append("a", 3, loss=3.5)
    assert [r["round"] for r in read_log(path)] == [1, 2, 3][:complete] + [3]


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\nnonsense\n{"round": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_log(path)


def test_what_is_not_finite_is_told_from_nothing_to_report(tmp_path):
    """As JSON that any reader takes, also after a record was dropped, which writes all others again."""
    scores = {"loss": math.inf, "psnr": [-math.inf, 1.5]}
    record = {"stage": "a", "round": 1, "loss": math.nan, "dice": None, "missing": ["nan"], "scores": scores}
    for round in (1, 2):
        RunLog(tmp_path / "metrics.jsonl").append(**{**record, "round": round})
    RunLog(tmp_path / "metrics.jsonl").drop_after("a", 1)
    text = (tmp_path / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (found,) = read_log(tmp_path / "metrics.jsonl")
    assert math.isnan(found.pop("loss"))
    del record["loss"]
    scores["psnr"][0] = "-inf"
    assert found == record


def test_drop_after_touches_one_stage(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    for round in (1, 2, 3):
        log.append("a", round)
        log.append("b", round)
    log.drop_after("a", 1)
    assert [(r["stage"], r["round"]) for r in read_log(log.path)] == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]


def test_checkpoint_restores_values_dtypes_and_structure(tmp_path):
    state = {"a": jnp.arange(3), "b": (jnp.ones((2, 2), jnp.bfloat16), jnp.asarray(1 + 2j)), "empty": {}}
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.restore(state) is None
    for step in (1, 2, 3):
        checkpointer.save(step, jax.tree.map(lambda x, step=step: x * step, state))
    checkpointer.wait()
    step, restored = checkpointer.restore(state)
    assert step == 3
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected * 3))
    with pytest.raises(ValueError, match=r"leaf 'a': expected \(4,\), found \(3,\)"):
        checkpointer.restore({**state, "a": jnp.arange(4)})
    with pytest.raises(ValueError, match=r"'c': expected .* found no such leaf"):
        checkpointer.restore({**state, "c": jnp.arange(4)})
    checkpointer.close()


def _dispatch(count):
    def run(state, data, key):
        losses = []
        for _ in range(count):
            noise = jax.random.normal(jax.random.fold_in(key, state["round"]))
            state = {"round": state["round"] + 1, "w": 0.9 * state["w"] + data * noise}
            losses.append(state["w"])
        return state, {"loss": jnp.stack(losses)}

    return run


def _train(path, rounds, rounds_per_dispatch=1, dispatch=_dispatch):
    with Workdir(path, {}) as workdir:
        return train(
            workdir,
            "stage",
            {"round": jnp.int32(0), "w": jnp.float32(1.0)},
            jnp.float32(2.0),
            jax.random.key(0),
            rounds=rounds,
            dispatch=dispatch,
            rounds_per_dispatch=rounds_per_dispatch,
            summarize=lambda info: [{"loss": float(value)} for value in info["loss"]],
        )


def test_training_interrupted_in_a_round_equals_uninterrupted(tmp_path):
    expected = _train(tmp_path / "whole", 7)

    def interrupted(count):
        def run(state, data, key):
            if int(state["round"]) == 4:
                raise KeyboardInterrupt
            return _dispatch(count)(state, data, key)

        return run

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", 7, dispatch=interrupted)
    # As after a kill between the log and the checkpoint, in the middle of a line.
    log = RunLog(tmp_path / "parts" / "metrics.jsonl")
    log.append("stage", 5, loss=-1.0)
    with log.path.open("a") as file:
        file.write('{"stage": "stage", "rou')
    resumed = _train(tmp_path / "parts", 7, rounds_per_dispatch=2)
    assert resumed["w"] == expected["w"] and int(resumed["round"]) == 7
    whole, parts = (
        [(r["round"], r["loss"]) for r in read_log(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    )
    assert whole == parts and [r for r, _ in whole] == list(range(1, 8))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_ends_training_after_the_round(tmp_path):
    class Presses:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    def dropped(count):
        def run(state, data, key):
            if int(state["round"]) == 2:
                Presses()
            return _dispatch(count)(state, data, key)

        return run

    # Workers of pytest-xdist ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path, 7, dispatch=dropped)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(read_log(tmp_path / "metrics.jsonl")) == 3


@pytest.mark.slow
def test_importing_leaves_out_what_few_programs_need():
    """Half of the start of a short program would be their import."""
    code = (
        "import sys, fedrecon.federated, fedrecon.runtime, fedrecon.data, fedrecon.tasks;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"jax", "flax", "fedrecon"} <= set(found.stdout.split())
    assert not {"orbax", "tensorstore", "matplotlib", "jax_privacy", "scipy"} & set(found.stdout.split())
