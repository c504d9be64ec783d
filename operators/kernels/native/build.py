"""Compiling, caching and loading the native kernels."""

import ctypes
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile

import jax

_FOLDER = pathlib.Path(__file__).parent
# By library: sources, the first of which is compiled, and handlers.
_SOURCES = {
    "nufft": (
        "nufft.cc",
        "toeplitz.h",
        "transform.h",
        "cartesian.h",
        "fft.h",
        "gridding.h",
        "footprints.h",
        "grid.h",
        "lanes.h",
        "registers.h",
        "threads.h",
    ),
    "projector": ("projector.cc", "crossings.h", "registers.h", "threads.h", "wide.h"),
    "backprojector": ("backprojector.cc", "registers.h", "threads.h", "wide.h"),
    "volume": ("volume.cc", "columns.h", "rays.h", "volume.h", "registers.h", "threads.h", "wide.h"),
    "convolution": (
        "convolution.cc",
        "tiles.h",
        "winograd.h",
        "blocks.h",
        "lanes.h",
        "registers.h",
        "threads.h",
    ),
}
_HANDLERS = {
    "nufft": ("type2", "type1", "toeplitz", "cartesian", "cartesian_adjoint"),
    "projector": ("forward", "adjoint"),
    "backprojector": ("gather", "spread"),
    "volume": ("forward", "adjoint", "rays_forward", "rays_adjoint"),
    "convolution": ("forward", "input", "kernel"),
}
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-w",
)
_TIMEOUT = 300


class UnavailableError(Exception):
    """Native kernels cannot be compiled or loaded here; the message says why."""


def find(name: str, precision: str) -> pathlib.Path:
    """Where a library is in the cache, or would be.

    Args:
      name: "nufft", "projector", "backprojector", "volume" or "convolution".
      precision: "float32" or "float64".

    Raises:
      UnavailableError: if ``FEDRECON_BACKEND=jax``, or there is no compiler that works.
    """
    try:
        return _cache_folder() / f"{name}-{precision}-{_fingerprint(name, _compiler(), precision)}.so"
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


def load(name: str, precision: str) -> pathlib.Path:
    """Registers the handlers of a library with JAX, compiling it unless it is in the cache.

    Args:
      name: as in :func:`find`.
      precision: "float32" or "float64".

    Returns:
      The path of the library.

    Raises:
      UnavailableError: as :func:`find` does, or if compiling or the trial fails.
    """
    path = find(name, precision)
    try:
        if not path.exists():
            what = (
                f"compiling native kernels ({name}, {precision}) for this machine, once, in some ten seconds"
            )
            print(f"fedrecon: {what}", file=sys.stderr, flush=True)
            _compile(name, _compiler(), precision, path)
        register(name, path, precision)
        return path
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


def register(name: str, path: str | os.PathLike, precision: str) -> None:
    """Makes the handlers of the library at ``path`` known to JAX."""
    library = ctypes.CDLL(str(path))
    for kind in _HANDLERS[name]:
        target = f"fedrecon_{name}_{kind}"
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(f"{target}_{precision}", capsule, "cpu")


def _compile(name: str, compiler: str, precision: str, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = pathlib.Path(folder) / path.name
        command = [compiler, *_flags(), f"-DFEDRECON_{precision.upper()}", f"-I{jax.ffi.include_dir()}"]
        command += [str(_FOLDER / _SOURCES[name][0]), "-o", str(library)]
        _run(command, "compiling")
        trial = "import sys; from operators.trials import try_library; try_library(*sys.argv[1:])"
        _run([sys.executable, "-c", trial, name, str(library), precision], "the trial")
        # Whoever comes first wins; the results are the same.
        library.replace(path)


def _run(command: list[str], what: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "FEDRECON_BACKEND": "jax"}
    environment["PYTHONPATH"] = os.pathsep.join([str(_FOLDER.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        # Compilers say what is wrong first and draw it below; Python says it last.
        message = next((line for line in lines if "error: " in line), lines[-1])
        raise UnavailableError(f"{what} failed: {message}")


def _compiler() -> str:
    if os.environ.get("FEDRECON_BACKEND", "auto") == "jax":
        raise UnavailableError("FEDRECON_BACKEND=jax")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise UnavailableError("no C++ compiler found")
    return compiler


def _flags() -> list[str]:
    # The later of two contradicting flags counts: FEDRECON_CXXFLAGS="-march=x86-64-v3", say, for AVX2.
    return [*_FLAGS, *shlex.split(os.environ.get("FEDRECON_CXXFLAGS", ""))]


def _cache_folder() -> pathlib.Path:
    folder = os.environ.get("FEDRECON_CACHE")
    if folder:
        return pathlib.Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "fedrecon"


def _fingerprint(library: str, compiler: str, precision: str) -> str:
    """Changes with the sources, the flags, the compiler, the CPU's instructions and JAX."""
    digest = hashlib.sha256()
    for name in _SOURCES[library]:
        digest.update((_FOLDER / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    for part in (*_flags(), precision, version, _cpu(), jax.__version__):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(line for line in lines if line.startswith(("flags", "Features")))[:8000]
