"""Stochastic controlled averaging."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import mean_gradient
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import Task


def control_variates(learning_rate: float, *, option: int = 2) -> Method:
    """SCAFFOLD's control variates (Karimireddy et al. 2020), which correct the drift of clients.

    A local step goes along ``grad F_i(y) + c - c_i``. Afterwards the client's control variate becomes
    ``c_i - c + (w - y) / (tau_i eta)`` (option 2, no extra cost) or the gradient of all its data at w (option
    1, one more pass over them), and the server's one ``c + (1/N) sum of the changes``, N being the number of
    all clients, so that c stays the mean of all c_i for every participation and weighting of models.
    Messages are as large as the parameters, both ways. Private leaves have control variates, too, and these
    are sent: combine it with sharing everything.

    Args:
      learning_rate: eta of the clients' plain gradient descent.
      option: 1 or 2, how control variates are renewed.

    Raises:
      ValueError: for an unknown option.
    """
    if option not in (1, 2):
        raise ArgumentError("option", "1 or 2", repr(option))

    def zeros(variables):
        return jax.tree.map(jnp.zeros_like, variables.params)

    def correct(gradient, params, own, context):
        return jax.tree.map(lambda g, c, own: g + c - own, gradient, context.broadcast, own)

    def finish(result, own, context):
        if option == 1:
            renewed = mean_gradient(context, context.received)
        else:
            path = context.steps * learning_rate
            renewed = jax.tree.map(
                lambda own, c, d: jnp.where(
                    context.steps > 0, own - c - d / jnp.where(path > 0, path, 1), own
                ).astype(d.dtype),
                own,
                context.broadcast,
                result.delta.params,
            )
        change = jax.tree.map(jnp.subtract, renewed, own)
        return result, Message(summed=change), renewed

    def receive(control, message, context):
        return jax.tree.map(lambda c, d: (c + d / context.clients).astype(c.dtype), control, message.summed)

    return Method(
        init=zeros,
        correct=correct,
        finish=finish,
        server=Exchange(zeros, lambda control: control, receive),
        discloses="the gradient of all examples" if option == 1 else "",
    )


def scaffold(
    task: Task,
    learning_rate: float,
    *,
    option: int = 2,
    optimizer: optax.GradientTransformation | None = None,
    method: Method | None = None,
    weighting: Callable = equal,
    **options: Any,
) -> FederatedAlgorithm:
    """SCAFFOLD (Karimireddy et al. 2020): plain gradient descent at clients, with `control_variates`.

    Args:
      task: what is learned.
      learning_rate: eta of the clients' plain gradient descent.
      option: 1 or 2, how control variates are renewed.
      optimizer: another local optimizer, with option 1 only; option 2 presumes plain gradient descent.
      method: further methods.
      weighting: equal weights are those of the paper; others weight the mean of models alone.
      **options: as in `federated`, except ``keep_optimizer``.

    Raises:
      ValueError: for an unknown option, or option 2 with an optimizer.
    """
    if option == 2 and optimizer is not None:
        raise ArgumentError(
            "optimizer", "None (plain gradient descent) with option 2; use option 1", "an optimizer"
        )
    return federated(
        task,
        optimizer or optax.sgd(learning_rate),
        method=combine(control_variates(learning_rate, option=option), method),
        weighting=weighting,
        keep_optimizer=False,
        **options,
    )
