"""Mutants of averages of models, of local steps in parts, and of reports of what sites have."""

from tests.mutants.mutant import in_file

_AVERAGE = "tests/federated/test_averaging.py::test_"
_STEPS = "tests/training/test_local_steps.py::test_"
_DISCLOSURE = "tests/evaluation/test_disclosure.py::test_"
_REPORT = "tests/experiments/test_data_report.py::test_"
_LODOPAB = "tests/data/test_convert_lodopab.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/training/budgets.py",
        (
            '{"steps": self.steps} if self.steps',
            '{"steps": self.steps} if False',
            _STEPS + "steps_replace_passes",
        ),
        ("counts > 0, self.steps, 0", "counts >= 0, self.steps, 0", _STEPS + "steps_replace_passes"),
    ),
    *in_file(
        "fedrecon/federated/methods/averaging.py",
        (
            "part = (1 - decay) / (1 - decay ** count.astype(jnp.float32))",
            "part = 1 - decay",
            _AVERAGE + "the_released_model_is_the_normalized_sum_of_powers",
        ),
        (
            "(m + part * (w - m))",
            "(w + part * (m - w))",
            _AVERAGE + "the_released_model_is_the_normalized_sum_of_powers",
        ),
        (
            "shared._replace(params=state.server.mean)",
            "shared",
            _AVERAGE + "the_released_model_is_the_normalized_sum_of_powers",
        ),
        ("    if not decay:", "    if False:", _AVERAGE + "without_decay_the_algorithm_is_the_same_object"),
    ),
    *in_file(
        "fedrecon/training/local_steps.py",
        (
            "jnp.where(counted > 0, value * counted, 0)",
            "jnp.where(counted > 0, value, 0)",
            _STEPS + "parts_of_a_batch_have_the_gradient_of_the_whole",
        ),
        (
            'metrics["loss"][1] if "loss" in metrics else',
            "metrics[None] if False else",
            _STEPS + "parts_are_weighted_by_what_their_loss_is_a_mean_of",
        ),
        (
            "jax.random.fold_in(key, number)",
            "key",
            _STEPS + "statistics_see_the_parts_in_turn_and_keys_differ",
        ),
        (
            "jnp.ndim(kernel) >= 4",
            "jnp.ndim(kernel) >= 9",
            _STEPS + "convolutions_are_rounded_and_nothing_else",
        ),
    ),
    *in_file(
        "fedrecon/evaluation/disclosure.py",
        (
            "while shown and 0 < left < minimum:",
            "while False:",
            _DISCLOSURE + "the_smallest_that_is_shown_hides_a_small_one",
        ),
        (
            "if number >= minimum), key",
            "if number > 0), key",
            _DISCLOSURE + "no_small_count_is_shown_or_told_by_others",
        ),
        (
            "total if total >= minimum else None",
            "total",
            _DISCLOSURE + "no_small_count_is_shown_or_told_by_others",
        ),
    ),
    *in_file(
        "experiments/pipeline/data_profile.py",
        (
            "number if told and number >= minimum else None",
            "number if number >= minimum else None",
            _REPORT + "no_number_below_the_minimum_is_in_a_report_or_follows_from_it",
        ),
        (
            "corners[0] - corners[1] - corners[2] + corners[3]",
            "corners[0] - corners[1] + corners[2] + corners[3]",
            _REPORT + "noise_is_found_in_a_smooth_object",
        ),
        (
            "inside = (part - low) / (high - low)",
            "inside = (high - part) / (high - low)",
            _REPORT + "quantiles_are_within_a_bin_of_those_of_the_values",
        ),
    ),
    *in_file(
        "data_scripts/convert_lodopab.py",
        (
            "first = ids[:start].count(patient)",
            "first = 0",
            _LODOPAB + "every_slice_is_in_the_file_of_its_patient",
        ),
        (
            '"r+" if there else "w+"',
            '"w+"',
            _LODOPAB + "every_slice_is_in_the_file_of_its_patient",
        ),
        ("    if not path.exists():", "    if True:", _LODOPAB + "an_interrupted_conversion_is_continued"),
    ),
    *in_file(
        "fedrecon/training/options.py",
        (
            'or field.metadata.get("later")',
            "",
            "tests/experiments/test_settings.py::test_config_files_have_later_settings_where_they_are_changed",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/scanner.py",
        (
            "systemFieldStrength_T",
            "receiverChannels",
            _REPORT + "files_of_fastmri_tell_coils_undersampling_and_scanner",
        ),
    ),
)
