"""Ensembles of reconstruction networks: which runs may vote together, and what their deviation tells."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.export import read_run
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.folders import data_kind
from fedrecon.data import ClientData
from fedrecon.evaluation import conformal_quantile, coverage, score_histogram, spread
from fedrecon.learned import CheckedNetwork, load_network
from fedrecon.reporting import format_table
from fedrecon.training import FlagError, flat

ENSEMBLE = "ensemble"
_FLAG = "ensemble"
# Deviations that two-sided normal errors have at 90 %.
_LEVEL, _NORMAL = 0.9, 1.6449
# Part of an image's maximum above which a reference is no background, and that is added to deviations.
_TISSUE, _FLOOR = 0.05, 0.005

Images = dict[str, np.ndarray]
# Mean over members, deviation, and data, each by site.
Voted = tuple[Images, Images, Mapping[str, tuple[ClientData, int]]]


def open_members(folders: Sequence[str], workdir: Path, settings: TrainSettings) -> list[CheckedNetwork]:
    """The networks of further runs, of the same training.

    Args:
      folders: of the runs.
      workdir, settings: of the run that they vote with.

    Raises:
      FlagError: a folder has no finished run, or one of other settings than --member, or --seed where each
        seed draws patients of its own, or the same training twice.
    """
    own, drawn = flat(settings), {(settings.seed, settings.member): workdir}
    networks = []
    for folder in map(Path, folders):
        try:
            found = read_run(folder).settings
        except FlagError as error:
            raise FlagError(_FLAG, error.expected, error.found) from error
        if not isinstance(found, TrainSettings):
            raise FlagError(_FLAG, "runs of experiments.train_recon", f"{folder}, of another program")
        theirs = flat(found)
        apart = [
            name
            for name in sorted(own.keys() | theirs.keys())
            if name not in ("seed", "member") and own.get(name) != theirs.get(name)
        ]
        if apart:
            name = apart[0]
            expected = f"runs that differ from {workdir} in --member alone"
            values = f"--{name}={theirs.get(name)} instead of {own.get(name)}"
            raise FlagError(_FLAG, expected, f"{folder} with {values}")
        if found.seed != settings.seed and data_kind(settings) != "simulated":
            expected = (
                f"--seed={settings.seed} and another --member, so that no run learned from test patients"
            )
            raise FlagError(_FLAG, expected, f"{folder} with --seed={found.seed}")
        key = found.seed, found.member
        if key in drawn:
            raise FlagError(_FLAG, f"another --member than that of {drawn[key]}", f"that of {folder}")
        drawn[key] = folder
        networks.append(load_network(folder))
    return networks


def mean_and_deviation(crowds: Images) -> tuple[Images, Images]:
    """Mean and standard deviation of two images or more, (count, examples, ny, nx), each by site."""
    means = {site: x.mean(0) for site, x in crowds.items()}
    return means, {site: x.std(0, ddof=1) for site, x in crowds.items()}


def judge(kept: Voted | None, tested: Voted, level: float) -> dict[str, Any]:
    """What deviations tell of errors at each site, within the tissue.

    Args:
      kept: of the validation, whose errors over deviations give the quantile; None without.
      tested: of the test.
      level: of calibrated intervals, mean ± quantile (deviation + 0.5 % of the maximum).
    """
    quantile = math.nan
    if kept is not None:
        parts = [_errors(kept, site) for site in kept[2]]
        histograms = [
            score_histogram(error / np.where(inside, scale, 1), inside) for error, _, scale, inside in parts
        ]
        quantile = conformal_quantile(np.sum(histograms, 0), level)
    sites = {}
    for site in tested[2]:
        error, deviation, scale, inside = _errors(tested, site)
        found = spread(error, deviation, inside)
        sites[site] = {
            "spread": {name: np.asarray(value).tolist() for name, value in found._asdict().items()},
            "normal": coverage(error, deviation, inside, _NORMAL)._asdict(),
            "calibrated": coverage(error, scale, inside, quantile)._asdict(),
        }
    return {"level": level, "quantile": quantile, "sites": sites}


def table(name: str, document: Mapping[str, Any]) -> str:
    """What is printed of `judge`."""
    rows = []
    for site, of in document["sites"].items():
        covered = [f"{100 * of[kind]['coverage']:.1f} %" for kind in ("normal", "calibrated")]
        figures = [f"{of['spread'][name]:.2f}" for name in ("correlation", "ratio")]
        rows.append([site, *figures, *covered, f"{of['calibrated']['width']:.3g}"])
    header = [
        f"{name}, deviation",
        "rank correlation with the error",
        "error / deviation",
        f"{100 * _LEVEL:g} % if normal: covered",
        f"{100 * document['level']:g} % calibrated: covered",
        "mean width",
    ]
    return format_table(header, rows)


def _errors(voted: Voted, site: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(absolute errors, deviations, scales, which pixels count), each (examples, ny, nx)."""
    part, client = voted[2][site]
    reference = np.abs(np.asarray(part.examples["target"][client]))
    top = reference.max((1, 2), keepdims=True)
    inside = np.asarray(part.valid[client])[:, None, None] & (reference > _TISSUE * top)
    mean, deviation = voted[0][site], voted[1][site]
    return np.abs(mean - reference), deviation, deviation + _FLOOR * mean.max((1, 2), keepdims=True), inside
