"""Cohorts in the user's own files: folders of hospitals, or a manifest."""

from fedrecon.data.folders.cohort import FolderSite, read_cohort
from fedrecon.data.folders.loading import Identity, identify_cohort, is_simulated

__all__ = ["FolderSite", "Identity", "identify_cohort", "is_simulated", "read_cohort"]
