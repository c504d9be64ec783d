"""Feature shift: clients whose images look as if from different scanners."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from fedrecon.data.clients.client_data import ClientData
from fedrecon.data.clients.partition import check_clients, checked_seed
from fedrecon.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class FeatureShift:
    """What a client's scanner does to its images: ``gain * blur(image)^gamma + noise``.

    Attributes:
      gain: factor.
      gamma: exponent of the magnitudes, relative to the largest of each image; signs are kept.
      noise: standard deviation of white Gaussian noise, in units of the images.
      blur: standard deviation of a Gaussian blur in pixels.
    """

    gain: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gain", "gamma"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ArgumentError(name, "a positive number", repr(getattr(self, name)))
        for name in ("noise", "blur"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ArgumentError(name, "a number of at least 0", repr(getattr(self, name)))


def draw_feature_shifts(clients: int, strength: float = 0.5, *, seed: int = 0) -> tuple[FeatureShift, ...]:
    """Scanners of different clients.

    The log of gain and gamma lies within ``± strength``, noise is up to ``0.2 strength`` and blur up to
    ``1.5 strength`` pixels, all uniform. Client k's does not depend on the number of clients.

    Raises:
      ValueError: ``strength`` is negative or ``clients`` not a positive integer.
    """
    check_clients(clients)
    if not (np.isfinite(strength) and strength >= 0):
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    draws = [np.random.default_rng([checked_seed(seed), 14, k]).uniform(size=4) for k in range(clients)]
    return tuple(
        FeatureShift(
            float(np.exp(strength * (2 * u[0] - 1))),
            float(np.exp(strength * (2 * u[1] - 1))),
            float(0.2 * strength * u[2]),
            float(1.5 * strength * u[3]),
        )
        for u in draws
    )


def shift_features(
    data: ClientData, shifts: Sequence[FeatureShift], *, key: str = "image", seed: int = 0
) -> ClientData:
    """Applies each client's shift to its images; padding stays zero, and nothing else changes.

    Args:
      data: clients whose examples have ``key``, float ``(clients, examples, ny, nx, channels)``.
      shifts: one for each client.
      key: the entry to change.
      seed: of the noise, drawn by the client's name.

    Raises:
      ValueError: lengths disagree, or there is no such entry of this shape.
    """
    if len(shifts) != data.clients:
        raise ArgumentError("shifts", f"one for each of {data.clients} clients", len(shifts))
    images = data.examples.get(key)
    if images is None or images.ndim != 5 or not np.issubdtype(images.dtype, np.floating):
        found = sorted(data.examples) if images is None else f"{images.dtype} {images.shape}"
        raise ArgumentError(f"key={key!r}", "a float entry (clients, examples, ny, nx, channels)", found)
    shifted = np.zeros_like(np.asarray(images))
    for index, (name, shift) in enumerate(zip(data.names, shifts, strict=True)):
        valid = np.asarray(data.valid[index])
        rng = np.random.default_rng([checked_seed(seed), 15, zlib.crc32(name.encode())])
        shifted[index, valid] = _shift(np.asarray(images[index])[valid], shift, rng)
    return dataclasses.replace(data, examples={**data.examples, key: shifted})


def _shift(images: np.ndarray, shift: FeatureShift, rng: np.random.Generator) -> np.ndarray:
    result = images
    if shift.blur:
        # The transfer function of a Gaussian; images repeat beyond their edges.
        fy, fx = np.fft.fftfreq(images.shape[1])[:, None], np.fft.rfftfreq(images.shape[2])
        transfer = np.exp(-2 * (np.pi * shift.blur) ** 2 * (fy**2 + fx**2))[..., None]
        spectrum = np.fft.rfft2(result, axes=(1, 2)) * transfer
        result = np.fft.irfft2(spectrum, s=images.shape[1:3], axes=(1, 2))
    if shift.gamma != 1:
        largest = np.abs(result).max(axis=(1, 2, 3), keepdims=True, initial=0)
        largest = np.where(largest > 0, largest, 1)
        result = np.sign(result) * largest * (np.abs(result) / largest) ** shift.gamma
    result = shift.gain * result
    if shift.noise:
        result = result + shift.noise * rng.normal(size=images.shape)
    return result.astype(images.dtype)
