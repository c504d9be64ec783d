"""Files of any kind as volumes: k-space or images, with their masks, labels and places."""

import fnmatch
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp
import numpy as np

from fedrecon.data.folders.files import Item
from fedrecon.data.folders.manifest import Intensity, Manifest, Simulation
from fedrecon.data.folders.masks import nearest, segmentation_of, structure_of
from fedrecon.data.formats import (
    DataError,
    file_format,
    open_hdf5,
    read_array,
    read_ct_measurement,
    read_dicom_slices,
    read_measurement,
    read_nifti,
    read_picture,
)
from fedrecon.data.simulation import chest_coils
from fedrecon.errors import ArgumentError
from operators import fbp, fft2c

EIGHT_BITS = Intensity("window", 0.0, 255.0)
HOUNSFIELD = Intensity("window", -1000.0, 1000.0)
OTHERS = Intensity("percentile", 1.0, 99.5)
# Of the shorter half of k-space that partial Fourier acquisitions may lack and still be taken as sampled.
_SYMMETRIC = 0.95


class Volume(NamedTuple):
    """What one patient has in one file.

    Attributes:
      site, patient, part: of the patient; part is None where nobody says it.
      name: of the file, for messages.
      path: of the same.
      kspace: complex64 ``(slices, coils, ny, nx)``, full unless ``sampling`` is there; None of images.
      image: ``(slices, ny, nx, channels)`` in the unit of the file; None of k-space.
      segmentation: uint8 ``(slices, ny, nx)`` of 0 and 1; None without.
      labels: of the slices; None without.
      sampling: bool ``(ny, nx)`` where k-space was measured, with a reference; None where it is full.
      reference: float32 ``(slices, ny, nx)``, what the sampled k-space is to become.
      spacing: (z, y, x) in mm; None where the file does not know.
      unit: of the image, in words.
      intensity: the rule for images of its kind.
    """

    site: str
    patient: str
    part: str | None
    name: str
    path: Path
    kspace: np.ndarray | None = None
    image: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    sampling: np.ndarray | None = None
    reference: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    unit: str = ""
    intensity: Intensity = OTHERS

    @property
    def slices(self) -> int:
        """Their number."""
        values = self.image if self.kspace is None else self.kspace
        assert values is not None, "one of both is there"
        return len(values)

    @property
    def matrix(self) -> tuple[int, int]:
        """(ny, nx)."""
        if self.kspace is not None:
            return self.kspace.shape[-2:]
        assert self.image is not None, "one of both is there"
        return self.image.shape[1:3]


def read_item(item: Item, manifest: Manifest) -> Iterator[Volume]:
    """The volumes of a file: one, or of arrays in HDF5 one for each patient.

    Raises:
      DataError: the file or its mask is damaged, of another kind, not finite, or does not fit the other.
      ImportError: the file needs an extra that is not installed.
    """
    reader = {"mri": _mri, "ct": _ct, "dicom": _dicom, "nifti": _nifti, "picture": _picture, "hdf5": _hdf5}
    for volume in _named(reader[item.source.reader](item, manifest), item.path):
        for name, values in (("kspace", volume.kspace), ("image", volume.image)):
            if values is not None and not np.isfinite(values).all():
                wrong = int((~np.isfinite(values)).sum())
                raise DataError(item.path, None, f"finite values of the {name}", f"{wrong} NaN or infinite")
        if item.source.slices is not None:
            volume = _fewer(volume, item.source.slices)
        if (intensity := item.source.intensity or manifest.intensity) is not None:
            volume = volume._replace(intensity=intensity)
        if item.source.simulation is not None:
            volume = _measured_by(volume, item.source.simulation)
        yield volume


def _named(volumes: Iterator[Volume], path: Path) -> Iterator[Volume]:
    """The same; errors of readers about an argument, such as a missing group, name the file."""
    try:
        yield from volumes
    except DataError:
        raise
    except ArgumentError as error:
        raise DataError(path, error.name, error.expected, error.found) from error


def _volume(item: Item, **values: Any) -> Volume:
    return Volume(item.site, item.patient, item.part, item.name, item.path, **values)


def _labels(item: Item, slices: int) -> tuple[str, ...] | None:
    return None if item.label is None else (item.label,) * slices


