"""What a joint experiment found: choices by validation, gap closure, tables, figures and the page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.pipeline.joint_data import JointData, measure_full
from experiments.pipeline.joint_runs import Seed
from experiments.pipeline.joint_scores import Outputs
from experiments.pipeline.joint_training import Training
from fedrecon import reporting
from fedrecon.evaluation import paired_test
from fedrecon.files import replacing
from fedrecon.reporting import bootstrap_interval, format_table

# How much PSNR joint training may cost, in dB.
ALLOWED = 0.5
COLUMNS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "region_nmse": "NMSE near the mask",
    "residual": "residual",
    "dice": "Dice",
    "hd95": "HD95 (pixels)",
    "away": "pixels away",
}
COMPARED = {
    "alone": "that of networks of single sites",
    "pooled": "that of training on pooled data",
    "pooled-steps": "that of training on pooled data with as many steps as a site takes",
}


class Interval(NamedTuple):
    """A value with its interval of 95 % over seeds and patients."""

    value: float
    low: float
    high: float


def patient_scores(seeds: Sequence[Seed], name: str, score: str, part: str = "test") -> np.ndarray:
    """A score of each patient, (seeds, patients); NaN where there is none."""
    tables = [getattr(seed, part)[name] for seed in seeds]
    return np.asarray([[_number(row.get(score)) for row in rows] for rows in tables], float)


def patient_means(seeds: Sequence[Seed], name: str, score: str, part: str = "test") -> np.ndarray:
    """A score of each patient, the mean over seeds; NaN where there is none."""
    return np.mean(patient_scores(seeds, name, score, part), 0)


def mean(seeds: Sequence[Seed], name: str, score: str, part: str = "test") -> float:
    """The mean over patients that have the score."""
    values = patient_means(seeds, name, score, part)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def choose(seeds: Sequence[Seed], trainings: Sequence[Training]) -> dict[str, str]:
    """The joint training, that of two stages and the oracle with the best Dice in validation.

    A joint training counts if its PSNR in validation is at most `ALLOWED` below that of the reconstruction
    alone; if none is, the one that loses least.
    """
    names = [t.name for t in trainings if t.who == "federated"]
    kinds = {t.name: t.mode for t in trainings}
    found = {}
    staged = [name for name in names if kinds[name] in ("frozen", "finetune")]
    if staged:
        found["two stages"] = max(staged, key=lambda name: mean(seeds, name, "dice", "validation"))
    oracles = [name for name in names if kinds[name] == "oracle"]
    if oracles:
        found["oracle"] = max(oracles, key=lambda name: mean(seeds, name, "dice", "validation"))
    joint = [name for name in names if kinds[name] == "joint"]
    if joint:
        psnr = {name: mean(seeds, name, "psnr", "validation") for name in joint}
        kept = joint
        alone = [name for name in names if kinds[name] == "rec_only"]
        if alone:
            least = max(mean(seeds, name, "psnr", "validation") for name in alone) - ALLOWED
            kept = [name for name in joint if psnr[name] >= least] or [max(joint, key=psnr.__getitem__)]
        found["joint"] = max(kept, key=lambda name: mean(seeds, name, "dice", "validation"))
    return found


def gap_closure(seeds: Sequence[Seed], joint: str, staged: str, oracle: str = "oracle") -> Interval:
    """(joint - two stages) / (oracle - two stages) in Dice of the test, seeds and patients drawn again."""

    def closure(a: float, b: float, best: float) -> float:
        return (a - b) / (best - b) if best > b else float("nan")

    return of_means(seeds, (joint, staged, oracle), closure)


def of_means(seeds: Sequence[Seed], names: Sequence[str], figure: Callable[..., float]) -> Interval:
    """A figure of mean Dice over the patients that all trainings have; seeds and patients are drawn again."""
    values = np.stack([patient_scores(seeds, name, "dice") for name in names])
    values = values[:, :, ~np.isnan(values).any((0, 1))]
    rng = np.random.default_rng(0)

    def resampled(drawn: np.ndarray) -> float:
        again = rng.integers(len(seeds), size=len(seeds))
        return figure(*values[:, again][:, :, drawn].mean((1, 2)))

    return Interval(figure(*values.mean((1, 2))), *bootstrap_interval(resampled, values.shape[2], 2000))


def summarize(
    seeds: Sequence[Seed],
    trainings: Sequence[Training],
    probes: Mapping[str, Any],
    diagnoses: Mapping[str, Any],
    images: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was found, JSON-able."""
    found: dict[str, Any] = {
        "seeds": [seed.seed for seed in seeds],
        "patients": len(next(iter(seeds[0].test.values()))),
        "trainings": {},
    }
    for training in trainings:
        row = {score: mean(seeds, training.name, score) for score in COLUMNS}
        row |= {
            f"validation_{score}": mean(seeds, training.name, score, "validation")
            for score in ("psnr", "dice")
        }
        per_site: dict[str, list[float]] = {}
        for seed in seeds:
            for one in seed.test[training.name]:
                per_site.setdefault(one["site"], []).append(_number(one.get("dice", one.get("psnr"))))
        row["per_client"] = {site: float(np.nanmean(values)) for site, values in per_site.items()}
        found["trainings"][training.name] = {"mode": training.mode, "strength": training.strength, **row}
    chosen = found["chosen"] = choose(seeds, trainings)
    names = found["trainings"]
    if {"joint", "two stages", "oracle"} <= chosen.keys():
        joint, staged = chosen["joint"], chosen["two stages"]
        found["gap_closure"] = gap_closure(seeds, joint, staged, chosen["oracle"])._asdict()
        pairs = [patient_means(seeds, name, "dice") for name in (joint, staged)]
        found["paired_test"] = paired_test(*pairs)._asdict()
        found["psnr_lost"] = names[staged]["psnr"] - names[joint]["psnr"]
    for training in trainings:
        if training.who != "federated":
            federated = training.name.removesuffix(f"-{training.who}")
            shares = found.setdefault("federated_over", {})
            shares[training.who] = of_means(seeds, (federated, training.name), _share)._asdict()
    return {**found, **probes, "diagnosis": dict(diagnoses), "image_diagnosis": dict(images)}


