"""Mutants of the survey's methods that go by losses and times of clients, and by rounds."""

from tests.mutants.mutant import in_file

_FEDACS = "tests/federated/test_fedacs.py::test_"
_JI = "tests/federated/test_ji.py::test_"
_FEDNORM = "tests/federated/test_fednorm.py::test_"
_TULADHAR = "tests/federated/test_tuladhar.py::test_"
_POOL = _FEDACS + "the_pool_grows_from_the_easiest_to_all"
_CHANCES = _FEDACS + "chances_fall_with_difficulty_and_turn_round"
_SLOW = _JI + "a_slow_client_is_left_out_and_rounds_are_shorter"
_HAND = _JI + "the_rule_by_hand"
_MEDIAN = _FEDNORM + "slow_clients_are_left_out_by_the_median_and_come_back"
_ENTROPY = _FEDNORM + "entropy_falls_at_test_time_and_other_leaves_stay"
_SHARES = _TULADHAR + "weights_are_means_of_shares"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/fedacs.py",
        ("(1 - start) * grown", "grown", _POOL),
        ("jnp.argsort(jnp.argsort(loss, stable=True), stable=True)", "jnp.argsort(loss, stable=True)", _POOL),
        ("preference * (1 - grown)", "preference", _CHANCES),
        ("jnp.log(sizes) - beta * z", "-beta * z", _CHANCES),
        ("0.5 * memory.loss + 0.5 * now", "now", _FEDACS +
         "difficulties_are_moving_averages_of_losses_under_the_received_model"),
        ("mean_loss(context, context.received)", "mean_loss(context, result.variables)", _FEDACS +
         "difficulties_are_moving_averages_of_losses_under_the_received_model"),
        ("jax.random.gumbel(key, (clients,))", "jax.random.normal(key, (clients,))", _FEDACS +
         "without_preference_draws_are_in_proportion_to_sizes_without_replacement"),
        ("math.ceil(rounds / 2)", "rounds", _POOL),
    ),
    *in_file(
        "fedrecon/federated/sampling.py",
        ("w / part", "w * part", _FEDACS + "unbiased_weights_are_sizes_over_chances"),
    ),
    *in_file(
        "fedrecon/federated/methods/ji.py",
        ("jnp.maximum(known.sum(), 1)", "known.shape[0]", _HAND),
        ("round - memory.last >= retry_rounds", "round - memory.last > retry_rounds", _HAND),
        ("jnp.where(seen.invited, seen.seconds, 0)", "jnp.where(seen.joined, seen.seconds, 0)", _JI +
         "times_are_those_of_everybody_invited"),
        ("jnp.maximum(most, fastest * _ROUNDING)", "most", _JI +
         "the_set_is_never_empty_and_the_fastest_are_waited_for"),
        ("chosen.at[order[:least]].set(True)", "chosen", _HAND),
        ("own = seconds if deadline else None", "own = None", _SLOW),
        ("_ROUNDING = 1 + 1e-5", "_ROUNDING = 1 - 1e-5", _JI + "equal_times_are_fedavg_bit_for_bit"),
    ),
    *in_file(
        "fedrecon/federated/methods/fednorm.py",
        ("(n * g).astype", "g.astype", _FEDNORM + "tensors_of_unit_length_have_the_mean_length"),
        ("round % readmit_rounds == 0", "round < 0", _MEDIAN),
        ("left(factor).sum() * 2 < seconds.shape[0]", "left(factor).sum() < 0", _MEDIAN),
        ("jnp.where(known, seconds, jnp.nan)", "seconds", _MEDIAN),
        ('normalized_averaging(learning_rate) if normalize == "steps" else unit_tensors()', "unit_tensors()",
         _FEDNORM + "the_update_is_the_normalized_sum_of_gradients"),
        ("if prune else None", "if not prune else None", _FEDNORM + "pruning_raises_the_convergence_score"),
    ),
    *in_file(
        "fedrecon/federated/methods/entropy_descent.py",
        ("p - rate * g", "p + rate * g", _ENTROPY),
        ("Variables(task.normalization.params, False)", "Variables(True, False)", _ENTROPY),
        ('jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)', "each.mean()",
         _ENTROPY),
    ),
    *in_file(
        "fedrecon/federated/methods/tuladhar.py",
        ("_FACTOR ** jnp.minimum(t, _CHANGING)", "_FACTOR**t", _TULADHAR + "steps_are_those_of_the_table"),
        ("_CHANGING - t", "t - _CHANGING", _TULADHAR + "steps_are_those_of_the_table"),
        ("jnp.float32(decay) ** context.round", "jnp.float32(1)", _TULADHAR +
         "the_optimizer_sees_the_rate_of_the_round"),
        ("1 / (lengths(away) + 1e-5)", "lengths(away)", _SHARES),
        ("/ len(scores)", "/ 1", _SHARES),
        ("score(*context.complete(result.variables), ",
         "score(*context.complete(context.received), ",
         _TULADHAR + "a_round_is_that_of_the_equations"),
        ("context.batches.judged", '{**context.batches.examples, "valid": context.batches.present}',
         _TULADHAR + "scores_are_those_of_the_validation_split"),
    ),
    *in_file(
        "fedrecon/training/components.py",
        ("jnp.minimum(one.steps, other.steps)", "other.steps", _TULADHAR +
         "schedules_of_two_go_together"),
        ("rates[0](part) * rates[1](part)", "rates[0](part)", _TULADHAR + "schedules_of_two_go_together"),
    ),
)  # fmt: skip
