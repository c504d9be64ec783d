"""The tables of a full-stack run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.reconstruction import Reconstruction
from experiments.pipeline.stages import Traffic
from fedrecon.reporting import Table, metric_rows

_QUALITY = (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 3), ("nmse", "NMSE", 4))
_NAMES = {
    "start": "starting network, no training here",
    "local-only": "each site alone, at home",
    "local-only on other sites": "each site alone, elsewhere",
    "centralized": "pooled data",
}
_ALONE = {"local-only": "each site alone"}
Value = TypeVar("Value")


def shown(methods: Mapping[str, Value]) -> dict[str, Value]:
    """The same with the names of methods that readers see."""
    return {_NAMES.get(name, name): value for name, value in methods.items()}


def quality_tables(reconstruction: Reconstruction, sites: Sequence[str]) -> list[Table]:
    """A table for each metric of image quality, the unseen site after the mean of the others."""
    unseen = [reconstruction.unseen] if reconstruction.unseen else []
    found = []
    for name, label, digits in _QUALITY:
        header, rows = metric_rows(shown(reconstruction.scores), name, sites, digits, apart=unseen)
        if unseen:
            header[-1] += " (unseen)"
        found.append(Table(f"reconstruction: {label}", header, rows))
    return found


def diagnosis_tables(stage: str, found: Downstream) -> list[Table]:
    """The table of segmentation or classification, with counts of what was to be found."""
    make = {"segmentation": _segmentation, "classification": _classification}[stage]
    return [make(found)]


def _segmentation(found: Downstream) -> Table:
    sites = list(next(iter(found.scores.values())).sites)
    unseen = [f"unseen, {_counted(found, 'patients')} patients"] if found.unseen else []
    first = next(iter(found.scores.values()))
    columns = [f"{site} ({first.sites[site]['patients']})" for site in sites]
    total = f"all ({first.overall['patients']} patients)"
    header = ["Dice", *columns, total, "95 %", "found", "falsely marked", *unseen]
    rows = []
    for method, score in found.scores.items():
        overall = score.overall
        cells = [_number(score.sites[site]["dice"]) for site in sites]
        cells += [_number(overall["dice"]), _range(overall), f"{overall['found']}/{overall['patients']}"]
        cells.append(f"{overall['falsely_marked']}/{overall['lesion_free']}")
        rows.append([_ALONE.get(method, method), *cells, *_unseen(found, method, "dice")])
    return Table("segmentation: Dice of patients with lesions (their number in brackets)", header, rows)


def _classification(found: Downstream) -> Table:
    unseen = [f"unseen: AUC ({_counted(found, 'positives')} positive)"] if found.unseen else []
    header = ["slices", "AUC", "95 %", "detected", "cleared", *unseen]
    rows = []
    for method, score in found.scores.items():
        overall = score.overall
        cells = [_number(overall["auc"]), _range(overall), f"{overall['detected']}/{overall['positives']}"]
        cells.append(f"{overall['cleared']}/{overall['negatives']}")
        rows.append([_ALONE.get(method, method), *cells, *_unseen(found, method, "auc")])
    caption = "classification: area under the curve within sites; detected positives, cleared negatives"
    return Table(caption, header, rows)


def traffic_table(traffic: Sequence[Traffic]) -> Table:
    """Bytes by stage."""
    rows = [[t.stage, str(t.rounds), f"{t.bytes_up / 1e6:.2f}", f"{t.bytes_down / 1e6:.2f}"] for t in traffic]
    return Table("bytes sent, all sites", ["stage", "rounds", "up (MB)", "down (MB)"], rows)


def _unseen(found: Downstream, method: str, metric: str) -> list[str]:
    if not found.unseen:
        return []
    return [_number(found.unseen[method][metric]) if method in found.unseen else "–"]


def _counted(found: Downstream, name: str) -> str:
    return f"{next(iter(found.unseen.values()))[name]:.0f}"


def _range(overall: Mapping[str, Any]) -> str:
    low, high = overall["low"], overall["high"]
    return "–" if math.isnan(low) else f"{low:.2f}–{high:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
