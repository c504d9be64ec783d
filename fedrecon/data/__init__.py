"""Data: the client dataset, file formats, simulated multi-site cohorts and loaders of real ones."""

from fedrecon.data.bart import (
    CflHeader,
    from_bart,
    read_cfl,
    read_cfl_header,
    to_bart,
    trajectory_from_bart,
    trajectory_to_bart,
    write_cfl,
)
from fedrecon.data.clients import ClientData, pool, select_clients, split_patients, stack_clients
from fedrecon.data.cohort import (
    simulate_ct_cohort,
    simulate_mri_cohort,
    simulated_ct_sites,
    simulated_mri_sites,
)
from fedrecon.data.cohort_files import write_mri_cohort
from fedrecon.data.ct import CTSite, ct_detector_count, simulate_ct_patient
from fedrecon.data.ct_files import Sinogram, read_htc, read_lodopab, read_tomography
from fedrecon.data.describe import describe_file
from fedrecon.data.dicom_ct import DicomProjections, DicomSlices, read_dicom_ct_pd, read_dicom_slices
from fedrecon.data.examples import mri_examples, resize_kspace, to_native
from fedrecon.data.fastmri import FastMRIVolume, read_fastmri, write_fastmri
from fedrecon.data.feature_shift import FeatureShift, draw_feature_shifts, shift_features
from fedrecon.data.hdf5 import DataError
from fedrecon.data.ismrmrd import (
    EncodingSpace,
    ISMRMRDHeader,
    format_ismrmrd_header,
    parse_ismrmrd_header,
)
from fedrecon.data.ismrmrd_files import RawMeasurement, read_ismrmrd
from fedrecon.data.ismrmrd_writer import write_ismrmrd
from fedrecon.data.measurement import Measurement, read_measurement
from fedrecon.data.mri import MRISite, simulate_mri_patient
from fedrecon.data.partition import (
    dirichlet_partition,
    label_counts,
    partition_examples,
    quantity_partition,
    shard_partition,
    site_partition,
)
from fedrecon.data.radial import read_radial
from fedrecon.data.real_images import ImageSite, load_real_chest_xray, load_real_retina
from fedrecon.data.real_mri import RealMRISite, load_real_mri_cohort
from fedrecon.data.sites import Cohort, plan_patients

__all__ = [
    "CTSite",
    "CflHeader",
    "ClientData",
    "Cohort",
    "DataError",
    "DicomProjections",
    "DicomSlices",
    "EncodingSpace",
    "FastMRIVolume",
    "FeatureShift",
    "ISMRMRDHeader",
    "ImageSite",
    "MRISite",
    "Measurement",
    "RawMeasurement",
    "RealMRISite",
    "Sinogram",
    "ct_detector_count",
    "describe_file",
    "dirichlet_partition",
    "draw_feature_shifts",
    "format_ismrmrd_header",
    "from_bart",
    "label_counts",
    "load_real_chest_xray",
    "load_real_mri_cohort",
    "load_real_retina",
    "mri_examples",
    "parse_ismrmrd_header",
    "partition_examples",
    "plan_patients",
    "pool",
    "quantity_partition",
    "read_cfl",
    "read_cfl_header",
    "read_dicom_ct_pd",
    "read_dicom_slices",
    "read_fastmri",
    "read_htc",
    "read_ismrmrd",
    "read_lodopab",
    "read_measurement",
    "read_radial",
    "read_tomography",
    "resize_kspace",
    "select_clients",
    "shard_partition",
    "shift_features",
    "simulate_ct_cohort",
    "simulate_ct_patient",
    "simulate_mri_cohort",
    "simulate_mri_patient",
    "simulated_ct_sites",
    "simulated_mri_sites",
    "site_partition",
    "split_patients",
    "stack_clients",
    "to_bart",
    "to_native",
    "trajectory_from_bart",
    "trajectory_to_bart",
    "write_cfl",
    "write_fastmri",
    "write_ismrmrd",
    "write_mri_cohort",
]
