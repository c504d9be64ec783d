"""What protection costs, in seconds of CPU and bytes, beside other libraries where these are installed.

Sections:
  secure_sum  a round of every protocol with all parties in one process, numbers to words and back included,
              without and with dropouts; beside Flower's SecAgg+ with --flower_python
  encryption  sums under CKKS, Paillier and a collective key (extra he), beside a secure sum
  dp_sgd      a step of DP-SGD in microbatches of several sizes, beside the plain step of the same batch, and
              beside Opacus with --opacus_python

  python -m experiments.benchmark_privacy
  python -m experiments.benchmark_privacy --only=encryption --values=10000 --json=encryption.json
  python -m experiments.benchmark_privacy --only=secure_sum --flower_python=flower/bin/python --json=cost.json
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import dp_sgd_cost, encryption_cost, secure_sum_cost
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.runtime import ending, run_program

Rows = list[dict[str, Any]]


def _secure_sum(values: Any) -> Rows:
    return secure_sum_cost.measure(values.clients, values.size, values.repeats, values.flower_python)


def _encryption(values: Any) -> Rows:
    return encryption_cost.measure(values.clients, values.values, values.repeats)


def _dp_sgd(values: Any) -> Rows:
    microbatches = [int(size) for size in values.microbatches]
    return dp_sgd_cost.measure(
        values.batch_size,
        values.image_size,
        values.channels,
        microbatches,
        values.repeats,
        values.opacus_python,
    )


# What is measured, as rows of the same columns.
SECTIONS: dict[str, Callable[[Any], Rows]] = {
    "secure_sum": _secure_sum,
    "encryption": _encryption,
    "dp_sgd": _dp_sgd,
}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows below the names of their columns."""
    lines = [[name.replace("_", " ") for name in rows[0]], *([str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("sections that were finished are in the file of --json"):
        unknown = [name for name in values.only if name not in SECTIONS]
        if unknown:
            raise ArgumentError("--only", f"some of {', '.join(SECTIONS)}", ", ".join(map(repr, unknown)))
        if values.json and not Path(values.json).parent.is_dir():
            raise ArgumentError("--json", "a file in an existing folder", values.json)
        found = {}
        for name in dict.fromkeys(values.only):
            found[name] = SECTIONS[name](values)
            print(f"{name}\n{table(found[name])}\n", flush=True)
            if values.json:
                write_atomically(values.json, json.dumps(found, indent=1).encode())


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list("only", list(SECTIONS), f"Sections, of {', '.join(SECTIONS)}.")
    flags.DEFINE_string("json", None, "File of all rows.")
    flags.DEFINE_integer("repeats", 3, "Times each is run; the fastest counts.", lower_bound=1)
    flags.DEFINE_integer("clients", 16, "Clients.", lower_bound=4)
    flags.DEFINE_integer("size", 2_000_000, "secure_sum: numbers of each client.", lower_bound=1)
    flags.DEFINE_integer("values", 10_000, "encryption: values of each client.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "dp_sgd: examples in a step.", lower_bound=1)
    flags.DEFINE_integer("image_size", 64, "dp_sgd: edge of the images.", lower_bound=8)
    flags.DEFINE_integer("channels", 16, "dp_sgd: channels of the networks.", lower_bound=1)
    text = "dp_sgd: examples whose gradients are held at once, divisors of --batch_size."
    flags.DEFINE_list("microbatches", ["1", "4", "16"], text)
    flags.DEFINE_string("opacus_python", None, "dp_sgd: an interpreter that has Opacus.")
    flags.DEFINE_string("flower_python", None, "secure_sum: an interpreter that has Flower.")


if __name__ == "__main__":
    define_flags()
    run_program(main)
