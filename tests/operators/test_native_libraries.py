"""Native libraries are compiled once, and where they cannot be, plain JAX takes over and says so."""

import os
import re
import subprocess
import sys

import pytest

from operators.kernels import native
from operators.kernels.native import build


def test_a_library_is_made_anew_when_any_of_its_sources_changes():
    for first, *others in build._SOURCES.values():
        included, waiting = set(), [first]
        while waiting:
            text = (build._FOLDER / waiting.pop()).read_text()
            new = set(re.findall(r'#include "(\w+\.h)"', text)) - included
            included |= new
            waiting += new
        assert included == set(others)


@pytest.mark.slow
def test_backends_say_what_is_in_use_and_can_be_turned_off(tmp_path, monkeypatch):
    names = ("backprojector", "convolution", "nufft", "projector", "volume")
    assert {key.split()[0] for key in native.backends()} == set(names)
    # Without the memory of what this process has loaded.
    load = native._load_once.__wrapped__
    with monkeypatch.context() as patch:
        patch.setenv("FEDRECON_BACKEND", "jax")
        assert load("nufft", "float32") == (False, "jax (FEDRECON_BACKEND=jax)")
    monkeypatch.setenv("FEDRECON_BACKEND", "auto")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.setenv("CXX", "no-compiler")
        assert load("nufft", "float32") == (False, "jax (no C++ compiler found)")
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'cannot compile' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", "import operators; print(operators.backends())"],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "CXX": str(broken),
            "FEDRECON_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    for key in native.backends():
        assert f"'{key}': 'jax (compiling failed: cannot compile)'" in done.stdout
    assert list((tmp_path / "cache").iterdir()) == []


def test_libraries_are_compiled_ahead_side_by_side_and_once(tmp_path):
    compiler, calls = tmp_path / "c++", tmp_path / "calls"
    compiler.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && exit\n'
        f"echo start >> {calls}; sleep 1; echo end >> {calls}; exit 1\n"
    )
    compiler.chmod(0o755)
    script = """
import jax.numpy as jnp
from operators.kernels import native
native.prepare("nufft", "convolution")
print(native.supports(jnp.float32, "nufft"), native.supports(jnp.float32, "convolution"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "CXX": str(compiler),
            "FEDRECON_CACHE": str(tmp_path / "cache"),
            "FEDRECON_BACKEND": "auto",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
    assert calls.read_text().split() == ["start", "start", "end", "end"]
