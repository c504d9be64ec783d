"""Writes small DICOM files, element by element after the standard, for tests of their reader."""

import struct

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

STORAGE = {
    ("CT", False): "1.2.840.10008.5.1.4.1.1.2",
    ("CT", True): "1.2.840.10008.5.1.4.1.1.2.1",
    ("MR", False): "1.2.840.10008.5.1.4.1.1.4",
    ("MR", True): "1.2.840.10008.5.1.4.1.1.4.1",
}


def header(pixels, modality="CT", index=0, bits=16, enhanced=False, **elements):
    """A data set with this picture, (rows, columns) or (frames, rows, columns), of `bits` stored bits."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    result.SOPClassUID = result.file_meta.MediaStorageSOPClassUID = STORAGE[modality, enhanced]
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
    result.SeriesInstanceUID, result.StudyInstanceUID = "1.2.3", "1.2"
    result.Modality, result.InstanceNumber = modality, index + 1
    result.Rows, result.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        result.NumberOfFrames = len(pixels)
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    result.BitsAllocated, result.BitsStored, result.HighBit = 16, bits, bits - 1
    result.PixelRepresentation = int(pixels.dtype == np.int16)
    result.PixelData = pixels.tobytes()
    for key, value in elements.items():
        setattr(result, key, value)
    return result


def placed(pixels, position, orientation=(1, 0, 0, 0, 1, 0), spacing=(0.7, 0.6), **elements):
    """A plain picture with its place; `elements` with None are left out."""
    standard = {
        "ImagePositionPatient": list(position),
        "ImageOrientationPatient": [float(x) for x in orientation],
        "PixelSpacing": list(spacing),
        "SliceThickness": 5,
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
    } | elements
    return header(pixels, **{key: value for key, value in standard.items() if value is not None})


def item(**elements):
    """A sequence of one item."""
    result = Dataset()
    for key, value in elements.items():
        setattr(result, key, value)
    return [result]


def group(position=None, orientation=None, spacing=None, rescale=None, frame_type=None, modality="MR"):
    """A functional group, of the macros that are given."""
    result = Dataset()
    if position is not None:
        result.PlanePositionSequence = item(ImagePositionPatient=list(position))
    if orientation is not None:
        result.PlaneOrientationSequence = item(ImageOrientationPatient=[float(x) for x in orientation])
    if spacing is not None:
        result.PixelMeasuresSequence = item(PixelSpacing=list(spacing), SliceThickness=5)
    if rescale is not None:
        slope, intercept = rescale
        result.PixelValueTransformationSequence = item(
            RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US"
        )
    if frame_type is not None:
        key = "MRImageFrameTypeSequence" if modality == "MR" else "CTImageFrameTypeSequence"
        setattr(result, key, item(FrameType=frame_type))
    return result


def csa(elements, second=True):
    """A private header of Siemens: `elements` are the type and the texts by name."""
    content = b"SV10\4\3\2\1" if second else b""
    content += struct.pack("<2I", len(elements), 77)
    first = len(next(iter(elements.values()))[1])
    for name, (kind, texts) in elements.items():
        stated = sum(map(bool, texts))
        content += struct.pack("<64si4s3i", name.encode(), stated, kind, 0, len(texts), 77)
        for text in texts:
            length = len(text) + 1 if text else 0
            content += struct.pack(
                "<4i", length if second else length + first, length if second else 0, 77, 0
            )
            content += text.encode() + b"\0" * (length - len(text) + -length % 4)
    return content


def mosaic(tiles, corner, orientation, spacing, step, normal, second=True, **elements):
    """Siemens: tiles (slices, rows, columns), of which the first has its corner at `corner`."""
    count, rows, columns = tiles.shape
    across = int(np.ceil(np.sqrt(count)))
    page = np.zeros((across * rows, across * columns), tiles.dtype)
    for number, tile in enumerate(tiles):
        top, left = number // across * rows, number % across * columns
        page[top : top + rows, left : left + columns] = tile
    along_row, along_column = np.reshape(orientation, (2, 3))
    # The stated corner is the one that a slice of the size of the page would have.
    wide = (page.shape[1] - columns) / 2 * spacing[1] * along_row
    high = (page.shape[0] - rows) / 2 * spacing[0] * along_column
    result = placed(
        page,
        np.round(corner - wide - high, 8),
        orientation,
        spacing,
        modality="MR",
        RescaleSlope=None,
        RescaleIntercept=None,
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        SpacingBetweenSlices=step,
        **elements,
    )
    private = {
        "EchoLinePosition": (b"IS", ["32"]),
        "AcquisitionMatrixText": (b"SH", [f"{columns}*{rows}"]),
        "NumberOfImagesInMosaic": (b"US", [str(count), ""]),
        "SliceNormalVector": (b"FD", [f"{x:.8f}" for x in normal]),
    }
    block = result.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa(private, second))
    return result


def save(data, path):
    """Writes the file with its preamble."""
    data.save_as(path, enforce_file_format=True)
