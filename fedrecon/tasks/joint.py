"""Reconstruction and what reads its images as one task: from the measurement to the mask or diagnosis."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.tasks.image_quality import magnitude, reconstruction_metrics
from fedrecon.tasks.interface import combined, interface_images, interface_scale, with_gradients
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.tasks.readings import Reading
from fedrecon.tasks.reconstruction import Augment
from fedrecon.tasks.reconstruction_losses import reconstruction_losses
from fedrecon.tasks.sample_losses import Measure
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Groups of parameters: of the reconstruction and of what reads its images.
GROUPS = ("reconstruction", "task")


class Mode(NamedTuple):
    """What is trained.

    Attributes:
      reconstruction: whether the reconstruction is trained by its own loss.
      reader: whether the reader is trained.
      through: whether the loss of the reader trains the reconstruction, too.
      reference: whether the reader sees reference images in place of reconstructions.
    """

    reconstruction: bool
    reader: bool
    through: bool
    reference: bool


# `frozen` and `finetune` differ in what they start from: a new reader, or one of reference images.
MODES = {
    "rec_only": Mode(True, False, False, False),
    "frozen": Mode(False, True, False, False),
    "finetune": Mode(False, True, False, False),
    "joint": Mode(True, True, True, False),
    "task_only": Mode(False, True, True, False),
    "oracle": Mode(False, True, False, True),
}


def joint_task(
    reconstructor: nn.Module,
    reader: nn.Module,
    measure: Measure,
    example: Mapping,
    *,
    mode: str,
    reading: Reading,
    strength: float = 0.1,
    reference_weight: float = 0.5,
    project: bool = False,
    ssim_weight: float = 0.1,
    augment: Augment | None = None,
    chunk: int = 8,
) -> Task:
    """Trains a reconstruction x = f(y), a reader g of its images, or both together.

    The loss is ``m_rec L_rec(x, t) + m_task L_task(g(N(x))) + reference_weight m_task L_task(g(N(t)))`` with
    the terms that the mode trains. N divides the magnitude by the 99th percentile of ``|A^H y|``, so that f
    cannot gain by scaling its images. At the interface gradients are not those of this sum: with
    ``a = dL_rec/dx`` and ``b = dL_task/dx``, f is trained by ``a + strength b`` and g by L_task itself,
    whatever the strength. Examples may lack either half: those without a measurement show g their reference,
    over its own percentile, and train nothing else.

    Modes: "rec_only" trains f; "frozen" and "finetune" train g on what f returns (the first a new g, the
    second one that the "oracle" has trained, by what they start from); "joint" trains both; "task_only" both
    by L_task alone; "oracle" trains g on the references, and reads those.

    Args:
      reconstructor: f, called as in `reconstruction_task`; ``remat=True`` of unrolled networks recomputes
        each step in the backward pass.
      reader: g, called as ``reader(image, train=, valid=)`` with images (examples, ny, nx, 1) of N.
      measure: as in `reconstruction_task`; the operators stay in the client's examples.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: what ``measure`` reads, "target", "data_range"
        and "volume" as in `reconstruction_task`, the reading's target, and perhaps "measured" and "labeled"
        (examples,), the masks m_rec and m_task, 1 where left out.
      mode: one of `MODES`.
      reading: loss and scores of g, as `segmentation_reading` and `classification_reading` make.
      strength: of b in the gradient of f; a batch with "interface" (examples,) has its own, the same in all
        examples, as `fedrecon.federated.interface_balance` gives.
      reference_weight: of the loss on references, which keeps g valid on them; 0 leaves it out.
      project: where a and b disagree (a negative inner product), b loses its part along a.
      ssim_weight: of L_rec, see `reconstruction_losses`.
      augment: ``augment(key, batch) -> batch`` changes examples in training.
      chunk: examples evaluated at a time.

    Returns:
      A task with params and stats ``{"reconstruction": of f, "task": of g}``. Training reports "loss" (of the
      terms that are trained), and of "joint" and "task_only" the norms of a and b and their "cosine".
      ``metrics`` are "loss", those of `reconstruction_metrics` of measured examples (not in "oracle") and
      those of the reading (not in "rec_only"). ``predict`` returns {"image": (examples, ny, nx) magnitude,
      "output": the reading's prediction}.

    Raises:
      ArgumentError: an unknown mode, a negative or infinite weight, or a missing key in ``example``.
    """
    if mode not in MODES:
        raise ArgumentError("mode", f"one of {', '.join(MODES)}", repr(mode))
    for name, value in (("strength", strength), ("reference_weight", reference_weight)):
        if not 0 <= value < float("inf"):
            raise ArgumentError(name, "a number of 0 or more", value)
    check_batch(example, ("target", "data_range", "volume", reading.target))
    trained = MODES[mode]
    shape = (1, *example["target"].shape[1:], 1)
    f = network(reconstructor, measure, example)
    g = network(reader, lambda batch: (batch["image"],), {"image": jax.ShapeDtypeStruct(shape, jnp.float32)})

    def read(params: PyTree, stats: PyTree, images: jax.Array, reference: Any, batch: Batch, key: Any) -> Any:
        """Loss of the reader in training: (total, (stats, losses of the interface))."""
        measured, labeled = _masks(batch)
        seen, again = images, labeled & measured
        twice = reference_weight > 0 and not trained.reference
        valid = batch["valid"]
        if twice:
            seen, valid = jnp.concatenate([images, reference]), jnp.concatenate([valid, valid])
        output, stats = g.train(params, stats, {"image": seen[..., None], "valid": valid}, key)
        if not twice:
            value = reading.loss(output, batch, labeled)
            return value, (stats, value)
        halves = [jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], output) for i in range(2)]
        value = reading.loss(halves[0], batch, labeled)
        return value + reference_weight * reading.loss(halves[1], batch, again), (stats, value)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if augment is not None:
            batch, key = augment(key, batch), jax.random.fold_in(key, 1)
        measured, labeled = _masks(batch)
        reference = magnitude(batch["target"])
        new = dict(stats)
        scale = _scales(measure, batch, measured)
        images, error, a = reference, jnp.float32(0), jnp.float32(0)
        if not trained.reference:
            own = params["reconstruction"], stats["reconstruction"]
            if trained.reconstruction or trained.through:
                images, new["reconstruction"] = f.train(*own, batch, key)
            else:
                images = f.evaluate(*own, batch)
        # Seen by nothing that XLA could fuse with f: its arithmetic does not depend on the reader's.
        fixed = jax.lax.optimization_barrier(jax.lax.stop_gradient(images))
        if trained.reconstruction:
            scored = {**batch, "valid": batch["valid"] & measured}
            error, a = jax.value_and_grad(lambda x: _error(x, scored, ssim_weight))(fixed)
        if not trained.reader:
            value = with_gradients(error, images, a)
            return value, (new, {"loss": _counted(value, batch["valid"])})

        def task_loss(own: PyTree, x: jax.Array) -> Any:
            shown = interface_images(x, reference, scale, measured)
            return read(
                own, stats["task"], shown, reference / _column(scale), batch, jax.random.fold_in(key, 2)
            )

        (value, (new["task"], _)), (of_reader, b) = jax.value_and_grad(task_loss, (0, 1), has_aux=True)(
            params["task"], fixed
        )
        norms: Metrics = {}
        inputs, gradients = {"reader": params["task"]}, {"reader": of_reader}
        if trained.through:
            factor = batch["interface"][0] if "interface" in batch else jnp.float32(strength)
            c, found = combined(a if trained.reconstruction else None, b, factor, project=project)
            norms = _present(found, (measured & batch["valid"]).any(), (measured & labeled).any())
            inputs["images"], gradients["images"] = images, c
        elif trained.reconstruction:
            inputs["images"], gradients["images"] = images, a
        value = with_gradients(error + value, inputs, gradients)
        return value, (new, {"loss": _counted(value, batch["valid"]), **norms})

    def show(params: PyTree, stats: PyTree, batch: Batch) -> tuple[jax.Array, PyTree, jax.Array]:
        """(complex images, the reader's output, scales) in evaluation."""
        measured, _ = _masks(batch)
        reference = magnitude(batch["target"])
        scale = _scales(measure, batch, measured)
        images = reference
        if not trained.reference:
            images = f.evaluate(params["reconstruction"], stats["reconstruction"], batch)
        shown = interface_images(images, reference, scale, measured)
        output = (
            ()
            if not trained.reader
            else g.evaluate(params["task"], stats["task"], {"image": shown[..., None]})
        )
        return images, output, scale

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> dict[str, PyTree]:
        images, output, _ = show(params, stats, batch)
        return {"image": magnitude(images), "output": reading.predict(output) if trained.reader else ()}

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        images, output, _ = map_chunks(lambda part: show(params, stats, part), batch, chunk)
        measured, labeled = _masks(batch)
        scored = {**batch, "valid": batch["valid"] & measured}
        found: Metrics = {}
        value = jnp.zeros(len(batch["valid"]), jnp.float32)
        if trained.reconstruction:
            each, counted = reconstruction_losses(_compared(images, batch), scored, ssim_weight)
            value += jnp.where(counted, each, 0)
        if trained.reader:
            each = reading.losses(output, batch, labeled)
            value += jnp.where(labeled, each, 0)
            found |= reading.metrics(output, {**batch, "valid": labeled})
        if not trained.reference:
            target = magnitude(batch["target"])
            found |= reconstruction_metrics(magnitude(images), {**scored, "target": target})
        return {"loss": total(value, batch["valid"]), **found}

    def init(key: jax.Array) -> Variables:
        keys = jax.random.split(key)
        parts = [net.init(own) for net, own in zip((f, g), keys, strict=True)]
        return _together(parts)

    return Task(init, loss, metrics, predict, _together([f.normalization, g.normalization]))


def _together(parts: list[Variables]) -> Variables:
    return Variables(*(dict(zip(GROUPS, both, strict=True)) for both in zip(*parts, strict=True)))


def _masks(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which examples have a measurement (examples,), and which valid ones a label."""
    every = jnp.ones_like(batch["valid"])
    measured, labeled = (batch.get(name, every) > 0 for name in ("measured", "labeled"))
    return measured, labeled & batch["valid"]


def _scales(measure: Measure, batch: Batch, measured: jax.Array) -> jax.Array:
    operators, measurements, _ = measure(batch)
    return interface_scale(operators, measurements, magnitude(batch["target"]), measured)


def _column(x: jax.Array) -> jax.Array:
    return x[:, None, None]


def _compared(images: jax.Array, batch: Batch) -> jax.Array:
    """What is compared with the target: complex images where it is complex."""
    return images if jnp.iscomplexobj(batch["target"]) else magnitude(images)


def _error(images: jax.Array, batch: Batch, ssim_weight: float) -> jax.Array:
    return mean(*reconstruction_losses(_compared(images, batch), batch, ssim_weight))


def _counted(value: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    seen = valid.sum(dtype=float)
    return value * seen, seen


def _present(norms: dict[str, jax.Array], measured: jax.Array, labeled: jax.Array) -> Metrics:
    """Norms as (value, 1) where the batch has what they are of, else (0, 0)."""
    has = {"error_norm": measured, "task_norm": labeled, "cosine": measured & labeled}
    return {name: (jnp.where(has[name], x, 0), has[name].astype(float)) for name, x in norms.items()}
