"""Reconstructs the images of a raw measurement.

Reads fastMRI HDF5, ISMRMRD, BART (.cfl) and radial HDF5 files, told apart by their content, and writes HDF5
(complex images and the settings they were made with), NIfTI or PNG (magnitudes). With --acceleration a fully
sampled Cartesian measurement is undersampled first, and the result is compared with the root of the sum of
squares of all of it.

  python -m experiments.reconstruct --input=brain.h5 --output=brain.png --method=l1-wavelet --acceleration=4
  python -m experiments.reconstruct --input=scan.mrd --output=scan.nii.gz --coil_maps=walsh
  python -m experiments.reconstruct --input=ksp.cfl --trajectory=traj.cfl --output=image.h5 --method=tgv
"""

import contextlib
import dataclasses
import gzip
import io
import json
import math
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

import operators
from experiments.pipeline.options import FlagError
from fedrecon.classical import (
    COIL_MAPS,
    METHODS,
    ClassicalSettings,
    PreparedMeasurement,
    prepare,
    reconstruct,
    undersample,
)
from fedrecon.data import Measurement, read_measurement
from fedrecon.data.formats import TRAJECTORY_UNITS
from fedrecon.errors import ArgumentError
from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Progress, ending, run_program
from fedrecon.tasks import reconstruction_metrics

_SUFFIXES = (".h5", ".nii.gz", ".nii", ".png")
_BRIGHTEST = 99.5
MASKS = ("random", "equispaced", "poisson-disc")
# What `fedrecon.classical` calls what the flags set.
_FLAGS = {
    "method": "--method",
    "coil_maps": "--coil_maps",
    "weight": "--weight",
    "iterations": "--iterations",
}


@dataclasses.dataclass(frozen=True)
class ReconstructOptions:
    """The flags; see `define_flags`."""

    input: str
    output: str
    method: str = "cg-sense"
    coil_maps: str = "espirit"
    calibration_size: int = 24
    weight: float | None = None
    iterations: int | None = None
    whiten: bool = True
    trajectory: str | None = None
    image_shape: list[str] | None = None
    trajectory_unit: str | None = None
    acceleration: float = 1.0
    mask: str = "random"
    center_fraction: float = 0.08
    seed: int = 0


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = {field.name: field.default for field in dataclasses.fields(ReconstructOptions)}
    flags.DEFINE_string("input", None, "File of the measurement.", required=True)
    suffixes = ", ".join(_SUFFIXES)
    flags.DEFINE_string("output", None, f"File of the images; its name ends in {suffixes}.", required=True)
    for name, values, text in (
        ("method", tuple(METHODS), "Reconstruction; gridding is zero-filling on a Cartesian grid."),
        ("coil_maps", COIL_MAPS, "Estimation of coil sensitivities from the center of k-space."),
        ("mask", MASKS, "Kind of the undersampling by --acceleration."),
        ("trajectory_unit", TRAJECTORY_UNITS, "Unit of an ISMRMRD trajectory; cycles/pixel when not given."),
    ):
        flags.DEFINE_enum(name, default[name], values, text)
    for name, smallest, text in (
        (
            "calibration_size",
            1,
            "Largest edge of the center of k-space that coil maps come from, in samples.",
        ),
        ("iterations", 1, "Number of iterations; the method's own when not given."),
        ("seed", 0, "Seed of the undersampling."),
    ):
        flags.DEFINE_integer(name, default[name], text, lower_bound=smallest)
    for name, smallest, largest, text in (
        ("weight", 0.0, None, "Weight of the regularization; the method's own when not given."),
        ("acceleration", 1.0, None, "Undersample a fully sampled measurement about this many times."),
        ("center_fraction", 0.0, 1.0, "Fraction of each undersampled axis in the fully sampled center."),
    ):
        flags.DEFINE_float(name, default[name], text, lower_bound=smallest, upper_bound=largest)
    flags.DEFINE_bool("whiten", default["whiten"], "Decorrelate the coils where the file has a noise scan.")
    flags.DEFINE_string("trajectory", None, "BART array of the trajectory of a BART --input.")
    flags.DEFINE_list("image_shape", None, "rows,columns of a BART trajectory's image; that which it fills.")


