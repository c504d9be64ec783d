"""Losses of reconstructions by their names: with a reference, and of the measurement alone."""

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.tasks.equivariance_losses import equivariant, sure
from fedrecon.tasks.held_out_losses import noise2inverse, ssdu, weighted_ssdu
from fedrecon.tasks.image_quality import magnitude, ssim
from fedrecon.tasks.sample_losses import (
    KSPACE,
    SINOGRAM,
    Losses,
    Measure,
    NamedLoss,
    Reconstruct,
    ReconstructionLoss,
    applied,
    check_samples,
    complex_image,
    measured_samples,
)
from fedrecon.types import Batch


def reconstruction_losses(
    images: jax.Array, batch: Batch, ssim_weight: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """``mean |x - t| / r + ssim_weight (1 - SSIM(x, t; r))`` of each example, and which examples count.

    Args:
      images: x (examples, ny, nx), real. Where "target" is complex, complex images: their absolute error is
        that of complex numbers, their SSIM that of magnitudes.
      batch: "target" t (examples, ny, nx), "data_range" r (examples,) and "valid" (examples,).
      ssim_weight: weight of the structural part.

    Returns:
      ((examples,) float, (examples,) bool: valid and not blank).
    """
    scored, data_range = _ranges(batch)
    absolute = jnp.abs(images - batch["target"]).mean((1, 2)) / data_range
    if not ssim_weight:
        return absolute, scored
    structure = ssim(magnitude(images), magnitude(batch["target"]), data_range)
    return absolute + ssim_weight * (1 - structure), scored


def l1_ssim(weight: float = 0.1) -> ReconstructionLoss:
    """`reconstruction_losses` of magnitudes."""

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        return reconstruction_losses(magnitude(reconstruct(batch)), batch, weight)

    return loss


def complex_l1(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """Mean absolute error of complex numbers over the range; "target" is complex.

    Raises:
      ValueError: the target or the image is real.
    """
    _check_complex(batch, "complex_l1")
    return reconstruction_losses(complex_image(reconstruct(batch)), batch, 0.0)


def structure(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """1 - SSIM of magnitudes."""
    scored, data_range = _ranges(batch)
    return 1 - ssim(magnitude(reconstruct(batch)), magnitude(batch["target"]), data_range), scored


def nmse(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """Squared error of magnitudes over the energy of the target."""
    target = magnitude(batch["target"])
    energy = jnp.square(target).sum((1, 2))
    scored = batch["valid"] & (energy > 0)
    error = jnp.square(magnitude(reconstruct(batch)) - target).sum((1, 2))
    return error / jnp.where(scored, energy, 1), scored


def kspace_l1(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """``|F S x - F S t|_1 / |F S t|_1`` over all of k-space, of all coils S; "target" t is complex.

    Raises:
      ValueError: the target or the image is real, or the data are no k-space.
    """
    check_samples(batch, KSPACE)
    _check_complex(batch, "kspace_l1")
    operators = measure({**batch, "mask": jnp.ones_like(batch["mask"])})[0]
    found, wanted = (applied(operators, x) for x in (complex_image(reconstruct(batch)), batch["target"]))
    size = jnp.abs(wanted).sum((1, 2, 3))
    scored = batch["valid"] & (size > 0)
    return jnp.abs(found - wanted).sum((1, 2, 3)) / jnp.where(scored, size, 1), scored


RECONSTRUCTION_LOSSES: dict[str, NamedLoss] = {
    "l1_ssim": NamedLoss(l1_ssim(), "magnitude"),
    "l1": NamedLoss(l1_ssim(0.0), "magnitude"),
    "complex_l1": NamedLoss(complex_l1, "complex"),
    "kspace_l1": NamedLoss(kspace_l1, "complex", (KSPACE,)),
    "ssim": NamedLoss(structure, "magnitude"),
    "nmse": NamedLoss(nmse, "magnitude"),
    "measured": NamedLoss(measured_samples),
    "sure": NamedLoss(sure),
    "ssdu": NamedLoss(ssdu(), samples=(KSPACE,)),
    "multi_mask_ssdu": NamedLoss(ssdu(masks=4), samples=(KSPACE,)),
    "weighted_ssdu": NamedLoss(weighted_ssdu(), samples=(KSPACE,)),
    "robust_ssdu": NamedLoss(weighted_ssdu(noise=0.75), samples=(KSPACE,)),
    "noise2inverse": NamedLoss(noise2inverse(), samples=(SINOGRAM,)),
    "equivariant": NamedLoss(equivariant()),
    "multi_operator": NamedLoss(equivariant(0.0, 1.0)),
    "multi_operator_equivariant": NamedLoss(equivariant(1.0, 1.0)),
    "robust_equivariant": NamedLoss(equivariant(robust=True)),
}


def _ranges(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which examples count, and their ranges; 1 keeps the gradient of padding finite, which has none."""
    scored = batch["valid"] & (batch["data_range"] != 0)
    return scored, jnp.where(scored, batch["data_range"], 1)


def _check_complex(batch: Batch, name: str) -> None:
    if not jnp.iscomplexobj(batch["target"]):
        raise ArgumentError("loss", f"a complex target with {name}", str(batch["target"].dtype))
