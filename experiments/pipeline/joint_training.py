"""The trainings of joint reconstruction and reading: every mode from the same data, rounds and keys."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from experiments.pipeline.joint_data import JointData, ct_views, measure_full, random_masks
from experiments.pipeline.joint_settings import JointSettings
from fedrecon.data import ClientData
from fedrecon.federated import Method
from fedrecon.federated.methods.interface_balance import interface_balance
from fedrecon.models import MoDL, UNet
from fedrecon.runtime import Workdir
from fedrecon.tasks import joint_task, segmentation_reading
from fedrecon.training import (
    Budget,
    Execution,
    FederationSettings,
    Stage,
    comparator,
    example_of,
    train_stage,
)
from fedrecon.types import Task, Variables

# An optimizer that bounds the norm of all gradients at 1 then never makes one group depend on the other.
_CLIP = 0.7
# Iterations of the data steps, and the weight they start with over the squared norm of the operator: what
# is solved is conditioned alike whatever that is, and gradients through it are those of a solution.
_SOLVE, _WEIGHT = 3, 0.1
# Initial log-odds of a marked pixel.
_RARE = -2.0
# Who trains -> the algorithm. Pooled data take many times the steps of a client, or with batches as many
# times larger as there are sites about those of the largest one.
COMPARATORS = {"alone": "local_only", "pooled": "centralized", "pooled-steps": "centralized"}
# What joint training starts from: new networks, or a reconstruction and a reader that were trained apart.
STARTS = ("anew", "warm")


class Training(NamedTuple):
    """What is trained.

    Attributes:
      name: of the training, in the log and the tables.
      mode: of `fedrecon.tasks.MODES`.
      strength: weight of the reader's gradient in the reconstruction.
      reference_weight: of the reader's loss on references; None is that of the settings.
      reconstruction, reader: names of the trainings whose groups of leaves it starts from; "" is anew.
      who: "federated", or one of `COMPARATORS`: "alone" (each site), "pooled", or "pooled-steps" (with
        batches as many times larger as there are sites).
    """

    name: str
    mode: str
    strength: float = 0.0
    reference_weight: float | None = None
    reconstruction: str = ""
    reader: str = ""
    who: str = "federated"


def plan(
    modes: tuple[str, ...],
    strengths: tuple[float, ...],
    comparators: bool,
    starts: tuple[str, ...] = STARTS,
) -> list[Training]:
    """The trainings that the modes need, in an order in which each finds what it starts from.

    What reads references is trained once more for as long ("oracle-more"), as readers that start from it are.
    The pipeline of two stages gets three trials: a new reader, and that of references, on a reconstruction
    that they do not change; and the latter on one that was trained for as many rounds more as joint training
    trains what it starts from. Joint training is tried at every strength from each of the ``starts``.
    """
    first = Training("rec_only", "rec_only")
    oracle = Training("oracle", "oracle", reference_weight=0.0)
    found: list[Training] = []
    for mode in modes:
        if mode == "rec_only":
            found += [first]
        elif mode == "oracle":
            found += [oracle, oracle._replace(name="oracle-more", reader="oracle")]
        elif mode == "frozen":
            frozen = Training("frozen", "frozen", reconstruction="rec_only")
            found += [first, frozen]
        elif mode == "finetune":
            tuned = Training("finetune", "finetune", reconstruction="rec_only", reader="oracle")
            more = first._replace(name="rec_only-more", reconstruction="rec_only")
            longer = tuned._replace(name="finetune-more", reconstruction=more.name)
            found += [first, oracle, tuned, more, longer]
        elif mode == "task_only":
            found += [Training("task_only", "task_only")]
        else:
            found += [first, oracle]
            found += [joint(x, warm=start == "warm") for start in starts for x in strengths]
    if comparators and "joint" in modes:
        middle = joint(strengths[len(strengths) // 2])
        found += [middle, *(middle._replace(name=f"{middle.name}-{who}", who=who) for who in COMPARATORS)]
    return list(dict.fromkeys(found))


def joint(strength: float, *, warm: bool = False) -> Training:
    """Joint training at a strength, anew, or from a reconstruction and a reader that were trained apart."""
    plain = Training(f"joint-{strength:g}", "joint", strength)
    if not warm:
        return plain
    return plain._replace(name=f"{plain.name}-warm", reconstruction="rec_only", reader="oracle")


def reconstructor(settings: JointSettings) -> MoDL:
    """An unrolled network with proximal data steps."""
    sizes = settings.cascades, settings.channels, settings.pools
    weight = _WEIGHT * squared_norm(settings)
    return MoDL(*sizes, remat=settings.remat, cg_iterations=_SOLVE, weight=weight)


def squared_norm(settings: JointSettings) -> float:
    """About that of the measurements: 1 of MRI, of CT the views that an image needs over those it has."""
    if settings.data not in ("ct", "clinical_ct"):
        return 1.0
    return max(math.pi / 2 * settings.image_size / ct_views(settings.acceleration), 1.0)


def make_task(
    settings: JointSettings, data: JointData, mode: str, reference_weight: float | None = None
) -> Task:
    """The task of a mode: an unrolled network with proximal data steps, and a U-Net that marks."""
    weight = settings.reference_weight if reference_weight is None else reference_weight
    return joint_task(
        reconstructor(settings),
        UNet(settings.reader_channels, settings.pools, output_bias=_RARE),
        measure_full,
        example_of(data.train),
        mode=mode,
        reading=segmentation_reading(),
        reference_weight=weight,
        project=settings.project,
        augment=random_masks(settings.acceleration, settings.ramp),
    )


def balance(settings: JointSettings, task: Task, training: Training) -> Callable[[ClientData], Method]:
    """The balance of the two losses among the clients that train.

    What is trained already has a first round alone, in which its PSNR is measured.
    """
    start, full = settings.start, settings.full
    if training.reconstruction:
        start, full = 1 / settings.rounds, max(1 / settings.rounds, full - start)

    def quality(variables: Variables, batch: Mapping[str, jax.Array]) -> jax.Array:
        total, count = task.metrics(*variables, dict(batch))["psnr"]
        return total / count

    def method(clients: ClientData) -> Method:
        counts = [_count(clients, name) for name in ("measured", "labeled")]
        return interface_balance(
            *counts,
            settings.rounds,
            strength=training.strength,
            start=start,
            full=full,
            quality=quality if training.strength else None,
            clip=_CLIP,
        )

    return method


def _count(clients: ClientData, name: str) -> np.ndarray:
    has = np.asarray(clients.examples.get(name, np.ones(clients.valid.shape)))
    return (has * np.asarray(clients.valid)).sum(1)


class Trainer(NamedTuple):
    """One seed's trainings, of which each is done once.

    Attributes:
      settings: of the run, with the seed.
      data: the cohort.
      workdir: of the seed.
      execution: how trainings are carried out.
      models: name -> the model of each site, filled as trainings end.
    """

    settings: JointSettings
    data: JointData
    workdir: Workdir
    execution: Execution
    models: dict[str, list[Variables]]

    def train(self, training: Training) -> list[Variables]:
        """Trains, or finishes what an interrupted run left; the models that the sites test with."""
        settings = self.settings
        task = make_task(settings, self.data, training.mode, training.reference_weight)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 16), 3)
        variables = task.init(keys[0])
        for group in ("reconstruction", "task"):
            source = training.reconstruction if group == "reconstruction" else training.reader
            if source:
                variables = _with_group(variables, self.models[source][0], group)
        federation: FederationSettings = settings.federation
        if training.who != "federated":
            federation = comparator(federation, COMPARATORS[training.who])
        trained = train_stage(
            Stage(
                training.name,
                task,
                variables,
                self.data.train,
                keys[1],
                keys[2],
                None,
                self.data.validation,
                {"mode": training.mode},
                balance(settings, task, training),
            ),
            federation,
            Budget(settings.rounds, settings.epochs, self._batch(training), settings.learning_rate),
            self.workdir,
            self.execution,
        )
        self.models[training.name] = trained.models(self.data.train.clients)
        return self.models[training.name]

    def _batch(self, training: Training) -> int:
        sites = self.data.train.clients if training.who == "pooled-steps" else 1
        return self.settings.batch_size * sites


def _with_group(variables: Variables, other: Variables, group: str) -> Variables:
    return Variables(
        {**variables.params, group: other.params[group]}, {**variables.stats, group: other.stats[group]}
    )


def exchanged(first: list[Variables], second: list[Variables]) -> list[Variables]:
    """The reconstruction of the first models with the readers of the second."""
    return [_with_group(a, b, "task") for a, b in zip(first, second, strict=True)]


def with_seed(settings: JointSettings, seed: int) -> JointSettings:
    """The same settings with another seed."""
    return dataclasses.replace(settings, seed=seed)
