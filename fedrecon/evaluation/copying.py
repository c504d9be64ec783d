"""Whether a generator repeats what it was trained on."""

from typing import NamedTuple

import numpy as np
from scipy.spatial import distance

from fedrecon.errors import ArgumentError


class Memorization(NamedTuple):
    """How near samples come to the images that a generator was trained on, and to others.

    Attributes:
      training, held_out: (samples,), distance of each to the nearest of as many images, or groups of them, of
        both kinds.
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
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Memorization:
    """Compares the nearest training image of each sample with the nearest one that was held out.

    A permutation test: were the generator blind to which images were for training, the kinds could change
    places. Of the larger kind as many as of the smaller are drawn, since more images come nearer. Patients
    who are in both kinds break the comparison, and so do alike images of a patient without ``groups``.

    Args:
      samples: (samples, ...), of the generator.
      training: (examples, ...), that it was trained on.
      held_out: (examples, ...), from the same patients' distribution, that it was not.
      groups: integers (examples,) of both kinds, the patient of each image; patients are drawn and change
        places with all of their images. None lets each image do so by itself.
      permutations: of the kinds.
      seed: of the choice and the permutations.

    Raises:
      ValueError: no sample or image, or of different shapes; groups of another number of images.
    """
    arrays = {"samples": samples, "training": training, "held_out": held_out}
    flat = {}
    for name, x in arrays.items():
        x = np.asarray(x, float)
        if not len(x) or x.shape[1:] != np.shape(samples)[1:]:
            raise ArgumentError(name, f"(examples, {np.shape(samples)[1:]}), at least one", x.shape)
        flat[name] = x.reshape(len(x), -1)
    rng = np.random.default_rng(seed)
    images = [flat["training"], flat["held_out"]]
    numbers = [np.arange(len(x)) for x in images] if groups is None else [np.asarray(g) for g in groups]
    if [x.shape for x in numbers] != [(len(x),) for x in images]:
        raise ArgumentError("groups", f"{[len(x) for x in images]} integers", [x.shape for x in numbers])
    numbers = [np.unique(x, return_inverse=True)[1].reshape(-1) for x in numbers]
    count = 1 + min(x.max() for x in numbers)
    # The place of each group among those that are drawn.
    place = [np.argsort(rng.permutation(1 + x.max()))[x] for x in numbers]
    own, other = (x[p < count] for x, p in zip(images, place, strict=True))
    group = np.concatenate([place[0][place[0] < count], count + place[1][place[1] < count]])
    away = distance.cdist(flat["samples"], np.concatenate([own, other]))
    # Who is nearest does not change with the kinds: (samples, groups).
    nearest = (away == away.min(1, keepdims=True)).astype(float) @ np.eye(2 * count)[group]

    def part(kinds: np.ndarray) -> np.ndarray:
        """Of kinds (groups, permutations)."""
        here, there = nearest @ kinds > 0, nearest @ ~kinds > 0
        return (here - 0.5 * (here & there)).mean(0)

    kind = np.arange(2 * count) < count
    drawn = np.stack([kind, *(rng.permutation(kind) for _ in range(permutations))], 1)
    nearer, *others = part(drawn).tolist()
    as_large = sum(other >= nearer for other in others)
    to_training, to_held_out = (away[:, chosen].min(1) for chosen in (kind[group], ~kind[group]))
    return Memorization(to_training, to_held_out, nearer, (1 + as_large) / (1 + permutations))
