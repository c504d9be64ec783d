"""Contrastive pre-training by name: the ways there are, the network, and the data that they see."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_settings import TrainSettings, network_norm
from fedrecon import Task, catalog
from fedrecon.alignment import Contrast
from fedrecon.data import ClientData
from fedrecon.models import CLASSIFIERS, named_classifier
from fedrecon.tasks import contrastive_task
from fedrecon.training import FederationSettings, FlagError, check_method

# Contrast within the batch, the models averaged.
SIMCLR = "simclr"
FEATURES = 64


def contrastive_ways() -> tuple[str, ...]:
    """Names of the ways to pre-train by contrast: `SIMCLR`, and the methods of the catalog for it."""
    return (SIMCLR, *(entry.name for entry in catalog.entries() if "contrast" in entry.needs))


def federation_of(way: str, options: tuple[tuple[str, str], ...]) -> FederationSettings:
    """How sites train together; Adam.

    Raises:
      FlagError: an option is not the way's; names ``pretraining``.
    """
    algorithm = "fedavg" if way == SIMCLR else way
    found = FederationSettings(optimizer="adam", algorithm=algorithm, algorithm_options=options)
    try:
        check_method(found, ())
    except FlagError as error:
        raise error.renamed("algorithm", "pretraining") from error
    return found


def contrastive_stage(settings: TrainSettings, example: Mapping[str, Any]) -> tuple[Task, Contrast]:
    """What is trained without labels: the layers of the settings' network that see images, and a projection.

    Of a segmentation these are its encoder, which is that of a classifier.

    Raises:
      FlagError: the network has no such layers.
    """
    if settings.configure == "fingerprint":
        raise FlagError("configure", "flags, with which a network is pre-trained", settings.configure)
    name = settings.network.removesuffix("-deep-supervision")
    if name not in CLASSIFIERS:
        raise FlagError(
            "network", f"one of {', '.join(CLASSIFIERS)}, which are pre-trained by contrast", name
        )
    model = named_classifier(
        name,
        example["image"],
        channels=settings.channels,
        pools=settings.pools,
        norm=network_norm(settings),
        classes=2 * FEATURES,
    )
    return contrastive_task(model, example, features=FEATURES)


def images_of(data: ClientData, slices: bool) -> ClientData:
    """The clients' images alone, and of volumes the place of each slice among those of its volume.

    Args:
      data: with "image"; with ``slices`` also "volume", slices being in their order.
      slices: whether "slice" and "slices", int32 (clients, examples), are to be there: z and D.

    Raises:
      FlagError: no volume has two slices; names ``pretraining``.
    """
    examples = {"image": data.examples["image"]}
    if not slices:
        return ClientData(examples, data.valid, data.names)
    valid = np.asarray(data.valid)
    number, count = np.zeros(valid.shape, np.int32), np.ones(valid.shape, np.int32)
    volumes = np.asarray(data.examples["volume"]) if "volume" in data.examples else np.full(valid.shape, -1)
    for client, rows in enumerate(valid):
        for volume in np.unique(volumes[client][rows & (volumes[client] >= 0)]):
            places = np.flatnonzero(rows & (volumes[client] == volume))
            number[client, places], count[client, places] = np.arange(len(places)), len(places)
    if count.max() < 2:
        raise FlagError("pretraining", "volumes of several slices for it", "images")
    return ClientData(examples | {"slice": number, "slices": count}, data.valid, data.names)


def few_labels(data: FederatedData, part: float, seed: int) -> FederatedData:
    """The data with the training examples of a part of each client's patients, one at least.

    Of a classification, of a part of those whose first image has each label.

    Args:
      data: of a training.
      part: in (0, 1]; 1 leaves the data as they are.
      seed: of the choice.
    """
    if part == 1:
        return data
    train = data.train
    valid = np.array(train.valid)
    for client, rows in enumerate(valid):
        places = np.flatnonzero(rows)
        volumes = (
            np.asarray(train.examples["volume"][client])[places] if "volume" in train.examples else places
        )
        patients, first = np.unique(volumes, return_index=True)
        labels = np.zeros(len(patients), int)
        if "label" in train.examples and "segmentation" not in train.examples:
            labels = np.asarray(train.examples["label"][client])[places][first]
        rng = np.random.default_rng([seed, 31, client])
        kept: list[int] = []
        for label in np.unique(labels):
            members = rng.permutation(patients[labels == label])
            kept += members[: max(1, round(part * len(members)))].tolist()
        valid[client, places[~np.isin(volumes, kept)]] = False
    return data._replace(train=ClientData(train.examples, valid, train.names))


Load = Callable[[TrainSettings], FederatedData]


def with_few_labels(load: Load, part: float) -> Load:
    """Loads data as `few_labels` of the settings' seed."""
    return lambda settings: few_labels(load(settings), part, settings.seed)
