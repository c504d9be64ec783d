"""Mutants of the program that runs the review's rows."""

from tests.mutants.mutant import in_file

_TEST = "tests/experiments/test_survey.py::test_"
_FIT = _TEST + "settings_of_all_rows_fit[somewhere-small]"
_SIMULATED = _TEST + "settings_of_all_rows_fit[-small]"
_FOLDERS = _TEST + "trainings_of_a_folder_are_the_same_for_all_rows"
_PAGE = _TEST + "the_page_says_what_was_measured"
MUTANTS = (
    *in_file(
        "experiments/pipeline/survey_runs.py",
        ("base.rounds * row.turns", "base.rounds", _FIT),
        ('f"{row.name}-{label}"', 'f"{row.method}"', _FOLDERS),
        ('initialize_from="pretraining" if training.start else ""', 'initialize_from=""', _FIT),
    ),
    *in_file(
        "experiments/pipeline/survey_report.py",
        ('found["bytes"] / 1e6', 'found["bytes"]', _PAGE),
        ('return f"{count}: {_verdict(own)}."', 'return count', _PAGE),
        ('sign = "+" if difference["mean"] >= 0 else "-"', 'sign = ""', _PAGE),
        ("return math.nan if value is None else ", "return ", _PAGE),
    ),
    *in_file(
        "experiments/survey.py",
        ("names = list(dict.fromkeys(names))", "names = list(row.problems)", _SIMULATED),
        ("if wrong or len(", "if wrong and len(", _TEST + "unknown_rows_are_refused_by_name"),
    ),
)  # fmt: skip
