"""Reconstructs an undersampled scan that has no reference, by methods compared at samples none of them saw.

Of the measured samples outside of the center of k-space, --judged are taken away before anything else: the
error there, |A x - y| / |y|, is what methods are compared by, beside what noise alone would leave.
--validated of the others choose: weights of Tikhonov, l1-wavelet and total variation, and of BART's
l1-wavelet where it is installed, and when to end the training of a network on this scan alone (MoDL,
self-supervised by samples held out in each step; with --network=implicit a network of coordinates, whose
number of steps they choose). Images are then made of all samples but the judged. All methods have the same
ESPIRiT maps; both l1-wavelets shift their transform at random.

  python -m experiments.zero_shot --input=brain.h5 --output=zero_shot.png --json=zero_shot.json
  python -m experiments.zero_shot --input=brain.h5 --output=implicit.png --network=implicit
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

import operators
from experiments.pipeline.quality_solvers import NotComputedError, bart_wavelet
from fedrecon.classical import prepare
from fedrecon.classical_maps import calibration_size, coil_maps
from fedrecon.data import Measurement, read_measurement
from fedrecon.errors import ArgumentError
from fedrecon.files import replacing, write_atomically
from fedrecon.models import MoDL
from fedrecon.priors import implicit_representation
from fedrecon.reporting import format_table
from fedrecon.runtime import Progress, ending, run_program
from fedrecon.tasks import mri_measure
from fedrecon.training import FlagError, as_json
from fedrecon.types import Batch
from fedrecon.zero_shot import sample_distance, within_band, zero_shot

WEIGHTS = (2e-5, 6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2, 6e-2)
_CALIBRATION = 24
# Of --network; --steps and --learning_rate are by default those of each.
NETWORKS = {"modl": "self-supervised", "implicit": "implicit"}
STEPS, RATES = {"modl": 300, "implicit": 600}, {"modl": 1e-3, "implicit": 3e-2}
WITHOUT = "zero-filled"
# Most steps between looks at the samples that validate.
EVERY = 50

# solve(batch, weight) -> complex image (1, ny, nx).
Solve = Callable[[Batch, float], Any]


class Divided(NamedTuple):
    """A slice whose samples are divided.

    Attributes:
      batch: as `mri_measure` has it, of one example, without the judged samples.
      whole: the same with them.
      validation, judged: bool (1, ny, nx).
      noise: standard deviation of a complex sample, in the unit of the batch.
    """

    batch: Batch
    whole: Batch
    validation: np.ndarray
    judged: np.ndarray
    noise: float


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    flags.DEFINE_string("input", None, "File of the measurement, Cartesian MRI.", required=True, **options)
    flags.DEFINE_string("output", None, "PNG file of the images.", required=True, **options)
    flags.DEFINE_string("json", None, "File for the errors, as JSON.", **options)
    flags.DEFINE_integer("slice", 0, "Which slice, from 0.", 0, **options)
    flags.DEFINE_float("judged", 0.1, "Part of the samples that judge.", 0.01, 0.5, **options)
    flags.DEFINE_float("validated", 0.1, "Part of the others that choose.", 0.01, 0.5, **options)
    flags.DEFINE_enum("network", "modl", list(NETWORKS), "What is trained on the scan alone.", **options)
    flags.DEFINE_integer("steps", None, "Most steps of the training (300; implicit: 600).", 1, **options)
    flags.DEFINE_integer("cascades", 5, "Cascades of modl.", 1, **options)
    flags.DEFINE_integer("channels", 16, "Channels of modl.", 1, **options)
    flags.DEFINE_float("total_variation", 0.02, "Weight of implicit.", 0.0, **options)
    flags.DEFINE_float("learning_rate", None, "Of the training (0.001; implicit: 0.03).", 0.0, **options)
    flags.DEFINE_integer("seed", 0, "Of the divisions and the network.", 0, **options)


def divide(measurement: Measurement, place: int, judged: float, validated: float, seed: int) -> Divided:
    """A slice with its maps, and samples that judge and validate, drawn uniformly outside of the center.

    Raises:
      ValueError: the measurement has no such slice, a trajectory or no fully sampled center.
    """
    if measurement.mask is None or len(measurement.image_shape) != 2:
        raise ArgumentError("input", "slices of Cartesian MRI", "a trajectory or a volume")
    if place >= len(measurement.kspace):
        raise ArgumentError("slice", f"a number below {len(measurement.kspace)}", place)
    prepared = prepare(measurement)
    measurement = prepared.measurement
    kspace, mask = measurement.kspace[place], np.asarray(measurement.mask[place]) > 0
    block = calibration_size(measurement, place, _CALIBRATION)
    if min(block) < 4:
        raise ArgumentError("input", "a fully sampled center of k-space", " x ".join(map(str, block)))
    maps = jax.jit(lambda y: coil_maps(y, block, "espirit", prepared.noise))(jnp.asarray(kspace))
    center = np.ones(mask.shape, bool)
    for axis, (n, size) in enumerate(zip(mask.shape, block, strict=True)):
        inside = np.abs(np.arange(n) - n // 2) <= size // 2
        center &= inside[:, None] if axis == 0 else inside[None]
    draws = np.random.default_rng(seed).random(mask.shape)
    free = mask & ~center
    judges = free & (draws < judged)
    chooses = free & ~judges & (draws < judged + (1 - judged) * validated)
    whole = {"kspace": jnp.asarray(kspace)[None], "mask": jnp.asarray(mask, jnp.float32)[None]}
    whole["coil_maps"] = jnp.asarray(maps)[None]
    noise = float(np.sqrt(2) * prepared.noise)
    return Divided(without(whole, judges[None]), whole, chooses[None], judges[None], noise)


def without(batch: Batch, samples: np.ndarray) -> Batch:
    """The measurement without some of its samples."""
    mask = jnp.where(samples, 0, batch["mask"])
    return {**batch, "mask": mask, "kspace": batch["kspace"] * (mask[:, None] != 0)}


def methods() -> dict[str, Solve]:
    """What needs no training, by name."""

    def solver(function: Callable) -> Solve:
        @jax.jit
        def solve(batch: Batch, weight: Any) -> jax.Array:
            stacked, y, _ = mri_measure(batch)
            found: jax.Array = jax.vmap(lambda A, y: function(A, y, weight))(stacked, y)
            return found

        return solve

    found: dict[str, Solve] = {
        "CG-SENSE (L2)": solver(lambda A, y, w: operators.cg_sense(A, y, regularization=50 * w)),
        "l1-wavelet": solver(lambda A, y, w: operators.l1_wavelet(A, y, w, key=jax.random.key(0))),
        "TV": solver(operators.total_variation),
    }
    if shutil.which("bart"):
        found["BART l1-wavelet"] = lambda batch, weight: bart_wavelet(
            np.asarray(batch["kspace"][0]), np.asarray(batch["coil_maps"][0]), weight
        )[None]
    return found


def compare(divided: Divided, options: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what the JSON has, image of each method)."""
    distance = jax.jit(sample_distance)
    taught = without(divided.batch, divided.validation)
    images: dict[str, Any] = {}
    chosen: dict[str, dict[str, Any]] = {}
    stacked, y, _ = mri_measure(divided.batch)
    images[WITHOUT] = jax.jit(jax.vmap(lambda A, y: A.H(y)))(stacked, y)
    for name, solve in methods().items():
        begin, errors = time.perf_counter(), []
        with Progress(name, len(WEIGHTS)) as bar:
            try:
                for weight in WEIGHTS:
                    image = jnp.asarray(solve(taught, weight))
                    errors.append(float(distance(image, divided.batch, divided.validation)))
                    bar.advance(1)
                best = int(np.argmin(errors))
                images[name] = jnp.asarray(solve(divided.batch, WEIGHTS[best]))
            except NotComputedError as error:
                print(f"notice: {name} was not computed: {error}")
                continue
        seconds = time.perf_counter() - begin
        chosen[name] = {"weight": WEIGHTS[best], "validation": errors[best], "seconds": seconds}
    begin, name = time.perf_counter(), NETWORKS[options.network]
    steps = options.steps or STEPS[options.network]
    with Progress(name, steps) as bar:
        trained = train(divided, options, steps, bar.advance)
    images[name] = trained.image
    chosen[name] = {
        "steps": trained.steps[trained.best],
        "validation": trained.errors[trained.best],
        "seconds": time.perf_counter() - begin,
        "course": dict(zip(map(str, trained.steps), trained.errors, strict=True)),
    }
    energy = jnp.square(jnp.abs(divided.whole["kspace"] * divided.judged[:, None])).sum()
    samples = int(divided.judged.sum()) * divided.whole["kspace"].shape[1]
    found = {
        name: {"judged": float(distance(image, divided.whole, divided.judged)), **chosen.get(name, {})}
        for name, image in images.items()
    }
    document = {
        "methods": found,
        "noise": float(divided.noise * np.sqrt(samples / energy)),
        "samples": samples,
    }
    return document, {name: np.abs(np.asarray(image[0])) for name, image in images.items()}


