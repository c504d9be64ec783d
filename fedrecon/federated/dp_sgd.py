"""Local training with example-level differential privacy."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import ClientResult, ClientUpdate
from fedrecon.federated.batching import poisson_steps
from fedrecon.federated.local import difference
from fedrecon.federated.trees import vary_with
from fedrecon.types import Variables


def dp_sgd(
    loss,
    optimizer: optax.GradientTransformation,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    padded_batch_size: int,
    steps: int,
    microbatch_size: int | None = None,
) -> ClientUpdate:
    """DP-SGD (Abadi et al. 2016) as a client update, on jax-privacy's clipping and noise.

    Each step takes every example with probability ``q_i = min(1, expected_batch_size / n_i)``, at most
    ``padded_batch_size`` of them, and feeds the optimiser

      g = (sum_j clip(grad_j, C) + N(0, (z C)^2 I)) / expected_batch_size,

    C = ``clipping_norm``, z = ``noise_multiplier``; a gradient that is not finite counts as zero. The divisor
    is fixed, not the realised batch size. Removing or zeroing one example moves the sum by at most C, and
    every step adds its noise, also one whose batch is empty. One round is ``steps`` compositions of the
    truncated Poisson-subsampled Gaussian mechanism at the sites that take part; `fedrecon.privacy` turns them
    into epsilon. A schedule's rate multiplies the optimiser's updates; steps that it cuts off still add their
    noise.

    The unit is one example: a patient with k slices is protected k times more weakly. Randomness comes from
    the run's key, so whoever knows that key can subtract the noise. Losses and batch sizes are not private
    and are not reported: the only metric is ``steps``. The weight, the number of valid examples, is taken to
    be public.

    Args:
      loss: ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))``, called with one example at a
        time.
      optimizer: the local optimiser, started afresh each round.
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
    from jax_privacy import clipped_grad, noise_addition

    if not clipping_norm > 0:
        raise ValueError(f"clipping_norm: expected a positive number, found {clipping_norm!r}")
    if not noise_multiplier >= 0:
        raise ValueError(f"noise_multiplier: expected a number of at least 0, found {noise_multiplier!r}")
    batching = poisson_steps(expected_batch_size, padded_batch_size, steps)

    def example_loss(params, batch, key):
        return loss(params, {}, batch, key)[0]

    gradient_sum = clipped_grad(
        example_loss,
        l2_clip_norm=clipping_norm,
        normalize_by=float(expected_batch_size),
        batch_argnums=1,
        prng_argnum=2,
        microbatch_size=microbatch_size,
    )
    stddev = noise_multiplier * gradient_sum.sensitivity()

    def init(variables):
        del variables
        return ()

    def update(variables, broadcast, client_state, batches, valid, key):
        del broadcast
        if jax.tree.leaves(variables.stats):
            raise ValueError("variables.stats: expected none for DP-SGD, found batch statistics")
        params = variables.params
        noise_key, loss_key = jax.random.split(key)
        privatizer = noise_addition.gaussian_privatizer(stddev=stddev, prng_key=noise_key)

        def body(carry, places):
            params, opt_state, noise_state, step = carry
            index, mask = places
            batch = batches.take(index, jnp.ones_like(mask))
            step_key = jax.random.fold_in(loss_key, step)
            gradient = gradient_sum(params, batch, step_key, is_padding_example=~mask)
            gradient, noise_state = privatizer.update(gradient, noise_state)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            if batches.rate is not None:
                updates = jax.tree.map(lambda u: (u * batches.rate).astype(u.dtype), updates)
            return (optax.apply_updates(params, updates), opt_state, noise_state, step + 1), None

        start = (params, optimizer.init(params), privatizer.init(params), jnp.int32(0))
        carry = vary_with(valid.any(), start)
        (trained, *_), _ = jax.lax.scan(body, carry, (batches.index, valid))
        trained = Variables(trained, variables.stats)
        return ClientResult(
            delta=difference(trained, variables),
            weight=batches.count.astype(jnp.float32),
            client_state=client_state,
            message=(),
            metrics={"steps": (jnp.float32(steps), jnp.float32(1.0))},
            variables=trained,
        )

    return ClientUpdate(init, update, batching)
