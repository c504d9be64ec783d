"""Prints what data files hold, or what is wrong with them: python -m data_scripts.inspect_file FILE ...

Measurements of all formats that `experiments.reconstruct` reads are read as it does, DICOM files decoded, and
the contents of other HDF5 files listed. The exit code is 0 if every file is sound, else 1.
"""

import functools
import sys

from fedrecon.data import DataError, describe_file
from fedrecon.runtime import end_with, parse_flags, run_program


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        end_with("expected at least one file, found none")
    code = 0
    for path in argv[1:]:
        try:
            lines = describe_file(path)
        except (DataError, ImportError) as error:
            print(f"inspect_file: {' '.join(str(error).split())}", file=sys.stderr)
            code = 1
        else:
            print("\n  ".join([path, *lines]))
    return code


if __name__ == "__main__":
    run_program(main, functools.partial(parse_flags, positional=True))