def _mri(item: Item, manifest: Manifest) -> Iterator[Volume]:
    select, group = item.source.select or None, item.source.group
    measurement = read_measurement(item.path, select=select, group=group)
    kspace, mask = measurement.kspace, measurement.mask
    segmentation = reference = sampling = None
    if mask is None:
        raise DataError(
            item.path,
            None,
            "Cartesian k-space; reconstruct it first (experiments.reconstruct) and take the images",
            f"a trajectory of {measurement.kspace.shape[-1]} samples",
        )
    if file_format(item.path) == "fastMRI":
        with open_hdf5(item.path) as file:
            shape = (len(kspace), *kspace.shape[2:])
            if "segmentation" in file:
                segmentation = read_array(
                    file, "segmentation", kinds="iu", ndim=3, dtype=np.uint8, shape=shape
                )
            if "reconstruction_rss" in file:
                reference = read_array(file, "reconstruction_rss", kinds="f", ndim=3, dtype=np.float32)
    if not np.abs(kspace).max((1, 2, 3)).all():
        raise DataError(item.path, "kspace", "a signal in every slice", "a slice of zeros")
    box = _box(mask)
    if box is not None:
        (top, bottom), (left, right) = box
        kspace = kspace[:, :, top:bottom, left:right]
        if segmentation is not None and kspace.shape[-2:] != segmentation.shape[1:]:
            segmentation = nearest(segmentation, kspace.shape[-2:])
        reference = None
        kept = measurement.crop_shape[0]
        if kept < measurement.image_shape[0] and bottom - top == measurement.image_shape[0]:
            kspace = _cropped_readout(kspace, kept)
            if segmentation is not None:
                start = segmentation.shape[1] // 2 - kept // 2
                segmentation = segmentation[:, start : start + kept]
    elif reference is None or reference.shape != (len(kspace), *kspace.shape[2:]):
        measured = f"{100 * mask.mean():.1f} % of the samples"
        found = measured + (
            " and no reference" if reference is None else f" and a reference {reference.shape}"
        )
        expected = "fully sampled k-space, or reconstruction_rss of the same matrix"
        raise DataError(item.path, None, expected, found)
    else:
        sampling = np.asarray(mask).all(0)
    yield _volume(
        item,
        kspace=kspace,
        segmentation=segmentation,
        labels=_labels(item, len(kspace)),
        sampling=sampling,
        reference=reference,
        spacing=measurement.pixel_size,
        unit="k-space",
    )


