"""Fine-tuning by few parameters: low-rank changes of kernels, or some leaves alone."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fedrecon.errors import ArgumentError
from fedrecon.federated import FROZEN, Reducer
from fedrecon.federated.reducers import Reduction
from fedrecon.types import PyTree, Task, Variables

# Factors by the name of the leaf that they change.
Factors = Mapping[str, jax.Array]


class LowRank(NamedTuple):
    """A task whose parameters are low-rank changes of a model.

    Attributes:
      task: its parameters are ``{"base": of the model, "A": {leaf: (rows, rank)}, "B": {leaf:
        (rank, columns)}}``.
      share_mask: what travels, for `fedrecon.federated.federated`: of the base only what is trained in full,
        A only where it is trained. The data of a round get the frozen leaves from ``place(data,
        frozen=variables)``.
      merge: ``merge(params) -> params`` of the model itself, for predictions without the factors.
    """

    task: Task
    share_mask: Variables
    merge: Callable[[PyTree], PyTree]


def low_rank(
    task: Task,
    base: Variables,
    *,
    rank: int = 4,
    alpha: float | None = None,
    leaves: str = r"kernel$",
    train_a: bool = False,
    seed: int = 0,
    train: str = "",
    skip: Collection[str] = (),
) -> LowRank:
    """LoRA (Hu et al. 2021, arXiv:2106.09685): each chosen leaf is W + alpha / rank A B, with W frozen.

    A leaf is a matrix (all other axes, last axis), of attention layers (three axes) the more even of (first
    axis, rest) and (rest, last axis). So a convolution's change is one of kernel and A followed by a 1 x 1
    convolution B. A is normal with variance 1 / rows, the same everywhere, and B zero, so that training
    begins at the base, bit for bit.

    Averages of A and B are not averages of A B. With A frozen (the default, as FFA-LoRA, arXiv:2403.12313)
    the average of B is exact, a sum over clients, and half of the bytes.

    Args:
      task: what is learned.
      base: the model to start from; its running statistics, if any, are trained and shared.
      rank: of the changes; less where a matrix is smaller.
      alpha: scale of the changes; twice the rank by default.
      leaves: regular expression, searched in names of parameters such as ``"encoder/conv/kernel"``.
      train_a: whether clients train A, too, and send both: averages are then inexact.
      seed: of A, public.
      train: regular expression of leaves that are trained and sent in full besides, such as ``"^head/"``.
      skip: names of leaves that have no such change: kernels of grouped convolutions are no matrices.

    Raises:
      ArgumentError: for a rank below 1, or an expression that is none or is found in no such parameter.
    """
    if not (isinstance(rank, int) and rank >= 1):
        raise ArgumentError("rank", "a positive integer", repr(rank))
    named = flatten_dict(base.params, sep="/")
    full = leaves_like("train", train, named)
    fit = {name: x for name, x in named.items() if x.ndim > 1 and name not in skip and name not in full}
    chosen = {name: fit[name] for name in leaves_like("leaves", leaves, fit)}
    if not chosen:
        raise ArgumentError("leaves", f"an expression found in one of {sorted(named)}", repr(leaves))
    factor = (2.0 * rank if alpha is None else alpha) / rank
    a, b = {}, {}
    for number, (name, leaf) in enumerate(sorted(chosen.items())):
        rows, columns = _matrix(leaf.shape)
        width = min(rank, rows, columns)
        key = jax.random.fold_in(jax.random.key(seed), number)
        a[name] = (jax.random.normal(key, (rows, width)) / math.sqrt(rows)).astype(leaf.dtype)
        b[name] = jnp.zeros((width, columns), leaf.dtype)

    def merge(params):
        return add_products(params["base"], params["A"], params["B"], factor)

    adapted = Task(
        init=lambda key: Variables({"base": base.params, "A": a, "B": b}, base.stats),
        loss=lambda params, stats, batch, key: task.loss(merge(params), stats, batch, key),
        metrics=lambda params, stats, batch: task.metrics(merge(params), stats, batch),
        predict=lambda params, stats, batch: task.predict(merge(params), stats, batch),
        normalization=Variables(
            {
                "base": task.normalization.params,
                "A": dict.fromkeys(a, False),
                "B": dict.fromkeys(b, False),
            },
            task.normalization.stats,
        ),
    )
    share = Variables(
        {"base": trained_in_full(named, full), "A": True if train_a else FROZEN, "B": True},
        True,
    )
    return LowRank(adapted, share, merge)


def add_products(params: PyTree, a: Factors, b: Factors, factor: float) -> PyTree:
    """The parameters with ``factor`` A B added to every leaf that has factors."""
    named = flatten_dict(params, sep="/")
    for name, left in a.items():
        change = (factor * (left @ b[name])).reshape(named[name].shape)
        named[name] = named[name] + change.astype(named[name].dtype)
    return unflatten_dict(named, sep="/")


def stack(a: Sequence[Factors], b: Sequence[Factors], weights: Sequence[float]) -> tuple[Factors, Factors]:
    """Factors of the weighted mean of clients' products, exact: ranks add up (FLoRA, arXiv:2409.05976).

    Args:
      a, b: each client's factors.
      weights: of the clients, whose sum need not be 1.
    """
    total = sum(weights)
    left = {name: jnp.concatenate([one[name] for one in a], 1) for name in a[0]}
    right = {
        name: jnp.concatenate([one[name] * (w / total) for one, w in zip(b, weights, strict=True)], 0)
        for name in b[0]
    }
    return left, right


def reduce_rank(a: Factors, b: Factors, rank: int) -> tuple[Factors, Factors, dict[str, jax.Array]]:
    """The best approximations of that rank to A B, as factors, and what they leave out.

    Returns:
      A, B, and for each leaf the part of the squared norm of its product that is left out.
    """
    left, right, residual = {}, {}, {}
    for name in a:
        # The products are never formed: their singular values are those of a small core.
        qa, ra = jnp.linalg.qr(a[name])
        qb, rb = jnp.linalg.qr(b[name].T)
        u, s, v = jnp.linalg.svd(ra @ rb.T, full_matrices=False)
        width = min(rank, s.size)
        left[name], right[name] = qa @ (u[:, :width] * s[:width]), v[:width] @ qb.T
        energy = jnp.square(s)
        residual[name] = energy[width:].sum() / jnp.where(energy.sum() > 0, energy.sum(), 1)
    return left, right, residual


def stacked_factors(a: Factors, rank: int) -> Reducer:
    """A reducer of factors that clients train both of: the mean of their products, not of the factors.

    The factors that arrive are stacked, which is exact, and projected to the rank (`reduce_rank`). Everything
    else is averaged. The server sees single uploads, and applies the mean as it is: no secure sum, and no
    server optimizer but ``optax.sgd(1.0)``.

    Args:
      a: A of the first round; B is zero.
      rank: of what is sent down.

    Returns:
      a `Reducer` with the info ``rank_residual``: of the leaf where it is largest, the part of the squared
      norm of the mean change that the projection has left out.
    """

    def init(upload):
        b = jax.tree.map(jnp.zeros_like, upload.delta.params["B"])
        return {"A": jax.tree.map(jnp.copy, dict(a)), "B": b}

    def reduce(uploads, included, state, context):
        def masked(x):
            return jnp.where(included.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)

        uploads = jax.tree.map(masked, uploads)
        total = jax.tree.map(lambda x: x.sum(0), uploads)
        weights, whole = uploads.weight, jnp.where(total.weight > 0, total.weight, 1)
        left, right = {}, {}
        for name, first in state["A"].items():
            # Uploads are changes times weights.
            share = jnp.where(weights > 0, weights, 1)[:, None, None]
            ours = first + uploads.delta.params["A"][name] / share
            theirs = state["B"][name] + uploads.delta.params["B"][name] / share
            theirs = theirs * (weights / whole)[:, None, None]
            left[name] = jnp.moveaxis(ours, 0, 1).reshape(first.shape[0], -1)
            right[name] = theirs.reshape(-1, theirs.shape[-1])
        new_a, new_b, residual = reduce_rank(left, right, rank)
        changes = jax.tree.map(lambda x, y: (x - y) * total.weight, {"A": new_a, "B": new_b}, state)
        # As the server computes them, so that both stay the same.
        new = jax.tree.map(lambda y, change: y + change / whole, state, changes)
        params = {**total.delta.params, **changes}
        info = {"rank_residual": jnp.stack(list(residual.values())).max()}
        return Reduction(total._replace(delta=total.delta._replace(params=params)), new, info=info)

    return Reducer(init, reduce)


def leaves_like(argument: str, expression: str, named: Mapping[str, Any]) -> set[str]:
    """The names in which a regular expression is found; none for the empty one.

    Raises:
      ArgumentError: it is no regular expression, or is found in none.
    """
    if not expression:
        return set()
    try:
        found = {name for name in named if re.search(expression, name)}
    except re.error as error:
        raise ArgumentError(argument, "a regular expression", f"{expression!r}: {error}") from error
    if not found:
        raise ArgumentError(argument, f"an expression found in one of {sorted(named)}", repr(expression))
    return found


def trained_in_full(named: Mapping[str, Any], full: Collection[str]) -> PyTree:
    """The share mask of a base some of whose leaves are trained in full."""
    if not full:
        return FROZEN
    return unflatten_dict({name: True if name in full else FROZEN for name in named}, sep="/")


def some_leaves(variables: Variables, leaves: str = r"(bias|scale)$") -> Variables:
    """A share mask that trains the parameters whose names hold an expression, and freezes all others.

    Biases and scales alone by default (BitFit, arXiv:2106.10199); the name of a last layer trains a head.
    Running statistics are trained.

    Raises:
      ArgumentError: if no parameter is trained.
    """
    named = flatten_dict(variables.params, sep="/")
    found = leaves_like("leaves", leaves, named)
    if not found:
        raise ArgumentError("leaves", f"an expression found in one of {sorted(named)}", repr(leaves))
    return Variables(trained_in_full(named, found), True)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    last = math.prod(shape[:-1]), shape[-1]
    first = shape[0], math.prod(shape[1:])
    return first if len(shape) == 3 and sum(first) < sum(last) else last
