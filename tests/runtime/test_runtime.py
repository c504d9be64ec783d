"""The working directory, run log, checkpoints and the loop over rounds."""

import contextlib
import errno
import json
import math
import os
import signal
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.errors import ArgumentError
from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Checkpointer, RunLog, Workdir, WorkdirError, read_log, train, training


def test_a_file_that_cannot_be_written_is_named_as_the_caller_knows_it(tmp_path):
    """Not by the temporary name, and also where the disk is full, of which the system names no file."""
    with pytest.raises(OSError) as raised, replacing(tmp_path / "x.h5"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "x.h5") and not list(tmp_path.iterdir())
    with pytest.raises(OSError) as raised:
        write_atomically(tmp_path / "none" / "x.h5", b"")
    assert raised.value.filename == str(tmp_path / "none" / "x.h5")
    with pytest.raises(OSError) as raised, replacing(tmp_path / "x.h5"):
        (tmp_path / "another").read_bytes()
    assert raised.value.filename == str(tmp_path / "another")


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
    with pytest.raises(ValueError, match=r"leaf 'a': expected int32 \(4,\), found int32 \(3,\)"):
        checkpointer.restore({**state, "a": jnp.arange(4)})
    with pytest.raises(ValueError, match=r"'c': expected .* found no such leaf"):
        checkpointer.restore({**state, "c": jnp.arange(4)})
    checkpointer.close()