def sampling_mask(
    kind: str, shape: tuple[int, int], acceleration: float, center_fraction: float, seed: int
) -> np.ndarray:
    """A mask (nx,) or (ny, nx) of the kind, as its function of `operators` draws it.

    Raises:
      ValueError: the arguments do not fit each other.
    """
    key = jax.random.key(seed)
    if kind == "random":
        return np.asarray(operators.random_mask(key, shape[1], acceleration, center_fraction))
    if kind == "equispaced":
        return np.asarray(operators.equispaced_mask(shape[1], acceleration, center_fraction))
    center = tuple(round(n * center_fraction) for n in shape)
    return np.asarray(operators.poisson_disc_mask(key, shape, acceleration, center))


def scores(images: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """PSNR in dB, SSIM and NMSE of the magnitudes of a volume (`reconstruction_metrics` of one volume)."""
    slices = len(images)
    batch = {
        "target": jnp.asarray(reference),
        "data_range": jnp.full(slices, reference.max()),
        "volume": jnp.zeros(slices, jnp.int32),
        "valid": jnp.ones(slices, bool),
    }
    return {
        name: float(total) for name, (total, _) in reconstruction_metrics(jnp.asarray(images), batch).items()
    }


def crop(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The middle of the images."""
    starts = [n // 2 - m // 2 for n, m in zip(images.shape[-2:], shape, strict=True)]
    return images[..., *(slice(s, s + m) for s, m in zip(starts, shape, strict=True))]


def write_images(path: Path, images: np.ndarray, measurement: Measurement, record: dict) -> None:
    """Writes the images in the format of the suffix, in one step.

    - ``.h5``: ``image`` (slices, ny, nx), complex64 or float32, and ``record`` as attributes.
    - ``.nii``, ``.nii.gz``: float32 magnitudes (columns, rows, slices) with the pixel size in mm, 1 where it
      is not known. The orientation is that of the array, not of the patient.
    - ``.png``: magnitudes, slices side by side, white at the 99.5th percentile.

    Raises:
      ImportError: NIfTI without the package ``nibabel``.
      OSError: the file cannot be written.
    """
    if path.name.endswith(".h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file["image"] = images
            file.attrs.update(record)
        return
    magnitude = np.abs(images).astype(np.float32)
    write_atomically(path, _png(magnitude) if path.suffix == ".png" else _nifti(path, magnitude, measurement))


def _png(magnitude: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    slices, ny, nx = magnitude.shape
    columns = math.ceil(math.sqrt(slices))
    rows = math.ceil(slices / columns)
    tiles = np.zeros((rows * columns, ny, nx), np.float32)
    tiles[:slices] = magnitude
    page = tiles.reshape(rows, columns, ny, nx).swapaxes(1, 2).reshape(rows * ny, columns * nx)
    buffer = io.BytesIO()
    brightest = np.percentile(magnitude, _BRIGHTEST) or 1.0
    imsave(buffer, page, cmap="gray", vmin=0, vmax=brightest, format="png")
    return buffer.getvalue()


def _nifti(path: Path, magnitude: np.ndarray, measurement: Measurement) -> bytes:
    nibabel = _nibabel()
    slice_size, row_size, column_size = measurement.pixel_size or (1.0, 1.0, 1.0)
    affine = np.diag([column_size, row_size, slice_size, 1.0])
    image = nibabel.Nifti1Image(magnitude.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm" if measurement.pixel_size else "unknown")
    content = image.to_bytes()
    return gzip.compress(content, mtime=0) if path.suffix == ".gz" else content


def _nibabel():
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("NIfTI files need an extra: pip install 'fedrecon[nifti]'") from error
    return nibabel


def _check_output(path: Path, source: str) -> None:
    """Fails before the work rather than after it."""
    if not path.name.endswith(_SUFFIXES):
        raise FlagError("output", f"a name ending in {', '.join(_SUFFIXES)}", repr(path.name))
    if not path.parent.is_dir():
        raise FlagError("output", "a file in an existing folder", path)
    if path.resolve() == Path(source).resolve():
        raise FlagError("output", "another file than --input", path)
    if ".nii" in path.suffixes:
        _nibabel()


def _image_shape(words: list[str] | None) -> tuple[int, int] | None:
    if words is None:
        return None
    try:
        ny, nx = (int(n) for n in words)
    except ValueError as error:
        raise FlagError("image_shape", "rows,columns", ",".join(words)) from error
    return ny, nx


def run(options: ReconstructOptions) -> None:
    """Reads, reconstructs, compares and writes.

    Raises:
      ValueError: a file or an option is not as it should be; names it.
      OSError: the output cannot be written.
      ImportError: a file needs an extra that is not installed.
    """
    output = Path(options.output)
    _check_output(output, options.input)
    with _naming_flags():
        settings = ClassicalSettings(
            options.method, options.coil_maps, options.calibration_size, options.weight, options.iterations
        )
    measurement = read_measurement(
        options.input,
        trajectory=options.trajectory,
        image_shape=_image_shape(options.image_shape),
        trajectory_unit=options.trajectory_unit,
    )
    print(_describe(measurement))
    with _naming_flags(measurement="--input"):
        prepared = prepare(measurement, options.whiten)
    record = {
        "source": Path(options.input).name,
        "format": measurement.format,
        "method": settings.method,
        "settings": json.dumps(dataclasses.asdict(settings)),
        "scale": prepared.scale,
        "whitened": bool(options.whiten and measurement.noise is not None),
    }
    reference = None
    if options.acceleration > 1:
        full = prepared
        prepared = _undersampled(full, options)
        reference = crop(reconstruct(full, ClassicalSettings("rss")), measurement.crop_shape)
    with Progress(settings.method, len(measurement.kspace)) as bar, _naming_flags():
        images = crop(reconstruct(prepared, settings, bar.advance), measurement.crop_shape)
    if reference is not None:
        found = scores(images, reference)
        print(
            f"{settings.method}: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.4f}, "
            f"NMSE {found['nmse']:.5f}"
        )
        record |= found | {"mask": options.mask, "seed": options.seed}
        record["acceleration"] = _acceleration(prepared)
    write_images(output, images * np.float32(prepared.scale), measurement, record)
    print(f"wrote {output}")


@contextlib.contextmanager
def _naming_flags(**flags_of):
    """Errors that begin with the name of an argument begin with that of its flag instead."""
    try:
        yield
    except ArgumentError as error:
        name = (_FLAGS | flags_of).get(error.name, error.name)
        raise ArgumentError(name, error.expected, error.found) from error


def _undersampled(prepared: PreparedMeasurement, options: ReconstructOptions) -> PreparedMeasurement:
    shape = prepared.measurement.image_shape
    try:
        mask = sampling_mask(options.mask, shape, options.acceleration, options.center_fraction, options.seed)
    except ArgumentError as error:
        raise FlagError(f"acceleration: {error.name}", error.expected, error.found) from error
    with _naming_flags(measurement="--acceleration"):
        result = undersample(prepared, mask)
    print(f"undersampled {_acceleration(result):.2f} times ({options.mask})")
    return result


def _acceleration(prepared: PreparedMeasurement) -> float:
    return float(operators.mri.acceleration_of(prepared.measurement.mask[0]))


def _describe(measurement: Measurement) -> str:
    slices, coils = measurement.kspace.shape[:2]
    size = " x ".join(map(str, measurement.image_shape))
    if measurement.mask is None:
        sampling = f"{len(measurement.trajectory)} samples of a trajectory"
    else:
        sampling = f"{measurement.mask.mean():.1%} of a Cartesian grid measured"
    return f"{measurement.format}: {slices} slices, {coils} coils, {size}, {sampling}"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with ending():
        run(
            ReconstructOptions(
                **{
                    field.name: flags.FLAGS[field.name].value
                    for field in dataclasses.fields(ReconstructOptions)
                }
            )
        )


if __name__ == "__main__":
    define_flags()
    run_program(main)
