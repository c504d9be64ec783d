"""Mutants of the program that runs the review's rows."""

from tests.mutants.mutant import in_file

_TEST = "tests/experiments/test_survey.py::test_"
_FIT = _TEST + "settings_of_all_rows_fit[somewhere-small]"
_SIMULATED = _TEST + "settings_of_all_rows_fit[-small]"
_FOLDERS = _TEST + "trainings_of_a_folder_are_the_same_for_all_rows"
_OWN = _TEST + "the_page_names_what_a_row_does_not_have_in_common"
_TRIVIAL = _TEST + "what_needs_no_training_is_of_the_row_s_own_data"
_ENDED = _TEST + "a_process_that_is_ended_from_outside_ends_the_survey"
_TEXTS = "tests/data/test_manifests.py::test_texts_of_a_file_are_classes_or_findings"
_FLAGS = "tests/experiments/test_train_federated_flags.py::test_settings_out_of_range_name_the_flag"
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
        "experiments/pipeline/survey_report.py",
        ("if (turns := changes.get", "if False and (turns := changes.get", _OWN),
        ('given |= {label: {"start": way} for label, way in row.starts.items()}', "pass", _OWN),
    ),
    *in_file(
        "experiments/pipeline/survey_runs.py",
        ('place / plain.folder / f"seed-{seed}"', 'place / f"seed-{seed}"', _TRIVIAL),
    ),
    *in_file(
        "experiments/pipeline/federated_settings.py",
        ('settings.partition in ("natural", "case_type")', 'settings.partition == "natural"',
         _FLAGS),
    ),
    *in_file(
        "fedrecon/data/measured/images.py",
        ("if not set(group) & set(texts):", "if False:", _TEXTS),
    ),
    *in_file(
        "experiments/survey.py",
        ("except BrokenProcessPool as error:", "except KeyError as error:", _ENDED),
        ("names = list(dict.fromkeys(names))", "names = list(row.problems)", _SIMULATED),
        ("if wrong or len(", "if wrong and len(", _TEST + "unknown_rows_are_refused_by_name"),
    ),
)  # fmt: skip
