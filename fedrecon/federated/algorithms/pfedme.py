"""Personalisation by Moreau envelopes."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import ClientResult, ClientUpdate, FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import difference
from fedrecon.federated.trees import vary_with
from fedrecon.types import Task, Variables


def pfedme(
    task: Task,
    learning_rate: float = 0.005,
    *,
    personal_learning_rate: float = 0.09,
    inner_steps: int = 5,
    strength: float = 15.0,
    mixing: float = 1.0,
    weight_decay: float = 0.0,
    **options,
) -> FederatedAlgorithm:
    """pFedMe (Dinh, Tran and Nguyen 2020): the global model minimises the clients' Moreau envelopes.

    On each batch, ``inner_steps`` steps ``theta <- theta - personal_learning_rate (grad f(theta) + strength
    (theta - y))`` approximate the proximal point of y, then ``y <- y - learning_rate strength (y - theta)``.
    The server moves by ``mixing`` times the mean change of y. Clients evaluate with their last theta, which
    never leaves.

    Args:
      task: what is learned.
      learning_rate: eta, of y.
      personal_learning_rate: eta_p, of theta.
      inner_steps: K, gradient steps per batch.
      strength: lambda, positive.
      mixing: beta, the server's learning rate.
      weight_decay: added to the inner gradient as ``weight_decay theta``.
      **options: as in `fedavg`, but ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: for arguments out of range.
    """
    if not strength > 0:
        raise ValueError(f"strength: expected a positive number, found {strength!r}")
    if not isinstance(inner_steps, int) or inner_steps < 1:
        raise ValueError(f"inner_steps: expected an integer of at least 1, found {inner_steps!r}")

    def init(variables):
        return jax.tree.map(jnp.asarray, variables)

    def update(variables, broadcast, client_state, batches, valid, key):
        del broadcast
        gradient = jax.value_and_grad(task.loss, has_aux=True)

        def visit(carry, places):
            y, theta, stats, step, totals = carry
            batch = batches.take(*places)
            seen = batch["valid"].sum().astype(jnp.float32)

            def inner(number, carry):
                theta, _, _ = carry
                step_key = jax.random.fold_in(jax.random.fold_in(key, step), number)
                (value, (new_stats, _)), g = gradient(theta, stats, batch, step_key)
                theta = jax.tree.map(
                    lambda t, g, y: (
                        t - personal_learning_rate * (g + strength * (t - y) + weight_decay * t)
                    ).astype(t.dtype),
                    theta,
                    g,
                    y,
                )
                return theta, new_stats, jnp.asarray(value, jnp.float32)

            theta, stats, value = jax.lax.fori_loop(
                0, inner_steps, inner, (theta, stats, vary_with(seen > 0, jnp.float32(0)))
            )
            rate = learning_rate * strength
            if batches.rate is not None:
                rate = rate * batches.rate
            y = jax.tree.map(lambda y, t: (y - rate * (y - t)).astype(y.dtype), y, theta)
            totals = jax.tree.map(jnp.add, totals, (value * seen, seen))
            return y, theta, stats, step + 1, totals

        def body(carry, places):
            return jax.lax.cond(places[1].any(), visit, lambda carry, places: carry, carry, places), None

        zeros = (jnp.float32(0), jnp.float32(0))
        # theta begins at y in every round, as in the authors' code.
        start = (variables.params, variables.params, variables.stats, jnp.int32(0), zeros)
        (y, theta, stats, steps, (total, seen)), _ = jax.lax.scan(
            body, vary_with(valid.any(), start), (batches.index, valid)
        )
        trained = Variables(y, stats)
        one = jnp.ones_like(seen)
        return ClientResult(
            delta=difference(trained, variables),
            weight=batches.count.astype(jnp.float32),
            client_state=Variables(theta, stats),
            message=(),
            metrics={
                "loss": (total, seen),
                "steps": (steps.astype(jnp.float32), one),
                "examples": (seen, one),
            },
            variables=trained,
        )

    algorithm = fedavg(
        task,
        optax.sgd(learning_rate),
        server_optimizer=optax.sgd(mixing),
        keep_optimizer=False,
        **options,
    )
    return algorithm._replace(
        client=ClientUpdate(init, update), personalise=lambda variables, client_state: client_state
    )
