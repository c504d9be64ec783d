"""Stochastic controlled averaging."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import Exchange, FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import local_sgd, mean_gradient
from fedrecon.federated.sampling import equal
from fedrecon.types import Task


def scaffold(
    task: Task,
    learning_rate: float,
    *,
    option: int = 2,
    optimizer: optax.GradientTransformation | None = None,
    weighting=equal,
    **options,
) -> FederatedAlgorithm:
    """SCAFFOLD (Karimireddy et al. 2020): control variates correct the drift of clients.

    A local step goes along ``grad F_i(y) + c - c_i``. Afterwards the client's control variate becomes
    ``c_i - c + (w - y) / (tau_i eta)`` (option 2, no extra cost) or the gradient of all its data at w (option
    1, one more pass over them), and the server's one ``c + (1/N) sum of the changes``, N being the number of
    all clients, so that c stays the mean of all c_i whoever takes part. Messages are twice the model both
    ways. Private leaves (with another ``share_mask``) have control variates, too, and these are sent: combine
    it with sharing everything.

    Args:
      task: what is learned.
      learning_rate: eta of the clients' plain gradient descent.
      option: 1 or 2, how control variates are renewed.
      optimizer: another local optimiser, with option 1 only; option 2 presumes plain gradient descent.
      weighting: equal weights are those of the paper; others weight the mean of models alone.
      **options: as in `fedavg`, but ``keep_optimizer``.

    Raises:
      ValueError: for an unknown option, or option 2 with an optimiser.
    """
    if option not in (1, 2):
        raise ValueError(f"option: expected 1 or 2, found {option!r}")
    if option == 2 and optimizer is not None:
        raise ValueError(
            "optimizer: option 2 presumes plain gradient descent, use option 1 with an optimiser"
        )

    def zeros(variables):
        return jax.tree.map(jnp.zeros_like, variables.params)

    def correct(gradient, params, around):
        return jax.tree.map(lambda g, c, own: g + c - own, gradient, around.broadcast, around.state)

    def finish(result, steps, around):
        if option == 1:
            renewed = mean_gradient(task.loss, around.received, around.batches, around.key)
        else:
            path = steps * learning_rate
            renewed = jax.tree.map(
                lambda own, c, d: jnp.where(
                    steps > 0, own - c - d / jnp.where(path > 0, path, 1), own
                ).astype(d.dtype),
                around.state,
                around.broadcast,
                result.delta.params,
            )
        change = jax.tree.map(jnp.subtract, renewed, around.state)
        state = result.client_state._replace(method=renewed)
        return result._replace(client_state=state, message=change)

    def receive(control, change, participants, clients):
        # The mean is over participants; with other weights than equal it is a weighted one.
        return jax.tree.map(lambda c, d: (c + d * (participants / clients)).astype(c.dtype), control, change)

    optimizer = optimizer or optax.sgd(learning_rate)
    client = local_sgd(task.loss, optimizer, init=zeros, correct=correct, finish=finish)
    return fedavg(task, optimizer, weighting=weighting, keep_optimizer=False, **options)._replace(
        client=client, exchange=Exchange(zeros, lambda control: control, receive)
    )
