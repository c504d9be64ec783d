"""The printed tables, the figures and the HTML page of a full-stack run."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.folders import data_kind
from experiments.pipeline.learning_curves import training_table
from experiments.pipeline.outcome import Outcome, Provenance
from experiments.pipeline.patient_scores import PatientScores, overall, patient_scores
from experiments.pipeline.report_figures import draw_figures
from experiments.pipeline.report_tables import diagnosis_tables, quality_tables, traffic_table
from experiments.pipeline.settings import FullStackSettings
from fedrecon.files import write_atomically
from fedrecon.reporting import Figure, Section, Table, format_table, write_report
from fedrecon.runtime import Workdir, peak_memory, read_log
from fedrecon.training import as_json, flat
from fedrecon.training.secure import sums_statement

_DIAGNOSIS = {
    "segmentation": "Dice is of patients (volumes) who have a lesion; those without count as falsely marked "
    "or not. The threshold was chosen on the validation patients.",
    "classification": "Slices are classified. The area under the curve counts pairs of slices within a site; "
    "its interval is from patients drawn with replacement.",
}
_CAPTIONS = {
    "segmentation": "Federated segmentation of a test image of each site.",
    "classification": "Receiver operating characteristic by site.",
}


def write_results(workdir: Workdir, settings: FullStackSettings, outcome: Outcome) -> dict[str, Any]:
    """Writes ``results.json``: every score, free of times, so that equal runs give equal files."""

    def diagnosed(found: Downstream | None) -> dict[str, Any] | None:
        if found is None:
            return None
        scores = {method: score._asdict() for method, score in found.scores.items()}
        return {"scores": scores, "unseen": found.unseen, "threshold": found.threshold}

    results = {
        "settings": flat(settings),
        "sites": outcome.sites,
        "notes": outcome.notes,
        "reconstruction": outcome.reconstruction.scores,
        "reconstruction_patients": _patients(outcome),
        "regularization_weights": outcome.reconstruction.weights,
        "segmentation": diagnosed(outcome.segmentation),
        "classification": diagnosed(outcome.classification),
        "training": {name: course._asdict() for name, course in outcome.courses.items()},
        "checks": outcome.checks,
        "traffic": [t._asdict() for t in outcome.traffic],
        "privacy": outcome.privacy,
    }
    results = as_json(results)
    write_atomically(workdir / "results.json", json.dumps(results, indent=2).encode())
    return results


def _patients(outcome: Outcome) -> dict[str, Any]:
    """Each patient's scores by method and site, and their means over the sites that train, with intervals."""
    each, apart = _scores_of_patients(outcome), outcome.reconstruction.unseen
    means = {}
    for method, found in each.items():
        here = {site: scores for site, scores in found.items() if site != apart}
        means[method] = {metric: overall(here, metric) for metric in ("psnr", "ssim", "nmse")}
    return {"each": jax.tree.map(np.ndarray.tolist, each), "overall": means}


def _scores_of_patients(outcome: Outcome) -> PatientScores:
    return patient_scores(outcome.reconstruction.images, outcome.reconstruction_tests())


def tables(outcome: Outcome) -> dict[str, list[Table]]:
    """The tables of each stage."""
    return {
        "reconstruction": quality_tables(outcome.reconstruction, outcome.tests["reconstruction"].names),
        **{stage: diagnosis_tables(stage, found) for stage, found in _diagnoses(outcome).items()},
        "traffic": [traffic_table(outcome.traffic)],
    }


def _diagnoses(outcome: Outcome) -> dict[str, Downstream]:
    """The later stages that there are."""
    every = {"segmentation": outcome.segmentation, "classification": outcome.classification}
    return {stage: found for stage, found in every.items() if found is not None}


def print_tables(outcome: Outcome) -> None:
    """Prints the site table, the first tables of each stage, the trainings and the traffic."""
    print("\n" + format_table(outcome.sites[0], outcome.sites[1:]))
    for stage, stage_tables in tables(outcome).items():
        for table in stage_tables[: 2 if stage == "reconstruction" else 1]:
            print(f"\n{table.caption}\n" + format_table(table.header, table.rows))
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        print("\n" + outcome.privacy["statement"] + "\n" + format_table(["site", "ε"], rows))
    for note in outcome.notes:
        print(f"\nNote: {note}")


