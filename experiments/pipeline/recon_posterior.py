"""Samples of the images that explain measurements, by a denoiser that was trained as a prior."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.pipeline.examples import each
from fedrecon.data import ClientData
from fedrecon.files import replacing
from fedrecon.learned import CheckedNetwork
from fedrecon.reporting import plot_reconstructions
from fedrecon.tasks import noise_level

POSTERIOR = "posterior mean"
# Deviations are drawn as errors are; so many samples are drawn beside them.
GAIN, _SHOWN, _MOST_SITES = 5, 3, 3
_LEAST_NOISE = 1e-3


class Drawn(NamedTuple):
    """Magnitudes of samples of the test images of a site.

    Attributes:
      samples: (samples, examples, ny, nx), 0 at padding.
      reference: (examples, ny, nx).
      valid: (examples,).
    """

    samples: np.ndarray
    reference: np.ndarray
    valid: np.ndarray


def sampler(
    network: CheckedNetwork, measure: Callable, count: int, seed: int
) -> Callable[[ClientData], np.ndarray]:
    """``draw(part)``: magnitudes of samples, (samples, clients, examples, ny, nx), 0 at padding.

    The noise is `noise_level`, carried through what ``measure`` makes of samples; behind the ramp filter of
    CT it is taken for white.

    Args:
      network: of a "plug-and-play" run.
      measure: as in ``reconstruction_task``.
      count: of samples.
      seed: of the draws.
    """
    model = network.architecture.build()

    def draw(variables: Any, batch: Any) -> jax.Array:
        stacked, measurements, _ = measure(batch)
        name = "kspace" if "kspace" in batch else "sinogram"
        level, samples = noise_level(batch), batch[name]
        kind = jnp.complex64 if jnp.iscomplexobj(samples) else jnp.float32
        made = level * jax.random.normal(jax.random.key(seed), samples.shape, kind)
        if "mask" in batch:
            made = made * (batch["mask"][:, None] != 0)
        noise = measure({**batch, name: made})[1]
        axes = tuple(range(1, noise.ndim))
        power = jnp.square(jnp.abs(noise)).sum(axes) / jnp.maximum((jnp.abs(measurements) > 0).sum(axes), 1)
        parts = 2 if jnp.iscomplexobj(noise) else 1
        deviation = jnp.maximum(jnp.sqrt(power / parts), _LEAST_NOISE)
        keys = jax.vmap(lambda place: jax.random.fold_in(jax.random.key(seed), place))(batch["place"])

        def one(number: jax.Array) -> jax.Array:
            own = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            weights = {"params": variables.params}
            found: Any = model.apply(weights, stacked, measurements, own, deviation, method="sample")
            return jnp.abs(found)

        return jax.lax.map(one, jnp.arange(count)).swapaxes(0, 1)

    compiled = jax.jit(draw)

    def of(part: ClientData) -> np.ndarray:
        place = np.arange(part.valid.size).reshape(part.valid.shape)
        known = ClientData(part.examples | {"place": place}, part.valid, part.names)
        values = each(compiled, [network.variables] * part.clients, known)
        whole = np.zeros((*part.valid.shape, *values.shape[1:]), np.float32)
        whole[np.nonzero(part.valid)] = values
        return np.moveaxis(whole, 2, 0)

    return of


def save(path: Path, drawn: dict[str, Drawn]) -> None:
    """HDF5: for each site a group of samples, mean, deviation and reference of the valid images."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for site, of in drawn.items():
            group, samples = file.create_group(site), of.samples[:, of.valid]
            group["samples"] = samples
            group["mean"], group["deviation"] = samples.mean(0), samples.std(0, ddof=1)
            group["reference"] = of.reference[of.valid]


def figure(drawn: dict[str, Drawn]) -> Figure:
    """Of the first sites the middle image: reference, mean, deviation, and samples."""
    panels = []
    for site, of in list(drawn.items())[:_MOST_SITES]:
        valid = np.flatnonzero(of.valid)
        if not len(valid):
            continue
        samples, reference = of.samples[:, valid[len(valid) // 2]], of.reference[valid[len(valid) // 2]]
        mean = samples.mean(0)
        spread = f"deviation × {GAIN}; below, error of the mean"
        images = {"reference": reference, POSTERIOR: mean, spread: GAIN * samples.std(0, ddof=1)}
        images |= {f"sample {i + 1}": x for i, x in enumerate(samples[:_SHOWN])}
        ny, nx = reference.shape
        zoom = (ny // 2 - ny // 8, nx // 2 - nx // 8, ny // 4, nx // 4)
        panels.append(
            {"site": site, "images": images, "zoom": zoom, "below": {spread: abs(mean - reference)}}
        )
    return plot_reconstructions(panels, {})
