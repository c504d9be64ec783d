"""The comparison of one federated workload: processes, times, memory, and the table."""

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated.models import WORKLOADS, make_loss, make_problem, operations_per_round
from benchmarks.federated.registry import ENGINES, OURS, SGD, Engine
from benchmarks.measure import REPOSITORY, format_table, one_line, progress

# Rounds per second against the fastest peer, or against named ones.
GOALS: dict[str, dict[str, float]] = {
    "cnn": {"fastest": 1.5},
    "unet": {"fastest": 1.8},
    "resnet": {"fastest": 1.5},
    "tiny": {"fedjax": 40.0, "pfl": 80.0, "flower": 800.0},
}
# Seconds of a round over those of pure SGD; seconds to the end of the first round, less a round; MB.
_SGD_GOAL = {"tiny": 1.3}
_SGD_DEFAULT_GOAL, _COLD_GOAL, _WARM_GOAL, _PEAK_GOAL = 1.05, 4.0, 2.0, 700.0
_LOSS_GOAL = 1e-3
_PROCESS_LIMIT = 600
_POLL = 0.25


def compare(
    name: str,
    engines: Sequence[str],
    rounds: int,
    pythons: Mapping[str, str],
    devices: Sequence[int],
    parallel: str | int | None,
) -> dict[str, Any]:
    """Measures the engines on a workload, each alone in a process, and fedrecon before and after the others.

    Args:
      name: of the workload.
      engines: names; those that do not take the workload are left out.
      rounds: after which the weights are compared.
      pythons: by engine the interpreter of its environment, where it is not this one.
      devices: numbers of host devices that fedrecon tries.
      parallel: how its devices run their clients; None lets it choose.

    Returns:
      A JSON-able dict: ``operations`` of a round; ``initial_loss``; ``engines``, by name ``rounds_s``
      (seconds of each round after the first), ``round_s`` (their median), ``cold_s`` (start of the process to
      the end of the first round), ``peak_mb``, ``loss`` after ``rounds``, and for fedrecon ``devices``,
      ``parallel``, ``warm_s`` (as cold_s, with a filled compilation cache), ``after_s`` (the median of that
      process) and ``tried``; ``notes``, pairs of an engine and the reason why there is no number.
    """
    workload = WORKLOADS[name]
    rounds = -(-rounds // workload.dispatch) * workload.dispatch
    progress(f"{name}: inputs")
    problem = make_problem(name, rounds)
    loss_of = make_loss(problem)
    found: dict[str, dict] = {}
    notes: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "problem.npz")
        problem.save(path)

        def measure(engine: str, job: dict, environment: Mapping[str, str] | None = None) -> dict | None:
            progress(f"{name}: {engine}")
            entry = run_engine(ENGINES[engine], path, job, pythons.get(engine, sys.executable), environment)
            if "error" in entry:
                notes.append((engine, entry["error"]))
                return None
            weights = entry.pop("weights")
            entry["loss"] = loss_of(weights) if ENGINES[engine].federated else None
            progress("")
            print(f"{name}, {engine}: {entry['round_s']:.4g} s per round", flush=True)
            return entry

        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "cache")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        setting, tried = None, []
        for engine in engines:
            if ENGINES[engine].workloads is not None and name not in ENGINES[engine].workloads:
                continue
            if engine in (OURS, SGD) and setting is None:
                setting, tried = _choose(measure, devices, parallel)
                if setting is None:
                    continue
            job = ENGINES[engine].job | (setting if engine in (OURS, SGD) else {})
            entry = measure(engine, job, cache if engine == OURS else None)
            if entry is not None:
                found[engine] = entry
        if OURS in found:
            again = measure(OURS, ENGINES[OURS].job | setting, cache)
            found[OURS]["tried"] = tried
            if again is not None:
                found[OURS] |= {"warm_s": again["cold_s"], "after_s": again["round_s"]}
                found[OURS]["rounds_s"] += again["rounds_s"]
                found[OURS]["round_s"] = statistics.median(found[OURS]["rounds_s"])
    progress("")
    return {
        "title": workload.title,
        "rounds": rounds,
        "operations": operations_per_round(workload),
        "initial_loss": loss_of(problem.weights),
        "engines": found,
        "notes": notes,
    }


def _choose(measure, devices, parallel):
    """The fastest number of devices with what fedrecon chooses there, and all that were tried."""
    if len(devices) == 1 and parallel is not None:
        return {"devices": devices[0], "parallel": parallel}, []
    tried = []
    for count in devices:
        entry = measure(OURS, ENGINES[OURS].job | {"devices": count, "parallel": parallel})
        if entry is not None:
            tried.append({k: entry[k] for k in ("devices", "parallel", "round_s", "choose_s")})
    if not tried:
        return None, tried
    best = min(tried, key=lambda entry: entry["round_s"])
    return {"devices": best["devices"], "parallel": best["parallel"]}, tried


