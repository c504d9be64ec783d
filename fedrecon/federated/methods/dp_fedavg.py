"""Differential privacy of examples or patients at every client."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated import batching
from fedrecon.federated.algorithm import Batching, ClientUpdate, FederatedAlgorithm
from fedrecon.federated.local import local_training
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Evaluation, Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task


class NoiseStream(NamedTuple):
    """Where a client's correlated noise stands: the state of C^-1, and its sensitivity in the round."""

    state: PyTree
    factor: jax.Array


def gradient_of_unit(
    value_and_grad: Callable, params: PyTree, stats: PyTree, unit: PyTree, memory: PyTree, key: jax.Array
) -> PyTree:
    """The gradient of the mean loss of a unit's examples."""
    return value_and_grad(params, stats, unit, memory, key)[1]


def private_gradients(mechanism: Mechanism, contribution: Callable = gradient_of_unit) -> Method:
    """DP-SGD (Abadi et al. 2016) as a method, on jax-privacy's clipping and noise; it combines with others.

    Each step takes units (examples or patients) as the mechanism samples them, and uses the gradient

      g = (sum_j clip(grad_j, C) + N(0, (z C)^2 I)) / expected_batch_size,

    with grad_j that of the mean loss of the unit's examples, however many they are. With a strategy the noise
    is correlated over the client's steps (DP-FTRL, Kairouz et al. 2021; Choquette-Choo et al. 2023;
    McMahan et al. 2024).

    Guarantees and edge cases:
      - Removing or zeroing one unit moves the sum by at most C, and other changes of it by at most 2 C; a
        gradient that is not finite counts as zero. grad_j is that of the loss with the penalties of all
        combined methods.
      - The divisor is fixed, not the realized batch size.
      - Under Poisson and balls-in-bins sampling every step adds its noise, also one whose batch is empty or
        that a schedule cuts off. A schedule's rate multiplies the optimizer's updates.
      - `fedrecon.privacy` turns the mechanism and a number of rounds into epsilon.
      - Randomness comes from the run's key, so anyone who knows that key can subtract the noise.
      - Losses and batch sizes are not private and are not reported: the only metric is ``steps``. The weight,
        the number of valid examples, is taken to be public, as are the numbers of units.
      - Corrections of the gradient by other methods come after the noise and cost no privacy. A method that
        sends what it computed from examples is refused by `combine`.
      - Correlated noise goes on from round to round, and is not taken back where a round is not applied.

    Args:
      mechanism: what is released in each step.
      contribution: ``contribution(value_and_grad, params, stats, unit, memory, key)``, what is clipped of
        each unit, given its examples; takes the place of its gradient.

    Raises:
      ValueError: the unit is a site; from the update, if the model has batch statistics, which mix examples
        and would be released without noise.
    """
    if mechanism.unit == "site":
        raise ArgumentError("mechanism.unit", "example or patient, within a client", mechanism.unit)
    method = Method(
        oracle=lambda value_and_grad: _private(mechanism, contribution, value_and_grad),
        batching=private_batching(mechanism),
        # Passes are as long as the public number of units says: there are no steps beyond them.
        every_step=mechanism.sampling != "fixed",
        hides=True,
    )
    if not mechanism.strategy:
        return method

    def init(variables):
        return _noising_matrix(mechanism).init_multiply(variables.params)

    def begin(state, context):
        given = context.batches
        units = batching.patients_of(given.examples, given.present)[1]
        units = units if mechanism.unit == "patient" else given.count
        steps = jnp.ceil(units / mechanism.expected_batch_size).astype(jnp.int32)
        return NoiseStream(state, jnp.asarray(mechanism.factors, jnp.float32)[steps])

    return method._replace(
        init=init,
        begin=begin,
        step=lambda memory, params, batch, evaluation, context, key: evaluation.found,
        finish=lambda result, memory, context: (result, Message(), memory.state),
        rollback=lambda before, after: after,
    )


