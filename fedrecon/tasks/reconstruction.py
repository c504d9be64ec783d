"""Reconstruction of images from raw measurements."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.image_quality import magnitude, reconstruction_metrics
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.tasks.reconstruction_losses import l1_ssim, reconstruction_losses
from fedrecon.tasks.sample_losses import Measure, ReconstructionLoss
from fedrecon.types import Batch, Metrics, PyTree, Task
from operators import SENSE, CartesianFourier, LinearOperator, ParallelBeam
from operators.ct import filtered_radon

Augment = Callable[[jax.Array, Batch], Batch]


def reconstruction_task(
    model: nn.Module,
    measure: Measure,
    example: Mapping,
    *,
    ssim_weight: float = 0.1,
    chunk: int = 8,
    augment: Augment | None = None,
    loss: ReconstructionLoss | None = None,
) -> Task:
    """Trains a network to reconstruct images from measurements.

    The loss of an example, with x the magnitude of the reconstruction, t its target and r the maximum of
    the target's volume: ``mean |x - t| / r + ssim_weight (1 - SSIM(x, t; r))``. At the default weight both
    terms are of one magnitude. Examples of a blank volume, whose range is 0, do not count. With another
    ``loss`` the network is trained by that one; evaluation is the same.

    Args:
      model: called as ``model(operators, measurements, initial, train=, valid=)``, such as ``VarNet``, or
        without those of the last two that it does not take; returns (examples, ny, nx), real or complex.
      measure: ``measure(batch) -> (operators, measurements, initial)``: the stacked operators, the data
        they are compared with and the starting images or None.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: what ``measure`` reads, and "target",
        "data_range", "volume" as in ``reconstruction_metrics``.
      ssim_weight: weight of the structural part.
      chunk: examples reconstructed at a time in ``metrics``, which bounds memory.
      augment: ``augment(key, batch) -> batch`` changes examples in training, such as `random_mirrors`.
      loss: of training, such as the function of one of ``RECONSTRUCTION_LOSSES``.

    Returns:
      A task; ``metrics`` are those of ``reconstruction_metrics`` per volume and "loss" per example;
      ``predict`` returns magnitudes (examples, ny, nx).

    Raises:
      ValueError: a key is missing in ``example``.
    """
    check_batch(example, ("target", "data_range", "volume"))
    net = network(model, measure, example)

    trained_by = l1_ssim(ssim_weight) if loss is None else loss

    def task_loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if augment is not None:
            batch, key = augment(key, batch), jax.random.fold_in(key, 1)
        updated = [stats]

        def reconstruct(batch: Batch) -> jax.Array:
            images, updated[0] = net.train(params, updated[0], batch, key)
            return images

        each = trained_by(reconstruct, measure, batch, jax.random.fold_in(key, 2))
        return mean(*each), (updated[0], {"loss": total(*each)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return magnitude(net.evaluate(params, stats, batch))

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        images = map_chunks(lambda part: predict(params, stats, part), batch, chunk)
        evaluated = total(*reconstruction_losses(images, batch, ssim_weight))
        return {"loss": evaluated, **reconstruction_metrics(images, batch)}

    return Task(net.init, task_loss, metrics, predict, net.normalization)


def random_mirrors(key: jax.Array, batch: Batch) -> Batch:
    """Mirrors each example of `mri_measure` along x and along y, each with probability 1/2.

    Images and k-space are mirrored alike, about pixel N // 2: the measurement stays that of the image.
    """
    names = [name for name in ("kspace", "mask", "coil_maps", "target") if name in batch]

    def mirrored(key: jax.Array, arrays: list[jax.Array]) -> list[jax.Array]:
        for axis, flip in zip((-1, -2), jax.random.bernoulli(key, 0.5, (2,)), strict=True):
            arrays = [
                jnp.where(flip, jnp.roll(jnp.flip(x, axis), 1 - x.shape[axis] % 2, axis), x) for x in arrays
            ]
        return arrays

    arrays = [jnp.asarray(batch[name]) for name in names]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(arrays[0])))
    return {**batch, **dict(zip(names, jax.vmap(mirrored)(keys, arrays), strict=True))}


def mri_measure(batch: Batch) -> tuple[LinearOperator, jax.Array, None]:
    """Multi-coil Cartesian MRI: stacked ``SENSE`` operators and measured k-space.

    Args:
      batch: "mask" (examples, ny, nx) float, 1 where measured; "coil_maps" and "kspace" (examples, coils,
        ny, nx) complex.

    Returns:
      (operators, kspace, None).
    """

    def operator(mask: jax.Array, coil_maps: jax.Array) -> LinearOperator:
        return SENSE(CartesianFourier(coil_maps.shape[-2:], mask), coil_maps)

    return jax.vmap(operator)(batch["mask"], batch["coil_maps"]), batch["kspace"], None


def ct_measure(
    image_shape: tuple[int, int],
    detector_count: int,
    detector_spacing: float = 1.0,
    pixel_size: float = 1.0,
) -> Measure:
    """Parallel-beam CT: stacked ``filtered_radon`` operators, whose adjoint of the data is the FBP image.

    Args:
      image_shape: (ny, nx).
      detector_count: detector elements, all sites alike.
      detector_spacing: distance of the elements, in the unit of length of the sinograms.
      pixel_size: width of the pixels, in the same unit.

    Returns:
      ``measure(batch) -> (operators, measurements, None)``, which reads "sinogram" (examples, views,
      detector_count) line integrals of what "target" holds, "angles" (examples, views) in radians,
      "view_mask" (examples, views) float, 1 at real views and 0 at padding, and perhaps "axis_offset"
      (examples,), where the rotation axis is on the detector.
    """

    def operator(angles: jax.Array, view_mask: jax.Array, *offset: jax.Array) -> LinearOperator:
        places = {"axis_offset": offset[0]} if offset else {}
        geometry = ParallelBeam(angles, detector_count, detector_spacing, **places)
        return filtered_radon(geometry, image_shape, pixel_size, view_mask)

    def measure(batch: Batch) -> tuple[LinearOperator, jax.Array, None]:
        names = ("angles", "view_mask", *(("axis_offset",) if "axis_offset" in batch else ()))
        operators = jax.vmap(operator)(*(batch[name] for name in names))
        measurements = jax.vmap(lambda B, sinogram: B.prepare(sinogram))(operators, batch["sinogram"])
        return operators, measurements, None

    return measure


def measure_of(example: Mapping) -> Measure:
    """`mri_measure`, or of examples with a "sinogram" `ct_measure` in lengths of pixels.

    Args:
      example: arrays (examples, ...), or what has their shapes.
    """
    if "sinogram" not in example:
        return mri_measure
    ny, nx = example["target"].shape[-2:]
    return ct_measure((ny, nx), example["sinogram"].shape[-1])
