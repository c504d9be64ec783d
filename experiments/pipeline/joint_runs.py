"""The seeds of a joint experiment: trainings with their scores kept, and probes of the chosen ones."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline import heart_groups, heart_images, joint_scores
from experiments.pipeline.joint_data import JointData, load, shifted
from experiments.pipeline.joint_scores import Evaluator, Outputs, Row, outputs, patient_rows
from experiments.pipeline.joint_settings import JointSettings
from experiments.pipeline.joint_training import Trainer, Training, exchanged, with_seed
from fedrecon.files import write_atomically
from fedrecon.reporting import auc
from fedrecon.runtime import Workdir, describe_environment
from fedrecon.training import Execution, as_json, flat, released_file
from fedrecon.types import Variables
from fedrecon.weights import read_weights

# Factors of the acceleration and of the noise in shifted tests.
_SHIFTS = {
    "half the acceleration": (0.5, 1.0),
    "1.5 times the acceleration": (1.5, 1.0),
    "twice the noise": (1.0, 2.0),
}
# Name of a training -> rows of its patients.
Scores = dict[str, list[Row]]


class Seed(NamedTuple):
    """One seed's results.

    Attributes:
      seed: it.
      folder: of its trainings.
      validation, test: rows of each training.
    """

    seed: int
    folder: Path
    validation: Scores
    test: Scores


def load_cohort(settings: JointSettings) -> JointData:
    """The cohort of the settings, the same for every seed of the training."""
    return load(
        settings.data,
        settings.data_dir,
        settings.image_size,
        settings.acceleration,
        settings.patients,
        settings.data_seed,
    )


def run_seed(
    settings: JointSettings,
    seed: int,
    trainings: Sequence[Training],
    data: JointData,
    tool: Evaluator,
    folder: Path,
    execution: Execution,
    resume: bool = True,
) -> Seed:
    """Trains what is not there yet, and scores it on both splits."""
    own = with_seed(settings, seed)
    found = Seed(seed, folder, {}, {})
    with Workdir(folder, flat(own), describe_environment(), resume=resume) as workdir:
        trainer = Trainer(own, data, workdir, execution, {})
        for training in trainings:
            file = folder / "scores" / f"{training.name}.json"
            if file.exists():
                rows = json.loads(file.read_text())
                if training.who != "alone":
                    trainer.models[training.name] = models_of(folder, training.name, data)
            else:
                models = trainer.train(training)
                rows = as_json(
                    {part: score(tool, training, models, data, part)[0] for part in ("validation", "test")}
                )
                file.parent.mkdir(exist_ok=True)
                write_atomically(file, (json.dumps(rows) + "\n").encode())
            found.validation[training.name], found.test[training.name] = rows["validation"], rows["test"]
            psnr, dice = (joint_scores.mean_of(_known(rows["test"]), name) for name in ("psnr", "dice"))
            print(f"seed {seed}, {training.name}: PSNR {psnr:.2f} dB, Dice {dice:.4f}", flush=True)
    return found


def models_of(folder: Path, name: str, data: JointData) -> list[Variables]:
    """The model that a training released, for every site."""
    return [read_weights(released_file(folder, name))[0]] * data.test.clients


def score(
    tool: Evaluator, training: Training, models: Sequence[Variables], data: JointData, part: str
) -> tuple[list[Row], Outputs]:
    """Rows of the patients of a split, and the outputs they come from."""
    mode = training.mode if training.mode in ("rec_only", "oracle") else "joint"
    split = getattr(data, part)
    made = outputs(tool, mode, models, split)
    return patient_rows(tool, mode, made, split, data.patients[part]), made


def probe(
    tool: Evaluator,
    seeds: Sequence[Seed],
    data: JointData,
    settings: JointSettings,
    joint: str,
    staged: str,
    reader: str = "oracle",
) -> dict[str, dict[str, Any]]:
    """What is measured of the joint training and of the pipeline of two stages that validation chose.

    Returns:
      name -> figure -> mean over seeds, on the test split: "swap" (Dice of exchanged halves), "guard"
      (contrast of inserted spots, difference in what is not measured), "shift" (PSNR and Dice at other
      accelerations and noise); of MRI alone but the first.
    """
    figures: dict[str, dict[str, list[float]]] = {}

    def note(group: str, name: str, value: float) -> None:
        figures.setdefault(group, {}).setdefault(name, []).append(value)

    def dice_of(models: Sequence[Variables], split: Any) -> tuple[float, float]:
        made = outputs(tool, "joint", models, split)
        rows = patient_rows(tool, "joint", made, split, data.patients["test"])
        return joint_scores.mean_of(rows, "psnr"), joint_scores.mean_of(rows, "dice")

    for seed in seeds:
        both = {
            "joint": models_of(seed.folder, joint, data),
            "two stages": models_of(seed.folder, staged, data),
        }
        oracle = models_of(seed.folder, reader, data)
        note(
            "swap",
            "joint images, reader of references",
            dice_of(exchanged(both["joint"], oracle), data.test)[1],
        )
        note(
            "swap",
            "two stages, reader of references",
            dice_of(exchanged(both["two stages"], oracle), data.test)[1],
        )
        swapped = exchanged(both["two stages"], both["joint"])
        note("swap", "images of two stages, joint reader", dice_of(swapped, data.test)[1])
        if "kspace" not in data.test.examples:
            continue
        plain = {name: outputs(tool, "joint", models, data.test) for name, models in both.items()}
        difference = joint_scores.unmeasured_difference(tool, plain["joint"], plain["two stages"], data.test)
        note("guard", "difference in what is not measured", difference)
        spotted, spots = joint_scores.inserted(data.test, settings.data_seed)
        for name, models in both.items():
            seen = outputs(tool, "joint", models, spotted)
            note(
                "guard",
                f"contrast of inserted spots, {name}",
                joint_scores.recovered(plain[name], seen, spots),
            )
        for title, (factor, noise) in _SHIFTS.items():
            split = shifted(data.test, max(factor * settings.acceleration, 1.0), noise, settings.data_seed)
            for name, models in both.items():
                psnr, dice = dice_of(models, split)
                note("shift", f"{title}, {name}: PSNR", psnr)
                note("shift", f"{title}, {name}: Dice", dice)
    return {
        group: {name: float(np.mean(values)) for name, values in found.items()}
        for group, found in figures.items()
    }


def diagnoses(seeds: Sequence[Seed], data: JointData) -> dict[str, dict[str, float]]:
    """Training -> what is diagnosed from its masks: groups of hearts, or which patients have lesions."""
    model = heart_groups.train(data) if "systole" in data.train.examples else None
    found: dict[str, dict[str, float]] = {}
    for name in seeds[0].test:
        each = []
        for seed in seeds:
            rows = _known(seed.test[name])
            if model is not None:
                each.append(heart_groups.diagnose(model, rows, data.groups))
            elif "marks" in rows[0]:
                ill = np.asarray([data.groups[row["patient"]] == "lesion" for row in rows])
                area = auc(np.asarray([row["marks"] for row in rows]), ill)
                healthy = [row["away"] for row, sick in zip(rows, ill, strict=True) if not sick]
                each.append({"lesion_auc": area, "false_pixels": float(np.mean(healthy))})
        if each and each[0]:
            found[name] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
    if model is not None:
        rows = (
            [{**row, "volumes": row["volumes"][2:] * 2} for row in _known(seeds[0].test["oracle"])]
            if ("oracle" in seeds[0].test)
            else []
        )
        if rows:
            found["expert masks"] = heart_groups.diagnose(model, rows, data.groups)
    return found


def image_diagnoses(
    tool: Evaluator, seeds: Sequence[Seed], trainings: Sequence[Training], data: JointData
) -> dict[str, dict[str, float]]:
    """Training -> area under the curve of heart failure from its images in the test; of hearts alone.

    A classifier is trained on images of the training patients (`heart_images`). Trainings that read the
    images of another one have its area, those that read references that of references; what each site
    trained alone is left out.

    Returns:
      name -> "auc", "low" and "high" of the interval over seeds and patients.
    """
    if "systole" not in data.train.examples:
        return {}
    areas: dict[str, tuple[float, float, float]] = {}
    found = {}
    for training in trainings:
        if training.who == "alone":
            continue
        source = image_source(training)
        if source not in areas:
            # References are the same in every seed.
            each = [_image_scores(tool, s, source, data) for s in (seeds if source else seeds[:1])]
            areas[source] = heart_images.area(each, data.groups)
        found[training.name] = dict(zip(("auc", "low", "high"), areas[source], strict=True))
    return found


def image_source(training: Training) -> str:
    """The training whose images are read; "" is references."""
    if training.mode == "oracle":
        return ""
    return training.reconstruction if training.mode in ("frozen", "finetune") else training.name


def _image_scores(tool: Evaluator, seed: Seed, source: str, data: JointData) -> dict[str, float]:
    images = {}
    for part in ("train", "test"):
        split = getattr(data, part)
        if source:
            images[part] = outputs(tool, "rec_only", models_of(seed.folder, source, data), split).images
        else:
            images[part] = np.asarray(split.examples["target"])[np.nonzero(split.valid)]
    return heart_images.scores(heart_images.train(images["train"], data), images["test"], data, "test")


def _known(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows as they were: what was not finite is null in a file."""
    return [{k: float("nan") if v is None else v for k, v in row.items()} for row in rows]
