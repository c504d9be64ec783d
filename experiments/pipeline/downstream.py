"""Segmentation and classification, trained federatedly on images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline import diagnosis
from experiments.pipeline.cohorts import Split
from experiments.pipeline.diagnosis import Diagnosis
from experiments.pipeline.examples import each
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Run
from fedrecon import Task, Variables
from fedrecon.data import ClientData
from fedrecon.models import warm_start
from fedrecon.tasks import check_labels
from fedrecon.training import example_of, named_task


class Rater(NamedTuple):
    """How the predictions of a task are scored.

    Attributes:
      target: name of the truth among the examples.
      threshold: of validation cases.
      score: of test cases and each site's threshold.
      trivial: name -> constant probability, of predictors that look at nothing.
    """

    target: str
    threshold: Callable
    score: Callable
    trivial: dict[str, float]


RATERS = {
    "segmentation": Rater(
        "segmentation",
        diagnosis.segmentation_threshold,
        diagnosis.score_segmentation,
        {"nothing marked": 0.0, "everything marked": 1.0},
    ),
    "classification": Rater(
        "label",
        diagnosis.classification_threshold,
        diagnosis.score_classification,
        {"never positive": 0.0, "always positive": 1.0},
    ),
}


class Downstream(NamedTuple):
    """Result of one downstream task.

    Attributes:
      scores: method -> scores on the test split.
      unseen: method -> overall scores at the unseen site, means over models where there are several;
        empty without such a site.
      predictions: (sites, test examples, ..., classes) of the federated model: probabilities of each class,
        per pixel or per image.
      threshold: of the federated model, from the validation split.
      copied: leaves taken over from the reconstruction network.
    """

    scores: dict[str, Diagnosis]
    unseen: dict[str, dict[str, float]]
    predictions: np.ndarray
    threshold: float
    copied: tuple[str, ...]


def with_images(data: ClientData, images: np.ndarray) -> ClientData:
    """The labels of ``data`` with ``images`` (clients, examples, ny, nx) in place of the measurements."""
    kept = [name for name in ("segmentation", "label", "volume") if name in data.examples]
    examples = {name: data.examples[name] for name in kept}
    examples["image"] = np.asarray(images, np.float32)[..., None]
    return ClientData(examples=examples, valid=data.valid, names=data.names)


def run_downstream(
    kind: str, run: Run, cohort: Split, pretrained: Variables | None, about: Mapping[str, Any]
) -> Downstream:
    """Fine-tunes one task on all sites, and on each site alone as the comparator.

    Args:
      kind: "segmentation" or "classification".
      run: the stage.
      cohort: examples with ``image`` (ny, nx, channels), ``volume``, and ``segmentation`` or ``label``.
      pretrained: reconstruction network whose encoder layers are taken over where their shapes agree.
      about: what is kept with the released model, see `Stage`.
    """
    settings = run.settings
    train, rater = cohort.train, RATERS[kind]
    for split in cohort:
        if split is not None:
            check_labels(split, rater.target, 2)
    task = make_task(kind, settings, example_of(train))
    initial = task.init(jax.random.fold_in(jax.random.key(settings.seed), 2))
    copied: tuple[str, ...] = ()
    if pretrained is not None:
        last = jax.tree.map(lambda x: x[-1], pretrained.params["cascades"]["regulariser"])
        params, copied = warm_start(initial.params, last)
        initial = initial._replace(params=params)
    probabilities = predictor(task, rater.target)

    def cases(models: Sequence[Variables], data: ClientData) -> diagnosis.Cases:
        return diagnosis.cases(probabilities(models, data), data, rater.target)

    scores, unseen = {}, {}
    for name, value in rater.trivial.items():
        scores[name] = _score_constant(rater, value, cohort.test)
        if cohort.unseen is not None:
            unseen[name] = _score_constant(rater, value, cohort.unseen).overall
    if settings.finetune_comparators:
        models = run.train(kind, "local", task, initial, cohort).models(train.clients)
        own = [_calibrated(rater, cases(models, cohort.validation), i) for i in range(train.clients)]
        scores["local-only"] = rater.score(cases(models, cohort.test), own)
        if cohort.unseen is not None:
            there = [cases([model], cohort.unseen) for model in models]
            unseen["local-only"] = diagnosis.average(
                [rater.score(found, [bound]) for found, bound in zip(there, own, strict=True)]
            )
    federated = run.train(kind, "federated", task, initial, cohort, about)
    models = federated.models(train.clients)
    threshold = rater.threshold(cases(models, cohort.validation))
    predictions = probabilities(models, cohort.test)
    scores["federated"] = rater.score(
        diagnosis.cases(predictions, cohort.test, rater.target), [threshold] * train.clients
    )
    if cohort.unseen is not None:
        unseen["federated"] = rater.score(cases([federated.released], cohort.unseen), [threshold]).overall
    return Downstream(scores, unseen, predictions, threshold, copied)


def make_task(kind: str, settings: FullStackSettings, example: Mapping[str, Any]) -> Task:
    """The task of a kind and its network, of examples like ``example``."""
    network = getattr(settings, f"{kind}_network")
    sizes = {"channels": settings.finetune_channels, "pools": settings.finetune_pools}
    return named_task(kind, example, network=network, flip=True, **sizes)


def predictor(task: Task, target: str) -> Callable[[Sequence[Variables], ClientData], np.ndarray]:
    """``predict(models, data)``: probabilities (clients, examples, ..., classes), by each client's model."""
    predict = jax.jit(lambda variables, batch: task.predict(*variables, batch))

    def run(models: Sequence[Variables], data: ClientData) -> np.ndarray:
        found = each(predict, models, data)
        placed = np.zeros((*data.valid.shape, *data.examples[target].shape[2:], 2), np.float32)
        if found is not None:
            placed[np.nonzero(data.valid)] = found
        return placed

    return run


def _score_constant(rater: Rater, value: float, data: ClientData) -> Diagnosis:
    shape = (*data.valid.shape, *data.examples[rater.target].shape[2:], 2)
    constant = diagnosis.cases(np.full(shape, value, np.float32), data, rater.target)
    return rater.score(constant, [0.5] * data.clients)


def _calibrated(rater: Rater, validation: diagnosis.Cases, site: int) -> float:
    """A site's threshold from its own validation cases."""
    here = validation.site == site
    arrays = (array[here] for array in validation[:4])
    return rater.threshold(diagnosis.Cases(*arrays, validation.names))
