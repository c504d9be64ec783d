"""Simulated multi-site cohorts of MRI, CT and slides of tissue."""

from fedrecon.data.simulation.cohort import (
    simulate_ct_cohort,
    simulate_mri_cohort,
    simulate_mri_test_site,
    simulated_ct_sites,
    simulated_mri_sites,
)
from fedrecon.data.simulation.cohort_files import (
    read_mri_cohort,
    read_mri_cohort_manifest,
    read_mri_test_site,
    write_mri_cohort,
)
from fedrecon.data.simulation.ct import (
    OVERSAMPLING,
    CTSite,
    ct_detector_count,
    measure_ct,
    simulate_ct_patient,
)
from fedrecon.data.simulation.histology import (
    SlideSite,
    normalized_stain,
    simulate_slide,
    simulate_slide_cohort,
    slide_sites,
)
from fedrecon.data.simulation.hospitals import HOSPITAL_FRACTIONS, abdominal_hospitals, brain_hospitals
from fedrecon.data.simulation.mri import MRISite, chest_coils, coil_fields, simulate_mri_patient
from fedrecon.data.simulation.planning import PlannedPatient, plan_patients

__all__ = [
    "HOSPITAL_FRACTIONS",
    "OVERSAMPLING",
    "CTSite",
    "MRISite",
    "PlannedPatient",
    "SlideSite",
    "abdominal_hospitals",
    "brain_hospitals",
    "chest_coils",
    "coil_fields",
    "ct_detector_count",
    "measure_ct",
    "normalized_stain",
    "plan_patients",
    "read_mri_cohort",
    "read_mri_cohort_manifest",
    "read_mri_test_site",
    "simulate_ct_cohort",
    "simulate_ct_patient",
    "simulate_mri_cohort",
    "simulate_mri_patient",
    "simulate_mri_test_site",
    "simulate_slide",
    "simulate_slide_cohort",
    "simulated_ct_sites",
    "simulated_mri_sites",
    "slide_sites",
    "write_mri_cohort",
]