def train(divided: Divided, options: Any, steps: int, progress: Callable[[int], None]) -> Any:
    """`ZeroShot` or `Implicit`, whose image has an axis of one example."""
    key = jax.random.key(options.seed)
    rate = RATES[options.network] if options.learning_rate is None else options.learning_rate
    if options.network == "modl":
        network = MoDL(options.cascades, options.channels, 2)
        known = divided.batch, divided.validation
        return zero_shot(network, *known, key, steps=steps, learning_rate=rate, progress=progress)
    stacked, y, _ = mri_measure(divided.batch)
    operator = jax.tree.map(lambda leaf: leaf[0], stacked)
    found = implicit_representation(
        operator,
        y[0],
        divided.validation,
        key,
        total_variation=options.total_variation,
        steps=steps,
        every=max(d for d in range(1, EVERY + 1) if steps % d == 0),
        learning_rate=rate,
        progress=progress,
    )
    image = within_band(found.image[None], divided.batch["mask"])
    return found._replace(image=image)


def figure(images: dict[str, np.ndarray], document: dict[str, Any]) -> Figure:
    """Images beside each other, each with a zoom of its middle below."""
    drawn = Figure(figsize=(2.2 * len(images), 5), facecolor="black", layout="constrained")
    axes = drawn.subplots(2, len(images), squeeze=False)
    ny, nx = next(iter(images.values())).shape
    middle = np.s_[ny // 2 - ny // 6 : ny // 2 + ny // 6, nx // 2 - nx // 6 : nx // 2 + nx // 6]
    for (name, image), upper, lower in zip(images.items(), *axes, strict=True):
        bright = np.percentile(image, 99.5)
        for axis, shown in ((upper, image), (lower, image[middle])):
            axis.imshow(shown, cmap="gray", vmin=0, vmax=bright, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        error = document["methods"][name]["judged"]
        upper.set_title(f"{name}\nerror {error:.3f}", color="white", fontsize=8)
    return drawn


def table(document: dict[str, Any]) -> str:
    """What is printed."""
    rows = []
    for name, of in document["methods"].items():
        how = f"weight {of['weight']:g}" if "weight" in of else f"step {of['steps']}" if "steps" in of else ""
        validated = f"{of['validation']:.4f}" if how else ""
        seconds = f"{of['seconds']:.1f}" if how else ""
        rows.append([name, f"{of['judged']:.4f}", validated, how, seconds])
    rows.append(["noise alone", f"{document['noise']:.4f}", "", "", ""])
    return format_table(["method", "error, judged", "validation", "chosen", "seconds"], rows)


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        output = Path(values.output)
        if output.suffix != ".png" or not output.parent.is_dir():
            raise FlagError("output", "a name ending in .png, in an existing folder", values.output)
        if values.json and not Path(values.json).parent.is_dir():
            raise FlagError("json", "a file in an existing folder", values.json)
        measurement = read_measurement(values.input)
        try:
            divided = divide(measurement, values.slice, values.judged, values.validated, values.seed)
        except ArgumentError as error:
            raise FlagError(error.name, error.expected, error.found) from error
        document, images = compare(divided, values)
        drawn = figure(images, document)
        with replacing(output) as path:
            drawn.savefig(path, format="png", dpi=110, facecolor="black")
        if values.json:
            text = json.dumps(as_json(document), indent=2) + "\n"
            write_atomically(Path(values.json), text.encode())
        print(table(document))


if __name__ == "__main__":
    define_flags()
    run_program(main)
