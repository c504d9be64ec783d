"""Compares the quality of reconstructed images with that of BART and sigpy, where these are installed.

Measured k-space is undersampled by several masks; every method of every library runs at five weights, with
coil maps of its own library and with ours, and its best row counts. Ours also runs at its default weight.
Magnitudes are scored against the root of the sum of squares of all samples, the same for all. Scans that are
themselves undersampled are completed by `l1-wavelet` first, which favors sparse methods, those of all
libraries alike. Seconds are those of one weight, with the maps where these are the library's own: of ours
after compilation, of BART with its start and its files.

  python -m experiments.benchmark_quality --json=quality.json --figures=figures
  python -m experiments.benchmark_quality --scans=brain_cimax3t_16ch --masks=random --accelerations=4
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

import operators
from experiments.reconstruct import sampling_mask, scores
from fedrecon.classical import (
    ClassicalSettings,
    PreparedMeasurement,
    calibration_size,
    coil_maps,
    prepare,
    reconstruct,
    undersample,
)
from fedrecon.data import read_measurement
from fedrecon.data.formats import from_bart, read_cfl, to_bart, write_cfl
from fedrecon.files import write_atomically
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError

SCANS = ("brain_8ch_poisson", "brain_cimax3t_16ch", "phantom_skyra3t_2ch", "skyra_32ch")
MASKS = ("random", "random-2d", "equispaced", "poisson-disc")
LIBRARIES = ("fedrecon", "bart", "sigpy")
METHODS = ("cg-sense", "l1-wavelet", "total-variation")
_SPARSE = (2e-4, 6e-4, 2e-3, 6e-3, 2e-2)
WEIGHTS = {"cg-sense": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "l1-wavelet": _SPARSE, "total-variation": _SPARSE}
_CALIBRATION = 24
_CENTER_FRACTION = 0.08


@dataclasses.dataclass(frozen=True)
class QualityOptions:
    """The flags; see `define_flags`."""

    data: str = ""
    json: str | None = None
    figures: str | None = None
    scans: list[str] = dataclasses.field(default_factory=lambda: list(SCANS))
    masks: list[str] = dataclasses.field(default_factory=lambda: list(MASKS))
    accelerations: list[str] = dataclasses.field(default_factory=lambda: ["4", "6"])
    libraries: list[str] = dataclasses.field(default_factory=lambda: list(LIBRARIES))
    methods: list[str] = dataclasses.field(default_factory=lambda: list(METHODS))


@dataclasses.dataclass(frozen=True)
class Case:
    """One undersampled slice.

    Attributes:
      name: scan, mask and acceleration, in words.
      prepared: the undersampled measurement, of one slice.
      reference: root of the sum of squares of all samples, (ny, nx).
      maps: our coil maps (coils, ny, nx), weighted.
    """

    name: str
    prepared: PreparedMeasurement
    reference: np.ndarray
    maps: np.ndarray

    @property
    def kspace(self) -> np.ndarray:
        """(coils, ny, nx), zero where not measured."""
        return self.prepared.measurement.kspace[0]


# (coils, ny, nx) k-space, maps or None for the library's own, method, weight -> magnitudes (ny, nx).
Solve = Callable[[Case, np.ndarray | None, str, float], np.ndarray]


def define_flags() -> None:
    """Defines the flags of this program."""
    folder = str(Path(os.environ.get("FEDRECON_DATA", "../shared/data")) / "mri")
    flags.DEFINE_string("data", folder, "Folder of the measured files.")
    flags.DEFINE_string("json", None, "File of all rows.")
    flags.DEFINE_string("figures", None, "Folder of one picture per case.")
    flags.DEFINE_list("scans", list(SCANS), "Names of files in --data, without their suffix.")
    flags.DEFINE_list("masks", list(MASKS), f"Of {', '.join(MASKS)}.")
    flags.DEFINE_list("accelerations", ["4", "6"], "Undersampling factors above 1.")
    flags.DEFINE_list("libraries", list(LIBRARIES), f"Of {', '.join(LIBRARIES)}.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")


def fully_sampled(path: Path) -> PreparedMeasurement:
    """The first slice of a file; where it is undersampled, completed by `l1-wavelet`."""
    measurement = read_measurement(path, slices=[0])
    prepared = prepare(measurement)
    mask = prepared.measurement.mask
    if mask is None or mask.all():
        return prepared
    settings = ClassicalSettings("l1-wavelet", "espirit", _CALIBRATION)
    image = reconstruct(prepared, settings)
    kspace = prepared.measurement.kspace
    block = calibration_size(prepared.measurement, 0, _CALIBRATION)
    maps = np.asarray(coil_maps(kspace[0], block, "espirit", prepared.noise))
    unit = np.maximum(np.asarray(operators.rss(maps)), 1e-6)
    filled = np.asarray(operators.fft2c(maps / unit * image))
    completed = np.where(mask[:, None], kspace, filled)
    full = dataclasses.replace(
        prepared.measurement, kspace=completed.astype(np.complex64), mask=np.ones_like(mask)
    )
    return prepared._replace(measurement=full)


def draw_mask(kind: str, shape: tuple[int, int], acceleration: float) -> np.ndarray:
    """A mask (nx,) or (ny, nx); "random-2d" takes single samples and a center of calibration."""
    if kind != "random-2d":
        # Kernels of ESPIRiT need a block around them.
        fraction = max(_CENTER_FRACTION, (16 if kind == "poisson-disc" else 8) / min(shape))
        return sampling_mask(kind, shape, acceleration, fraction, seed=0)
    mask = np.zeros(shape, bool)
    mask[tuple(operators.mri.center_slice(n, max(16, round(_CENTER_FRACTION * n))) for n in shape)] = True
    rest = round(mask.size / acceleration) - mask.sum()
    others = np.flatnonzero(~mask)
    mask.flat[np.random.default_rng(0).choice(others, max(rest, 0), replace=False)] = True
    return mask


def cases(options: QualityOptions) -> Iterator[Case]:
    """All undersampled slices; what cannot be undersampled like that is left out with a line."""
    for scan in options.scans:
        full = fully_sampled(Path(options.data) / f"{scan}.h5")
        reference = reconstruct(full, ClassicalSettings("rss"))[0]
        for kind, factor in itertools.product(options.masks, options.accelerations):
            name = f"{scan}, {kind}, {factor}x"
            try:
                mask = draw_mask(kind, full.measurement.image_shape, float(factor))
                prepared = undersample(full, mask)
                block, y = (
                    calibration_size(prepared.measurement, 0, _CALIBRATION),
                    prepared.measurement.kspace[0],
                )
                maps = np.asarray(coil_maps(y, block, "espirit", prepared.noise))
            except ValueError as error:
                print(f"{name}: left out, {' '.join(str(error).split())}")
                continue
            yield Case(name, prepared, reference, maps)


def solve_ours(case: Case, maps: np.ndarray | None, method: str, weight: float | None) -> np.ndarray:
    """By `fedrecon.classical`, whose maps are always those of ``case``."""
    settings = ClassicalSettings(method, "espirit", _CALIBRATION, weight)
    return np.abs(reconstruct(case.prepared, settings)[0])


def solve_bart(case: Case, maps: np.ndarray | None, method: str, weight: float) -> np.ndarray:
    """By ``bart pics`` with 100 iterations, and ``bart ecalib`` for maps of its own."""
    term = {"cg-sense": ["-l2", "-r", weight], "l1-wavelet": ["-R", f"W:3:0:{weight}"]}.get(
        method, ["-R", f"T:3:0:{weight}"]
    )
    axes = ("COIL", "READ", "PHS1")
    with tempfile.TemporaryDirectory() as folder:
        kspace, sensitivities, image = (str(Path(folder) / name) for name in ("kspace", "maps", "image"))
        write_cfl(kspace, to_bart(case.kspace, axes))
        if maps is None:
            _bart("ecalib", "-m1", f"-r{_CALIBRATION}", kspace, sensitivities)
            maps = np.array(from_bart(read_cfl(sensitivities), axes))
        else:
            write_cfl(sensitivities, to_bart(maps, axes))
        _bart("pics", "-S", "-i100", *map(str, term), kspace, sensitivities, image)
        return np.abs(np.array(from_bart(read_cfl(image), axes[1:]))) * np.asarray(operators.rss(maps))


def _bart(*words: str) -> None:
    done = subprocess.run(["bart", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"bart {words[0]}: {done.stderr.strip() or done.returncode}")


def solve_sigpy(case: Case, maps: np.ndarray | None, method: str, weight: float) -> np.ndarray:
    """By ``sigpy.mri.app`` with its own numbers of iterations, and ``EspiritCalib`` for maps of its own."""
    import sigpy.mri.app as app

    kspace = np.asarray(case.kspace)
    quiet = {"show_pbar": False}
    if maps is None:
        maps = app.EspiritCalib(kspace, calib_width=_CALIBRATION, **quiet).run()
    solver = {"cg-sense": app.SenseRecon, "l1-wavelet": app.L1WaveletRecon}.get(
        method, app.TotalVariationRecon
    )
    image = solver(kspace, maps, weight, **quiet).run()
    return np.abs(image) * np.asarray(operators.rss(maps))


SOLVERS: dict[str, Solve] = {"fedrecon": solve_ours, "bart": solve_bart, "sigpy": solve_sigpy}


def missing(library: str) -> str | None:
    """Why a library cannot run; None if it can."""
    if library == "bart" and shutil.which("bart") is None:
        return "no program bart in the path"
    if library == "sigpy" and importlib.util.find_spec("sigpy") is None:
        return "no package sigpy"
    return None


def rows_of(case: Case, library: str, method: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The best of five weights by PSNR, with both kinds of maps, and ours by default; and the images."""
    row = {"case": case.name, "library": library, "method": method}
    if reason := missing(library):
        return [{**row, "missing": reason}], {}
    solve, rows, images = SOLVERS[library], [], {}
    choices = [("own", weights) for weights in (WEIGHTS[method],)]
    if library == "fedrecon":
        choices.append(("own", (None,)))
    else:
        choices.append(("ours", WEIGHTS[method]))
    for kind, weights in choices:
        maps = case.maps if kind == "ours" else None
        if library == "fedrecon":
            solve(case, maps, method, weights[0])  # Compiles.
        found = []
        for weight in weights:
            begin = time.perf_counter()
            image = solve(case, maps, method, weight)
            seconds = time.perf_counter() - begin
            quality = scores(image[None], case.reference[None])
            quality["nrmse"] = quality.pop("nmse") ** 0.5
            found.append(({"maps": kind, "weight": weight, **quality, "seconds": seconds}, image))
        best, image = max(found, key=lambda one: one[0]["psnr"])
        rows.append(row | best | {"weights": len(weights)})
        images[f"{library} {kind}" if weights[0] is not None else f"{library} default"] = image
    return rows, images


