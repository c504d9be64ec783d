"""The problems of `experiments.multitask`, and the trainings that each of them is solved by."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.pipeline import sweep
from experiments.pipeline.federated_settings import SIMULATED, TrainSettings, check_settings
from fedrecon import communication
from fedrecon.training import (
    Dotted,
    FlagError,
    algorithms,
    changed,
    check_method,
    comparator,
    finetuning,
    method,
)

BASELINE = "fedavg"
# Rows that exchange nothing, or everything.
ALONE, POOLED = "alone", "pooled"


class Problem(NamedTuple):
    """A task and the data that it is learned from.

    Attributes:
      title: with the kind of data.
      settings: of the training, of every preset.
      joint: whether measurement and mask are trained together, with the rows of `multitask_joint`.
    """

    title: str
    settings: dict[str, Any]
    joint: bool = False

    @property
    def public(self) -> bool:
        """Whether it is learned from public files."""
        return self.settings["cohort"] not in SIMULATED


# One hospital divided into five: patients stay whole.
_DIVIDED = {"partition": "quantity", "clients": 5, "concentration": 5.0, "validation_part": 0.15}
PROBLEMS = {
    "mri": Problem("MRI reconstruction, simulated", {"task": "reconstruction", "cohort": "simulated_mri"}),
    "ct": Problem("CT reconstruction, simulated", {"task": "reconstruction", "cohort": "simulated_ct"}),
    "lesions": Problem("lesions in MRI, simulated", {"task": "segmentation", "cohort": "simulated_mri"}),
    "diagnosis": Problem(
        "slices with a lesion, simulated", {"task": "classification", "cohort": "simulated_mri"}
    ),
    "heads": Problem("MRI reconstruction, six scanners", {"task": "reconstruction", "cohort": "heads"}),
    "hearts": Problem(
        "cavity of the heart, one hospital divided",
        {"task": "segmentation", "cohort": "sunnybrook", "minimum_examples": 18, **_DIVIDED},
    ),
    "retina": Problem("vessels, three hospitals", {"task": "segmentation", "cohort": "retina"}),
    "joint": Problem(
        "cavity from k-space, simulated scanners", {"task": "segmentation", "cohort": "sunnybrook"}, True
    ),
    "clinical_ct": Problem(
        "CT reconstruction, two patients", {"task": "reconstruction", "cohort": "clinical_ct"}
    ),
    "spheres": Problem("spheres in clinical CT", {"task": "segmentation", "cohort": "clinical_ct"}),
    "xray": Problem("COVID-19 in radiographs, four sites", {"task": "classification", "cohort": "xray"}),
}
METRICS = {"reconstruction": "psnr", "segmentation": "dice", "classification": "auc"}
LABELS = {"psnr": "PSNR (dB)", "dice": "Dice", "auc": "AUC"}

_ADAM = {"optimizer": "adam_cosine", "learning_rate": 5e-3, "batch_size": 4}
# Sites have a handful of patients: a single pass a round is too few steps for FedAvg.
_SMALL = {"channels": 6, "pools": 1, "cascades": 2, "rounds": 12, "epochs": 4, "image_size": 32,
          "patients_per_site": 8}  # fmt: skip
_FULL = {"channels": 12, "pools": 3, "cascades": 5, "rounds": 60, "epochs": 4, "image_size": 64,
         "patients_per_site": 20}  # fmt: skip
# Preset -> what it does in all problems, and in those of a name.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        # Of fewer channels power_sgd compresses nothing.
        "": {"channels": 4, "pools": 1, "cascades": 1, "rounds": 2, "image_size": 16, "patients_per_site": 4}
    },
    "small": {
        "": _SMALL,
        "lesions": {"pools": 2, "rounds": 15, "patients_per_site": 12},
        "diagnosis": {"pools": 2, "patients_per_site": 16},
        "heads": {"epochs": 1},
        "clinical_ct": {"epochs": 1, "rounds": 15},
        "spheres": {"pools": 2, "epochs": 2, "rounds": 15, "image_size": 64},
        "hearts": {"pools": 2, "rounds": 15, "epochs": 1},
        "retina": {"pools": 2, "rounds": 20, "image_size": 64},
        "xray": {"pools": 2, "rounds": 15, "epochs": 2, "image_size": 28},
    },
    "full": {"": _FULL, "retina": {"image_size": 128}, "xray": {"image_size": 56}},
}
# What a preset does besides: names of problems (None all that there are data for), codecs and budgets.
EXTENT: dict[str, dict[str, Any]] = {
    "smoke": {"problems": ["ct", "lesions"], "codec": ["power_sgd"], "epsilons": ["8"],
              "methods": ["fedavg", "fedadam"], "finetune": [], "seeds": 1},
    "small": {"problems": None, "codec": ["power_sgd"], "epsilons": ["8"],
              "methods": ["fedavg", "fedadam"], "finetune": ["full", "lora", "lora+top_k"], "seeds": 1},
    "full": {"problems": None, "codec": ["stochastic", "top_k", "power_sgd"], "epsilons": ["2", "8"],
             "methods": ["fedavg", "fedprox", "fedadam", "ditto"],
             "finetune": ["full", "lora", "lora+top_k", "adapter", "bias", "head"], "seeds": 3},
}  # fmt: skip


class Row(NamedTuple):
    """A row of a problem: its training, or why there is none.

    Attributes:
      settings: of the training.
      exchanges: whether it is a federation, whose cost is compared.
      features: what FedAvg is changed by: "codec", "sums", "privacy". Data may exclude them, which then is
        said in the row; other rows have to be trained.
      refused: why it cannot be trained; empty where it can.
      pretrained: whether it starts from a model that the sites have trained together without labels.
    """

    settings: TrainSettings
    exchanges: bool = True
    features: tuple[str, ...] = ()
    refused: str = ""
    pretrained: bool = False


def problems_of(names: Sequence[str], data_dir: str) -> dict[str, Problem]:
    """The problems of these names; of none named all, those of public files where there is a folder of them.

    Raises:
      FlagError: a name is unknown or given twice, or its data are not there.
    """
    if not names:
        return {name: problem for name, problem in PROBLEMS.items() if data_dir or not problem.public}
    if len(set(names)) != len(names) or not set(names) <= set(PROBLEMS):
        raise FlagError("problems", f"distinct ones of {', '.join(PROBLEMS)}", ",".join(names))
    for name in names:
        if PROBLEMS[name].public and not data_dir:
            raise FlagError("data_dir", f"the folder of the public files of --problems={name}", "none")
    if data_dir and not any(PROBLEMS[name].public for name in names):
        raise FlagError("data_dir", "no folder for problems that are simulated", data_dir)
    return {name: PROBLEMS[name] for name in names}


def settings_of(name: str, preset: str, given: Mapping[str, Any], data_dir: str) -> TrainSettings:
    """The plain training of a problem, unchecked: by FedAvg, validated after its last round."""
    problem, sizes = PROBLEMS[name], PRESETS[preset]
    values = {**_ADAM, **sizes[""], **sizes.get(name, {}), **problem.settings}
    if problem.public:
        values["data_dir"] = data_dir
        # The files have their patients, and sizes that go into theirs.
        del values["patients_per_site"]
        if preset == "smoke" and values["cohort"] == "xray":
            values["image_size"] = 28
    if values["task"] != "reconstruction":
        del values["cascades"]
    settings = changed(TrainSettings(), **{**values, **given})
    return changed(settings, validate_every=settings.rounds)


def rows_of(
    base: TrainSettings,
    *,
    methods: Sequence[str],
    codecs: Sequence[str],
    protocol: str,
    epsilons: Sequence[float],
    finetune: Sequence[str],
    dotted: Dotted,
) -> dict[str, Row]:
    """The trainings of a problem: alone, pooled, the methods, and FedAvg with what protects or compresses it.

    Of images, rows of ``finetune`` start from a model that was trained without labels. The last row has all
    at once: the first codec whose messages add over clients, the secure sum, and the smallest budget. What
    several of these together exclude is a row that says why.

    Raises:
      FlagError: a name is unknown or given twice, or a setting does not fit.
    """
    _check_names(methods, codecs, finetune, dotted)
    plain = changed(base, federation=sweep.without_privacy(base.federation))

    def by(name: str) -> TrainSettings:
        federation = changed(plain.federation, algorithm=name, algorithm_options=dotted.get(name, ()))
        return changed(plain, federation=federation)

    rows = {
        label: Row(changed(plain, federation=comparator(plain.federation, name)), False)
        for label, name in ((ALONE, "local_only"), (POOLED, "centralized"))
    }
    rows |= {name: Row(by(name)) for name in methods}
    compressed = {
        name: {"codec": name, "codec_options": (*dotted.get("codec", ()), *dotted.get(name, ()))}
        for name in codecs
    }
    sums: dict[str, Any] = {}
    if protocol != "none":
        options = dotted.get("secure_aggregation", ())
        sums = {"secure_aggregation": protocol, "secure_aggregation_options": options}
    for name, changes in compressed.items():
        rows[f"{BASELINE} + {name}"] = Row(_with(base, changes), features=("codec",))
    if sums:
        rows[f"{BASELINE} + {protocol}"] = Row(_with(base, sums), features=("sums",))
    for epsilon in epsilons:
        rows[f"{BASELINE}, ε = {epsilon:g}"] = Row(
            _with(base, {"dp_epsilon": epsilon}), features=("privacy",)
        )
    if plain.task != "reconstruction":
        for choice, settings in _finetuned(plain, finetune, dotted).items():
            rows[f"pre-trained, {choice.replace('+', ' + ')}"] = Row(settings, pretrained=True)
    for label, row in rows.items():
        try:
            _check(row)
        except FlagError as error:
            # Options are named as they were given.
            name = label.removeprefix(f"{BASELINE} + ")
            raise error.renamed("codec" if "codec" in row.features else "algorithm", name) from error
    adding = [name for name in codecs if communication.named_codec(name).sums][:1]
    parts = {"codec": adding, "sums": [protocol] if sums else [], "privacy": list(epsilons)}
    features = tuple(name for name, part in parts.items() if part)
    if len(features) > 1:
        changes = {**(compressed[adding[0]] if adding else {}), **sums}
        changes |= {"dp_epsilon": min(epsilons)} if epsilons else {}
        label = " + ".join([BASELINE, *parts["codec"], *parts["sums"]])
        label += f", ε = {min(epsilons):g}" if epsilons else ""
        row = Row(_with(base, changes), features=features)
        try:
            rows[label] = _check(row)
        except FlagError as error:
            rows[label] = row._replace(refused=str(error))
    return rows


def _with(base: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """FedAvg with these changes; flags of the budget are left where there is one."""
    federation = base.federation
    if "dp_epsilon" not in changes:
        federation = sweep.without_privacy(federation)
    elif federation.dp_unit != "site":
        # Private batches have a flag of their own, and where that is not given as many units.
        default = TrainSettings()
        if federation.dp_batch_size == default.federation.dp_batch_size:
            changes = {**changes, "dp_batch_size": base.batch_size}
        if federation.dp_microbatch_size == default.federation.dp_microbatch_size:
            # Patients have so many images that all at once take far longer on a processor.
            changes = {**changes, "dp_microbatch_size": 1}
        base = changed(base, batch_size=default.batch_size)
    return changed(base, federation=changed(federation, algorithm=BASELINE, **changes))


def _finetuned(base: TrainSettings, choices: Sequence[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """FedAvg of some leaves from a model that is not there yet; {choice: settings}."""
    found = {}
    for choice in choices:
        kind, _, codec = choice.partition("+")
        federation = changed(
            base.federation,
            algorithm=BASELINE,
            finetune=kind,
            finetune_options=dotted.get(kind, ()),
            codec=codec or "none",
            codec_options=dotted.get(codec, ()) if codec else (),
            initialize_from="pretraining",
        )
        found[choice] = changed(base, federation=federation)
    return found


def _check(row: Row) -> Row:
    check_settings(row.settings)
    check_method(row.settings.federation, (row.settings.task,))
    return row


def _check_names(
    methods: Sequence[str], codecs: Sequence[str], choices: Sequence[str], dotted: Dotted
) -> None:
    able = [name for name in algorithms() if method(name).exchanges]
    if BASELINE not in methods or len(set(methods)) != len(methods) or not set(methods) <= set(able):
        expected = f"{BASELINE} and distinct others of {', '.join(able)}"
        raise FlagError("methods", expected, ",".join(methods) or "none")
    if len(set(codecs)) != len(codecs) or not set(codecs) <= set(communication.CODECS):
        raise FlagError("codec", f"distinct ones of {', '.join(communication.CODECS)}", ",".join(codecs))
    kinds = ("full", *finetuning.RECIPES)
    parts = [choice.partition("+") for choice in choices]
    fitting = all(kind in kinds and (codec in communication.CODECS if plus else True)
                  for kind, plus, codec in parts)  # fmt: skip
    if len(set(choices)) != len(choices) or not fitting:
        expected = f"distinct ones of {', '.join(kinds)}, alone or with +CODEC"
        raise FlagError("finetune", expected, ",".join(choices))
    used = {name for kind, _, codec in parts for name in (kind, codec)}
    for name, options in dotted.items():
        if options and name not in (*methods, *codecs, *used, "codec", "secure_aggregation"):
            expected = "one of --methods, --codec, --finetune or secure_aggregation"
            raise FlagError(f"{name}.NAME", expected, name)
