"""LC-Fed: networks that know their site, and private heads that calibrate each other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.local import local_training
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.fedrep import in_turn, statistics_of_the_phase
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import Task, Variables

# What stays at a client, of the names of `fedrecon.tasks.site_task`; the head is also published.
HEAD, PRIVATE, SITE = "head", ("head", "head_calibration"), "site"
# The most steps of a round that train the head.
_HEAD_STEPS = 10


def published_heads(clients: int) -> Method:
    """The table of all heads: each client sends its own, and gets those of all with the round's number."""

    def init(variables: Variables) -> dict[str, Any]:
        heads = jax.tree.map(lambda x: jnp.zeros((clients, *x.shape), x.dtype), variables.params[HEAD])
        return {"heads": heads, "known": jnp.zeros(clients), "round": jnp.int32(0)}

    def receive(table, message, context):
        found = message.gathered
        place = jnp.where(found.present, found.client, clients)
        heads = jax.tree.map(lambda x, y: x.at[place].set(y, mode="drop"), table["heads"], found.values)
        known = table["known"].at[place].set(1, mode="drop")
        return {"heads": heads, "known": known, "round": table["round"] + 1}

    def finish(result, memory, context):
        return result, Message(gathered=result.variables.params[HEAD]), memory

    return Method(
        finish=finish,
        server=Exchange(init, lambda table: table, receive),
        discloses="heads of single clients",
    )


def at_site(client: ClientUpdate, clients: int, sites: int, warmup: int, table: Callable) -> ClientUpdate:
    """The client update of a model that is told its site, the table of heads, and whether it calibrates.

    Args:
      client: of a task of `fedrecon.tasks.site_task`; of another one nothing is told.
      clients, sites: their number, and the most of them.
      warmup: rounds before calibration.
      table: ``table(broadcast)``, that of `published_heads`; None without one: all are known and none has a
        head.
    """

    def padded(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, sites - clients)] + [(0, 0)] * (x.ndim - 1))

    def update(variables, broadcast, client_state, batches, valid, key):
        if SITE in variables.stats:
            own, found = dict(variables.stats[SITE]), table(broadcast)
            own["site"] = jax.nn.one_hot(batches.client, sites)
            own["known"] = padded(jnp.ones(clients) if found is None else found["known"])
            if found is not None:
                own["heads"] = jax.tree.map(padded, found["heads"])
                own["calibrated"] = (found["round"] >= warmup).astype(jnp.float32)
            variables = Variables(variables.params, {**variables.stats, SITE: own})
        return client.update(variables, broadcast, client_state, batches, valid, key)

    return client._replace(update=update)


def lc_fed(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    head_steps: int,
    rounds: int,
    sites: int = 16,
    select: bool = True,
    calibrate: bool = True,
    private_heads: bool = True,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """LC-Fed (Wang et al. 2022): channels selected by site, heads that stay, calibrated where they disagree.

    The network is that of `fedrecon.tasks.site_task`. In each round the head and its calibration are trained
    first, with the body frozen, then the body; bodies are averaged, clients alike. Heads are published to all
    clients, calibrations never leave. The first half of the rounds trains without calibration. Without
    selection, calibration and private heads it is FedAvg of equal weights, bit for bit.

    Deviations: the modules of the selection are trained and shared, which in the authors' code are in no list
    of parameters. Features and probabilities are not differentiated by the calibration (their "not joint").
    One training has both stages. Heads of clients that have not sent one yet do not count. The head's steps
    are those given where these are less than ten.

    Args:
      task: of `site_task`.
      optimizer: each client's optimizer, started afresh for either phase.
      clients: their number.
      head_steps: steps of the first phase, of which ten are taken at most.
      rounds: of the training.
      sites: as in `site_task`.
      select, calibrate: as in `site_task`.
      private_heads: whether heads stay at clients and are trained in turn with the body.
      method: further methods.
      **options: as in `federated`, except ``weighting`` and ``keep_optimizer``.

    Raises:
      ValueError: there are more clients than sites, or heads are calibrated and not private.
    """
    if "weighting" in options:
        raise TypeError("lc_fed() takes no argument 'weighting': clients count alike")
    if clients > sites:
        raise ArgumentError("sites", f"at least the {clients} clients", repr(sites))
    if calibrate and not private_heads:
        raise ArgumentError("private_heads", "True with the calibration of heads", repr(private_heads))
    names = PRIVATE if private_heads else PRIVATE[1:]

    def inside(path: tuple, leaf: Any) -> bool:
        return path[0].name == "params" and path[1].key in names

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    head = jax.tree_util.tree_map_with_path(inside, shapes)
    shared = jax.tree_util.tree_map_with_path(
        lambda path, leaf: not inside(path, leaf) and path[1].key != SITE, shapes
    )
    steps = min(head_steps, _HEAD_STEPS)
    parts = [published_heads(clients)] if calibrate else []
    parts += [statistics_of_the_phase(head, steps)] if private_heads else []
    both = combine(*parts, method)
    chosen = in_turn(optimizer, head, steps) if private_heads else optimizer
    single = len(parts) + (method is not None) == 1

    def table(broadcast: Any) -> Any:
        return None if not calibrate else broadcast if single else broadcast[0]

    client = local_training(task.loss, chosen, both)
    return federated(
        task,
        optimizer,
        method=both,
        client=at_site(client, clients, sites, rounds // 2, table),
        weighting=equal,
        share_mask=shared,
        keep_optimizer=False,
        **options,
    )
