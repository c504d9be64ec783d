"""Personalization by Moreau envelopes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import vary_with
from fedrecon.types import Task, Variables


def moreau_envelope(
    personal_learning_rate: float = 0.09,
    *,
    inner_steps: int = 5,
    strength: float = 15.0,
    weight_decay: float = 0.0,
) -> Method:
    """pFedMe's local objective (Dinh, Tran and Nguyen 2020): the Moreau envelope of the client's loss.

    On each batch, ``inner_steps`` steps ``theta <- theta - personal_learning_rate (grad f(theta) + strength
    (theta - y))`` approximate the proximal point of y, and ``strength (y - theta)`` is the gradient at y.
    Clients evaluate with their last theta, which never leaves. theta begins at y in every round, as in the
    authors' code.

    Args:
      personal_learning_rate: eta_p, of theta.
      inner_steps: K, gradient steps per batch.
      strength: lambda, positive.
      weight_decay: added to the inner gradient as ``weight_decay theta``.

    Raises:
      ValueError: for arguments out of range.
    """
    if not strength > 0:
        raise ArgumentError("strength", "a positive number", repr(strength))
    if not isinstance(inner_steps, int) or inner_steps < 1:
        raise ArgumentError("inner_steps", "an integer of at least 1", repr(inner_steps))

    def init(variables):
        return jax.tree.map(jnp.asarray, variables)

    def begin(own, context):
        return context.received

    def oracle(value_and_grad):
        def envelope(params, stats, batch, personal, key):
            def one(number, carry):
                theta, stats, _ = carry
                inner_key = jax.random.fold_in(key, number)
                evaluation, gradient = value_and_grad(theta, stats, batch, personal, inner_key)
                theta = jax.tree.map(
                    lambda t, g, y: (
                        t - personal_learning_rate * (g + strength * (t - y) + weight_decay * t)
                    ).astype(t.dtype),
                    theta,
                    gradient,
                    params,
                )
                return theta, evaluation.stats, evaluation._replace(stats=())

            blank = jax.eval_shape(value_and_grad, personal.params, stats, batch, personal, key)[0]
            blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank._replace(stats=()))
            start = (personal.params, stats, vary_with(batch["valid"].any(), blank))
            theta, stats, evaluation = jax.lax.fori_loop(0, inner_steps, one, start)
            gradient = jax.tree.map(lambda y, t: strength * (y - t), params, theta)
            return evaluation._replace(stats=stats, found=Variables(theta, stats)), gradient

        return envelope

    def step(personal, params, batch, evaluation, context, key):
        return evaluation.found

    def finish(result, personal, context):
        return result, Message(), personal

    def personalize(variables, own, batch):
        return jax.tree.map(
            lambda mine, given: given if mine is None else mine, own, variables, is_leaf=lambda x: x is None
        )

    return Method(
        init=init,
        begin=begin,
        oracle=oracle,
        step=step,
        finish=finish,
        personalize=personalize,
        discloses="own models that come from single examples",
    )


def pfedme(
    task: Task,
    learning_rate: float = 0.005,
    *,
    personal_learning_rate: float = 0.09,
    inner_steps: int = 5,
    strength: float = 15.0,
    mixing: float = 1.0,
    weight_decay: float = 0.0,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """pFedMe (Dinh, Tran and Nguyen 2020): the global model minimizes the clients' Moreau envelopes.

    Clients take the steps ``y <- y - learning_rate strength (y - theta)`` of `moreau_envelope`, and the
    server moves by ``mixing`` times the mean change of y.

    Args:
      task: what is learned.
      learning_rate: eta, of y.
      personal_learning_rate, inner_steps, strength, weight_decay: as in `moreau_envelope`.
      mixing: beta, the server's learning rate.
      method: further methods.
      **options: as in `federated`, except ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: for arguments out of range.
    """
    own = moreau_envelope(
        personal_learning_rate, inner_steps=inner_steps, strength=strength, weight_decay=weight_decay
    )
    return federated(
        task,
        optax.sgd(learning_rate),
        method=combine(own, method),
        server_optimizer=optax.sgd(mixing),
        keep_optimizer=False,
        **options,
    )
