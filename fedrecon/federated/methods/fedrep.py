"""A shared body and private heads."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import expand_mask
from fedrecon.types import PyTree, Task, Variables


def leaves_under(variables: Variables, names: tuple[str, ...]) -> Variables:
    """`Variables` of bools, True at every leaf with one of ``names`` in its path.

    Args:
      variables: arrays or their shapes (``jax.eval_shape(task.init, key)``).
      names: keys of the parameter dicts, for instance the name of a network's last layer.

    Raises:
      ValueError: if a name occurs in no path.
    """
    found = set()

    def inside(path, leaf):
        keys = {str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path}
        found.update(keys & set(names))
        return bool(keys & set(names))

    mask = jax.tree_util.tree_map_with_path(inside, variables)
    if missing := [name for name in names if name not in found]:
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
        raise ArgumentError("names", f"names of leaves, not {missing}", paths)
    return mask


def fedper(
    task: Task, optimizer: optax.GradientTransformation, *, head: PyTree, **options: Any
) -> FederatedAlgorithm:
    """FedPer (Arivazhagan et al. 2019): the head stays at its client; body and head are trained together.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      head: `Variables` of bools, or a prefix: True leaves are private; see `leaves_under`.
      **options: as in `federated`.
    """
    return federated(task, optimizer, share_mask=_body(head), **options)


def _body(head: PyTree) -> PyTree:
    return jax.tree.map(lambda private: not private, head)


def fedrep(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    head: PyTree,
    head_steps: int,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedRep (Collins et al. 2021): first the head alone is trained, then the body alone, which is shared.

    Of a client's steps in a round the first ``head_steps`` move the head with the body frozen, the others the
    body with the head frozen; with ``E_h`` and ``E_b`` epochs over b batches, ``head_steps`` is ``E_h b`` and
    the round has ``(E_h + E_b) b`` steps. A client that takes no more than ``head_steps`` real steps (fewer
    batches) trains its head alone. With an empty head and no ``head_steps`` it is FedAvg, bit for bit.

    Args:
      task: what is learned.
      optimizer: each client's optimizer, started afresh for either phase.
      head: as in `fedper`.
      head_steps: steps of the first phase.
      method: further methods.
      **options: as in `federated`, except ``keep_optimizer``.

    Raises:
      ValueError: if ``head_steps`` is negative.
    """
    if not isinstance(head_steps, int) or head_steps < 0:
        raise ArgumentError("head_steps", "an integer of at least 0", repr(head_steps))
    return federated(
        task,
        in_turn(optimizer, head, head_steps),
        share_mask=_body(head),
        keep_optimizer=False,
        method=combine(statistics_of_the_phase(head, head_steps), method),
        **options,
    )


def statistics_of_the_phase(head: PyTree, head_steps: int) -> Method:
    """Statistics of the part that is not in training stay; the memory counts real steps."""

    def oracle(value_and_grad):
        def phased(params, stats, batch, step, key):
            evaluation, gradient = value_and_grad(params, stats, batch, step, key)
            own = expand_mask(getattr(head, "stats", head), stats)
            kept = jax.tree.map(
                lambda own, new, old: jnp.where((step < head_steps) == own, new, old),
                own,
                evaluation.stats,
                stats,
            )
            return evaluation._replace(stats=kept), gradient

        return phased

    return Method(
        begin=lambda state, context: jnp.int32(0),
        oracle=oracle,
        step=lambda step, params, batch, evaluation, context, key: step + 1,
        finish=lambda result, step, context: (result, Message(), ()),
    )


class InTurnState(NamedTuple):
    """Updates so far, and the states of the head's and of the body's optimizer."""

    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    head: PyTree
    body: PyTree


def in_turn(
    optimizer: optax.GradientTransformation, head: PyTree, head_steps: int
) -> optax.GradientTransformation:
    """Moves the head for ``head_steps`` updates and the body afterwards, each by an optimizer of its own."""
    chosen = getattr(head, "params", head)
    parts = (_only(optimizer, chosen), _only(optimizer, _body(chosen)))

    def init(params):
        return InTurnState(jnp.int32(0), *(part.init(params) for part in parts))

    def update(gradient, state, params=None):
        def move_head():
            updates, new = parts[0].update(gradient, state.head, params)
            return updates, new, state.body

        def move_body():
            updates, new = parts[1].update(gradient, state.body, params)
            return updates, state.head, new

        updates, *states = jax.lax.cond(state.count < head_steps, move_head, move_body)
        return updates, InTurnState(state.count + 1, *states)

    return optax.GradientTransformation(init, update)


def _only(optimizer: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformation:
    """The optimizer of the leaves where ``mask`` is True; the others get no update."""

    def inside(params):
        return expand_mask(mask, params)

    def outside(params):
        return jax.tree.map(lambda own: not own, inside(params))

    return optax.chain(optax.masked(optimizer, inside), optax.masked(optax.set_to_zero(), outside))