def describe(row: dict) -> str:
    """A row in one line."""
    head = f"{row['case']:38} {row['method']:16} {row['library']:9}"
    if "missing" in row:
        return f"{head} left out: {row['missing']}"
    weight = "default" if row["weight"] is None else f"{row['weight']:g}"
    return (
        f"{head} maps {row['maps']:5} weight {weight:8} PSNR {row['psnr']:6.2f} dB, SSIM {row['ssim']:.3f}, "
        f"NRMSE {row['nrmse']:.4f}, {row['seconds']:.2f} s"
    )


def write_figure(path: Path, reference: np.ndarray, images: dict[str, np.ndarray]) -> None:
    """Magnitudes above and five times their errors below, on the scale of the reference."""
    from matplotlib.figure import Figure

    tall = len(reference) / len(reference[0])
    figure = Figure(figsize=(2 * len(images) + 2, 2 * (2 * tall + 0.3)), layout="constrained")
    axes = figure.subplots(2, len(images) + 1, squeeze=False)
    largest = np.percentile(reference, 99.7)
    for column, (name, image) in enumerate({"reference": reference, **images}.items()):
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=largest)
        axes[1, column].imshow(5 * np.abs(image - reference), cmap="magma", vmin=0, vmax=largest)
        axes[0, column].set_title(name, fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=100)


