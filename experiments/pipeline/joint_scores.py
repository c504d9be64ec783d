"""Scores by patient of jointly trained models: images, masks, what is invented, and what shifts change."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.examples import each
from experiments.pipeline.joint_data import JointData, measure_full
from experiments.pipeline.joint_settings import JointSettings
from experiments.pipeline.joint_training import make_task, reconstructor
from fedrecon.data import ClientData
from fedrecon.tasks import dice, hausdorff95, ssim
from fedrecon.types import Batch, Variables
from operators import SENSE, CartesianFourier, cg

Row = dict[str, Any]
# Pixels around a mask that count as its region, and that a false positive is farther away than.
_NEAR = 2
# Iterations of conjugate gradients that project on what is measured.
_PROJECT = 40


class Evaluator(NamedTuple):
    """Compiled functions of models and batches, for all models of a run.

    Attributes:
      read: mode -> ``(model, batch) -> (complex images, marked, largest probability of a mark)``.
      consistency: ``(images, batch) -> (examples,)``, ``|A x - y| / |y|``.
      unmeasured: ``(images, batch) -> (examples,)``, norm of the part of images that A does not see.
    """

    read: dict[str, Callable]
    consistency: Callable
    unmeasured: Callable


def evaluator(settings: JointSettings, data: JointData) -> Evaluator:
    """The functions of a cohort's shapes."""
    network = reconstructor(settings)

    def read(mode: str) -> Callable:
        task = make_task(settings, data, mode)

        def function(model: Variables, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
            operators, measurements, initial = measure_full(batch)
            params = {"params": model.params["reconstruction"]}
            images = jnp.asarray(batch["target"])
            if mode != "oracle":
                images = network.apply(params, operators, measurements, initial)
            if mode == "rec_only":
                return images, jnp.zeros(batch["target"].shape, bool), jnp.zeros(len(batch["target"]))
            marks = task.predict(*model, batch)["output"][..., 1]
            return images, marks > 0.5, marks.max((1, 2))

        return jax.jit(function)

    def consistency(images: jax.Array, batch: Batch) -> jax.Array:
        operators, measurements, _ = measure_full(batch)
        predicted = jax.vmap(lambda A, x: A(x.astype(A.in_dtype)))(operators, images)
        axes = tuple(range(1, measurements.ndim))
        error = jnp.square(jnp.abs(predicted - measurements)).sum(axes)
        return jnp.sqrt(error / jnp.square(jnp.abs(measurements)).sum(axes))

    def unmeasured(images: jax.Array, batch: Batch) -> jax.Array:
        operators = measure_full(batch)[0]

        def one(A: Any, x: jax.Array) -> jax.Array:
            x = x.astype(A.in_dtype)
            seen = cg(A.gram, A.gram(x), iterations=_PROJECT)[0]
            return jnp.linalg.norm(x - seen)

        return jax.vmap(one)(operators, images)

    modes = ("joint", "rec_only", "oracle")
    return Evaluator({mode: read(mode) for mode in modes}, jax.jit(consistency), jax.jit(unmeasured))


class Outputs(NamedTuple):
    """What a model makes of a split, in the order of its valid examples."""

    images: np.ndarray
    marked: np.ndarray
    most: np.ndarray


def outputs(tool: Evaluator, mode: str, models: Sequence[Variables], data: ClientData) -> Outputs:
    """Applies each site's model to its examples; ``mode`` "joint" serves all that read reconstructions."""
    return Outputs(*each(tool.read[mode], models, data))


def patients_of(data: ClientData, names: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The patient and the site of every valid example."""
    site, place = np.nonzero(data.valid)
    volume = np.asarray(data.examples["volume"])[site, place]
    patient = np.asarray([names[s][v] for s, v in zip(site, volume, strict=True)])
    return patient, np.asarray(data.names)[site]


def patient_rows(
    tool: Evaluator, mode: str, found: Outputs, data: ClientData, names: Sequence[Sequence[str]]
) -> list[Row]:
    """Scores of each patient's volume.

    Returns:
      One row a patient with "patient", "site", and where there is such a thing "psnr" (dB), "nmse", "ssim",
      "region_nmse" (within and near the reference mask), "residual" (``|A x - y| / |y|``), "dice" of the
      volume, "hd95" (pixels, mean over slices that both mark), "away" (marked pixels of a slice that are far
      from the reference mask), "marks" (largest probability), and "volumes" of predicted and true masks of
      the two phases of hearts.
    """
    patient, site = patients_of(data, names)
    places = np.nonzero(data.valid)
    truth = {
        k: np.asarray(v)[places]
        for k, v in data.examples.items()
        if k in ("target", "segmentation", "systole")
    }
    residual = None
    if mode != "oracle":
        residual = _each_example(tool.consistency, found.images, data)
    rows = []
    for name in dict.fromkeys(patient):
        here = patient == name
        image, target = np.abs(found.images[here]), truth["target"][here]
        mask, marked = truth["segmentation"][here] > 0, found.marked[here]
        row: Row = {"patient": str(name), "site": str(site[here][0])}
        near = np.stack([_dilated(m, _NEAR) for m in mask])
        if mode != "oracle":
            error, peak = np.square(image - target), target.max()
            row |= {
                "psnr": 10 * np.log10(peak**2 / error.mean()),
                "nmse": error.sum() / np.square(target).sum(),
                "ssim": float(np.mean(_ssim(image, target, peak))),
                "residual": float(np.mean(residual[here])),
            }
            if near.any():
                row["region_nmse"] = error[near].sum() / np.square(target[near]).sum()
        if mode != "rec_only":
            ill = mask.any()
            row["marks"] = float(found.most[here].max())
            row["away"] = float((marked & ~near).sum() / len(marked))
            if ill:
                row["dice"] = float(dice(jnp.asarray(marked), jnp.asarray(mask), 3))
                both = marked.any((1, 2)) & mask.any((1, 2))
                row["hd95"] = _hd95(marked[both], mask[both])
            if "systole" in truth:
                late = truth["systole"][here] > 0
                row["volumes"] = [float(m[phase].sum()) for m in (marked, mask) for phase in (~late, late)]
        rows.append({k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()})
    return rows


def inserted(data: ClientData, seed: int) -> tuple[ClientData, np.ndarray]:
    """Test MRI with a small bright spot in every slice, and the spots (valid examples, n, n).

    Each is a Gaussian of one pixel's deviation and half of the brightness of the image, measured with the
    example's coils, outside of the reference mask, with the phase of the fully sampled image. No training
    image has one.
    """
    places = np.nonzero(data.valid)
    rng = np.random.default_rng([seed, 11])
    kspace = np.array(data.examples["kspace"])
    target, mask = (np.asarray(data.examples[k])[places] for k in ("target", "segmentation"))
    n = target.shape[-1]
    grid = np.arange(n)
    spots = np.zeros_like(target)
    for i, (image, marked) in enumerate(zip(target, mask, strict=True)):
        level = np.percentile(image, 99)
        allowed = (image > 0.2 * level) & ~_dilated(marked > 0, 4)
        allowed[:4], allowed[-4:], allowed[:, :4], allowed[:, -4:] = False, False, False, False
        choices = np.argwhere(allowed)
        y, x = choices[rng.integers(len(choices))] if len(choices) else (n // 4, n // 4)
        spots[i] = 0.5 * level * np.exp(-((grid[:, None] - y) ** 2 + (grid - x) ** 2) / 2)

    @jax.jit
    def measured(spot: jax.Array, maps: jax.Array, full: jax.Array) -> jax.Array:
        A = SENSE(CartesianFourier(spot.shape, jnp.ones(spot.shape)), maps)
        image = A.H(full)
        return A(spot * image / jnp.maximum(jnp.abs(image), 1e-6))

    for i, place in enumerate(zip(*places, strict=True)):
        kspace[place] += np.asarray(measured(spots[i], data.examples["coil_maps"][place], kspace[place]))
    return ClientData({**data.examples, "kspace": kspace}, data.valid, data.names), spots


def recovered(plain: Outputs, spotted: Outputs, spots: np.ndarray) -> float:
    """Mean contrast of inserted spots in reconstructions over their true one; 1 is all of it."""
    change = np.abs(spotted.images) - np.abs(plain.images)
    return float(np.mean((change * spots).sum((1, 2)) / np.square(spots).sum((1, 2))))


def unmeasured_difference(tool: Evaluator, first: Outputs, second: Outputs, data: ClientData) -> float:
    """Mean ``|(I - A+ A)(x - x')| / |x'|``: how far images differ in what no measurement tells."""
    change = _each_example(tool.unmeasured, first.images - second.images, data)
    return float(np.mean(change / np.linalg.norm(second.images, axis=(1, 2))))


def mean_of(rows: Sequence[Row], name: str) -> float:
    """The mean over the patients that have a value; NaN without."""
    values = [row[name] for row in rows if name in row and not np.isnan(row[name])]
    return float(np.mean(values)) if values else float("nan")


def _each_example(function: Callable, images: np.ndarray, data: ClientData) -> np.ndarray:
    placed = np.zeros((*data.valid.shape, *images.shape[1:]), images.dtype)
    placed[np.nonzero(data.valid)] = images
    with_images = ClientData({**data.examples, "found": placed}, data.valid, data.names)

    def apply(model: None, batch: Batch) -> jax.Array:
        del model
        return function(batch["found"], batch)

    return each(apply, [None] * data.clients, with_images)


@jax.jit
def _pair_ssim(image: jax.Array, target: jax.Array, peak: jax.Array) -> jax.Array:
    return ssim(image, target, peak)


def _ssim(images: np.ndarray, targets: np.ndarray, peak: float) -> list[float]:
    return [float(_pair_ssim(x, t, jnp.float32(peak))) for x, t in zip(images, targets, strict=True)]


_pair_hd95 = jax.jit(hausdorff95)


def _hd95(marked: np.ndarray, mask: np.ndarray) -> float:
    values = [float(_pair_hd95(a, b)) for a, b in zip(marked, mask, strict=True)]
    return float(np.mean(values)) if values else float("nan")


def _dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask
