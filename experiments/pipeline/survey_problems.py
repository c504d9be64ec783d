"""The problems that stand in for the data of the review's papers, of public files and simulated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.pipeline.federated_settings import SIMULATED


class Problem(NamedTuple):
    """Data, task, network and schedule, which a row's method and what it is compared with have in common.

    Attributes:
      title: in the page.
      settings: fields of `TrainSettings`, those of federations among them.
      metric: that is compared, of the clients' own test examples.
      labels: part of each client's training patients whose labels training sees.
      unseen: whether a site, another one with every seed, does not train and is what is scored.
      wrong: parts of the data, of "train" and "validation", in which the masks of a site, another one with
        every seed, are wrong; it is not scored.
      simulated: name of the problem in its place without the public files.
      full: settings of the preset "full" in their place.
    """

    title: str
    settings: Mapping[str, Any]
    metric: str
    labels: float = 1.0
    unseen: bool = False
    wrong: tuple[str, ...] = ()
    simulated: str = ""
    full: Mapping[str, Any] = {}

    @property
    def public(self) -> bool:
        """Whether it is learned from public files."""
        return self.settings["cohort"] not in SIMULATED


_ADAM = {"optimizer": "adam", "learning_rate": 3e-3}
_RETINA = {
    "task": "segmentation",
    "cohort": "retina",
    "image_size": 64,
    "channels": 8,
    "pools": 2,
    "rounds": 15,
    "epochs": 2,
    "batch_size": 4,
    "validate_every": 15,
    **_ADAM,
}
_HEARTS = {
    "task": "segmentation",
    "cohort": "sunnybrook",
    "image_size": 32,
    "channels": 6,
    "pools": 2,
    "rounds": 12,
    "epochs": 2,
    "batch_size": 8,
    "partition": "quantity",
    "clients": 5,
    "concentration": 5.0,
    "minimum_examples": 18,
    "validation_part": 0.15,
    "validate_every": 12,
    **_ADAM,
}
_SPHERES = {
    "task": "segmentation",
    "cohort": "clinical_ct",
    "image_size": 64,
    "channels": 8,
    "pools": 2,
    "rounds": 15,
    "epochs": 3,
    "batch_size": 8,
    "validate_every": 15,
    **_ADAM,
}
_CHESTS = {
    "task": "classification",
    "cohort": "pneumonia",
    "image_size": 28,
    "channels": 8,
    "pools": 2,
    "rounds": 10,
    "batch_size": 16,
    "partition": "dirichlet",
    "clients": 8,
    "concentration": 0.3,
    "minimum_examples": 40,
    "validation_part": 0.1,
    "validate_every": 10,
    "learning_rate": 0.03,
}
_PATTERNS = {
    "task": "classification",
    "cohort": "simulated",
    "image_size": 16,
    "channels": 8,
    "pools": 2,
    "rounds": 15,
    "epochs": 2,
    "batch_size": 10,
    "partition": "dirichlet",
    "clients": 10,
    "concentration": 0.3,
    "examples_per_client": 80,
    "minimum_examples": 20,
    "validation_part": 0.15,
    "validate_every": 15,
    "learning_rate": 0.1,
}
_MRI = {
    "task": "reconstruction",
    "cohort": "simulated_mri",
    "image_size": 32,
    "channels": 6,
    "pools": 1,
    "cascades": 2,
    "rounds": 12,
    "epochs": 2,
    "batch_size": 4,
    "patients_per_site": 8,
    "validate_every": 12,
    **_ADAM,
}
_SHIFTED = {"feature_shift": 1.0}
_SIZES = {"partition": "quantity", "concentration": 5.0}

_LESIONS = {
    "task": "segmentation",
    "cohort": "simulated_mri",
    "image_size": 32,
    "channels": 6,
    "pools": 2,
    "rounds": 12,
    "epochs": 2,
    "batch_size": 4,
    "patients_per_site": 8,
    "validate_every": 12,
    **_ADAM,
}
_PATHOGENS = {
    "task": "classification",
    "cohort": "xray_pathogens",
    "image_size": 56,
    "channels": 8,
    "pools": 2,
    "rounds": 15,
    "epochs": 2,
    "batch_size": 8,
    "validate_every": 15,
    **_ADAM,
}
_FINDINGS = {name: value for name, value in _PATHOGENS.items() if name not in ("channels", "pools")}
_FINDINGS |= {"task": "fedrecon.tasks.findings:several_findings_task", "cohort": "xray_findings"}
_DENSITIES = {
    **_PATTERNS,
    **_ADAM,
    "cohort": "simulated_density",
    "image_size": 32,
    "clients": 7,
    "concentration": 0.5,
    "examples_per_client": 60,
    "feature_shift": 0.3,
}
_TILES = {
    "task": "classification",
    "cohort": "simulated_slides",
    "channels": 8,
    "pools": 2,
    "rounds": 10,
    "epochs": 1,
    "batch_size": 32,
    "patients_per_site": 6,
    "validate_every": 10,
    **_ADAM,
}
_FEW = {"optimizer": "adam", "learning_rate": 3e-3, **_SIZES}
_ENCODED = {
    "task": "fedrecon.tasks:variational_autoencoding_task",
    "optimizer": "adam",
    "learning_rate": 2e-3,
    **_SIZES,
}
_FOUR = {"clients": 4, "channels": 4, "pools": 1, "rounds": 3, "validate_every": 3}
# A clock that waits changes no number, and tells the weights of clients.
_WEIGHED = {"clock": "wait"}
_CLOCK = {"clock": "wait", "clock_options": (("speed_spread", "1.0"),)}


def _encoded(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("channels", "pools")} | _ENCODED


PROBLEMS: dict[str, Problem] = {
    "vessels": Problem(
        "vessels of the retina, three hospitals",
        _RETINA,
        "dice",
        simulated="lesions",
        full={"image_size": 128, "rounds": 60},
    ),
    "unseen": Problem(
        "vessels of the retina, at a hospital that did not train",
        _RETINA,
        "dice",
        unseen=True,
        simulated="unseen_lesions",
        full={"image_size": 128, "rounds": 60},
    ),
    "hearts": Problem(
        "cavity of the heart, one hospital in five simulated scanners",
        {**_HEARTS, **_SHIFTED},
        "dice",
        simulated="lesions",
        full={"rounds": 60, "channels": 16, "pools": 3},
    ),
    "corrupted": Problem(
        "cavity of the heart, one hospital in five simulated scanners, all masks of one of them shifted",
        {**_HEARTS, **_SHIFTED, **_WEIGHED},
        "dice",
        wrong=("train", "validation"),
        simulated="corrupted_lesions",
        full={"rounds": 60, "channels": 16, "pools": 3},
    ),
    "mislabeled": Problem(
        "cavity of the heart, one hospital in five simulated scanners, training masks of one of them shifted",
        {**_HEARTS, **_SHIFTED, **_WEIGHED},
        "dice",
        wrong=("train",),
        simulated="mislabeled_lesions",
        full={"rounds": 60, "channels": 16, "pools": 3},
    ),
    "spheres": Problem(
        "spheres inserted in CT of two patients, at two simulated scanners",
        _SPHERES,
        "dice",
        simulated="lesions",
        full={"rounds": 60, "channels": 16, "pools": 3},
    ),
    "chests": Problem(
        "pneumonia in radiographs, one hospital divided by label",
        _CHESTS,
        "accuracy",
        labels=0.1,
        simulated="patterns",
        full={"rounds": 60},
    ),
    "detectors": Problem(
        "pneumonia in radiographs, one hospital in eight simulated detectors",
        {**_CHESTS, **_SHIFTED, **_SIZES, "epochs": 2},
        "accuracy",
        labels=0.1,
        simulated="shifted_patterns",
        full={"rounds": 60},
    ),
    "few": Problem(
        "pneumonia in radiographs, one hospital divided, few labels",
        {**_CHESTS, **_FEW},
        "auc",
        labels=0.005,
        simulated="few_patterns",
        full={"rounds": 60},
    ),
    "slices": Problem(
        "cavity of the heart, one hospital divided, few labels",
        {**_HEARTS, "clients": 4},
        "dice",
        labels=0.2,
        simulated="few_lesions",
        full={"rounds": 60, "channels": 16},
    ),
    "slow": Problem(
        "pneumonia in radiographs, eight simulated clients of unequal speed",
        {**_CHESTS, **_CLOCK},
        "accuracy",
        labels=0.1,
        simulated="slow_patterns",
        full={"rounds": 60},
    ),
    "autoencoder": Problem(
        "radiographs of one hospital divided, to be encoded and decoded",
        _encoded(_CHESTS),
        "loss",
        labels=0.2,
        simulated="encoded_patterns",
        full={"rounds": 60},
    ),
    "encrypted": Problem(
        "pneumonia in radiographs, four clients and a small network",
        {**_CHESTS, **_FOUR},
        "accuracy",
        labels=0.1,
        simulated="small_patterns",
        full={"rounds": 20},
    ),
    "pathogens": Problem(
        "virus, bacterium or neither in radiographs, four sites",
        _PATHOGENS,
        "auc",
        simulated="patterns",
        full={"rounds": 60},
    ),
    "findings": Problem(
        "three findings of radiographs, four sites",
        _FINDINGS,
        "auc",
        simulated="two_patterns",
        full={"rounds": 60},
    ),
    "densities": Problem(
        "drawn breasts of four densities, seven sites of other frequencies and scanners",
        _DENSITIES,
        "accuracy",
        full={"rounds": 60, "examples_per_client": 200},
    ),
    "tiles": Problem(
        "lymphocytes in simulated slides, eight sites of other stains",
        _TILES,
        "auc",
        full={"rounds": 40, "patients_per_site": 16},
    ),
    "scanners": Problem(
        "MRI at five simulated scanners", _MRI, "ssim", full={"rounds": 60, "image_size": 64}
    ),
    "heads": Problem(
        "MRI of six real scanners, a volunteer each, in simulated coils",
        {**{name: value for name, value in _MRI.items() if name != "patients_per_site"}, "cohort": "heads"},
        "ssim",
        simulated="scanners",
        full={"rounds": 60},
    ),
    "lesions": Problem(
        "lesions in MRI of five simulated scanners",
        _LESIONS,
        "dice",
        full={"rounds": 60, "image_size": 64, "patients_per_site": 20},
    ),
    "unseen_lesions": Problem(
        "lesions in MRI of simulated scanners, at one that did not train", _LESIONS, "dice", unseen=True
    ),
    "few_lesions": Problem("lesions in MRI of simulated scanners, few labels", _LESIONS, "dice", labels=0.2),
    "corrupted_lesions": Problem(
        "lesions in MRI of five simulated scanners, all masks of one of them shifted",
        {**_LESIONS, **_WEIGHED},
        "dice",
        wrong=("train", "validation"),
    ),
    "mislabeled_lesions": Problem(
        "lesions in MRI of five simulated scanners, training masks of one of them shifted",
        {**_LESIONS, **_WEIGHED},
        "dice",
        wrong=("train",),
    ),
    "patterns": Problem(
        "simulated patterns, ten classes divided by label", _PATTERNS, "accuracy", full={"rounds": 100}
    ),
    "two_patterns": Problem(
        "simulated patterns of two classes", {**_PATTERNS, "classes": 2, "concentration": 2.0}, "auc"
    ),
    "shifted_patterns": Problem(
        "simulated patterns in ten simulated detectors", {**_PATTERNS, **_SHIFTED}, "accuracy"
    ),
    "few_patterns": Problem("simulated patterns, few labels", {**_PATTERNS, **_FEW}, "accuracy", labels=0.1),
    "slow_patterns": Problem(
        "simulated patterns, ten clients of unequal speed", {**_PATTERNS, **_CLOCK}, "accuracy"
    ),
    "encoded_patterns": Problem(
        "simulated scans, to be encoded and decoded", {**_encoded(_PATTERNS), "minimum_examples": 8}, "loss"
    ),
    "small_patterns": Problem(
        "simulated patterns, four clients and a small network", {**_PATTERNS, **_FOUR}, "accuracy"
    ),
}
PRESETS = ("smoke", "small", "full")
# What makes any problem a matter of seconds.
SMOKE = {"rounds": 2, "validate_every": 2, "channels": 4, "pools": 1, "epochs": 1}
SEEDS = {"smoke": 1, "small": 5, "full": 10}
