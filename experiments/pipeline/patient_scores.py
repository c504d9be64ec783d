"""Scores of each patient of the test, by every method, and the patients whom the network serves worst."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data import ClientData
from fedrecon.reporting import bootstrap_interval
from fedrecon.tasks import volume_scores

# method -> site -> metric -> value of each volume; NaN where a volume is blank.
PatientScores = dict[str, dict[str, dict[str, np.ndarray]]]


class Case(NamedTuple):
    """A patient of the test.

    Attributes:
      site, patient: the name of the site and the number of its volume there.
      example: index of the slice with the largest error.
      scores: method -> PSNR.
    """

    site: str
    patient: int
    example: int
    scores: dict[str, float]


def patient_scores(
    images: Mapping[str, Mapping[str, np.ndarray]], tests: Mapping[str, tuple[ClientData, int]]
) -> PatientScores:
    """NMSE, PSNR and SSIM of each test volume.

    Args:
      images: method -> site -> (test examples, ny, nx); the method "reference" is left out.
      tests: site -> the data with its test examples, and its index there.
    """
    return {
        method: {site: _of_site(found, *tests[site]) for site, found in by_site.items()}
        for method, by_site in images.items()
        if method != "reference"
    }


def overall(scores: Mapping[str, Mapping[str, np.ndarray]], metric: str) -> dict[str, float]:
    """Mean over the patients of all sites, their number, and an interval of 95 % by drawing patients."""
    values = np.concatenate([of_site[metric] for of_site in scores.values()])
    values = values[~np.isnan(values)]
    low, high = bootstrap_interval(lambda drawn: float(values[drawn].mean()), len(values))
    mean = float(values.mean()) if len(values) else float("nan")
    return {"mean": mean, "low": low, "high": high, "patients": len(values)}


def worst_cases(
    scores: PatientScores,
    images: Mapping[str, Mapping[str, np.ndarray]],
    tests: Mapping[str, tuple[ClientData, int]],
    method: str,
    count: int,
) -> list[Case]:
    """The patients of the lowest PSNR by ``method``, at most one of each site; scores of all methods."""
    found = []
    for site, by_metric in scores[method].items():
        values = by_metric["psnr"]
        if not len(values) or np.isnan(values).all():
            continue
        worst = int(np.nanargmin(values))
        data, client = tests[site]
        volume = np.asarray(data.examples["volume"][client])
        valid = np.asarray(data.valid[client])
        chosen = np.flatnonzero(valid & (volume == np.unique(volume[valid])[worst]))
        target = np.asarray(data.examples["target"][client])[chosen]
        error = np.square(images[method][site][chosen] - target).sum((1, 2))
        example = int(chosen[np.argmax(error)])
        each = {
            name: float(by_site[site]["psnr"][worst]) for name, by_site in scores.items() if site in by_site
        }
        found.append(Case(site, worst, example, each))
    return sorted(found, key=lambda case: case.scores[method])[:count]


def _of_site(images: np.ndarray, data: ClientData, client: int) -> dict[str, np.ndarray]:
    valid = np.asarray(data.valid[client])
    batch: dict[str, Any] = {
        name: np.asarray(data.examples[name][client]) for name in ("target", "data_range", "volume")
    }
    # What is padding belongs to no patient.
    batch["volume"] = np.where(valid, batch["volume"], np.iinfo(np.int32).max)
    count = len(np.unique(batch["volume"][valid]))
    scores, counted = jax.device_get(_scores(jnp.asarray(images), batch | {"valid": valid}))
    return {name: np.where(counted, x, np.nan)[:count] for name, x in scores.items()}


_scores = jax.jit(volume_scores)
