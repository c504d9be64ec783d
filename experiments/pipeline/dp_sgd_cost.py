"""What a step of DP-SGD costs beside a plain one, in seconds and memory."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism
from fedrecon.training import named_task

Rows = list[dict[str, Any]]

NETWORKS = ("segmentation", "classification")


def measure(batch: int, size: int, channels: int, microbatches: list[int], repeats: int) -> Rows:
    """Rows of a plain step and of private ones, of each network.

    Args:
      batch: examples in a step.
      size: edge of the images.
      channels: of the networks at full resolution.
      microbatches: examples whose gradients are held at once.
      repeats: the fastest counts.
    """
    rows = []
    for name in NETWORKS:
        plain = _cost(_step(name, None, batch, size, channels), repeats)
        rows.append(_row(name, "plain", plain, plain))
        for micro in microbatches:
            mechanism = Mechanism(0.1, 1.0, batch, batch, sampling="fixed", microbatch_size=micro)
            found = _cost(_step(name, mechanism, batch, size, channels), repeats)
            rows.append(_row(name, f"DP-SGD, {micro} at once", found, plain))
    return rows


def _step(
    name: str, mechanism: Mechanism | None, batch: int, size: int, channels: int
) -> tuple[Callable, tuple]:
    """One local step of a client, and its arguments."""
    image = jax.random.normal(jax.random.key(1), (batch, size, size, 1))
    examples = {"image": image, "label": (jnp.arange(batch) % 2).astype(jnp.int32)}
    if name == "segmentation":
        examples = {"image": image, "segmentation": (image[..., 0] > 1).astype(jnp.float32)}
    task = named_task(name, examples, channels=channels, norm="group32")
    method = None if mechanism is None else fl.private_gradients(mechanism)
    update = fl.local_training(task.loss, optax.sgd(0.1), method)
    variables, valid = task.init(jax.random.key(0)), jnp.ones(batch, bool)
    batches = fl.Batches(examples, jnp.arange(batch)[None], valid.sum(), valid, jnp.int32(0))

    def step(variables, examples, key):
        given = batches._replace(examples=examples)
        result = update.update(variables, (), update.init(variables), given, valid[None], key)
        return result.delta

    return step, (variables, examples, jax.random.key(2))


def _cost(made: tuple[Callable, tuple], repeats: int) -> tuple[float, float]:
    """(seconds, megabytes of temporary memory) of one call, compiled before."""
    function, arguments = made
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis()
    return min(seconds), 0.0 if memory is None else memory.temp_size_in_bytes / 1e6


def _row(name: str, what: str, found: tuple[float, float], plain: tuple[float, float]) -> dict[str, Any]:
    return {
        "network": name,
        "step": what,
        "milliseconds": round(1e3 * found[0], 1),
        "times_plain": round(found[0] / plain[0], 2),
        "temporary_MB": round(found[1], 1),
    }
