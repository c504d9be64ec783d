"""Images of undersampled slices by fedrecon, BART and sigpy, for the comparison of their quality."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from experiments.pipeline.quality_cases import CALIBRATION, Case
from fedrecon.classical import METHODS, ClassicalSettings, reconstruct
from fedrecon.classical_maps import calibration_size, coil_maps
from fedrecon.classical_methods import ClassicalProblem
from fedrecon.data.formats import from_bart, read_cfl, to_bart, write_cfl

_AXES = ("COIL", "READ", "PHS1")
# BART's kernels do not fit into small calibration regions.
_KERNELS = (6, 5, 4, 3)
_BART_TERMS = {"l1-wavelet": "W", "total-variation": "T", "tgv": "G"}


class Solved(NamedTuple):
    """An image and what it took.

    Attributes:
      image: magnitudes (ny, nx).
      seconds: with the maps, where these are the library's own.
      info: how the method ended, where it says so.
    """

    image: np.ndarray
    seconds: float
    info: dict[str, Any]


class NotComputedError(Exception):
    """A library cannot do this; the text says why, in one line."""


# (case, maps (coils, ny, nx), method, weight) -> image.
Solve = Callable[[Case, np.ndarray, str, float], Solved]


def solve_by_default(case: Case, method: str) -> Solved:
    """By `fedrecon.classical.reconstruct` with its maps and its choice of the weight."""
    begin = time.perf_counter()
    settings = ClassicalSettings(method, "espirit", CALIBRATION)
    images, infos = reconstruct(case.prepared, settings, return_info=True)
    return Solved(np.abs(images[0]), time.perf_counter() - begin, infos[0])


def solve_ours(case: Case, maps: np.ndarray, method: str, weight: float) -> Solved:
    """By a method of `fedrecon.classical`."""
    begin = time.perf_counter()
    mask = jnp.asarray(case.prepared.measurement.mask[0], jnp.float32)
    found, info = _ours(method, METHODS[method].iterations, case.kspace, maps, mask, weight)
    image = np.abs(np.asarray(found))
    ended = {name: np.asarray(value).item() for name, value in info.items()}
    return Solved(image, time.perf_counter() - begin, ended)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ours(method, iterations, y, maps, mask, weight):
    fourier = operators.CartesianFourier(mask.shape, mask)
    problem = ClassicalProblem(fourier, y, maps, jnp.ones(()), None, None, weight, iterations)
    image, info = METHODS[method].run(problem)
    return image * operators.rss(maps), info


def our_maps(case: Case) -> np.ndarray:
    """Maps (coils, ny, nx) by `fedrecon.classical_maps.coil_maps`."""
    block = calibration_size(case.prepared.measurement, 0, CALIBRATION)
    return np.asarray(_our_maps(case.kspace, block, case.prepared.noise))


@functools.partial(jax.jit, static_argnums=1)
def _our_maps(kspace, block, noise):
    return coil_maps(kspace, block, "espirit", noise)


def bart_maps(case: Case) -> np.ndarray:
    """Maps (coils, ny, nx) by ``bart ecalib`` with the largest of its kernels that fits.

    Raises:
      NotComputedError: none does.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kspace = _stored(folder, "kspace", case.kspace)
        for kernel in _KERNELS:
            try:
                _bart("ecalib", "-m1", f"-r{CALIBRATION}", f"-k{kernel}", kspace, str(folder / "maps"))
            except NotComputedError:
                if kernel == _KERNELS[-1]:
                    raise
            else:
                break
        return np.array(from_bart(read_cfl(folder / "maps"), _AXES))


