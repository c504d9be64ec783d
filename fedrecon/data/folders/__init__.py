"""Cohorts in the user's own files: folders of hospitals, or a manifest."""

from fedrecon.data.folders.cohort import FolderSite, read_cohort
from fedrecon.data.folders.files import Faults, list_items, with_entries
from fedrecon.data.folders.loading import (
    Identity,
    find_manifest,
    identify_cohort,
    is_simulated,
    load_volumes,
    possible_tasks,
)
from fedrecon.data.folders.manifest import MANIFEST, TASKS, Manifest, Source, manifest_document, read_manifest
from fedrecon.data.folders.memory import Memory, estimate_memory
from fedrecon.data.folders.preparation import (
    Preparation,
    PreparedImages,
    is_dicom_series,
    read_images,
    to_native_grid,
)
from fedrecon.data.folders.survey import SiteSurvey, Survey, survey_cohort
from fedrecon.data.folders.volume import Volume

__all__ = [
    "MANIFEST",
    "TASKS",
    "Faults",
    "FolderSite",
    "Identity",
    "Manifest",
    "Memory",
    "Preparation",
    "PreparedImages",
    "SiteSurvey",
    "Source",
    "Survey",
    "Volume",
    "estimate_memory",
    "find_manifest",
    "identify_cohort",
    "is_dicom_series",
    "is_simulated",
    "list_items",
    "load_volumes",
    "manifest_document",
    "possible_tasks",
    "read_cohort",
    "read_images",
    "read_manifest",
    "survey_cohort",
    "to_native_grid",
    "with_entries",
]
