"""Cohorts of measured data, as manifests describe them."""

from fedrecon.data.measured.ct import load_clinical_ct
from fedrecon.data.measured.images import (
    ImageSite,
    load_measured_chest_xray,
    load_measured_images,
    load_measured_retina,
)
from fedrecon.data.measured.manifest import manifest_path
from fedrecon.data.measured.mri import MeasuredMRISite, load_measured_mri_cohort
from fedrecon.data.measured.tables import Table, read_heart_disease, read_tcga_brca

__all__ = [
    "ImageSite",
    "MeasuredMRISite",
    "Table",
    "load_clinical_ct",
    "load_measured_chest_xray",
    "load_measured_images",
    "load_measured_mri_cohort",
    "load_measured_retina",
    "manifest_path",
    "read_heart_disease",
    "read_tcga_brca",
]
