"""A shared body and private heads."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import difference, partial_sgd
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
        raise ValueError(f"names: no leaf under {missing}, found {paths}")
    return mask


def fedper(
    task: Task, optimizer: optax.GradientTransformation, *, head: PyTree, **options
) -> FederatedAlgorithm:
    """FedPer (Arivazhagan et al. 2019): the head stays at its client; body and head are trained together.

    Args:
      task: what is learned.
      optimizer: each client's optimiser.
      head: `Variables` of bools, or a prefix: True leaves are private; see `leaves_under`.
      **options: as in `fedavg`.
    """
    algorithm = fedavg(task, optimizer, **options)
    return algorithm._replace(share_mask=jax.tree.map(lambda private: not private, head))


def fedrep(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    head: PyTree,
    head_steps: int,
    **options,
) -> FederatedAlgorithm:
    """FedRep (Collins et al. 2021): first the head alone is trained, then the body alone, which is shared.

    Of a client's steps in a round the first ``head_steps`` move the head with the body frozen, the others the
    body with the head frozen; with ``E_h`` and ``E_b`` epochs over b batches, ``head_steps`` is ``E_h b`` and
    the round has ``(E_h + E_b) b`` steps. A client that takes no more than ``head_steps`` real steps (fewer
    batches) trains its head alone. With an empty head and no ``head_steps`` it is FedAvg, bit for bit.

    Args:
      task: what is learned.
      optimizer: each client's optimiser, started afresh for either phase.
      head: as in `fedper`.
      head_steps: steps of the first phase.
      **options: as in `fedavg`, but ``keep_optimizer``.

    Raises:
      ValueError: if ``head_steps`` is negative.
    """
    if not isinstance(head_steps, int) or head_steps < 0:
        raise ValueError(f"head_steps: expected an integer of at least 0, found {head_steps!r}")
    algorithm = fedper(task, optimizer, head=head, keep_optimizer=False, **options)

    first = partial_sgd(task.loss, optimizer, head)
    second = partial_sgd(task.loss, optimizer, algorithm.share_mask)

    def update(variables, broadcast, client_state, batches, valid, key):
        number = jnp.cumsum(valid.any(1))[:, None]
        # No step of the second phase has this number, which must not depend on padding.
        head_key = jax.random.fold_in(key, 2**31 - 1)
        one = first.update(
            variables, broadcast, client_state, batches, valid & (number <= head_steps), head_key
        )
        two = second.update(
            one.variables, broadcast, client_state, batches, valid & (number > head_steps), key
        )
        metrics = {
            name: (
                one.metrics[name][0] + total,
                count if name in ("steps", "examples") else one.metrics[name][1] + count,
            )
            for name, (total, count) in two.metrics.items()
        }
        return two._replace(delta=difference(two.variables, variables), metrics=metrics)

    return algorithm._replace(client=ClientUpdate(first.init, update))
