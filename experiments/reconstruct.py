"""Reconstructs the images of a raw measurement of MRI or CT.

Reads fastMRI HDF5, ISMRMRD, Siemens twix (.dat), BART (.cfl), radial and EPI HDF5 files, told apart by their
content, and writes HDF5 (complex images and the settings they were made with), NIfTI, DICOM or PNG
(magnitudes). With --acceleration a fully sampled Cartesian measurement is undersampled first, and the result
is compared with the root of the sum of squares of all of it.

CT files are HDF5 of parallel beams, of the Helsinki challenge and of LoDoPaB, and folders of DICOM-CT-PD;
images are attenuation in 1/mm, or Hounsfield units with --water_attenuation.

With --weights a trained network reconstructs (MRI, or CT of parallel beams), and the residual of the measured
samples and whether it is at home with the measurement are printed. Half widths of its intervals are the array
half_width of HDF5, and below the images in PNG, four times as bright.

  python -m experiments.reconstruct --input=brain.h5 --output=brain.png --method=l1-wavelet --acceleration=4
  python -m experiments.reconstruct --input=scan.mrd --output=scan.nii.gz --coil_maps=walsh
  python -m experiments.reconstruct --input=echoes.mrd --output=echo.png --select=contrast=1 --slices=0,4-6
  python -m experiments.reconstruct --input=views --output=ct.dcm --water_attenuation=0.0193 --slices=40-60
  python -m experiments.reconstruct --input=brain.h5 --output=brain.nii.gz --weights=runs/first
  python -m experiments.reconstruct --input=ksp.cfl --trajectory=traj.cfl --output=image.h5 --method=tgv
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import operators
from experiments.pipeline.ct_reconstruction import CT_ONLY, run_ct
from experiments.pipeline.image_files import SUFFIXES, check_output, place_of, write_images, write_record
from experiments.pipeline.list_flags import image_shape_of, selection_of, slices_of
from experiments.pipeline.network_reconstruction import (
    describe_network,
    open_network,
    reconstruct_by_network,
)
from fedrecon.classical import (
    METHODS,
    ClassicalSettings,
    PreparedMeasurement,
    measured_part,
    prepare,
    reconstruct,
    settled,
    undersample,
)
from fedrecon.classical_maps import COIL_MAPS, SMALLEST_CALIBRATION, calibration_size
from fedrecon.data import Measurement, read_measurement
from fedrecon.data.formats import TRAJECTORY_UNITS, correct_delays, is_ct
from fedrecon.errors import ArgumentError
from fedrecon.runtime import Progress, ending, run_program
from fedrecon.tasks import reconstruction_metrics
from fedrecon.tomography import CT_METHODS
from fedrecon.training import FlagError

MASKS = ("random", "equispaced", "poisson-disc")
# Coil maps from a smaller center of k-space lose decibels.
_GOOD_CALIBRATION = 8
# What `fedrecon.classical` calls what the flags set.
_FLAGS = {
    "method": "--method",
    "coil_maps": "--coil_maps",
    "weight": "--weight",
    "iterations": "--iterations",
    "select": "--select",
    "slices": "--slices",
    "group": "--group",
    "image_shape": "--image_shape",
    "pixel_size": "--pixel_size",
    "element_size": "--element_size",
}


@dataclasses.dataclass(frozen=True)
class ReconstructOptions:
    """The flags; see `define_flags`."""

    input: str
    output: str
    method: str | None = None
    weights: str | None = None
    coil_maps: str = "espirit"
    calibration_size: int = 24
    weight: float | None = None
    iterations: int | None = None
    whiten: bool = True
    trajectory: str | None = None
    image_shape: list[str] | None = None
    trajectory_unit: str | None = None
    select: list[str] | None = None
    slices: list[str] | None = None
    group: str | None = None
    pixel_size: float | None = None
    element_size: float | None = None
    water_attenuation: float | None = None
    correct_delays: bool = True
    acceleration: float = 1.0
    mask: str = "random"
    center_fraction: float = 0.08
    seed: int = 0
    json: str | None = None


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = {field.name: field.default for field in dataclasses.fields(ReconstructOptions)}
    flags.DEFINE_string("input", None, "File of the measurement.", required=True)
    suffixes = ", ".join(SUFFIXES)
    flags.DEFINE_string("output", None, f"File of the images; its name ends in {suffixes}.", required=True)
    for name, values, text in (
        (
            "method",
            tuple(dict.fromkeys((*METHODS, *CT_METHODS))),
            f"Reconstruction: cg-sense of MRI and fbp of CT when not given. Of CT: {', '.join(CT_METHODS)}; "
            "total-variation and all others of MRI. Gridding is zero-filling on a Cartesian grid.",
        ),
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
        ("iterations", 1, "Largest number of iterations; the method's own when not given."),
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
    flags.DEFINE_string(
        "weights",
        None,
        "Folder of a run of experiments.full_stack or experiments.export: its network reconstructs.",
    )
    flags.DEFINE_string("trajectory", None, "BART array of the trajectory of a BART --input.")
    flags.DEFINE_list(
        "image_shape", None, "rows,columns of the image of CT or a BART trajectory; what it fills."
    )
    flags.DEFINE_list(
        "select",
        None,
        "Image of a file with several: contrast=N, phase=N (of the heart), repetition=N, set=N, encoding=N.",
    )
    flags.DEFINE_list("slices", None, "Slices to reconstruct, from 0: numbers and ranges as 4-6; all.")
    flags.DEFINE_string("group", None, "HDF5 group of the measurement, of an EPI, ISMRMRD or Helsinki file.")
    for name, text in (
        (
            "pixel_size",
            "Width of CT pixels in mm, or elements; an element at the axis when not given.",
        ),
        ("element_size", "Width in mm of an element of a CT detector, of files that count in elements."),
        ("water_attenuation", "Attenuation of water in 1/mm, 0.0193 at 70 keV: CT in Hounsfield units."),
    ):
        flags.DEFINE_float(name, None, text, lower_bound=0.0)
    text = "File for what is known of the images, as JSON: settings, scores, residual, verdict."
    flags.DEFINE_string("json", None, text)
    flags.DEFINE_bool("correct_delays", default["correct_delays"], "Measure the gradient delays of spokes.")


def sampling_mask(
    kind: str, shape: tuple[int, int], acceleration: float, center_fraction: float, seed: int
) -> np.ndarray:
    """A mask (nx,) or (ny, nx) of the kind, as its function of `operators` draws it.

    Raises:
      ValueError: the arguments do not fit each other.
    """
    key = jax.random.key(seed)
    if kind == "random":
        return np.asarray(operators.random_mask(key, shape[1], acceleration, center_fraction, exact=True))
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


def print_ending(method: str, infos: list[dict]) -> None:
    """Says of an iterative method its weights, steps, and whether it stopped because it had converged."""
    if infos and "weight" in infos[0]:
        weights = [info["weight"] for info in infos]
        print(f"{method}: weight {min(weights):.1e} to {max(weights):.1e}, chosen slice by slice")
    if not infos or "converged" not in infos[0]:
        return
    steps, change = (max(info[name] for info in infos) for name in ("iterations", "change"))
    count = sum(info["converged"] for info in infos)
    print(f"{method}: {count} of {len(infos)} slices converged, {steps} steps, relative change {change:.1e}")


def run(options: ReconstructOptions) -> None:
    """Reads, reconstructs, compares and writes.

    Raises:
      ValueError: a file or an option is not as it should be; names it.
      OSError: the output cannot be written.
      ImportError: a file needs an extra that is not installed.
    """
    output = Path(options.output)
    check_output(output, options.input, options.json)
    shape, slices = image_shape_of(options.image_shape), slices_of(options.slices)
    if is_ct(options.input):
        with _naming_flags():
            run_ct(options, shape, slices)
        return
    for name in CT_ONLY:
        if getattr(options, name) is not None:
            raise FlagError(name, "none with a measurement of MRI", getattr(options, name))
    network = None if options.weights is None else open_network(options)
    with _naming_flags():
        settings = ClassicalSettings(
            options.method or "cg-sense",
            options.coil_maps,
            options.calibration_size,
            options.weight,
            options.iterations,
        )
    with _naming_flags():
        measurement = read_measurement(
            options.input,
            trajectory=options.trajectory,
            image_shape=shape,
            trajectory_unit=options.trajectory_unit,
            select=selection_of(options.select),
            slices=slices,
            group=options.group,
        )
    if options.correct_delays:
        measurement = correct_delays(measurement)
    print("\n".join([_describe(measurement), *measurement.notes]))
    with _naming_flags(measurement="--input"):
        prepared = prepare(measurement, options.whiten)
    reference = None
    if options.acceleration > 1:
        full = prepared
        prepared = _undersampled(full, options)
        acceleration = float(full.measurement.mask.sum() / prepared.measurement.mask.sum())
        print(f"undersampled {acceleration:.2f} times ({options.mask})")
        reference = crop(reconstruct(full, ClassicalSettings("rss")), measurement.crop_shape)
    # After undersampling: weights follow the noise of the samples that are kept.
    chosen, settings = settings.weight is None, settled(settings, prepared)
    if network is None and chosen and settings.weight is not None:
        print(f"{settings.method}: weight {settings.weight:.1e}, for noise of {prepared.noise:.1e}")
        if settings.coil_maps == "calibration":
            print(
                "notice: this weight is for ESPIRiT's maps; maps of the calibration block need a larger "
                "--weight"
            )
    record = {
        "source": Path(options.input).name,
        "format": measurement.format,
        "method": settings.method,
        "settings": json.dumps(dataclasses.asdict(settings)),
        "scale": prepared.scale,
        "notes": "; ".join(measurement.notes),
        "whitened": bool(options.whiten and measurement.noise is not None),
    }
    if network is None and settings.method != "rss":
        _note_calibration(prepared.measurement, settings)
    method, widths = settings.method if network is None else "network", None
    with Progress(method, len(measurement.kspace)) as bar, _naming_flags():
        if network is None:
            images, infos = reconstruct(prepared, settings, bar.advance, return_info=True)
        else:
            images, signs, widths = reconstruct_by_network(network, prepared.measurement, bar.advance)
    whole, images = images, crop(images, measurement.crop_shape)
    if network is None:
        print_ending(method, infos)
        if "weight" in infos[0]:
            record["weights"] = [info["weight"] for info in infos]
    else:
        record |= describe_network(network, signs, whole, widths)
        if widths is not None:
            widths = crop(widths, measurement.crop_shape) * np.float32(prepared.scale)
    if reference is not None:
        found = scores(images, reference)
        print(f"{method}: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.4f}, NMSE {found['nmse']:.5f}")
        record |= found | {"mask": options.mask, "seed": options.seed}
        record["acceleration"] = acceleration
    place = place_of(measurement, images.shape)
    write_images(output, images * np.float32(prepared.scale), place, record, widths)
    write_record(options.json, record)
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
    """Padding and what partial Fourier left out are not counted: the mask is drawn around them."""
    shape = prepared.measurement.image_shape
    with _naming_flags(measurement="--acceleration"):
        part = measured_part(prepared.measurement)
    # The smallest block around DC that has all of it.
    size = tuple(
        min(2 * max(n // 2 - used.start, used.stop - n // 2), n) for n, used in zip(shape, part, strict=True)
    )
    try:
        mask = sampling_mask(options.mask, size, options.acceleration, options.center_fraction, options.seed)
    except ArgumentError as error:
        raise FlagError(f"acceleration: {error.name}", error.expected, error.found) from error
    kept = np.zeros(shape, bool)
    kept[tuple(operators.mri.center_slice(n, m) for n, m in zip(shape, size, strict=True))] = mask > 0
    return undersample(prepared, kept)


def _note_calibration(measurement: Measurement, settings: ClassicalSettings) -> None:
    blocks = [
        calibration_size(measurement, i, settings.calibration_size) for i in range(len(measurement.kspace))
    ]
    smallest, method = min(blocks, key=min), METHODS[settings.method]
    size = f"{smallest[0]} x {smallest[1]} fully sampled samples"
    if not (method.maps or method.cartesian):
        if min(smallest) < SMALLEST_CALIBRATION:
            print(f"notice: the center has {size}; with few of them regular undersampling leaves aliases")
    # Fewer are refused for maps.
    elif (
        SMALLEST_CALIBRATION * method.maps
        <= min(smallest)
        < min(_GOOD_CALIBRATION, settings.calibration_size)
    ):
        made = "coil maps" if method.maps else "interpolation kernels"
        print(
            f"notice: {made} come from {size}; below {_GOOD_CALIBRATION} x {_GOOD_CALIBRATION} images lose "
            "decibels, --method=nlinv estimates maps from all samples"
        )


def _describe(measurement: Measurement) -> str:
    slices, coils = measurement.kspace.shape[:2]
    size = " x ".join(map(str, measurement.image_shape))
    if measurement.mask is None:
        sampling = f"{len(measurement.trajectory)} samples of a trajectory"
    else:
        sampling = f"{measurement.mask.mean():.1%} of a Cartesian grid measured"
    return f"{measurement.format}: {slices} slices, {coils} coils, {size}, {sampling}"


def main(_: list[str]) -> None:
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
