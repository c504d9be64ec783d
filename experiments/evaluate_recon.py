"""Scores a trained reconstruction network on its test patients, beside methods that need no training.

Takes the directory of a finished run of experiments.train_recon, or of train_federated with
--task=reconstruction. PSNR, SSIM and NMSE of every patient by the released network, zero-filled images
(of CT filtered back-projection), Tikhonov and total variation, both tuned on the validation split; means over
patients with 95 % intervals by drawing patients, and the paired differences of the network.

Each site calibrates conformal intervals on its validation images by a histogram of scaled errors; the sum
over sites gives one quantile for all. Printed are coverage and width at every site of the test by that
quantile and by the site's own. For each site it also says which share of the energy of the network's images
lies in the null space of the measurement, where data say nothing, and which where they say so little that
Tikhonov's weight, of the validation split, takes it away. --lesions=RADII adds a disc of each radius
to the test images, measures it by the same operator with the same noise, and shows how much of its contrast
each method recovers. The run gets evaluation.json and evaluation.png: images, errors, half widths, and the
part of the null space.

--ensemble=RUNS are trainings that differ from the run in --member alone (or, on simulated data, in --seed):
the mean of the images of all is one more method, and for their standard deviation there are, within the
tissue of each site, its rank correlation with the error, the error over it, and how many errors are below
what 90 % of normal ones would be, before and after calibration on the validation images.

--posterior=N draws N images that explain each measurement, by the denoiser of a run of
--network=plug-and-play, and does the same with their mean and deviation; posterior.h5 gets samples, mean,
deviation and reference of the test images of each site, posterior.png some of them.

  python -m experiments.train_recon --workdir=runs/recon --rounds=2
  python -m experiments.evaluate_recon --workdir=runs/recon
  python -m experiments.evaluate_recon --workdir=runs/recon --coverage=0.95 --json
  python -m experiments.evaluate_recon --workdir=runs/recon --lesions=1.5,3 --lesion_contrast=0.3
  python -m experiments.train_recon --workdir=runs/second --rounds=2 --member=1
  python -m experiments.evaluate_recon --workdir=runs/recon --ensemble=runs/second
  python -m experiments.train_recon --workdir=runs/prior --network=plug-and-play
  python -m experiments.evaluate_recon --workdir=runs/prior --posterior=16
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments.export import read_run
from experiments.pipeline import recon_ensemble, recon_posterior
from experiments.pipeline.cohorts import Split
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.patient_scores import PatientScores, overall, patient_scores
from experiments.pipeline.recon_ensemble import ENSEMBLE, mean_and_deviation, open_members
from experiments.pipeline.recon_posterior import POSTERIOR
from experiments.pipeline.recon_report import METRICS, NETWORK, Images, Tests, figure, table
from experiments.pipeline.recon_safety import contrast_of_lesions, undetermined
from experiments.pipeline.reconstruction import classical, classical_solvers, images_of, physics_of
from fedrecon.data import ClientData
from fedrecon.evaluation import conformal_quantile, coverage, error_scale, score_histogram
from fedrecon.files import replacing, write_atomically
from fedrecon.learned import CheckedNetwork, load_network, make_images, start_images
from fedrecon.runtime import ending, run_program
from fedrecon.tasks import measure_of
from fedrecon.training import FlagError, as_json

# Where no validation split chose a weight.
_CUTOFF = 1e-2


class Evaluated(NamedTuple):
    """What `evaluate` finds.

    Attributes:
      document: what evaluation.json has.
      figure: of evaluation.png.
      posterior: samples of the test images by site, if any were drawn.
    """

    document: dict[str, Any]
    figure: Figure
    posterior: dict[str, recon_posterior.Drawn]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True, **options)
    flags.DEFINE_float("coverage", 0.9, "Level of the conformal intervals.", 0.5, 0.999, **options)
    flags.DEFINE_list("lesions", [], "Radii of lesions to add, in pixels; none by default.", **options)
    flags.DEFINE_float("lesion_contrast", 0.3, "Their contrast, of the image below.", 0.001, 100.0, **options)
    flags.DEFINE_list(
        "ensemble", [], "Further runs whose images are averaged with those of --workdir.", **options
    )
    flags.DEFINE_integer(
        "posterior",
        0,
        "Samples of each image to draw, of a run of --network=plug-and-play.",
        0,
        1000,
        **options,
    )
    flags.DEFINE_bool("json", False, "Print JSON, nothing else.", **options)


def evaluate(
    settings: TrainSettings,
    network: CheckedNetwork,
    level: float,
    radii: tuple[float, ...] = (),
    lesion_contrast: float = 0.3,
    members: Sequence[CheckedNetwork] = (),
    samples: int = 0,
) -> Evaluated:
    """Scores of the test patients.

    Args:
      settings: of the run.
      network: that it released.
      level: of the intervals.
      radii: of lesions, in pixels.
      lesion_contrast: of these.
      members: further networks of the same architecture, from `open_members`.
      samples: of the posterior distribution, by a denoiser; 0 for none.
    """
    data = load_data(settings)
    measure = measure_of(data.train.examples)
    tuned = data.validation is not None
    split = Split(data.train, data.validation if tuned else data.test, data.test, data.unseen)
    _, images, weights = classical(measure, split, physics_of(data.train.examples), tuned=tuned)
    compiled = make_images(network.architecture.build(), measure)

    direct = start_images(measure)

    def starts(part: ClientData) -> np.ndarray:
        return images_of(lambda _, batch: direct(batch), [None] * part.clients, part)

    def magnitudes(part: ClientData, voter: CheckedNetwork = network) -> np.ndarray:
        models = [voter.variables] * part.clients
        return images_of(lambda model, batch: jnp.abs(compiled(model, batch)), models, part)

    parts = tuple(part for part in (data.test, data.unseen) if part is not None)
    tests: Tests = {name: (part, i) for part in parts for i, name in enumerate(part.names)}

    crowds: dict[str, Callable[[ClientData], np.ndarray]] = {}
    if members:
        crowds[ENSEMBLE] = lambda part: np.stack([magnitudes(part, v) for v in (network, *members)])
    if samples:
        crowds[POSTERIOR] = recon_posterior.sampler(network, measure, samples, settings.seed)
    images[NETWORK] = _by_site(magnitudes, parts)
    drawn = {name: _by_site(crowd, parts, 1) for name, crowd in crowds.items()}
    deviations = {}
    for name, of in drawn.items():
        images[name], deviations[name] = mean_and_deviation(of)
    images = {"reference": {name: np.asarray(_references(*of)) for name, of in tests.items()}} | images
    scores = patient_scores(images, tests)
    document: dict[str, Any] = {
        "methods": {name: {m: overall(of, m) for m in METRICS} for name, of in scores.items()},
        "differences": differences(scores),
        "sites": {
            name: {site: {m: _mean(of[m]) for m in METRICS} for site, of in by_site.items()}
            for name, by_site in scores.items()
        },
        "weights": weights,
        "unseen": [] if data.unseen is None else list(data.unseen.names),
    }
    cutoff = next((weight for name, weight in weights.items() if name.startswith("CG")), _CUTOFF)
    missing = undetermined(compiled, measure, network.variables, cutoff, *parts)
    shares = {
        site: {"null": _mean(of), "weak": _mean(missing.weak[site])} for site, of in missing.null.items()
    }
    document["undetermined"] = {"cutoff": cutoff, "sites": shares}
    if radii:
        solvers = classical_solvers(measure, physics_of(data.train.examples))
        methods: dict[str, Callable] = {
            name: partial(_solved, solver, weights.get(name, 0.0))
            for name, solver in solvers.items()
            if name in images
        } | {NETWORK: magnitudes}
        methods |= {name: lambda part, crowd=crowd: crowd(part).mean(0) for name, crowd in crowds.items()}
        document["lesions"] = {
            f"{radius:g}": contrast_of_lesions(
                methods, measure, parts, radius, lesion_contrast, settings.seed
            )
            for radius in radii
        }
    scales: dict[str, np.ndarray] = {}
    kept: Tests = {}
    if data.validation is not None:
        kept = {name: (data.validation, i) for i, name in enumerate(data.validation.names)}
        known = _by_site(magnitudes, [data.validation])
        start = _by_site(starts, [data.validation]), _by_site(starts, parts)
        found = intervals((known, start[0], kept), (images[NETWORK], start[1], tests), level)
        document["intervals"], scales = found
    document["deviations"] = {}
    for name, crowd in crowds.items():
        validation = None
        if data.validation is not None:
            validation = (*mean_and_deviation(_by_site(crowd, [data.validation], 1)), kept)
        judged = recon_ensemble.judge(validation, (images[name], deviations[name], tests), level)
        document["deviations"][name] = {"count": len(next(iter(drawn[name].values())))} | judged
    posterior = {
        site: recon_posterior.Drawn(x, images["reference"][site], tests[site][0].valid[tests[site][1]])
        for site, x in drawn.get(POSTERIOR, {}).items()
    }
    return Evaluated(
        document, figure(images, scales, tests, document["sites"], missing, deviations), posterior
    )


def _by_site(
    function: Callable[[ClientData], np.ndarray], parts: Sequence[ClientData], axis: int = 0
) -> Images:
    """What a function makes of parts of the data, with the sites along ``axis``, by site."""
    return {
        site: x
        for part in parts
        for site, x in zip(part.names, np.moveaxis(function(part), axis, 0), strict=True)
    }


def _solved(solver: Callable, weight: float, part: ClientData) -> np.ndarray:
    return images_of(solver, [jnp.float32(weight)] * part.clients, part)


def differences(scores: PatientScores) -> dict[str, dict[str, Any]]:
    """Method -> metric -> mean difference of the network to it over patients, with an interval of 95 %."""
    found: dict[str, dict[str, Any]] = {}
    for method, by_site in scores.items():
        if method == NETWORK:
            continue
        paired = {
            site: {m: scores[NETWORK][site][m] - of[m] for m in METRICS} for site, of in by_site.items()
        }
        found[method] = {m: overall(paired, m) for m in METRICS}
    return found


def intervals(
    kept: tuple[Images, Images, Tests], tested: tuple[Images, Images, Tests], level: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(quantiles and coverage at each site, half widths of the tested images by the quantile of all sites).

    Args:
      kept, tested: images by the network, images that it starts from, and data, each by site.
      level: of coverage.
    """
    histograms = {}
    for site, (part, client) in kept[2].items():
        errors, scale, counted = _errors(kept[0][site], kept[1][site], part, client)
        histograms[site] = score_histogram(errors / np.where(counted, scale, 1), counted)
    common = conformal_quantile(np.sum(list(histograms.values()), 0), level)
    sites: dict[str, Any] = {}
    widths = {}
    for site, (part, client) in tested[2].items():
        errors, scale, counted = _errors(tested[0][site], tested[1][site], part, client)
        own = conformal_quantile(histograms[site], level) if site in histograms else math.nan
        sites[site] = {
            "common": coverage(errors, scale, counted, common)._asdict(),
            "own": coverage(errors, scale, counted, own)._asdict() | {"quantile": own},
        }
        widths[site] = common * scale
    return {"level": level, "quantile": common, "sites": sites}, widths


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        radii = _radii(values.lesions)
        folder = Path(values.workdir)
        run = read_run(folder)
        settings = run.settings
        if not isinstance(settings, TrainSettings) or settings.task != "reconstruction":
            raise FlagError(
                "workdir", "a run of experiments.train_recon", f"{folder}, of another program or task"
            )
        if values.posterior == 1 or (values.posterior and settings.network != "plug-and-play"):
            raise FlagError(
                "posterior",
                "2 samples or more, of a run of --network=plug-and-play",
                f"{values.posterior} of --network={settings.network}",
            )
        members = open_members(values.ensemble, folder, settings)
        document, drawn, posterior = evaluate(
            settings,
            load_network(folder),
            values.coverage,
            radii,
            values.lesion_contrast,
            members,
            values.posterior,
        )
        if posterior:
            recon_posterior.save(folder / "posterior.h5", posterior)
            with replacing(folder / "posterior.png") as path:
                figure = recon_posterior.figure(posterior)
                figure.savefig(path, format="png", dpi=110, facecolor="black")
        content = as_json(document)
        write_atomically(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
        with replacing(folder / "evaluation.png") as path:
            drawn.savefig(path, format="png", dpi=110, facecolor="black")
    print(json.dumps(content) if values.json else table(document))


def _radii(texts: list[str]) -> tuple[float, ...]:
    try:
        radii = tuple(float(text) for text in texts)
    except ValueError:
        radii = (math.nan,)
    if not all(1 <= radius <= 100 for radius in radii):
        raise FlagError("lesions", "radii of 1 to 100 pixels, such as 1.5,3", ",".join(texts))
    return radii


def _references(part: ClientData, client: int) -> np.ndarray:
    return np.abs(np.asarray(part.examples["target"][client]))


def _errors(
    images: np.ndarray, start: np.ndarray, part: ClientData, client: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(absolute errors, scales, which pixels count), each (examples, ny, nx)."""
    errors = np.abs(images - _references(part, client))
    scale = error_scale(images, start)
    counted = np.asarray(part.valid[client])[:, None, None] & (scale > 0)
    return errors, scale, np.broadcast_to(counted, errors.shape)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


if __name__ == "__main__":
    define_flags()
    run_program(main)
