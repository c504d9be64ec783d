"""Simulators of labeled images that sites train together, each with a renderer of its own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment import PRIVATE_PARTS, new_simulator, simulated_pairs, simulator_losses
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.methods.prepared import image_shape
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables


def simulator_task(example: Mapping[str, Any], classes: int, *, latent: int = 16, hidden: int = 64) -> Task:
    """Learns a simulator of labeled images by `simulator_losses`, see `new_simulator`.

    Args:
      example: shapes and dtypes of a batch: "image" (examples, ny, nx, channels), "segmentation" (examples,
        ny, nx).
      classes: of the labels, with the background.
      latent, hidden: as in `new_simulator`.
    """
    shape = image_shape(example)

    def init(key: jax.Array) -> Variables:
        return Variables(new_simulator(key, shape, classes, latent=latent, hidden=hidden), {})

    def total(params: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        valid, image = batch["valid"], batch["image"]
        y = jax.nn.one_hot(batch["segmentation"].astype(jnp.int32), classes, dtype=image.dtype)
        losses = simulator_losses(params, image, y, key)
        return jnp.where(valid, losses, 0).sum(), valid.sum(dtype=losses.dtype)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        value, count = total(params, batch, key)
        return value / jnp.maximum(count, 1), (stats, {"loss": (value, count)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return simulated_pairs(params, jax.random.key(0), len(batch["image"]), shape[:2])[0]

    normal = jax.tree.map(lambda x: False, jax.eval_shape(init, jax.random.key(0)))
    return Task(init, loss, lambda p, s, b: {"loss": total(p, b, jax.random.key(0))}, predict, normal)


def shared_simulator(task: Task, optimizer: optax.GradientTransformation) -> FederatedAlgorithm:
    """FedAvg of a simulator's shapes and materials; renderers and discriminators stay at their clients."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    mask = Variables({name: name not in PRIVATE_PARTS for name in shapes.params}, True)
    return federated(task, optimizer, share_mask=mask, keep_optimizer=True)
