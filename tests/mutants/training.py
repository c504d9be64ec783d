"""Mutants of the training stage and of what is its own: tasks, methods, starts."""

from tests.mutants.mutant import in_file

_VALIDATION = "tests/experiments/test_validation.py::test_"
_INITIAL = "tests/training/test_initial.py::test_"
_RUN = "tests/training/test_run.py::test_"
_TUNING = "tests/training/test_finetuning.py::test_"
_FAULTS = "tests/experiments/test_federated_faults.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/training/results.py",
        (
            "if released is None or file.exists():",
            "if True:",
            _RUN + "a_run_of_a_closure_is_exported_by_the_command",
        ),
        (
            "warnings.warn(",
            "print(",
            _RUN + "of_a_network_that_cannot_be_exported_the_reason_is_told",
        ),
    ),
    *in_file(
        "experiments/export.py",
        (
            "v != defaults.get(n) and n not in apart",
            "n not in apart",
            _RUN + "a_run_of_a_closure_is_exported_by_the_command",
        ),
    ),
    *in_file(
        "fedrecon/training/low_rank.py",
        # Every client would count alike in the mean of products.
        (
            "theirs = theirs * (weights / whole)[:, None, None]",
            "theirs = theirs * (1 / len(weights))",
            _TUNING + "stacked_factors_are_the_mean_of_products_at_their_rank[2]",
        ),
        (
            "return jnp.where(included.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)",
            "return x",
            _TUNING + "stacked_factors_are_the_mean_of_products_at_their_rank[2]",
        ),
        (
            "if x.ndim > 1 and name not in skip and name not in full",
            "if x.ndim > 1 and name not in full",
            _TUNING + "kernels_of_grouped_convolutions_have_no_factors",
        ),
    ),
    *in_file(
        "fedrecon/training/adapters.py",
        (
            '"up": jnp.zeros((width, channels), dtype)',
            '"up": jnp.ones((width, channels), dtype)',
            _TUNING + "every_choice_begins_at_the_model_and_sends_what_it_trains_alone[adapter]",
        ),
    ),
    *in_file(
        "fedrecon/training/finetuning.py",
        # Frozen leaves would travel.
        (
            "jax.tree.map(lambda kind: FROZEN if kind == FROZEN else own, part)",
            "jax.tree.map(lambda kind: own, part)",
            _TUNING + "every_choice_begins_at_the_model_and_sends_what_it_trains_alone[lora]",
        ),
        (
            'if options.get("mode") == "stack":',
            "if False:",
            _TUNING + "what_needs_more_than_frozen_leaves_give_is_refused_with_the_reason",
        ),
    ),
    *in_file(
        "fedrecon/training/growth.py",
        (
            "if federation.dp_epsilon:",
            "if False:",
            "tests/experiments/test_growth.py::test_what_depends_on_the_number_of_rounds_is_not_continued",
        ),
    ),
    *in_file(
        "fedrecon/training/initial.py",
        (
            "if shapes[0] != shapes[1]:",
            "if False:",
            _INITIAL + "leaves_that_do_not_fit_are_named_with_both_shapes",
        ),
        (
            'if kind == "run" and several and training != "federated":',
            "if False:",
            _INITIAL + "each_stage_starts_from_its_own_model",
        ),
        (
            '.get("task", "reconstruction")',
            '.get("none", "reconstruction")',
            _INITIAL + "each_stage_starts_from_its_own_model",
        ),
    ),
    *in_file(
        "experiments/pipeline/settings.py",
        (
            'values = values | {"start": "random"}',
            "pass",
            "tests/experiments/test_start.py::test_a_model_of_the_reconstruction_takes_the_place_of_the_start",
        ),
    ),
    *in_file(
        "fedrecon/training/named_tasks.py",
        (
            "error.args[0] in example",
            "error.args[0]",
            "tests/experiments/test_own_task.py::test_a_task_that_does_not_fit_the_data_is_named",
        ),
    ),
    *in_file(
        "fedrecon/training/interactive.py",
        (
            "worst for name, (_, worst)",
            "worst for name, (worst, _)",
            _RUN + "fedavg_of_a_linear_model_is_the_one_of_numpy",
        ),
    ),
    *in_file(
        "fedrecon/training/dotted.py",
        # The value after a space is taken for a flag.
        (
            "rest.append(argument)",
            "rest += [] if argument[1:2].isdigit() else [argument]",
            "tests/experiments/test_train_federated_flags.py::test_dotted_flags_are_taken_out",
        ),
    ),
    *in_file(
        "fedrecon/training/privacy_plan.py",
        (
            "if settings.dp_delta * smallest >= 1:",
            "if False:",
            "tests/experiments/test_stack.py::test_a_delta_that_gives_away_an_example_is_refused",
        ),
        # Composed over the largest stage instead of the sum of all.
        (
            "for budget in stages.values()",
            "for budget in list(stages.values())[:1]",
            "tests/experiments/test_privacy.py::test_stages_on_the_same_patients_compose",
        ),
    ),
    *in_file(
        "fedrecon/training/federation_settings.py",
        # Reducers of a ring change nothing, without a word.
        (
            'lambda s: s.topology == "star")',
            "lambda s: True)",
            _FAULTS + "flags_that_do_not_fit_are_named",
        ),
    ),
    *in_file(
        "fedrecon/training/components.py",
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
        (
            'if (settings.weighting, settings.sampler) == ("default", "weighted"):',
            'if (settings.weighting, settings.sampler) == ("equal", "weighted"):',
            "tests/experiments/test_stack.py::test_sizes_count_once_where_clients_are_drawn_by_size",
        ),
    ),
    *in_file(
        "fedrecon/training/validation.py",
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
        "fedrecon/training/progress.py",
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
        "fedrecon/training/faults.py",
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