def run_engine(
    engine: Engine,
    problem: Path,
    job: Mapping[str, Any],
    python: str,
    environment: Mapping[str, str] | None = None,
    limit: float = _PROCESS_LIMIT,
) -> dict[str, Any]:
    """Runs a worker to its end.

    Returns ``rounds_s``, ``round_s``, ``cold_s``, ``peak_mb``, ``weights`` and what else it reports; or
    ``error``, one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        start = time.monotonic()
        try:
            with log.open("w") as out:
                process = subprocess.Popen(
                    [python, "-m", engine.module, problem, folder, json.dumps(dict(job))],
                    stdout=out,
                    stderr=out,
                    cwd=folder,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
                )
                peak = _wait(process, limit, engine.processes)
            if process.returncode:
                reason = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
                return {"error": f"exit {process.returncode}: {reason[:300]}"}
            result = json.loads(Path(folder, "result.json").read_text())
            with np.load(Path(folder, "weights.npz"), allow_pickle=False) as file:
                weights = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            return {"error": one_line(error)}
    stamps, per_stamp = result.pop("stamps"), result.pop("rounds_per_stamp")
    spans = [(b - a) / per_stamp for a, b in itertools.pairwise(stamps[1:])]
    result["peak_mb"] = max(result["peak_mb"], peak)
    timing = {"rounds_s": spans, "round_s": statistics.median(spans), "cold_s": stamps[1] - start}
    return {**result, **timing, "weights": weights}


def _wait(process: subprocess.Popen, limit: float, tree: bool) -> float:
    """Waits, then ends whatever the process left behind; the peak memory of it and all below it, in MB."""
    peak, known, done = 0.0, {process.pid}, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(_POLL):
            known.update(_descendants(process.pid))
            peak = max(peak, sum(map(_proportional_mb, known)))

    watcher = threading.Thread(target=watch, daemon=True)
    if tree:
        watcher.start()
    try:
        process.wait(limit)
    finally:
        done.set()
        if tree:
            watcher.join()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return peak


def _descendants(root: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The name, in parentheses, may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def _proportional_mb(pid: int) -> float:
    """What a process holds, pages that it shares with others in proportion; 0 once it is gone."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1.024e-3
    return 0.0


def describe(name: str, result: Mapping[str, Any], peak: float) -> str:
    """The table of a workload, and how it stands with the goals."""
    engines = result["engines"]
    ours = engines.get(OURS)
    rows = []
    for engine, entry in engines.items():
        loss = entry["loss"]
        rows.append(
            [
                engine,
                f"{entry['round_s']:.4g}",
                f"{entry['round_s'] / ours['round_s']:.2f}" if ours else "-",
                f"{result['operations'] / entry['round_s'] / peak:.0%}",
                f"{entry['cold_s']:.1f}",
                f"{entry['peak_mb']:.0f}",
                "-" if loss is None else f"{loss:.5f}",
            ]
        )
    header = ["engine", "s / round", "/ fedrecon", "of peak FLOP/s", "first round done s", "peak MB", "loss"]
    lines = [format_table(header, rows)]
    if ours:
        lines += _goals(name, engines)
    losses = [entry["loss"] for entry in engines.values() if entry["loss"] is not None]
    if losses:
        spread = max(losses) - min(losses)
        lines.append(
            f"loss {result['initial_loss']:.5f} at the start, after {result['rounds']} rounds engines "
            + _judged("differ by", spread, _LOSS_GOAL, above=False, form=".1e")
        )
    lines += [f"left out: {engine}: {reason}" for engine, reason in result["notes"]]
    return "\n".join(lines)


def _goals(name, engines):
    ours = engines[OURS]
    peers = {n: e["round_s"] for n, e in engines.items() if n != OURS and ENGINES[n].federated}
    lines = []
    for tried in ours["tried"]:
        way = f"{tried['devices']} devices, parallel={tried['parallel']}"
        lines.append(f"fedrecon on {way}: {tried['round_s']:.4g} s (choosing took {tried['choose_s']:.1f} s)")
    if "after_s" in ours:
        lines.append(f"fedrecon again after the others: {ours['after_s']:.4g} s")
    for peer, goal in GOALS.get(name, {}).items():
        if peer == "fastest" and peers:
            peer = min(peers, key=peers.get)
        if peer in peers:
            lines.append(_judged(f"rounds/s against {peer}", peers[peer] / ours["round_s"], goal, above=True))
    if SGD in engines:
        ratio, goal = ours["round_s"] / engines[SGD]["round_s"], _SGD_GOAL.get(name, _SGD_DEFAULT_GOAL)
        lines.append(_judged("round / pure SGD with identical layers", ratio, goal, above=False))
    # What comes on top of the rounds themselves.
    start = ours["cold_s"] - ours["round_s"]
    lines.append(_judged("cold start without the round itself, s", start, _COLD_GOAL, above=False))
    if "warm_s" in ours:
        start = ours["warm_s"] - ours["after_s"]
        lines.append(_judged("the same with the compilation cache, s", start, _WARM_GOAL, above=False))
    lines.append(_judged("peak memory, MB", ours["peak_mb"], _PEAK_GOAL, above=False, form=".0f"))
    return lines


def _judged(text: str, value: float, goal: float, *, above: bool, form: str = ".2f") -> str:
    met = value >= goal if above else value <= goal
    sign = ">=" if above else "<="
    return f"{text} {value:{form}} (goal {sign} {goal:g}: {'met' if met else 'missed'})"
