"""What a step of DP-SGD costs beside a plain one, in seconds and memory."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.training import named_task

Rows = list[dict[str, Any]]

NETWORKS = ("segmentation", "classification")


_OPACUS = Path(__file__).with_name("opacus_step.py")
_LIMIT = 600


def measure(
    batch: int, size: int, channels: int, microbatches: list[int], repeats: int, python: str | None = None
) -> Rows:
    """Rows of a plain step and of private ones, of each network.

    Args:
      batch: examples in a step.
      size: edge of the images.
      channels: of the networks at full resolution.
      microbatches: examples whose gradients are held at once.
      repeats: the fastest counts.
      python: an interpreter that has Opacus, whose steps of a like U-Net are measured, too; or None.

    Raises:
      ArgumentError: the interpreter has not.
    """
    rows = []
    for name in NETWORKS:
        plain = _cost(_step(name, None, batch, size, channels), repeats)
        rows.append(_row(name, "plain", plain, plain))
        for micro in microbatches:
            mechanism = Mechanism(0.1, 1.0, batch, batch, sampling="fixed", microbatch_size=micro)
            found = _cost(_step(name, mechanism, batch, size, channels), repeats)
            rows.append(_row(name, f"DP-SGD, {micro} at once", found, plain))
    if python is not None:
        found = opacus_seconds(python, batch, size, channels, repeats)
        for step in ("plain", "private"):
            label = f"Opacus {found['version']}, {step}"
            rows.append(_row("segmentation", label, (found[step], None), (found["plain"], None)))
    return rows


def opacus_seconds(python: str, *numbers: int) -> dict[str, Any]:
    """Seconds of a plain and a private step by Opacus, and its version; ``numbers`` as in opacus_step.py."""
    command = [python, str(_OPACUS), *map(str, numbers)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
        return json.loads(result.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ArgumentError("--opacus_python", "an interpreter with opacus", lines[-1]) from None


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


def _row(
    name: str, what: str, found: tuple[float, float | None], plain: tuple[float, float | None]
) -> dict[str, Any]:
    return {
        "network": name,
        "step": what,
        "milliseconds": round(1e3 * found[0], 1),
        "times_plain": round(found[0] / plain[0], 2),
        "temporary_MB": "–" if found[1] is None else round(found[1], 1),
    }
