"""Writers of images with their place in the scanner: NIfTI, and DICOM of CT and MR.

Places are affine matrices (4, 4) from the index (column, row, slice, 1) to coordinates in mm: x to the left,
y to the back, z to the head of a patient who lies on the back with the head first, as in DICOM.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data.formats.dicom_elements import import_pydicom
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically

_NAME = re.compile(r"\d{5}\.dcm")
_STORAGE = {"CT": "CTImageStorage", "MR": "MRImageStorage"}
# What an image has to state in which the standard sees a measurement, and we do not know it.
_UNKNOWN: dict[str, dict[str, Any]] = {
    "CT": {"KVP": None},
    "MR": {
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "",
        "EchoTime": None,
        "RepetitionTime": None,
        "EchoTrainLength": None,
    },
}


def centered_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """The place of an upright volume (slices, ny, nx) around the origin, of spacing (z, y, x) in mm."""
    result = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    result[:3, 3] = [-(n - 1) / 2 * d for n, d in zip(shape[::-1], spacing[::-1], strict=True)]
    return result


def nifti_bytes(images: np.ndarray, affine: np.ndarray, unit: str = "mm") -> bytes:
    """A NIfTI file of (slices, ny, nx), stored as (columns, rows, slices); x to the right, y to the front.

    Masks of uint8 stay such, all else is float32.

    Raises:
      ImportError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("NIfTI files need an extra: pip install 'fedrecon[nifti]'") from error
    turned = np.diag([-1.0, -1, 1, 1]) @ affine
    values = np.asarray(images)
    values = values if values.dtype == np.uint8 else values.astype(np.float32)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), turned)
    # A sheared stack has no rotation that says the same as the matrix.
    steps = turned[:3, :3] / np.linalg.norm(turned[:3, :3], axis=0)
    image.set_qform(turned, code=1 if np.allclose(steps.T @ steps, np.eye(3), atol=1e-4) else 0)
    image.set_sform(turned, code=1)
    image.header.set_xyzt_units(unit if unit == "mm" else "unknown")
    return image.to_bytes()


def write_dicom(
    path: str | os.PathLike,
    images: np.ndarray,
    affine: np.ndarray,
    modality: str,
    *,
    rescale_type: str = "US",
    description: str = "",
    placed: bool = False,
) -> None:
    """Writes derived images as CT or MR Image Storage: a file of one slice, a folder of several.

    Values are rounded to 65536 steps between the smallest and the largest. Study, series, frame of reference
    and images get new identifiers; what is not known of patient and scan is empty.

    Args:
      path: the file or folder; one that exists is replaced, a folder also by a single slice in a folder.
      images: real (slices, ny, nx).
      affine: (4, 4), see above.
      modality: ``"CT"`` or ``"MR"``.
      rescale_type: unit of the values: ``"HU"``, or ``"US"`` for none of those that the standard knows.
      description: of the series, up to 64 characters.
      placed: whether the affine is in the patient's coordinates; else a comment says that it is not.

    Raises:
      ArgumentError: an argument has another shape or value, or images are not finite.
      ImportError: pydicom or highdicom is not installed.
      OSError: the file cannot be written.
    """
    if modality not in _STORAGE:
        raise ArgumentError("modality", f"one of {', '.join(_STORAGE)}", repr(modality))
    images, affine = np.asarray(images), np.asarray(affine, float)
    if images.ndim != 3 or not images.size or images.dtype.kind not in "fiu":
        raise ArgumentError("images", "real (slices, ny, nx)", f"{images.shape} {images.dtype}")
    if max(images.shape[1:]) > 65535:
        raise ArgumentError("images", "at most 65535 rows and columns", images.shape)
    if not np.isfinite(images).all():
        raise ArgumentError("images", "finite values", f"{int((~np.isfinite(images)).sum())} that are not")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ArgumentError("affine", "an invertible (4, 4)", affine.tolist())
    across = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    if abs(across[:, 0] @ across[:, 1]) > 1e-4:
        raise ArgumentError("affine", "rows at right angles to columns", affine[:3, :2].tolist())
    contents = _files(images, affine, modality, rescale_type, description, placed)
    path = Path(path)
    others = [p.name for p in path.iterdir() if not _NAME.fullmatch(p.name)] if path.is_dir() else []
    if others:
        raise ArgumentError("path", "no other files in a folder that is replaced", others[0])
    if len(contents) == 1 and not path.is_dir():
        write_atomically(path, contents[0])
        return
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for number, content in enumerate(contents, 1):
            (folder / f"{number:05}.dcm").write_bytes(content)
        folder.chmod(0o755)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        folder.replace(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _files(
    images: np.ndarray, affine: np.ndarray, modality: str, rescale_type: str, description: str, placed: bool
) -> list[bytes]:
    pydicom = import_pydicom()
    try:
        import highdicom
    except ImportError as error:
        raise ImportError("DICOM files need an extra: pip install 'fedrecon[dicom]'") from error
    from pydicom.filebase import DicomBytesIO
    from pydicom.uid import ExplicitVRLittleEndian
    from pydicom.valuerep import format_number_as_ds

    low, high = float(images.min()), float(images.max())
    slope = format_number_as_ds((high - low) / 65535 or 1.0)
    intercept = format_number_as_ds(low)
    stored = np.clip(np.rint((images - float(intercept)) / float(slope)), 0, 65535).astype("<u2")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :2] / spacing[:2]
    thickness = abs(affine[:3, 2] @ np.cross(*axes.T))
    study, series, frame = (highdicom.UID() for _ in range(3))
    result = []
    for number, pixels in enumerate(stored):
        data = highdicom.SOPClass(
            study_instance_uid=study,
            series_instance_uid=series,
            series_number=1,
            sop_instance_uid=highdicom.UID(),
            sop_class_uid=getattr(pydicom.uid, _STORAGE[modality]),
            instance_number=number + 1,
            modality=modality,
            manufacturer="fedrecon",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=description[:64],
        )
        elements: dict[str, Any] = {
            **_UNKNOWN[modality],
            "ImageType": ["DERIVED", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"],
            "AcquisitionNumber": None,
            "FrameOfReferenceUID": frame,
            "PositionReferenceIndicator": "",
            "PatientPosition": "HFS" if placed else "",
            "ImagePositionPatient": [format_number_as_ds(float(x)) for x in (affine @ [0, 0, number, 1])[:3]],
            "ImageOrientationPatient": [format_number_as_ds(float(x)) for x in axes.T.ravel()],
            "PixelSpacing": [format_number_as_ds(float(x)) for x in spacing[1::-1]],
            "SliceThickness": format_number_as_ds(float(thickness)),
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "RescaleType": rescale_type,
            "PixelData": pixels.tobytes(),
        }
        if not placed:
            elements["ImageComments"] = "Axes of the scanner; how the patient lay is not known."
        for key, value in elements.items():
            setattr(data, key, value)
        buffer = DicomBytesIO()
        data.save_as(buffer, enforce_file_format=True)
        result.append(buffer.getvalue())
    return result
