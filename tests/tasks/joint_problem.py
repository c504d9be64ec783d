"""A small problem of reconstruction and reading, for tests: two coils, random images, smooth networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data import ClientData, stack_clients
from fedrecon.models import Unrolled, gradient_step, regularized
from fedrecon.tasks import classification_reading, joint_task, mri_measure, segmentation_reading
from fedrecon.types import Task

SIZE, COILS = 8, 2


class Smooth(nn.Module):
    """R(x): a convolution of real and imaginary part, smooth, so that differences converge."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        y = nn.Conv(2, (3, 3), param_dtype=x.real.dtype)(jnp.stack([x.real, x.imag], -1))
        return 0.3 * jax.lax.complex(*jnp.moveaxis(jnp.tanh(y), -1, 0))


class Reader(nn.Module):
    """Two logits of an image: a convolution and a mean."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        y = jnp.tanh(nn.Conv(2, (3, 3), param_dtype=image.dtype)(image))
        return nn.Dense(2, param_dtype=image.dtype)(jnp.square(y).mean((1, 2)))


class Marker(nn.Module):
    """A logit of every pixel."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        return nn.Conv(1, (3, 3), param_dtype=image.dtype)(image)


def batch_of(examples: int, seed: int = 0, double: bool = False) -> dict[str, Any]:
    """Random images, measured on some of the columns with noise."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    image, maps = normal(examples, SIZE, SIZE), normal(examples, COILS, SIZE, SIZE)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    mask = np.broadcast_to(rng.random((examples, 1, SIZE)) < 0.6, (examples, SIZE, SIZE)).astype(float)
    shifted = np.fft.ifftshift(maps * image[:, None], axes=(-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
    kspace = (kspace + 0.05 * normal(*kspace.shape)) * mask[:, None]
    target = np.abs(image)
    real, complex_ = (np.float64, np.complex128) if double else (np.float32, np.complex64)
    return {
        "kspace": kspace.astype(complex_),
        "mask": mask.astype(real),
        "coil_maps": maps.astype(complex_),
        "target": target.astype(real),
        "data_range": target.max((1, 2)).astype(real),
        "volume": np.arange(examples, dtype=np.int32),
        "label": rng.integers(0, 2, examples).astype(np.int32),
        "segmentation": (target > 1).astype(real),
    }


def network(steps: int = 2, remat: bool = False) -> Unrolled:
    """Gradient steps, each with a smooth convolution."""
    return Unrolled(regularized(gradient_step(), Smooth()), steps, remat=remat)


def make(
    mode: str,
    *,
    masks: bool = False,
    steps: int = 2,
    remat: bool = False,
    double: bool = False,
    **options: Any,
) -> Task:
    """The task of a mode, which reads a label, or with ``masks`` a mask, from two unrolled steps."""
    batch = batch_of(1, double=double) | {
        "measured": np.ones(1, np.float32),
        "labeled": np.ones(1, np.float32),
    }
    example = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    reader, reading = (Marker(), segmentation_reading()) if masks else (Reader(), classification_reading())
    return joint_task(
        network(steps, remat), reader, mri_measure, example, mode=mode, reading=reading, **options
    )


def valid(batch: dict[str, Any]) -> dict[str, Any]:
    """On the device, with every example valid."""
    arrays = {name: jnp.asarray(x) for name, x in batch.items()}
    return {**arrays, "valid": jnp.ones(len(batch["label"]), bool)}


def clients(
    labeled: tuple[int, ...] = (1, 1), measured: tuple[int, ...] = (1, 1), size: int = 4
) -> ClientData:
    """Clients of ``size`` and more examples, all with or all without labels and measurements."""
    parts = []
    for number, (has_label, has_data) in enumerate(zip(labeled, measured, strict=True)):
        batch = batch_of(size + number, seed=number)
        full = np.ones(size + number, np.float32)
        parts.append({**batch, "labeled": has_label * full, "measured": has_data * full})
    return stack_clients(parts, [f"site {number}" for number in range(len(labeled))])