def solve_bart(case: Case, maps: np.ndarray, method: str, weight: float) -> Solved:
    """By ``bart pics`` with 100 iterations."""
    term = ["-l2", "-r", str(weight)]
    if method != "cg-sense":
        term = ["-R", f"{_BART_TERMS[method]}:3:0:{weight}"]
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kspace, stored = _stored(folder, "kspace", case.kspace), _stored(folder, "maps", maps)
        _bart("pics", "-S", "-i100", *term, kspace, stored, str(folder / "image"))
        # Generalized variation also returns its field of slopes.
        found = np.array(read_cfl(folder / "image")).reshape(*case.reference.shape, -1, order="F")[..., 0]
    return Solved(np.abs(found) * np.asarray(operators.rss(maps)), time.perf_counter() - begin, {})


def bart_wavelet(kspace: np.ndarray, maps: np.ndarray, weight: float) -> np.ndarray:
    """Complex image (ny, nx) by ``bart pics`` with a wavelet term, of k-space and maps (coils, ny, nx)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = _stored(folder, "kspace", kspace), _stored(folder, "maps", maps)
        _bart("pics", "-S", "-i100", "-R", f"W:3:0:{weight}", *given, str(folder / "image"))
        image = np.array(read_cfl(folder / "image")).reshape(kspace.shape[1:], order="F")
    # The sign of BART's centered transforms goes by half the number of samples.
    return image * (-1) ** sum(n // 2 for n in image.shape)


def _stored(folder: Path, name: str, array: np.ndarray) -> str:
    write_cfl(folder / name, to_bart(array, _AXES))
    return str(folder / name)


def _bart(*words: str) -> None:
    done = subprocess.run(["bart", *words], capture_output=True, text=True)
    if done.returncode:
        raise NotComputedError(f"bart {words[0]}: {' '.join(done.stderr.split())[:200] or done.returncode}")


class Sigpy:
    """sigpy in a process of its own, which is started once.

    Args:
      python: a Python with sigpy.

    Raises:
      NotComputedError: it has none.
    """

    def __init__(self, python: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        worker = Path(__file__).with_name("sigpy_worker.py")
        try:
            # Isolated: the folder of the worker is no place of modules.
            self._process = subprocess.Popen(
                [python, "-I", str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise NotComputedError(f"{python}: {error.strerror}") from error
        if "ready" not in self._answer():
            raise NotComputedError(f"no package sigpy in {Path(python).name}")

    def _answer(self) -> dict:
        line = self._process.stdout.readline() if self._process.stdout else ""
        return json.loads(line) if line else {"error": "its process ended"}

    def __call__(self, case: Case, maps: np.ndarray, method: str, weight: float) -> Solved:
        """By ``sigpy.mri.app`` with its own numbers of iterations."""
        files = {name: str(Path(self._folder.name) / f"{name}.npy") for name in ("kspace", "maps", "image")}
        np.save(files["kspace"], case.kspace)
        np.save(files["maps"], maps)
        assert self._process.stdin is not None, "opened as a pipe"
        self._process.stdin.write(json.dumps({**files, "method": method, "weight": weight}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise NotComputedError(f"sigpy: {' '.join(answer['error'].split())[:200]}")
        return Solved(np.load(files["image"]), answer["seconds"], {})

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


@dataclasses.dataclass(frozen=True)
class Libraries:
    """What is installed.

    Attributes:
      solvers: by library.
      missing: by library why it cannot run.
    """

    solvers: dict[str, Solve]
    missing: dict[str, str]

    def close(self) -> None:
        """Ends the processes of libraries."""
        for solve in self.solvers.values():
            if isinstance(solve, Sigpy):
                solve.close()


def open_libraries(names: list[str], sigpy_python: str | None) -> Libraries:
    """Those of the names that are installed."""
    solvers: dict[str, Solve] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name == "fedrecon":
            solvers[name] = solve_ours
        elif name == "bart":
            if shutil.which("bart"):
                solvers[name] = solve_bart
            else:
                missing[name] = "no program bart in the path"
        else:
            try:
                solvers[name] = Sigpy(sigpy_python or sys.executable)
            except NotComputedError as error:
                missing[name] = str(error)
    return Libraries(solvers, missing)
