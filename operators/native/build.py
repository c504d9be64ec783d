"""Compiling, caching and trying the native kernels."""

import ctypes
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax

_FOLDER = pathlib.Path(__file__).parent
_SOURCES = ("nufft.cc", "fft.h", "gridding.h", "lanes.h", "threads.h")
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
_TIMEOUT = 300


class Unavailable(Exception):
    """Native kernels cannot be had here; the message says why."""


def load(precision: str) -> tuple[ctypes.CDLL, str]:
    """The shared library for "float32" or "float64" and its path, compiled unless it is in the cache.

    Raises:
      Unavailable: if ``FEDRECON_BACKEND=jax``, there is no compiler, or compiling or the trial fails.
    """
    if os.environ.get("FEDRECON_BACKEND", "auto") == "jax":
        raise Unavailable("FEDRECON_BACKEND=jax")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Unavailable("no C++ compiler found")
    try:
        path = _cache_folder() / f"nufft-{precision}-{_fingerprint(compiler, precision)}.so"
        if not path.exists():
            _compile(compiler, precision, path)
        return ctypes.CDLL(str(path)), str(path)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def try_library(path: str, precision: str) -> None:
    """Transforms random arrays by the library at ``path``; raises unless they agree with direct sums."""
    import numpy as np

    jax.config.update("jax_enable_x64", precision == "float64")
    library = ctypes.CDLL(path)
    from operators import native

    for kind in ("type2", "type1", "toeplitz"):
        handler = getattr(library, f"fedrecon_nufft_{kind}")
        jax.ffi.register_ffi_target(f"fedrecon_nufft_{kind}_{precision}", jax.ffi.pycapsule(handler), "cpu")
    from operators.nufft_kernel import choose_layout

    rng = np.random.default_rng(0)
    for shape, coils in (((9,), 4), ((12, 7), 1), ((12, 7), 9), ((5, 6, 7), 2)):
        points = rng.uniform(-0.5, 0.5, (1, 30, len(shape))).astype(precision)
        layout = choose_layout(shape, 30, 1e-4, precision == "float64")
        kind = np.result_type(precision, np.complex64)
        grid = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
        phases = np.exp(-2j * np.pi * np.tensordot(points[0], np.stack(grid), 1)) / np.prod(shape) ** 0.5
        maps = _random(rng, (1, coils, *shape)).astype(kind)
        image, samples = _random(rng, (1, 1, *shape)), _random(rng, (1, 1, coils, 30))
        axes = len(shape)
        for name, array, exact, out in (
            (
                "type2",
                image,
                np.tensordot(maps[0] * image[0], phases, (range(1, 1 + axes),) * 2),
                samples.shape,
            ),
            ("type1", samples, np.sum(maps[0] * np.tensordot(samples[0, 0], phases, 1), 0), image.shape),
        ):
            function = jax.jit(
                lambda p, a, m, name=name, layout=layout, shape=shape, out=out: native.nufft(
                    name, p, a, m, layout, -1, False, shape, out
                )
            )
            found = np.asarray(function(points, array.astype(kind), maps))
            error = np.linalg.norm(found.ravel() - exact.ravel()) / np.linalg.norm(exact)
            if not error < 1e-3:
                raise RuntimeError(f"native {name} of shape {shape} is wrong: relative error {error:.1e}")
        _try_toeplitz(rng, image.astype(kind), maps, precision)


def _try_toeplitz(rng, image, maps, precision) -> None:
    import numpy as np

    from operators import native, toeplitz
    from operators.nufft_kernel import smooth_size

    shape = image.shape[2:]
    half = tuple(smooth_size(n) for n in shape)
    values = rng.uniform(size=(1, 2 ** len(shape), *half)).astype(precision)
    found = jax.jit(lambda s, u, m: native.toeplitz(s, u, m, image.shape))(values, image, maps)
    exact = toeplitz.gram(values, image, maps, "jax")
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    if not error < 1e-4:
        raise RuntimeError(f"native Toeplitz product of shape {shape} is wrong: relative error {error:.1e}")


def _random(rng, shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def _compile(compiler: str, precision: str, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = pathlib.Path(folder) / path.name
        command = [compiler, *_FLAGS, f"-DFEDRECON_{precision.upper()}", f"-I{jax.ffi.include_dir()}"]
        command += [str(_FOLDER / "nufft.cc"), "-o", str(library)]
        _run(command, "compiling")
        trial = "import sys; from operators.native.build import try_library; try_library(*sys.argv[1:])"
        _run([sys.executable, "-c", trial, str(library), precision], "the trial")
        # Whoever comes first wins; the results are the same.
        os.replace(library, path)


def _run(command: list[str], what: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "FEDRECON_BACKEND": "jax"}
    environment["PYTHONPATH"] = os.pathsep.join([str(_FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Unavailable(f"{what} failed: {last}")


def _cache_folder() -> pathlib.Path:
    given = os.environ.get("FEDRECON_CACHE")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "fedrecon"


def _fingerprint(compiler: str, precision: str) -> str:
    """Changes with the sources, the flags, the compiler, the CPU's instructions and JAX."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    for part in (*_FLAGS, precision, version, _cpu(), jax.__version__):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(line for line in lines if line.startswith(("flags", "Features")))[:8000]
