"""Files of measurements and images: readers, writers, and the error of every malformed one."""

from fedrecon.data.formats.bart import (
    CflHeader,
    from_bart,
    read_cfl,
    read_cfl_header,
    to_bart,
    trajectory_from_bart,
    trajectory_to_bart,
    write_cfl,
)
from fedrecon.data.formats.ct_files import Sinogram, read_htc, read_lodopab, read_tomography
from fedrecon.data.formats.ct_measurement import CTMeasurement, is_ct, read_ct_measurement
from fedrecon.data.formats.describe import describe_file
from fedrecon.data.formats.dicom_ct import DicomProjections, read_dicom_ct_pd
from fedrecon.data.formats.dicom_elements import series_of
from fedrecon.data.formats.dicom_segmentation import dicom_segmentation_bytes
from fedrecon.data.formats.dicom_series import DicomSlices, read_dicom_slices
from fedrecon.data.formats.epi_files import epi_images
from fedrecon.data.formats.fastmri import FastMRIVolume, read_fastmri, write_fastmri
from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_array
from fedrecon.data.formats.ismrmrd import (
    EncodingSpace,
    ISMRMRDHeader,
    format_ismrmrd_header,
    parse_ismrmrd_header,
)
from fedrecon.data.formats.ismrmrd_files import RawMeasurement, read_ismrmrd
from fedrecon.data.formats.ismrmrd_writer import write_ismrmrd
from fedrecon.data.formats.json_objects import JsonObject, read_json_object
from fedrecon.data.formats.measurement import (
    TRAJECTORY_UNITS,
    Measurement,
    correct_delays,
    file_format,
    read_measurement,
)
from fedrecon.data.formats.pictures import Nifti, read_nifti, read_picture
from fedrecon.data.formats.placed_images import centered_affine, nifti_bytes, write_dicom
from fedrecon.data.formats.radial import read_radial
from fedrecon.data.formats.scanner import Scanner, read_scanner

__all__ = [
    "TRAJECTORY_UNITS",
    "CTMeasurement",
    "CflHeader",
    "DataError",
    "DicomProjections",
    "DicomSlices",
    "EncodingSpace",
    "FastMRIVolume",
    "ISMRMRDHeader",
    "JsonObject",
    "Measurement",
    "Nifti",
    "RawMeasurement",
    "Scanner",
    "Sinogram",
    "centered_affine",
    "correct_delays",
    "describe_file",
    "dicom_segmentation_bytes",
    "epi_images",
    "file_format",
    "format_ismrmrd_header",
    "from_bart",
    "is_ct",
    "nifti_bytes",
    "open_hdf5",
    "parse_ismrmrd_header",
    "read_array",
    "read_cfl",
    "read_cfl_header",
    "read_ct_measurement",
    "read_dicom_ct_pd",
    "read_dicom_slices",
    "read_fastmri",
    "read_htc",
    "read_ismrmrd",
    "read_json_object",
    "read_lodopab",
    "read_measurement",
    "read_nifti",
    "read_picture",
    "read_radial",
    "read_scanner",
    "read_tomography",
    "series_of",
    "to_bart",
    "trajectory_from_bart",
    "trajectory_to_bart",
    "write_cfl",
    "write_dicom",
    "write_fastmri",
    "write_ismrmrd",
]
