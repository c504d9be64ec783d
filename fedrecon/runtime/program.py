"""How command lines begin and end: any console encoding, one line for what a user got wrong, Ctrl-C."""

import contextlib
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from fedrecon.errors import ArgumentError
from fedrecon.runtime.distributed import DistributedError
from fedrecon.runtime.help import help_asked, help_text
from fedrecon.runtime.watchdog import PeerError, leave
from fedrecon.runtime.workdir import WorkdirError

_INTERRUPTED = 130
# Of the integers of flags: seeds and counts are int32 in compiled programs.
MOST = 2**31 - 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_program(main: Callable[[Any], Any], parse: Callable[[list[str]], Any] | None = None) -> None:
    """Runs the main of a program with its command line, and ends the process.

    Characters that the console cannot show are printed as question marks; libraries log warnings alone.

    Args:
      main: called with what ``parse`` returns.
      parse: of the command line; by default `parse_flags`.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def begin(arguments: Any) -> Any:
        # Of what libraries log, unless asked for more.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return main(arguments)

    with _interruptible():
        try:
            with ending():
                app.run(begin, flags_parser=parse or parse_flags)
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                # Libraries' threads may wait for something that does not come any more.
                leave(_INTERRUPTED)
            raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt in the block, again a moment later where a finalizer drops it."""
    hook = sys.unraisablehook
    main_thread, timers = threading.get_ident(), list[threading.Timer]()

    def interrupt_again(raised: Any) -> None:
        if raised.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(raised)
            return
        # Not at once, which would be inside of this function.
        timer = threading.Timer(0.05, lambda: signal.pthread_kill(main_thread, signal.SIGINT))
        timer.daemon = True
        timer.start()
        timers.append(timer)

    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = interrupt_again
    try:
        yield
    finally:
        # Where a program is called from Python, none may strike what comes after it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for timer in timers:
            timer.cancel()
            timer.join()
        sys.unraisablehook = hook
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def parse_flags(argv: list[str], positional: bool = False) -> list[str]:
    """Parses flags as absl does, except ``--help``, see `show_help`.

    A wrong one ends the program in one line, as does a word that is no flag.

    Args:
      argv: the command line.
      positional: accepts such words.
    """
    show_help(argv)
    try:
        rest = flags.FLAGS(argv)
        check_values()
        if rest[1:] and not positional:
            raise ArgumentError("command line", "only flags, --NAME=VALUE", f"{rest[1]!r}")
    except (flags.Error, ArgumentError) as error:
        end_with(str(error))
    except UnicodeDecodeError as error:
        end_with(f"--flagfile: expected a text file, found {error}")
    return rest


def check_values(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Checks what holds for the values of all flags.

    Raises:
      ArgumentError: a number is not finite, an integer is larger than 32 bits hold, or a required text is
        empty.
    """
    for name in flag_values:
        flag = flag_values[name]
        value = flag.value
        if value == "" and any("other than None" in check.message for check in flag.validators):
            raise ArgumentError(f"--{name}", "a value", "none")
        if isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(f"--{name}", "a finite number", value)
        if isinstance(value, int) and abs(value) > MOST:
            raise ArgumentError(f"--{name}", f"at most {MOST}", value)


def show_help(
    argv: Sequence[str], groups: Mapping[str, Sequence[flags.Flag]] | None = None, first: Sequence[str] = ()
) -> None:
    """Prints what the program is for and its flags, and ends it, if the command line asks for that.

    Args:
      argv: the command line.
      groups: flags by group; by default all that the main module defines, without groups.
      first: those that ``--help`` shows, where ``--helpfull`` shows all.
    """
    if not (asked := help_asked(argv)):
        return
    groups = {"": flags.FLAGS.get_key_flags_for_module(sys.argv[0])} if groups is None else groups
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ else program_name()
    print(help_text(name, main.__doc__ or "", groups, first if asked == "short" else ()))
    sys.exit(0)


@contextlib.contextmanager
def ending(interrupted: str = "nothing was written") -> Iterator[None]:
    """Ends the program in one line for Ctrl-C and what users can mend; other errors keep their traceback.

    Args:
      interrupted: what Ctrl-C leaves, or how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        end_interrupted(f"Interrupted; {interrupted}.")
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        end_with(message)


def user_message(error: BaseException) -> str | None:
    """The message for a user, or None for an error that only a programmer can mend.

    Users can mend an `ArgumentError` (flags and data files raise it, too), working directories, processes
    that did not find each other, files that cannot be opened or written, full disks, and missing extras.
    """
    if isinstance(error, ArgumentError | WorkdirError | DistributedError | PeerError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}expected room on the disk, found none left; free some and repeat the command"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: expected a file to read or write, found: {error.strerror}"
    if isinstance(error, OSError) and any(os.strerror(number) in str(error) for number in _FULL):
        return f"{error}: expected room on the disk; free some and repeat the command"
    if isinstance(error, OSError) and error.errno is not None:
        return str(error)
    if isinstance(error, MemoryError):
        return f"expected sizes that fit into memory, found: {error or 'none left'}"
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    return None


def end_interrupted(line: str) -> NoReturn:
    """Ends the program with this line and status 130; Ctrl-C once more changes nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"\n{line}", file=sys.stderr)
    sys.exit(_INTERRUPTED)


def program_name() -> str:
    """The name of the running program, as in ``python -m experiments.NAME``."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name.removesuffix(".py")


def end_with(message: str) -> NoReturn:
    """Ends the program with one line and status 1."""
    sys.exit(f"{program_name()}: {' '.join(message.split())}")
