"""Files of any kind as volumes: k-space or images, with their masks, labels and places."""

import fnmatch
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from fedrecon.data.folders.files import Item
from fedrecon.data.folders.kspace import read_mri
from fedrecon.data.folders.manifest import Manifest, Simulation
from fedrecon.data.folders.masks import segmentation_of, structure_of
from fedrecon.data.folders.sinograms import read_ct
from fedrecon.data.folders.volume import (
    EIGHT_BITS,
    HOUNSFIELD,
    OTHERS,
    Volume,
    labels_of,
    some_slices,
    volume_of,
)
from fedrecon.data.formats import (
    DataError,
    open_hdf5,
    read_array,
    read_dicom_slices,
    read_nifti,
    read_picture,
)
from fedrecon.data.simulation import chest_coils
from fedrecon.errors import ArgumentError
from operators import fft2c


def read_item(item: Item, manifest: Manifest) -> Iterator[Volume]:
    """The volumes of a file: one, or of arrays in HDF5 one for each patient.

    Raises:
      DataError: the file or its mask is damaged, of another kind, not finite, or does not fit the other.
      ImportError: the file needs an extra that is not installed.
    """
    for volume in _named(_READERS[item.source.reader](item, manifest), item.path):
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


def _dicom(item: Item, manifest: Manifest) -> Iterator[Volume]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        series = read_dicom_slices(item.path)
    ct = series.modality == "CT"
    yield volume_of(
        item,
        image=series.values[..., None],
        segmentation=segmentation_of(item, manifest, series.values.shape, series.affine),
        labels=labels_of(item, len(series.values)),
        spacing=series.spacing,
        unit="HU" if ct else series.modality or "DICOM",
        intensity=HOUNSFIELD if ct else OTHERS,
    )


def _nifti(item: Item, manifest: Manifest) -> Iterator[Volume]:
    volume = read_nifti(item.path)
    yield volume_of(
        item,
        image=volume.values[..., None],
        segmentation=segmentation_of(item, manifest, volume.values.shape, volume.affine),
        labels=labels_of(item, len(volume.values)),
        spacing=volume.spacing,
        unit="NIfTI",
    )


def _picture(item: Item, manifest: Manifest) -> Iterator[Volume]:
    image = read_picture(item.path)
    eight = image.dtype == np.uint8
    image = image if image.ndim == 4 else image[..., None]
    yield volume_of(
        item,
        image=image.astype(np.float32),
        segmentation=segmentation_of(item, manifest, image.shape[:3], None),
        labels=labels_of(item, len(image)),
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


_READERS = {
    "mri": read_mri,
    "ct": read_ct,
    "dicom": _dicom,
    "nifti": _nifti,
    "picture": _picture,
    "hdf5": _hdf5,
}
