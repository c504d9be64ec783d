"""P3SGD: patients take large steps, which are clipped, noised, and scaled by validation patients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.types import Task, Variables

# Scales of a step among which validation patients choose.
SCALES = (0.5, 1.0, 2.0)


def patient_steps(learning_rate: float) -> Callable:
    """What one patient adds to a step: minus the change of the model by a pass over the patient's images."""

    def contribution(value_and_grad, params, stats, unit, memory, key):
        def step(current, image):
            one = jax.tree.map(lambda x: x[None], image)
            _, gradient = value_and_grad(current, stats, one, memory, key)
            moved = jax.tree.map(lambda p, g: (p - learning_rate * g).astype(p.dtype), current, gradient)
            return jax.tree.map(lambda new, old: jnp.where(image["valid"], new, old), moved, current), None

        return jax.tree.map(jnp.subtract, params, jax.lax.scan(step, params, unit)[0])

    return contribution


def chosen_scale(
    losses: jax.Array, patients: jax.Array, epsilon: float, bound: float, key: jax.Array
) -> jax.Array:
    """A number of `SCALES` by the exponential mechanism.

    Args:
      losses: (scales,) mean over validation patients of their losses, each cut off to [0, ``bound``].
      patients: their number.
      epsilon: of the choice; it costs ``epsilon ** 2 / 8`` of zero-concentrated privacy of a validation
        patient. 0 chooses with equal probabilities.
      bound: of one patient's loss, so that one moves the mean by ``bound / patients``.
      key: PRNG key.
    """
    score = -losses * epsilon * patients / (2 * bound)
    return jnp.asarray(SCALES)[jax.random.categorical(key, score)]


def scaling(epsilon: float, bound: float) -> fl.Method:
    """Scales each noised step by validation patients, where the client has any.

    Scales of one noised step cost its patients nothing more.
    """

    def patient_loss(params, context):
        validation = dict(context.batches.validation)
        valid = validation.pop("valid")
        number, count = fl.batching.patients_of(validation, valid)
        number = jnp.where(valid, number, len(valid))

        def one(row):
            batch = jax.tree.map(lambda x: x[row][None], validation) | {"valid": valid[row][None]}
            full = context.complete(Variables(params, context.received.stats))
            return context.loss(*full, batch, context.key)[0]

        losses = jnp.where(valid, jax.lax.map(one, jnp.arange(len(valid))), 0)
        owned = jnp.maximum(jnp.bincount(number, length=len(valid) + 1), 1)[:-1]
        mean = jnp.bincount(number, losses, length=len(valid) + 1)[:-1] / owned
        # What is not finite is as bad as can be.
        mean = jnp.clip(jnp.where(jnp.isfinite(mean), mean, bound), 0, bound)
        present = jnp.arange(len(valid)) < count
        return jnp.where(present, mean, 0).sum() / jnp.maximum(count, 1), count

    def correct(gradient, params, memory, context):
        if context.batches.validation is None:
            return gradient
        moved = [jax.tree.map(lambda p, g, a=a: p - a * g, params, gradient) for a in SCALES]
        found = [patient_loss(candidate, context) for candidate in moved]
        key = jax.random.fold_in(jax.random.fold_in(context.key, 1), memory)
        scale = chosen_scale(jnp.stack([loss for loss, _ in found]), found[0][1], epsilon, bound, key)
        return jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradient)

    return fl.Method(
        # The number of the step; made of the batches, since it varies over clients.
        begin=lambda state, context: 0 * context.batches.count,
        correct=correct,
        step=lambda memory, params, batch, evaluation, context, key: memory + 1,
        finish=lambda result, memory, context: (result, fl.Message(), ()),
    )


def p3sgd(
    task: Task,
    learning_rate: float,
    *,
    mechanism: Mechanism,
    selection: float = 0.1,
    loss_bound: float = 2.0,
    method: fl.Method | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """P3SGD (Wu et al. 2019) as the local training of federated averaging; patients are the units.

    In each step patients are sampled; each changes the model by a pass over all of their images, one after
    the other; the changes are clipped to C, summed with noise, and divided by the expected number of
    patients. Validation patients choose half, once or twice that step by the exponential mechanism; without
    a validation split it is taken as it is.

    Args:
      task: what is learned; its model must have no batch statistics.
      learning_rate: of a patient's pass. The noised step is taken whole.
      mechanism: of each step, of the unit "patient".
      selection: epsilon of each choice, for validation patients.
      loss_bound: where a validation patient's loss is cut off.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: another unit, or an option out of range.
    """
    if mechanism.unit != "patient":
        raise ArgumentError("mechanism.unit", "patient", mechanism.unit)
    for name, value, positive in (("selection", selection, False), ("loss_bound", loss_bound, True)):
        if not (value > 0 if positive else value >= 0):
            raise ArgumentError(name, "a positive number" if positive else "a number of at least 0", value)
    steps = fl.private_gradients(mechanism, patient_steps(learning_rate))
    method = fl.combine(method, steps, scaling(selection, loss_bound))
    return fl.federated(task, optax.sgd(1.0), method=method, **options)
