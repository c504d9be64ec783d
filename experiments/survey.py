"""Runs the rows of a review of the field: each system beside FedAvg, each site alone and pooled data.

The review is Liu, Dai and Chen, *Review of Federated Learning in Medical Image Processing*, Computer Science
52(1), 2025; its 44 systems are in four --table. Every system is trained on the problem, or the problems, that
stand in for its paper's data (with --data_dir those of public files, too), over seeds; beside it are FedAvg,
each site alone, pooled data, what needs no training, and what else its paper compares with. Figures are means
over the clients' own test examples, with 95 % intervals over seeds (t distribution) and paired differences to
FedAvg; the review's own figures are of other data.

Every training has a directory of its own, --workdir/PROBLEM/METHOD/seed-N, which rows share: the same command
continues an interrupted run, and more rows or seeds extend it. The working directory gets survey.json,
survey.md and, of each table, a figure.

  python -m experiments.survey --workdir=runs/survey --row=HarmoFL --preset=smoke
  python -m experiments.survey --workdir=runs/survey --data_dir=DIR --table=frameworks
  python -m experiments.survey --workdir=runs/survey --data_dir=DIR --jobs=2
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import survey_report, survey_runs, sweep
from experiments.pipeline.programs import ending_run
from experiments.pipeline.survey_problems import PRESETS, PROBLEMS, SEEDS
from experiments.pipeline.survey_rows import TABLES, Row
from experiments.pipeline.survey_tables import ROWS
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices
from fedrecon.training import FlagError


def chosen(names: Sequence[str], table: str) -> list[Row]:
    """The rows of these names, or of a table, or all.

    Raises:
      FlagError: a name is unknown, given twice, or of another table.
    """
    rows = [row for row in ROWS if not table or row.table == table]
    if not names:
        return rows
    by_name = {row.name.lower(): row for row in rows}
    wrong = [name for name in names if name.lower() not in by_name]
    if wrong or len({name.lower() for name in names}) != len(names):
        expected = f"distinct ones of {', '.join(row.name for row in rows)}"
        raise FlagError("row", expected, ",".join(wrong or names))
    return [by_name[name.lower()] for name in names]


def trained(row: Row, data_dir: str, preset: str) -> list[str]:
    """The problems that a row is trained on: of the preset "smoke" the first one that there are data for.

    Without the public files these are the simulated ones that stand in for them.
    """
    names = [
        name if data_dir or not PROBLEMS[name].public else PROBLEMS[name].simulated for name in row.problems
    ]
    names = list(dict.fromkeys(names))
    return names[:1] if preset == "smoke" else names


def solve_problem(
    name: str,
    rows: Sequence[str],
    preset: str,
    data_dir: str,
    workdir: str,
    seeds: list[int],
    execution: dict,
) -> list[dict[str, Any]]:
    """The figures of rows on a problem, in this process."""
    found = []
    for row in (row for row in ROWS if row.name in rows):
        start = time.monotonic()
        result = survey_runs.solve(row, name, preset, data_dir, Path(workdir), seeds, **execution)
        print(f"{survey_report.line(result)} ({time.monotonic() - start:.0f} s)", flush=True)
        found.append(result)
    return found


def solve_all(
    planned: Mapping[str, list[str]], folder: Path, jobs: int, *, silent: bool = False, **arguments: Any
) -> Iterator[list[dict[str, Any]]]:
    """The figures of each problem as they come, from that many processes, which end with this one.

    Raises:
      FlagError: a process was ended from outside.
    """
    arguments |= {"workdir": str(folder)}
    if jobs == 1:
        for name, rows in planned.items():
            yield solve_problem(name, rows, **arguments)
        return
    # A problem's trainings are shared by its rows, so that a process takes a whole problem.
    with ProcessPoolExecutor(
        jobs,
        get_context("spawn"),
        initializer=_begin,
        initargs=(str(folder), arguments["preset"], silent),
        max_tasks_per_child=1,
    ) as pool:
        try:
            running = [pool.submit(solve_problem, name, rows, **arguments) for name, rows in planned.items()]
            for done in as_completed(running):
                yield done.result()
        except BrokenProcessPool as error:
            found = "one that was ended, for instance for want of memory"
            raise FlagError("jobs", f"{jobs} processes that come to an end by themselves", found) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()


def _begin(folder: str, preset: str, silent: bool = False) -> None:
    """Of each process, before JAX starts; a silent one leaves the standard output to the results."""
    if silent:
        sys.stdout = sys.stderr
    if preset != "full":
        # Few steps take longer to compile than to run; more run three times as fast at the next level.
        sweep.compile_quickly(0 if preset == "smoke" else 1)
    sweep.share_programs(Path(folder))


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        data_dir = values.data_dir if values.data_dir is not None else os.environ.get("FEDRECON_DATA", "")
        rows = chosen(values.row, values.table)
        planned: dict[str, list[str]] = {}
        for row in rows:
            for name in trained(row, data_dir, values.preset):
                survey_runs.plan(row, name, values.preset, data_dir)
                planned.setdefault(name, []).append(row.name)
        seeds = sweep.seeds_of(values.seeds or SEEDS[values.preset], 0)
        config = {"survey": values.preset, "seeds": len(seeds)}
        set_cpu_devices(1)
        with (
            sweep.only_json(values.json),
            Workdir(
                values.workdir, config, describe_environment(), resume=values.resume, growing={"seeds": ""}
            ) as workdir,
        ):
            _begin(str(workdir.path), values.preset)
            results = survey_report.read(workdir.path)
            execution = {"parallel": "scan", "rounds_per_dispatch": 1}
            common = {"preset": values.preset, "data_dir": data_dir, "seeds": seeds, "execution": execution}
            for found in solve_all(planned, workdir.path, values.jobs, silent=values.json, **common):
                results |= {f"{result['row']}/{result['problem']}": result for result in found}
                document = survey_report.write(workdir.path, results, values.preset)
        if values.json:
            print(json.dumps(document))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    text = "Directory of the survey; created when absent."
    flags.DEFINE_string("workdir", "runs/survey", text, **options)
    flags.DEFINE_bool("resume", True, "Continue what is in --workdir; --noresume refuses instead.", **options)
    flags.DEFINE_list("row", [], "Rows of the review by name; by default all of --table.", **options)
    flags.DEFINE_enum("table", "", ["", *TABLES], "Rows of one table; by default of all.", **options)
    text = "Sizes: seconds a row and one seed, a minute or two a row, or longer."
    flags.DEFINE_enum("preset", "small", list(PRESETS), text, **options)
    text = (
        "Folder of the public files (multisite/); by default $FEDRECON_DATA, and without it all is simulated."
    )
    flags.DEFINE_string("data_dir", None, text, **options)
    text = "Number of seeds, from 0 on; by default by --preset."
    flags.DEFINE_integer("seeds", None, text, 1, 1000, **options)
    flags.DEFINE_integer("jobs", 1, "Processes, each of which takes a problem at a time.", 1, 64, **options)
    flags.DEFINE_bool("json", False, "Print JSON, nothing else.", **options)


if __name__ == "__main__":
    define_flags()
    run_program(main)
