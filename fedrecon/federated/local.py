"""Plain local training of a client, by any optax optimiser."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import ClientResult, ClientUpdate
from fedrecon.federated.trees import vary_with
from fedrecon.types import Variables


def difference(new: Variables, old: Variables) -> Variables:
    """Leafwise ``new - old``."""
    return jax.tree.map(jnp.subtract, new, old)


def local_sgd(loss, optimizer: optax.GradientTransformation, *, keep_optimizer: bool = False) -> ClientUpdate:
    """One gradient step of ``loss`` per batch (FedAvg's client, McMahan et al. 2017).

    Steps without a valid example are skipped: they change neither parameters, nor statistics, nor any part of
    the optimiser's state. The key of a step is folded from the number of real steps before it, so padding
    does not shift it. The result's weight is the client's number of valid examples.

    Metrics are the task's, summed over real steps, and
      loss: (sum over steps of mean loss times valid examples, examples seen), unless the task reports a
        "loss";
      steps: (real steps, 1); examples: (examples seen, counting repeats, 1).

    Args:
      loss: ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))`` as in `fedrecon.types.Task`.
      optimizer: the local optimiser.
      keep_optimizer: the optimiser's state stays at the client between rounds; otherwise each round starts
        afresh, as federated averaging is usually defined.
    """

    def init(variables):
        return optimizer.init(variables.params) if keep_optimizer else ()

    def update(variables, broadcast, client_state, batches, valid, key):
        del broadcast
        grad = jax.value_and_grad(loss, has_aux=True)
        start = client_state if keep_optimizer else optimizer.init(variables.params)

        def step_metrics(params, stats, batch, step_key):
            (value, (stats, metrics)), gradient = grad(params, stats, batch, step_key)
            seen = batch["valid"].sum().astype(jnp.float32)
            own = {"steps": (1.0, 1.0), "examples": (seen, 1.0), "loss": (value * seen, seen)}
            metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {**own, **metrics})
            return gradient, stats, metrics

        def take_step(carry, places):
            params, stats, opt_state, step, totals = carry
            batch = batches.take(*places)
            gradient, stats, metrics = step_metrics(params, stats, batch, jax.random.fold_in(key, step))
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, stats, opt_state, step + 1, jax.tree.map(jnp.add, totals, metrics)

        def body(carry, places):
            return jax.lax.cond(places[1].any(), take_step, lambda carry, places: carry, carry, places), None

        first = batches.take(batches.index[0], valid[0])
        shapes = jax.eval_shape(step_metrics, *variables, first, key)[2]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry = vary_with(valid.any(), (*variables, start, jnp.int32(0), zeros))
        (params, stats, opt_state, _, totals), _ = jax.lax.scan(body, carry, (batches.index, valid))

        for name in ("steps", "examples"):
            totals[name] = (totals[name][0], jnp.ones_like(totals[name][1]))
        trained = Variables(params, stats)
        return ClientResult(
            delta=difference(trained, variables),
            weight=batches.count.astype(jnp.float32),
            client_state=opt_state if keep_optimizer else (),
            message=(),
            metrics=totals,
            variables=trained,
        )

    return ClientUpdate(init, update)
