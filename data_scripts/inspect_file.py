"""Prints what HDF5 files hold, or what is wrong with them: python -m data_scripts.inspect_file FILE ...

Files with k-space are checked as fastMRI volumes. The exit code is 0 if every file is sound, else 1.
"""

import functools
import sys

from absl import flags

from fedrecon.data import DataError, describe_file
from fedrecon.runtime import end_with, parse_flags, run_program

_SINGLE_COIL = flags.DEFINE_bool(
    "single_coil", False, "K-space is (slices, ny, nx), of fastMRI's single-coil track."
)


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        end_with("expected at least one file, found none")
    code = 0
    for path in argv[1:]:
        try:
            lines = describe_file(path, _SINGLE_COIL.value)
        except DataError as error:
            print(f"inspect_file: {' '.join(str(error).split())}", file=sys.stderr)
            code = 1
        else:
            print("\n  ".join([path, *lines]))
    return code


if __name__ == "__main__":
    run_program(main, functools.partial(parse_flags, positional=True))
