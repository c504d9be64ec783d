"""Compares the quality of reconstructed images with that of BART and sigpy, where these are installed.

Measured k-space is undersampled by several masks; every method of every library runs at the best weight of a
ladder by PSNR, which a walk uphill finds: ours with maps of our ESPIRiT and with those of BART, the others
with those of BART (ours where BART is missing). Ours also runs as a user without flags has it. Magnitudes are
scored against the root of the sum of squares of all samples, the same for all. Scans that are themselves
undersampled are completed by `l1-wavelet` first, which favors sparse methods, those of all libraries alike;
images without raw data (FILE:GROUP) get a phase, coils and noise. Seconds are those of one weight and the
maps: of ours after compilation, of BART with its start and its files, of sigpy within its process.

  python -m experiments.benchmark_quality --json=quality.json --figures=figures
  python -m experiments.benchmark_quality --scans=brain_cimax3t_16ch --masks=random --accelerations=4
  python -m experiments.benchmark_quality --finished=a.json,b.json --json=all.json --table=quality.md
"""

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.pipeline.quality_cases import MASKS, SCANS, Case, cases, scan_file
from experiments.pipeline.quality_report import describe, markdown, summary, write_figure
from experiments.pipeline.quality_solvers import (
    Libraries,
    NotComputedError,
    Solved,
    bart_maps,
    open_libraries,
    our_maps,
    solve_by_default,
)
from experiments.reconstruct import scores
from fedrecon.classical import ClassicalSettings, settled
from fedrecon.files import write_atomically
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError

LIBRARIES = ("fedrecon", "bart", "sigpy")
METHODS = ("cg-sense", "l1-wavelet", "total-variation", "tgv")
_SPARSE = (2e-5, 6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2, 6e-2, 2e-1)
WEIGHTS = {"cg-sense": tuple(1.5 * weight for weight in _SPARSE)} | dict.fromkeys(METHODS[1:], _SPARSE)


@dataclasses.dataclass(frozen=True)
class QualityOptions:
    """The flags; see `define_flags`."""

    data: str = ""
    json: str | None = None
    table: str | None = None
    figures: str | None = None
    finished: list[str] = dataclasses.field(default_factory=list)
    scans: list[str] = dataclasses.field(default_factory=lambda: list(SCANS))
    masks: list[str] = dataclasses.field(default_factory=lambda: list(MASKS))
    accelerations: list[str] = dataclasses.field(default_factory=lambda: ["4", "6"])
    libraries: list[str] = dataclasses.field(default_factory=lambda: list(LIBRARIES))
    methods: list[str] = dataclasses.field(default_factory=lambda: list(METHODS))
    sigpy_python: str | None = None


