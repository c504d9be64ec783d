"""Sinograms of CT as volumes."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from fedrecon.data.folders.files import Item
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.folders.masks import segmentation_of
from fedrecon.data.folders.volume import Volume, labels_of, volume_of
from fedrecon.data.formats import DataError, read_ct_measurement
from operators import fbp


def read_ct(item: Item, manifest: Manifest) -> Iterator[Volume]:
    """The slices of a planar geometry, by filtered back-projection.

    Raises:
      DataError: it is damaged, or of a cone beam.
    """
    measurement = read_ct_measurement(item.path, group=item.group)
    if len(measurement.image_shape) == 3:
        expected = "fan or parallel beams; reconstruct cones first (experiments.reconstruct)"
        raise DataError(item.path, None, expected, "a cone beam")
    ny, nx = measurement.image_shape
    values = jnp.asarray(measurement.values)
    image = np.asarray(fbp(values, measurement.geometry, (ny, nx), measurement.pixel_size), np.float32)
    image = image[..., None]
    spacing = (measurement.slice_distance, measurement.pixel_size, measurement.pixel_size)
    yield volume_of(
        item,
        image=image,
        segmentation=segmentation_of(item, manifest, image.shape[:3], None),
        labels=labels_of(item, len(image)),
        spacing=spacing if measurement.unit == "mm" else None,
        unit=f"attenuation, 1/{measurement.unit}",
    )
