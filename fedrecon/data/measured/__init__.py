"""Cohorts of measured data, as manifests describe them."""

from fedrecon.data.measured.images import (
    ImageSite,
    load_measured_chest_xray,
    load_measured_images,
    load_measured_retina,
)
from fedrecon.data.measured.mri import MeasuredMRISite, load_measured_mri_cohort

__all__ = [
    "ImageSite",
    "MeasuredMRISite",
    "load_measured_chest_xray",
    "load_measured_images",
    "load_measured_mri_cohort",
    "load_measured_retina",
]
