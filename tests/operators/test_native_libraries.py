"""Native libraries are compiled once, and where they cannot be, plain JAX takes over and says so."""

import os
import re
import subprocess
import sys

import pytest

from operators.kernels import native
from operators.kernels.native import build
from operators.native import main as build_ahead


def test_a_library_is_made_anew_when_any_of_its_sources_changes():
    for first, *others in build._SOURCES.values():
        included, waiting = set(), [first]
        while waiting:
            text = (build._FOLDER / waiting.pop()).read_text()
            new = set(re.findall(r'#include "(\w+\.h)"', text)) - included
            included |= new
            waiting += new
        assert included == set(others)


NAMES = ("backprojector", "convolution", "nufft", "projector", "volume")


def run_python(code, cache, compiler, *arguments):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "CXX": str(compiler),
        "FEDRECON_CACHE": str(cache),
        "FEDRECON_BACKEND": "auto",
    }
    command = [sys.executable, *(["-c", code] if code else []), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def write_compiler(path, *lines):
    """A compiler that knows its version, and does ``lines`` for everything else."""
    path.write_text("\n".join(["#!/bin/sh", '[ "$1" = --version ] && exit', *lines]))
    path.chmod(0o755)
    return path


def test_backends_compile_nothing_and_say_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRECON_BACKEND", "auto")
    calls = tmp_path / "calls"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path / "c++", f"echo called >> {calls}; exit 1")))
    states = native.backends()
    assert set(states) == {f"{name} {precision}" for name in NAMES for precision in ("float32", "float64")}
    missing = "missing (compiled at first use, or by python -m operators.native)"
    assert set(states.values()) == {missing} and not calls.exists()
    path = build.find("nufft", "float64")
    path.parent.mkdir()
    path.touch()
    assert native.backends() == {**states, "nufft float64": f"cached ({path})"} and not calls.exists()
    assert native.load("nufft", "float32").startswith("jax (") and calls.read_text() == "called\n"
    assert native.backends()["nufft float32"].startswith("jax (compiling failed: ")
    monkeypatch.setenv("FEDRECON_BACKEND", "jax")
    assert native.backends()["volume float32"] == "jax (FEDRECON_BACKEND=jax)"
    monkeypatch.setenv("FEDRECON_BACKEND", "auto")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setenv("CXX", "no-compiler")
    assert native.backends()["volume float32"] == "jax (no C++ compiler found)"


def test_building_ahead_says_once_what_is_compiled_and_ends_badly_where_it_fails(tmp_path):
    compiler = write_compiler(tmp_path / "c++", "echo 'cannot compile' >&2", "exit 1")
    arguments = ("-m", "operators.native", "nufft", "--precision=float32")
    done = run_python("", tmp_path / "cache", compiler, *arguments)
    assert done.stdout == "nufft float32: jax (compiling failed: cannot compile)\n"
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedrecon: compiling native kernels (nufft, float32)")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--badflag"], r"^native: command line: expected some of .*, or --precision, found '--badflag'$"),
        (["nufft", "other"], r"^native: command line: expected some of .*nufft.* found 'other'$"),
        (["--precision=half"], r"^native: argument --precision: .*'half'.*float32.*float64"),
        (["--precision"], r"^native: argument --precision: expected one argument$"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(arguments, found, capsys):
    with pytest.raises(SystemExit, match=found) as ended:
        build_ahead(arguments)
    assert "\n" not in ended.value.code and capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_what_is_built_ahead_is_found_by_the_next_process(tmp_path):
    arguments = ("-m", "operators.native", "backprojector", "--precision=float32")
    for lines in (1, 0):
        done = run_python("", tmp_path, os.environ.get("CXX", "c++"), *arguments)
        assert done.returncode == 0 and len(done.stderr.splitlines()) == lines
        assert done.stdout.startswith("backprojector float32: native (")
    code = "import operators; print(operators.backends()['backprojector float32'])"
    assert run_python(code, tmp_path, os.environ.get("CXX", "c++")).stdout.startswith("cached (")


def test_libraries_are_compiled_ahead_side_by_side_and_once(tmp_path):
    calls = tmp_path / "calls"
    compiler = write_compiler(
        tmp_path / "c++", f"echo start >> {calls}; sleep 1; echo end >> {calls}; exit 1"
    )
    script = """
import jax.numpy as jnp
from operators.kernels import native
native.prepare("nufft", "convolution")
print(native.supports(jnp.float32, "nufft"), native.supports(jnp.float32, "convolution"))
"""
    done = run_python(script, tmp_path / "cache", compiler)
    assert done.stdout.split() == ["False", "False"]
    assert calls.read_text().split() == ["start", "start", "end", "end"]
