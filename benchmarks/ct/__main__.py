"""Compares fedrecon's CT operators with other libraries, on the same workloads in one run.

Workloads, all in single precision, of the Shepp-Logan phantom:
  a   parallel beam, 256 x 256, 180 views x 363
  bs  parallel beam, 362 x 362, 60 views x 513
  b   parallel beam, 362 x 362, 1000 views x 513 (as LoDoPaB-CT)
  c   fan beam, 512 x 512, 720 views x 736, source at 595 mm, detector at 490.6 mm from the axis
  d   cone beam, 120 views: 64^3 with 96 x 96 elements, 128^3 with 192 x 192
  e   bs for 16 images at once

Operations: forward, adjoint, the gradient of 1/2 ||A x - y||^2 in the image by automatic differentiation, and
filtered back-projection (in cone beams that of Feldkamp, Davis and Kress) with the ramp filter. The error of
forward is the relative l2 distance to exact line integrals, averaged over each detector element; the adjoint
error is |<A x, y> - <x, A' y>| / (|A x| |y|); the PSNR of the reconstruction from exact data is that inside
the inscribed disc. fedrecon runs by
its fastest model (fourier for parallel beams, joseph for others), by each of its models, and without native
kernels.
All use all threads they can, on inputs converted before; libraries take turns call by call, and medians are
given. First calls (planning and compilation) and memory are measured in processes of their own. OpenMP waits
passively, unless OMP_WAIT_POLICY says otherwise. The limit by memory bandwidth is the time in which image and
sinogram pass the memory once, at the speed of a copy measured in the same run.

The other libraries are optional; those that are not installed are skipped:
  pip install astra-toolbox odl scikit-image mbirjax scipy
Some need environments of their own, which also need numpy (itk-rtk; scico; torch and deepinv; LEAP, whose
library is compiled from source for the CPU, next to its module leapctype):

  python -m benchmarks.ct --json=ct.json
  python -m benchmarks.ct --workloads=a,bs --libraries=fedrecon,astra-matrix --repeats=7
  python -m benchmarks.ct --pythons=rtk=rtk/bin/python,scico=scico/bin/python
"""

import dataclasses
import json
import os

from absl import flags

from benchmarks.command import OPENMP, check_json, chosen_workloads, interpreters, print_machine, start
from benchmarks.ct.problems import WORKLOADS, make_problem
from benchmarks.ct.registry import libraries
from benchmarks.ct.run import compare, describe, stream_bandwidth
from benchmarks.measure import describe_machine, progress
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from operators.kernels import native


@dataclasses.dataclass(frozen=True)
class CTOptions:
    """The flags; see `define_flags`."""

    workloads: list[str] = dataclasses.field(default_factory=lambda: ["a", "bs", "b", "c", "d", "e"])
    libraries: list[str] = dataclasses.field(default_factory=lambda: list(libraries()))
    json: str | None = None
    repeats: int = 15
    seconds: float = 30.0
    pythons: list[str] = dataclasses.field(default_factory=list)


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = CTOptions()
    known = list(dict.fromkeys(name.split("-")[0] for name in WORKLOADS))
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
    flags.DEFINE_list(
        "pythons", default.pythons, "library=interpreter of libraries that have an environment of their own."
    )


def run(options: CTOptions) -> dict:
    """Runs the workloads, prints the tables and returns (and writes) everything measured.

    Raises:
      ValueError: an option is not as it should be; names it.
      OSError: the file cannot be written.
    """
    workloads = chosen_workloads(options.workloads, WORKLOADS)
    pythons = interpreters(options.pythons, libraries(), "library")
    chosen = _installed_libraries(options.libraries, pythons)
    check_json(options.json)
    packages = {package for name in chosen for package in libraries()[name].packages}
    progress("memory bandwidth")
    bandwidth = stream_bandwidth()
    report = {
        "machine": describe_machine(sorted(packages | {"jax", "jaxlib", "numpy"})),
        "backends": {name: native.load(name, "float32") for name in ("projector", "backprojector", "volume")},
        "openmp": os.environ.get(OPENMP),
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "options": dataclasses.asdict(options),
        "workloads": {},
    }
    machine = report["machine"]
    progress("")
    print_machine(machine)
    print(f"a copy moves {bandwidth / 1e9:.1f} GB/s")
    for name in workloads:
        progress(f"{name}: inputs")
        problem = make_problem(WORKLOADS[name])
        result = compare(problem, chosen, options.repeats, options.seconds, pythons, bandwidth)
        report["workloads"][name] = {"title": WORKLOADS[name].title, **result}
        print(f"\n{name}: {WORKLOADS[name].title}\n{describe(result)}", flush=True)
        if options.json is not None:
            write_atomically(options.json, json.dumps(report, indent=1).encode())
    return report


def _installed_libraries(names: list[str], pythons: dict[str, str]) -> list[str]:
    chosen = []
    for name in names:
        if name not in libraries():
            raise ArgumentError("--libraries", f"some of {', '.join(libraries())}", repr(name))
        missing = [] if name in pythons else libraries()[name].missing()
        if missing:
            print(f"skipped {name}: {', '.join(missing)} not installed")
        elif name not in chosen:
            chosen.append(name)
    return chosen


if __name__ == "__main__":
    start("benchmarks.ct", define_flags, CTOptions, run)
