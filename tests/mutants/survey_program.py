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
_TABLE = _TEST + "the_page_has_what_was_measured_besides"
_BESIDES = "tests/experiments/test_survey_besides.py::test_"
_MASKS = _BESIDES + "masks_of_one_site_are_a_quarter_of_the_image_away"
_WEIGHT = _BESIDES + "the_weight_of_the_wrong_site_is_told_by_coefficients_or_by_the_clock"
_SCHEDULES = _BESIDES + "every_site_trains_as_many_rounds_by_any_schedule"
_FORGOTTEN = _BESIDES + "forgetting_is_the_best_earlier_score_less_the_last"
_VISITS = _BESIDES + "visits_are_compared_with_averages"
_AGREEMENT = _BESIDES + "agreement_is_kappa_of_the_models_that_clients_evaluate_with"
_COPIED = _BESIDES + "pairs_that_are_training_data_are_told_from_others"
_VIRTUAL = _BESIDES + "virtual_samples_are_near_to_the_images_that_they_are_of"
_CHOSEN = _BESIDES + "what_is_measured_besides_is_of_the_row_and_of_the_problem"
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
        "fedrecon/evaluation/agreement.py",
        ("distance = np.abs(classes[:, None] - classes[None])",
         "distance = np.abs(np.arange(classes.size)[:, None] - np.arange(classes.size)[None])",
         "tests/evaluation/test_evaluation.py::test_kappa_is_that_of_scikit_learn"),
    ),
    *in_file(
        "experiments/pipeline/survey_besides.py",
        ("return seed % clients", "return 0", _WEIGHT),
        ("masks[client] = np.roll(masks[client],", "masks[client] = np.roll(masks[0],", _MASKS),
        ("scored[client] = False", "scored[client] = scored[client]", _MASKS),
        ("float(np.mean(told)) if told else", "float(np.mean(told)) if False else", _WEIGHT),
        ("ends = [rounds * k // count for", "ends = [k * (rounds // count) for", _SCHEDULES),
        ("for i in rng.permutation(len(sites))", "for i in range(len(sites))", _SCHEDULES),
        ("signed[:-1].max(0) - signed[-1]", "signed.max(0) - signed[-1]", _FORGOTTEN),
        ("signed = -after if lower_is_better", "signed = -after if False", _FORGOTTEN),
        ("after[-1].max() if down else after[-1].min()", "after[-1].max()", _VISITS),
        ("figure(lost, reference, lower_is_better=True)", "figure(lost, reference)", _VISITS),
        ("models[1].get(name, models[0])", "models[0]", _AGREEMENT),
        ("kappa(own[ok], true[ok], kind)", "kappa(own[ok], true[ok])", _AGREEMENT),
        ("zip(*(_all(part, name) for part in (data.train, data.test))",
         "zip(*(_all(part, name) for part in (data.test, data.train))", _COPIED),
        ("axis=1, return_inverse=True", "axis=0, return_inverse=True",
         _BESIDES + "patients_of_sites_are_not_the_same"),
        ("least_smooth(task, model, batch, jax.random.key(0), 1.0, 0.1)",
         "least_smooth(task, model, batch, jax.random.key(0), 2.0, 0.1)", _VIRTUAL),
        ('kind="stable")[:_MOST]', 'kind="stable")[:1]', _VIRTUAL),
    ),
    *in_file(
        "experiments/pipeline/survey_runs.py",
        ("if label not in (ALONE, POOLED)]", "]", _CHOSEN),
        ('(preset != "smoke" or row.besides != "visits")', "True", _CHOSEN),
    ),
    *in_file(
        "experiments/pipeline/survey_report.py",
        ('lines += _besides(result.get("besides", {}))', "pass", _TABLE),
        ('difference if found["reference"] else values]', "difference]", _TABLE),
    ),
    *in_file(
        "experiments/survey.py",
        ("except BrokenProcessPool as error:", "except KeyError as error:", _ENDED),
        ("names = list(dict.fromkeys(names))", "names = list(row.problems)", _SIMULATED),
        ("if wrong or len(", "if wrong and len(", _TEST + "unknown_rows_are_refused_by_name"),
    ),
)  # fmt: skip
