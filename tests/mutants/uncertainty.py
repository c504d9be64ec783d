"""Mutants of deviations of images: ensembles, samples of the posterior, and networks of one scan."""

from tests.mutants.mutant import in_file

_SPREADS = "tests/evaluation/test_spreads.py::test_"
_ENSEMBLE = "tests/experiments/test_recon_ensemble.py::test_"
_POSTERIOR = "tests/experiments/test_recon_posterior.py::test_"
_IMPLICIT = "tests/priors/test_implicit.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/evaluation/spreads.py",
        (
            "stats.spearmanr(error, deviation)",
            "stats.pearsonr(error, deviation)",
            _SPREADS + "ranks_are_correlated_and_what_does_not_count_is_left_out",
        ),
        (
            "np.sqrt(np.square(error).mean()) / total",
            "np.abs(error).mean() / total",
            _SPREADS + "deviations_that_are_those_of_the_errors_have_the_ratio_one",
        ),
    ),
    *in_file(
        "experiments/pipeline/recon_ensemble.py",
        ('name not in ("seed", "member") and', "False and", _ENSEMBLE + "other_runs_are_refused"),
        ("if found.seed != settings.seed and", "if False and", _ENSEMBLE + "other_runs_are_refused"),
        ("if key in drawn:", "if False:", _ENSEMBLE + "other_runs_are_refused"),
        ("x.std(0, ddof=1)", "x.std(0)", _ENSEMBLE + "the_deviation_is_that_of_a_sample"),
        (
            "& (reference > _TISSUE * top)",
            "& (reference >= 0)",
            _ENSEMBLE + "normal_errors_are_covered_and_calibration_mends_a_factor",
        ),
    ),
    *in_file(
        "experiments/pipeline/federated_run.py",
        (
            "if member else key",
            "if False else key",
            _ENSEMBLE + "members_begin_elsewhere_and_the_first_where_the_seed_does",
        ),
    ),
    *in_file(
        "experiments/pipeline/recon_posterior.py",
        ("of.samples[:, of.valid]", "of.samples", _POSTERIOR + "files_have_valid_images_alone"),
        (
            "samples.mean(0), samples.std(0, ddof=1)",
            "samples.mean(0), samples.std(0)",
            _POSTERIOR + "files_have_valid_images_alone",
        ),
    ),
    *in_file(
        "fedrecon/priors/implicit.py",
        ("low + 1] = at - low", "low + 1] = low", _IMPLICIT + "parts_of_the_fit"),
        ("jnp.abs(size * direct)", "jnp.abs(direct)", _IMPLICIT + "parts_of_the_fit"),
        ("return [*found, shape]", "return found", _IMPLICIT + "parts_of_the_fit"),
        ("if not min(parts) > 0:", "if False:", _IMPLICIT + "samples_are_needed_on_both_sides"),
    ),
)