def private_batching(mechanism: Mechanism) -> Batching:
    """The batches that the mechanism's sampling names; of patients (steps, padded_batch_size * images)."""
    size, padded = mechanism.expected_batch_size, mechanism.padded_batch_size
    if mechanism.strategy:
        draw = batching.repeated_passes(padded, mechanism.epochs)
    elif mechanism.sampling == "fixed":
        draw = batching.shuffled_epochs(padded, mechanism.epochs)
    else:
        sample = {"poisson": batching.poisson_steps, "balls_in_bins": batching.balls_in_bins}
        draw = sample[mechanism.sampling](size, padded, mechanism.steps)
    if mechanism.unit == "patient":
        return batching.by_patient(draw, mechanism.units, mechanism.images)
    return lambda examples, valid, key: draw(valid, key)


def _noising_matrix(mechanism: Mechanism) -> Any:
    from jax_privacy.matrix_factorization import buffered_toeplitz, streaming_matrix, toeplitz

    if mechanism.decays:
        decays, scales = (np.asarray(x, np.float32) for x in (mechanism.decays, mechanism.strategy))
        builder = buffered_toeplitz.StreamingMatrixBuilder(buf_decay=decays, output_scale=scales)
        return builder.build_inverse()
    if mechanism.strategy in ((), (1.0,)):
        return streaming_matrix.identity()
    return toeplitz.inverse_as_streaming_matrix(jnp.asarray(mechanism.strategy, jnp.float32))


def _private(mechanism: Mechanism, contribution: Callable, value_and_grad: Callable) -> Callable:
    """The oracle: clipped sum, noise, division."""
    from jax_privacy import noise_addition
    from jax_privacy.clipping import clipped_fun

    def oracle(params, stats, batch, memory, key):
        noise_key, loss_key = jax.random.split(key)
        # One more axis: the examples of each unit.
        units = jax.tree.map(lambda x: x.reshape(-1, mechanism.images, *x.shape[1:]), batch)
        present = units["valid"].any(1)
        # Padding does not count, and examples that stand for padding units are full.
        units["valid"] = units["valid"] | ~present[:, None]
        clipped_sum = clipped_fun(
            lambda unit, key: contribution(value_and_grad, params, stats, unit, memory, key),
            batch_argnums=0,
            keep_batch_dim=False,
            l2_clip_norm=mechanism.clipping_norm,
            normalize_by=float(mechanism.expected_batch_size),
            microbatch_size=mechanism.microbatch_size,
            prng_argnum=1,
        )
        gradient = clipped_sum(units, loss_key, is_padding_example=~present)
        stddev = mechanism.stddev / mechanism.expected_batch_size
        state: PyTree = ()
        if mechanism.strategy:
            state, stddev = memory.state, stddev * memory.factor
        privatizer = noise_addition.matrix_factorization_privatizer(
            _noising_matrix(mechanism), stddev=stddev, prng_key=noise_key
        )
        gradient, (_, state) = privatizer.update(gradient, (noise_key, state))
        found = memory._replace(state=state) if mechanism.strategy else ()
        return Evaluation(None, stats, {}, found=found), gradient

    return oracle


def dp_sgd(loss: Callable, optimizer: optax.GradientTransformation, mechanism: Mechanism) -> ClientUpdate:
    """Local training with DP-SGD as a client update.

    Args:
      loss: as in `local_training`; called with the examples of one unit at a time.
      optimizer: the local optimizer, started afresh each round.
      mechanism: as in `private_gradients`.
    """
    return local_training(loss, optimizer, private_gradients(mechanism))


def dp_fedavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    padded_batch_size: int,
    steps: int,
    microbatch_size: int | None = None,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedAvg with DP-SGD (Abadi et al. 2016) at every client, with respect to each of its examples.

    The clients' numbers of examples are public. `make_round` takes no batch size and no number of steps: they
    belong to the guarantee and are given here. Other units and samplings are those of other mechanisms, by
    `private_gradients`.

    Args:
      task: what is learned; its model must have no batch statistics.
      optimizer: each client's optimizer, fed the noised gradients.
      clipping_norm, noise_multiplier, expected_batch_size, padded_batch_size, steps, microbatch_size: as in
        `Mechanism`.
      method: further methods.
      **options: as in `federated`.
    """
    mechanism = Mechanism(
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=expected_batch_size,
        padded_batch_size=padded_batch_size,
        steps=steps,
        microbatch_size=microbatch_size,
    )
    return federated(task, optimizer, method=combine(method, private_gradients(mechanism)), **options)
