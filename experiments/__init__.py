"""Runnable experiments, one absl main each: ``python -m experiments.<name> --help``."""

import os
import signal
import sys
from typing import NoReturn


def _leave(signum: int, frame: object) -> NoReturn:
    os.write(2, b"\nInterrupted; nothing was written.\n")
    os._exit(130)


# As long as Python looks for the program to run, this is its name. The imports take seconds, in which Ctrl-C
# should end in one line; `fedrecon.runtime.run_program` takes over.
if sys.argv[:1] == ["-m"]:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        import fedrecon  # noqa: F401
    except ImportError as error:
        if error.name != "operators":
            raise
        sys.exit(str(error))
