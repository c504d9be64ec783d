"""Federated averaging with adaptive or momentum steps at the server."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task


def fedavgm(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    server_learning_rate: float = 1.0,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """FedAvgM (Hsu, Qi and Brown 2019): v <- momentum v + (1 - dampening) (w - mean w_i), w <- w - rate v.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      server_learning_rate: of the server's step.
      momentum: in [0, 1); 0 without dampening is FedAvg.
      dampening: in [0, 1]; a variant takes it equal to the momentum.
      nesterov: steps along ``momentum v + (w - mean w_i)``.
      **options: as in `federated`, except ``server_optimizer``.

    Raises:
      ValueError: for arguments out of range.
    """
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", "a number in [0, 1)", repr(momentum))
    if not 0 <= dampening <= 1:
        raise ArgumentError("dampening", "a number in [0, 1]", repr(dampening))
    parts = [optax.trace(momentum, nesterov)] if momentum else []
    if dampening:
        parts.insert(0, optax.scale(1 - dampening))
    server = optax.chain(*parts, optax.sgd(server_learning_rate))
    return federated(task, optimizer, server_optimizer=server, **options)


class AdaptiveState(NamedTuple):
    """First and second moments of the mean update, and the number of server steps."""

    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    first: PyTree
    second: PyTree


def _adagrad(v, squared, decay):
    return v + squared


def _yogi(v, squared, decay):
    return v - (1 - decay) * squared * jnp.sign(v - squared)


def _adam(v, squared, decay):
    return decay * v + (1 - decay) * squared


def adaptive_server(
    kind: str,
    learning_rate: float,
    first_decay: float = 0.9,
    second_decay: float = 0.99,
    floor: float = 1e-3,
    bias_correction: bool = False,
) -> optax.GradientTransformation:
    """The server of FedAdagrad, FedYogi and FedAdam (Reddi et al. 2021) as an optax transformation.

    With D the mean update: ``m <- b1 m + (1 - b1) D``, v by "adagrad" ``v + D^2``, "yogi" ``v - (1 - b2) D^2
    sign(v - D^2)`` or "adam" ``b2 v + (1 - b2) D^2``, and ``w <- w + learning_rate m / (sqrt(v) + floor)``; v
    begins at ``floor^2``, or at 0 with Adam's correction of the bias.

    Raises:
      ValueError: for an unknown kind or numbers out of range.
    """
    rules = {"adagrad": _adagrad, "yogi": _yogi, "adam": _adam}
    if kind not in rules:
        raise ArgumentError("kind", f"one of {tuple(rules)}", repr(kind))
    if not (0 <= first_decay < 1 and 0 <= second_decay < 1):
        raise ArgumentError("decays", "numbers in [0, 1)", f"{first_decay!r} and {second_decay!r}")
    if not floor > 0:
        raise ArgumentError("floor", "a positive number", repr(floor))
    initial = 0.0 if bias_correction else floor**2

    def init(params):
        return AdaptiveState(
            jnp.int32(0),
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(lambda p: jnp.full_like(p, initial), params),
        )

    def update(gradient, state, params=None):
        count = state.count + 1
        # The gradient is minus the mean update, which the step therefore undoes.
        first = jax.tree.map(
            lambda m, g: (first_decay * m - (1 - first_decay) * g).astype(m.dtype), state.first, gradient
        )
        second = jax.tree.map(
            lambda v, g: rules[kind](v, g * g, second_decay).astype(v.dtype), state.second, gradient
        )
        rate = learning_rate
        if bias_correction:
            rate = rate * jnp.sqrt(1 - second_decay**count) / (1 - first_decay**count)
        updates = jax.tree.map(lambda m, v: (rate * m / (jnp.sqrt(v) + floor)).astype(m.dtype), first, second)
        return updates, AdaptiveState(count, first, second)

    return optax.GradientTransformation(init, update)


def _recipe(kind: str, first_decay: float) -> Callable[..., FederatedAlgorithm]:
    def recipe(
        task: Task,
        optimizer: optax.GradientTransformation,
        *,
        server_learning_rate: float = 0.1,
        first_decay: float = first_decay,
        second_decay: float = 0.99,
        floor: float = 1e-3,
        bias_correction: bool = False,
        **options: Any,
    ) -> FederatedAlgorithm:
        server = adaptive_server(
            kind, server_learning_rate, first_decay, second_decay, floor, bias_correction
        )
        return federated(task, optimizer, server_optimizer=server, **options)

    recipe.__name__ = recipe.__qualname__ = f"fed{kind}"
    recipe.__doc__ = f"""Fed{kind.capitalize()} (Reddi et al. 2021): `adaptive_server` after averaging.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      server_learning_rate, first_decay, second_decay, floor, bias_correction: as in `adaptive_server`.
      **options: as in `federated`, except ``server_optimizer``.

    Raises:
      ValueError: for numbers out of range.
    """
    return recipe


fedadagrad = _recipe("adagrad", 0.0)
fedyogi = _recipe("yogi", 0.9)
fedadam = _recipe("adam", 0.9)