def _check(options: QualityOptions) -> None:
    for name, known in (("masks", MASKS), ("libraries", LIBRARIES), ("methods", METHODS)):
        for value in getattr(options, name):
            if value not in known:
                raise FlagError(name, f"of {', '.join(known)}", repr(value))
    for value in options.accelerations:
        with contextlib.suppress(ValueError):
            if 1 < float(value) < float("inf"):
                continue
        raise FlagError("accelerations", "numbers above 1", repr(value))
    for scan in options.scans:
        if not (Path(options.data) / f"{scan}.h5").is_file():
            raise FlagError("scans", f"names of files NAME.h5 in {options.data}", repr(scan))
    if options.json is not None and not Path(options.json).parent.is_dir():
        raise FlagError("json", "a file in an existing folder", options.json)
    if options.figures is not None:
        Path(options.figures).mkdir(parents=True, exist_ok=True)


def run(options: QualityOptions) -> list[dict]:
    """Runs all cases; returns the rows, which are in ``options.json`` after every case.

    Raises:
      FlagError: an option is not as it should be; names it.
      OSError: a file cannot be read or written, or BART fails.
    """
    _check(options)
    rows: list[dict] = []
    for case in cases(options):
        for method in options.methods:
            images: dict[str, np.ndarray] = {}
            for library in options.libraries:
                new, pictures = rows_of(case, library, method)
                images |= pictures
                rows += new
                print("\n".join(map(describe, new)), flush=True)
            if options.figures is not None and images:
                name = f"{case.name}, {method}.png".replace(", ", "-")
                write_figure(Path(options.figures) / name, case.reference, images)
        if options.json is not None:
            record = {"date": time.strftime("%Y-%m-%d"), "jax": jax.__version__, "rows": rows}
            write_atomically(Path(options.json), json.dumps(record, indent=1).encode())
    return rows


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with ending("finished cases are in the file of --json"):
        names = [field.name for field in dataclasses.fields(QualityOptions)]
        run(QualityOptions(**{name: flags.FLAGS[name].value for name in names}))


if __name__ == "__main__":
    define_flags()
    run_program(main)
