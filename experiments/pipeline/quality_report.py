"""Rows of the comparison of image quality in words, as a table, and as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# (library, maps, whether by default) of the columns of the table.
_COLUMNS = {
    "ours, default": ("fedrecon", "fedrecon", True),
    "ours": ("fedrecon", "fedrecon", False),
    "BART": ("bart", "bart", False),
    "ours, BART's maps": ("fedrecon", "bart", False),
    "sigpy, BART's maps": ("sigpy", "bart", False),
}


def describe(row: dict) -> str:
    """A row in one line."""
    head = f"{row['case']:42} {row['method']:16} {row['library']:9}"
    if "missing" in row:
        return f"{head} not computed: {row['missing']}"
    weight = "default" if row["default"] else f"{row['weight']:.1e}"
    return (
        f"{head} maps {row['maps']:9} weight {weight:8} PSNR {row['psnr']:6.2f} dB, SSIM {row['ssim']:.3f}, "
        f"NRMSE {row['nrmse']:.4f}, {row['seconds']:.2f} s"
    )


def markdown(rows: Sequence[dict]) -> str:
    """A table with a line per case and method; cells are PSNR, SSIM, NRMSE and seconds."""
    found: dict[tuple[str, str], dict] = {}
    for row in rows:
        cells = found.setdefault((row["case"], row["method"]), {})
        if "missing" not in row:
            text = f"{row['psnr']:.1f} {row['ssim']:.2f} {row['nrmse']:.3f} {row['seconds']:.1f}"
            cells[row["library"], row["maps"], row["default"]] = text.replace(" 0.", " .")
    used = [name for name, key in _COLUMNS.items() if any(key in cells for cells in found.values())]
    lines = [" | ".join(["case", "method", *used]), " | ".join(["---"] * (2 + len(used)))]
    for (case, method), cells in found.items():
        lines.append(" | ".join([case, method, *(cells.get(_COLUMNS[name], "-") for name in used)]))
    return "".join(f"| {line} |\n" for line in lines)


def summary(rows: Sequence[dict]) -> list[str]:
    """How far our columns are from BART's and from sigpy's, by method: on the mean and in the worst case."""
    psnr = {
        (row["case"], row["method"], row["library"], row["maps"], row["default"]): row["psnr"]
        for row in rows
        if "missing" not in row
    }
    cases, lines = dict.fromkeys(row["case"] for row in rows), []
    for method in dict.fromkeys(row["method"] for row in rows):
        for ours, other in (("ours, default", "BART"), ("ours", "BART"), ("ours, BART's maps", "BART")):
            gaps = {}
            for case in cases:
                pair = [psnr.get((case, method, *_COLUMNS[name])) for name in (ours, other)]
                if None not in pair:
                    gaps[case] = pair[0] - pair[1]
            if gaps:
                worst, limit = min(gaps, key=gaps.__getitem__), 0.3 if "default" in ours else 0.1
                reached = sum(gap >= -limit for gap in gaps.values())
                mean = np.mean(list(gaps.values()))
                lines.append(
                    f"{method}, {ours}: {mean:+.2f} dB from {other} on the mean, at worst "
                    f"{gaps[worst]:+.2f} dB ({worst}), {reached} of {len(gaps)} at least -{limit} dB"
                )
    return lines


def write_figure(path: Path, reference: np.ndarray, images: dict[str, np.ndarray]) -> None:
    """Magnitudes above and five times their errors below, on the scale of the reference."""
    from matplotlib.figure import Figure

    tall = len(reference) / len(reference[0])
    figure = Figure(figsize=(2 * len(images) + 2, 2 * (2 * tall + 0.3)), layout="constrained")
    axes = figure.subplots(2, len(images) + 1, squeeze=False)
    largest = np.percentile(reference, 99.7)
    for column, (name, image) in enumerate({"reference": reference, **images}.items()):
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=largest)
        axes[1, column].imshow(5 * np.abs(image - reference), cmap="magma", vmin=0, vmax=largest)
        axes[0, column].set_title(name, fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=100)
