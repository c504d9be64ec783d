"""Raw MRI as volumes of k-space."""

from collections.abc import Iterator

import numpy as np

from fedrecon.data.folders.files import Item
from fedrecon.data.folders.gridding import gridded
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.folders.masks import nearest, structure_of
from fedrecon.data.folders.volume import Volume, labels_of, volume_of
from fedrecon.data.formats import DataError, Measurement, file_format, open_hdf5, read_array, read_measurement

# Of the shorter half of k-space that partial Fourier acquisitions may lack and still be taken as sampled.
_SYMMETRIC = 0.95


def read_mri(item: Item, manifest: Manifest) -> Iterator[Volume]:
    """One measurement, fully sampled or with a reference; samples off the grid are brought to it.

    Raises:
      DataError: it is damaged, empty, or undersampled without a reference.
    """
    measurement = read_measurement(item.path, select=dict(item.select) or None, group=item.group)
    if measurement.mask is None:
        yield _off_grid(item, measurement)
        return
    kspace, mask = measurement.kspace, measurement.mask
    segmentation = reference = sampling = None
    if file_format(item.path) == "fastMRI":
        with open_hdf5(item.path) as file:
            shape = (len(kspace), *kspace.shape[2:])
            if "segmentation" in file:
                segmentation = read_array(
                    file, "segmentation", kinds="iu", ndim=3, dtype=np.uint8, shape=shape
                )
            if "reconstruction_rss" in file:
                reference = read_array(file, "reconstruction_rss", kinds="f", ndim=3, dtype=np.float32)
    if segmentation is not None:
        segmentation = structure_of(item.path, "segmentation", segmentation, manifest)
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
    yield volume_of(
        item,
        kspace=kspace,
        segmentation=segmentation,
        labels=labels_of(item, len(kspace)),
        sampling=sampling,
        reference=reference,
        spacing=measurement.pixel_size,
        unit="k-space",
        gridded="EPI" if any(note.startswith("EPI") for note in measurement.notes) else "",
    )


def _off_grid(item: Item, measurement: Measurement) -> Volume:
    if not np.abs(measurement.kspace).max((1, 2)).all():
        raise DataError(item.path, None, "a signal in every slice", "a slice of zeros")
    found = gridded(measurement)
    return volume_of(
        item,
        kspace=found.kspace,
        labels=labels_of(item, len(found.kspace)),
        spacing=measurement.pixel_size,
        unit="k-space",
        gridded=found.kind,
        sampled=found.sampled,
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
