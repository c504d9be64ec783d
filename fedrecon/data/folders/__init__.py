"""Cohorts in the user's own files: folders of hospitals, or a manifest."""

from fedrecon.data.folders.cohort import FolderSite, read_cohort
from fedrecon.data.folders.loading import Identity, identify_cohort, is_simulated
from fedrecon.data.folders.preparation import (
    Preparation,
    PreparedImages,
    is_dicom_series,
    read_images,
    to_native_grid,
)

__all__ = [
    "FolderSite",
    "Identity",
    "Preparation",
    "PreparedImages",
    "identify_cohort",
    "is_dicom_series",
    "is_simulated",
    "read_cohort",
    "read_images",
    "to_native_grid",
]
