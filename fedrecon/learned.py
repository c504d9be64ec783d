"""Images by a trained network, with signs of whether it is at home with the measurement.

A network answers every measurement with a plausible image. Two numbers tell what it did with this one: how
much of the measured samples its image leaves unexplained, and how far it went from the regularized
least-squares image of the same samples. The largest that occurred in validation, with a margin, are saved
with the network; what exceeds them is reported.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon import ood
from fedrecon.classical_maps import calibration_block
from fedrecon.data import DataError, Measurement, mri_examples
from fedrecon.errors import ArgumentError
from fedrecon.evaluation import error_scale
from fedrecon.exports import is_export, load
from fedrecon.models import NORMS, RECONSTRUCTORS, named_reconstructor
from fedrecon.tasks import mri_measure, noise_deviation
from fedrecon.types import Batch, Variables
from fedrecon.weights import read_weights, write_weights

# "unet" is a varnet under the name that a task has for it.
NETWORKS = tuple(name for name in RECONSTRUCTORS if name != "unet")
# Room above what occurred in validation.
MARGIN = 1.5
_FORMAT = "fedrecon network 2"
_WEIGHT, _STEPS = 1e-2, 8
_EXPECTED = "a network written by save_network"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a network is built from.

    Attributes:
      network: one of `NETWORKS`.
      cascades, channels, pools: its sizes, where it has them.
      learn_coil_maps: of "modl" and "varnet".
      norm: a key of `NORMS`, where it has normalization layers to choose.
    """

    network: str
    cascades: int
    channels: int
    pools: int
    learn_coil_maps: bool = False
    norm: str = "instance"

    def build(self) -> nn.Module:
        """The flax module."""
        sizes = {"cascades": self.cascades, "channels": self.channels, "pools": self.pools}
        network = named_reconstructor(self.network, **sizes, norm=self.norm)
        return network.clone(learn_coil_maps=True) if self.learn_coil_maps else network


class Signs(NamedTuple):
    """What tells whether a network is at home with a measurement; larger is stranger.

    Attributes:
      residual: |A x - y| / |y|, of the network's image x and the measured samples y.
      noise: the same in standard deviations of the noise of a sample, which is estimated from the outermost
        samples of k-space; NaN where the measurement is no k-space.
      departure: |x - x0| / |x0|, of the regularized least-squares image x0 of the same samples.
    """

    residual: Any
    noise: Any
    departure: Any


class IntervalBound(NamedTuple):
    """Conformal intervals of pixels, image ± quantile * scale with `fedrecon.evaluation.error_scale`.

    Attributes:
      level: part of the pixels of the validation that are inside.
      quantile: of the scaled errors there, summed over sites.
    """

    level: float
    quantile: float


class CheckedNetwork(NamedTuple):
    """A trained network with the bounds of its signs.

    Attributes:
      architecture: of the network.
      variables: its weights.
      bounds: of the signs, as `calibrate` found them.
      origin: sentence that says what it was trained on.
      physics: ``"mri"`` or ``"ct"``.
      images: what its images of the training data are like, by `appearance`; None where nobody says.
      interval: of its images, calibrated in validation; None where nobody says.
    """

    architecture: Architecture
    variables: Variables
    bounds: Signs
    origin: str
    physics: str = "mri"
    images: ood.Reference | None = None
    interval: IntervalBound | None = None


def make_reconstruct(
    model: nn.Module, measure: Callable[[Batch], tuple]
) -> Callable[[Variables, Batch], tuple[jax.Array, Signs]]:
    """Compiles ``reconstruct(variables, batch) -> (images, signs)``.

    Args:
      model: an unrolled network, such as ``MoDL``.
      measure: as in ``reconstruction_task``.

    Returns:
      A function whose images are (examples, ny, nx), complex where the operators' are, and whose signs have
      arrays (examples,).
    """
    images_by, signs_by = make_images(model, measure), make_signs(measure)

    def reconstruct(variables: Variables, batch: Batch) -> tuple[jax.Array, Signs]:
        images = images_by(variables, batch)
        return images, signs_by(images, batch)

    return reconstruct


def make_images(
    model: nn.Module, measure: Callable[[Batch], tuple]
) -> Callable[[Variables, Batch], jax.Array]:
    """Compiles the first half of `make_reconstruct`: ``images(variables, batch)``."""

    def images(variables: Variables, batch: Batch) -> jax.Array:
        weights = {"params": variables.params, "batch_stats": variables.stats}
        found: Any = model.apply(weights, *measure(batch))
        return found

    return jax.jit(images)


def make_signs(measure: Callable[[Batch], tuple]) -> Callable[[jax.Array, Batch], Signs]:
    """Compiles the second half of `make_reconstruct`: ``signs(images, batch)``."""

    def signs(images: jax.Array, batch: Batch) -> Signs:
        stacked, measurements, _ = measure(batch)
        return signs_of(stacked, measurements, images, batch)

    return jax.jit(signs)


