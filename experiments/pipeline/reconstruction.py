"""Reconstruction: federated training, its comparators and the reconstructed images."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import operators
from experiments.pipeline.cohorts import Cohorts, Split
from experiments.pipeline.scores import Scores, mean_score, site_scores
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Run
from experiments.pipeline.training import Trained
from fedrecon import Variables
from fedrecon.data import ClientData, ct_detector_count
from fedrecon.learned import Architecture, CheckedNetwork, Signs, calibrate, make_reconstruct, notices
from fedrecon.tasks import ct_measure, mri_measure, reconstruction_metrics, reconstruction_task

_WEIGHTS = tuple(10.0 ** np.arange(-4.0, 0.0, 0.5))
_CHUNK = 8


class Reconstruction(NamedTuple):
    """What the reconstruction stage hands on.

    Attributes:
      scores: method -> site -> metric -> value on the test split, the unseen site's included; "reference"
        excluded.
      unseen: name of the unseen site; None without one.
      images: method -> site -> (test examples, ny, nx) float32 magnitudes, normalized, for the figure; of
        the sites' own networks at the unseen site, that of median PSNR.
      reconstruct: ``reconstruct(data)``: magnitudes (clients, examples, ny, nx) of the federated model, and
        the signs of each client's valid examples.
      network: the federated model, with averaged private leaves, and the bounds of its signs in training.
      weights: regularization weight chosen for each classical method on the validation split.
    """

    scores: dict[str, Scores]
    unseen: str | None
    images: dict[str, dict[str, np.ndarray]]
    reconstruct: Callable[[ClientData], tuple[np.ndarray, list[Signs]]]
    network: CheckedNetwork
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
    architecture = Architecture(
        settings.network, settings.cascades, settings.channels, settings.pools, settings.learn_coil_maps
    )
    model = architecture.build()
    task = reconstruction_task(model, measure, example)
    initial = task.init(jax.random.fold_in(jax.random.key(settings.seed), 1))
    scores, images, weights = _classical(measure, cohort, settings.modality)
    test, predict = cohort.test, _predictor(model, measure)

    def train(kind: str) -> Trained:
        return run.train("reconstruction", kind, task, initial, cohort)

    def add(name: str, trained: Trained) -> None:
        models = trained.models(test.clients)
        scores[name] = trained.scores(task, test)[0]
        images[name] = _by_site(predict(models, test)[0], test)
        if cohort.unseen is not None:
            scores[name] |= trained.released_scores(task, cohort.unseen)
            images[name] |= _by_site(predict([trained.released], cohort.unseen)[0], cohort.unseen)

    if settings.comparators:
        local = train("local")
        models = local.models(test.clients)
        scores["local-only"], scores["local-only on other sites"] = local.scores_across(task, test)
        images["local-only"] = _by_site(predict(models, test)[0], test)
        if cohort.unseen is not None:
            away, median = local.scores_abroad(task, cohort.unseen, "psnr")
            scores["local-only on other sites"] |= away
            images["local-only"] |= _by_site(predict([models[median]], cohort.unseen)[0], cohort.unseen)
        add("centralized", train("centralized"))
    federated = train("federated")
    add("federated", federated)
    models = federated.models(test.clients)

    def reconstruct(data: ClientData) -> tuple[np.ndarray, list[Signs]]:
        return predict(models if data.names == test.names else [federated.released] * data.clients, data)

    images["reference"] = {}
    for part in (test, cohort.unseen):
        if part is not None:
            images["reference"] |= _by_site(np.asarray(part.examples["target"]), part)
    # Every site tells the largest sign of its own training data.
    bounds = calibrate(reconstruct(cohort.train)[1])
    return Reconstruction(
        scores=scores,
        unseen=None if cohort.unseen is None else cohort.unseen.names[0],
        images=images,
        reconstruct=reconstruct,
        network=CheckedNetwork(architecture, federated.released, bounds, _origin(settings, cohort.train)),
        weights=weights,
    )


def checks(reconstruction: Reconstruction, parts: Iterable[ClientData | None]) -> dict[str, list[str]]:
    """Site -> what is strange about the federated reconstructions of its examples, see `fedrecon.learned`."""
    found: dict[str, list[str]] = {}
    for data in parts:
        if data is not None:
            for site, signs in zip(data.names, reconstruction.reconstruct(data)[1], strict=True):
                found.setdefault(site, []).extend(notices(signs, reconstruction.network.bounds))
    return found


def _origin(settings: FullStackSettings, train: ClientData) -> str:
    kind = "measured" if settings.cohort == "measured" else "simulated"
    return (
        f"{settings.network} trained by {settings.federation.algorithm} on the {kind} "
        f"{settings.modality.upper()} of {', '.join(train.names)} (seed {settings.seed})"
    )


def _by_site(images: np.ndarray, data: ClientData) -> dict[str, np.ndarray]:
    return dict(zip(data.names, images, strict=True))


def _measure(image_shape: tuple[int, int], settings: FullStackSettings) -> Callable:
    if settings.modality == "mri":
        return mri_measure
    return ct_measure(image_shape, ct_detector_count(image_shape))


def _predictor(
    model: nn.Module, measure: Callable
) -> Callable[[list[Variables], ClientData], tuple[np.ndarray, list[Signs]]]:
    """``predict(models, data)``: each client's magnitudes and signs by its own model.

    Magnitudes are (clients, examples, ny, nx), signs of each client's valid examples.
    """
    reconstruct = make_reconstruct(model, measure)

    def run(models: list[Variables], data: ClientData) -> tuple[np.ndarray, list[Signs]]:
        images, signs = _images_like(data), []
        for i, model in enumerate(models):
            own: list[Signs] = []

            def magnitudes(batch, model=model, own=own):
                found, sign = reconstruct(model, batch)
                own.append(sign)
                return jnp.abs(found)

            here = [(i, int(j)) for j in np.flatnonzero(data.valid[i])]
            _fill(images, magnitudes, data, here)
            joined = (np.concatenate(values)[: len(here)] for values in zip(*own, strict=True))
            signs.append(Signs(*joined) if own else Signs(*(np.zeros(0),) * 3))
        return images, signs

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
) -> tuple[dict[str, Scores], dict[str, dict[str, np.ndarray]], dict[str, float]]:
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
        scores[name], images[name] = {}, {}
        for data in (cohort.test, cohort.unseen):
            if data is not None:
                found = _apply(solver, weight, data)
                scores[name] |= _scores(found, data)
                images[name] |= _by_site(found, data)
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
