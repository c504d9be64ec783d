"""A network trained on one undersampled measurement alone, by samples of it that are held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.tasks import RECONSTRUCTION_LOSSES, mri_measure, reconstruction_task
from fedrecon.types import Batch, Variables
from operators import fft2c, ifft2c


class ZeroShot(NamedTuple):
    """What a training on one measurement gave.

    Attributes:
      variables: of the network at the step of the lowest error.
      image: by them from all samples, complex (examples, ny, nx), `within_band`.
      steps: at which the error was measured.
      errors: |A x - y| / |y| at the validation samples there.
      best: index of the lowest.
    """

    variables: Variables
    image: jax.Array
    steps: list[int]
    errors: list[float]
    best: int


def zero_shot(
    model: nn.Module,
    batch: Batch,
    validation: jax.Array,
    key: jax.Array,
    *,
    steps: int = 300,
    every: int = 20,
    patience: int = 4,
    learning_rate: float = 1e-3,
    loss: str = "ssdu",
    progress: Callable[[int], Any] = lambda count: None,
) -> ZeroShot:
    """Trains a network on the measurement that it is to reconstruct, without any other data.

    In each step the samples outside of ``validation`` are divided anew, and the network has to predict the
    ones that it is not given (``loss``); every ``every`` steps it is given all of these and has to predict
    ``validation``. Training ends after ``patience`` such looks without a lower error. Adam; weights are those
    of the lowest error.

    Args:
      model: returns complex images, such as ``MoDL``.
      batch: one measurement, or slices of it, as `mri_measure` has it: "kspace", "mask", "coil_maps".
      validation: bool (examples, ny, nx), samples that validate: some of "mask".
      key: PRNG key.
      steps: most that are taken.
      every, patience, learning_rate: see above.
      loss: one of ``RECONSTRUCTION_LOSSES`` that needs no reference.
      progress: called with the number of steps finished since the last call.

    Raises:
      ValueError: no sample is left for training or for validation.

    Source: Yaman, Hosseini and Akçakaya, "Zero-shot self-supervised learning for MRI reconstruction",
    ICLR 2022.
    """
    mask = jnp.asarray(batch["mask"])
    chosen = jnp.asarray(validation, bool) & (mask != 0)
    given = jnp.where(chosen, 0, mask)
    for name, part in (("training", given), ("validation", chosen)):
        if not (part != 0).any((1, 2)).all():
            raise ArgumentError("validation", f"samples for {name} in every example", "none")
    known = {name: jnp.asarray(batch[name]) for name in ("kspace", "mask", "coil_maps")}
    examples, ny, nx = mask.shape
    known |= {
        "target": jnp.zeros((examples, ny, nx)),
        "data_range": jnp.zeros(examples),
        "volume": jnp.arange(examples),
        "valid": jnp.ones(examples, bool),
    }
    seen = {**known, "mask": given, "kspace": known["kspace"] * (given[:, None] != 0)}
    task = reconstruction_task(model, mri_measure, known, loss=RECONSTRUCTION_LOSSES[loss].function)
    begin, course = jax.random.split(key)
    variables = jax.jit(task.init)(begin)
    optimizer = optax.adam(learning_rate)

    def image(variables: Variables, batch: Batch) -> jax.Array:
        weights = {"params": variables.params, "batch_stats": variables.stats}
        found: Any = model.apply(weights, *mri_measure(batch))
        return found

    @jax.jit
    def train(carried: tuple[Variables, Any], key: jax.Array, seen: Batch) -> tuple[Variables, Any]:
        def step(carried: tuple[Variables, Any], key: jax.Array) -> tuple[tuple[Variables, Any], None]:
            (params, stats), state = carried
            gradient, (stats, _) = jax.grad(task.loss, has_aux=True)(params, stats, seen, key)
            updates, state = optimizer.update(gradient, state, params)
            return (Variables(optax.apply_updates(params, updates), stats), state), None

        return jax.lax.scan(step, carried, jax.random.split(key, every))[0]

    @jax.jit
    def error(variables: Variables, seen: Batch, known: Batch) -> jax.Array:
        return sample_distance(image(variables, seen), known, chosen)

    carried = variables, optimizer.init(variables.params)
    best, found = variables, [float(error(variables, seen, known))]
    at = [0]
    while at[-1] < steps and len(found) - found.index(min(found)) <= patience:
        carried = train(carried, jax.random.fold_in(course, at[-1]), seen)
        at.append(at[-1] + every)
        found.append(float(error(carried[0], seen, known)))
        best = carried[0] if found[-1] == min(found) else best
        progress(every)
    last = within_band(jax.jit(image)(best, known), mask)
    return ZeroShot(best, last, at, found, found.index(min(found)))


def within_band(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Images without the frequencies beyond the outermost sample, which no sample has judged.

    Such a scan often measures an ellipse of k-space; a network is free to draw a grid with its corners.

    Args:
      images: complex (examples, ny, nx).
      mask: (examples, ny, nx), not 0 where measured.
    """
    y, x = (2 * jnp.abs(jnp.arange(n) - n // 2) / n for n in mask.shape[1:])
    radius = jnp.hypot(y[:, None], x[None])
    furthest = jnp.where(mask != 0, radius, 0).max((1, 2), keepdims=True)
    return ifft2c(fft2c(images) * (radius <= furthest))


def sample_distance(image: jax.Array, batch: Batch, samples: jax.Array) -> jax.Array:
    """|A x - y| / |y| over some samples of k-space, of all examples together.

    Args:
      image: complex (examples, ny, nx).
      batch: the measurements, as in `zero_shot`.
      samples: bool (examples, ny, nx), some of "mask".
    """
    stacked, y, _ = mri_measure(batch)
    apart = (jax.vmap(lambda A, x: A(x))(stacked, image) - y) * samples[:, None]
    return jnp.linalg.norm(apart.ravel()) / jnp.linalg.norm((y * samples[:, None]).ravel())
