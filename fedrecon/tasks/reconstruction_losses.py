"""Losses of reconstructions by their names: with a reference, and of the measurement alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fedrecon.errors import ArgumentError
from fedrecon.tasks.image_quality import magnitude, ssim
from fedrecon.types import Batch
from operators import LinearOperator

Reconstruct = Callable[[Batch], jax.Array]
Measure = Callable[[Batch], tuple[LinearOperator, jax.Array, jax.Array | None]]
# Of each example, and which examples count, both (examples,).
Losses = tuple[jax.Array, jax.Array]
# loss(reconstruct, measure, batch, key)
ReconstructionLoss = Callable[[Reconstruct, Measure, Batch, jax.Array], Losses]

# Edge of the square in the center of k-space that a network is always given.
_CENTER = 4


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
    if not jnp.iscomplexobj(batch["target"]):
        raise ArgumentError("loss", "a complex target with complex_l1", str(batch["target"].dtype))
    return reconstruction_losses(_complex(reconstruct(batch)), batch, 0.0)


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


def measured_samples(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """`sample_error` of the image at what was measured; nothing is held out, so that noise is fitted, too."""
    operators, y, _ = measure(batch)
    image = reconstruct(batch)
    # Of k-space phases are needed; sinograms are of real images.
    image = _complex(image) if jnp.iscomplexobj(y) else image
    found = jax.vmap(lambda A, x: A(x))(operators, image)
    return sample_error(found, y), batch["valid"]


def ssdu(part: float = 0.4, masks: int = 1) -> ReconstructionLoss:
    """Self-supervision by held-out samples (SSDU): what the network is not given has to be predicted.

    The samples Omega of each example are divided at random: the network reconstructs from Theta, and the
    loss is `sample_error` at Lambda, mean over divisions. Lambda has ``part`` of the samples outside the
    square of 4 x 4 in the center, drawn by a Gaussian density whose deviation is a quarter of each axis.
    No reference is used. Multi-coil Cartesian MRI, as `mri_measure` has it.

    Args:
      part: of the samples that are held out, in (0, 1).
      masks: divisions of each example in a step; more than one is multi-mask SSDU.

    Raises:
      ValueError: arguments out of range; of other data or networks of magnitudes, from the loss.

    Source: Yaman et al., Magn. Reson. Med. 84:3172, 2020; NMR Biomed. 35:e4798, 2022 (several masks).
    """
    if not 0 < part < 1:
        raise ArgumentError("part", "a number between 0 and 1", part)
    if masks < 1:
        raise ArgumentError("masks", "a positive integer", masks)

    def once(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> jax.Array:
        held = jax.vmap(lambda key, mask: held_out(key, mask, part))(
            jax.random.split(key, len(batch["mask"])), batch["mask"]
        )
        given = jnp.where(held, 0, batch["mask"])
        seen = {**batch, "mask": given, "kspace": batch["kspace"] * (given[:, None] != 0)}
        image = _complex(reconstruct(seen))
        operators, y, _ = measure({**batch, "mask": jnp.where(held, batch["mask"], 0)})
        found = jax.vmap(lambda A, x: A(x))(operators, image)
        return sample_error(found, y * held[:, None])

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        _check_kspace(batch)
        each = [once(reconstruct, measure, batch, jax.random.fold_in(key, i)) for i in range(masks)]
        return sum(each[1:], each[0]) / masks, batch["valid"]

    return loss


def equivariant(rotations: float = 1.0, operators: float = 0.0) -> ReconstructionLoss:
    """Equivariant and multi-operator imaging: what is measured fits, and a second measurement is undone.

    With x = f(y), ``|A x - y|^2 / |y|^2`` plus, weighted by ``rotations``, ``|f(A T x) - T x|^2 / |T x|^2``
    for a rotation T by a random angle about the center (bilinear, zeros outside), and, weighted by
    ``operators``, ``|f(A' x) - x|^2 / |x|^2`` for the operator A' of another example of the batch. No
    reference is used, and no noise is taken away. Multi-coil Cartesian MRI, as `mri_measure` has it.

    Args:
      rotations, operators: weights of both parts, not negative; multi-operator imaging is (0, 1).

    Raises:
      ValueError: a negative weight, or two zeros; of other data or networks of magnitudes, from the loss.

    Source: Chen, Tachella and Davies, ICCV 2021 (rotations); Tachella, Chen and Davies, NeurIPS 2022.
    """
    if min(rotations, operators) < 0 or not rotations + operators:
        raise ArgumentError("weights", "numbers of 0 or more, one of them positive", (rotations, operators))

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        _check_kspace(batch)
        turn, other = jax.random.split(key)
        image = _complex(reconstruct(batch))

        def measured_again(changed: Batch, x: jax.Array) -> jax.Array:
            A = measure(changed)[0]
            again = reconstruct({**changed, "kspace": jax.vmap(lambda A, x: A(x))(A, x)})
            return _relative(again, x)

        A, y, _ = measure(batch)
        total = _relative(jax.vmap(lambda A, x: A(x))(A, image), y)
        if rotations:
            angles = jax.random.uniform(turn, (len(image),), maxval=2 * jnp.pi)
            total += rotations * measured_again(batch, jax.vmap(rotated)(image, angles))
        if operators:
            place = _of_others(other, batch["valid"])
            moved = {name: batch[name][place] for name in ("mask", "coil_maps")}
            total += operators * measured_again({**batch, **moved}, image)
        return total, batch["valid"]

    return loss


RECONSTRUCTION_LOSSES: dict[str, ReconstructionLoss] = {
    "l1_ssim": l1_ssim(),
    "l1": l1_ssim(0.0),
    "complex_l1": complex_l1,
    "ssim": structure,
    "nmse": nmse,
    "measured": measured_samples,
    "ssdu": ssdu(),
    "multi_mask_ssdu": ssdu(masks=4),
    "equivariant": equivariant(),
    "multi_operator": equivariant(0.0, 1.0),
    "multi_operator_equivariant": equivariant(1.0, 1.0),
}
# Those that use no reference.
SELF_SUPERVISED = (
    "measured",
    "ssdu",
    "multi_mask_ssdu",
    "equivariant",
    "multi_operator",
    "multi_operator_equivariant",
)


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


def held_out(key: jax.Array, mask: jax.Array, part: float) -> jax.Array:
    """Lambda of `ssdu`: bool (ny, nx), ``part`` of the samples of a mask (ny, nx) outside the center."""
    places = [jnp.arange(n) - n // 2 for n in mask.shape]
    y, x = (place / (n / 4) for place, n in zip(places, mask.shape, strict=True))
    density = -(jnp.square(y)[:, None] + jnp.square(x)[None]) / 2
    low, high = -(_CENTER // 2), _CENTER - _CENTER // 2
    inside = [(place >= low) & (place < high) for place in places]
    free = (mask != 0) & ~(inside[0][:, None] & inside[1][None])
    # The largest of Gumbel variables are draws without replacement.
    score = jnp.where(free, density + jax.random.gumbel(key, mask.shape), -jnp.inf)
    order = jnp.argsort(jnp.argsort(-score, axis=None)).reshape(mask.shape)
    return free & (order < jnp.floor(part * free.sum()))


def rotated(image: jax.Array, angle: jax.Array) -> jax.Array:
    """An image (ny, nx), rotated about pixel (ny // 2, nx // 2) by an angle in radians, zero outside."""
    ny, nx = image.shape
    y, x = jnp.meshgrid(jnp.arange(ny) - ny // 2, jnp.arange(nx) - nx // 2, indexing="ij")
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    places = [cosine * y - sine * x + ny // 2, sine * y + cosine * x + nx // 2]

    def part(x: jax.Array) -> jax.Array:
        return map_coordinates(x, places, order=1, mode="constant")

    return jax.lax.complex(part(image.real), part(image.imag)) if jnp.iscomplexobj(image) else part(image)


def _ranges(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which examples count, and their ranges; 1 keeps the gradient of padding finite, which has none."""
    scored = batch["valid"] & (batch["data_range"] != 0)
    return scored, jnp.where(scored, batch["data_range"], 1)


def _relative(found: jax.Array, wanted: jax.Array) -> jax.Array:
    axes = tuple(range(1, wanted.ndim))
    energy = jnp.square(jnp.abs(wanted)).sum(axes)
    return jnp.square(jnp.abs(found - wanted)).sum(axes) / jnp.where(energy > 0, energy, 1)


def _of_others(key: jax.Array, valid: jax.Array) -> jax.Array:
    """For each example the number of a valid one, of another where there is one."""
    n = len(valid)
    allowed = valid[None] & ~jnp.eye(n, dtype=bool)
    logits = jnp.where(allowed, 0.0, -jnp.inf)
    logits = jnp.where(
        allowed.any(1, keepdims=True), logits, jnp.where(jnp.eye(n, dtype=bool), 0.0, -jnp.inf)
    )
    return jax.random.categorical(key, logits)


def _complex(image: jax.Array) -> jax.Array:
    if not jnp.iscomplexobj(image):
        raise ArgumentError("network", "one that returns complex images, with this loss", str(image.dtype))
    return image


def _check_kspace(batch: Batch) -> None:
    if any(name not in batch for name in ("mask", "kspace", "coil_maps")):
        raise ArgumentError("loss", "one with a reference for data that are no k-space", sorted(batch))
