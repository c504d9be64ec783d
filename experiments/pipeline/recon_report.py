"""What evaluate_recon prints and draws."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.pipeline import recon_ensemble
from experiments.pipeline.recon_posterior import GAIN
from experiments.pipeline.recon_safety import Undetermined
from fedrecon.data import ClientData
from fedrecon.reporting import format_table, plot_reconstructions

NETWORK = "network"
METRICS = ("psnr", "ssim", "nmse")
_MOST_SITES = 3
_WIDTH = "half width; below, error beyond it"
_OPEN = "share not determined; below, its size"

Images = dict[str, np.ndarray]
# Site -> the data with its examples, and its index there.
Tests = dict[str, tuple[ClientData, int]]


def figure(
    images: Mapping[str, Images],
    widths: Images,
    tests: Tests,
    scores: Mapping[str, Any],
    missing: Undetermined,
    deviations: Mapping[str, Images],
) -> Figure:
    """Of the first sites the middle example: reference, methods, null space, half widths, and deviations."""
    panels = []
    for site, (part, client) in list(tests.items())[:_MOST_SITES]:
        valid = np.flatnonzero(part.valid[client])
        if not len(valid):
            continue
        shown = valid[len(valid) // 2]
        each = {method: np.asarray(of[site][shown]) for method, of in images.items()}
        # A share of 1 is as bright as the reference's maximum.
        each[_OPEN] = missing.shares[site][shown] * each["reference"].max()
        below = {_OPEN: missing.magnitudes[site][shown]}
        for name, by_site in deviations.items():
            spread = f"deviation, {name}, × {GAIN}; below, error of the mean"
            each[spread] = GAIN * by_site[site][shown]
            below[spread] = np.abs(each[name] - each["reference"])
        if site in widths:
            each[_WIDTH] = widths[site][shown]
            below[_WIDTH] = np.maximum(np.abs(each[NETWORK] - each["reference"]) - widths[site][shown], 0)
        ny, nx = each["reference"].shape
        zoom = (ny // 2 - ny // 8, nx // 2 - nx // 8, ny // 4, nx // 4)
        panels.append({"site": site, "images": each, "zoom": zoom, "below": below})
    return plot_reconstructions(panels, scores)


def table(document: Mapping[str, Any]) -> str:
    """What is printed."""
    rows = []
    for method, of in document["methods"].items():
        cells = [_with_interval(of[m], signed=False) for m in METRICS]
        difference = document["differences"].get(method)
        cells.append("" if difference is None else _with_interval(difference["psnr"], signed=True))
        rows.append([method, *cells])
    header = ["method", *METRICS, "network minus it, psnr"]
    lines = [format_table(header, rows)]
    if found := document.get("intervals"):
        rows = [
            [site, *(f"{100 * of[kind]['coverage']:.1f} %" for kind in ("common", "own")),
             f"{of['common']['width']:.3g}"]
            for site, of in found["sites"].items()
        ]  # fmt: skip
        level = f"{100 * found['level']:g} % intervals"
        lines.append(format_table([level, "covered", "by its own quantile", "mean width"], rows))
    missing = document["undetermined"]
    rows = [
        [site, *(f"{100 * of[kind]:.3f} %" for kind in ("null", "weak"))]
        for site, of in missing["sites"].items()
    ]
    weak = f"determined weakly (cutoff {missing['cutoff']:.2g})"
    lines.append(format_table(["network's energy", "not determined by data", weak], rows))
    lines += [recon_ensemble.table(name, of) for name, of in document.get("deviations", {}).items()]
    for radius, by_method in document.get("lesions", {}).items():
        sites = list(next(iter(by_method.values())))
        rows = [
            [method, *(_with_interval(of[site], signed=False) for site in sites)]
            for method, of in by_method.items()
        ]
        lines.append(format_table([f"contrast of {radius} px", *sites], rows))
    return "\n".join(lines)


def _with_interval(found: Mapping[str, Any], *, signed: bool) -> str:
    sign = "+" if signed else ""
    if math.isnan(found["low"]):
        # Of fewer than two patients there is no interval.
        return f"{found['mean']:{sign}.3f} (one patient)" if found["patients"] else "none"
    return f"{found['mean']:{sign}.3f} ({found['low']:{sign}.3f} to {found['high']:{sign}.3f})"
