"""The reconstruct command for CT: what its flags mean there, from the file to the images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pipeline.image_files import Place, write_images, write_record
from experiments.pipeline.network_reconstruction import (
    describe_network,
    open_network,
    reconstruct_by_network,
)
from fedrecon.data import CTMeasurement, read_ct_measurement
from fedrecon.data.formats import centered_affine
from fedrecon.errors import ArgumentError
from fedrecon.runtime import Progress
from fedrecon.tomography import CT_METHODS, reconstruct_ct
from fedrecon.training import FlagError
from operators.ct import attenuation_to_hu

# Flags that mean something for CT; the others have to stay as they are.
_FLAGS = frozenset(
    ("input", "output", "method", "weight", "iterations", "weights", "slices", "group", "json")
    + ("image_shape", "pixel_size", "element_size", "water_attenuation")
)
# Flags that mean something for CT alone.
CT_ONLY = ("pixel_size", "element_size", "water_attenuation")


def run_ct(options: Any, image_shape: tuple[int, int] | None, slices: list[int] | None) -> None:
    """Reads, reconstructs and writes.

    Slices keep their distance where every second or third is chosen.

    Args:
      options: `ReconstructOptions`.
      image_shape: what ``options.image_shape`` says.
      slices: what ``options.slices`` says.

    Raises:
      ArgumentError: the file or a flag is not as it should be.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in _FLAGS and value != field.default:
            raise FlagError(field.name, "none with a CT measurement", value)
    if options.water_attenuation is not None and not 0 < options.water_attenuation < np.inf:
        raise FlagError("water_attenuation", "a positive number", options.water_attenuation)
    network = None if options.weights is None else open_network(options, "ct")
    measurement = read_ct_measurement(
        options.input,
        group=options.group,
        image_shape=image_shape,
        pixel_size=options.pixel_size,
        element_size=options.element_size,
    )
    if options.water_attenuation is not None and measurement.unit != "mm":
        raise FlagError("water_attenuation", "lengths in mm (give --element_size)", "elements")
    if slices is not None and not set(slices) <= set(range(measurement.slices)):
        raise FlagError("slices", f"numbers from 0 to {measurement.slices - 1}", slices)
    placed = Path(options.output).suffix in (".nii", ".gz", ".dcm")
    shape = (measurement.slices if slices is None else len(slices), *measurement.image_shape[-2:])
    rescale_type = "US" if options.water_attenuation is None else "HU"
    place = _place(measurement, shape, slices, rescale_type) if placed else Place(None)
    volume = len(measurement.image_shape) == 3
    if slices is not None and not volume:
        measurement = dataclasses.replace(measurement, values=measurement.values[slices])
    method = "network" if network else options.method or "fbp"
    print(_describe(measurement))
    about, widths = {"method": method}, None
    with Progress(method, 1 if volume else measurement.slices) as bar:
        if network is None:
            images = reconstruct_ct(measurement, method, options.weight, options.iterations, bar.advance)
            about["settings"] = json.dumps(_settings(method, options))
        else:
            water = options.water_attenuation
            images, signs, widths = reconstruct_by_network(network, measurement, bar.advance, water)
    if network is not None:
        about |= describe_network(network, signs, images, widths)
    if slices is not None and volume:
        images = images[slices]
    unit = f"1/{measurement.unit}"
    if options.water_attenuation is not None:
        images = np.asarray(attenuation_to_hu(images, options.water_attenuation))
        widths = None if widths is None else widths * np.float32(1000 / options.water_attenuation)
        unit = "HU"
    record = {
        "source": Path(options.input).name,
        "format": measurement.format,
        **about,
        "unit": unit,
        "pixel_size": measurement.pixel_size,
        "slice_distance": measurement.slice_distance,
        "length_unit": measurement.unit,
    }
    try:
        write_images(Path(options.output), images, place, record, widths)
        write_record(options.json, record)
    except ArgumentError as error:
        raise FlagError("output", error.expected, error.found) from error
    print(f"wrote {options.output} in {unit}")


def _settings(method: str, options: Any) -> dict[str, Any]:
    chosen = CT_METHODS[method]
    return {
        "weight": chosen.weight if options.weight is None else options.weight,
        "iterations": options.iterations or chosen.iterations,
    }


def _place(measurement: CTMeasurement, shape: Any, slices: list[int] | None, rescale_type: str) -> Place:
    steps = {1} if slices is None or len(slices) < 2 else set(np.diff(slices).tolist())
    if len(steps) > 1 or min(steps) < 1:
        raise FlagError("slices", "numbers in even, rising steps for NIfTI and DICOM", slices)
    if measurement.unit != "mm":
        return Place(None, "CT", rescale_type)
    distance, pixel = measurement.slice_distance, measurement.pixel_size
    affine = centered_affine(shape, (min(steps) * distance, pixel, pixel))
    middle = (measurement.slices - 1) / 2
    if slices is not None:
        affine[2, 3] += ((slices[0] + slices[-1]) / 2 - middle) * distance
    affine[2, 3] += measurement.height
    return Place(affine, "CT", rescale_type)


def _describe(measurement: CTMeasurement) -> str:
    geometry = type(measurement.geometry).__name__
    views = len(np.asarray(measurement.geometry.angles))
    size = " x ".join(map(str, measurement.image_shape[-2:]))
    return (
        f"{measurement.format}: {geometry}, {views} views, {measurement.slices} slices of {size}, "
        f"pixels of {measurement.pixel_size:.4g} {measurement.unit}; axes of the scanner"
    )
