"""Examples recovered from an update: DLG, inverting gradients, and their form for measurements.

The attacker knows the model, the task and the update. It searches examples whose update is the observed one,
by gradients of gradients. Sources: Zhu, Liu and Han 2019 (DLG: squared distance, L-BFGS), Geiping et al. 2020
(cosine distance, total variation, Adam on signs), Zhao et al. 2020 (the label from the last layer).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.attacks.unknowns import Unknown
from fedrecon.attacks.updates import Update
from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, PyTree, Variables

Distance = Literal["cosine", "squared"]


class Inversion(NamedTuple):
    """What an attack recovered.

    Attributes:
      batch: the examples, with what was known of them.
      distance: float32 (), between their update and the observed one, without the prior.
      history: float32 (iterations,), the objective.
    """

    batch: Batch
    distance: jax.Array
    history: jax.Array


def update_distance(observed: PyTree, found: PyTree, kind: Distance) -> jax.Array:
    """Distance of two updates: 1 - cosine over all leaves as one vector, or the sum of squares.

    A vector of zeros has the cosine 0 with everything.
    """
    pairs = list(zip(jax.tree.leaves(observed), jax.tree.leaves(found), strict=True))
    if kind == "squared":
        return jnp.asarray(sum(jnp.sum((a - b) ** 2) for a, b in pairs))
    product = sum(jnp.sum(a * b) for a, b in pairs)
    norms = [jnp.asarray(sum(jnp.sum(x**2) for x in part)) for part in zip(*pairs, strict=True)]
    # Roots of zero have no gradient.
    length = jnp.sqrt(jnp.maximum(norms[0], 1e-30)) * jnp.sqrt(jnp.maximum(norms[1], 1e-30))
    return 1 - product / length


def signed_adam(rate: float, iterations: int) -> optax.GradientTransformation:
    """Adam of the signs of gradients; the rate falls to a tenth at 3/8, 5/8 and 7/8 (Geiping et al. 2020)."""
    boundaries = {int(part * iterations): 0.1 for part in (0.375, 0.625, 0.875)}
    return optax.chain(
        optax.stateless(lambda g, params: jax.tree.map(jnp.sign, g)),
        optax.adam(optax.piecewise_constant_schedule(rate, boundaries)),
    )


def invert(
    update: Update,
    observed: PyTree,
    variables: Variables,
    unknown: Unknown,
    key: jax.Array,
    *,
    distance: Distance = "cosine",
    prior_weight: float = 0.1,
    iterations: int = 4800,
    rate: float = 0.1,
    restarts: int = 1,
    signs: bool = True,
) -> Inversion:
    """Inverting gradients: minimizes ``distance(update(x), observed) + prior_weight * prior(x)`` over x.

    One compiled scan of `signed_adam`, each step projected onto what is possible (`Unknown.project`).

    Args:
      update: what a client sends, of its examples: `gradient_update` or `local_update`.
      observed: what it sent, a pytree of the parameters.
      variables: the model that it started from.
      unknown: what is searched: `images`, `measurements`.
      key: of the starts.
      distance: "cosine" (works with ReLU, too) or "squared".
      prior_weight: of the unknown's prior, at least 0.
      iterations: steps.
      rate: of Adam, in units of the unknown.
      restarts: starts, of which the one with the least objective is kept.
      signs: whether Adam sees the signs of gradients only, as in the paper; else plain Adam with a rate that
        falls as a cosine, which settles closer where the start is a good guess.

    Raises:
      ValueError: an argument is out of range, or the observed update is not one of the model.
    """
    _check(observed, variables, iterations, restarts)
    if not (prior_weight >= 0 and rate > 0):
        raise ArgumentError("prior_weight, rate", "at least 0, and positive", (prior_weight, rate))

    def objective(z: PyTree) -> jax.Array:
        found = update(variables, unknown.batch(z))
        value = update_distance(observed, found, distance)
        return value + prior_weight * unknown.prior(z) if prior_weight else value

    optimizer = signed_adam(rate, iterations)
    if not signs:
        optimizer = optax.adam(optax.cosine_decay_schedule(rate, iterations, 0.01))

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        z, state = carry
        value, g = jax.value_and_grad(objective)(z)
        changes, state = optimizer.update(g, state, z)
        return (unknown.project(optax.apply_updates(z, changes)), state), value

    def search(key: jax.Array) -> tuple[PyTree, jax.Array]:
        z = unknown.start(key)
        (z, _), history = jax.lax.scan(step, (z, optimizer.init(z)), None, iterations)
        return z, history

    return _best(search, objective, update, observed, variables, unknown, key, distance, restarts)


def deep_leakage(
    update: Update,
    observed: PyTree,
    variables: Variables,
    unknown: Unknown,
    key: jax.Array,
    *,
    iterations: int = 100,
    restarts: int = 1,
) -> Inversion:
    """DLG: minimizes the squared distance of the updates by L-BFGS; needs smooth activations.

    Args:
      update, observed, variables, unknown, key, restarts: as in `invert`.
      iterations: steps, each with a line search.

    Raises:
      ValueError: as `invert`.
    """
    _check(observed, variables, iterations, restarts)

    def objective(z: PyTree) -> jax.Array:
        return update_distance(observed, update(variables, unknown.batch(z)), "squared")

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        z, state = carry
        value, g = value_and_grad(z, state=state)
        changes, state = optimizer.update(g, state, z, value=value, grad=g, value_fn=objective)
        return (optax.apply_updates(z, changes), state), value

    def search(key: jax.Array) -> tuple[PyTree, jax.Array]:
        z = unknown.start(key)
        (z, _), history = jax.lax.scan(step, (z, optimizer.init(z)), None, iterations)
        return unknown.project(z), history

    return _best(search, objective, update, observed, variables, unknown, key, "squared", restarts)


def labels_of(last_layer: PyTree, *, count: int = 1, gradient: bool = True) -> tuple[int, ...]:
    """Labels of a classifier's examples, read off the update of its last layer.

    The gradient of the bias is the mean of the probabilities minus that of the labels: its only negative
    entry is the label of a single example. Several labels are those of the most negative entries, each entry
    being raised by 1 / ``count`` once it has been taken (exact while probabilities are far below that).

    Args:
      last_layer: {"bias": (classes,)} and more, as a flax Dense layer has it; without a bias {"kernel":
        (features, classes)} of features that are not negative.
      count: number of examples, up to which labels are counted.
      gradient: whether it is a gradient; False for a change of the parameters, which points the other way.

    Raises:
      ValueError: there is no such leaf.
    """
    if "bias" not in last_layer and "kernel" not in last_layer:
        raise ArgumentError("last_layer", "a bias or a kernel", sorted(last_layer))
    bias = "bias" in last_layer
    row = jnp.asarray(last_layer["bias"] if bias else last_layer["kernel"].sum(0))
    row = row if gradient else -row
    # Of a change of unknown rate only the proportions are known: its negative part stands for all labels.
    size = 1 / count if gradient and bias else -jnp.minimum(row, 0).sum() / count
    found = []
    for _ in range(count):
        label = int(jnp.argmin(row))
        found.append(label)
        row = row.at[label].add(size)
    return tuple(sorted(found))


def _check(observed: PyTree, variables: Variables, iterations: int, restarts: int) -> None:
    for name, value in (("iterations", iterations), ("restarts", restarts)):
        if value < 1:
            raise ArgumentError(name, "a positive integer", value)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (observed, variables.params)]
    if shapes[0] != shapes[1]:
        raise ArgumentError("observed", "a pytree of the shapes of the model's parameters", "another")


def _best(
    search: Callable,
    objective: Callable,
    update: Update,
    observed: PyTree,
    variables: Variables,
    unknown: Unknown,
    key: jax.Array,
    distance: Distance,
    restarts: int,
) -> Inversion:
    def run(key: jax.Array) -> tuple[PyTree, jax.Array, jax.Array]:
        z, history = search(key)
        return z, objective(z), history

    found = jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(key, restarts))
    values = jnp.where(jnp.isfinite(found[1]), found[1], jnp.inf)
    z, _, history = jax.tree.map(lambda x: x[jnp.argmin(values)], found)
    batch = unknown.batch(z)
    value = jax.jit(lambda batch: update_distance(observed, update(variables, batch), distance))(batch)
    return Inversion(batch, value, history)
