"""Settings of one federated training, as `train_federated` and `compare` read them from flags."""

import dataclasses
from functools import partial
from typing import Any

from fedrecon.models import (
    CONFIGURED,
    MAGNITUDES,
    NETWORKS,
    NORMALIZED,
    POOLED,
    SIZED,
    SUPERVISED,
    SUPERVISED_POOLS,
    UNROLLED,
)
from fedrecon.tasks import RECONSTRUCTION_LOSSES
from fedrecon.training import (
    NO_PRIVACY,
    TASKS,
    FederationSettings,
    FlagError,
    Need,
    changed,
    check_federation,
    check_needs,
    check_ranges,
    setting,
)
from fedrecon.training.local_steps import PRECISIONS

# Cohorts that are drawn, and those of public files, with the tasks that each is for.
SIMULATED = ("simulated", "simulated_mri", "simulated_ct", "simulated_density", "simulated_slides")
_DRAWN_FOR = {"simulated_density": ("classification",), "simulated_slides": ("classification",)}
PUBLIC = {
    "retina": ("segmentation",),
    "xray": ("classification",),
    "xray_pathogens": ("classification",),
    # Several labels of an image.
    "xray_findings": ("fedrecon.tasks.findings:several_findings_task",),
    "pneumonia": ("classification",),
    "heads": ("reconstruction",),
    "sunnybrook": ("reconstruction", "segmentation"),
    "clinical_ct": TASKS,
}
# Those whose references are the images of segmentation and classification.
MEASURED = (*SIMULATED, "clinical_ct")
# Numbers of classes of these where there are more than two.
CLASSES = {"xray_pathogens": 3, "simulated_density": 4}
COHORTS = (*SIMULATED, "folder", *PUBLIC)
PARTITIONS = ("natural", "dirichlet", "dirichlet_balanced", "quantity", "shards", "case_type")
NORMS = ("instance", "group", "batch")
# Between the names of classes in `TrainSettings.data_labels`.
LABELS = "|"

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "full": {
        "rounds": 100,
        "examples_per_client": 200,
        "patients_per_site": 16,
        "channels": 16,
        "cascades": 5,
    },
    "smoke": {
        "rounds": 2,
        "examples_per_client": 16,
        "patients_per_site": 4,
        "channels": 4,
        "pools": 1,
        "cascades": 2,
    },
}


# Fields that some preset sets.
BY_PRESET = frozenset(name for preset in PRESETS.values() for name in preset)

