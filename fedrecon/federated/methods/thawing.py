"""A last block that rests for some rounds and then trains at a rate of its own."""

import re

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method
from fedrecon.federated.trees import keep_like
from fedrecon.types import PyTree, Variables


def last_block(shapes: Variables, heads: Variables, block: str) -> Variables:
    """Bools of the leaves of the last block, in the structure of the model.

    Args:
      shapes: of the model.
      heads: bools of its head, which is no part of the block.
      block: regular expression of paths; empty for the leaves with the largest first two numbers in the first
        numbered part of their path, such as "stage3_block1", and without any for the last name.

    Raises:
      ValueError: no leaf besides the head matches.
    """
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in _leaves(shapes)]
    inside = [not own for own in jax.tree.leaves(heads)]
    if block:
        chosen = [own and bool(re.search(block, path)) for own, path in zip(inside, paths, strict=True)]
        if not any(chosen):
            found = ", ".join(sorted({path.rpartition("/")[0] for path in paths}))[:200]
            raise ArgumentError("block", f"an expression that leaves besides the head match ({found})", block)
    else:
        places = [_place(path) if own else () for own, path in zip(inside, paths, strict=True)]
        last = max(places)
        chosen = [own and place == last for own, place in zip(inside, places, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shapes), chosen)


def _leaves(tree: PyTree) -> list:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _place(path: str) -> tuple:
    """How far behind a leaf is: by the first two numbers of the first numbered part of its path."""
    parts = path.split("/")[1:]
    numbered = next((part for part in parts if re.search(r"\d", part)), "")
    numbers = tuple(int(n) for n in re.findall(r"\d+", numbered)[:2])
    return (1, *numbers) if numbers else (0, parts[0])


def thawing(blocks: Variables, unfreeze: int) -> Method:
    """The server tells the number of the round, before ``unfreeze`` of which the blocks stay as they are.

    They have no weight then, so that they are in no upload.

    Args:
      blocks: `Variables` of bools at every leaf.
      unfreeze: the first round in which they train.
    """

    def still(context):
        return context.broadcast < unfreeze

    def correct(gradient, params, memory, context):
        mask = keep_like(blocks.params, gradient)
        return jax.tree.map(lambda own, g: jnp.where(still(context), 0, g) if own else g, mask, gradient)

    def finish(result, memory, context):
        mask, here = keep_like(blocks, result.delta), still(context)
        hold = lambda own, new, old: jnp.where(here, old, new) if own else new  # noqa: E731
        variables = jax.tree.map(hold, mask, result.variables, context.received)
        delta = jax.tree.map(lambda own, d: jnp.where(here, 0, d) if own else d, mask, result.delta)
        weights = (result.weight, jnp.where(here, 0, result.weight))
        groups = Variables(*(_grouped(m, d, weights) for m, d in zip(mask, delta, strict=True)))
        return result._replace(variables=variables, delta=delta, weight=groups), Message(), memory

    server = Exchange(
        lambda variables: jnp.int32(0),
        lambda number: number,
        lambda number, message, context: context.round + 1,
    )
    return Method(
        correct=correct,
        finish=finish,
        server=server,
        discloses="which of its images it trains on, which depends on the others",
    )


def _grouped(mask: PyTree, tree: PyTree, weights: tuple[jax.Array, jax.Array]) -> PyTree:
    """A prefix of the tree with the weight of head and rest, or of the block, of each part of one kind."""
    kinds = set(jax.tree.leaves(keep_like(mask, tree)))
    if not kinds:
        return tree
    if len(kinds) == 1:
        return weights[kinds.pop()]
    return {name: _grouped(mask[name], tree[name], weights) for name in tree}


def slowed(
    optimizer: optax.GradientTransformation, blocks: Variables, rate: float
) -> optax.GradientTransformation:
    """An optimizer that moves the blocks at a part of its rate, and not at all while their gradient is 0.

    Args:
      optimizer: of all leaves.
      blocks: `Variables` of bools at every leaf.
      rate: factor of the blocks' updates.
    """

    def update(gradient, state, params=None):
        updates, state = optimizer.update(gradient, state, params)
        mask = keep_like(blocks.params, gradient)
        own = jax.tree.leaves(jax.tree.map(lambda m, g: (g != 0).any() if m else None, mask, gradient))
        moves = jnp.stack(own).any() if own else True
        return jax.tree.map(lambda m, u: jnp.where(moves, rate * u, 0) if m else u, mask, updates), state

    return optax.GradientTransformation(optimizer.init, update)
