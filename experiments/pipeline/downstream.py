"""Segmentation and classification, trained federatedly on images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.cohorts import Split
from experiments.pipeline.scores import Scores
from experiments.pipeline.stages import Run
from fedrecon import Variables
from fedrecon.data import ClientData
from fedrecon.models import Classifier, UNet, warm_start
from fedrecon.tasks import check_labels, classification_task, segmentation_task

# Initial log-odds of a lesion pixel.
_RARE = -3.0


class Downstream(NamedTuple):
    """Result of one downstream task.

    Attributes:
      scores: method -> site -> metric -> value on the test split.
      predictions: (sites, test examples, ..., classes) of the federated model: probabilities of each class,
        per pixel or per image.
      copied: leaves taken over from the reconstruction network.
    """

    scores: dict[str, Scores]
    predictions: np.ndarray
    copied: tuple[str, ...]


def with_images(data: ClientData, images: np.ndarray) -> ClientData:
    """The labels of ``data`` with ``images`` (clients, examples, ny, nx) in place of the measurements."""
    examples = {name: data.examples[name] for name in ("segmentation", "label", "volume")}
    examples["image"] = np.asarray(images, np.float32)[..., None]
    return ClientData(examples=examples, valid=data.valid, names=data.names)


def run_downstream(kind: str, run: Run, cohort: Split, pretrained: Variables | None) -> Downstream:
    """Fine-tunes one task on all sites, and on each site alone as the comparator.

    Args:
      kind: "segmentation" or "classification".
      run: the stage.
      cohort: examples with ``image`` (ny, nx, channels) and ``segmentation`` or ``label``.
      pretrained: reconstruction network whose encoder layers are taken over where their shapes agree.
    """
    settings = run.settings
    train, test = cohort.train, cohort.test
    for split in (train, test):
        check_labels(split, {"segmentation": "segmentation", "classification": "label"}[kind], 2)
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), train.examples)
    channels, pools = settings.finetune_channels, settings.finetune_pools
    if kind == "segmentation":
        task = segmentation_task(UNet(channels, pools, output_bias=_RARE), example, flip=True)
    else:
        task = classification_task(Classifier(channels, pools), example, flip=True)
    initial = task.init(jax.random.fold_in(jax.random.key(settings.seed), 2))
    copied: tuple[str, ...] = ()
    if pretrained is not None:
        last = jax.tree.map(lambda x: x[-1], pretrained.params["cascades"]["regulariser"])
        params, copied = warm_start(initial.params, last)
        initial = initial._replace(params=params)
    scores = {}
    if settings.finetune_comparators:
        local = run.train(kind, "local", task, initial, cohort)
        scores["local-only"], scores["local-only on other sites"] = local.scores_across(task, test)
    federated = run.train(kind, "federated", task, initial, cohort)
    scores["federated"] = federated.scores(task, test)[0]
    predict = jax.jit(lambda variables, batch: task.predict(*variables, batch))
    predictions = []
    for i, model in enumerate(federated.models(test.clients)):
        examples = {name: jnp.asarray(x[i]) for name, x in test.examples.items()}
        predictions.append(np.asarray(predict(model, {**examples, "valid": jnp.asarray(test.valid[i])})))
    return Downstream(scores, np.stack(predictions), copied)
