"""What a reconstruction adds to its data, and whether it shows small lesions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.examples import each
from experiments.pipeline.patient_scores import overall
from fedrecon import Variables
from fedrecon.data import ClientData
from fedrecon.evaluation import contrast_recovery, disc, lesion_place, null_space
from operators import cg_sense

# Steps and weight of the images that lesions get their phases from.
_STEPS, _WEIGHT = 8, 1e-2

Images = dict[str, np.ndarray]
# Names and weights of the methods, and what they make of data: magnitudes (clients, examples, ny, nx).
Methods = Mapping[str, Callable[[ClientData], np.ndarray]]


class Undetermined(NamedTuple):
    """The part of a network's images that the data did not determine, by site.

    Attributes:
      magnitudes: of the part, with the cutoff, (examples, ny, nx).
      shares: of each pixel, with the cutoff, (examples, ny, nx).
      weak: shares of the energy of whole images, with the cutoff, (examples,), NaN at padding.
      null: the same of the null space.
    """

    magnitudes: Images
    shares: Images
    weak: Images
    null: Images


def undetermined(
    images_by: Callable, measure: Callable, model: Variables, cutoff: float, *parts: ClientData
) -> Undetermined:
    """`fedrecon.evaluation.null_space` of a network's images.

    Args:
      images_by: from `make_images`; magnitudes of complex images get the phases of the start.
      measure: as in ``reconstruction_task``.
      model: the weights.
      cutoff: of squared singular values.
      parts: of the data, whose sites differ.
    """

    def one(A: Any, y: jax.Array, x: jax.Array) -> Any:
        image = _with_phase(x, A.H(y))
        return null_space(A, image, cutoff), null_space(A, image).total

    def found_in(model: Variables, batch: Any) -> Any:
        stacked, measurements, _ = measure(batch)
        weak, null = jax.vmap(one)(stacked, measurements, images_by(model, batch))
        return Undetermined(jnp.abs(weak.part), weak.share, weak.total, null)

    compiled, found = jax.jit(found_in), Undetermined({}, {}, {}, {})
    for part in parts:
        values = each(compiled, [model] * part.clients, part)
        for by_site, value in zip(found, values, strict=True):
            # Padding is black in images, and no number of its own.
            whole = np.full((*part.valid.shape, *value.shape[1:]), 0.0 if value.ndim > 1 else np.nan)
            whole[np.nonzero(part.valid)] = value
            by_site |= dict(zip(part.names, whole, strict=True))
    return found


def contrast_of_lesions(
    methods: Methods, measure: Callable, parts: tuple[ClientData, ...], radius: float, size: float, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> site -> mean contrast recovery over patients with an interval.

    In each image whose tissue has room for it a disc is added to the reference, and what the operator
    measures of it is added to the samples, whose noise stays what it is. It has the phase of the image.

    Args:
      methods: what is judged.
      measure: as in ``reconstruction_task``.
      parts: of the data, whose sites differ.
      radius: of the lesions, in pixels.
      size: their value over the mean of the reference within them.
      seed: of the places.
    """
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    compiled = jax.jit(lambda batch: _samples_with(measure, batch))
    for part in parts:
        lesions, centers = _lesions(part, radius, size, seed)
        name = "kspace" if "kspace" in part.examples else "sinogram"
        with_lesions = ClientData(part.examples | {"lesion": lesions}, part.valid, part.names)
        values = each(lambda _, batch: compiled(batch), [None] * part.clients, with_lesions)
        samples = np.array(part.examples[name])
        samples[np.nonzero(part.valid)] = values
        changed = ClientData(part.examples | {name: samples}, part.valid, part.names)
        references = np.abs(np.asarray(part.examples["target"]))
        for method, images_of in methods.items():
            images = images_of(changed), images_of(part)
            for client, site in enumerate(part.names):
                coefficients: dict[int, list[float]] = {}
                for example, center in centers[client].items():
                    volume = int(part.examples["volume"][client, example])
                    at = client, example
                    pair = references[at] + lesions[at], references[at]
                    coefficients.setdefault(volume, []).append(
                        contrast_recovery((images[0][at], images[1][at]), pair, center, radius)
                    )
                patients = np.array([np.mean(of) for of in coefficients.values()])
                found[method][site] = overall({site: {"recovery": patients}}, "recovery")
    return found


def _lesions(
    part: ClientData, radius: float, size: float, seed: int
) -> tuple[np.ndarray, list[dict[int, tuple[int, int]]]]:
    """What is added to the references, and of each client example -> place."""
    references = np.abs(np.asarray(part.examples["target"]))
    lesions, centers = np.zeros_like(references), []
    for client in range(part.clients):
        centers.append({})
        for example in np.flatnonzero(part.valid[client]):
            reference = references[client, example]
            rng = np.random.default_rng([seed, client, int(example)])
            if (center := lesion_place(rng, reference, radius)) is not None:
                inside = disc(reference.shape, center, radius)
                lesions[client, example] = size * reference[inside].mean() * inside
                centers[-1][int(example)] = center
    return lesions, centers


def _samples_with(measure: Callable, batch: Any) -> jax.Array:
    """The samples of the batch and of its "lesion", measured by the same operators."""
    stacked, measurements, _ = measure(batch)
    if "sinogram" in batch:
        # The operator is the filtered one; samples are before the filter.
        added = jax.vmap(lambda A, d: A.radon(d))(stacked, batch["lesion"])
        return batch["sinogram"] + added * batch["view_mask"][..., None]

    def one(A: Any, y: jax.Array, d: jax.Array) -> jax.Array:
        image = cg_sense(A, y, regularization=_WEIGHT, iterations=_STEPS)
        measured: jax.Array = A(_with_phase(d, image))
        return measured

    return batch["kspace"] + jax.vmap(one)(stacked, measurements, batch["lesion"])


def _with_phase(image: jax.Array, other: jax.Array) -> jax.Array:
    """A real image with the phases of a complex one; others as they are."""
    if jnp.iscomplexobj(other) and not jnp.iscomplexobj(image):
        return image * jnp.exp(1j * jnp.angle(other))
    return image
