"""The data of a federated training: a cohort, divided over clients, with a held-out part of each."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline.drawn_images import simulate_densities, simulate_image_classes
from experiments.pipeline.federated_settings import (
    CLASSES,
    LABELS,
    MEASURED,
    PUBLIC,
    SIMULATED,
    TrainSettings,
    draws_patterns,
    is_own,
    network_norm,
)
from experiments.pipeline.folders import read_folder
from fedrecon import Task
from fedrecon.data import (
    ClientData,
    Cohort,
    load_measured_chest_xray,
    load_measured_images,
    load_measured_retina,
    read_cohort,
    simulate_ct_cohort,
    simulate_mri_cohort,
)
from fedrecon.data.clients import (
    case_type_partition,
    dirichlet_partition,
    draw_feature_shifts,
    label_counts,
    partition_examples,
    quantity_partition,
    shard_partition,
    shift_features,
    site_partition,
    split_patients,
)
from fedrecon.data.folders import possible_tasks
from fedrecon.data.measured import load_clinical_ct, manifest_path
from fedrecon.data.simulation import simulate_slide_cohort
from fedrecon.errors import ArgumentError
from fedrecon.tasks import Configured, boundary_distances, check_labels, layer_features
from fedrecon.training import (
    TASKS,
    FlagError,
    load_task,
    made_task,
    named_task,
    naming_the_line,
)

_SIZES = {"retina": 64, "heads": 64, "sunnybrook": 64, "clinical_ct": 64}
_SIZES |= {"xray": 56, "xray_pathogens": 56, "xray_findings": 56, "pneumonia": 28}
# Cohorts of images that are not at several sites, or of several classes, by their manifests.
_MANIFESTS = {
    "pneumonia": "pneumonia",
    "xray_pathogens": "chest_pathogens",
    "xray_findings": "chest_findings",
}
_TEST = 0.25


class FederatedData(NamedTuple):
    """Clients of a training.

    Attributes:
      train, validation, test: the same clients; no patient is in two of them. ``validation`` is None without.
      counts: (clients, labels) numbers of examples, train and test together.
      labels: names of the columns of ``counts``.
      notes: what a reader must know about the data.
      preparation: what was done to images, see `Cohort`.
      unseen: sites that do not train, for the test alone; None without.
      tested: names of each client's test patients in the order of their numbers, of no other person with
        another seed.
    """

    train: ClientData
    validation: ClientData | None
    test: ClientData
    counts: np.ndarray
    labels: tuple[str, ...]
    notes: str
    preparation: Mapping[str, Any] = types.MappingProxyType({})
    unseen: ClientData | None = None
    tested: tuple[tuple[str, ...], ...] = ()


class _Pool(NamedTuple):
    """One data set: arrays (examples, ...) and, of each example, patient, site and label."""

    examples: dict[str, np.ndarray]
    patients: np.ndarray
    sites: np.ndarray
    labels: np.ndarray
    notes: str


def load_data(settings: TrainSettings) -> FederatedData:
    """Simulates or reads the cohort and divides it as the settings say.

    Examples of a client are split by patient, three quarters for training; the natural partition of a
    cohort of sites keeps the cohort's own split.

    Raises:
      ValueError: a setting does not fit the data, or (as ``DataError``) a file is missing or malformed.
    """
    if draws_patterns(settings):
        data = _divide(_simulated_images(settings), settings)
    else:
        cohort = _as_images(_cohort(settings), settings)
        pooled = _pool(cohort)
        if settings.partition == "natural":
            parts, names = site_partition(pooled.sites)
            counts, labels = label_counts(pooled.labels, parts)
            order = [names.index(name) for name in cohort.train.names]
            split = cohort.train, cohort.validation, cohort.test
            data = FederatedData(*split, counts[order], labels, cohort.notes, tested=_tested(cohort))
        else:
            data = _divide(pooled, settings)
        data = data._replace(preparation=cohort.preparation, unseen=cohort.unseen)
    if settings.cohort in SIMULATED:
        suffix = f" of seed {settings.seed}"
        data = data._replace(tested=tuple(tuple(name + suffix for name in of) for of in data.tested))
    key = {"classification": "label", "segmentation": "segmentation"}.get(settings.task)
    classes = number_of_classes(settings)
    if key is not None:
        for part in (data.train, data.validation, data.test, data.unseen):
            if part is not None:
                check_labels(part, key, classes)
    if settings.boundary:
        data = _with_distances(data, classes)
    if settings.feature_shift:
        shifts = draw_feature_shifts(data.train.clients, settings.feature_shift, seed=settings.seed)
        seeds = {"train": 2 * settings.seed, "test": 2 * settings.seed + 1}
        if data.validation is not None:
            seeds["validation"] = 10**9 + settings.seed
        data = data._replace(
            **{part: shift_features(getattr(data, part), shifts, seed=seed) for part, seed in seeds.items()}
        )
    return data


def make_task(
    settings: TrainSettings, example: Mapping[str, Any], configuration: Configured | None = None
) -> Task:
    """The task and its network.

    Args:
      settings: of the training.
      example: arrays like those of the data, or what has their shapes and dtypes.
      configuration: of `configuration_of`.
    """
    if is_own(settings.task):
        return own_task(settings, example)
    sizes = {name: getattr(settings, name) for name in ("network", "channels", "pools", "cascades")}
    sizes["norm"] = network_norm(settings)
    if settings.task == "segmentation":
        sizes |= {"boundary": settings.boundary, "configuration": configuration}
    if settings.task == "reconstruction":
        sizes |= {"loss": settings.loss, "remat": settings.remat}
    return named_task(settings.task, example, classes=number_of_classes(settings), **sizes)


def own_task(settings: TrainSettings, example: Mapping[str, Any]) -> Task:
    """The task in the file of ``--task``, of examples of the data.

    Raises:
      ValueError: the file fails, is another than the run was begun with, or asks for what the data lack.
    """
    made, digest = load_task(settings.task)
    if settings.task_sha256 not in ("", digest):
        raise FlagError(
            "task", f"the file that the run was trained with ({settings.task_sha256[:8]}...)", digest
        )
    with naming_the_line(settings.task, "task"):
        return made_task(made, example)


def number_of_classes(settings: TrainSettings) -> int:
    """Classes of the classification, or of the segmentation, the background among them."""
    if settings.task == "segmentation":
        return 1 + len((settings.data_structures or "structure").split(LABELS))
    if draws_patterns(settings) and settings.cohort not in CLASSES:
        return settings.classes
    return (
        len(settings.data_labels.split(LABELS)) if settings.data_labels else CLASSES.get(settings.cohort, 2)
    )


def representation(task: Task) -> Callable:
    """What the last layer of a classifier sees, "head": ``represent(params, stats, batch) -> features``."""
    seen = layer_features(task, lambda module: module.path == ("head",))
    return lambda params, stats, batch: seen(params, stats, batch)["head"]


def pad_examples(data: FederatedData, **counts: int) -> FederatedData:
    """The same clients with room for more examples, so that arrays of several data sets agree in shape.

    Args:
      data: the clients.
      **counts: examples of each part, "train", "validation" and "test".
    """

    def pad(clients: ClientData | None, count: int) -> ClientData | None:
        if clients is None:
            return None
        missing = count - clients.valid.shape[1]
        return jax.tree.map(lambda x: np.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), clients)

    return data._replace(**{part: pad(getattr(data, part), count) for part, count in counts.items()})


def _simulated_images(settings: TrainSettings) -> _Pool:
    clients = settings.clients or 10
    count = clients * settings.examples_per_client
    if settings.cohort == "simulated_density":
        examples = simulate_densities(count, settings.image_size or 32, seed=settings.seed)
    else:
        size = settings.image_size or 16
        examples = simulate_image_classes(count, settings.classes, size, seed=settings.seed)
    sites = np.random.default_rng([settings.seed, 22]).permutation(np.arange(count) % clients)
    width = len(str(clients - 1))
    sites = np.asarray([f"client{site:0{width}d}" for site in sites])
    # Sites appear in the order of their numbers.
    order = np.argsort(sites, kind="stable")
    examples = {name: value[order] for name, value in examples.items()}
    notes = "Simulated patterns: shows how algorithms differ, not how well they do on patients."
    return _Pool(examples, np.arange(count).astype(str), sites[order], examples["label"], notes)


def _cohort(settings: TrainSettings) -> Cohort:
    size = settings.image_size or _SIZES.get(settings.cohort, 32)
    if settings.cohort == "retina":
        return load_measured_retina(settings.data_dir, size=size, seed=settings.seed)
    if settings.cohort == "xray":
        return load_measured_chest_xray(settings.data_dir, size=size, seed=settings.seed)
    if settings.cohort in _MANIFESTS:
        name, least = _MANIFESTS[settings.cohort], 1 if settings.cohort == "pneumonia" else 10
        return load_measured_images(
            settings.data_dir, name, size=size, minimum_patients=least, seed=settings.seed
        )
    if settings.cohort == "clinical_ct":
        # As many views as simulated CT of this size has.
        views = max(8, size // 2)
        return load_clinical_ct(settings.data_dir, size=size, views=views, seed=settings.seed)
    if settings.cohort == "folder":
        cohort = read_folder(
            settings.data_dir,
            (settings.task,) if settings.task in TASKS else possible_tasks(settings.data_dir)[:1],
            pools=settings.pools if settings.task in TASKS else 0,
            size=settings.image_size,
            seed=settings.seed,
            skip_bad=settings.skip_bad,
        )
        named = cohort.labels if settings.task == "classification" else ()
        if named and len(named) != number_of_classes(settings):
            expected = f"the {number_of_classes(settings)} labels that there were when the run began"
            raise FlagError("data_dir", expected, ", ".join(cohort.labels))
        return cohort
    if settings.cohort in PUBLIC:
        manifest = manifest_path(settings.data_dir, settings.cohort)
        return read_cohort(
            settings.data_dir, settings.task, manifest=manifest, matrix=(size, size), seed=settings.seed
        )
    if settings.cohort == "simulated_slides":
        size = settings.image_size or 16
        return simulate_slide_cohort(
            settings.clients or 8, settings.patients_per_site, edge=size, seed=settings.seed
        )
    sites, shape = settings.clients or 5, (size, size)
    if settings.cohort == "simulated_ct":
        # A third of the views that sample such an image fully.
        return simulate_ct_cohort(
            sites, settings.patients_per_site, 2, shape, views=max(8, size // 2), seed=settings.seed
        )
    return simulate_mri_cohort(
        sites, settings.patients_per_site, slices=2, image_shape=shape, seed=settings.seed
    )


def _as_images(cohort: Cohort, settings: TrainSettings) -> Cohort:
    """Volumes of k-space are segmented and classified on their references."""
    own = is_own(settings.task)
    measured = "target" in cohort.train.examples and "image" not in cohort.train.examples
    if settings.task == "reconstruction" or not measured or not (own or settings.cohort in MEASURED):
        return cohort
    kept = ("label", "volume", *(("segmentation",) if settings.task == "segmentation" else ()))
    # A task of one's own may want any of them.
    kept = tuple(cohort.train.examples) if own else kept

    def images(data: ClientData) -> ClientData:
        examples = {name: data.examples[name] for name in kept}
        return ClientData(examples | {"image": data.examples["target"][..., None]}, data.valid, data.names)

    parts = {name: images(getattr(cohort, name)) for name in ("train", "validation", "test")}
    unseen = None if cohort.unseen is None else images(cohort.unseen)
    return dataclasses.replace(cohort, **parts, unseen=unseen, labels=(), preparation={})


def _pool(cohort: Cohort) -> _Pool:
    collected: dict[str, list] = {}
    patients, sites = [], []
    for part in ("train", "validation", "test"):
        data = getattr(cohort, part)
        for index, name in enumerate(data.names):
            valid = np.asarray(data.valid[index])
            for key, value in data.examples.items():
                collected.setdefault(key, []).append(np.asarray(value[index])[valid])
            members = cohort.patients[part][index]
            patients += [f"{name}/{members[v]}" for v in np.asarray(data.examples["volume"][index])[valid]]
            sites += [name] * int(valid.sum())
    examples = {key: np.concatenate(values) for key, values in collected.items()}
    numbers = np.unique(np.asarray(patients), return_inverse=True)[1]
    examples["volume"] = numbers.reshape(-1).astype(np.int32)
    labels = np.asarray(sites)
    if "label" in examples and examples["label"].ndim == 1 and "segmentation" not in examples:
        labels = examples["label"]
    return _Pool(examples, np.asarray(patients), np.asarray(sites), labels, cohort.notes)


def _divide(pooled: _Pool, settings: TrainSettings) -> FederatedData:
    clients = settings.clients or (5 if settings.task == "reconstruction" else 10)
    names = None
    if settings.partition == "natural":
        parts, names = site_partition(pooled.sites)
    elif settings.partition == "case_type":
        parts, names = case_type_partition(pooled.examples["segmentation"], pooled.patients)
    else:
        try:
            parts = _skewed(pooled, settings, clients)
        except ArgumentError as error:
            where = f"partition={settings.partition}: {error.name}"
            raise FlagError(where, error.expected, error.found) from error
    counts, labels = label_counts(pooled.labels, parts)
    held_out = settings.validation_part
    fractions = (1 - _TEST - held_out, _TEST, *([held_out] if held_out else ()))
    split: list[list[np.ndarray]] = [[] for _ in fractions]
    for number, part in enumerate(parts):
        try:
            inside = split_patients(pooled.patients[part], fractions, settings.seed)
        except ArgumentError as error:
            expected = f"patients for every part of client {number} ({error.name}: {error.expected})"
            advice = (
                "; raise --examples_per_client"
                if settings.partition == "natural"
                else "; raise --minimum_examples or --concentration, or take fewer --clients"
            )
            raise FlagError(f"partition={settings.partition}", expected, f"{error.found}{advice}") from error
        for members, chosen in zip(split, inside, strict=True):
            members.append(part[chosen])
    train, test, *rest = (partition_examples(pooled.examples, members, names) for members in split)
    tested = tuple(tuple(np.unique(pooled.patients[members]).tolist()) for members in split[1])
    return FederatedData(train, rest[0] if rest else None, test, counts, labels, pooled.notes, tested=tested)


def _tested(cohort: Cohort) -> tuple[tuple[str, ...], ...]:
    """Names of test patients with those of their sites, in the order of their volumes' numbers."""
    test, names = cohort.test, cohort.patients["test"]
    volumes = [np.unique(v[ok]) for v, ok in zip(test.examples["volume"], test.valid, strict=True)]
    return tuple(tuple(f"{site}/{names[i][v]}" for v in volumes[i]) for i, site in enumerate(test.names))


