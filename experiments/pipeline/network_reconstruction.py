"""The reconstruct command by a trained network: what its flags mean there, and what is said of the images."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon import ood
from fedrecon.data import CTMeasurement, Measurement
from fedrecon.learned import (
    MARGIN,
    CheckedNetwork,
    Signs,
    load_network,
    notices,
    reconstruct_measurement,
    strangeness,
)
from fedrecon.learned_tomography import reconstruct_tomography
from fedrecon.training import FlagError

# Flags that mean something for other methods alone.
_WITHOUT = ("method", "coil_maps", "calibration_size", "weight", "iterations")


def open_network(options: Any, physics: str = "mri") -> CheckedNetwork:
    """The network of ``options.weights``, see `load_network`.

    Args:
      options: `ReconstructOptions`.
      physics: of --input.

    Raises:
      ArgumentError: there is none, or it is one of other physics, or a flag has no meaning with a network.
      DataError: there is no such network, or it is damaged.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in _WITHOUT and value != field.default:
            raise FlagError(field.name, "none with --weights, which is a method of its own", value)
    if not Path(options.weights).exists():
        expected = "the folder of a run of experiments.full_stack or of experiments.export, or a network.npz"
        raise FlagError("weights", expected, options.weights)
    network = load_network(options.weights)
    if network.physics != physics:
        found = f"one of {network.physics.upper()} ({network.origin})"
        raise FlagError("weights", f"a network of {physics.upper()}, as --input is", found)
    return network


def reconstruct_by_network(
    network: CheckedNetwork,
    measurement: Measurement | CTMeasurement,
    progress: Callable[[int], None],
    water_attenuation: float | None = None,
) -> tuple[np.ndarray, Signs, np.ndarray | None]:
    """Images, signs and half widths, with the flag in the messages.

    Args:
      network, measurement, progress: as in `reconstruct_measurement` and `reconstruct_tomography`.
      water_attenuation: of CT.
    """
    try:
        if isinstance(measurement, CTMeasurement):
            return reconstruct_tomography(network, measurement, water_attenuation, progress)
        found: Any = reconstruct_measurement(network, measurement, progress, return_widths=True)
        return found
    except ValueError as error:
        name, expected, found = (getattr(error, part, None) for part in ("name", "expected", "found"))
        if name != "measurement":
            raise
        raise FlagError("weights", f"{expected}, in --input", found) from error


def describe_network(
    network: CheckedNetwork, signs: Signs, images: np.ndarray, widths: np.ndarray | None = None
) -> dict[str, Any]:
    """Prints what was left unexplained, and the verdict; returns them for the record of the images.

    Args:
      network: that made the images.
      signs: of the images.
      images: (slices, ny, nx).
      widths: half widths of their intervals, alike; None without.
    """
    residual, departure = (float(np.max(v)) for v in (signs.residual, signs.departure))
    bound = network.bounds.residual / MARGIN
    print(f"network: {network.origin}")
    known = np.asarray(signs.noise)[~np.isnan(signs.noise)]
    noise = f", {np.max(known):.2g} standard deviations of their noise" if known.size else ""
    print(
        f"network: residual {residual:.3g} of the measured samples{noise} "
        f"(in validation at most {bound:.3g}), {departure:.2g} away from the regularized least-squares image"
    )
    intervals = {}
    if widths is not None and network.interval is not None:
        level, mean = network.interval.level, float(np.mean(widths) / np.abs(images).max())
        print(
            f"network: intervals that held {100 * level:g} % of the pixels in validation are "
            f"± {100 * mean:.1f} % of the brightest pixel on average"
        )
        intervals = {"interval_level": level, "interval_half_width": mean}
    strange = strangeness(network, images)
    found = [*notices(signs, network.bounds), *ood.verdict(strange)]
    for sentence in found:
        print(f"notice: {sentence}")
    verdict = "outside of what the network was trained on: do not trust it" if found else "as in training"
    print(f"network: {len(signs.residual)} images, {verdict}")
    return {
        "method": "network",
        "settings": json.dumps(dataclasses.asdict(network.architecture)),
        "network": network.origin,
        "residual": residual,
        "departure": departure,
        "strangeness": float(np.max(strange)),
        "out_of_distribution": "; ".join(found),
        **intervals,
    }
