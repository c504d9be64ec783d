"""Reconstruction: federated training, its comparators and the reconstructed images."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from experiments.pipeline.cohorts import Cohorts, Split
from experiments.pipeline.examples import each, signs_of_clients
from experiments.pipeline.folders import data_kind
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Run
from experiments.pipeline.start import architecture_of, open_start
from fedrecon import Task, Variables, ood
from fedrecon.data import ClientData
from fedrecon.learned import (
    CheckedNetwork,
    Signs,
    appearance,
    calibrate,
    make_images,
    make_signs,
    notices,
    strangeness,
)
from fedrecon.runtime import host_copy
from fedrecon.tasks import (
    measure_of,
    random_mirrors,
    reconstruction_metrics,
    reconstruction_task,
)
from fedrecon.training import (
    Scores,
    Trained,
    cross_site_scores,
    example_of,
    foreign_scores,
    mean_score,
    site_scores,
)

# What tells the network's images from others, and the bound of that.
_KNOWN = ("train", "validation")
_WEIGHTS = tuple(10.0 ** np.arange(-4.0, 0.0, 0.5))


class Reconstruction(NamedTuple):
    """What the reconstruction stage hands on.

    Attributes:
      scores: method -> site -> metric -> value on the test split, the unseen site's included; "reference"
        excluded.
      unseen: name of the unseen site; None without one.
      images: method -> site -> (test examples, ny, nx) float32 magnitudes, normalized, for the figure; of
        the sites' own networks at the unseen site, that of median PSNR.
      reconstructed: split -> magnitudes (clients, examples, ny, nx) by the federated model, and the signs of
        each client's valid examples.
      network: the federated model, with averaged private leaves, and the bounds of its signs in validation.
      weights: regularization weight chosen for each classical method on the validation split.
    """

    scores: dict[str, Scores]
    unseen: str | None
    images: dict[str, dict[str, np.ndarray]]
    reconstructed: dict[str, tuple[np.ndarray, list[Signs]]]
    network: CheckedNetwork
    weights: dict[str, float]


def run_reconstruction(run: Run, cohorts: Cohorts) -> Reconstruction:
    """Trains federated, local-only and centralized networks and scores them with the classical methods.

    Args:
      run: the stage.
      cohorts: of the run.
    """
    settings, cohort = run.settings, cohorts.reconstruction
    measure, physics = measure_of(cohort.train.examples), physics_of(cohort.train.examples)
    architecture = architecture_of(settings)
    model, task = architecture.build(), make_task(settings, example_of(cohort.train))
    start = open_start(settings)
    initial = start.variables if start else task.init(jax.random.fold_in(jax.random.key(settings.seed), 1))
    scores, images, weights = classical(measure, cohort, physics)
    test, images_by = cohort.test, make_images(model, measure)

    def predict(models: Sequence[Variables], data: ClientData) -> np.ndarray:
        return images_of(lambda model, batch: jnp.abs(images_by(model, batch)), models, data)

    def train(kind: str) -> Trained:
        return run.train("reconstruction", kind, task, initial, cohort)

    def add(name: str, models: Sequence[Variables], data: ClientData) -> None:
        found = predict(models, data)
        scores.setdefault(name, {}).update(_scores(found, data))
        images.setdefault(name, {}).update(_by_site(found, data))

    if start:
        for data in (cohort.test, cohort.unseen):
            if data is not None:
                add("start", [initial] * data.clients, data)
    if settings.comparators:
        models = host_copy(train("local").models(test.clients))
        home, away = cross_site_scores(_cross_sums(predict, models, test), test.names)
        scores["local-only"], scores["local-only on other sites"] = home, away
        images["local-only"] = _by_site(predict(models, test), test)
        if cohort.unseen is not None:
            sums = _cross_sums(predict, models, cohort.unseen)
            foreign, median = foreign_scores(sums, cohort.unseen.names, "psnr")
            away |= foreign
            images["local-only"] |= _by_site(predict([models[median]], cohort.unseen), cohort.unseen)
        pooled = [host_copy(train("centralized").released)]
        add("centralized", pooled * test.clients, test)
        if cohort.unseen is not None:
            add("centralized", pooled, cohort.unseen)
    federated = train("federated")
    released, models = host_copy((federated.released, federated.models(test.clients)))
    if not federated.own:
        models = [released] * test.clients
    signs_by, reconstructed = make_signs(measure), {}
    for split, data in cohort._asdict().items():
        if data is not None:
            own = models if data.names == test.names else [released] * data.clients
            found, signs = signs_of_clients(images_by, signs_by, own, data)
            reconstructed[split] = _placed(found, data), signs
    # The reference is the last column of the figure.
    scores["federated"], images["federated"], images["reference"] = {}, {}, {}
    for split in ("test", "unseen"):
        if (data := getattr(cohort, split)) is not None:
            found = reconstructed[split][0]
            scores["federated"] |= _scores(found, data)
            images["federated"] |= _by_site(found, data)
            images["reference"] |= _by_site(np.asarray(data.examples["target"]), data)
    # Every site tells the largest sign of its own validation data, which no model was trained on.
    bounds, known = calibrate(reconstructed["validation"][1]), None
    # The guarantee of a private training would not cover what its images are like.
    if not settings.federation.dp_epsilon:
        parts = (reconstructed[part][0][np.asarray(getattr(cohort, part).valid)] for part in _KNOWN)
        known = ood.reference_of(*(appearance(images) for images in parts))
    return Reconstruction(
        scores=scores,
        unseen=None if cohort.unseen is None else cohort.unseen.names[0],
        images=images,
        reconstructed=reconstructed,
        network=CheckedNetwork(
            architecture, released, bounds, _origin(settings, cohort.train), physics, known
        ),
        weights=weights,
    )


def make_task(settings: FullStackSettings, example: Mapping[str, Any]) -> Task:
    """The task and its network, of examples like ``example``."""
    model, measure = architecture_of(settings).build(), measure_of(example)
    return reconstruction_task(model, measure, example, augment=random_mirrors if settings.mirror else None)


def checks(reconstruction: Reconstruction, cohort: Split) -> dict[str, list[str]]:
    """Site -> what is strange about the federated reconstructions of its examples, see `fedrecon.learned`."""
    found: dict[str, list[str]] = {}
    network = reconstruction.network
    for split in ("test", "unseen"):
        if (data := getattr(cohort, split)) is not None:
            images, each_signs = reconstruction.reconstructed[split]
            for i, (site, signs) in enumerate(zip(data.names, each_signs, strict=True)):
                strange = strangeness(network, images[i][np.asarray(data.valid[i])])
                found.setdefault(site, []).extend([*notices(signs, network.bounds), *ood.verdict(strange)])
    return found


def _origin(settings: FullStackSettings, train: ClientData) -> str:
    return (
        f"{settings.network} trained by {settings.federation.algorithm} on the {data_kind(settings)} "
        f"{physics_of(train.examples).upper()} of {', '.join(train.names)} (seed {settings.seed})"
    )


def _by_site(images: np.ndarray, data: ClientData) -> dict[str, np.ndarray]:
    return dict(zip(data.names, images, strict=True))


def physics_of(example: Mapping[str, Any]) -> str:
    """``"mri"`` or ``"ct"``, of examples of measurements."""
    return "ct" if "sinogram" in example else "mri"


def _placed(found: np.ndarray | None, data: ClientData) -> np.ndarray:
    """Images in the order of `each` as (clients, examples, ny, nx), zero where there is no example."""
    images = np.zeros_like(data.examples["target"], dtype=np.float32)
    if found is not None:
        images[np.nonzero(data.valid)] = found
    return images


def images_of(function: Callable, models: Sequence[Any], data: ClientData) -> np.ndarray:
    """Images (clients, examples, ny, nx) by ``function(model, batch)``, each with the model of its client."""
    return _placed(each(function, models, data), data)


def _cross_sums(predict: Callable, models: Sequence[Variables], data: ClientData) -> dict[str, Any]:
    """Sums and counts of the metrics, each (models, clients), of every model at every client."""
    each = [_sums(predict([model] * data.clients, data), data) for model in models]
    return jax.tree.map(lambda *x: np.stack(x), *each)


def classical(
    measure: Callable, cohort: Split, modality: str, *, tuned: bool = True
) -> tuple[dict[str, Scores], dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """The methods without training: direct inversion, Tikhonov and total variation, tuned on validation.

    Args:
      measure: as in ``reconstruction_task``.
      cohort: whose test splits are reconstructed.
      modality: "mri" or "ct".
      tuned: False leaves out the methods that have a weight.

    Returns:
      (scores by method and site, magnitudes by method and site, weight by tuned method).
    """
    solvers = classical_solvers(measure, modality)
    direct = next(iter(solvers))
    if not tuned:
        solvers = {direct: solvers[direct]}
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


def classical_solvers(measure: Callable, modality: str) -> dict[str, Callable[[Any, Any], jax.Array]]:
    """Name -> compiled ``solve(weight, batch) -> magnitudes``; the first, direct inversion, has no weight."""

    def per_example(solve):
        def run(weight, batch):
            stacked, measurements, _ = measure(batch)
            return jnp.abs(jax.vmap(lambda A, y: solve(A, y, weight))(stacked, measurements))

        return jax.jit(run)

    return {
        "zero-filled" if modality == "mri" else "FBP": per_example(lambda A, y, weight: A.H(y)),
        "CG-SENSE (L2)" if modality == "mri" else "CG (L2)": per_example(
            lambda A, y, weight: operators.cg_sense(A, y, regularization=weight, iterations=20)
        ),
        "TV": per_example(lambda A, y, weight: operators.total_variation(A, y, weight, iterations=80)),
    }


def _best_weight(score: Callable[[float], float]) -> float:
    """The weight of the highest score, climbing from the middle: scores rise to one maximum and fall."""
    tried: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in tried:
            tried[i] = score(_WEIGHTS[i]) if 0 <= i < len(_WEIGHTS) else -math.inf
        return tried[i]

    best = len(_WEIGHTS) // 2
    while at(better := max((best - 1, best + 1), key=at)) > at(best):
        best = better
    return _WEIGHTS[best]


def _validation_psnr(solver: Callable, data: ClientData, weight: float) -> float:
    return mean_score(_scores(_apply(solver, weight, data), data), "psnr")


def _apply(solver: Callable, weight: float, data: ClientData) -> np.ndarray:
    return images_of(solver, [jnp.float32(weight)] * data.clients, data)


def _scores(images: np.ndarray, data: ClientData) -> Scores:
    return site_scores(_sums(images, data), data.names)


def _sums(images: np.ndarray, data: ClientData) -> dict[str, Any]:
    batch = {name: data.examples[name] for name in ("target", "data_range", "volume")}
    return jax.device_get(_metrics(jnp.asarray(images), {**batch, "valid": jnp.asarray(data.valid)}))


_metrics = jax.jit(jax.vmap(reconstruction_metrics))