def _skewed(pooled: _Pool, settings: TrainSettings, clients: int) -> tuple[np.ndarray, ...]:
    common = {"patients": pooled.patients, "seed": settings.seed}
    if settings.partition == "shards":
        return shard_partition(pooled.labels, clients, settings.shards_per_client, **common)
    common["minimum"] = settings.minimum_examples
    concentration = settings.concentration
    if settings.partition == "quantity":
        return quantity_partition(len(pooled.labels), clients, concentration=concentration, **common)
    balanced = settings.partition == "dirichlet_balanced"
    return dirichlet_partition(pooled.labels, clients, concentration, balanced=balanced, **common)


def _with_distances(data: FederatedData, classes: int) -> FederatedData:
    """Examples with the distances of their boundaries, which every step would compute anew."""

    def add(part: ClientData) -> ClientData:
        labels, spacing = part.examples["segmentation"], part.examples.get("spacing")
        distances = [
            np.asarray(boundary_distances(labels[i], classes, None if spacing is None else spacing[i]))
            for i in range(part.clients)
        ]
        return ClientData({**part.examples, "distance": np.stack(distances)}, part.valid, part.names)

    parts = {name: getattr(data, name) for name in ("train", "validation", "test", "unseen")}
    return data._replace(**{name: add(part) for name, part in parts.items() if part is not None})
