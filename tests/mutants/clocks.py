"""Mutants of the simulated clock."""

from tests.mutants.mutant import in_file

_CLOCK = "tests/federated/test_clock.py::test_"
_FLAGS = "tests/experiments/test_clock_flags.py::test_"
_HAND = _CLOCK + "times_are_those_computed_by_hand"
_LATE = _CLOCK + "a_deadline_leaves_out_who_is_late_and_ends_the_round"
_PARTIAL = _CLOCK + "partial_work_is_the_steps_that_fit_before_the_deadline"
_SPEEDS = _CLOCK + "speeds_are_log_normal_and_least_seconds_hold"
_CHAIN = _CLOCK + "availability_is_the_markov_chain_of_its_probabilities"
_SHARES = _CLOCK + "shares_are_the_weights_of_the_means"
_AREA = "tests/evaluation/test_clocks.py::test_the_convergence_score_is_the_area_under_the_best_so_far"
_TARGET = (
    "tests/evaluation/test_clocks.py::test_targets_are_parts_of_the_best_score_and_of_the_fall_of_a_loss"
)
MUTANTS = (
    *in_file(
        "fedrecon/federated/clock.py",
        ("np.exp(speed_spread *", "np.exp(2 * speed_spread *", _SPEEDS),
        ("profile.latency + bytes_down.astype", "0 * profile.latency + bytes_down.astype", _HAND),
        ("times.total <= seconds", "times.total < seconds / 2", _LATE),
        ("jnp.where(late, jnp.float32(seconds), 0)", "jnp.float32(seconds)", _LATE),
        ("seconds - times.download - times.upload - times.fixed", "seconds - times.fixed", _PARTIAL),
        ("rank < count", "rank <= count", _CLOCK + "the_first_arrivals_end_the_round_and_ties_go_by_number"),
        ("clock.profile.leave, 1 - clock.profile.back", "clock.profile.leave, clock.profile.back", _CHAIN),
        ("invited = sampled & state.available", "invited = sampled", _CHAIN),
        ("jnp.where(arriving, took, plan.times.total)", "took * arriving", _LATE),
        ("weights / jnp.where(total > 0, total, 1)", "weights", _SHARES),
        ("sent = clock.profile.latency + bytes_up.astype(jnp.float32)",
         "sent = clock.profile.latency + clock.bytes_up",
         _CLOCK + "late_messages_are_told_by_the_longest_and_timed_by_what_was_sent"),
        ("jnp.maximum(part * (1 + profile.jitter * draw), profile.least_seconds)",
         "part * (1 + profile.jitter * draw)", _SPEEDS),
    ),
    *in_file(
        "fedrecon/federated/clocked.py",
        ("jnp.minimum(steps, jax.vmap(most)(numbers))", "steps", _CLOCK +
         "steps_that_a_schedule_takes_away_take_no_time"),
        ("jnp.where(report.late, down, 0)", "0", _LATE),
    ),
    *in_file(
        "fedrecon/federated/turn.py",
        ("<= context.limits[client]", "<= context.limits[client] + 1", _PARTIAL),
    ),
    *in_file(
        "fedrecon/training/clocks.py",
        ("downlink * _MEGABIT or np.inf", "downlink or np.inf", _FLAGS +
         "links_are_megabits_and_bytes_those_of_messages"),
        ("1.5 * _median", "_median", _FLAGS + "links_are_megabits_and_bytes_those_of_messages"),
    ),
    *in_file(
        "fedrecon/evaluation/clocks.py",
        ("values[0] - part * (values[0] - values.min())", "part * values.min()", _TARGET),
        ("np.maximum.accumulate(values)", "values", _AREA),
        ("np.minimum(times, longest)", "times", _AREA),
    ),
    *in_file(
        "experiments/clocks.py",
        ('total += record["bytes_up"] + record["bytes_down"]', 'total += record["bytes_up"]',
         "tests/experiments/test_clocks.py::test_figures_by_hand"),
        ("sum(k * n for k, n in stale.items())", "sum(stale)",
         "tests/experiments/test_clocks.py::test_staleness_is_counted_over_all_rounds"),
    ),
)  # fmt: skip
