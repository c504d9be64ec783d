"""Losses of the measurement alone: what fits, is unbiased by noise, and stays so for other images."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fedrecon.errors import ArgumentError
from fedrecon.tasks.noise_levels import noise_level
from fedrecon.tasks.sample_losses import (
    KSPACE,
    Losses,
    Measure,
    Reconstruct,
    ReconstructionLoss,
    applied,
    fitting_image,
    measured_again,
    relative_error,
    samples_of,
    squares,
)
from fedrecon.types import Batch

# Step of the numerical derivative, of the root mean square of samples.
_STEP = 0.01
# What belongs to a measurement besides its samples.
_OPERATOR = ("mask", "coil_maps", "angles", "view_mask", "axis_offset")


def equivariant(
    rotations: float = 1.0, operators: float = 0.0, *, robust: bool = False
) -> ReconstructionLoss:
    """Equivariant and multi-operator imaging: what is measured fits, and a second measurement is undone.

    With x = f(y), ``|A x - y|^2 / |y|^2`` plus, weighted by ``rotations``, ``|f(A T x) - T x|^2 / |T x|^2``
    for a rotation T by a random angle about the center (bilinear, zeros outside), and, weighted by
    ``operators``, ``|f(A' x) - x|^2 / |x|^2`` for the operator A' of another example of the batch. No
    reference is used. Multi-coil Cartesian MRI, as `mri_measure` has it, and CT, as `ct_measure`.

    Args:
      rotations, operators: weights of both parts, not negative; multi-operator imaging is (0, 1).
      robust: the first part is that of `sure`, which does not fit the noise.

    Raises:
      ValueError: a negative weight, or two zeros; of other data, or of k-space and networks of magnitudes,
        from the loss.

    Deviations: of robust imaging, images that are measured again get no noise.

    Source: Chen, Tachella and Davies, ICCV 2021 (rotations) and CVPR 2022 (robust); Tachella, Chen and
    Davies, NeurIPS 2022.
    """
    if min(rotations, operators) < 0 or not rotations + operators:
        raise ArgumentError("weights", "numbers of 0 or more, one of them positive", (rotations, operators))

    def loss(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
        samples_of(batch)
        turn, other = jax.random.split(key)
        A, y, _ = measure(batch)
        image = fitting_image(reconstruct, batch, y)

        def undone(changed: Batch, x: jax.Array) -> jax.Array:
            return relative_error(reconstruct(measured_again(measure, changed, x)), x)

        if robust:
            total = _relative_risk(reconstruct, measure, batch, jax.random.fold_in(key, 2), image)
        else:
            total = relative_error(applied(A, image), y)
        if rotations:
            angles = jax.random.uniform(turn, (len(image),), maxval=2 * jnp.pi)
            total += rotations * undone(batch, jax.vmap(rotated)(image, angles))
        if operators:
            place = _of_others(other, batch["valid"])
            moved = {name: batch[name][place] for name in _OPERATOR if name in batch}
            total += operators * undone({**batch, **moved}, image)
        return total, batch["valid"]

    return loss


def sure(reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array) -> Losses:
    """`stein_risk` over the mean square of the samples: errors at what was measured, of which noise is none.

    No reference is used, and nothing says what was not measured: networks with data steps, or one of
    `equivariant`'s parts, have to.
    """
    return _relative_risk(reconstruct, measure, batch, key), batch["valid"]


def _relative_risk(
    reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array, image: jax.Array | None = None
) -> jax.Array:
    risk, power = stein_risk(reconstruct, measure, batch, key, image)
    return risk / jnp.where(power > 0, power, 1)


def stein_risk(
    reconstruct: Reconstruct, measure: Measure, batch: Batch, key: jax.Array, image: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Stein's unbiased estimate of the mean squared error of samples without noise.

    ``(|A f(y) - y|^2 - E|n|^2 + 2 <n, J n>) / m`` for normal noise n of `noise_level`, whose expectation is
    that of ``|A f(y) - A x|^2 / m``; with one deviation s, ``|A f(y) - y|^2 / m - s^2 + 2 s^2 div / m``. Both
    terms of the noise are estimated by one draw of samples of the noise's size and random phases or signs,
    and J n, the derivative of A f(y), by a difference whose step is a hundredth of the root mean square of y.
    The sinograms of `ct_measure` are filtered; the noise is filtered alike.

    Args:
      reconstruct, measure, batch, key: as of a ``ReconstructionLoss``.
      image: what the network returns for the batch, where that is known.

    Returns:
      (the estimate, the mean square of y), both (examples,), over the m samples that were measured.

    Source: Stein, Ann. Stat. 9:1135, 1981; Ramani, Blu and Unser, IEEE Trans. Image Process. 17:1540, 2008.
    """
    name = samples_of(batch)
    samples = batch[name]
    if name == KSPACE:
        taken = jnp.abs(samples) > 0
        angle = jax.random.uniform(key, samples.shape, maxval=2 * jnp.pi)
        drawn = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
    else:
        taken = jnp.broadcast_to(batch["view_mask"][..., None] != 0, samples.shape)
        drawn = jax.random.rademacher(key, samples.shape, samples.dtype)
    level = noise_level(batch)
    noise = jnp.where(taken, level * drawn, 0)
    count = jnp.maximum(taken.sum(tuple(range(1, taken.ndim))), 1)
    size = squares(noise)
    step = _STEP * jnp.sqrt(squares(samples) / jnp.where(size > 0, size, 1))
    step = jnp.where((size > 0) & (step > 0), step, 1).reshape(-1, *(1,) * (samples.ndim - 1))
    operators, y, _ = measure(batch)
    # Measurements are linear in the samples: of noise alone they are the noise.
    n = measure({**batch, name: noise})[1]
    before = applied(operators, fitting_image(reconstruct, batch, y) if image is None else image)
    after = applied(operators, fitting_image(reconstruct, {**batch, name: samples + step * noise}, y))
    axes = tuple(range(1, y.ndim))
    moved = (n.conj() * (after - before)).real.sum(axes) / step.reshape(-1)
    return (squares(before - y) - squares(n) + 2 * moved) / count, squares(y) / count


def rotated(image: jax.Array, angle: jax.Array) -> jax.Array:
    """An image (ny, nx), rotated about pixel (ny // 2, nx // 2) by an angle in radians, zero outside."""
    ny, nx = image.shape
    y, x = jnp.meshgrid(jnp.arange(ny) - ny // 2, jnp.arange(nx) - nx // 2, indexing="ij")
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    places = [cosine * y - sine * x + ny // 2, sine * y + cosine * x + nx // 2]

    def part(x: jax.Array) -> jax.Array:
        return map_coordinates(x, places, order=1, mode="constant")

    return jax.lax.complex(part(image.real), part(image.imag)) if jnp.iscomplexobj(image) else part(image)


def _of_others(key: jax.Array, valid: jax.Array) -> jax.Array:
    """For each example the number of a valid one, of another where there is one."""
    n = len(valid)
    allowed = valid[None] & ~jnp.eye(n, dtype=bool)
    logits = jnp.where(allowed, 0.0, -jnp.inf)
    logits = jnp.where(
        allowed.any(1, keepdims=True), logits, jnp.where(jnp.eye(n, dtype=bool), 0.0, -jnp.inf)
    )
    return jax.random.categorical(key, logits)
