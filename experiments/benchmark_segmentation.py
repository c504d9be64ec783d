"""Segmentation of images and of volumes beside torch and MONAI: a training step, a round, sliding windows.

Both libraries have the same U-Net with the same weights, loss, optimizer, batches and windows, each in a
process of its own with as many threads; torch is given the faster of two memory layouts and of one or four
windows at once. A round is two steps of Adam at each of four clients, and the mean. Medians and ratios, also
of processor seconds, which a busy machine changes less. The share of the machine's limit is that of the
operations of convolutions, three times as many in a step, in those of a product of large matrices.

  python -m experiments.benchmark_segmentation
  python -m experiments.benchmark_segmentation --torch_python=torch/bin/python --json
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.library_process import measured_by
from experiments.pipeline.segmentation_step import convolution_flops
from fedrecon.errors import ArgumentError
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program

CASES: dict[str, dict[str, int]] = {
    "images": {"axes": 2, "channels": 16, "pools": 4, "batch": 8, "size": 128, "window": 128, "image": 320},
    "volumes": {"axes": 3, "channels": 8, "pools": 3, "batch": 2, "size": 48, "window": 48, "image": 96},
}
_SHARED = {"clients": 4, "steps": 2}
_TORCH = Path(__file__).parent / "pipeline" / "monai_step.py"
_OURS = ["-m", "experiments.pipeline.segmentation_step"]
WHAT = ("step", "round", "windows")


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list("only", list(CASES), "Cases.")
    flags.DEFINE_string("torch_python", None, "An interpreter that has torch and MONAI; ours alone without.")
    flags.DEFINE_integer("threads", 2, "Threads of each library.", lower_bound=1)
    flags.DEFINE_integer("repeats", 9, "Repetitions of a step; of rounds and windows a third.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print JSON.")


def measure(name: str, torch_python: str | None, threads: int, repeats: int) -> dict[str, Any]:
    """Medians of a case by each library, their ratios, and our share of the machine's limit.

    Raises:
      ArgumentError: the interpreter has no torch or MONAI.
    """
    work = {**CASES[name], **_SHARED, "threads": threads, "repeats": repeats}
    needs = "torch and monai"
    with tempfile.TemporaryDirectory() as folder:
        case = str(Path(folder) / "case.npz")
        ours = measured_by([sys.executable, *_OURS], work, case, "python", needs)
        theirs = None
        if torch_python is not None:
            theirs = measured_by([torch_python, str(_TORCH)], work, case, "torch_python", needs)
    operations = {"step": 3 * work["batch"] * convolution_flops(work)}
    operations["round"] = operations["step"] * work["clients"] * work["steps"]
    per_axis = 2 * (work["image"] - work["window"]) // work["window"] + 1
    windows = {**work, "size": work["window"]}
    operations["windows"] = per_axis ** work["axes"] * convolution_flops(windows)
    rows = {}
    for what in WHAT:
        seconds = ours["seconds"][what]
        rows[what] = {
            "seconds": seconds,
            "share_of_limit": operations[what] / seconds / ours["limit"],
            "torch_seconds": theirs["seconds"][what] if theirs else None,
            "ratio": seconds / theirs["seconds"][what] if theirs else None,
            "processor_seconds": ours["busy"][what],
            "processor_ratio": ours["busy"][what] / theirs["busy"][what] if theirs else None,
        }
    return {
        "measured": rows,
        "parameters": ours["parameters"],
        "torch_parameters": theirs["parameters"] if theirs else None,
        "difference": theirs["difference"] if theirs else None,
        "operations": operations,
        "limit": ours["limit"],
        "versions": ours["versions"] | (theirs["versions"] if theirs else {}),
    }


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        unknown = [name for name in values.only if name not in CASES]
        if unknown or not values.only:
            raise ArgumentError("--only", f"some of {', '.join(CASES)}", ",".join(values.only))
        found = {
            name: measure(name, values.torch_python, values.threads, values.repeats) for name in values.only
        }
    if values.json:
        print(json.dumps(found))
        return
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """A row of each case and measurement."""
    header = ["case", "measured", "ours, ms", "torch and MONAI, ms", "ratio", "of processors", "of the limit"]
    rows = []
    for name, case in found.items():
        for what, row in case["measured"].items():
            theirs = "–" if row["torch_seconds"] is None else f"{1e3 * row['torch_seconds']:.1f}"
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
            busy = "–" if row["processor_ratio"] is None else f"{row['processor_ratio']:.2f}"
            share = f"{100 * row['share_of_limit']:.0f} %"
            rows.append([name, what, f"{1e3 * row['seconds']:.1f}", theirs, ratio, busy, share])
    return format_table(header, rows)


if __name__ == "__main__":
    define_flags()
    run_program(main)
