"""Training steps of reconstruction networks beside torch: fastMRI's VarNet and U-Net, learned primal-dual.

Both libraries have the same networks with the same weights, measurements, loss and optimizer, each in a
process of its own with as many threads; the images that they make before training are compared. Seconds are
medians of steps that are compiled, memory is the largest resident size of the whole process, libraries
included. Learned primal-dual is of a masked Fourier transform of one coil.

  python -m experiments.benchmark_recon
  python -m experiments.benchmark_recon --torch_python=torch/bin/python --json
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.library_process import measured_by
from fedrecon.errors import ArgumentError
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program

CASES: dict[str, dict[str, Any]] = {
    "varnet": {
        "network": "varnet",
        "batch": 1,
        "coils": 8,
        "size": 160,
        "cascades": 4,
        "channels": 18,
        "pools": 4,
        "map_channels": 8,
        "map_pools": 4,
    },
    "unet": {"network": "unet", "batch": 4, "coils": 1, "size": 160, "channels": 32, "pools": 4},
    "primal-dual": {"network": "primal-dual", "batch": 2, "coils": 1, "size": 160, "cascades": 10},
}
_TORCH = Path(__file__).parent / "pipeline" / "torch_recon_step.py"
_OURS = [sys.executable, "-m", "experiments.pipeline.recon_step"]


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list("only", list(CASES), "Networks.")
    flags.DEFINE_string("torch_python", None, "An interpreter with torch and fastmri; ours alone without.")
    flags.DEFINE_integer("threads", 2, "Threads of each library.", lower_bound=1)
    flags.DEFINE_integer("repeats", 7, "Repetitions of a step.", lower_bound=1)
    flags.DEFINE_integer("size", 0, "Edge of the images in place of those of the cases.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print JSON.")


def measure(work: dict[str, Any], torch_python: str | None) -> dict[str, Any]:
    """Seconds and memory of a case by each library, and their ratios.

    Raises:
      ArgumentError: the interpreter has no torch or fastmri.
    """
    theirs = None
    with tempfile.TemporaryDirectory() as folder:
        case = str(Path(folder) / "case.npz")
        if torch_python is not None:
            theirs = measured_by([torch_python, str(_TORCH)], work, case, "torch_python", "torch and fastmri")
        ours = measured_by(_OURS, work, case, "python", "jax")
    return {
        "ours": ours,
        "torch": theirs,
        "ratio": ours["seconds"] / theirs["seconds"] if theirs else None,
        "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"] if theirs else None,
    }


def table(found: dict[str, Any]) -> str:
    """A row of each case."""
    header = ["network", "step, ms", "torch, ms", "ratio", "memory, MB", "torch, MB", "ratio", "images apart"]
    rows = []
    for name, case in found.items():
        ours, theirs = case["ours"], case["torch"]
        cells = [f"{1e3 * ours['seconds']:.0f}", "–", "–", f"{ours['peak_bytes'] / 1e6:.0f}", "–", "–", "–"]
        if theirs:
            cells[1:3] = f"{1e3 * theirs['seconds']:.0f}", f"{case['ratio']:.2f}"
            cells[4:] = (
                f"{theirs['peak_bytes'] / 1e6:.0f}",
                f"{case['memory_ratio']:.2f}",
                f"{ours['difference']:.0e}",
            )
        rows.append([name, *cells])
    return format_table(header, rows)


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        unknown = [name for name in values.only if name not in CASES]
        if unknown or not values.only:
            raise ArgumentError("--only", f"some of {', '.join(CASES)}", ",".join(values.only))
        shared = {"threads": values.threads, "repeats": values.repeats}
        shared |= {"size": values.size} if values.size else {}
        found = {name: measure(CASES[name] | shared, values.torch_python) for name in values.only}
    print(json.dumps(found) if values.json else table(found))


if __name__ == "__main__":
    define_flags()
    run_program(main)
