"""A training step of a U-Net in float32 and in bfloat16: seconds, and bytes by the compiler.

Run as a module, on whatever JAX computes with.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.pipeline.segmentation_step import median
from fedrecon.models import UNet
from fedrecon.runtime import compiled, keep_memory, memory_estimate
from fedrecon.tasks import segmentation_task
from fedrecon.training.local_steps import PRECISIONS, in_precision


def measure(work: Mapping[str, int]) -> dict[str, Any]:
    """By precision ``seconds``, the median of steps of Adam, and ``bytes``; None where that is not known.

    Args:
      work: "channels" and "pools" of the network, "batch", "size" (the edge of images) and "repeats".
    """
    rng = np.random.default_rng(0)
    image = rng.normal(size=(work["batch"], work["size"], work["size"], 1)).astype(np.float32)
    examples = {"image": image, "segmentation": (image[..., 0] > 1).astype(np.float32)}
    task = segmentation_task(UNet(work["channels"], work["pools"], 2), examples)
    params = task.init(jax.random.key(0)).params
    batch = {**{name: jnp.asarray(x) for name, x in examples.items()}, "valid": jnp.ones(len(image), bool)}
    optimizer = optax.adam(1e-3)
    arguments = (params, optimizer.init(params)), batch, jax.random.key(1)
    return {precision: _cost(in_precision(task, precision), optimizer, arguments, work["repeats"])
            for precision in PRECISIONS}  # fmt: skip


def _cost(task: Any, optimizer: Any, arguments: tuple, repeats: int) -> dict[str, Any]:
    def update(state: tuple, batch: dict, key: jax.Array) -> tuple:
        params, memory = state
        gradient = jax.grad(lambda p: task.loss(p, {}, batch, key)[0])(params)
        changes, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(params, changes), memory

    program = compiled(jax.jit(update).lower(*arguments))
    estimate = memory_estimate(program)
    seconds, _ = median(lambda: program(*arguments), repeats)
    return {"seconds": seconds, "bytes": estimate.total if estimate else None}


if __name__ == "__main__":
    keep_memory()
    print(json.dumps(measure(json.loads(sys.argv[1]))))
