"""Federated pre-training without labels, and the model that fine-tuning starts from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.pipeline.contrastive import contrastive_stage, contrastive_ways, federation_of, images_of
from experiments.pipeline.federated_data import FederatedData, make_task
from experiments.pipeline.federated_settings import TrainSettings, network_norm
from fedrecon import Task, Variables, catalog
from fedrecon.files import write_atomically
from fedrecon.models import (
    CLASSIFIERS,
    NORMALIZED,
    NORMS,
    SEGMENTERS,
    SEPARATED,
    SIZED,
    MaskedAutoencoder,
    VisionTransformer,
)
from fedrecon.runtime import Workdir, decode_numbers, describe_environment
from fedrecon.tasks import masked_autoencoding_task
from fedrecon.training import (
    Budget,
    Execution,
    FederationSettings,
    FlagError,
    Results,
    Stage,
    as_json,
    changed,
    example_of,
    flat,
    initial_digest,
    is_finished,
    read_results,
    released_file,
    run_stage,
    site_scores,
    summary,
)
from fedrecon.training.initial import initial_model
from fedrecon.weights import read_weights, write_weights

STAGE = "pretraining"
# Of Adam, where no flag says it.
_RATE = 1e-3
MASKED = "masked"


def ways() -> tuple[str, ...]:
    """The ways to pre-train: masked autoencoding, and those by contrast."""
    return (MASKED, *contrastive_ways())


def check_way(way: str, options: tuple[tuple[str, str], ...]) -> FederationSettings:
    """How sites pre-train together.

    Raises:
      FlagError: there is no such way, or it has no such option; names ``pretraining``.
    """
    if way not in ways():
        raise FlagError("pretraining", f"one of {', '.join(ways())}", repr(way))
    if way == MASKED and options:
        raise FlagError(f"pretraining.{options[0][0]}", "a way by contrast, of --pretraining", MASKED)
    return FederationSettings(optimizer="adam") if way == MASKED else federation_of(way, options)


def autoencoder(settings: TrainSettings, channels: int) -> nn.Module:
    """The network that is trained without labels, with the layers of the one of the settings.

    Args:
      settings: of the training that follows.
      channels: of the images.

    Raises:
      FlagError: none is known for this network.
    """
    if settings.configure == "fingerprint":
        raise FlagError("configure", "flags, with which a network is pre-trained", settings.configure)
    name = settings.network.removesuffix("-deep-supervision")
    if name in SEPARATED:
        raise FlagError("network", "one with a single decoder, which is pre-trained without labels", name)
    if settings.task == "classification" and name in CLASSIFIERS and name not in SIZED:
        model = CLASSIFIERS[name]()
        if isinstance(model, VisionTransformer):
            small = (settings.image_size or 64) < 64
            patch = (4 if small else 8) if name == "vit" else model.patch
            sizes = {key: getattr(model, key) for key in ("channels", "depth", "heads", "expansion", "remat")}
            return MaskedAutoencoder(patch=patch, **sizes)
        expected = f"vit, vit-b or {', '.join(n for n in SIZED if n in CLASSIFIERS)}"
        raise FlagError("network", f"{expected}, which are pre-trained without labels", name)
    sizes: dict[str, Any] = {"channels": settings.channels, "pools": settings.pools}
    sizes |= {"norm": NORMS[network_norm(settings)]} if name in NORMALIZED else {}
    return SEGMENTERS[name](**sizes, out_channels=channels)


def pretrained(
    settings: TrainSettings,
    data: Callable[[], FederatedData],
    folder: Path,
    *,
    rounds: int,
    rate: float,
    execution: Execution,
    way: str = MASKED,
    options: tuple[tuple[str, str], ...] = (),
) -> tuple[Path, Results | None]:
    """Trains without labels, or reads what is finished: (the model to start from, its results).

    The sites train together on the images of their training splits, by FedAvg of masked autoencoders or by
    contrast; nobody looks at a label. All layers but the last are carried over. Without rounds the model is
    the one that is drawn.

    Args:
      settings: of the training that follows.
      data: of the settings.
      folder: of the pre-training.
      rounds, rate: of it; Adam, the passes and batches of the settings.
      execution: how.
      way: one of `ways`.
      options: of the way's method, in text.

    Raises:
      FlagError: the network, the task or the data are not for it.
    """
    start = folder / "start.npz"
    federation = check_way(way, options)
    if settings.task not in ("classification", "segmentation"):
        raise FlagError("task", "classification or segmentation, of images", settings.task)
    budget = Budget(rounds, settings.epochs, settings.batch_size, rate)
    config = {**flat(settings), "program": "pretraining", **flat(federation), **budget._asdict()}
    if not rounds:
        folder.mkdir(parents=True, exist_ok=True)
        if not start.exists():
            drawn = _drawn(settings, data())
            write_weights(start, drawn[1], {"task": settings.task})
        return start, None
    with Workdir(folder, config, describe_environment()) as workdir:
        if start.exists() and is_finished(folder, rounds):
            return start, read_results(workdir)[0]
        loaded = data()
        slices = way != MASKED and "volumes" in catalog.lookup(federation.algorithm).needs
        train, test, validation = (
            None if part is None else images_of(part, slices)
            for part in (loaded.train, loaded.test, loaded.validation)
        )
        example = {"image": example_of(train)["image"]}
        contrast = None
        if way == MASKED:
            task = masked_autoencoding_task(autoencoder(settings, example["image"].shape[-1]), example)
        else:
            task, contrast = contrastive_stage(settings, example)
        keys = [jax.random.fold_in(jax.random.key(settings.seed), number) for number in (11, 12, 13)]
        stage = Stage(
            STAGE,
            task,
            task.init(keys[0]),
            train,
            keys[1],
            keys[2],
            validation=validation,
            about={"task": STAGE, "data": settings.cohort},
            contrast=contrast,
        )
        results, _ = run_stage(stage, test, federation, budget, workdir, execution)
        source = read_weights(released_file(folder, STAGE))[0]
        if contrast is not None:
            source = source._replace(params=source.params["network"])
        target = _drawn(settings, data())[1]
        params, copied = carried(target.params, source.params)
        if not copied:
            raise FlagError("network", "one that shares layers with its autoencoder", settings.network)
        stats, _ = carried(target.stats, source.stats)
        write_weights(start, Variables(params, stats), {"task": settings.task, "copied": list(copied)})
    return start, results


def started(
    settings: TrainSettings,
    data: Callable[[TrainSettings], FederatedData],
    folder: Path,
    execution: Execution,
    way: str = MASKED,
) -> TrainSettings:
    """The settings with a model to start from, pre-trained here for as many rounds as the training has.

    Args:
      settings: of the training that follows, with its seed.
      data: of settings.
      folder: of the pre-training, the same for all that start from it.
      execution: how.
      way: one of `ways`.
    """
    # The same for all that start from it.
    before = changed(settings, federation=FederationSettings())
    start, _ = pretrained(
        before,
        lambda: data(before),
        folder,
        rounds=settings.rounds,
        rate=_RATE,
        execution=execution,
        way=way,
    )
    federation = changed(
        settings.federation, initialize_from=str(start), initialize_sha256=initial_digest(str(start))
    )
    return changed(settings, federation=federation)


def based(settings: TrainSettings, data: Callable[[], FederatedData], folder: Path, base: str) -> Path:
    """The model to start from, with all layers of a given model that have their shapes, the last too.

    Args:
      settings: of the training that follows.
      data: of the settings.
      folder: of the model to start from, which is written once.
      base: a run, an export or a file of weights, as of ``--initialize_from``.

    Raises:
      FlagError: there is no such model, it shares no layer, or the folder began with another one.
    """
    start, digest = folder / "start.npz", _of_base(initial_digest, base)
    if start.exists():
        if (kept := read_weights(start)[1].get("base")) != digest:
            raise FlagError("base", f"the model that {folder} began with ({str(kept)[:8]}...)", base)
        return start
    source, target = _of_base(initial_model, base), _drawn(settings, data())[1]
    params, copied = carried(target.params, source.params, last=True)
    if not copied:
        raise FlagError("base", f"a model that shares layers with --network={settings.network}", base)
    stats, _ = carried(target.stats, source.stats, last=True)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"task": settings.task, "base": digest, "copied": list(copied)}
    write_weights(start, Variables(params, stats), about)
    return start


def _of_base(read: Callable[[str], Any], base: str) -> Any:
    try:
        return read(base)
    except FlagError as error:
        raise FlagError("base", error.expected, error.found) from error


def untrained(
    settings: TrainSettings, data: Callable[[], FederatedData], start: Path, metric: str
) -> tuple[float, float]:
    """(mean over the clients, worst client) of the metric on the test data before any fine-tuning."""
    file = start.with_name("untrained.json")
    if not file.exists():
        test = data().test
        task, variables = make_task(settings, example_of(test)), read_weights(start)[0]
        rows = ({**test.examples}, test.valid)
        score = jax.jit(
            lambda rows: jax.lax.map(lambda x: task.metrics(*variables, {**x[0], "valid": x[1]}), rows)
        )
        scores = site_scores(jax.device_get(score(jax.tree.map(jnp.asarray, rows))), test.names)
        write_atomically(file, json.dumps(as_json(scores), indent=2).encode())
    scores = decode_numbers(json.loads(file.read_text()))
    # Null is nothing to score, such as an area under the curve of one class.
    known = {site: {k: v for k, v in x.items() if v is not None} for site, x in scores.items()}
    return summary(known, metric)


def carried(target: Any, source: Any, *, last: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The target with the leaves of the source that have its names and shapes.

    Args:
      target, source: parameters or statistics of networks.
      last: also those of the last layer, "head".

    Returns:
      (the tree, sorted names of the leaves that are the source's).
    """
    here, there = (flatten_dict(tree, sep="/") for tree in (target, source))
    copied = {
        name
        for name, x in here.items()
        if name in there and there[name].shape == x.shape and (last or name.partition("/")[0] != "head")
    }
    named = {name: jnp.asarray(there[name], x.dtype) if name in copied else x for name, x in here.items()}
    return unflatten_dict(named, sep="/"), tuple(sorted(copied))


def _drawn(settings: TrainSettings, data: FederatedData) -> tuple[Task, Variables]:
    task = make_task(settings, example_of(data.train))
    return task, task.init(jax.random.fold_in(jax.random.key(settings.seed), 1))
