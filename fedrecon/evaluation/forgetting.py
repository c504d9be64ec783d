"""What a model that learns one block of data after another keeps of earlier ones, and gives to later ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError


class Transfer(NamedTuple):
    """Figures of a stream of blocks; positive is good in all but ``forgetting``.

    Attributes:
      final: mean of the last row: over all blocks, after the last one.
      learned: mean of the diagonal: of each block, right after it.
      backward: mean over the blocks before the last of the change since right after them (Lopez-Paz and
        Ranzato 2017, arXiv:1706.08840); negative is forgetting.
      forgetting: mean over them of the best score after any earlier block less the last one (Chaudhry et al.
        2018, arXiv:1801.10112).
      forward: mean over the blocks after the first of the score right before them less that of the model that
        has seen nothing (Lopez-Paz and Ranzato).
    """

    final: float
    learned: float
    backward: float
    forgetting: float
    forward: float


def transfer(
    scores: Sequence[Sequence[float]],
    untrained: Sequence[float] | None = None,
    *,
    lower_is_better: bool = False,
) -> Transfer:
    """The figures of a stream.

    Blocks for which a figure lacks a score (NaN) are left out of it; NaN without any, and where there is but
    one block to compare.

    Args:
      scores: (blocks, blocks), a[t, j] of block j after training on block t.
      untrained: (blocks,), of the initial model; None leaves ``forward`` NaN.
      lower_is_better: of losses and errors: all differences get the other sign.

    Raises:
      ArgumentError: the matrix is not square, or another number of scores is untrained.
    """
    found = np.asarray(scores, float)
    if found.ndim != 2 or not found.size or found.shape[0] != found.shape[1]:
        raise ArgumentError("scores", "a square matrix (blocks, blocks)", found.shape)
    start = np.full(len(found), np.nan) if untrained is None else np.asarray(untrained, float)
    if start.shape != found.shape[:1]:
        raise ArgumentError("untrained", f"{len(found)} scores", start.shape)
    sign = -1.0 if lower_is_better else 1.0
    last, diagonal = found[-1], np.diag(found)
    before = sign * found[:-1, :-1]
    known = ~np.isnan(before).all(0) if before.size else np.zeros(0, bool)
    best = np.full(len(found) - 1, np.nan)
    if known.any():
        best[known] = np.nanmax(before[:, known], 0)
    return Transfer(
        final=_mean(last),
        learned=_mean(diagonal),
        backward=_mean(sign * (last - diagonal)[:-1]),
        forgetting=_mean(best - sign * last[:-1]),
        forward=_mean(sign * (np.diag(found, 1) - start[1:])),
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