def signs_of(stacked: operators.LinearOperator, measurements: Any, images: Any, batch: Batch) -> Signs:
    """The signs of reconstructed images.

    Args:
      stacked: operators, stacked leaf by leaf.
      measurements: ``(examples, *out_shape)``.
      images: ``(examples, *in_shape)``; magnitudes of complex ones are given the phases of the start.
      batch: the examples; "mask" and "kspace" give the noise.
    """

    def one(A, y, x):
        start = operators.cg_sense(A, y, regularization=_WEIGHT, iterations=_STEPS)
        if jnp.iscomplexobj(start) and not jnp.iscomplexobj(x):
            x = x * jnp.exp(1j * jnp.angle(start))
        left = jnp.linalg.norm(A(x.astype(start.dtype)) - y)
        departure = jnp.linalg.norm(x - start) / jnp.maximum(jnp.linalg.norm(start), 1e-30)
        return left, left / jnp.maximum(jnp.linalg.norm(y), 1e-30), departure

    left, residual, departure = jax.vmap(one)(stacked, jnp.asarray(measurements), images)
    noise = jnp.full(residual.shape, jnp.nan)
    if "kspace" in batch and "mask" in batch:
        samples = (jnp.abs(batch["kspace"]) > 0).sum((1, 2, 3))
        noise = left / jnp.sqrt(jnp.maximum(samples, 1)) / noise_deviation(batch["kspace"])
    return Signs(residual, noise, departure)


def measured_examples(measurement: Measurement, calibration_size: int = 24) -> list[dict[str, Any]]:
    """The slices of a Cartesian measurement, each a batch of one example, normalized as in training.

    Args:
      measurement: of any matrix and number of coils.
      calibration_size: largest edge of the center of k-space that coil maps come from.

    Raises:
      ValueError: there is a trajectory, volumes are not measured slice by slice, or the center of k-space
        is not measured.
    """
    if measurement.mask is None:
        raise ArgumentError("measurement", "Cartesian sampling, which networks are for", "a trajectory")
    if len(measurement.image_shape) != 2:
        size = " x ".join(map(str, measurement.image_shape))
        raise ArgumentError("measurement", "slices, which networks are for", f"a volume of {size}")
    batches = []
    for kspace, mask in zip(measurement.kspace, measurement.mask, strict=True):
        block = calibration_block(np.asarray(mask) > 0, calibration_size)
        if not min(block):
            raise ArgumentError("measurement", "a fully sampled center of k-space", "none")
        nothing = np.zeros((1, *kspace.shape[-2:]), np.float32)
        batch = mri_examples(kspace[None], np.asarray(mask, np.float32), nothing, block)
        batches.append({**batch, "valid": np.ones(1, bool)})
    return batches


def reconstruct_measurement(
    network: CheckedNetwork,
    measurement: Measurement,
    progress: Callable[[int], None] = lambda count: None,
    *,
    normalized: bool = False,
    return_widths: bool = False,
) -> Any:
    """Images of a Cartesian measurement of MRI by a network, and their signs, to be told by `notices`.

    Args:
      network: from `load_network`.
      measurement: of any scanner.
      progress: called with the number of slices finished since the last call.
      normalized: images as networks see them in training, instead of in the unit of the measurement.
      return_widths: the third result, too.

    Returns:
      Complex images (slices, ny, nx) in the unit of the measurement under orthonormal transforms, signs
      (slices,), and half widths of the intervals of their magnitudes, as `half_widths`.

    Raises:
      ValueError: as `measured_examples`; the network is not one of MRI.
    """
    if network.physics != "mri":
        raise ArgumentError("network", "one of MRI", f"one of {network.physics.upper()}: {network.origin}")
    reconstruct = make_reconstruct(network.architecture.build(), mri_measure)
    start = start_images(mri_measure)
    images, signs, widths = [], [], []
    for batch in measured_examples(measurement):
        image, sign = reconstruct(network.variables, batch)
        scale = 1 if normalized else batch["scale"][0]
        images.append(np.asarray(image[0]) * scale)
        signs.append(sign)
        if return_widths and network.interval is not None:
            widths.append(half_widths(network.interval, image, start(batch))[0] * scale)
        progress(1)
    found = np.stack(images), Signs(*(np.concatenate(values) for values in zip(*signs, strict=True)))
    return (*found, np.stack(widths) if widths else None) if return_widths else found


def start_images(measure: Callable[[Batch], tuple]) -> Callable[[Batch], jax.Array]:
    """Compiles ``start(batch)``: magnitudes of A^H y, (examples, ny, nx), which networks start from."""
    return jax.jit(lambda batch: jnp.abs(jax.vmap(lambda A, y: A.H(y))(*measure(batch)[:2])))


def half_widths(interval: IntervalBound, images: Any, starts: Any) -> np.ndarray:
    """Half the widths of the intervals of magnitudes, float32 (examples, ny, nx).

    Args:
      interval: of the network.
      images: by the network, (examples, ny, nx), real or complex.
      starts: of `start_images`, of the same examples in the same unit.
    """
    scale = error_scale(np.abs(np.asarray(images)), np.abs(np.asarray(starts)))
    return np.asarray(interval.quantile * scale, np.float32)


