"""Mutants of privacy, the runtime, reports and experiments."""

from tests.mutants.mutant import in_file

_PRIVACY = "tests/privacy/test_accounting.py::test_"
_RUNTIME = "tests/runtime/test_runtime.py::test_"
_REPORTING = "tests/reporting/test_reporting.py::test_"
_PATIENTS = "tests/reporting/test_patients.py::test_"
_DIAGNOSIS = "tests/experiments/test_diagnosis.py::test_"
_CURVES = "tests/experiments/test_learning_curves.py::test_"
_COMPARE = "tests/experiments/test_compare.py::test_"
_RECONSTRUCTION = "tests/experiments/test_reconstruction_stage.py::test_"
_VALIDATION = "tests/experiments/test_validation.py::test_"
_FAULTS = "tests/experiments/test_federated_faults.py::test_"
_PROGRAM = "tests/runtime/test_program.py::test_"

_QUALITY = in_file(
    "experiments/benchmark_quality.py",
    (
        'best, image = max(found, key=lambda one: one[0]["psnr"])',
        'best, image = min(found, key=lambda one: one[0]["psnr"])',
        "tests/experiments/test_benchmark_quality.py::test_rows_hold_the_best_weight_the_default_and_what_is_missing",
    ),
    (
        "rest = round(mask.size / acceleration) - mask.sum()",
        "rest = round(mask.size / acceleration)",
        "tests/experiments/test_benchmark_quality.py::test_single_samples_are_drawn_to_the_factor",
    ),
)

