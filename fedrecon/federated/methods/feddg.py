"""FedDG: spectra of other sites, and an episode of two losses in every step (ELCFS)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment import boundary_contrast, boundary_rings
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.spectra import Spectra, interpolated
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import fill
from fedrecon.types import Batch, PyTree, Task, Variables

# Bound of the inner gradient's entries in the authors' code.
_BOUND = 100.0


def episodic(
    task: Task,
    maps: Callable[[PyTree, PyTree, Batch], jax.Array],
    bank: Spectra | None,
    *,
    part: float = 0.01,
    least_mix: float = 0.0,
    inner_rate: float = 1e-3,
    boundary: float = 0.1,
    temperature: float = 0.05,
) -> Method:
    """Steps on ``l_in(w) + l_out(w - beta grad l_in(w))``, first order (equations 2 to 5).

    ``l_in`` is the task's loss of the batch; ``l_out`` that of `interpolated` images, plus ``boundary``
    (gamma) times `boundary_contrast` of both, one for each structure. The inner gradient, its entries bounded
    by 100, is a constant. What is reported are loss, metrics and statistics of the batch itself.

    Args:
      task: a segmentation of images, with "segmentation" (examples, ny, nx).
      maps: what the last layer sees, (examples, >= ny, >= nx, features).
      bank: of `exchange_spectra`; without one, steps are those of the loss alone.
      part, least_mix: L and the least lambda of `interpolated`.
      inner_rate: beta, at least 0.
      boundary: gamma, at least 0.
      temperature: T of the contrast, positive.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value, most in (
        ("inner_rate", inner_rate, math.inf), ("boundary", boundary, math.inf), ("least_mix", least_mix, 1)
    ):  # fmt: skip
        if not 0 <= value <= most:
            raise ArgumentError(name, f"a number in [0, {most}]", repr(value))
    if not temperature > 0:
        raise ArgumentError("temperature", "a positive number", repr(temperature))

    def contrast(params, inner, stats, batch, changed, complete):
        ahead = jax.tree.map(lambda w, g: w - inner_rate * g, params, inner)
        label = batch["segmentation"]
        models = [complete(Variables(p, stats)) for p in (params, ahead)]
        seen = [maps(*model, b) for model, b in zip(models, (batch, changed), strict=True)]
        both = jnp.concatenate([_cropped(x, label.shape[1:]) for x in seen])
        valid, total = jnp.tile(batch["valid"], 2), 0.0
        classes = jax.eval_shape(task.predict, *models[0], batch).shape[-1]
        for structure in range(1, classes):
            rings = jnp.stack(boundary_rings(label == structure))
            total += boundary_contrast(both, jnp.tile(rings, (1, 2, 1, 1)), valid, temperature)
        return total

    def oracle(value_and_grad):
        def episode(params, stats, batch, memory, key):
            evaluation, first = value_and_grad(params, stats, batch, memory, key)
            if bank is None:
                return evaluation, first
            # The client's number, and the frozen leaves of its model.
            client, frozen = memory
            own = jax.random.fold_in(key, 61)
            image = interpolated(batch["image"], bank, client, own, part, least_mix)
            changed = {**batch, "image": image}
            inner = jax.tree.map(lambda g: jnp.clip(g, -_BOUND, _BOUND), first)
            ahead = jax.tree.map(lambda w, g: w - inner_rate * g, params, inner)
            second = value_and_grad(ahead, stats, changed, memory, key)[1]
            gradient = jax.tree.map(jnp.add, first, second)
            if boundary:
                third = jax.grad(contrast)(
                    params, inner, stats, batch, changed, lambda model: fill(model, frozen)
                )
                gradient = jax.tree.map(lambda g, b: g + boundary * b, gradient, third)
            return evaluation, gradient

        return episode

    return Method(
        begin=lambda state, context: (context.batches.client, context.batches.frozen),
        oracle=oracle,
        finish=lambda result, memory, context: (result, Message(), ()),
        discloses="low amplitudes of images",
    )


def feddg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    maps: Callable[[PyTree, PyTree, Batch], jax.Array],
    exchanged: Spectra | None,
    part: float = 0.01,
    least_mix: float = 0.0,
    inner_rate: float = 1e-3,
    boundary: float = 0.1,
    temperature: float = 0.05,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedDG with ELCFS (Liu et al. 2021, CVPR, arXiv:2103.06030), for sites that did not train.

    Clients exchange the low amplitudes of some images once (`exchange_spectra`) and learn in `episodic` steps
    to segment images as other sites would have them. Without other clients, inner rate and boundary it is
    FedAvg with gradients counted twice.

    Deviations: the task's own loss takes the place of soft Dice loss; images are clipped to their own range;
    lambda is drawn from U(``least_mix``, 1) (the released script has 1 and part 0); windows are symmetric in
    frequency, so that images stay real.

    Args:
      task, maps, part, least_mix, inner_rate, boundary, temperature: as in `episodic`.
      optimizer: each client's optimizer (in the publication Adam at 1e-3).
      exchanged: of `exchange_spectra`.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    own = episodic(
        task,
        maps,
        exchanged,
        part=part,
        least_mix=least_mix,
        inner_rate=inner_rate,
        boundary=boundary,
        temperature=temperature,
    )
    return federated(task, optimizer, method=combine(own, method), **options)


def _cropped(maps: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Without the padding of the network, which is even on both sides."""
    low = [(whole - size) // 2 for whole, size in zip(maps.shape[1:3], shape, strict=True)]
    return maps[:, low[0] : low[0] + shape[0], low[1] : low[1] + shape[1]]
