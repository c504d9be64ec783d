"""Compares fedrecon's MRI operators with other libraries, on the same workloads in one run.

Workloads, all in single precision with coil maps:
  a  256 x 256, 405 spokes x 512 samples, 8 coils
  b  320 x 320, 64 spokes x 640 samples, 8 coils
  c  256 x 256, spiral of 16 interleaves, 8 coils
  d  96 x 96 x 96, 4000 spokes x 192 samples, 1 coil
  e  b for 16 images: with one trajectory, and with 16 different ones
  f  320 x 320 Cartesian, every fourth column and the center, 16 coils

Operations: forward (image to samples), adjoint, gram (A^H A x by the library's fastest route) and the
gradient of ||A x - y||^2 in the image by automatic differentiation. Every library runs at its cheapest
setting whose forward result has a relative l2 error within the tier, against double precision (which is
checked against the direct sum): of the first two settings that do, the faster one. All use all threads, on
inputs converted before; libraries take turns call by call, and medians are given. First calls (planning and
compilation) and memory are measured in processes of their own. OpenMP waits passively, unless OMP_WAIT_POLICY
says otherwise: its runtimes, of which the libraries bring several, disturb each other by spinning.

The other libraries are optional; those that are not installed are skipped. Install a CPU build of torch, then
  pip install jax-finufft finufft ducc0 pytorch-finufft nufftax torchkbnufft sigpy mri-nufft scipy

  python -m benchmarks.mri --json=mri.json
  python -m benchmarks.mri --workloads=b,f --libraries=fedrecon,finufft,sigpy --repeats=7
"""

import dataclasses
import json
import os

from absl import flags

from benchmarks.command import OPENMP, check_json, chosen_workloads, print_machine, start
from benchmarks.measure import describe_machine, progress
from benchmarks.mri.problems import WORKLOADS, make_problem
from benchmarks.mri.registry import LIBRARIES
from benchmarks.mri.run import compare, describe
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from operators.kernels import native

_DEFAULT_WORKLOADS = ["a", "b", "c", "d", "e", "f"]


@dataclasses.dataclass(frozen=True)
class MRIOptions:
    """The flags; see `define_flags`."""

    workloads: list[str] = dataclasses.field(default_factory=lambda: list(_DEFAULT_WORKLOADS))
    libraries: list[str] = dataclasses.field(default_factory=lambda: list(LIBRARIES))
    json: str | None = None
    repeats: int = 15
    seconds: float = 30.0


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = MRIOptions()
    known = sorted({name.split("-")[0] for name in WORKLOADS})
    flags.DEFINE_list("workloads", default.workloads, f"Workloads, of {', '.join(known)}.")
    flags.DEFINE_list("libraries", default.libraries, "Libraries, in the order of the tables.")
    flags.DEFINE_string("json", default.json, "File for all results, every single time included.")
    flags.DEFINE_integer("repeats", default.repeats, "Calls of every operation.", lower_bound=1)
    flags.DEFINE_float(
        "seconds",
        default.seconds,
        "Time for one operation of all libraries, after which no further round of calls begins.",
        lower_bound=0.0,
    )


def run(options: MRIOptions) -> dict:
    """Runs the workloads, prints the tables and returns (and writes) everything measured.

    Raises:
      ValueError: an option is not as it should be; names it.
      OSError: the file cannot be written.
    """
    workloads = chosen_workloads(options.workloads, WORKLOADS)
    libraries = _installed_libraries(options.libraries)
    check_json(options.json)
    packages = {package for name in libraries for package in LIBRARIES[name].packages}
    report = {
        "machine": describe_machine(sorted(packages | {"jax", "jaxlib", "numpy"})),
        "backends": {"nufft": native.load("nufft", "float32")},
        "openmp": os.environ.get(OPENMP),
        "options": dataclasses.asdict(options),
        "workloads": {},
    }
    machine = report["machine"]
    print_machine(machine)
    print(f"fedrecon: NUFFT in float32 by {report['backends']['nufft'].split(' (')[0]}")
    for name in workloads:
        progress(f"{name}: inputs and reference")
        problem, reference = make_problem(WORKLOADS[name])
        found = compare(problem, reference, libraries, options.repeats, options.seconds)
        report["workloads"][name] = {"title": WORKLOADS[name].title, "tiers": found}
        for tier in found:
            print(f"\n{name}: {WORKLOADS[name].title}\n{describe(tier)}", flush=True)
        if options.json is not None:
            write_atomically(options.json, json.dumps(report, indent=1).encode())
    return report


def _installed_libraries(names: list[str]) -> list[str]:
    chosen = []
    for name in names:
        if name not in LIBRARIES:
            raise ArgumentError("--libraries", f"some of {', '.join(LIBRARIES)}", repr(name))
        missing = LIBRARIES[name].missing()
        if missing:
            print(f"skipped {name}: {', '.join(missing)} not installed")
        elif name not in chosen:
            chosen.append(name)
    return chosen


if __name__ == "__main__":
    start("benchmarks.mri", define_flags, MRIOptions, run)
