"""Heart failure from images: a linear model, trained by all sites, of what moves in a heartbeat.

A patient is seen by the middle slices of the two phases and by the magnitude of their difference, each pooled
to a grid of `GRID` x `GRID` means. Grids and weight decays were tried on reference images of training
patients alone, each left out in turn: most found failing hearts with areas of 0.8 to 0.9.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.heart_groups import Model, fit
from experiments.pipeline.joint_data import JointData
from experiments.pipeline.joint_scores import patients_of
from fedrecon.data import ClientData
from fedrecon.reporting import auc, bootstrap_interval

GRID = 4
_DECAY = 0.01
_RESAMPLES = 2000


def features(images: np.ndarray, systole: np.ndarray) -> np.ndarray:
    """What a patient's images show, (3 GRID^2,) float32: diastole, systole, and how they differ.

    Args:
      images: (slices, ny, nx) magnitudes from base to apex, both phases; edges are multiples of `GRID`.
      systole: (slices,) bool; a heart without one of the phases is seen in the other one alone.
    """
    early, late = (images[phase] if phase.any() else images for phase in (~systole, systole))
    pair = np.stack([early[len(early) // 2], late[len(late) // 2]])
    # Scanners have scales of their own.
    pair = pair / max(np.percentile(pair, 99), 1e-12)
    seen = np.stack([*pair, np.abs(pair[0] - pair[1])])
    ny, nx = (edge // GRID for edge in seen.shape[1:])
    return seen.reshape(3, GRID, ny, GRID, nx).mean((2, 4)).ravel().astype(np.float32)


def patient_features(
    images: np.ndarray, data: ClientData, names: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """`features` of every patient of a split, whose valid examples have the ``images``."""
    patient, _ = patients_of(data, names)
    late = np.asarray(data.examples["systole"])[np.nonzero(data.valid)] > 0
    images = np.abs(images)
    return {str(n): features(images[patient == n], late[patient == n]) for n in dict.fromkeys(patient)}


def failing(names: Sequence[str], groups: Mapping[str, str]) -> np.ndarray:
    """Which patients have a failing heart, with or without infarction."""
    return np.asarray([groups[name].startswith("HF") for name in names])


def train(images: np.ndarray, data: JointData) -> Model:
    """The linear model of the images of the training patients, by federated averaging."""
    found = patient_features(images, data.train, data.patients["train"])
    sites = [
        {
            "x": np.stack([found[name] for name in names]),
            "label": failing(names, data.groups).astype(np.int32),
        }
        for names in data.patients["train"]
    ]
    return fit(sites, data.train.names, 2, _DECAY)


def scores(model: Model, images: np.ndarray, data: JointData, part: str) -> dict[str, float]:
    """Patient of a split -> how much its images speak for heart failure, a difference of logits."""
    task, variables, scale = model
    found = patient_features(images, getattr(data, part), data.patients[part])
    seen = (np.stack(list(found.values())) - scale[0]) / scale[1]
    logits = np.asarray(jax.jit(task.predict)(*variables, {"x": jnp.asarray(seen)}))
    return dict(zip(found, (logits[:, 1] - logits[:, 0]).tolist(), strict=True))


def area(found: Sequence[Mapping[str, float]], groups: Mapping[str, str]) -> tuple[float, float, float]:
    """Area under the curve of heart failure, the mean over seeds, and its interval over seeds and patients.

    Args:
      found: `scores` of every seed, of the same patients.
      groups: patient -> diagnosis.
    """
    names = list(found[0])
    ill = failing(names, groups)
    values = np.asarray([[seed[name] for name in names] for seed in found])
    rng = np.random.default_rng(0)

    def mean(drawn: np.ndarray, seeds: np.ndarray) -> float:
        return float(np.mean([auc(values[seed, drawn], ill[drawn]) for seed in seeds]))

    def resampled(drawn: np.ndarray) -> float:
        return mean(drawn, rng.integers(len(values), size=len(values)))

    value = mean(np.arange(len(names)), np.arange(len(values)))
    return value, *bootstrap_interval(resampled, len(names), _RESAMPLES)
