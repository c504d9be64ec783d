"""Whether a generator repeats what it was trained on."""

from typing import NamedTuple

import numpy as np
from scipy.spatial import distance

from fedrecon.errors import ArgumentError


class Memorization(NamedTuple):
    """How near samples come to the images that a generator was trained on, and to others.

    Attributes:
      training, held_out: (samples,), distance of each to the nearest of as many images of both kinds.
      nearer: part of the samples whose nearest image of all is one of the training, ties counting half; about
        1/2 of a generator that repeats nothing.
      p_value: of so large a part or a larger one, where the kinds are drawn by lot.
    """

    training: np.ndarray
    held_out: np.ndarray
    nearer: float
    p_value: float


def memorization(
    samples: np.ndarray,
    training: np.ndarray,
    held_out: np.ndarray,
    *,
    permutations: int = 999,
    seed: int = 0,
) -> Memorization:
    """Compares the nearest training image of each sample with the nearest one that was held out.

    A permutation test: were the generator blind to which images were for training, the kinds could change
    places. Of the larger kind as many as of the smaller are drawn, since more images come nearer. Patients
    who are in both kinds, or alike images in one, break the comparison.

    Args:
      samples: (samples, ...), of the generator.
      training: (examples, ...), that it was trained on.
      held_out: (examples, ...), from the same patients' distribution, that it was not.
      permutations: of the kinds.
      seed: of the choice and the permutations.

    Raises:
      ValueError: no sample or image, or of different shapes.
    """
    arrays = {"samples": samples, "training": training, "held_out": held_out}
    flat = {}
    for name, x in arrays.items():
        x = np.asarray(x, float)
        if not len(x) or x.shape[1:] != np.shape(samples)[1:]:
            raise ArgumentError(name, f"(examples, {np.shape(samples)[1:]}), at least one", x.shape)
        flat[name] = x.reshape(len(x), -1)
    rng = np.random.default_rng(seed)
    count = min(len(training), len(held_out))
    own, other = (flat[name][rng.permutation(len(flat[name]))[:count]] for name in ("training", "held_out"))
    away = distance.cdist(flat["samples"], np.concatenate([own, other]))
    # Who is nearest does not change with the kinds.
    nearest = away == away.min(1, keepdims=True)

    def part(kind: np.ndarray) -> float:
        here, there = nearest[:, kind].any(1), nearest[:, ~kind].any(1)
        return float((here - 0.5 * (here & there)).mean())

    kind = np.arange(2 * count) < count
    nearer = part(kind)
    as_large = sum(part(rng.permutation(kind)) >= nearer for _ in range(permutations))
    to_training, to_held_out = (away[:, chosen].min(1) for chosen in (kind, ~kind))
    return Memorization(to_training, to_held_out, nearer, (1 + as_large) / (1 + permutations))
