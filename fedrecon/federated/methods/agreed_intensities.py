"""What sites agree on before their rounds: intensities of the foreground, and initial weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedrecon.alignment import not_above, pooled_intensities, pooled_percentiles, site_intensities
from fedrecon.errors import ArgumentError
from fedrecon.federated.clients import ClientRow, place
from fedrecon.federated.messages import Message
from fedrecon.federated.methods.prepared import prepared
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.federated.trees import nbytes
from fedrecon.types import Task, Variables

# Where the statistics of the task have what all sites agreed on.
FINGERPRINT = "fingerprint"
MODES = ("estimate", "accurate", "none")


def clipped_task(task: Task, example: Mapping[str, Any], *, fingerprint: str = "estimate") -> Task:
    """The task on images clipped to percentiles and in units of moments of all sites' foreground.

    Raises:
      ValueError: there are no images, or an unknown mode.
    """
    if fingerprint not in MODES:
        raise ArgumentError("fingerprint", f"one of {', '.join(MODES)}", repr(fingerprint))
    if fingerprint == "none":
        return task
    if not {"image", "segmentation"} <= set(example):
        raise ArgumentError("example", "one with 'image' and 'segmentation'", ", ".join(example))
    ones, most = jnp.ones(example["image"].shape[-1]), jnp.finfo(jnp.float32).max

    def start():
        return {"low": -most * ones, "high": most * ones, "mean": 0 * ones, "deviation": ones}

    def prepare(told, batch):
        image = jnp.clip(batch["image"], told["low"], told["high"])
        return {**batch, "image": (image - told["mean"]) / jnp.maximum(told["deviation"], 1e-8)}

    return prepared(task, FINGERPRINT, start, prepare)


def agree(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    fingerprint: str = "estimate",
    average_initial: bool = False,
) -> Beforehand:
    """The rounds -2 and -1 of Kades et al.: one fingerprint of intensities, and one set of initial weights.

    Args:
      task, variables: of `clipped_task`.
      clients: training data, with "image" (clients, examples, ..., channels) and "segmentation".
      key: of the initial weights that clients draw.
      mesh: of the rounds.
      fingerprint: "estimate", "accurate" or "none".
      average_initial: starts from the mean of what the clients would draw.

    Raises:
      ValueError: a label is no class of the network, or nobody has any foreground.
    """
    present = np.asarray(np.asarray(clients.valid).any(axis=1))
    up = down = 0
    if average_initial:
        draws = [task.init(jax.random.fold_in(key, i)).params for i in np.flatnonzero(present)]
        variables = variables._replace(params=jax.tree.map(lambda *x: sum(x) / len(x), *draws))
        up = down = nbytes(variables.params)
    if fingerprint == "none":
        return _told(variables, up, down, present)
    _check_classes(task, variables, clients)
    placed = place(clients, mesh)

    def tell(_, row, *own):
        return Message(gathered=site_intensities(*_foreground(row)))

    told = pooled_intensities(make_exchange(tell, mesh=mesh)((), placed, key).message.gathered.values)
    up += nbytes(told)
    if not (count := int(told.count)):
        raise ArgumentError("clients", "some foreground at one of them", "none")
    percentiles = np.asarray(told.percentiles)
    if fingerprint == "accurate":

        def count_below(limits, row, *own):
            values, inside = _foreground(row)
            return Message(summed=not_above(values, inside, limits))

        ask = make_exchange(count_below, mesh=mesh)
        sizes = []

        def counted(limits):
            sizes.append(limits.nbytes)
            return np.asarray(ask(jnp.asarray(limits), placed, key).message.summed)

        percentiles = pooled_percentiles(counted, count, percentiles.shape[1])
        # Questions and answers are as long as each other.
        up, down = up + sum(sizes), down + sum(sizes)
    found = {"low": percentiles[0], "high": percentiles[2], "mean": told.mean, "deviation": told.deviation}
    agreed = {name: jnp.asarray(x) for name, x in found.items()}
    start = Variables(variables.params, {**variables.stats, FINGERPRINT: agreed})
    return _told(start, up, down + nbytes(agreed), present)._replace(frozen=(FINGERPRINT,))


def _told(variables: Variables, up: int, down: int, present: np.ndarray) -> Beforehand:
    return Beforehand(variables, None, up * present.astype(np.int64), down * present.astype(np.int64))


def _foreground(row: ClientRow) -> tuple[jax.Array, jax.Array]:
    """Pixels (pixels, channels), and which of them are foreground of an example."""
    image, labels = row.examples["image"], row.examples["segmentation"]
    inside = (labels > 0) & row.valid.reshape(-1, *(1,) * (labels.ndim - 1))
    return image.reshape(-1, image.shape[-1]).astype(jnp.float32), inside.ravel()


def _check_classes(task: Task, variables: Variables, clients: Any) -> None:
    batch = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in clients.examples.items()}
    batch["valid"] = jax.ShapeDtypeStruct(clients.valid.shape[1:], bool)
    classes = jax.eval_shape(task.predict, *variables, batch).shape[-1]
    for number, (labels, valid) in enumerate(
        zip(clients.examples["segmentation"], clients.valid, strict=True)
    ):
        found = np.asarray(labels)[np.asarray(valid)]
        if found.size and found.max() >= classes:
            expected = f"labels below {classes}, the classes of the network"
            raise ArgumentError("clients", expected, f"{found.max()} at client {number}")
