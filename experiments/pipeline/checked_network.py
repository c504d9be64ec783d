"""The reconstruction network of a federated training, with the bounds of its signs."""

import dataclasses

import numpy as np

from experiments.pipeline.examples import each, signs_of_clients
from experiments.pipeline.federated_settings import TrainSettings, network_norm
from experiments.pipeline.folders import data_kind
from experiments.pipeline.reconstruction import physics_of
from fedrecon import Variables, ood
from fedrecon.data import ClientData
from fedrecon.evaluation import conformal_quantile, error_scale, score_histogram
from fedrecon.learned import (
    Architecture,
    CheckedNetwork,
    IntervalBound,
    appearance,
    calibrate,
    make_images,
    make_signs,
    start_images,
)
from fedrecon.tasks import measure_of

# Training examples of a site whose images are looked at.
_MOST = 32
# Part of the pixels of the validation that intervals hold.
_LEVEL = 0.9


def checked_network(
    settings: TrainSettings, released: Variables, train: ClientData, data: ClientData
) -> CheckedNetwork:
    """The released network; every site of ``data`` tells the largest signs of its own examples.

    Args:
      settings: of the training.
      released: its model.
      train: the training data, of which some are reconstructed to know what images are like; none of private
        trainings, whose guarantee would not cover it, nor the intervals.
      data: measurements that it was not trained on, of the validation where there is one.
    """
    name = "varnet" if settings.network == "unet" else settings.network
    sizes = settings.cascades, settings.channels, settings.pools
    architecture = Architecture(name, *sizes, norm=network_norm(settings))
    measure, physics = measure_of(train.examples), physics_of(train.examples)
    images_by, signs_by = make_images(architecture.build(), measure), make_signs(measure)
    starts = start_images(measure)
    found, signs = signs_of_clients(images_by, signs_by, [released] * data.clients, data)
    known = interval = None
    if not settings.federation.dp_epsilon and found is not None:
        some = dataclasses.replace(train, valid=train.valid & (np.cumsum(train.valid, 1) <= _MOST))
        seen, _ = signs_of_clients(images_by, signs_by, [released] * some.clients, some)
        known = ood.reference_of(appearance(seen), appearance(found))
        interval = _interval(found, each(lambda _, batch: starts(batch), [None] * data.clients, data), data)
    kind = data_kind(settings)
    origin = (
        f"{name} trained by {settings.federation.algorithm} on the {kind} {physics.upper()} of "
        f"{', '.join(data.names)} (seed {settings.seed})"
    )
    return CheckedNetwork(architecture, released, calibrate(signs), origin, physics, known, interval)


def _interval(images: np.ndarray, starts: np.ndarray, data: ClientData) -> IntervalBound | None:
    """By histograms of scaled errors that add over sites; None where no reference is known.

    Args:
      images, starts: of all valid examples, in the order of `each`.
      data: with their references.
    """
    targets = np.abs(np.asarray(data.examples["target"]))[np.nonzero(data.valid)]
    scale = error_scale(images, starts)
    counted = (scale > 0) & (targets.max((1, 2), initial=0) > 0)[:, None, None]
    if not counted.any():
        return None
    histogram = score_histogram(np.abs(images - targets) / np.where(counted, scale, 1), counted)
    return IntervalBound(_LEVEL, conformal_quantile(histogram, _LEVEL))