def _share(one: float, other: float) -> float:
    return one / other if other > 0 else float("nan")


def table(found: Mapping[str, Any]) -> str:
    """Rows of trainings."""
    return format_table(*_cells(found))


def _cells(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    diagnosis = sorted({key for row in found["diagnosis"].values() for key in row})
    images = found["image_diagnosis"]
    header = ["training", *COLUMNS.values(), *(key.replace("_", " ") for key in diagnosis)]
    header += ["failure AUC of images"] * bool(images)
    chosen = {name: kind for kind, name in found["chosen"].items()}
    rows = []
    for name, row in found["trainings"].items():
        marked = f"{name} ({chosen[name]}, chosen)" if name in chosen else name
        cells = [_figure(row[score]) for score in COLUMNS]
        cells += [_figure(found["diagnosis"].get(name, {}).get(key)) for key in diagnosis]
        rows.append([marked, *cells, *[_bounded(images.get(name))] * bool(images)])
    if "expert masks" in found["diagnosis"]:
        expert = found["diagnosis"]["expert masks"]
        cells = [*["–"] * len(COLUMNS), *(_figure(expert.get(key)) for key in diagnosis)]
        rows.append(["expert masks", *cells, *["–"] * bool(images)])
    return header, rows


def statements(found: Mapping[str, Any]) -> list[str]:
    """The claim in sentences."""
    lines = []
    if "gap_closure" in found:
        gap, test = found["gap_closure"], found["paired_test"]
        lines.append(
            f"Joint training closes {100 * gap['value']:.0f} % of the gap in Dice between two stages and the "
            f"oracle (95 % over seeds and patients: {100 * gap['low']:.0f} to {100 * gap['high']:.0f} %; "
            f"difference {test['difference']:+.4f}, p = {test['p_value']:.2f}), and loses "
            f"{found['psnr_lost']:.2f} dB of PSNR."
        )
    chosen, images = found["chosen"], found["image_diagnosis"]
    if {"joint", "two stages"} <= {kind for kind, name in chosen.items() if name in images}:
        pair = [images[chosen[kind]] for kind in ("joint", "two stages")]
        few = pair[0]["low"] <= pair[1]["high"] and pair[1]["low"] <= pair[0]["high"]
        lines.append(
            f"Heart failure is found in joint images with an area of {_bounded(pair[0])}, in those of two "
            f"stages with {_bounded(pair[1])}"
            + (f": {found['patients']} patients do not tell the two apart." if few else ".")
        )
    for who, share in found.get("federated_over", {}).items():
        value, low, high = (100 * share[name] for name in Interval._fields)
        lines.append(f"Federated, its Dice is {value:.1f} % ({low:.1f} to {high:.1f} %) of {COMPARED[who]}.")
    return lines


def write_page(
    folder: Path, found: Mapping[str, Any], data: JointData, pictures: Mapping[str, Outputs], command: str
) -> Path:
    """The page with its figures."""
    _save(folder / "pareto.png", plot_pareto(found))
    figures = [
        reporting.Figure(folder / "pareto.png", "PSNR against Dice of every training, on test patients.")
    ]
    if pictures:
        _save(folder / "images.png", plot_images(data, pictures))
        caption = (
            "Test images of a site in each row: reference, direct image, and what the trainings make of it. "
            "Green: true masks; pink: found ones."
        )
        figures.append(reporting.Figure(folder / "images.png", caption))
    count = len(found["seeds"])
    seeds = f"{count} seed{'s' * (count > 1)}, {found['patients']} test patients."
    text = [*statements(found), f"{data.notes} {seeds}", command]
    reporting.write_report(
        folder / "report.html",
        "Joint reconstruction and segmentation",
        "One federated training from the measurement to the mask.",
        [reporting.Section("Results", text, _tables(found), figures)],
    )
    return folder / "report.html"


def _tables(found: Mapping[str, Any]) -> list[reporting.Table]:
    """Scores of trainings, then of what was probed."""
    tables = [reporting.Table("means over patients of the test, and over seeds", *_cells(found))]
    swapped = dict(found.get("swap", {}))
    if swapped:
        for kind in ("joint", "two stages"):
            swapped[f"{kind}, as trained"] = found["trainings"][found["chosen"][kind]]["dice"]
    for title, figures in (
        ("exchanged halves (Dice)", swapped),
        ("what may be invented", found.get("guard", {})),
    ):
        if figures:
            cells = [[name, _figure(value)] for name, value in figures.items()]
            tables.append(reporting.Table(title, ["figure", "value"], cells))
    if "shift" in found:
        tables.append(_shift_table(found["shift"]))
    return tables


def _shift_table(found: Mapping[str, float]) -> reporting.Table:
    """A row for each shift, from "SHIFT, TRAINING: SCORE" and values."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        shift, score = name.rsplit(", ", 1)
        rows.setdefault(shift, {})[score] = value
    columns = list(next(iter(rows.values())))
    cells = [[shift, *(_figure(row[score]) for score in columns)] for shift, row in rows.items()]
    return reporting.Table("shifts", ["test", *columns], cells)


def plot_pareto(found: Mapping[str, Any]) -> Figure:
    """Every training as a point of PSNR and Dice; those of joint training joined by their strength."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    rows = {
        name: row for name, row in found["trainings"].items() if np.isfinite([row["psnr"], row["dice"]]).all()
    }
    colors = matplotlib.colormaps["tab10"]
    for ending in ("", "-warm"):
        line = sorted(
            (row["strength"], row["psnr"], row["dice"])
            for name, row in rows.items()
            if name == f"joint-{row['strength']:g}{ending}"
        )
        if len(line) > 1:
            axis.plot([x[1] for x in line], [x[2] for x in line], "-", color="0.7", zorder=1)
    for number, (name, row) in enumerate(rows.items()):
        axis.scatter(
            row["psnr"],
            row["dice"],
            color=colors(number % 10),
            marker="os"[number // 10],
            label=name,
            zorder=2,
        )
    if "oracle" in found["chosen"]:
        dice = found["trainings"][found["chosen"]["oracle"]]["dice"]
        axis.axhline(dice, color="0.2", linestyle="--", label="oracle (references)")
    if "rec_only" in found["trainings"]:
        axis.axvline(
            found["trainings"]["rec_only"]["psnr"], color="0.5", linestyle=":", label="reconstruction alone"
        )
    axis.set_xlabel("PSNR (dB)")
    axis.set_ylabel("Dice")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_images(data: JointData, pictures: Mapping[str, Outputs], cases: int = 4) -> Figure:
    """Rows of images: the reference, the direct image, and each training's, with masks."""
    places = np.nonzero(data.test.valid)
    mask, target = (np.asarray(data.test.examples[k])[places] for k in ("segmentation", "target"))
    sites = [np.flatnonzero(places[0] == site) for site in range(data.test.clients)]
    picked = [here[np.argsort(mask[here].sum((1, 2)))[-max(len(here) // 3, 1)]] for here in sites[:cases]]
    columns = ["reference", "direct image", *pictures]
    figure = Figure(figsize=(1.7 * len(columns), 1.8 * len(picked) + 0.3), layout="constrained")
    axes = figure.subplots(len(picked), len(columns), squeeze=False)
    for line, i in zip(axes, picked, strict=True):
        place = tuple(x[i] for x in places)
        batch = {name: jnp.asarray(x[place])[None] for name, x in data.test.examples.items()}
        A, y, _ = measure_full(batch)
        direct = np.abs(np.asarray(_adjoint(A, y))[0])
        shown = [target[i], direct, *(np.abs(made.images[i]) for made in pictures.values())]
        marks = [None, None, *(made.marked[i] for made in pictures.values())]
        for axis, image, mark in zip(line, shown, marks, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=np.percentile(target[i], 99.5))
            if mask[i].any():
                axis.contour(mask[i], [0.5], colors="#3ad13a", linewidths=0.9)
            if mark is not None and mark.any() and not mark.all():
                axis.contour(mark, [0.5], colors="#ff4fa3", linewidths=0.9)
            axis.set_axis_off()
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def _adjoint(operators: Any, measurements: Any) -> Any:
    return jax.vmap(lambda A, y: A.H(y))(operators, measurements)


def _save(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _bounded(area: Mapping[str, float] | None) -> str:
    """An area under the curve with its interval of 95 %."""
    return "–" if area is None else f"{area['auc']:.2f} ({area['low']:.2f} to {area['high']:.2f})"


def _figure(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
