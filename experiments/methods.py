"""Lists the federated methods that --algorithm and --methods may name.

The table says of each method its reference, what it changes compared with FedAvg, what an experiment must
give it, whether everything it sends is a sum, whether clients end with models of their own, and the bytes of
a client and round for a model of 10**6 float32 parameters. docs/methods.md is this table, by --markdown.

  python -m experiments.methods
  python -m experiments.methods --json
  python -m experiments.methods --methods_from=mine.py
"""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from fedrecon import catalog
from fedrecon.catalog import Entry
from fedrecon.runtime import ending, run_program
from fedrecon.training import load_methods

_HEADER = """# Methods

The federated methods that `--algorithm=NAME` and `--methods=NAME,...` may name, printed by
`python -m experiments.methods --markdown` from [fedrecon/catalog/table.py](../fedrecon/catalog/table.py).
[CONTRIBUTING.md](../CONTRIBUTING.md) shows how to add one, in the package or in a file of your own.

- **needs**: what an experiment must give it.
- **local steps**: `optimizer`: any `--optimizer`; `learning_rate` and `sgd`: plain gradient descent, which
  the method presumes.
- **fixes**: what the method leaves no choice of.
- **sums**: everything that crosses is a sum over clients, no entry of which is one client's alone, so that
  secure sums and central privacy compose with it.
- **own models**: clients evaluate with models of their own.
- **bytes**: of one client in one round, for a model of 10⁶ float32 parameters (10 000 of them its head, 2 000
  in normalization layers) and 10 clients.
"""


def document(entry: Entry) -> dict[str, Any]:
    """A row as a JSON-able dict."""
    traffic = catalog.traffic(entry)
    return {
        "name": entry.name,
        "reference": entry.reference,
        "survey_row": entry.survey_row,
        "tests": list(entry.tests),
        "command": f"python -m {entry.command or default_command(entry)}",
        "linear": entry.linear,
        "personal": entry.personal,
        "releases": entry.releases,
        "module": entry.module,
        "bytes_up": traffic.up,
        "bytes_down": traffic.down,
        "changes": entry.changes,
        "needs": list(entry.needs),
        "rate": entry.rate,
        "fixes": list(entry.fixes),
        "options": {name: kind.__name__ for name, kind in entry.options.items()},
    }


def default_command(entry: Entry) -> str:
    """What runs a method by its name."""
    return f"experiments.train_federated --workdir=runs/{entry.name} --algorithm={entry.name}"


def text_table(entries: Sequence[Entry], survey: bool = False) -> str:
    """The rows as lines of a table; ``survey`` puts their names in the review in front."""
    header = ["name", "reference", "what it changes", "needs", "sums", "own models", "bytes up", "bytes down"]
    rows = [header] + [
        [
            entry.name,
            entry.reference,
            entry.changes,
            ", ".join(entry.needs) or "-",
            _yes(entry.linear),
            _yes(entry.personal),
            str(catalog.traffic(entry).up),
            str(catalog.traffic(entry).down),
        ]
        for entry in entries
    ]
    if survey:
        names = ["survey row", *(str(entry.survey_row) for entry in entries)]
        rows = [[first, *row] for first, row in zip(names, rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown(entries: Sequence[Entry]) -> str:
    """The page docs/methods.md."""
    header = ("method", "reference", "what it changes compared with FedAvg", "row in the review", "needs",
              "local steps", "fixes", "sums", "own models", "bytes up", "bytes down")  # fmt: skip
    table = [
        (
            f"[{entry.name}](../{entry.module.replace('.', '/')}.py)",
            entry.reference,
            entry.changes,
            entry.survey_row or "–",
            _listed(entry.needs),
            {"both": "`sgd`"}.get(entry.rate, f"`{entry.rate}`"),
            _listed(entry.fixes),
            _yes(entry.linear),
            _yes(entry.personal),
            f"{catalog.traffic(entry).up:,}".replace(",", " "),
            f"{catalog.traffic(entry).down:,}".replace(",", " "),
        )
        for entry in entries
    ]
    options = [
        (entry.name, f"`{name}`", kind, default)
        for entry in entries
        for name, (kind, default) in _options(entry).items()
    ]
    return "\n".join(
        [
            _HEADER,
            *_rows(header, table),
            "",
            "## Options",
            "",
            "Set by `--algorithm.OPTION=VALUE`, or in a comparison by `--METHOD.OPTION=VALUE`.",
            "",
            *_rows(("method", "option", "type", "default"), options),
            "",
        ]
    )


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def _options(entry: Entry) -> dict[str, tuple[str, str]]:
    """Option -> (type, default)."""
    functions = [f for f in (entry.before, entry.task, entry.recipe) if f is not None]
    parameters = {name: p for f in functions for name, p in inspect.signature(f).parameters.items()}
    options = {}
    for name, kind in entry.options.items():
        default = parameters[name].default
        if name in catalog.RATES[entry.rate]:
            default = "`--learning_rate`"
        elif default is inspect.Parameter.empty:
            default = "the experiment's"
        options[name] = (kind.__name__, str(default))
    return options | ({"head": ("str", "head")} if "head" in entry.needs else {})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending():
        if values.methods_from:
            load_methods(values.methods_from)
    entries = [entry for entry in catalog.entries() if entry.survey_row or not values.survey]
    if values.json:
        print(json.dumps([document(entry) for entry in entries], indent=2))
    elif values.markdown:
        print(markdown(entries), end="")
    else:
        print(text_table(entries, values.survey))


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_bool("json", False, "Print a list of JSON objects.")
    flags.DEFINE_bool("markdown", False, "Print docs/methods.md.")
    flags.DEFINE_bool("survey", False, "Only the methods of the review's tables, by their rows there.")
    flags.DEFINE_string("methods_from", "", "A Python file that registers methods of its own.")


if __name__ == "__main__":
    define_flags()
    run_program(main)