def define_flags() -> None:
    """Defines the flags of this program."""
    folder = str(Path(os.environ.get("FEDRECON_DATA", "../shared/data")) / "mri")
    flags.DEFINE_string("data", folder, "Folder of the measured files.")
    flags.DEFINE_string("json", None, "File of all rows.")
    flags.DEFINE_string("table", None, "File of the table, Markdown.")
    flags.DEFINE_string("figures", None, "Folder of one picture per case and method.")
    flags.DEFINE_list("finished", [], "Files of --json of earlier runs, whose cases are taken over.")
    flags.DEFINE_list(
        "scans", list(SCANS), "Names of files in --data, without suffix, or FILE:GROUP of images."
    )
    flags.DEFINE_list("masks", list(MASKS), f"Of {', '.join(MASKS)}.")
    flags.DEFINE_list("accelerations", ["4", "6"], "Undersampling factors above 1.")
    flags.DEFINE_list("libraries", list(LIBRARIES), f"Of {', '.join(LIBRARIES)}.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_string("sigpy_python", None, "A Python that has sigpy; this one when not given.")


def climb(value: Callable[[int], float], count: int, start: int) -> int:
    """The index of a maximum of ``value(index)``, uphill from ``start``."""
    best = start
    while True:
        near = [i for i in (best, best - 1, best + 1) if 0 <= i < count]
        higher = max(near, key=value)
        if higher == best:
            return best
        best = higher


class Maps(NamedTuple):
    """Coil maps (coils, ny, nx) and the seconds they took."""

    maps: np.ndarray
    seconds: float


class Comparison:
    """Runs the methods of all libraries on one case after the other.

    Args:
      libraries: what is installed.
    """

    def __init__(self, libraries: Libraries) -> None:
        self._libraries = libraries
        # Where the last walk of the same kind ended.
        self._ends: dict[tuple, int] = {}

    def rows(
        self, case: Case, maps: dict[str, Maps], method: str
    ) -> tuple[list[dict], dict[str, np.ndarray]]:
        """Rows of all libraries, and images by the name of their row."""
        rows: list[dict] = []
        images: dict[str, np.ndarray] = {}
        for library in self._libraries.solvers:
            if library == "fedrecon":
                first, second = (solve_by_default(case, method) for _ in range(2))
                weight = settled(ClassicalSettings(method), case.prepared).weight
                row = _row(case, library, method) | {"maps": "fedrecon", "default": True, "weight": weight}
                rows.append(row | {"first_seconds": first.seconds} | _scored(second, case))
                images["fedrecon, default"] = second.image
            # Others have maps of BART where there are any.
            for name in maps if library == "fedrecon" else list(maps)[-1:]:
                row = _row(case, library, method) | {"maps": name, "default": False}
                try:
                    found, image = self._best(case, library, maps[name], method)
                except NotComputedError as error:
                    rows.append(row | {"missing": str(error)})
                else:
                    rows.append(row | found)
                    images[f"{library}, {name} maps"] = image
        rows += [
            _row(case, library, method) | {"missing": reason}
            for library, reason in self._libraries.missing.items()
        ]
        return rows, images

    def maps(self, case: Case) -> dict[str, Maps]:
        """Ours, and those of BART where it can make them."""
        our_maps(case)  # Compiles.
        makers, found = {"fedrecon": our_maps}, {}
        if "bart" in self._libraries.solvers:
            makers["bart"] = bart_maps
        for name, make in makers.items():
            begin = time.perf_counter()
            try:
                found[name] = Maps(make(case), time.perf_counter() - begin)
            except NotComputedError as error:
                print(f"{case.name}: no maps of BART, {error}")
        return found

    def _best(self, case: Case, library: str, maps: Maps, method: str) -> tuple[dict, np.ndarray]:
        solve, ladder = self._libraries.solvers[library], WEIGHTS[method]
        solved: dict[int, Solved] = {}
        quality: dict[int, dict] = {}
        if library == "fedrecon":
            solve(case, maps.maps, method, ladder[-1])  # Compiles.

        def value(index: int) -> float:
            if index not in solved:
                one = solve(case, maps.maps, method, ladder[index])
                solved[index] = one._replace(seconds=one.seconds + maps.seconds)
                quality[index] = _scored(solved[index], case)
            return quality[index]["psnr"]

        kind = (case.scan, library, method)
        best = climb(value, len(ladder), self._ends.get(kind, len(ladder) // 2))
        self._ends[kind] = best
        tried = {f"{ladder[i]:g}": quality[i]["psnr"] for i in sorted(quality)}
        return {"weight": ladder[best], "tried": tried} | quality[best], solved[best].image


def _row(case: Case, library: str, method: str) -> dict:
    return {"case": case.name, "library": library, "method": method}


def _scored(solved: Solved, case: Case) -> dict:
    quality = scores(solved.image[None], case.reference[None])
    quality["nrmse"] = quality.pop("nmse") ** 0.5
    return quality | {"seconds": solved.seconds} | solved.info


def _check(options: QualityOptions) -> None:
    for name, known in (("masks", MASKS), ("libraries", LIBRARIES), ("methods", METHODS)):
        for value in getattr(options, name):
            if value not in known:
                raise FlagError(name, f"of {', '.join(known)}", repr(value))
    for value in options.accelerations:
        with contextlib.suppress(ValueError):
            if 1 < float(value) < float("inf"):
                continue
        raise FlagError("accelerations", "numbers above 1", repr(value))
    for scan in options.scans:
        if not scan_file(options.data, scan).is_file():
            raise FlagError("scans", f"names of files NAME.h5 in {options.data}", repr(scan))
    for name in ("json", "table"):
        path = getattr(options, name)
        if path is not None and not Path(path).parent.is_dir():
            raise FlagError(name, "a file in an existing folder", path)
    if options.figures is not None:
        Path(options.figures).mkdir(parents=True, exist_ok=True)


def _finished(paths: list[str]) -> dict[tuple[str, str], list[dict]]:
    """Rows of earlier runs by case and method."""
    found: dict[tuple[str, str], list[dict]] = {}
    for path in paths:
        try:
            rows = json.loads(Path(path).read_text())["rows"]
            keys = [(row["case"], row["method"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlagError("finished", "files of --json of earlier runs", f"{path} ({error})") from error
        for key in keys:
            found[key] = []
        for key, row in zip(keys, rows, strict=True):
            found[key].append(row)
    return found


def run(options: QualityOptions) -> list[dict]:
    """Runs all cases; returns the rows, which are in ``options.json`` after every method of a case.

    Raises:
      FlagError: an option is not as it should be; names it.
      OSError: a file cannot be read or written.
    """
    _check(options)
    finished, rows = _finished(options.finished), []
    factors = [float(value) for value in options.accelerations]
    libraries = open_libraries(options.libraries, options.sigpy_python)
    comparison = Comparison(libraries)
    try:
        for name, case in cases(options.data, options.scans, options.masks, factors):
            if not isinstance(case, str) and any((name, m) not in finished for m in options.methods):
                maps = comparison.maps(case)
            for method in options.methods:
                if isinstance(case, str):
                    new: list[dict] = [{"case": name, "method": method, "library": "all", "missing": case}]
                elif (name, method) in finished:
                    new = finished[name, method]
                else:
                    new, images = comparison.rows(case, maps, method)
                    if options.figures is not None:
                        file = f"{name}, {method}.png".replace(", ", "-").replace(":", "-")
                        write_figure(Path(options.figures) / file, case.reference, images)
                rows += new
                print("\n".join(map(describe, new)), flush=True)
                _write(options, rows)
    finally:
        libraries.close()
    print("\n".join(summary(rows)))
    missing = sum("missing" in row for row in rows)
    print(f"{len(rows) - missing} rows, {missing} not computed")
    return rows


def _write(options: QualityOptions, rows: list[dict]) -> None:
    if options.json is not None:
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "jax": jax.__version__,
            "rows": rows,
        }
        write_atomically(Path(options.json), json.dumps(record, indent=1).encode())
    if options.table is not None:
        write_atomically(Path(options.table), markdown(rows).encode())


def main(_: list[str]) -> None:
    with ending("finished cases are in the file of --json"):
        names = [field.name for field in dataclasses.fields(QualityOptions)]
        run(QualityOptions(**{name: flags.FLAGS[name].value for name in names}))


if __name__ == "__main__":
    define_flags()
    run_program(main)
