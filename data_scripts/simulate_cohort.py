"""Writes a simulated multi-site MRI cohort as fastMRI HDF5 files: python -m data_scripts.simulate_cohort.

The output directory gets one folder for each site, in it one file for each patient (undersampled k-space,
mask, fully sampled reference, lesions), and cohort.json: the sites' physics and each file's part, patient and
labels. experiments.full_stack, train_federated and compare read it with --data_dir=DIRECTORY.

With --scanners=hospitals the files are the patients of `python -m experiments.full_stack`, those of the
hospital that takes no part in training included.
"""

from typing import Any

from absl import flags

from fedrecon.data import simulated_mri_sites, write_mri_cohort
from fedrecon.data.clients import FRACTIONS
from fedrecon.data.simulation import HOSPITAL_FRACTIONS, abdominal_hospitals, brain_hospitals
from fedrecon.runtime import ending, run_program
from operators.algebra import ArgumentError

# Of sites, patients of a site, slices, edge of the matrix.
_DEFAULTS = {
    "mixed": {"sites": 5, "patients_per_site": 8.0, "slices": 4, "size": 64, "size_skew": 0.5},
    "hospitals": {"sites": 8, "patients_per_site": 4.0, "slices": 3, "size": 128, "size_skew": 0.0},
    "abdomens": {"sites": 8, "patients_per_site": 6.0, "slices": 3, "size": 128, "size_skew": 0.0},
}


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("output", None, "Directory to write to; created if absent.", required=True)
    flags.DEFINE_enum(
        "scanners",
        "mixed",
        list(_DEFAULTS),
        "Scanners of heads and abdomens in turn (mixed), the small hospitals of experiments.full_stack that "
        "scan brains, with the one that takes no part in training (hospitals), or those that scan abdomens, "
        "where its starting network is trained (abdomens).",
    )
    by = "by --scanners"
    flags.DEFINE_integer("sites", None, f"Number of sites, {by}: 5 or 8.", lower_bound=1)
    flags.DEFINE_float("patients_per_site", None, f"Average number of patients of a site, at least 3; {by}.")
    flags.DEFINE_integer("slices", None, f"Neighboring slices of each patient, {by}.", lower_bound=1)
    flags.DEFINE_integer("size", None, f"Edge of the image matrix, {by}: 64 or 128.", lower_bound=32)
    flags.DEFINE_float("size_skew", None, f"Spread of the sites' sizes, in [0, 1), {by}: 0.5 or 0.")
    flags.DEFINE_float("acceleration", 4.0, "Nominal acceleration of the masks; of hospitals, on average.")
    flags.DEFINE_float(
        "center_fraction", None, "Fraction of the columns in the sampled center, 0.1; of mixed scanners."
    )
    flags.DEFINE_float(
        "label_skew", None, "Spread of the prevalences of lesions, in [0, 1], 0.5; of mixed scanners."
    )
    flags.DEFINE_integer("seed", 0, "Seed; the same seed gives the same cohort.", lower_bound=0)


def main(_: list[str]) -> None:
    with ending():
        given = flags.FLAGS
        values = _DEFAULTS[given.scanners]
        values |= {name: given[name].value for name in values if given[name].value is not None}
        sites, options = _sites(values)
        shape = (values["size"], values["size"])
        document = write_mri_cohort(given.output, sites, values["slices"], shape, given.seed, **options)
    for site in document["sites"]:
        labels = [label for volume in site["volumes"] for label in volume["labels"]]
        name = f"{site['name']} (unseen)" if site["name"] == document["unseen"] else site["name"]
        print(f"{name}: {site['patients']} patients, {sum(labels)} of {len(labels)} slices with lesions")


def _sites(values: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The sites that train, and what else `write_mri_cohort` is told of the cohort."""
    given = flags.FLAGS
    common: dict[str, Any] = {
        "acceleration": given.acceleration,
        "size_skew": values["size_skew"],
        "seed": given.seed,
    }
    count, patients = values["sites"], values["patients_per_site"]
    if given.scanners == "mixed":
        skews = {
            "center_fraction": 0.1 if given.center_fraction is None else given.center_fraction,
            "label_skew": 0.5 if given.label_skew is None else given.label_skew,
        }
        return simulated_mri_sites(count, patients, **common, **skews), {}
    for name in ("center_fraction", "label_skew"):
        if given[name].value is not None:
            raise ArgumentError(f"--{name}", "--scanners=mixed with it", f"--scanners={given.scanners}")
    if given.scanners == "hospitals":
        hospitals, unseen = brain_hospitals(count, patients, **common)
        return hospitals, {"fractions": HOSPITAL_FRACTIONS, "unseen": unseen}
    return abdominal_hospitals(count, patients, **common), {"fractions": FRACTIONS}


if __name__ == "__main__":
    define_flags()
    run_program(main)
