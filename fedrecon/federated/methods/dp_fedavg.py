"""Example-level differential privacy at every client."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.batching import poisson_steps
from fedrecon.federated.local import local_training
from fedrecon.federated.method import Evaluation, Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def private_gradients(
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    padded_batch_size: int,
    steps: int,
    microbatch_size: int | None = None,
) -> Method:
    """DP-SGD (Abadi et al. 2016) as a method, on jax-privacy's clipping and noise; it combines with others.

    Each step takes every example with probability ``q_i = min(1, expected_batch_size / n_i)``, at most
    ``padded_batch_size`` of them, and uses the gradient

      g = (sum_j clip(grad_j, C) + N(0, (z C)^2 I)) / expected_batch_size,

    C = ``clipping_norm``, z = ``noise_multiplier``.

    Guarantees and edge cases:
      - Removing or zeroing one example moves the sum by at most C; a gradient that is not finite counts as
        zero. grad_j is that of the loss with the penalties of all combined methods.
      - The divisor is fixed, not the realized batch size.
      - Every step adds its noise, also one whose batch is empty or that a schedule cuts off. A schedule's
        rate multiplies the optimizer's updates.
      - One round is ``steps`` compositions of the truncated Poisson-subsampled Gaussian mechanism at the
        sites that take part; `fedrecon.privacy` turns them into epsilon.
      - The unit is one example: a patient with k slices is protected k times more weakly.
      - Randomness comes from the run's key, so anyone who knows that key can subtract the noise.
      - Losses and batch sizes are not private and are not reported: the only metric is ``steps``. The weight,
        the number of valid examples, is taken to be public.
      - Corrections of the gradient by other methods come after the noise and cost no privacy. A method that
        sends what it computed from examples is refused by `combine`.

    Args:
      clipping_norm: bound on the l2 norm of each example's gradient, over all parameters.
      noise_multiplier: noise standard deviation over ``clipping_norm``.
      expected_batch_size: mean number of examples per step before truncation.
      padded_batch_size: largest number of examples per step.
      steps: local steps per round.
      microbatch_size: examples whose gradients are held in memory at once; must divide ``padded_batch_size``.
        None takes all.

    Raises:
      ValueError: for arguments out of range; from the update, if the model has batch statistics, which mix
        examples and would be released without noise.
    """
    from jax_privacy import noise_addition
    from jax_privacy.clipping import clipped_fun

    if not clipping_norm > 0:
        raise ArgumentError("clipping_norm", "a positive number", repr(clipping_norm))
    if not noise_multiplier >= 0:
        raise ArgumentError("noise_multiplier", "a number of at least 0", repr(noise_multiplier))
    poisson = poisson_steps(expected_batch_size, padded_batch_size, steps)

    def oracle(value_and_grad):
        def private(params, stats, batch, memory, key):
            noise_key, loss_key = jax.random.split(key)
            gradient_sum = clipped_fun(
                lambda batch, key: value_and_grad(params, stats, batch, memory, key)[1],
                batch_argnums=0,
                l2_clip_norm=clipping_norm,
                normalize_by=float(expected_batch_size),
                microbatch_size=microbatch_size,
                prng_argnum=1,
            )
            valid = batch["valid"]
            # Padding does not count, and a batch of one example is full.
            gradient = gradient_sum(
                {**batch, "valid": jnp.ones_like(valid)}, loss_key, is_padding_example=~valid
            )
            stddev = noise_multiplier * gradient_sum.sensitivity()
            privatizer = noise_addition.gaussian_privatizer(stddev=stddev, prng_key=noise_key)
            gradient, _ = privatizer.update(gradient, privatizer.init(gradient))
            return Evaluation(None, stats, {}), gradient

        return private

    return Method(
        oracle=oracle,
        batching=lambda examples, valid, key: poisson(valid, key),
        every_step=True,
        hides=True,
    )


def dp_sgd(loss: Callable, optimizer: optax.GradientTransformation, **options: Any) -> ClientUpdate:
    """Local training with DP-SGD as a client update.

    Args:
      loss: as in `local_training`; called with one example at a time.
      optimizer: the local optimizer, started afresh each round.
      **options: as in `private_gradients`.
    """
    return local_training(loss, optimizer, private_gradients(**options))


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
    """FedAvg with DP-SGD (Abadi et al. 2016) at every client.

    What leaves a client is differentially private with respect to each of its examples. The
    clients' numbers of examples are public. `make_round` takes no batch size and no number of steps: they
    belong to the guarantee and are given here.

    Args:
      task: what is learned; its model must have no batch statistics.
      optimizer: each client's optimizer, fed the noised gradients.
      clipping_norm, noise_multiplier, expected_batch_size, padded_batch_size, steps, microbatch_size: as in
        `private_gradients`.
      method: further methods.
      **options: as in `federated`.
    """
    own = private_gradients(
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=expected_batch_size,
        padded_batch_size=padded_batch_size,
        steps=steps,
        microbatch_size=microbatch_size,
    )
    return federated(task, optimizer, method=combine(method, own), **options)