def _box(mask: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns of the block around the center that is measured whole; None where there are holes."""
    measured = np.asarray(np.all(mask, 0))
    if np.asarray(mask).any(0).sum() != measured.sum():
        return None
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(measured.any(axis))
        if not places.size:
            return None
        size = measured.shape[1 - axis]
        below, above = size // 2 - places[0], places[-1] + 1 - size // 2
        half = min(below, above)
        if half < _SYMMETRIC * max(below, above) - 1 or half < 1:
            return None
        whole = (places[0], places[-1] + 1) == (0, size)
        spans.append((0, size) if whole else (size // 2 - half, size // 2 + half))
    (top, bottom), (left, right) = spans
    return ((top, bottom), (left, right)) if measured[top:bottom, left:right].all() else None


def _cropped_readout(kspace: np.ndarray, kept: int) -> np.ndarray:
    """Without the oversampling of the readout, which runs along the rows."""
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, -2), axis=-2, norm="ortho"), -2)
    start = image.shape[-2] // 2 - kept // 2
    image = image[..., start : start + kept, :]
    cropped = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, -2), axis=-2, norm="ortho"), -2)
    return cropped.astype(np.complex64)


def _ct(item: Item, manifest: Manifest) -> Iterator[Volume]:
    measurement = read_ct_measurement(item.path, group=item.source.group)
    if len(measurement.image_shape) == 3:
        expected = "fan or parallel beams; reconstruct cones first (experiments.reconstruct)"
        raise DataError(item.path, None, expected, "a cone beam")
    ny, nx = measurement.image_shape
    values = jnp.asarray(measurement.values)
    image = np.asarray(fbp(values, measurement.geometry, (ny, nx), measurement.pixel_size), np.float32)
    image = image[..., None]
    spacing = (measurement.slice_distance, measurement.pixel_size, measurement.pixel_size)
    yield _volume(
        item,
        image=image,
        segmentation=segmentation_of(item, manifest, image.shape[:3], None),
        labels=_labels(item, len(image)),
        spacing=spacing if measurement.unit == "mm" else None,
        unit=f"attenuation, 1/{measurement.unit}",
    )


def _dicom(item: Item, manifest: Manifest) -> Iterator[Volume]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        series = read_dicom_slices(item.path)
    ct = series.modality == "CT"
    yield _volume(
        item,
        image=series.values[..., None],
        segmentation=segmentation_of(item, manifest, series.values.shape, series.affine),
        labels=_labels(item, len(series.values)),
        spacing=series.spacing,
        unit="HU" if ct else series.modality or "DICOM",
        intensity=HOUNSFIELD if ct else OTHERS,
    )


def _nifti(item: Item, manifest: Manifest) -> Iterator[Volume]:
    volume = read_nifti(item.path)
    yield _volume(
        item,
        image=volume.values[..., None],
        segmentation=segmentation_of(item, manifest, volume.values.shape, volume.affine),
        labels=_labels(item, len(volume.values)),
        spacing=volume.spacing,
        unit="NIfTI",
    )


def _picture(item: Item, manifest: Manifest) -> Iterator[Volume]:
    image = read_picture(item.path)
    eight = image.dtype == np.uint8
    image = image if image.ndim == 4 else image[..., None]
    yield _volume(
        item,
        image=image.astype(np.float32),
        segmentation=segmentation_of(item, manifest, image.shape[:3], None),
        labels=_labels(item, len(image)),
        unit=f"{image.dtype.itemsize * 8} bits",
        intensity=EIGHT_BITS if eight else OTHERS,
    )


def _hdf5(item: Item, manifest: Manifest) -> Iterator[Volume]:
    keys = item.source.keys
    with open_hdf5(item.path) as file:
        if any(sign in keys["image"] for sign in "*?["):
            names = [name for name in _datasets(file) if fnmatch.fnmatchcase(name, keys["image"])]
            if not names:
                raise DataError(item.path, keys["image"], "data sets of this name", f"{_datasets(file)[:8]}")
        else:
            names = [keys["image"]]
        for name in names:
            patient = item.patient if len(names) == 1 else name
            yield from _arrays(file, name, item._replace(patient=patient), manifest)


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
    return sorted(names)


def _arrays(file: h5py.File, key: str, item: Item, manifest: Manifest) -> Iterator[Volume]:
    """The images of one data set, by site and patient."""
    keys = item.source.keys
    image = read_array(file, key, kinds="iufc", ndim=(3, 4))
    if image.ndim == 4 and image.shape[-1] != 3:
        raise DataError(
            item.path, key, "axes (images, ny, nx) or (images, ny, nx, 3)", f"shape {image.shape}"
        )
    eight = image.dtype == np.uint8
    image = image if image.ndim == 4 else image[..., None]
    image = image.astype(np.complex64 if image.dtype.kind == "c" else np.float32)
    count = len(image)
    segmentation = None
    if "mask" in keys:
        stored = read_array(file, keys["mask"], kinds="iu", ndim=3, shape=image.shape[:3])
        segmentation = structure_of(item.path, keys["mask"], stored, manifest)
    texts = {name: _texts(file, keys[name], count) for name in ("label", "site", "patient") if name in keys}
    sites = texts.get("site", [item.site] * count)
    patients = texts.get("patient", [item.patient] * count)
    labels = texts.get("label", None if item.label is None else [item.label] * count)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(zip(sites, patients, strict=True)):
        groups.setdefault(pair, []).append(index)
    for (site, patient), rows in groups.items():
        yield Volume(
            site,
            patient,
            item.part,
            f"{item.name}: {patient}" if "patient" in keys else item.name,
            item.path,
            image=image[rows],
            segmentation=None if segmentation is None else segmentation[rows],
            labels=None if labels is None else tuple(labels[row] for row in rows),
            unit="8 bits" if eight else "array",
            intensity=EIGHT_BITS if eight else OTHERS,
        )


def read_texts(path: Path, key: str) -> list[str]:
    """Texts or integers ``(n,)`` of an HDF5 file, as text.

    Raises:
      DataError: there is no such data set, or it holds something else.
    """
    with open_hdf5(path) as file:
        return _texts(file, key, None)


def _texts(file: h5py.File, key: str, count: int | None) -> list[str]:
    values = read_array(file, key, kinds="Siu", ndim=1, shape=(count,))
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise DataError(file.filename, key, "UTF-8 text", repr(error)) from error


def _fewer(volume: Volume, count: int) -> Volume:
    """At most so many slices, evenly spaced around the middle."""
    have = volume.slices
    if have <= count:
        return volume
    return some_slices(volume, np.floor((np.arange(count) + 0.5) * have / count).astype(int))


def some_slices(volume: Volume, kept: np.ndarray) -> Volume:
    """The volume of the slices with these numbers."""

    def some(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    return volume._replace(
        kspace=some(volume.kspace),
        image=some(volume.image),
        segmentation=some(volume.segmentation),
        reference=some(volume.reference),
        labels=None if volume.labels is None else tuple(volume.labels[i] for i in kept),
    )


def _measured_by(volume: Volume, simulation: Simulation) -> Volume:
    """K-space of images that simulated coils see."""
    image = volume.image
    if image is None or image.shape[-1] != 1:
        found = "k-space" if image is None else f"{image.shape[-1]} channels"
        raise DataError(volume.path, None, "images of one channel, for simulated coils", found)
    rng = np.random.default_rng(zlib.crc32(f"{volume.site}/{volume.patient}".encode()))
    maps = chest_coils(rng, simulation.coils, image.shape[1:3], simulation.field_of_view)
    kspace = np.asarray(fft2c(maps * np.asarray(image[..., 0], np.complex64)[:, None]))
    return volume._replace(kspace=kspace, image=None, unit=f"{volume.unit}, simulated coils")
