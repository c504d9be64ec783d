"""Elayan et al.: transfer learning on devices with a frozen backbone, and images that label themselves."""

from typing import Any

import jax
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import local_training
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.acquisition import acquiring, half_weighted
from fedrecon.federated.methods.thawing import last_block, slowed, thawing
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import FROZEN, expand_mask
from fedrecon.types import PyTree, Task


def elayan(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    head: PyTree,
    block: str = "",
    unfreeze: int = 5,
    block_rate: float = 0.1,
    unlabeled: float = 0.0,
    threshold: float = 0.95,
    weight: float = 0.5,
    expiry: int = 10,
    capacity: int = 256,
    method: Method | None = None,
    keep_optimizer: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """Transfer learning in a federation of devices (Elayan et al. 2022, skin disease), with acquired images.

    Of a pretrained model (``--initialize_from``) the head trains, from round ``unfreeze`` on the last block,
    too, at ``block_rate`` of the rate; everything else is `FROZEN`: stored once, never sent, bit for bit what
    it was. A client trains on its labeled images and on device images that the received model labels with a
    probability of at least ``threshold`` and alike in four mirrored views, while their class has fewer images
    than twice the rarest; these count ``weight`` in the loss and leave after ``expiry`` rounds (`admit`).
    FedAvg averages what is trained.

    Deviations: the publication says that devices label and send their images on, not by what rule; threshold,
    agreement, quota, weight and expiry are ours. In a simulation device images are training images whose
    label is hidden (``unlabeled`` of each client's; the log's "pseudo_right" compares with it), and all are
    there from the first round; an expired one may enter again. Batches are drawn of all images and the unused
    left out: sizes differ, and steps without any are skipped (logs then name stragglers). Before round
    ``unfreeze`` the last block's change is left out of uploads, while the unchanged block is counted among
    what is sent down.

    Args:
      task: of classification; ``loss`` is a mean over valid examples.
      optimizer: each client's optimizer.
      head: `Variables` of bools, or a prefix, of the leaves that always train.
      block: regular expression of the paths of the last block's leaves; empty for those with the largest
        numbers in their names.
      unfreeze: r_0, rounds before the last block trains.
      block_rate: factor of its learning rate.
      unlabeled: part of the images without a label, in [0, 1).
      threshold: least probability of a label; above 1 admits none.
      weight: of the loss of such images, in (0, 1].
      expiry: rounds that they stay.
      capacity: the most of them at a client.
      method, keep_optimizer, **options: as in `federated`, except ``share_mask``.

    Raises:
      ValueError: arguments out of range, or an expression that no leaf matches.
    """
    for name, value, fits, expected in (
        ("unlabeled", unlabeled, 0 <= unlabeled < 1, "a number in [0, 1)"),
        ("threshold", threshold, threshold > 0, "a positive number"),
        ("weight", weight, 0 < weight <= 1, "a number in (0, 1]"),
        ("block_rate", block_rate, block_rate > 0, "a positive number"),
        ("unfreeze", unfreeze, unfreeze >= 0, "a number of rounds"),
        ("expiry", expiry, expiry >= 1, "at least 1 round"),
        ("capacity", capacity, capacity >= 1, "at least 1 image"),
    ):
        if not fits:
            raise ArgumentError(name, expected, value)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    heads = expand_mask(head, shapes)
    blocks = last_block(shapes, heads, block)
    mask = jax.tree.map(lambda a, b: True if a or b else FROZEN, heads, blocks)
    both = combine(thawing(blocks, unfreeze), method)
    loss = half_weighted(task.loss, weight)
    client = local_training(loss, slowed(optimizer, blocks, block_rate), both, keep_optimizer=keep_optimizer)
    client = acquiring(
        client,
        task,
        (lambda payload: payload) if method is None else (lambda payload: payload[0]),
        unlabeled=unlabeled,
        threshold=threshold,
        expiry=expiry,
        capacity=capacity,
    )
    return federated(task, optimizer, method=both, share_mask=mask, client=client, **options)
