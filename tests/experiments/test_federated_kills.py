"""A federated run that is killed 200 times or more, or 40 in short, is the run that nobody killed.

All kills are SIGKILLs of real processes. Starting Python and compiling take seconds, so a driver that has
imported everything, and has not started JAX, forks each process, which loads the program that the first one
compiled. A kill may fall into opening the directory, restoring, a round, the log, or a save in its threads.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401 (imported before forking)
import pytest
from jax.experimental import serialize_executable

from fedrecon import federated as fl
from fedrecon.runtime import Workdir, read_log, train
from fedrecon.types import Variables
from tests.federated.conftest import QUAD, quad_data

# On a busy machine lives grow longer until some reach the next checkpoint.
KILLS, LONGEST_SECONDS, PATIENCE = 200, 0.3, 6
# Kills between the log and the checkpoint, during saves, and after progress: where few kills fall there,
# more follow.
WANTED, MOST_KILLS = {"ahead": 10, "unfinished": 10, "moved": 20}, 2000


def compile_program(file: Path) -> None:
    """Rounds of SCAFFOLD, with what stays at clients, of three of four clients at a time."""
    algorithm = fl.scaffold(QUAD, 0.05, sampler=fl.uniform_clients(3))
    data, key = quad_data(), jax.random.key(5)
    state = fl.init_state(algorithm, Variables({"w": jnp.ones(2)}, {}), data)
    round = fl.run_rounds(fl.make_round(algorithm, batch_size=1, epochs=1), 1)
    program = serialize_executable.serialize(round.lower(state, data, key).compile())
    arrays = jax.device_get((state, data, jax.random.key_data(key)))
    file.write_bytes(pickle.dumps((program, arrays)))


def load_program(file: Path):
    program, (state, data, key) = pickle.loads(file.read_bytes())
    arrays = jax.device_put((state, data, jax.random.wrap_key_data(jnp.asarray(key))))
    return serialize_executable.deserialize_and_load(*program), *arrays


def summarize(info):
    total, count = info.metrics["loss"]
    return [{"loss": float(total[0] / count[0]), "who": np.flatnonzero(info.participated[0]).tolist()}]


def run(folder: Path, rounds: int, started: int) -> None:
    """A process's life, unless it is killed."""
    dispatch, state, data, key = load_program(folder / "program")
    os.write(started, b"!")
    with Workdir(folder / "run", {}) as workdir:
        state = train(
            workdir,
            "stage",
            state,
            data,
            key,
            rounds=rounds,
            dispatch=lambda n: dispatch,
            summarize=summarize,
        )
    (folder / "killed.pickle").write_bytes(pickle.dumps(jax.device_get(state)))


def run_whole(folder: Path, rounds: int) -> None:
    """The same rounds, without a working directory."""
    dispatch, state, data, key = load_program(folder / "program")
    records = []
    for _ in range(rounds):
        state, info = dispatch(state, data, key)
        records += summarize(jax.device_get(info))
    (folder / "whole.pickle").write_bytes(pickle.dumps((jax.device_get(state), records)))


def fork(work, *arguments) -> int:
    child = os.fork()
    if child:
        return child
    try:
        jax.config.update("jax_platforms", "cpu")
        work(*arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child: int) -> None:
    assert os.waitpid(child, 0)[1] == 0


def newest(folder: Path) -> int:
    steps = [int(p.name) for p in (folder / "run" / "checkpoints" / "stage").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def drive(folder: Path, part: float) -> None:
    """Kills a part of 200 times or more, finishes, and writes what it saw."""
    finish(fork(compile_program, folder / "program"))
    rng, seen = np.random.default_rng(8), dict.fromkeys(WANTED, 0)
    longest, in_vain = LONGEST_SECONDS, 0
    for kill in range(MOST_KILLS):
        if kill >= part * KILLS and all(seen[name] > part * count for name, count in WANTED.items()):
            break
        ready, started = os.pipe()
        before = newest(folder)
        child = fork(run, folder, 10**6, started)
        os.close(started)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        checkpoint = newest(folder)
        seen["ahead"] += len(read_log(folder / "run" / "metrics.jsonl")) > checkpoint
        seen["unfinished"] += any("tmp" in p.name for p in (folder / "run" / "checkpoints").glob("*/*"))
        seen["moved"] += checkpoint > before
        in_vain = 0 if checkpoint > before else in_vain + 1
        if in_vain == PATIENCE:
            longest, in_vain = 1.5 * longest, 0
    rounds = newest(folder) + 3
    ready, started = os.pipe()
    finish(fork(run, folder, rounds, started))
    finish(fork(run_whole, folder, rounds))
    (folder / "seen.json").write_text(json.dumps(seen))


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.2, pytest.param(1.0, marks=pytest.mark.nightly)])
def test_two_hundred_kills_change_nothing(part, tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "tests.experiments.test_federated_kills", str(tmp_path), str(part)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = pickle.loads((tmp_path / "killed.pickle").read_bytes())
    expected, records = pickle.loads((tmp_path / "whole.pickle").read_bytes())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.tobytes() == b.tobytes() and a.dtype == b.dtype
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [record["round"] for record in log] == list(range(1, len(records) + 1))
    assert [{name: record[name] for name in ("loss", "who")} for record in log] == records
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert all(seen[name] > part * count for name, count in WANTED.items()), seen


if __name__ == "__main__":
    drive(Path(sys.argv[1]), float(sys.argv[2]))
