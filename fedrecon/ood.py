"""Out-of-distribution verdicts for networks of images: how far an image is from those a network knows.

An image is told by numbers that depend on neither its matrix nor its subject: quantiles, the share of its
energy by spatial frequency and direction, where its mass lies, and its colors. The distance is that of
Mahalanobis to the mean of the training images, divided by the largest that occurred in validation, with a
margin. All of it follows from sums over images, and the largest distance at each site.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data import ClientData

# Room above what occurred in validation.
MARGIN = 1.5
# Images of a client that are looked at.
_MOST = 256
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BANDS = (0.02, 0.05, 0.1, 0.18, 0.3, 0.5)
_TINY = 1e-12


class Reference(NamedTuple):
    """What the images of a training are like.

    Attributes:
      mean: (features,) of `image_statistics`.
      whitening: (features, features); the norm of ``(statistics - mean) @ whitening`` is the distance.
      bound: distance of what is known; NaN is no bound.
    """

    mean: np.ndarray
    whitening: np.ndarray
    bound: float


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Numbers that tell images from others: ``(examples, ny, nx, channels)`` -> ``(examples, features)``.

    Gray values are means over channels. Of each image the mean, the deviation and quantiles of its gray
    values; logarithms of the energy in six bands of spatial frequency up to Nyquist, relative to all but the
    mean, and of the energy along rows over that along columns; center and spread of its mass; and the
    deviations of each channel's mean from the gray one.
    """
    images = np.asarray(images, np.float64)
    gray = images.mean(-1)
    ny, nx = gray.shape[1:]
    flat = gray.reshape(len(gray), -1)
    mean, deviation = flat.mean(1), flat.std(1)
    spectrum = np.abs(np.fft.fft2(gray - mean[:, None, None])) ** 2
    fy, fx = np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)
    radius = np.hypot(fy, fx)
    total = spectrum.sum((1, 2)) + _TINY
    edges = (0.0, *_BANDS[:-1], 1.0)
    bands = [
        spectrum[:, (radius >= low) & (radius < high)].sum(1) / total
        for low, high in itertools.pairwise(edges)
    ]
    along = [(spectrum * weight).sum((1, 2)) / total for weight in (fx**2 + 0 * fy, fy**2 + 0 * fx)]
    weight = np.abs(gray) / (np.abs(gray).sum((1, 2), keepdims=True) + _TINY)
    y, x = (np.arange(ny) + 0.5) / ny - 0.5, (np.arange(nx) + 0.5) / nx - 0.5
    centers = [(weight * place).sum((1, 2)) for place in (y[:, None], x)]
    spreads = [
        np.sqrt((weight * (place - center[:, None, None]) ** 2).sum((1, 2)))
        for place, center in zip((y[:, None], x[None]), centers, strict=True)
    ]
    columns = [mean, deviation, *np.quantile(flat, _QUANTILES, axis=1)]
    columns += [np.log(band + 1e-6) for band in bands]
    columns += [np.log((along[0] + 1e-9) / (along[1] + 1e-9)), *centers, *spreads]
    columns += list((images.mean((1, 2)) - mean[:, None]).T) if images.shape[-1] > 1 else []
    return np.stack(columns, 1)


def reference_of(train: np.ndarray, validation: np.ndarray) -> Reference:
    """The reference of statistics ``(examples, features)``.

    The covariance is shrunk to its diagonal by the number of features over that of images; deviations below
    1e-3 count as 1e-3, so that what is constant in training does not make everything strange.

    Args:
      train: of at least one image.
      validation: of the images that the bound is taken from; of none, there is no bound.
    """
    count, features = train.shape
    mean = train.mean(0)
    covariance = np.cov(train, rowvar=False, bias=True).reshape(features, features)
    part = min(1.0, features / count)
    covariance = (1 - part) * covariance + part * np.diag(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(np.maximum(values, 1e-6))
    known = Reference(mean, whitening, float("nan"))
    if not len(validation):
        return known
    return known._replace(bound=float(MARGIN * distances(validation, known).max()))


def distances(statistics: np.ndarray, reference: Reference) -> np.ndarray:
    """Distances ``(examples,)`` of statistics ``(examples, features)`` to the mean of the reference."""
    return np.linalg.norm((statistics - reference.mean) @ reference.whitening, axis=1)


def strangeness(images: np.ndarray, reference: Reference) -> np.ndarray:
    """Distances over the bound, ``(examples,)``: above 1 is unlike anything in validation; NaN: no bound."""
    return distances(image_statistics(images), reference) / reference.bound


def client_statistics(data: ClientData) -> np.ndarray:
    """Statistics of at most 256 valid images of each client, evenly chosen, all clients together.

    Images that are not finite are left out; the result has no row where none is left.
    """
    found = []
    for index in range(data.clients):
        rows = np.flatnonzero(data.valid[index])
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(int)]
        if len(rows):
            found.append(image_statistics(np.asarray(data.examples["image"][index])[rows]))
    statistics = np.concatenate(found) if found else np.zeros((0, 0))
    return statistics[np.isfinite(statistics).all(1)]


def as_document(reference: Reference) -> dict[str, Any]:
    """JSON-able."""
    return {
        "mean": reference.mean.tolist(),
        "whitening": reference.whitening.tolist(),
        "bound": None if np.isnan(reference.bound) else reference.bound,
    }


def from_document(document: dict[str, Any]) -> Reference:
    """Inverse of `as_document`.

    Raises:
      KeyError, TypeError, ValueError: the document is none of it.
    """
    mean, whitening = (np.asarray(document[name], np.float64) for name in ("mean", "whitening"))
    if mean.ndim != 1 or whitening.shape != (len(mean), len(mean)):
        raise ValueError(f"shapes {mean.shape} and {whitening.shape}")
    bound = document["bound"]
    return Reference(mean, whitening, float("nan") if bound is None else float(bound))


def verdict(values: Sequence[float] | np.ndarray) -> list[str]:
    """A sentence where some values of `strangeness` are above 1; none where everything is known."""
    values = np.asarray(values, float)
    over = ~(values <= 1) & ~np.isnan(values)
    if not over.any():
        return []
    return [
        f"{int(over.sum())} of {len(values)} images are unlike those of the training: distance "
        f"{float(np.nanmax(values)) * MARGIN:.2g} times the largest in validation"
    ]
