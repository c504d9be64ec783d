"""Mutants of privacy, reports and experiments."""

from tests.mutants.mutant import in_file

_REPORTING = "tests/reporting/test_reporting.py::test_"
_PATIENTS = "tests/reporting/test_patients.py::test_"
_COMPARE = "tests/experiments/test_compare.py::test_"
_PROGRAM = "tests/runtime/test_program.py::test_"

_START = "tests/experiments/test_start.py::test_"

MUTANTS = (
    *in_file(
        "experiments/pipeline/start.py",
        (
            "if asked[name] != value:",
            "if False:",
            _START + "what_does_not_fit_is_named",
        ),
        (
            "if network.physics != settings.modality:",
            "if False:",
            _START + "what_does_not_fit_is_named",
        ),
        (
            "hashlib.sha256(data).hexdigest()",
            "hashlib.sha256().hexdigest()",
            _START + "a_file_and_its_folder_name_the_same_network",
        ),
    ),
    *in_file(
        "experiments/pipeline/settings.py",
        (
            "values = values | dict.fromkeys(_KEEPS_BEST, 0)",
            "pass",
            "tests/experiments/test_settings.py::test_the_best_round_is_kept_where_there_are_validation_curves",
        ),
    ),
    *in_file(
        "fedrecon/__init__.py",
        (
            "if found != own:",
            "if found is None:",
            _PROGRAM + "another_package_of_the_name_operators_is_refused",
        ),
    ),
    *in_file(
        "fedrecon/reporting/comparison.py",
        (
            "values.std(ddof=1) / math.sqrt(len(values))",
            "values.std() / math.sqrt(len(values))",
            _COMPARE + "intervals_are_those_of_scipy",
        ),
        (
            "own[seed] - values[baseline][seed]",
            "values[baseline][seed] - own[seed]",
            _COMPARE + "differences_are_paired",
        ),
        (
            "(difference.mean > 0) != lower_is_better",
            "difference.mean > 0",
            _COMPARE + "differences_are_paired",
        ),
        (
            "term *= (k - 1) / k * cosine**2",
            "term *= (k - 1) / k * cosine",
            _COMPARE + "quantiles_are_those_of_student",
        ),
    ),
    *in_file(
        "fedrecon/reporting/tables.py",
        (
            "mean = sum(known) / len(known) if known else None",
            "mean = sum(known) / len(values) if known else None",
            _REPORTING + "the_mean_is_over_the_sites_that_have_the_metric",
        ),
    ),
    *in_file(
        "fedrecon/reporting/patients.py",
        # Patients without a lesion score 1 where nothing is marked.
        (
            "np.where(self.lesion > 0, 2 * self.overlap",
            "np.where(self.lesion >= 0, 2 * self.overlap",
            _PATIENTS + "marking_nothing_scores_nothing_where_there_is_a_lesion",
        ),
        (
            "& (groups[:, None] == groups)",
            "& (groups[:, None] >= groups)",
            _PATIENTS + "auc_counts_pairs_within_groups",
        ),
    ),
    *in_file(
        "fedrecon/learned.py",
        (
            "over = ~(known <= bound)",
            "over = known > bound",
            "tests/test_learned.py::test_what_exceeds_a_bound_is_told",
        ),
        (
            "np.asarray(image[0]) * scale",
            "np.asarray(image[0]) / scale",
            "tests/test_learned.py::test_a_measurement_is_reconstructed_in_its_own_unit",
        ),
    ),
    *in_file(
        "fedrecon/reporting/report.py",
        (
            "<td>{html.escape(str(cell))}</td>",
            "<td>{cell}</td>",
            _REPORTING + "the_page_is_self_contained_and_escaped",
        ),
    ),
)
