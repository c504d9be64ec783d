"""Losses of the measurement alone: samples that a network is not given have to be predicted."""

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.tasks.noise_levels import noise_level
from fedrecon.tasks.sample_losses import (
    KSPACE,
    SINOGRAM,
    Losses,
    Measure,
    Reconstruct,
    ReconstructionLoss,
    applied,
    check_samples,
    complex_image,
    relative_error,
    sample_error,
    squares,
)
from fedrecon.types import Batch

# Edge of the square in the center of k-space that a network is always given.
_CENTER = 4


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
    _check_part(part)
    if masks < 1:
        raise ArgumentError("masks", "a positive integer", masks)

    def once(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> jax.Array:
        held = jax.vmap(lambda key, mask: held_out(key, mask, part))(
            jax.random.split(key, len(batch["mask"])), batch["mask"]
        )
        given = jnp.where(held, 0, batch["mask"])
        seen = {**batch, "mask": given, "kspace": batch["kspace"] * (given[:, None] != 0)}
        image = complex_image(reconstruct(seen))
        operators, y, _ = measure({**batch, "mask": jnp.where(held, batch["mask"], 0)})
        return sample_error(applied(operators, image), y * held[:, None])

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        check_samples(batch, KSPACE)
        each = [once(reconstruct, measure, batch, jax.random.fold_in(key, i)) for i in range(masks)]
        return sum(each[1:], each[0]) / masks, batch["valid"]

    return loss


def weighted_ssdu(part: float = 0.4, noise: float = 0.0) -> ReconstructionLoss:
    """SSDU whose expectation is the error of all that the network is not given, with noise or without it.

    Each sample is held out with probability ``part`` (`divided`), and its squared error is multiplied by
    1 / (1 - K), ``1 - K = p (1 - q) / (1 - p q)`` where p is the probability that the scanner measures it,
    and q that the network is given what was measured: the expected loss is, up to a constant, the squared
    error of all samples that it is not given, also of those that were never measured. The sum is divided by
    the energy of the measured samples.

    Robust SSDU, with ``noise``: the network gets y + e, e normal with ``noise`` times the deviation s of the
    measurement's own noise (`noise_level`), and at what it is given the target is y - e / noise^2, whose
    expectation for a given input is that of the samples without noise. No reference is used. Multi-coil
    Cartesian MRI, as `mri_measure` has it.

    Args:
      part: probability of holding out, in (0, 1).
      noise: alpha, deviation of the additional noise over that of the measurement; 0 for none, and no error
        at what is given.

    Raises:
      ValueError: arguments out of range; of other data or networks of magnitudes, from the loss.

    Deviations: p is the batch's "sampling_probability" (examples, ny, nx) or estimated from each mask
    (`sampling_probability`); the center is never held out. The correction of Robust SSDU, which turns the
    network's output into an estimate without noise, is in the target instead, where it is the paper's weight
    1 + 1 / alpha^2: the trained network needs none, and is applied to what was measured.

    Source: Millard and Chiew, IEEE Trans. Comput. Imaging 9:707, 2023; Bioengineering 11:1305, 2024 (alpha).
    """
    _check_part(part)
    if noise < 0:
        raise ArgumentError("noise", "a number of 0 or more", noise)

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        check_samples(batch, KSPACE)
        place, drawn = jax.random.split(key)
        mask, kspace = batch["mask"], batch["kspace"]
        held, chance = jax.vmap(lambda key, mask: divided(key, mask, part))(
            jax.random.split(place, len(mask)), mask
        )
        p = batch.get("sampling_probability")
        p = jax.vmap(sampling_probability)(mask) if p is None else p
        # 1 / (1 - K) with 1 - q the chance of being held out; never held out is never weighted.
        weight = jnp.where(held, (1 - p * (1 - chance)) / jnp.where(held, p * chance, 1), 0)
        given = jnp.where(held, 0, mask)
        target = kspace
        if noise:
            parts = jax.random.normal(drawn, (2, *kspace.shape)) / 2**0.5
            added = noise * noise_level(batch) * jax.lax.complex(parts[0], parts[1]) * (kspace != 0)
            kspace, target = kspace + added, kspace - added / noise**2
            weight += given != 0
        # What is held out is compared with what was measured.
        target = jnp.where(held[:, None], batch["kspace"], target)
        image = complex_image(reconstruct({**batch, "mask": given, "kspace": kspace * (given[:, None] != 0)}))
        found = applied(measure(batch)[0], image)
        energy = squares(batch["kspace"])
        error = squares(jnp.sqrt(weight)[:, None] * (found - target))
        return error / jnp.where(energy > 0, energy, 1), batch["valid"]

    return loss


def noise2inverse(parts: int = 4) -> ReconstructionLoss:
    """Noise2Inverse: from some of the views of a sinogram, the back-projection of the others.

    Every ``parts``-th view, from a random one on, is held out; the network reconstructs from the others, and
    the loss is ``|x - t|^2 / |t|^2``, t the filtered back-projection of those held out. Noise of different
    views is independent: the expected error is that to the back-projection without noise and a constant. No
    reference is used. CT, as `ct_measure` has it, of examples with one view or more in the held-out part.

    Args:
      parts: into which views are divided, at least 2.

    Raises:
      ValueError: ``parts`` is less than 2; of other data, from the loss.

    Deviations: one part a step instead of all of them (X:1 of the paper), and the released network is
    applied once, to all views, instead of the mean of its images from each choice of parts.

    Source: Hendriksen, Pelt and Batenburg, IEEE Trans. Comput. Imaging 6:1320, 2020.
    """
    if parts < 2:
        raise ArgumentError("parts", "an integer of 2 or more", parts)

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        check_samples(batch, SINOGRAM)
        views = batch["view_mask"] != 0
        first = jax.random.randint(key, (len(views), 1), 0, parts)
        held = views & ((jnp.cumsum(views, 1) - 1) % parts == first)

        def only(chosen: jax.Array) -> Batch:
            kept = jnp.where(chosen, batch["view_mask"], 0)
            return {**batch, "view_mask": kept, "sinogram": batch["sinogram"] * chosen[..., None]}

        image = reconstruct(only(views & ~held))
        operators, y, _ = measure(only(held))
        target = jax.vmap(lambda A, y: A.H(y))(operators, y)
        return relative_error(image, target), batch["valid"] & held.any(1)

    return loss


def held_out(key: jax.Array, mask: jax.Array, part: float) -> jax.Array:
    """Lambda of `ssdu`: bool (ny, nx), ``part`` of the samples of a mask (ny, nx) outside the center."""
    places = [jnp.arange(n) - n // 2 for n in mask.shape]
    y, x = (place / (n / 4) for place, n in zip(places, mask.shape, strict=True))
    density = -(jnp.square(y)[:, None] + jnp.square(x)[None]) / 2
    inside = [_central(n) for n in mask.shape]
    free = (mask != 0) & ~(inside[0][:, None] & inside[1][None])
    # The largest of Gumbel variables are draws without replacement.
    score = jnp.where(free, density + jax.random.gumbel(key, mask.shape), -jnp.inf)
    order = jnp.argsort(jnp.argsort(-score, axis=None)).reshape(mask.shape)
    return free & (order < jnp.floor(part * free.sum()))


def divided(key: jax.Array, mask: jax.Array, part: float) -> tuple[jax.Array, jax.Array]:
    """Samples held out by `weighted_ssdu`, each independently, and the probability of that.

    Columns, or rows, that are measured as a whole are held out as a whole: what is measured of a column would
    tell that the rest of it is, too. Never held out are four columns, rows, or 4 x 4 samples of the center.

    Args:
      key: PRNG key.
      mask: (ny, nx), not 0 where measured.
      part: probability of holding out.

    Returns:
      (bool (ny, nx), which are held out; float (ny, nx), ``part`` or in the center 0).
    """
    taken = mask != 0
    columns, rows = (taken == taken[:1]).all(), (taken == taken[:, :1]).all()
    # All of k-space is both, and drawn by samples.
    columns, rows = columns & ~rows, rows & ~columns
    u = jax.random.uniform(key, mask.shape)
    u = jnp.where(columns, u[:1], jnp.where(rows, u[:, :1], u))
    y, x = _central(mask.shape[0])[:, None], _central(mask.shape[1])[None]
    center = jnp.where(columns, x, jnp.where(rows, y, y & x))
    chance = jnp.where(center, 0.0, part)
    return taken & (u < chance), chance


def sampling_probability(mask: jax.Array) -> jax.Array:
    """How probably each sample of k-space is measured, told by one mask (ny, nx) that was drawn.

    1 in the block about the center that is measured without a gap along both axes; elsewhere, as of one
    density, the part that was measured. Lines that were drawn next to the center's count as its own. A
    variable density has to come with the data.

    Returns:
      (ny, nx), positive.
    """
    taken = mask != 0
    ny, nx = mask.shape
    inside = _run(taken[:, nx // 2])[:, None] & _run(taken[ny // 2])[None]
    outside = (~inside).sum()
    density = (taken & ~inside).sum() / jnp.maximum(outside, 1)
    # Of nothing measured outside the center nothing is held out there, either.
    return jnp.where(inside, 1.0, jnp.where(density > 0, density, 1.0))


def _run(taken: jax.Array) -> jax.Array:
    """Which places of a line are measured without a gap from its center on, (n,) bool."""
    middle = len(taken) // 2
    after = jnp.cumprod(taken[middle:]) > 0
    before = jnp.cumprod(taken[:middle][::-1]) > 0
    return jnp.concatenate([(before & taken[middle])[::-1], after])


def _central(count: int) -> jax.Array:
    place = jnp.arange(count) - count // 2
    return (place >= -(_CENTER // 2)) & (place < _CENTER - _CENTER // 2)


def _check_part(part: float) -> None:
    if not 0 < part < 1:
        raise ArgumentError("part", "a number between 0 and 1", part)
