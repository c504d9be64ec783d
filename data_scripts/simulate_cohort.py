"""Writes a simulated multi-site MRI cohort as fastMRI HDF5 files: python -m data_scripts.simulate_cohort.

The output directory gets one folder for each site, in it one file for each patient (undersampled k-space,
mask, fully sampled reference, lesions), and cohort.json: the sites' physics and each file's part, patient and
labels. experiments.full_stack, train_federated and compare read it with --data_dir=DIRECTORY.
"""

from absl import flags, logging

from fedrecon.data import simulated_mri_sites, write_mri_cohort
from fedrecon.runtime import ending, run_program


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("output", None, "Directory to write to; created if absent.", required=True)
    flags.DEFINE_integer("sites", 5, "Number of sites, each with its own scanner.", lower_bound=1)
    flags.DEFINE_float("patients_per_site", 8.0, "Average number of patients of a site, at least 3.")
    flags.DEFINE_integer("slices", 4, "Neighboring slices of each patient.", lower_bound=1)
    flags.DEFINE_integer("size", 64, "Edge of the image matrix in pixels.", lower_bound=32)
    flags.DEFINE_float("acceleration", 4.0, "Nominal acceleration of the sampling masks.")
    flags.DEFINE_float("center_fraction", 0.1, "Fraction of the columns in the fully sampled center.")
    flags.DEFINE_float("size_skew", 0.5, "Spread of the sites' numbers of patients, in [0, 1).")
    flags.DEFINE_float("label_skew", 0.5, "Spread of the sites' prevalences of lesions, in [0, 1].")
    flags.DEFINE_integer("seed", 0, "Seed; the same seed gives the same cohort.", lower_bound=0)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with ending():
        sites = simulated_mri_sites(
            flags.FLAGS.sites,
            flags.FLAGS.patients_per_site,
            acceleration=flags.FLAGS.acceleration,
            center_fraction=flags.FLAGS.center_fraction,
            size_skew=flags.FLAGS.size_skew,
            label_skew=flags.FLAGS.label_skew,
            seed=flags.FLAGS.seed,
        )
        shape = (flags.FLAGS.size, flags.FLAGS.size)
        document = write_mri_cohort(flags.FLAGS.output, sites, flags.FLAGS.slices, shape, flags.FLAGS.seed)
    for site in document["sites"]:
        labels = [label for volume in site["volumes"] for label in volume["labels"]]
        print(
            f"{site['name']}: {site['patients']} patients, {sum(labels)} of {len(labels)} slices with lesions"
        )


if __name__ == "__main__":
    define_flags()
    run_program(main)