def write_page(
    workdir: Workdir, settings: FullStackSettings, outcome: Outcome, provenance: Provenance
) -> Path:
    """Draws the figures and writes ``report.html``; returns its path."""
    stage_tables = tables(outcome)
    paths = draw_figures(
        workdir.path, outcome, _scores_of_patients(outcome), read_log(workdir / "metrics.jsonl")
    )
    sections = [
        Section("Sites", outcome.notes, [Table("", outcome.sites[0], outcome.sites[1:])]),
        Section(
            "Reconstruction",
            ["PSNR, SSIM and NMSE are per volume, with the range of the reference volume, averaged over test "
             "volumes. The classical weights were chosen on the validation split. A site's own network is "
             "scored on its own patients (at home) and, as the mean of the others, elsewhere."],
            stage_tables["reconstruction"],
            [Figure(paths["reconstruction"], "A test image of each shown site, with PSNR over the site's "
                    "test volumes; zoomed region framed; error maps below."),
             Figure(paths["psnr"], "PSNR by site and method."),
             Figure(paths["patients"], "PSNR of each test patient by method, and what the federated network "
                    "gains over the others for the same patient; boxes from quartile to quartile."),
             Figure(paths["worst"], "The patients of the lowest PSNR by the federated network, one of a "
                    "site, in the slice of the largest error, with the PSNR of the patient.")],
        ),
        Section("Checks of the reconstructions", _checks(outcome)),
        Section("Training", ["Networks are evaluated on the validation patients after each round. Steps are "
                             "those of one model: of the federated one, those of a site between averages.",
                             *(line for course in outcome.courses.values() for line in course.lines())],
                [training_table(outcome.courses)],
                [Figure(paths["training"], "Learning curves: validation and training loss by round.")]),
        *(Section(stage.capitalize(), [f"{_fine_tuning(found)} {_DIAGNOSIS[stage]}"], stage_tables[stage],
                  [Figure(paths[stage], _CAPTIONS[stage])])
          for stage, found in _diagnoses(outcome).items()),
        Section("Communication", ["Sizes of the float32 arrays exchanged, with the aggregation weights."],
                stage_tables["traffic"]),
    ]  # fmt: skip
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        sections.append(Section("Privacy", [outcome.privacy["statement"]], [Table("", ["site", "ε"], rows)]))
    if sums := sums_statement(settings.federation):
        sections.append(Section("Secure sums", [sums]))
    sections += _made_by(workdir, settings, provenance)
    path = workdir / "report.html"
    write_report(path, "Federated reconstruction to diagnosis", _lead(settings, outcome), sections)
    return path


def _checks(outcome: Outcome) -> list[str]:
    bounds = outcome.reconstruction.network.bounds._asdict().items()
    limits = ", ".join(f"{name} {value:.2g}" for name, value in bounds if value == value)
    found = [f"{site}: {text}." for site, texts in outcome.checks.items() for text in texts]
    lead = (
        "network.npz holds the federated network and bounds, half as much again as the largest values on the "
        f"sites' validation data ({limits}): of the part of the measured samples that an image leaves "
        "unexplained, in itself and in standard deviations of their noise, and of its distance from the "
        "regularized least-squares image."
    )
    return [lead, *(found or ["All test images are within them."])]


def _lead(settings: FullStackSettings, outcome: Outcome) -> str:
    kind = "Measured" if data_kind(settings) == "measured" else "Simulated (synthetic)"
    sites = f"{len(outcome.tests['reconstruction'].names)} sites that train together"
    if outcome.reconstruction.unseen:
        sites += " and one that does not"
    algorithm = settings.federation.algorithm
    return f"{kind} {settings.modality.upper()} cohort, {sites}; {algorithm}; seed {settings.seed}."


def _made_by(workdir: Workdir, settings: FullStackSettings, provenance: Provenance) -> list[Section]:
    environment = json.loads((workdir / "config.json").read_text()).get("environment", {})
    packages = environment.get("packages", {})
    rows = [
        ["command", provenance.command],
        ["seconds in this process", f"{provenance.seconds:.0f}"],
        *([["peak memory of this process", f"{peak / 1e6:.0f} MB"]] if (peak := peak_memory()) else []),
        *([["machine", _machine(environment["machine"])]] if "machine" in environment else []),
        ["seed", str(settings.seed)],
        ["versions", ", ".join(f"{name} {version}" for name, version in packages.items() if version)],
        *([name, str(environment[name])] for name in ("python", "backend", "git") if environment.get(name)),
    ]
    flags = [[name, str(value)] for name, value in flat(settings).items()]
    return [
        Section("How it was made", [], [Table("", ["", ""], rows, prose=True)]),
        Section("Settings", [], [Table("", ["flag", "value"], flags, prose=True)]),
    ]


def _machine(machine: dict[str, Any]) -> str:
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    return f"{machine['processor']}, {machine['processors']} processors{memory}, {machine['system']}"


def _fine_tuning(downstream: Downstream) -> str:
    if downstream.copied:
        return (
            f"The encoder starts from the reconstruction network, {len(downstream.copied)} arrays of it, "
            "and is trained on its images."
        )
    return "The network starts from random weights."
