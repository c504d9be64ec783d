"""Sinograms in HDF5: the LoDoPaB-CT data set, parallel-beam tomography, the Helsinki Tomography Challenge."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import operators
from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_array, read_attributes

# Leuschner et al. 2021: images span 26 cm and are divided by this attenuation, in 1/m.
LODOPAB_FIELD = 260.0
LODOPAB_ATTENUATION = 81.35858


@dataclasses.dataclass(frozen=True)
class Sinogram:
    """Line integrals with their geometry, in the conventions of `operators`.

    Attributes:
      values: float32 ``(..., views, detectors)``, dimensionless line integrals.
      angles: float64 ``(views,)`` in radians.
      detector_spacing: distance of neighboring detector elements, in ``unit``.
      unit: of all lengths, ``"mm"`` or ``"pixel"``.
      axis_offset: position of the projected rotation axis along the detector, in ``unit``.
      source_distance: of the source from the rotation axis; None for parallel beams.
      detector_distance: of the flat detector from the rotation axis; None for parallel beams.
      image: float32 attenuation in 1/``unit``, or bool mask, ``(..., ny, nx)``, row 0 at the top; None when
        there is none.
      pixel_size: of the image, in ``unit``; None when not known.
      raw: counts as measured ``(..., views, detectors)``; None when there are none.
      white: counts without object ``(frames, ..., detectors)``; None when there are none.
      dark: counts without beam ``(frames, ..., detectors)``; None when there are none.
    """

    values: np.ndarray
    angles: np.ndarray
    detector_spacing: float
    unit: str
    axis_offset: float = 0.0
    source_distance: float | None = None
    detector_distance: float | None = None
    image: np.ndarray | None = None
    pixel_size: float | None = None
    raw: np.ndarray | None = None
    white: np.ndarray | None = None
    dark: np.ndarray | None = None

    @property
    def geometry(self) -> "operators.ParallelBeam | operators.FanBeam":
        """The geometry as `operators.Radon` takes it."""
        count = self.values.shape[-1]
        if self.source_distance is None:
            return operators.ParallelBeam(
                self.angles, count, self.detector_spacing, axis_offset=self.axis_offset
            )
        assert self.detector_distance is not None, "both distances or none"
        return operators.FanBeam(
            self.angles, count, self.detector_spacing, self.source_distance, self.detector_distance
        )


def read_lodopab(observation: str | os.PathLike, ground_truth: str | os.PathLike | None = None) -> Sinogram:
    """Reads a file of LoDoPaB-CT, such as ``observation_train_000.hdf5`` and ``ground_truth_train_000.hdf5``.

    Line integrals and attenuation are scaled back to their units (the files hold both divided by the largest
    attenuation, 81.35858 / m). Stored images have x along the first axis and y upwards along the second; they
    are turned to row 0 at the top. The geometry is that of the data set: 1000 angles at the middles of equal
    parts of 180 degrees, 513 elements over the diagonal of the 260 mm field of view, of which each image has
    362 x 362 pixels; other numbers of views, elements and pixels share that arc and these lengths.

    Args:
      observation: file whose ``data`` is float ``(images, views, detectors)``.
      ground_truth: file whose ``data`` is float ``(images, n, n)``; None for none.

    Returns:
      `Sinogram` in mm, values ``(images, views, detectors)``, image ``(images, n, n)`` in 1/mm.

    Raises:
      DataError: a file is missing or damaged, or ``data`` is missing, of the wrong type or shape, or not
        finite.

    Source: Leuschner et al., "LoDoPaB-CT, a benchmark dataset for low-dose computed tomography
    reconstruction", Sci. Data 8:109, 2021.
    """
    with open_hdf5(observation) as file:
        values = read_array(file, "data", kinds="f", ndim=3, dtype=np.float32)
    image = None
    if ground_truth is not None:
        with open_hdf5(ground_truth) as file:
            shape = (len(values), None, None)
            image = read_array(file, "data", kinds="f", ndim=3, dtype=np.float32, shape=shape)
        if image.shape[1] != image.shape[2]:
            raise DataError(ground_truth, "data", "square images", f"shape {image.shape}")
        image = np.ascontiguousarray(np.rot90(image, axes=(1, 2))) * np.float32(LODOPAB_ATTENUATION / 1000)
    _, views, detectors = values.shape
    return Sinogram(
        values=values * np.float32(LODOPAB_ATTENUATION),
        angles=(np.arange(views) + 0.5) * math.pi / views,
        detector_spacing=LODOPAB_FIELD * 2**0.5 / detectors,
        unit="mm",
        image=image,
        pixel_size=None if image is None else LODOPAB_FIELD / image.shape[1],
    )


def read_tomography(path: str | os.PathLike) -> Sinogram:
    """Reads a parallel-beam measurement of one or more detector rows.

    The file holds ``sinogram`` ``(rows, views, detectors)``, ``angles_deg`` ``(views,)``, the attributes
    ``detector_pixel`` (length of an element, in pixels) and ``rotation_centre_pixel`` (index of the element
    at the rotation axis, with a fraction), and, all or none of them, ``raw_counts`` as ``sinogram``,
    ``raw_white`` and ``raw_dark`` ``(frames, rows, detectors)``.

    Returns:
      `Sinogram` in pixels, values ``(rows, views, detectors)``.

    Raises:
      DataError: the file is missing or damaged, or an entry is missing, of the wrong type or shape, or not
        finite.
    """
    with open_hdf5(path) as file:
        values = read_array(file, "sinogram", kinds="f", ndim=3, dtype=np.float32)
        rows, views, detectors = values.shape
        angles = _read_angles(file, "angles_deg", views)
        raw = white = dark = None
        if any(key in file for key in ("raw_counts", "raw_white", "raw_dark")):
            options: dict[str, Any] = {"kinds": "fiu", "ndim": 3, "dtype": np.float32}
            raw = read_array(file, "raw_counts", shape=values.shape, **options)
            white, dark = (
                read_array(file, key, shape=(None, rows, detectors), **options)
                for key in ("raw_white", "raw_dark")
            )
        attributes = read_attributes(file)
        spacing = _number(path, attributes, "detector_pixel", positive=True)
        center = _number(path, attributes, "rotation_centre_pixel")
    if not 0 <= center <= detectors - 1:
        raise DataError(
            path, "@rotation_centre_pixel", f"an element from 0 to {detectors - 1}", f"{center:.6g}"
        )
    return Sinogram(
        values=values,
        angles=angles,
        detector_spacing=spacing,
        unit="pixel",
        axis_offset=(center - (detectors - 1) / 2) * spacing,
        raw=raw,
        white=white,
        dark=dark,
    )


def read_htc(path: str | os.PathLike) -> dict[str, Sinogram]:
    """Reads the limited arcs of a disc of the Helsinki Tomography Challenge 2022.

    The file holds one group per arc with ``sinogram`` ``(views, detectors)`` and ``angles_deg`` ``(views,)``,
    optionally ``mask`` ``(ny, nx)``, 1 where there is acrylic, and the attributes ``source_to_origin_mm``,
    ``source_to_detector_mm``, ``detector_pixel_mm`` and ``recon_pixel_mm``. A stored angle is the view's
    angle in the conventions of `operators.FanBeam` and the order of the elements is theirs.

    Returns:
      The `Sinogram` in mm of every arc by the name of its group; image is the mask, the same for all.

    Raises:
      DataError: the file is missing or damaged, has no arc, or an entry is missing, of the wrong type or
        shape, or not finite.

    Source: Meaney, Moura and Siltanen, Helsinki Tomography Challenge 2022 open tomographic dataset, Zenodo
    6984868, 2022.
    """
    with open_hdf5(path) as file:
        attributes = read_attributes(file)
        source, detector, spacing, pixel = (
            _number(path, attributes, f"{key}_mm", positive=True)
            for key in ("source_to_origin", "source_to_detector", "detector_pixel", "recon_pixel")
        )
        if detector <= source:
            raise DataError(
                path, "@source_to_detector_mm", f"more than source_to_origin_mm = {source}", f"{detector}"
            )
        mask = None
        if "mask" in file:
            mask = read_array(file, "mask", kinds="biu", ndim=2)
            if not np.isin(mask, (0, 1)).all():
                raise DataError(path, "mask", "values 0 and 1", f"values from {mask.min()} to {mask.max()}")
            mask = mask.astype(bool)
        # Asking a link for its class follows it only where it leads into this file.
        arcs = [
            key
            for key in file
            if not isinstance(file.get(key, getlink=True), h5py.ExternalLink)
            and isinstance(file.get(key), h5py.Group)
        ]
        if not arcs:
            raise DataError(path, None, "a group for each arc", f"the keys {sorted(file)}")
        result = {}
        for arc in arcs:
            values = read_array(file, f"{arc}/sinogram", kinds="f", ndim=2, dtype=np.float32)
            result[arc] = Sinogram(
                values=values,
                angles=_read_angles(file, f"{arc}/angles_deg", len(values)),
                detector_spacing=spacing,
                unit="mm",
                source_distance=source,
                detector_distance=detector - source,
                image=mask,
                pixel_size=pixel,
            )
        return result


def _read_angles(file: h5py.File, key: str, views: int) -> np.ndarray:
    degrees = read_array(file, key, kinds="fiu", ndim=1, dtype=np.float64, shape=(views,))
    if views > 2 and np.ptp(degrees) < 7:
        raise DataError(
            Path(file.filename), key, "degrees", f"values within {np.ptp(degrees):.4g}, as if in radians"
        )
    return np.deg2rad(degrees)


def _number(path: str | os.PathLike, attributes: dict[str, Any], key: str, positive: bool = False) -> float:
    kind = "a positive number" if positive else "a number"
    if key not in attributes:
        raise DataError(path, f"@{key}", kind, f"the attributes {sorted(attributes)}")
    value = attributes[key]
    scalar = np.isscalar(value)
    if isinstance(value, bool | str) or not scalar or not math.isfinite(value):
        raise DataError(path, f"@{key}", kind, repr(value))
    if positive and value <= 0:
        raise DataError(path, f"@{key}", kind, repr(value))
    return float(value)
