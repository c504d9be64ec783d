"""Reconstruction: federated training, its comparators and the reconstructed images."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from experiments.pipeline.cohorts import Cohorts, Split
from experiments.pipeline.scores import Scores, mean_score, site_scores
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Run
from experiments.pipeline.training import Trained
from fedrecon import Task, Variables
from fedrecon.data import ClientData, ct_detector_count
from fedrecon.models import MoDL, VarNet
from fedrecon.tasks import ct_measure, mri_measure, reconstruction_metrics, reconstruction_task

_WEIGHTS = tuple(10.0 ** np.arange(-4.0, 0.0, 0.5))
_CHUNK = 8
_NETWORKS = {"modl": MoDL, "varnet": VarNet}


class Reconstruction(NamedTuple):
    """What the reconstruction stage hands on.

    Attributes:
      scores: method -> site -> metric -> value on the test split; "reference" excluded.
      images: method -> (sites, test examples, ny, nx) float32 magnitudes, normalized, for the figure.
      reconstruct: ``reconstruct(data) -> (clients, examples, ny, nx)`` magnitudes of the federated model.
      variables: the federated model, with averaged private leaves.
      weights: regularization weight chosen for each classical method on the validation split.
    """

    scores: dict[str, Scores]
    images: dict[str, np.ndarray]
    reconstruct: Callable[[ClientData], np.ndarray]
    variables: Variables
    weights: dict[str, float]


def run_reconstruction(run: Run, cohorts: Cohorts) -> Reconstruction:
    """Trains federated, local-only and centralized networks and scores them with the classical methods.

    Args:
      run: the stage.
      cohorts: of the run.
    """
    settings, cohort = run.settings, cohorts.reconstruction
    measure = _measure(cohorts.image_shape, settings)
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), cohort.train.examples)
    model = _NETWORKS[settings.network](
        cascades=settings.cascades,
        channels=settings.channels,
        pools=settings.pools,
        learn_coil_maps=settings.learn_coil_maps,
    )
    task = reconstruction_task(model, measure, example)
    initial = task.init(jax.random.fold_in(jax.random.key(settings.seed), 1))
    scores, images, weights = _classical(measure, cohort, settings.modality)
    test, predict = cohort.test, _predictor(task)

    def train(kind: str) -> Trained:
        return run.train("reconstruction", kind, task, initial, cohort)

    if settings.comparators:
        local, centralized = train("local"), train("centralized")
        scores["local-only"], scores["local-only on other sites"] = local.scores_across(task, test)
        images["local-only"] = predict(local.models(test.clients), test)
        scores["centralized"] = centralized.scores(task, test)[0]
        images["centralized"] = predict(centralized.models(test.clients), test)
    federated = train("federated")
    scores["federated"] = federated.scores(task, test)[0]
    models = federated.models(test.clients)
    images["federated"] = predict(models, test)
    images["reference"] = np.asarray(test.examples["target"])
    return Reconstruction(
        scores=scores,
        images=images,
        reconstruct=lambda data: predict(models, data),
        variables=federated.released,
        weights=weights,
    )


def _measure(image_shape: tuple[int, int], settings: FullStackSettings) -> Callable:
    if settings.modality == "mri":
        return mri_measure
    return ct_measure(image_shape, ct_detector_count(image_shape))


def _predictor(task: Task) -> Callable[[list[Variables], ClientData], np.ndarray]:
    """``predict(models, data)``: images (clients, examples, ny, nx), each client's by its own model."""
    predict = jax.jit(lambda variables, batch: task.predict(*variables, batch))

    def run(models: list[Variables], data: ClientData) -> np.ndarray:
        images = _images_like(data)
        for i, model in enumerate(models):
            here = [(i, j) for j in np.flatnonzero(data.valid[i])]
            _fill(images, lambda batch, model=model: predict(model, batch), data, here)
        return images

    return run


def _images_like(data: ClientData) -> np.ndarray:
    """Zeros (clients, examples, ny, nx)."""
    return np.zeros_like(data.examples["target"], dtype=np.float32)


def _fill(images: np.ndarray, function: Callable, data: ClientData, where: list[tuple[int, int]]) -> None:
    """Sets the images of some (client, example) to ``function`` of theirs, in chunks of one size."""
    for start in range(0, len(where), _CHUNK):
        chunk = where[start : start + _CHUNK]
        index = tuple(np.array(chunk + chunk[-1:] * (_CHUNK - len(chunk))).T)
        batch = {name: jnp.asarray(np.asarray(x)[index]) for name, x in data.examples.items()}
        batch["valid"] = jnp.asarray(np.asarray(data.valid)[index])
        for place, image in zip(chunk, np.asarray(function(batch)), strict=False):
            images[place] = image


def _classical(
    measure: Callable, cohort: Split, modality: str
) -> tuple[dict[str, Scores], dict[str, np.ndarray], dict[str, float]]:
    """The methods without training: direct inversion, Tikhonov and total variation, tuned on validation."""

    def per_example(solve):
        def run(weight, batch):
            stacked, measurements, _ = measure(batch)
            return jnp.abs(jax.vmap(lambda A, y: solve(A, y, weight))(stacked, measurements))

        return jax.jit(run)

    direct = "zero-filled" if modality == "mri" else "FBP"
    tikhonov = "CG-SENSE (L2)" if modality == "mri" else "CG (L2)"
    solvers = {
        direct: per_example(lambda A, y, weight: A.H(y)),
        tikhonov: per_example(
            lambda A, y, weight: operators.cg_sense(A, y, regularization=weight, iterations=20)
        ),
        "TV": per_example(lambda A, y, weight: operators.total_variation(A, y, weight, iterations=80)),
    }
    scores, images, weights = {}, {}, {}
    for name, solver in solvers.items():
        weight = 0.0
        if name != direct:
            weight = weights[name] = _best_weight(partial(_validation_psnr, solver, cohort.validation))
        images[name] = _apply(solver, weight, cohort.test)
        scores[name] = _scores(images[name], cohort.test)
    return scores, images, weights


def _best_weight(score: Callable[[float], float]) -> float:
    """The weight of the highest score: of every second one, and then of the neighbors of the best."""
    tried = {i: score(_WEIGHTS[i]) for i in range(0, len(_WEIGHTS), 2)}
    best = max(tried, key=tried.get)
    tried |= {i: score(_WEIGHTS[i]) for i in (best - 1, best + 1) if 0 <= i < len(_WEIGHTS)}
    return _WEIGHTS[max(tried, key=tried.get)]


def _validation_psnr(solver: Callable, data: ClientData, weight: float) -> float:
    return mean_score(_scores(_apply(solver, weight, data), data), "psnr")


def _apply(solver: Callable, weight: float, data: ClientData) -> np.ndarray:
    weight, images = jnp.float32(weight), _images_like(data)
    _fill(images, lambda batch: solver(weight, batch), data, list(zip(*np.nonzero(data.valid), strict=True)))
    return images


def _scores(images: np.ndarray, data: ClientData) -> Scores:
    batch = {name: data.examples[name] for name in ("target", "data_range", "volume")}
    sums = _metrics(jnp.asarray(images), {**batch, "valid": jnp.asarray(data.valid)})
    return site_scores(sums, data.names)


_metrics = jax.jit(jax.vmap(reconstruction_metrics))
