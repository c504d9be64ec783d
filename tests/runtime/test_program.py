"""How programs begin and end."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from absl import flags, logging

from fedrecon.data import DataError
from fedrecon.errors import ArgumentError
from fedrecon.runtime import WorkdirError, check_values, ending, parse_flags, run_program, user_message
from fedrecon.runtime.help import help_asked, help_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ArgumentError("--rounds", "a positive\nnumber", 0), "--rounds: expected a positive number, found 0"),
        (DataError("k.h5", "kspace", "complex numbers", "text"), "k.h5: key 'kspace': expected complex"),
        (WorkdirError("--workdir=x: taken"), "--workdir=x: taken"),
        (OSError(errno.ENOSPC, "No space left on device", "x/log"), "x/log: expected room on the disk"),
        (OSError(errno.EFBIG, "File too large", "x/log"), "x/log: expected room on the disk"),
        (
            OSError("x: errno = 28, error message = 'No space left on device'"),
            "'No space left on device': expected room on the disk",
        ),
        (OSError(errno.EIO, "x: Input/output error"), "x: Input/output error"),
        (MemoryError("Unable to allocate 1.46 TiB"), "expected sizes that fit into memory, found: Unable"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "expected room on the disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "y.h5"), "y.h5: expected a file"),
        (ImportError("DICOM files need an extra: pip install 'fedrecon[dicom]'"), "pip install"),
    ],
)
def test_what_users_can_mend_ends_in_one_line(error, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/where/ever/train.py"])
    with pytest.raises(SystemExit) as ended, ending():
        raise error
    line = ended.value.code
    assert line.startswith("train: ") and words in line and "\n" not in line


@pytest.mark.parametrize(
    "error",
    [ValueError("operands could not be broadcast"), OSError("internal"), ImportError("jaxx"), KeyError()],
)
def test_other_errors_keep_their_traceback(error):
    assert user_message(error) is None
    with pytest.raises(type(error)), ending():
        raise error


def test_control_c_is_one_line_and_130(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended, ending("half is kept"):
        raise KeyboardInterrupt
    assert ended.value.code == 130 and signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    assert capsys.readouterr().err == "\nInterrupted; half is kept.\n"


@pytest.mark.slow
def test_control_c_in_a_finalizer_is_not_lost(tmp_path):
    (tmp_path / "pressed.py").write_text(
        """
import os, signal, sys, time
from fedrecon.runtime import ending, run_program

class Presses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def main(_):
    with ending("half is kept"):
        Presses()
        time.sleep(20)

run_program(main)
"""
    )
    found = subprocess.run(
        [sys.executable, tmp_path / "pressed.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        # Shells let what runs in the background ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "\nInterrupted; half is kept.\n")


OTHERS = {
    "package": "operators/__init__.py",
    "module": "operators.py",
}


@pytest.mark.parametrize(
    "kind, program",
    [
        ("package", "experiments.train_federated"),
        ("module", "data_scripts.inspect_file"),
        ("package", "benchmarks.convolution"),
    ],
)
def test_another_package_of_the_name_operators_is_refused(kind, program, tmp_path):
    """Found first, it would be used in place of ours, as far as it goes; it is not even imported."""
    other = tmp_path / OTHERS[kind]
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise SystemExit('imported')")
    found = subprocess.run(
        [sys.executable, "-m", program, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr == (
        f"fedrecon: expected the package operators that comes with it, {ROOT / 'operators'}, found {other}: "
        "rename it, or take its folder off the Python path\n"
    )


def test_consoles_of_any_encoding_show_every_line(monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["p"])

    def main(_):
        print("ε – Å \udc80")
        sys.exit("é")

    with pytest.raises(SystemExit):
        run_program(main)
    streams[0].flush()
    assert streams[0].buffer.getvalue() == b"? ? ? ?\n"


def test_a_program_takes_its_hooks_and_pending_interrupts_along(monkeypatch):
    """Called from Python; the interrupt that a finalizer dropped would strike what comes next."""
    monkeypatch.setattr(sys, "argv", ["p"])
    hook, timers = sys.unraisablehook, []

    def main(_):
        assert logging.get_verbosity() == logging.WARNING
        assert sys.unraisablehook is not hook
        sys.unraisablehook(types.SimpleNamespace(exc_type=KeyboardInterrupt))
        timers.extend(x for x in threading.enumerate() if isinstance(x, threading.Timer))

    with pytest.raises(SystemExit):
        run_program(main)
    assert sys.unraisablehook is hook and len(timers) == 1 and not timers[0].is_alive()


def test_numbers_and_required_values_of_every_program_are_checked():
    values = flags.FlagValues()
    flags.DEFINE_float("rate", 1.0, "", flag_values=values)
    flags.DEFINE_integer("count", 1, "", flag_values=values)
    flags.DEFINE_string("place", None, "", flag_values=values, required=True)
    flags.DEFINE_string("other", "", "", flag_values=values)
    values(["p", "--place=x", "--count=2147483647", "--other="])
    check_values(values)
    for word, expected in (
        ("--rate=nan", "--rate: expected a finite number, found nan"),
        ("--rate=-inf", "--rate: expected a finite number, found -inf"),
        ("--count=2147483648", "--count: expected at most 2147483647, found 2147483648"),
        ("--place=", "--place: expected a value, found none"),
    ):
        values(["p", "--rate=1", "--count=1", "--place=x", word])
        with pytest.raises(ArgumentError, match=expected):
            check_values(values)


def test_words_that_are_no_flags_are_refused():
    with pytest.raises(SystemExit, match=r"command line: expected only flags, --NAME=VALUE, found 'word'"):
        parse_flags(["p", "word"])
    assert parse_flags(["p", "word"], positional=True) == ["p", "word"]


def test_help_is_asked_for_in_absls_words_and_wraps_what_flags_say():
    assert [help_asked(["p", word]) for word in ("--help", "-h", "-?", "--helpshort", "--helpfull")] == [
        *4 * ["short"],
        "full",
    ]
    assert help_asked(["--help"]) == help_asked(["p", "help", "--helper=3"]) == ""
    values = flags.FlagValues()
    flags.DEFINE_enum("kind", "a", ["a", "b"], "Which.", flag_values=values)
    flags.DEFINE_integer("count", 3, "How many.", flag_values=values)
    flags.DEFINE_bool("deep", False, "Whether " + 30 * "very ", flag_values=values)
    groups = {"one": [values["kind"], values["count"]], "two": [values["deep"]]}
    text = help_text("a.b", "About.", groups)
    assert text.startswith("About.\n\none:\n  --kind=a | b\n      Which (default a).\n  --count=INTEGER\n")
    assert "\n\ntwo:\n  --[no]deep\n      Whether very" in text and max(map(len, text.splitlines())) <= 100
    short = help_text("a.b", "About.", groups, ("count",))
    assert short.count("  --") == 1
    assert short.endswith("python -m a.b --helpfull lists all 3 flags by group: one, two.")


@pytest.mark.slow
def test_importing_leaves_out_what_few_programs_need():
    """Half of the start of a short program would be their import."""
    code = (
        "import sys, fedrecon.federated, fedrecon.runtime, fedrecon.data, fedrecon.tasks;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"jax", "flax", "fedrecon"} <= set(found.stdout.split())
    assert not {"orbax", "tensorstore", "matplotlib", "jax_privacy", "scipy"} & set(found.stdout.split())
