"""The two types every package of fedrecon shares: model variables and the task that trains them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Variables(NamedTuple):
    """Variables of a model.

    Attributes:
      params: pytree of float arrays that are trained.
      stats: pytree of arrays that are not trained but change in training (running statistics of batch
        normalization); an empty dict when the model has none.
    """

    params: PyTree
    stats: PyTree


class Task(NamedTuple):
    """What is learned, as pure functions of pytrees.

    A batch is a dict of arrays with a leading example axis; ``batch["valid"]`` is boolean, ``(examples,)``,
    and False marks padding: padded examples change neither the loss, nor the statistics, nor the metrics.

    Attributes:
      init: ``init(key) -> Variables``.
      loss: ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))``: of the valid examples, a
        mean over them unless the task says otherwise; metrics are ``{name: (sum, count)}`` of scalars.
      metrics: ``metrics(params, stats, batch) -> {name: (sum, count)}``: sums over one client's whole
        evaluation split (so that volumes are complete), which add over clients and devices.
      predict: ``predict(params, stats, batch) -> pytree`` with a leading example axis.
      normalization: ``Variables`` of bools, in the structure that ``init`` returns: True at the leaves of
        normalization layers (scale and bias in ``params``, running statistics in ``stats``), which
        FedBN-type algorithms keep at the client.
    """

    init: Callable[[jax.Array], Variables]
    loss: Callable[[PyTree, PyTree, Batch, jax.Array], tuple[jax.Array, tuple[PyTree, Metrics]]]
    metrics: Callable[[PyTree, PyTree, Batch], Metrics]
    predict: Callable[[PyTree, PyTree, Batch], PyTree]
    normalization: Variables
