"""PRR-FL: clients share amplitudes of their kernels, and a deputy and a personal model teach each other."""

from collections.abc import Callable

import jax
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.local import local_training
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.deputies import deputies
from fedrecon.federated.recipe import federated
from fedrecon.federated.reducers.amplitudes import amplitude_answers
from fedrecon.federated.sampling import equal
from fedrecon.federated.trees import merge
from fedrecon.types import Batch, PyTree, Task, Variables


def from_answers(client: ClientUpdate) -> ClientUpdate:
    """The client update that starts from what the reducer has answered the client, where it has."""

    def update(variables, broadcast, client_state, batches, valid, key):
        start = merge(batches.answer, variables)
        return client.update(start, broadcast, client_state, batches, valid, key)

    return client._replace(update=update)


def prr_fl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    rounds: int = 50,
    start: float = 0.7,
    recover: float = 0.7,
    exchange: float = 0.9,
    sampler: Callable | None = None,
    keep_optimizer: bool = False,
    method: Method | None = None,
) -> FederatedAlgorithm:
    """PRR-FL (Chen Z. et al. 2022): every client gets a *deputy* of its own, see `amplitude_answers`.

    At the client a deputy q and a personal model p step on the same batches: q by the task's loss, and
    KL(p || q) in the stages recover and exchange; p by the loss, and KL(q || p) in exchange and sublimate.
    Teachers are not differentiated. The stage is `next_stage` of the scores before each pass; rounds of less
    than two passes are exchange alone. Clients send q without normalization layers and evaluate with p, which
    never leaves.

    Deviations: the window of frequencies is symmetric, so that kernels are real, and amplitudes are divided
    by the number of clients of the round. Predictions that teach are those of evaluation. Scores are of the
    validation split, without one of the training examples. Kernels of volumes are averaged.

    Args:
      task: what is learned; its predictions are probabilities, classes last.
      optimizer: of either model.
      score: ``score(params, stats, batch) -> float32 ()`` in [0, 1], such as the macro-averaged F1.
      rounds: R.
      start: L_0, the part of the frequencies shared at first.
      recover, exchange: thresholds of ``score(q) / score(p)``.
      sampler, keep_optimizer, method: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value in (("start", start), ("recover", recover), ("exchange", exchange)):
        if not 0 <= value <= 1:
            raise ArgumentError(name, "a number in [0, 1]", repr(value))
    if not rounds >= 1:
        raise ArgumentError("rounds", "an integer of at least 1", repr(rounds))
    shared = jax.tree.map(lambda local: not local, task.normalization)
    own = deputies(task, optimizer, score, shared, (recover, exchange))
    both = combine(own, method)
    client = local_training(task.loss, optimizer, both, keep_optimizer=keep_optimizer)
    sent = (lambda summed: summed) if method is None else (lambda summed: summed[0])
    return federated(
        task,
        optimizer,
        method=both,
        client=from_answers(client),
        sampler=sampler,
        weighting=equal,
        reduce=amplitude_answers(shared, rounds, start, sent),
        share_mask=Variables(False, False),
    )
