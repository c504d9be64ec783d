"""What losses of measurements are made of: types, errors of samples, measurements of other images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch
from operators import LinearOperator

Reconstruct = Callable[[Batch], jax.Array]
Measure = Callable[[Batch], tuple[LinearOperator, jax.Array, jax.Array | None]]
# Of each example, and which examples count, both (examples,).
Losses = tuple[jax.Array, jax.Array]
# loss(reconstruct, measure, batch, key)
ReconstructionLoss = Callable[[Reconstruct, Measure, Batch, jax.Array], Losses]

# What a scanner's samples are called in a batch.
KSPACE, SINOGRAM = "kspace", "sinogram"


class NamedLoss(NamedTuple):
    """A loss of reconstructions and what it asks for.

    Attributes:
      function: the loss.
      reference: "magnitude" where it compares with "target", "complex" where that has to be complex, and
        empty where it uses no reference.
      samples: of which measurements, "kspace" (multi-coil Cartesian MRI) or "sinogram" or both.
    """

    function: ReconstructionLoss
    reference: str = ""
    samples: tuple[str, ...] = (KSPACE, SINOGRAM)


def measured_samples(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """`sample_error` of the image at what was measured; nothing is held out, so that noise is fitted, too."""
    operators, y, _ = measure(batch)
    return sample_error(applied(operators, fitting_image(reconstruct, batch, y)), y), batch["valid"]


def sample_error(found: jax.Array, measured: jax.Array) -> jax.Array:
    """``|u - v|_2 / |u|_2 + |u - v|_1 / |u|_1`` of the samples u of each example; 0 where there are none."""
    axes = tuple(range(1, measured.ndim))
    error, size = jnp.abs(found - measured), jnp.abs(measured)
    some = size.any(axes)
    first = error.sum(axes) / jnp.where(some, size.sum(axes), 1)
    # The root has no derivative at zero.
    energy = jnp.square(error).sum(axes)
    root = jnp.where(energy > 0, jnp.sqrt(jnp.where(energy > 0, energy, 1)), 0)
    second = root / jnp.where(some, jnp.sqrt(jnp.square(size).sum(axes)), 1)
    return jnp.where(some, first + second, 0)


def relative_error(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """``|u - v|^2 / |u|^2`` of each example, u what is wanted; ``|v|^2`` where that is zero."""
    energy = squares(wanted)
    return squares(found - wanted) / jnp.where(energy > 0, energy, 1)


def squares(values: jax.Array) -> jax.Array:
    """``|v|^2`` of each example, (examples, ...) -> (examples,), real."""
    return jnp.square(jnp.abs(values)).sum(tuple(range(1, values.ndim)))


def applied(operators: LinearOperator, images: jax.Array) -> jax.Array:
    """A x of each example, by stacked operators."""
    found: jax.Array = jax.vmap(lambda A, x: A(x))(operators, images)
    return found


def fitting_image(reconstruct: Reconstruct, batch: Batch, measured: jax.Array) -> jax.Array:
    """What the network returns: phases are needed of k-space; sinograms are of real images.

    Raises:
      ValueError: ``measured`` is complex and the image is not.
    """
    image = reconstruct(batch)
    return complex_image(image) if jnp.iscomplexobj(measured) else image


def complex_image(image: jax.Array) -> jax.Array:
    """The image; ValueError where it is real."""
    if not jnp.iscomplexobj(image):
        raise ArgumentError("network", "one that returns complex images, with this loss", str(image.dtype))
    return image


def samples_of(batch: Batch) -> str:
    """Whether a batch has "kspace" or a "sinogram"; ValueError where it has neither and its operator."""
    needed = {KSPACE: ("mask", "coil_maps"), SINOGRAM: ("angles", "view_mask")}
    for name, others in needed.items():
        if name in batch and all(other in batch for other in others):
            return name
    raise ArgumentError(
        "loss", "one with a reference for data that are no k-space or sinogram", sorted(batch)
    )


def check_samples(batch: Batch, name: str) -> None:
    """Raises ValueError unless the samples of the batch are called so."""
    if samples_of(batch) != name:
        raise ArgumentError("loss", f"one for data that are no {name}", sorted(batch))


def measured_again(measure: Measure, batch: Batch, images: jax.Array) -> Batch:
    """The batch with samples of other images by its operators, without noise."""
    operators = measure(batch)[0]
    if samples_of(batch) == KSPACE:
        return {**batch, KSPACE: applied(operators, images)}
    # The operator is the filtered one: what a batch has is what the filter is applied to.
    integrals = jax.vmap(lambda A, x: A.radon(x))(operators, images)
    return {**batch, SINOGRAM: integrals * batch["view_mask"][..., None]}
