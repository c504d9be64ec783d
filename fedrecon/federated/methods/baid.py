"""Baid et al.: lymphocytes in tiles of slides, at sites that are organs."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def baid(
    task: Task, optimizer: optax.GradientTransformation, *, keep_optimizer: bool = False, **options: Any
) -> FederatedAlgorithm:
    """Baid et al. 2022 (arXiv:2203.16622): FedAvg of a classifier of tiles of slides; sites are organs.

    The rounds are FedAvg's; the application is in its data. Slides are cut into tiles that do not overlap
    (`fedrecon.data.clients.tile_slide`), stains are normalized by slide, all tiles of a slide are of one
    client and one part, F1 and AUC are told of tiles with lymphocytes, and probabilities of a slide's tiles
    are its map (`heat_map`).

    Deviations: tiles of 50 micrometers of slides of cancers at eight sites, and VGG-16 pretrained on
    photographs, are the publication's; simulated slides with stains and frequencies by site
    (``--cohort=simulated_slides``) and a small network stand in.

    Args:
      task: a classification of tiles, of which class 1 has lymphocytes.
      optimizer: each client's optimizer.
      keep_optimizer: clients keep their optimizer's state between rounds.
      **options: as in `federated`.
    """
    return federated(task, optimizer, keep_optimizer=keep_optimizer, **options)