def appearance(images: np.ndarray) -> np.ndarray:
    """What images look like, in any unit: ``(images, ny, nx)`` -> ``(images, features)``.

    `fedrecon.ood.image_statistics` of magnitudes over their deviation.
    """
    magnitudes = np.abs(np.asarray(images))
    deviation = np.maximum(magnitudes.std((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return ood.image_statistics((magnitudes / deviation)[..., None])


def strangeness(network: CheckedNetwork, images: np.ndarray) -> np.ndarray:
    """Of a network's images ``(images, ny, nx)``: above 1 is unlike any in validation; NaN is not known."""
    if network.images is None:
        return np.full(len(images), np.nan)
    return ood.distances(appearance(images), network.images) / network.images.bound


def calibrate(signs: Sequence[Signs], margin: float = MARGIN) -> Signs:
    """Bounds of signs: ``margin`` times the largest of those in validation, each an array of any length."""

    def largest(values: Sequence[Any]) -> float:
        together = np.concatenate([np.ravel(v) for v in values])
        return float(margin * np.max(together[~np.isnan(together)], initial=-np.inf))

    bounds = Signs(*(largest(values) for values in zip(*signs, strict=True)))
    return Signs(*(b if np.isfinite(b) else float("nan") for b in bounds))


def notices(signs: Signs, bounds: Signs) -> list[str]:
    """Sentences about what exceeds the bounds; none where everything is as in training.

    Args:
      signs: of the examples.
      bounds: scalars; NaN is no bound. A sign that is not finite exceeds every bound.
    """
    texts = {
        "residual": "leaves {:.2g} of the measured samples unexplained (in norm), in validation at "
        "most {:.2g}",
        "noise": "misses the measured samples by {:.2g} standard deviations of their noise, in validation at "
        "most {:.2g}",
        "departure": "changes the regularized least-squares image by {:.2g} of it, in validation at "
        "most {:.2g}",
    }
    found = []
    for name, text in texts.items():
        bound, values = getattr(bounds, name), np.ravel(getattr(signs, name))
        known = values if name != "noise" else values[~np.isnan(values)]
        if np.isnan(bound) or not len(known):
            continue
        over = ~(known <= bound)
        if over.any():
            worst = float(np.max(np.where(np.isnan(known), np.inf, known)))
            # The bound is shown as it occurred, without the margin.
            found.append(
                f"{over.sum()} of {len(known)} images: the network " + text.format(worst, bound / MARGIN)
            )
    return found


def about_network(network: CheckedNetwork) -> dict[str, Any]:
    """What is known of a network besides its weights, JSON-able; cards of exported networks hold it, too."""
    return {
        "format": _FORMAT,
        "architecture": dataclasses.asdict(network.architecture),
        "bounds": {k: None if math.isnan(v) else v for k, v in network.bounds._asdict().items()},
        "origin": network.origin,
        "physics": network.physics,
        "images": None if network.images is None else ood.as_document(network.images),
        "interval": None if network.interval is None else network.interval._asdict(),
    }


def save_network(path: str | os.PathLike, network: CheckedNetwork) -> None:
    """Writes a network as a ``.npz`` of arrays and one JSON text, without pickled objects."""
    write_weights(path, network.variables, about_network(network))


def load_network(path: str | os.PathLike) -> CheckedNetwork:
    """Reads a network with its bounds.

    Args:
      path: a file that `save_network` wrote, the working directory of experiments.full_stack, which has one,
        or a folder that experiments.export wrote of such a run.

    Raises:
      DataError: the file is missing, or no such network.
      ImportError: as `fedrecon.exports.load`.
    """
    path = Path(path)
    if path.is_dir() and is_export(path):
        exported = load(path)
        if "network" not in exported.card:
            found = f"a network for {exported.card.get('task', 'another task')}"
            raise DataError(
                path / "card.json", None, "the card of an unrolled network of a full-stack run", found
            )
        return _checked(path / "card.json", exported.variables, exported.card["network"])
    file = path / "network.npz" if path.is_dir() else path
    try:
        variables, about = read_weights(file)
    except Exception as error:
        # Whatever a damaged archive raises.
        raise DataError(file, None, _EXPECTED, error) from error
    return _checked(file, variables, about)


def _checked(path: Path, variables: Variables, about: Mapping[str, Any]) -> CheckedNetwork:
    try:
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']!r}")
        architecture = Architecture(**about["architecture"])
        for key, known in (("network", NETWORKS), ("norm", NORMS)):
            if (name := getattr(architecture, key)) not in known:
                raise ValueError(f"{key} {name!r}")
        bounds = Signs(**{k: float("nan") if v is None else float(v) for k, v in about["bounds"].items()})
        origin, physics = str(about["origin"]), str(about["physics"])
        known = about.get("images")
        images = None if known is None else ood.from_document(known)
        interval = about.get("interval")
        if interval is not None:
            interval = IntervalBound(float(interval["level"]), float(interval["quantile"]))
        return CheckedNetwork(architecture, variables, bounds, origin, physics, images, interval)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(path, None, _EXPECTED, error) from error
