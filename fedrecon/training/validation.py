"""The validation curve of a training: by round and site in the log, and what chooses the round to keep."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.catalog import Entry
from fedrecon.data import ClientData
from fedrecon.federated import RoundState, client_variables
from fedrecon.runtime import host_copy
from fedrecon.training.budgets import Budget
from fedrecon.training.execution import Dispatch
from fedrecon.training.federation_settings import PEERS, FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.scores import as_json, site_scores
from fedrecon.training.topologies import Rounds

PyTree = Any


class Watched(NamedTuple):
    """The state of a training that keeps its best round; a pytree of arrays.

    Attributes:
      state: after the newest round.
      best: after the best round by the validation loss; of sites that share nothing, each site's own best.
      loss: float32 () or (sites,), the lowest validation loss.
      round: int32, as ``loss``: rounds until then.
    """

    state: PyTree
    best: PyTree
    loss: jax.Array
    round: jax.Array


def curve_value(sums: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(sum, count), each (sites,), of the metric "loss", or else of the first."""
    total, count = sums.get("loss", next(iter(sums.values())))
    return np.asarray(total), np.asarray(count)


def with_validation(
    rounds: Rounds,
    settings: FederationSettings,
    entry: Entry,
    budget: Budget,
    metrics: Callable,
    data: ClientData | None,
) -> Rounds:
    """Rounds that are followed by an evaluation on the sites' validation split.

    Records get "validation" (site -> metric -> value) and "validation_seconds" every ``--validate_every``
    rounds and after the last. With ``--patience`` the state is `Watched`, ends when no site improves any
    longer, and `Rounds.federation` gives that of the best round.

    Args:
      rounds: of the training.
      settings: of the federation.
      entry: the algorithm.
      budget: of the training.
      metrics: of the task; lower is better in "loss".
      data: validation split; None without one.

    Raises:
      FlagError: --patience without a validation split, or with several processes.
    """
    if data is None or not np.any(data.valid) or not settings.validate_every:
        if settings.patience:
            raise FlagError("patience", "0 without validation data", settings.patience)
        return rounds
    if settings.patience and jax.process_count() > 1:
        raise FlagError("patience", "0 with several processes", settings.patience)
    alone = not entry.exchanges and not entry.pooled

    def model_of(state: RoundState) -> Any:
        if entry.pooled:
            return client_variables(rounds.algorithm, state, 0)
        return state if entry.personal or settings.topology in PEERS else rounds.average(state)

    def compile(count: int, key: jax.Array) -> Dispatch:
        dispatch = rounds.compile(count, key)

        def run(watched: PyTree, data_: PyTree, key: jax.Array) -> tuple[PyTree, PyTree]:
            state, infos = dispatch.run(watched.state if settings.patience else watched, data_, key)
            federation = rounds.federation(state)
            done, start = int(federation.round), time.perf_counter()
            if done % settings.validate_every >= count and done < budget.rounds:
                return (watched._replace(state=state) if settings.patience else state), (infos, (), 0.0)
            sums = host_copy(rounds.evaluate(metrics, model_of(federation), data))
            seconds = time.perf_counter() - start
            if not settings.patience:
                return state, (infos, sums, seconds)
            return _kept(watched, state, sums, done, alone), (infos, sums, seconds)

        return Dispatch(run, dispatch.memory)

    def records(infos: tuple[PyTree, dict[str, Any], float]) -> list[dict[str, Any]]:
        infos, sums, seconds = infos
        found = rounds.records(infos)
        if sums:
            found[-1]["validation"] = as_json(site_scores(sums, data.names))
            found[-1]["validation_seconds"] = round(float(seconds), 4)
        return found

    if not settings.patience:
        return rounds._replace(compile=compile, records=records)
    shape = (data.clients,) if alone else ()
    start = Watched(
        rounds.state,
        _copy(rounds.state),
        jnp.full(shape, jnp.inf, jnp.float32),
        jnp.zeros(shape, jnp.int32),
    )
    return rounds._replace(
        state=start,
        compile=compile,
        records=records,
        federation=lambda watched: rounds.federation(watched.best),
        finished=lambda watched: bool(
            np.all(
                int(rounds.federation(watched.state).round) - np.asarray(watched.round) >= settings.patience
            )
        ),
    )


def _kept(watched: Watched, state: PyTree, sums: dict[str, Any], done: int, alone: bool) -> Watched:
    """The newer state, and the better of it and the best one."""
    total, count = curve_value(sums)
    # A site without validation data keeps its newest model.
    loss = np.where(count > 0, total / np.maximum(count, 1), -np.inf).astype(np.float32)
    if not alone:
        loss = loss[count > 0].mean()
    better = (loss < np.asarray(watched.loss)) | np.isneginf(loss)
    # Copies, since the state is donated to the next round.
    best = watched.best
    if alone or better:
        best = _copy(_select(better, state, best) if alone else state)
    return Watched(
        state,
        best,
        jnp.asarray(np.where(better, loss, watched.loss)),
        jnp.asarray(np.where(better, done, watched.round).astype(np.int32)),
    )


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.copy(), tree)


def _select(better: np.ndarray, new: RoundState, old: RoundState) -> RoundState:
    """The new rows of some sites and the old ones of the others; what they share is new."""

    def rows(new, old):
        wide = np.pad(better, (0, new.shape[0] - len(better))).reshape(-1, *[1] * (new.ndim - 1))
        return (np if isinstance(new, np.ndarray) else jnp).where(wide, new, old)

    own = jax.tree.map(rows, (new.client, new.private), (old.client, old.private))
    return new._replace(client=own[0], private=own[1])