_data, _model, _training, _run = (partial(setting, group=g) for g in ("data", "model", "training", "run"))
_OF_PACKAGE = Need("a --task of the package, which has a network,", lambda s: s.task in TASKS)
_SEGMENTS = Need("--task=segmentation", lambda s: s.task == "segmentation")
_BY_FLAGS = Need("--configure=flags", lambda s: s.configure == "flags")
_BY_COUNTS = Need("--configure=fingerprint", lambda s: s.configure == "fingerprint")
_OF_ANY_SIZE = Need(f"--network={' or '.join(SIZED)}", lambda s: s.network in SIZED)
_OF_ANY_DEPTH = Need(f"--network={' or '.join(POOLED)}", lambda s: s.network in POOLED)
_RECONSTRUCTS = Need("--task=reconstruction", lambda s: s.task == "reconstruction")
_WITHOUT_REFERENCE = tuple(name for name, of in RECONSTRUCTION_LOSSES.items() if not of.reference)
_COMPARES = Need(
    "a --network other than plug-and-play, which learns to denoise references",
    lambda s: s.network != "plug-and-play",
)
_PARTITIONS = ("dirichlet", "dirichlet_balanced", "quantity")
_SKEWED = Need(f"--partition={' or '.join(_PARTITIONS)}", lambda s: s.partition in _PARTITIONS)
_DRAWN = Need(
    "--task=classification and --cohort=simulated or simulated_density",
    lambda s: draws_patterns(s),
)
_OF_PATTERNS = Need(
    "--task=classification and --cohort=simulated",
    lambda s: draws_patterns(s) and s.cohort == "simulated",
)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the results of one training; the flag of the same name sets a field."""

    preset: str = _run(
        "default", "Sizes: a minute or two, longer training, or a short trial", choices=PRESETS
    )
    task: str = _data(
        "classification",
        f"Task of the training: {', '.join(TASKS)}, or FILE:name of a task of one's own (docs/own_model.md)",
    )
    task_sha256: str = ""
    cohort: str = _data(
        "simulated",
        "Data: simulated (patterns to classify, else MRI), simulated_density (drawn breasts of four "
        "classes of density), simulated_slides (tiles of stained tissue, of which some have lymphocytes), "
        "simulated_mri and simulated_ct (patients of any "
        "task), or from --data_dir: own files in folders of hospitals, or what data_scripts.simulate_cohort "
        "wrote (folder), which is the default with that flag, or public files: photographs of the retina "
        "(segmentation), chest radiographs (classification: xray, of COVID-19; xray_pathogens, of virus, "
        "bacterium or neither; xray_findings, of several findings, with a task for them), small ones of "
        "children of one hospital, to be divided (pneumonia, classification), heads of six scanners "
        "(reconstruction), hearts of one hospital (sunnybrook: reconstruction and segmentation), CT of two "
        "patients in simulated scanners with spheres as lesions (clinical_ct, any task)",
        choices=COHORTS,
    )
    data_dir: str = _data(
        "",
        "Folder of hospitals (docs/own_data.md), or with cohort.json, or with the public files "
        "(multisite/, mri/, ct/) of a --cohort of these",
    )
    data_sha256: str = ""
    data_labels: str = ""
    data_structures: str = ""
    skip_bad: bool = _data(
        False,
        "Leave out files of --data_dir that have a fault, and list them in the notes",
        needs=(Need("--data_dir of own files", lambda s: s.cohort == "folder"),),
    )
    seed: int = _run(0, "Seed of the data, the partition, the initial weights and the training", least=0)
    member: int = _run(
        0, "Member of an ensemble: the data of --seed, other initial weights and batches", later=True, least=0
    )
    rounds: int = _training(20, "Federated rounds", above=0)
    epochs: int = _training(1, "Local passes over a client's data in a round", above=0)
    local_steps: int = _training(
        0,
        "Local steps of each client in a round, in place of --epochs; 0 is none",
        least=0,
        needs=(NO_PRIVACY,),
    )
    batch_size: int = _training(10, "Examples in a local step", above=0, needs=(NO_PRIVACY, _BY_FLAGS))
    learning_rate: float = _training(0.05, "Client learning rate", above=0)
    federation: FederationSettings = dataclasses.field(default=FederationSettings())
    partition: str = _data(
        "natural",
        "Division of the examples over clients. Labels are classes, or else sites of origin; case_type has a "
        "client for each set of structures that patients have (segmentation)",
        choices=PARTITIONS,
    )
    concentration: float = _data(
        0.3,
        "Concentration of the Dirichlet draws of labels or sizes; small is skewed",
        above=0,
        needs=(_SKEWED,),
    )
    shards_per_client: int = _data(
        2,
        "Shards of sorted labels that a client gets, for --partition=shards",
        above=0,
        needs=(Need("--partition=shards", lambda s: s.partition == "shards"),),
    )
    minimum_examples: int = _data(
        10,
        "Least number of examples of a client, for Dirichlet and quantity partitions",
        least=0,
        needs=(_SKEWED,),
    )
    validation_part: float = _data(
        0.0,
        "Part of each client's patients that is kept from training for the validation curve; with "
        "--partition=natural cohorts of sites have such a split of their own",
        least=0,
        most=0.7,
        needs=(Need("a partition that divides patients", lambda s: divides_patients(s)),),
    )
    feature_shift: float = _data(
        0.0, "Strength of gain, gamma, noise and blur that differ between clients; images only", least=0
    )
    clients: int = _data(
        0,
        "Number of clients; 0 is 5 simulated sites, 10 clients of a partition, or those of the data",
        least=0,
    )
    examples_per_client: int = _data(
        80,
        "Mean number of simulated images of a client, a quarter of them for testing",
        above=0,
        needs=(_DRAWN,),
    )
    patients_per_site: int = _data(
        6,
        "Mean number of simulated patients of a site, for segmentation and reconstruction",
        above=0,
        needs=(
            Need(
                "patients that are simulated: --cohort=simulated_mri, simulated_ct or simulated_slides, or "
                "--cohort=simulated and another --task than classification",
                lambda s: s.cohort in SIMULATED and not draws_patterns(s),
            ),
        ),
    )
    classes: int = _data(10, "Classes of the simulated classification", least=2, needs=(_OF_PATTERNS,))
    image_size: int = _data(
        0,
        "Edge of the images; 0 is 16 to 64, by cohort, or that of the files of --data_dir",
        least=0,
    )
    network: str = _model(
        "unet",
        "Network; classifiers but the U-Nets have the sizes published; unet of a reconstruction is varnet",
        choices=dict.fromkeys(name for names in NETWORKS.values() for name in names),
        needs=(_OF_PACKAGE,),
    )
    channels: int = _model(
        8, "Channels of the network at full resolution", above=0, needs=(_OF_PACKAGE, _OF_ANY_SIZE)
    )
    pools: int = _model(2, "Poolings of the network", least=0, needs=(_OF_PACKAGE, _OF_ANY_DEPTH, _BY_FLAGS))
    configure: str = _model(
        "flags",
        "Poolings, patches, normalization and batch of a segmentation: those of the flags, or by nnU-Net's "
        "rules from counts that sites tell of their images (fingerprint)",
        choices=("flags", "fingerprint"),
        needs=(_SEGMENTS, NO_PRIVACY),
    )
    fingerprint_minimum: int = _model(
        5,
        "Least count that leaves a site, and least number of patients of one that tells anything",
        above=0,
        needs=(_BY_COUNTS,),
    )
    accumulate: int = _training(
        1,
        "Parts of the batch of a local step that are computed one after another: the gradient is that of the "
        "whole batch, the memory that of a part, at the price of a second forward pass",
        above=0,
        needs=(NO_PRIVACY, _BY_FLAGS),
    )
    precision: str = _training(
        "float32",
        "Precision of the convolutions in training; with bfloat16 parameters, normalization, operators, loss "
        "and evaluation stay in float32. Slower on CPU",
        choices=PRECISIONS,
    )
    boundary: float = _training(
        0.0,
        "Weight of the boundary loss of a segmentation, next to cross-entropy and Dice; distances in pixels",
        least=0,
        needs=(_SEGMENTS,),
    )
    norm: str = _model(
        "instance",
        "Normalization layers of the network",
        choices=NORMS,
        needs=(
            _OF_PACKAGE,
            Need("a --network with normalization layers to choose", lambda s: s.network in NORMALIZED),
        ),
    )
    cascades: int = _model(
        3,
        "Cascades of the reconstruction network",
        above=0,
        needs=(
            _RECONSTRUCTS,
            Need(f"--network={' or '.join(UNROLLED)}", lambda s: s.network in UNROLLED),
        ),
    )
    remat: bool = _model(
        False,
        "Computes each cascade again in the backward pass: less memory, more time",
        later=True,
        needs=(
            _RECONSTRUCTS,
            Need(f"--network={' or '.join(UNROLLED)}", lambda s: s.network in UNROLLED),
        ),
    )
    loss: str = _training(
        "l1_ssim",
        f"Loss of a reconstruction; {', '.join(_WITHOUT_REFERENCE)} use no reference",
        choices=RECONSTRUCTION_LOSSES,
        needs=(_RECONSTRUCTS, _COMPARES),
    )


def network_norm(settings: TrainSettings) -> str:
    """The normalization of the network that is trained, a key of `fedrecon.models.NORMS`.

    Batch statistics mix examples: with --dp.epsilon group normalization takes their place.
    """
    return "group32" if settings.norm == "batch" and settings.federation.dp_epsilon else settings.norm


def norm_note(settings: TrainSettings) -> str:
    """What a report says of a normalization that was replaced; empty where none was."""
    if network_norm(settings) == settings.norm:
        return ""
    return (
        "--norm=batch was replaced by group normalization, of the most groups up to 32 that divide the "
        "channels: batch statistics mix examples, which --dp.epsilon is to protect."
    )


def resolve(arguments: dict[str, Any]) -> TrainSettings:
    """Settings of the chosen preset with the fields in ``arguments`` on top; unchecked.

    ``data_dir`` without a cohort is a folder.
    """
    if arguments.get("data_dir") and "cohort" not in arguments:
        arguments = {**arguments, "cohort": "folder"}
    preset = arguments.get("preset", "default")
    return changed(TrainSettings(), **{**PRESETS.get(preset, {}), **arguments})


def is_own(task: str) -> bool:
    """Whether ``--task`` names a file."""
    return ":" in task


def divides_patients(settings: Any) -> bool:
    """Whether the split of patients is made here, and is not that of a cohort of sites."""
    return draws_patterns(settings) or settings.partition != "natural"


def draws_patterns(settings: Any) -> bool:
    """Whether the data are patterns of classes, which show no patients."""
    return settings.task == "classification" and settings.cohort in ("simulated", "simulated_density")


def check_settings(settings: TrainSettings) -> TrainSettings:
    """Returns the settings.

    Raises:
      FlagError: a value is outside its range, contradicts another or has no effect; the message names the
        flag.
    """
    check_ranges(settings)
    base = resolve({"preset": settings.preset})
    check_federation(settings.federation)
    federation = settings.federation
    if federation.topology == "single_pass" and settings.rounds != 1:
        raise FlagError("rounds", "1 with --topology=single_pass", settings.rounds)
    if settings.norm == "group" and settings.network in SIZED and settings.channels % 4:
        raise FlagError("channels", "a multiple of 4 with --norm=group", settings.channels)
    fitting = (PUBLIC | _DRAWN_FOR).get(settings.cohort, TASKS)
    if settings.task not in TASKS and not is_own(settings.task):
        raise FlagError("task", f"one of {', '.join(TASKS)}, or FILE:name", repr(settings.task))
    if settings.task not in fitting and not is_own(settings.task):
        raise FlagError("task", f"{' or '.join(fitting)} with --cohort={settings.cohort}", settings.task)
    if settings.configure == "fingerprint" and settings.network not in CONFIGURED:
        expected = f"one of {', '.join(CONFIGURED)} with --configure=fingerprint"
        raise FlagError("network", expected, repr(settings.network))
    few = settings.configure == "flags" and settings.pools < SUPERVISED_POOLS
    if few and settings.network in SUPERVISED:
        expected = f"{SUPERVISED_POOLS} or more with --network={settings.network}"
        raise FlagError("pools", f"{expected}, whose coarsest output has no weight", settings.pools)
    if not is_own(settings.task) and settings.network not in NETWORKS[settings.task]:
        expected = f"one of {', '.join(NETWORKS[settings.task])} with --task={settings.task}"
        raise FlagError("network", expected, repr(settings.network))
    if settings.network in MAGNITUDES and settings.loss in _WITHOUT_REFERENCE:
        expected = f"none of {', '.join(MAGNITUDES)}, which return magnitudes, with --loss={settings.loss}"
        raise FlagError("network", expected, settings.network)
    drawn = settings.cohort in SIMULATED
    if drawn == bool(settings.data_dir):
        expected = "no folder" if drawn else "the folder of the data"
        raise FlagError("data_dir", f"{expected} with --cohort={settings.cohort}", repr(settings.data_dir))
    if settings.clients and not drawn and settings.partition in ("natural", "case_type"):
        of = (
            f"the sites of --cohort={settings.cohort}"
            if settings.partition == "natural"
            else "the case types"
        )
        raise FlagError("clients", f"0, {of}, with --partition={settings.partition}", settings.clients)
    if settings.partition == "case_type" and settings.task != "segmentation":
        raise FlagError("partition", "another than case_type, which looks at segmentations", settings.task)
    if settings.batch_size % settings.accumulate:
        expected = f"a number that divides --batch_size={settings.batch_size}"
        raise FlagError("accumulate", expected, settings.accumulate)
    if federation.patience and divides_patients(settings) and not settings.validation_part:
        raise FlagError("patience", "--validation_part with it", federation.patience)
    if settings.feature_shift and settings.task == "reconstruction":
        expected = "0 with --task=reconstruction, whose data are not images"
        raise FlagError("feature_shift", expected, settings.feature_shift)
    check_needs(settings, base)
    return settings
