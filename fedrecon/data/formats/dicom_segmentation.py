"""Segmentations as DICOM (Segmentation Storage) that refer to the images they are of."""

import os
import warnings
from typing import Any

import numpy as np

from fedrecon.data.formats.dicom_elements import import_pydicom, read_headers
from fedrecon.data.formats.hdf5 import DataError
from fedrecon.errors import ArgumentError

# What images may lack, and segmentations have to state.
_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
_LONGEST = 64


def dicom_segmentation_bytes(
    source: str | os.PathLike, masks: np.ndarray, labels: tuple[str, ...], algorithm: str, version: str
) -> bytes:
    """A file of Segmentation Storage with a binary segment for each label.

    Patient, study and frame of reference are those of the source; series and instance are new. Structures are
    coded as tissue, since what a network marks has no code of its own; the label says what it is.

    Args:
      source: file or folder of the series, of one picture a file, as `read_dicom_slices` reads it.
      masks: integers (slices, ny, nx) in the order of that function: 0, or the number of a label from 1.
      labels: what is segmented, up to 64 characters each.
      algorithm, version: what made the segmentation.

    Raises:
      DataError: the source has several frames in a file, or lacks an element; names it.
      ArgumentError: the masks do not fit the source or the labels.
      ImportError: pydicom or highdicom is not installed.
    """
    pydicom = import_pydicom()
    try:
        import highdicom
    except ImportError as error:
        raise ImportError("DICOM files need an extra: pip install 'fedrecon[dicom]'") from error
    from pydicom.filebase import DicomBytesIO
    from pydicom.sr.codedict import codes

    headers = read_headers(source)
    for file, header in headers:
        if "PerFrameFunctionalGroupsSequence" in header:
            raise DataError(file, None, "one picture a file; write NIfTI of enhanced files", "several frames")
        for name in _NEEDED:
            if not header.get(name):
                raise DataError(file, name, "an identifier, which segmentations refer to", "none")
        for name in _EMPTY:
            if name not in header:
                setattr(header, name, None)
    images = _in_order([header for _, header in headers])
    shape = (len(images), images[0].Rows, images[0].Columns)
    masks = np.asarray(masks)
    if masks.shape != shape or masks.dtype.kind not in "iu":
        raise ArgumentError("masks", f"integers of shape {shape}", f"{masks.dtype} {masks.shape}")
    if masks.size and not 0 <= masks.min() <= masks.max() <= len(labels):
        raise ArgumentError("masks", f"0 to {len(labels)}", f"{masks.min()} to {masks.max()}")
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=algorithm[:_LONGEST], version=version, family=codes.DCM.ArtificialIntelligence
    )
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label[:_LONGEST],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, label in enumerate(labels, 1)
    ]
    with warnings.catch_warnings():
        # Of names that are not in two groups, and masks without anything.
        warnings.simplefilter("ignore", UserWarning)
        result: Any = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=masks.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=1,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="fedrecon",
            manufacturer_model_name=algorithm[:_LONGEST],
            software_versions=version,
            device_serial_number="0",
            transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        )
    buffer = DicomBytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _in_order(headers: list[Any]) -> list[Any]:
    """By position along the normal, as `read_dicom_slices` has them."""
    rows = np.reshape([float(x) for x in headers[0].ImageOrientationPatient], (2, 3))
    along = [np.asarray(h.ImagePositionPatient, float) @ np.cross(*rows) for h in headers]
    return [headers[i] for i in np.argsort(along, kind="stable")]
