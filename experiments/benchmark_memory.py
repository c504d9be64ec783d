"""Memory of one training step of reconstruction networks: estimated by the compiler, and measured.

A step of Adam on one slice of multi-coil MRI, each in a process of its own: VarNet and the end-to-end VarNet
with and without --remat, which computes each cascade again in the backward pass, and the deep equilibrium
network by its number of iterations. Measured is the largest resident set of the process during the step
above that before; the estimate, which trainings print before their first round, is known before anything
runs. On CPU, with Linux.

  python -m experiments.benchmark_memory
  python -m experiments.benchmark_memory --only=deep-equilibrium --iterations=5,40 --json
"""

import json
import sys
from typing import Any

from absl import flags

from experiments.pipeline.library_process import measured_by
from fedrecon.errors import ArgumentError
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, readable_bytes, run_program

NETWORKS = ("varnet", "e2e-varnet", "deep-equilibrium")
_STEP = [sys.executable, "-m", "experiments.pipeline.memory_step"]


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list("only", list(NETWORKS), "Networks.")
    flags.DEFINE_integer("size", 320, "Edge of the images.", lower_bound=16)
    flags.DEFINE_integer("coils", 16, "Coils.", lower_bound=1)
    flags.DEFINE_integer("cascades", 12, "Cascades of unrolled networks.", lower_bound=1)
    flags.DEFINE_list("iterations", ["5", "10", "20", "40"], "Iterations of the deep equilibrium network.")
    flags.DEFINE_integer("threads", 2, "Processors of each process.", lower_bound=1)
    flags.DEFINE_integer("steps", 2, "Steps that are measured.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print JSON.")


def cases(only: list[str], cascades: int, iterations: list[str]) -> dict[str, dict[str, Any]]:
    """What is measured, by a name of each.

    Raises:
      ArgumentError: a network is unknown, or a number of iterations is none.
    """
    unknown = [name for name in only if name not in NETWORKS]
    if unknown or not only:
        raise ArgumentError("--only", f"some of {', '.join(NETWORKS)}", ",".join(only))
    if not all(count.isdigit() and int(count) > 0 for count in iterations):
        raise ArgumentError("--iterations", "positive numbers with commas", ",".join(iterations))
    found: dict[str, dict[str, Any]] = {}
    for name in only:
        if name == "deep-equilibrium":
            found |= {f"{name}, {count} iterations": {"iterations": int(count)} for count in iterations}
        else:
            of = {"cascades": cascades}
            found |= {f"{name}, {cascades} cascades": of | {"remat": False}}
            found |= {f"{name}, {cascades} cascades, remat": of | {"remat": True}}
    return {title: {"network": title.partition(",")[0], **work} for title, work in found.items()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row of each case."""
    header = ["network", "parameters", "estimated", "measured", "ratio"]
    rows = [
        [
            title,
            f"{case['parameters'] / 1e6:.1f} M",
            readable_bytes(case["estimated_bytes"]),
            readable_bytes(case["measured_bytes"]),
            f"{case['ratio']:.2f}",
        ]
        for title, case in found.items()
    ]
    return format_table(header, rows)


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        chosen = cases(values.only, values.cascades, values.iterations)
        sizes = {"channels": 18, "pools": 4, "size": values.size, "coils": values.coils}
        shared = {**sizes, "threads": values.threads, "steps": values.steps}
        found = {
            title: measured_by(_STEP, shared | work, "", "size", "Linux, jax and memory for such images")
            for title, work in chosen.items()
        }
    print(json.dumps(found) if values.json else table(found))


if __name__ == "__main__":
    define_flags()
    run_program(main)