@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt", "d/*", "_sharding"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_restored(file, tmp_path, capsys):
    state = {"a": jnp.arange(3.0)}
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, {"a": step * state["a"]})
    checkpointer.close()
    (path,) = (tmp_path / "2" / "default").glob(file)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checkpointer = Checkpointer(tmp_path)
    step, restored = checkpointer.restore(state)
    assert step == 1
    np.testing.assert_array_equal(restored["a"], [0, 1, 2])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"{tmp_path}/2: damaged checkpoint left out, round 1")
    checkpointer.save(2, {"a": 5 * state["a"]})
    checkpointer.wait()
    assert checkpointer.restore(state)[1]["a"][1] == 5
    checkpointer.close()


def test_checkpoints_of_another_dtype_or_all_damaged_are_refused(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": jnp.arange(3)})
    checkpointer.wait()
    with pytest.raises(ArgumentError, match=r"leaf 'a': expected float32 \(3,\), found int32 \(3,\)"):
        checkpointer.restore({"a": jnp.arange(3.0)})
    (tmp_path / "1" / "default" / "_METADATA").unlink()
    with pytest.raises(ArgumentError, match=r"1: expected a readable checkpoint .*, found no _METADATA"):
        checkpointer.restore({"a": jnp.arange(3)})
    checkpointer.close()


def test_a_full_disk_is_told_as_such_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, capfd):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": jnp.arange(3)})
    checkpointer.wait()

    def full(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.StandardCheckpointHandler.async_save", full)
        with pytest.raises(OSError) as raised:
            checkpointer.save(2, {"a": jnp.arange(3)})
            checkpointer.wait()
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path)
    assert checkpointer.restore({"a": jnp.arange(3)})[0] == 1
    with contextlib.suppress(OSError):
        checkpointer.close()
    assert not capfd.readouterr().err


def test_checkpointers_at_once_leave_the_hooks_of_the_process(tmp_path, capsys):
    """As trainings in two threads, of which the first to begin may be the first to end."""
    hooks = sys.unraisablehook, threading.excepthook
    first, second = (Checkpointer(tmp_path / name) for name in "ab")
    assert sys.unraisablehook is not hooks[0]
    first.close()
    sys.unraisablehook(types.SimpleNamespace(exc_type=ValueError))
    second.close()
    assert (sys.unraisablehook, threading.excepthook) == hooks and not capsys.readouterr().err


def test_checkpointers_of_several_threads_take_turns(tmp_path, monkeypatch):
    """Orbax mixes up saves that overlap: half of such runs hung or ended in errors about its folders."""
    checkpointers = [Checkpointer(tmp_path / name) for name in "abc"]
    inside, most, real = [], [], Checkpointer.wait

    def wait(self):
        inside.append(self)
        most.append(len(set(inside)))
        real(self)
        inside[:] = [other for other in inside if other is not self]

    monkeypatch.setattr(Checkpointer, "wait", wait)

    def work(checkpointer):
        for step in range(3):
            checkpointer.save(step, {"a": jnp.arange(4) + step})

    threads = [threading.Thread(target=work, args=(one,)) for one in checkpointers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 9
    for one in checkpointers:
        assert one.restore({"a": jnp.arange(4)})[1]["a"].tolist() == [2, 3, 4, 5]
        one.close()


def test_checkpoints_take_a_small_part_of_the_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    due, saved = training._Due(), []
    for round in range(100):
        clock[0] += 1.0
        if due.now():
            with due.saving():
                clock[0] += 0.5
            saved.append(round)
    # Half a second in ten.
    assert len(saved) == 10 and saved[:3] == [0, 10, 20]


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
    assert int(_train(tmp_path / "once", 7, rounds_per_dispatch=9)["round"]) == 7


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


def test_an_interrupt_during_a_save_comes_after_it(tmp_path, monkeypatch):
    """Half a save leaves threads of orbax that nothing ends."""
    saved, save = [], Checkpointer.save

    def pressed(self, step, state):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        save(self, step, state)
        saved.append(step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Checkpointer, "save", pressed)
            _train(tmp_path / "parts", 3)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert saved == [1] and [path.name for path in (tmp_path / "parts/checkpoints/stage").iterdir()] == ["1"]
    assert _train(tmp_path / "parts", 3)["w"] == _train(tmp_path / "whole", 3)["w"]


def test_numbers_that_may_grow_continue_the_run_and_say_why_not(tmp_path):
    environment = {"python": "3"}
    with Workdir(tmp_path, {"rounds": 3, "rate": 0.1}, environment):
        pass
    before = (tmp_path / "config.json").read_text()
    for config, obstacle, message in (
        ({"rounds": 2, "rate": 0.1}, "", "--rounds: expected at least 3, as many as the run has, found 2"),
        ({"rounds": 5, "rate": 0.1}, "since it ends", "--rounds: expected 3, .*, since it ends, found 5"),
        ({"rounds": 5, "rate": 0.2}, "", "other settings .*--rate: was 0.1, now 0.2, --rounds: was 3, now 5"),
        ({"rounds": 5}, "", "other settings"),
    ):
        with pytest.raises(WorkdirError, match=message):
            Workdir(tmp_path, config, growing={"rounds": obstacle})
        assert (tmp_path / "config.json").read_text() == before
    with pytest.raises(WorkdirError, match="other settings"):
        Workdir(tmp_path, {"rounds": 5, "rate": 0.1})
    with Workdir(tmp_path, {"rounds": 5, "rate": 0.1}, growing={"rounds": ""}) as workdir:
        assert workdir.resumed
    found = json.loads((tmp_path / "config.json").read_text())
    assert found == {"config": {"rounds": 5, "rate": 0.1}, "environment": environment}


def test_a_run_that_ends_before_it_begins_leaves_no_trace(tmp_path):
    def run(folder, error, **members):
        with pytest.raises(type(error)), Workdir(folder, {"a": 1}) as workdir:
            for name, text in members.items():
                (workdir / name).write_text(text)
            raise error

    run(tmp_path / "new", ValueError("a file"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    run(tmp_path / "old", ValueError("a file"))
    assert list((tmp_path / "old").iterdir()) == []
    # What was written stays, as does what is not about settings or files, and a run begun before.
    run(tmp_path / "log", ValueError("a file"), log="1")
    run(tmp_path / "bug", RuntimeError("a bug"))
    run(tmp_path / "bug", ValueError("a file"))
    assert all((tmp_path / name / "config.json").exists() for name in ("log", "bug"))
