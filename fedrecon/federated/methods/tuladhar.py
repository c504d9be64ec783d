"""Tuladhar: local work and rates that fall over rounds, and weights from several scores."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, Work
from fedrecon.federated.messages import Context, Message, Reducer, Reduction
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.reducers.robust import largest_of_each, lengths, result_of, unweighted
from fedrecon.federated.trees import along
from fedrecon.types import Batch, PyTree, Task

SCORES = ("examples", "score", "distance")
# Rounds after which the work stays as it is, and its factor from one to the next before.
_CHANGING, _FACTOR = 10, 0.9


def falling_work(
    *, decay: float = 0.95, work: str = "decreasing", least_part: float = 0.25, part: Callable | None = None
) -> Callable[[Context], Work]:
    """The schedule of `tuladhar`: in round t the rate decay^t, and ceil(part x steps) of a client's steps.

    Args:
      decay, work, least_part: as in `tuladhar`.
      part: ``part(round, client) -> float32 ()`` in (0, 1], in place of ``work``.

    Raises:
      ValueError: for arguments out of range.
    """
    parts: dict[str, Callable[[jax.Array], Any]] = {
        "decreasing": lambda t: _FACTOR ** jnp.minimum(t, _CHANGING),
        "increasing": lambda t: _FACTOR ** jnp.maximum(_CHANGING - t, 0),
        "constant": lambda t: 1.0,
    }
    if not 0 < decay <= 1:
        raise ArgumentError("decay", "a number in (0, 1]", decay)
    if work not in parts:
        raise ArgumentError("work", f"one of {', '.join(parts)}", repr(work))
    if not 0 < least_part <= 1:
        raise ArgumentError("least_part", "a number in (0, 1]", least_part)

    def schedule(context: Context) -> Work:
        assert context.steps is not None, "the context of a schedule"
        now: Any = parts[work](context.round) if part is None else part(context.round, context.client)
        # Rounding may not add a step.
        steps = jnp.ceil(jnp.maximum(now, least_part if part is None else 0) * context.steps - 1e-3)
        return Work(jnp.float32(decay) ** context.round, steps.astype(jnp.int32))

    return schedule


def ensemble(scores: tuple[str, ...], own: Callable[[PyTree], PyTree]) -> Reducer:
    """Averages with alpha_i = mean_k u_ki / sum_j u_kj; ``own`` picks this method's scalars of a message."""

    def reduce(uploads, included, state, context):
        del context
        sent = unweighted(uploads, included)
        mean = jax.tree.map(lambda x: x.sum(0) / jnp.maximum(included.sum(), 1), sent.delta.params)
        away = jax.tree.map(lambda x, m: x - m, sent.delta.params, mean)
        found = {
            "examples": lambda: largest_of_each(uploads.weight),
            "score": lambda: jnp.maximum(own(sent.message.scalars)["score"], 0),
            "distance": lambda: 1 / (lengths(away) + 1e-5),
        }
        alpha = jnp.zeros(included.shape, jnp.float32)
        for name in scores:
            u = jnp.where(included, found[name](), 0)
            equal = included / jnp.maximum(included.sum(), 1)
            alpha += jnp.where(u.sum() > 0, u / jnp.where(u.sum() > 0, u.sum(), 1), equal) / len(scores)
        total = jax.tree.map(lambda x: (along(alpha, x) * x).sum(0).astype(x.dtype), sent)
        summed = jax.tree.map(lambda x: x.mean(0).astype(x.dtype), sent.message.summed)
        reduced = total._replace(message=Message(summed, total.message.scalars))
        return Reduction(result_of(reduced, included, included.any()), state, None, {"alpha": alpha})

    return Reducer(lambda upload: (), reduce)


def own_score(score: Callable[[PyTree, PyTree, Batch], jax.Array]) -> Method:
    """Clients send the score of the model that they trained, on their validation split."""

    def finish(result, memory, context):
        found = score(*context.complete(result.variables), context.batches.judged)
        return result, Message(scalars={"score": found}), memory

    return Method(finish=finish, discloses="scores of its validation examples")


def tuladhar(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    scores: str = "examples,score,distance",
    decay: float = 0.95,
    work: str = "decreasing",
    least_part: float = 0.25,
    method: Method | None = None,
    keep_optimizer: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """Tuladhar et al. (brain tumors): epochs and rates by round, and an ensemble of weights.

    In round t the rate is eta_0 gamma^t, and clients take the first ceil(E_t n_i / B) of their steps, E_t =
    max(1/2, E_0 0.9^min(t, 10)); E_0 are the passes of a full round. With u_ki the scores of client i, models
    are averaged by alpha_i = mean_k u_ki / sum_j u_kj: of its examples n_i, the score of w_i on its
    validation split, and 1 / (|w_i - w'| + 1e-5) with the unweighted mean w'. One number is sent with the
    model. Of ``scores="examples"``, gamma = 1 and constant work it is FedAvg, bit for bit.

    Deviations: filled in from a description, no code being public. n_i / B is rounded up, as in all rounds
    here. The least work is a part of the full one, 1/4, which is half an epoch of E_0 = 2. Work that
    increases ends with the full one. Clients without a validation split score their training examples.
    Scores that are zero at all clients are taken to be equal. Other rates by round are ``--rate_schedule``.

    Args:
      task: what is learned.
      optimizer: each client's optimizer (Adam at 5e-5).
      score: ``score(params, stats, batch) -> float32 ()`` in [0, 1], such as a Dice.
      scores: some of `SCORES`, between commas.
      decay: gamma, in (0, 1].
      work: "decreasing", "increasing" or "constant".
      least_part: of the steps of a full round, in (0, 1].
      method: further methods.
      keep_optimizer: clients keep their optimizer's state between rounds.
      **options: as in `federated`, except ``reduce`` and ``schedule``.

    Raises:
      ValueError: for arguments out of range.
    """
    names = tuple(scores.split(","))
    if not set(names) <= set(SCORES) or len(set(names)) < len(names):
        raise ArgumentError("scores", f"some of {', '.join(SCORES)}", repr(scores))
    told = own_score(score) if "score" in names else None
    own = (lambda scalars: scalars) if method is None else (lambda scalars: scalars[0])
    return federated(
        task,
        optimizer,
        method=combine(told, method),
        reduce=None if names == ("examples",) else ensemble(names, own),
        schedule=falling_work(decay=decay, work=work, least_part=least_part),
        keep_optimizer=keep_optimizer,
        **options,
    )
