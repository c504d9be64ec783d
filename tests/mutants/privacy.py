"""Wrong versions of private training and its accounting."""

from tests.mutants.mutant import in_file

_SGD = "tests/federated/test_dp_sgd.py::test_"
_UNITS = "tests/federated/test_private_units.py::test_"
_EVENTS = "tests/privacy/test_accounting.py::test_"
_BINS = "tests/privacy/test_balls_in_bins.py::test_"
_STRATEGIES = "tests/privacy/test_strategies.py::test_"
_METHODS = "tests/privacy/test_private_methods.py::test_"
_SPENDING = "tests/training/test_spending.py::test_"
_SIZE = _SGD + "noise_is_gaussian_of_the_stated_size_in_every_step"
_PLAIN = _SGD + "without_noise_and_clipping_it_is_sgd_on_the_poisson_batches"

MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/dp_fedavg.py",
        (
            "l2_clip_norm=mechanism.clipping_norm,",
            "l2_clip_norm=2 * mechanism.clipping_norm,",
            _SGD + "one_example_moves_the_sum_by_at_most_the_clipping_norm",
        ),
        ("is_padding_example=~present", "is_padding_example=jnp.zeros_like(present)", _PLAIN),
        # A wrong denominator.
        (
            "normalize_by=float(mechanism.expected_batch_size)",
            "normalize_by=float(mechanism.padded_batch_size)",
            _PLAIN,
        ),
        # Clipped after averaging.
        (
            "x.reshape(-1, mechanism.images, *x.shape[1:])",
            "x.reshape(1, -1, *x.shape[1:])",
            _UNITS + "all_images_of_a_patient_are_clipped_once",
        ),
        # No noise in steps without an example.
        ('every_step=mechanism.sampling != "fixed",', "every_step=False,", _SIZE),
        # The same noise for every step, client and round.
        (
            "privatizer.update(gradient, (noise_key, state))",
            "privatizer.update(gradient, (jax.random.key(0), state))",
            _SGD + "noise_differs_between_steps_clients_and_rounds",
        ),
        # A tenth of the noise, and none.
        ("stddev = mechanism.stddev / ", "stddev = 0.1 * mechanism.stddev / ", _SIZE),
        # The noise that C makes, in place of its inverse.
        (
            "return builder.build_inverse()",
            "return builder.build()",
            _UNITS + "correlated_noise_solves_for_independent_noise",
        ),
        ("stddev = mechanism.stddev / ", "stddev = 0 * mechanism.stddev / ", _SIZE),
        (
            "state, stddev = memory.state, stddev * memory.factor",
            "state = memory.state",
            _UNITS + "correlated_noise_solves_for_independent_noise",
        ),
        (
            "rollback=lambda before, after: after,",
            "rollback=None,",
            _UNITS + "stream_of_noise_is_not_taken_back",
        ),
    ),
    *in_file(
        "fedrecon/federated/mechanism.py",
        # The sensitivity is not that of the clipping.
        ("return self.clipping_norm", "return 0.5 * self.clipping_norm", _SIZE),
        ("return self.sum_multiplier * self.sensitivity", "return self.sum_multiplier", _SIZE),
        (
            "over = length > bound",
            "over = length > 1e9 * bound",
            _UNITS + "sites_count_the_same_and_the_divisor_is_fixed",
        ),
        (
            "count = jnp.float32(mechanism.expected_batch_size)",
            "count = total.weight",
            _UNITS + "sites_count_the_same_and_the_divisor_is_fixed",
        ),
        (
            "own = divide(upload.delta, upload.weight)",
            "own = upload.delta",
            _UNITS + "sites_count_the_same_and_the_divisor_is_fixed",
        ),
        ("(stddev * n)", "(0 * n)", _UNITS + "noise_of_sites_is_drawn_once_a_round_also_of_nobody"),
        (
            "rollback=lambda before, after: after,",
            "rollback=lambda before, after: before,",
            _UNITS + "the_clipping_norm_follows_the_median_and_is_paid_for",
        ),
        (
            "- (2 * self.count_noise) ** -2",
            "",
            _UNITS + "the_clipping_norm_follows_the_median_and_is_paid_for",
        ),
    ),
    *in_file(
        "fedrecon/federated/batching.py",
        # What is not finite of one patient reaches another.
        (
            "jnp.minimum(jnp.arange(images), owned[:, None] - 1)",
            "jnp.arange(images)",
            _UNITS + "all_images_of_a_patient_are_clipped_once",
        ),
        ("step // bins), _rank(valid)", "step), _rank(valid)", _UNITS + "batches_hold_whole_patients"),
    ),
    *in_file(
        "fedrecon/privacy/accounting.py",
        # Fixed batches claimed as Poisson samples.
        (
            'if mechanism.sampling == "fixed":',
            "if False:",
            _EVENTS + "batches_that_are_no_poisson_samples_are_not_accounted_as_such",
        ),
        (
            'if mechanism.sampling == "balls_in_bins":',
            "if False:",
            _BINS + "trainings_are_composed_of_passes_and_their_beginnings",
        ),
        # Calibration that returns the multiplier that was rejected.
        (
            "(low, middle) if accept(middle) else (middle, high)",
            "(middle, high) if accept(middle) else (low, middle)",
            _EVENTS + "calibration_returns_the_accepted_end_of_the_last_interval",
        ),
        (
            "min(1.0, mechanism.expected_batch_size / units)",
            "min(1.0, mechanism.padded_batch_size / units)",
            _EVENTS + "untruncated_equals_the_poisson_subsampled_gaussian",
        ),
        (
            "SelfComposedDpEvent(step, mechanism.steps * rounds)",
            "SelfComposedDpEvent(step, mechanism.steps)",
            _EVENTS + "untruncated_equals_the_poisson_subsampled_gaussian",
        ),
        (
            "min(LARGEST_DEFAULT_DELTA, units**-1.1)",
            "units**-1.1",
            _EVENTS + "delta_defaults_to_little_and_to_less_at_large_sites",
        ),
        (
            "truncated_batch_size=mechanism.padded_batch_size,",
            "truncated_batch_size=units,",
            _EVENTS + "event_is_that_of_jax_privacy",
        ),
    ),
    *in_file(
        "fedrecon/privacy/balls_in_bins.py",
        # Points moved to the grid point below instead of split: means fall, and epsilon with them.
        (
            "above = weights * (np.exp(sums - logs[place + 1]) - low) / (1 - low)",
            "above = 0 * weights",
            _BINS + "two_bins_equal_quadrature",
        ),
        # Full bins do not count.
        ("inside = min(crowded, full + rest)", "inside = 0.0", _BINS + "full_bins_cost_what_they_tell"),
        (
            "noise, center + _REACH * width)",
            "noise, math.log(count))",
            _BINS + "no_mass_is_lost",
        ),
        # A pass that was cut off counts as one of fewer steps.
        (
            "- math.log(bins), total.masses",
            "- math.log(steps), total.masses",
            _BINS + "bounds_are_above_a_simulation_and_close",
        ),
        # One direction of neighbors alone.
        (
            "((1, removed, added), (-1, added, removed))",
            "((1, removed, added), (1, removed, added))",
            _BINS + "two_bins_equal_quadrature",
        ),
    ),
    *in_file(
        "fedrecon/training/spending.py",
        # Noise that is drawn again counts once.
        (
            "self._draw = os.urandom(16).hex()",
            "pass",
            _SPENDING + "restarts_compose_exactly",
        ),
        (
            "turns * mechanism.steps)",
            "turns)",
            _METHODS + "by_name_they_are_built_and_accounted",
        ),
        (
            "self._epsilons.get(done + 1 + offset)",
            "self._epsilons.get(done + offset)",
            _SPENDING + "rounds_are_permitted_up_to_the_last_within_the_budget",
        ),
    ),
    *in_file(
        "fedrecon/privacy/methods/p3sgd.py",
        (
            "epsilon * patients / (2 * bound)",
            "epsilon * patients / bound",
            _METHODS + "scales_are_chosen_by_the_exponential_mechanism",
        ),
        (
            "(p - learning_rate * g)",
            "(p - g)",
            _METHODS + "a_step_is_the_clipped_sum_of_passes_over_patients",
        ),
    ),
    *in_file(
        "fedrecon/privacy/strategies.py",
        (
            "factors[count] = sensitivity(coefficients, count, passes)",
            "factors[count] = 1.0",
            _UNITS + "correlated_noise_solves_for_independent_noise",
        ),
        # A unit that is in one pass alone.
        (
            "column.reshape(passes, separation).cumsum(0)",
            "column",
            _STRATEGIES + "sensitivity_is_the_largest_of_all_participations",
        ),
        (
            "np.arange(size - 1)[:, None]",
            "np.arange(1, size)[:, None]",
            _STRATEGIES + "sensitivity_is_the_largest_of_all_participations",
        ),
        # The error of the inverse noise itself in place of its sums.
        (
            "prefix = np.cumsum(lfilter(below, above, impulse))",
            "prefix = lfilter(below, above, impulse)",
            _STRATEGIES + "buffers_have_less_error_than_bands_and_these_less_than_independent_noise",
        ),
    ),
    *in_file(
        "fedrecon/runtime/training.py",
        (
            "if saved != done:",
            "if False:",
            _SPENDING + "a_training_ends_with_the_last_round_that_is_permitted",
        ),
    ),
    *in_file(
        "fedrecon/training/privacy_plan.py",
        (
            "steps=budget.epochs * max(",
            "steps=max(",
            _SPENDING + "patients_are_counted_and_are_the_unit_where_the_data_tell_them_apart",
        ),
    ),
)
