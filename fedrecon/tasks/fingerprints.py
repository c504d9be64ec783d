"""A segmentation configured by rules from what sites tell of their training images."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.tasks.configuration import Configuration, configure, fingerprint


class Configured(NamedTuple):
    """How a segmentation is trained.

    Attributes:
      configuration: patch, batch, halvings and intensities, by nnU-Net's rules.
      normalization: "image", by the moments of each image and channel, or "foreground", clipped and then by
        the moments of foreground pixels of all sites, as of CT.
      told: sites that were counted; the others have too few patients.
    """

    configuration: Configuration
    normalization: str
    told: tuple[str, ...]

    def as_document(self) -> dict[str, Any]:
        """JSON-able; not a number is None."""
        values = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in self.configuration._asdict().items()
        }
        return {"configuration": values, "normalization": self.normalization, "told": list(self.told)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Configured":
        """Inverse of `as_document`."""
        given = document["configuration"]
        values: dict[str, Any] = {
            name: math.nan if value is None else _frozen(value) for name, value in given.items()
        }
        return cls(Configuration(**values), document["normalization"], tuple(document["told"]))

    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """What is done to whole images (examples, [nz,] ny, nx, channels)."""
        if self.normalization == "image":
            return _by_image
        found = self.configuration

        def by_foreground(image: jax.Array) -> jax.Array:
            return (jnp.clip(image, found.low, found.high) - found.mean) / max(found.deviation, 1e-8)

        return by_foreground

    def sentence(self) -> str:
        """For the notes of a run."""
        found = self.configuration
        foreground = self.normalization == "foreground"
        whose = "foreground pixels of all sites" if foreground else "each image"
        sizes = (" x ".join(map(str, size)) for size in (found.patch, found.shape))
        return (
            f"Configured by the rules of nnU-Net from counts of {len(self.told)} sites "
            f"({', '.join(self.told)}): patches of {next(sizes)} pixels of images of {next(sizes)}, "
            f"{found.batch} in a step, {' and '.join(map(str, found.pools))} halvings along the axes, "
            f"intensities by the moments of {whose}."
        )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _by_image(image: jax.Array) -> jax.Array:
    axes = tuple(range(1, image.ndim - 1))
    deviation = image.std(axes, keepdims=True)
    return (image - image.mean(axes, keepdims=True)) / jnp.maximum(deviation, 1e-8)


def configured(
    sites: Mapping[str, Mapping[str, Any]],
    *,
    channels: int,
    classes: int = 2,
    minimum: int = 5,
    normalization: str = "image",
) -> Configured:
    """Configures a segmentation by nnU-Net's rules from the sites' fingerprints, see `configure`.

    Sites count sizes and spacings of their training images ("spacing" of the examples, else 1) and their
    foreground intensities, with counts below ``minimum`` suppressed; one with fewer patients ("volume" of
    the examples, else each example) tells nothing. Nothing else leaves a site. Patches are no larger than
    the images.

    Args:
      sites: of each its training examples, arrays "image" and "segmentation", perhaps "volume" and
        "spacing".
      channels: of the network at the finest level.
      classes: the background among them.
      minimum: 1 or more.
      normalization: "image" or "foreground".

    Raises:
      ValueError: no site has enough patients, or no pixel of foreground is told where it is needed.
    """
    prints, told, sizes = [], [], ()
    for name, examples in sites.items():
        image, labels = (np.asarray(examples[key]) for key in ("image", "segmentation"))
        sizes = labels.shape[1:]
        if len(np.unique(examples.get("volume", np.arange(len(labels))))) < minimum:
            continue
        shapes = [sizes] * len(labels)
        # Moments of several channels are not one number.
        marked = image[labels > 0].ravel() if image.shape[-1] == 1 else ()
        spacings = examples.get("spacing", np.ones((len(labels), len(sizes))))
        prints.append(fingerprint(shapes, spacings, marked, minimum))
        told.append(name)
    if not prints:
        raise ArgumentError("configure", f"a site with {minimum} training patients or more", "none")
    found = configure(prints, channels=channels, classes=classes)
    if normalization == "foreground" and not math.isfinite(found.low * found.deviation):
        raise ArgumentError("configure", "foreground pixels of one channel", "none that were told")
    # Images are not brought to the spacing, and their sizes may be no multiples of the halvings.
    patch = tuple(min(p, n) for p, n in zip(found.patch, sizes, strict=True))
    return Configured(found._replace(patch=patch), normalization, tuple(told))