MUTANTS = (
    *in_file(
        "experiments/pipeline/settings.py",
        # Flags of measured data change nothing in simulated cohorts, without a word.
        (
            "check_needs(settings, base)",
            "pass",
            "tests/experiments/test_settings.py::test_values_out_of_range_name_the_flag",
        ),
    ),
    *in_file(
        "fedrecon/runtime/workdir.py",
        (
            "        elif obstacle:",
            "        elif False:",
            _RUNTIME + "numbers_that_may_grow_continue_the_run_and_say_why_not",
        ),
        (
            'document | {"config": config}',
            "document",
            _RUNTIME + "numbers_that_may_grow_continue_the_run_and_say_why_not",
        ),
    ),
    *in_file(
        "experiments/pipeline/growth.py",
        (
            "if federation.dp_epsilon:",
            "if False:",
            "tests/experiments/test_growth.py::test_what_depends_on_the_number_of_rounds_is_not_continued",
        ),
    ),
    *in_file(
        "experiments/pipeline/dotted.py",
        # The value after a space is taken for a flag.
        (
            "rest.append(argument)",
            "rest += [] if argument[1:2].isdigit() else [argument]",
            "tests/experiments/test_train_federated_flags.py::test_dotted_flags_are_taken_out",
        ),
    ),
    *in_file(
        "experiments/pipeline/run.py",
        (
            "if asked > (most := max(clients.values())):",
            "if asked > 10 * (most := max(clients.values())):",
            "tests/experiments/test_stack.py::test_more_clients_a_round_than_any_stage_has_are_refused",
        ),
    ),
    *in_file(
        "experiments/pipeline/privacy.py",
        (
            "if settings.dp_delta * smallest >= 1:",
            "if False:",
            "tests/experiments/test_stack.py::test_a_delta_that_gives_away_an_example_is_refused",
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
        "fedrecon/runtime/help.py",
        (
            'if "helpfull" in names:',
            "if False:",
            "tests/runtime/test_program.py::test_help_is_asked_for_in_absls_words_and_wraps_what_flags_say",
        ),
    ),
    *in_file(
        "experiments/pipeline/federation_settings.py",
        # Reducers of a ring change nothing, without a word.
        (
            'lambda s: s.topology == "star")',
            "lambda s: True)",
            _FAULTS + "flags_that_do_not_fit_are_named",
        ),
    ),
    *_QUALITY,
    *in_file(
        "fedrecon/runtime/checkpoint.py",
        # The oldest checkpoint is restored.
        (
            "sorted(self._manager.all_steps(), reverse=True)",
            "sorted(self._manager.all_steps())",
            _RUNTIME + "checkpoint_restores_values_dtypes_and_structure",
        ),
        # Shapes alone are compared.
        (
            "{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple",
            "{tuple",
            _RUNTIME + "checkpoints_of_another_dtype_or_all_damaged_are_refused",
        ),
        (
            "self._manager.delete(other)",
            "pass",
            _RUNTIME + "a_damaged_newest_checkpoint_is_named_and_the_one_before_restored",
        ),
    ),
    *in_file(
        "fedrecon/runtime/training.py",
        (
            "end + 19 * (end - start)",
            "end",
            _RUNTIME + "checkpoints_take_a_small_part_of_the_time",
        ),
    ),
    *in_file(
        "fedrecon/runtime/program.py",
        (
            'stream.reconfigure(errors="replace")',
            "pass",
            _PROGRAM + "consoles_of_any_encoding_show_every_line",
        ),
        # Any error of the library looks like one of the user.
        (
            "if isinstance(error, ArgumentError | WorkdirError",
            "if isinstance(error, ValueError | WorkdirError",
            _PROGRAM + "other_errors_keep_their_traceback",
        ),
        (
            "error.errno in _FULL",
            "not _FULL",
            _PROGRAM + "what_users_can_mend_ends_in_one_line",
        ),
    ),
    *in_file(
        "fedrecon/privacy/accounting.py",
        # Calibration that returns the multiplier that was rejected.
        (
            "(low, middle) if accept(middle) else (middle, high)",
            "(middle, high) if accept(middle) else (low, middle)",
            _PRIVACY + "calibration_returns_the_accepted_end_of_the_last_interval",
        ),
        (
            "min(1.0, expected_batch_size / examples)",
            "min(1.0, padded_batch_size / examples)",
            _PRIVACY + "untruncated_equals_the_poisson_subsampled_gaussian",
        ),
        (
            "dp_accounting.SelfComposedDpEvent(step, steps)",
            "dp_accounting.SelfComposedDpEvent(step, 1)",
            _PRIVACY + "untruncated_equals_the_poisson_subsampled_gaussian",
        ),
        (
            "min(LARGEST_DEFAULT_DELTA, examples**-1.1)",
            "examples**-1.1",
            _PRIVACY + "delta_defaults_to_little_and_to_less_at_large_sites",
        ),
        (
            "truncated_batch_size=padded_batch_size,",
            "truncated_batch_size=examples,",
            _PRIVACY + "event_is_that_of_jax_privacy",
        ),
    ),
    *in_file(
        "experiments/pipeline/components.py",
        # Every round starts the schedule afresh.
        (
            "_warmup_cosine((round + part) / rounds, final)",
            "_warmup_cosine(part, final)",
            _FAULTS + "clients_of_all_sizes_move_by_the_rates_of_the_round",
        ),
        (
            "final = ADAM_COSINE_END",
            "pass",
            _FAULTS + "adam_cosine_has_one_rate_at_a_time_whatever_the_size_of_a_client",
        ),
    ),
    *in_file(
        "experiments/pipeline/examples.py",
        # One model for all clients.
        (
            "key=lambda place: id(models[place[0]])",
            "key=lambda place: 0",
            _RECONSTRUCTION + "every_valid_example_is_seen_by_the_model_of_its_client",
        ),
        # Filling of the last chunk is kept.
        (
            "np.asarray(x)[:count]",
            "np.asarray(x)",
            _RECONSTRUCTION + "every_valid_example_is_seen_by_the_model_of_its_client",
        ),
    ),
    *in_file(
        "experiments/pipeline/reconstruction.py",
        (
            "np.cumsum(np.sum(data.valid, 1))",
            "np.cumsum(np.sum(data.valid, 0))",
            _RECONSTRUCTION + "signs_are_told_by_client",
        ),
        (
            "predict([model] * data.clients, data)",
            "predict(list(models), data)",
            _RECONSTRUCTION + "every_network_is_scored_at_home_and_elsewhere",
        ),
        # Only larger weights are tried.
        (
            "max((best - 1, best + 1), key=at)",
            "max((best, best + 1), key=at)",
            _RECONSTRUCTION + "the_best_weight_is_found_by_climbing",
        ),
    ),
    *in_file(
        "experiments/pipeline/programs.py",
        (
            'return len(recorded["devices"])',
            "return 1",
            _RECONSTRUCTION + "a_run_resumes_on_as_many_devices_as_it_began_with",
        ),
    ),
    *in_file(
        "experiments/pipeline/validation.py",
        # The newest round is kept, not the best.
        (
            "rounds.federation(watched.best)",
            "rounds.federation(watched.state)",
            _VALIDATION + "patience_ends_a_training_and_keeps_its_best_round",
        ),
        (
            ".where(wide, new, old)",
            ".where(wide.any(), new, old)",
            _VALIDATION + "sites_that_share_nothing_choose_rounds_of_their_own",
        ),
    ),
    *in_file(
        "experiments/pipeline/progress.py",
        (
            "course.idle == course.rounds",
            "course.idle > course.rounds",
            _VALIDATION + "a_training_in_which_nobody_took_part_is_an_error",
        ),
        (
            "max(-slope * count, 0.0)",
            "max(-slope, 0.0)",
            _VALIDATION + "a_trend_says_what_remains_to_be_gained",
        ),
    ),
    *in_file(
        "fedrecon/files.py",
        (
            "temporary.unlink(missing_ok=True)",
            "temporary.replace(path)",
            _RUNTIME + "write_atomically_leaves_the_old_file_on_failure",
        ),
    ),
    *in_file(
        "fedrecon/runtime/log.py",
        (
            "records.append(decode_numbers(record))",
            "records.append(record)",
            _RUNTIME + "what_is_not_finite_is_told_from_nothing_to_report",
        ),
        # A torn last line.
        (
            "if number == len(lines):",
            "if number == len(lines) + 1:",
            _RUNTIME + "a_torn_last_line_is_ignored_and_repaired",
        ),
        (
            "self._rewrite(read_log(self.path))",
            "read_log(self.path)",
            _RUNTIME + "a_torn_last_line_is_ignored_and_repaired",
        ),
        (
            'r.get("round", 0) <= round]',
            'r.get("round", 0) < round]',
            _RUNTIME + "drop_after_touches_one_stage",
        ),
        ('if r.get("stage") != stage or r.get', "if r.get", _RUNTIME + "drop_after_touches_one_stage"),
    ),
    *in_file(
        "fedrecon/runtime/training.py",
        # A resume that leaves the records after the checkpoint.
        (
            "log.drop_after(stage, done)",
            "log.drop_after(stage, rounds)",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
        (
            "count = min(rounds_per_dispatch, rounds - done)",
            "count = rounds_per_dispatch",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
        (
            "self._held = True",
            "pass",
            _RUNTIME + "an_interrupt_during_a_save_comes_after_it",
        ),
        (
            "done, state = restored if restored is not None else (0, state)",
            "done, state = (restored[0], state) if restored is not None else (0, state)",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
    ),
    *in_file(
        "fedrecon/runtime/checkpoint.py",
        (
            "if expected_leaf != found_leaf:",
            "if False:",
            _RUNTIME + "checkpoint_restores_values_dtypes_and_structure",
        ),
    ),
    *in_file(
        "fedrecon/runtime/workdir.py",
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", _RUNTIME + "workdir_is_exclusive"),
        (
            "if config.get(name) != found.get(name)",
            "if name in config and name not in found",
            _RUNTIME + "workdir_resumes_only_the_same_configuration",
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
        "experiments/pipeline/diagnosis.py",
        (
            "called = test.probability > np.asarray(thresholds)[test.site]",
            "called = test.probability > np.asarray(thresholds)[0]",
            _DIAGNOSIS + "classification_counts_pairs_within_sites_and_says_nothing_of_few",
        ),
        (
            "_LEAST = 5",
            "_LEAST = 1",
            _DIAGNOSIS + "classification_counts_pairs_within_sites_and_says_nothing_of_few",
        ),
    ),
    *in_file(
        "experiments/pipeline/stages.py",
        (
            'if kind == "centralized":',
            'if kind != "federated":',
            _CURVES + "only_pooled_data_take_the_rate_and_the_epochs_of_their_own",
        ),
        (
            "epochs=self.settings.pooled_epochs or budget.epochs",
            "epochs=budget.epochs",
            _CURVES + "only_pooled_data_take_the_rate_and_the_epochs_of_their_own",
        ),
    ),
    *in_file(
        "experiments/pipeline/network_reconstruction.py",
        (
            'if network.physics != "mri":',
            "if False:",
            "tests/experiments/test_reconstruct_network.py::test_what_a_network_cannot_take_is_refused_by_name",
        ),
        (
            'trust it" if found else',
            'trust it" if not found else',
            "tests/experiments/test_reconstruct_network.py::test_a_measurement_unlike_those_of_training_is_told",
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
            "np.asarray(image[0]) * batch",
            "np.asarray(image[0]) / batch",
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
    *in_file(
        "experiments/pipeline/privacy.py",
        # Composed over the largest stage instead of the sum of all.
        (
            "steps = sum(",
            "steps = max(",
            "tests/experiments/test_privacy.py::test_stages_on_the_same_patients_compose",
        ),
    ),
    *in_file(
        "experiments/pipeline/algorithms.py",
        (
            '"equal" if (settings.weighting, settings.sampler)',
            '"examples" if (settings.weighting, settings.sampler)',
            "tests/experiments/test_stack.py::test_sizes_count_once_where_clients_are_drawn_by_size",
        ),
    ),
    *in_file(
        "experiments/pipeline/federated_faults.py",
        (
            "counted & (steps < expected)",
            "steps < expected",
            _FAULTS + "records_name_who_something_was_wrong_with",
        ),
        (
            "if names.index(name) in faults:",
            "if name in faults:",
            _FAULTS + "faults_are_read_and_wrong_ones_named",
        ),
    ),
)
