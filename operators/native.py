"""``python -m operators.native``: compiles the native kernels ahead of first use, and says what there is."""

import argparse
import sys
from typing import NoReturn

from operators.kernels import backends, native


def _refuse(message: str) -> NoReturn:
    sys.exit(f"native: {' '.join(message.split())}")


def main(arguments: list[str]) -> int:
    """Compiles what is missing and prints a line per library; returns 1 if one of them cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m operators.native", description=__doc__.split(": ")[1])
    names = sorted({library.split()[0] for library in backends()})
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all if none is named"
    )
    parser.add_argument("--precision", choices=["float32", "float64"], help="both if not given")
    # One line, as of other programs, in place of the usage and what argparse says.
    parser.error = _refuse  # type: ignore[method-assign]
    options, rest = parser.parse_known_args(arguments)
    if unknown := [*rest, *sorted(set(options.names) - set(names))]:
        _refuse(f"command line: expected some of {', '.join(names)}, or --precision, found {unknown[0]!r}")
    usable = True
    for name in options.names or names:
        for precision in [options.precision] if options.precision else ["float32", "float64"]:
            found = native.load(name, precision)
            usable &= found.startswith("native")
            print(f"{name} {precision}: {found}", flush=True)
    return 0 if usable else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
