"""Mutants of the federated engine: rounds, local training, channels, sampling, evaluation."""

from tests.mutants.mutant import in_file

_F = "tests/federated/"
_CLOSED_FORM = _F + "test_reference.py::test_numbers_are_those_recorded[star-fedavg_clip]"
_NOT_FINITE = _F + "test_engine.py::test_a_client_that_is_not_finite_is_excluded_and_leaves_no_trace"
_NOT_APPLIED = _F + "test_messages.py::test_a_round_that_is_not_applied_moves_nothing"
_COUNTERS = _F + "test_fedavg.py::test_counters_take_the_rounded_mean_of_their_changes"
_PARALLEL = _F + "test_engine.py::test_results_do_not_depend_on_parallelism"
_STEPS = _F + "test_engine.py::test_fixed_number_of_steps"
_PADDED = _F + "test_engine.py::test_padded_steps_touch_nothing"
_SCHEDULE = _F + "test_schedule.py::test_rates_and_steps_of_each_client_and_round"
_CLIP = _F + "test_channels.py::test_clip_bounds_the_norm_and_leaves_what_is_within_alone"
_CHAIN = _F + "test_channels.py::test_chain_encodes_forward_and_decodes_backward"
_ORDER = _F + "test_keys.py::test_an_order_is_that_of_sorting_the_keys"
_SIZES = _F + "test_sampling.py::test_weighted_sampling_counts_sizes_once"


def recorded(name: str, topology: str = "star") -> str:
    return f"{_F}test_reference.py::test_numbers_are_those_recorded[{topology}-{name}]"


MUTANTS = (
    *in_file(
        "fedrecon/federated/server.py",
        ("(-d).astype(p.dtype)", "d.astype(p.dtype)", _CLOSED_FORM),
        (
            "mean_delta = divide(total.delta, total.weight)",
            "mean_delta = total.delta",
            recorded("fedavg_clip"),
        ),
        # Applied without looking at the new model.
        ("all_finite((new, server, exchange))", "all_finite((server, exchange))", _NOT_APPLIED),
        # The exchange moves in a round that is not applied.
        (
            "exchange), (shared, state.server, state.exchange))",
            "exchange), (shared, state.server, exchange))",
            _NOT_APPLIED,
        ),
        ("channel=select(applied, channel, undone)", "channel=channel", _NOT_APPLIED),
        ("change = jnp.round(change)", "change = jnp.floor(change)", _COUNTERS),
        (
            "jnp.where(joined, round, history.last_round)",
            "round",
            _F + "test_sampling.py::test_the_longest_absent_take_turns",
        ),
        ("divide(total.message.scalars, most)", "total.message.scalars", recorded("fednova_proximal")),
    ),
    *in_file(
        "fedrecon/federated/engine.py",
        (
            "rows._replace(answer=answers)",
            "rows",
            _F + "test_messages.py::test_a_reducer_answers_each_client",
        ),
        (
            "state.round - 1, kept, info",
            "state.round, kept, info",
            _F + "test_sampling.py::test_the_longest_absent_take_turns",
        ),
    ),
    *in_file(
        "fedrecon/federated/closing.py",
        ("fold(fold(key, round), jnp.arange(4))", "fold(key, jnp.arange(4))", recorded("fedavg_clip")),
        ("kept = included & applied", "kept = included", _NOT_APPLIED),
        (
            'included = arrived.record["included"] & ~flagged',
            'included = arrived.record["included"]',
            _F + "test_screening.py::test_a_faulty_client_is_named_and_leaves_no_trace",
        ),
        (
            'jnp.where(included, x, 0), arrived.record["metrics"])',
            'x, arrived.record["metrics"])',
            _NOT_FINITE,
        ),
        (
            'arrived.record["excluded"] | (cohort.active & flagged)',
            'arrived.record["excluded"]',
            _F + "test_screening.py::test_a_faulty_client_is_named_and_leaves_no_trace",
        ),
    ),
    *in_file(
        "fedrecon/federated/cohorts.py",
        (
            "_rows(tree, numbers - jax.lax.axis_index(AXIS) * own)",
            "_rows(tree, numbers)",
            _F + "test_cohorts.py::test_on_several_devices_and_at_once_the_numbers_are_the_same",
        ),
        (
            "places = numbers - jax.lax.axis_index(AXIS) * own",
            "places = numbers",
            _F + "test_cohorts.py::test_on_several_devices_and_at_once_the_numbers_are_the_same",
        ),
    ),
    *in_file(
        "fedrecon/federated/clients.py",
        (
            "flag = flag & (item < local)",
            "flag = flag",
            _F + "test_engine.py::test_a_last_chunk_that_is_not_full",
        ),
    ),
    *in_file(
        "fedrecon/federated/turn.py",
        ("return choose(kept, after, before)", "return choose(active, after, before)", _NOT_FINITE),
        (
            "fold(fold(context.key, context.client), jnp.arange(4))",
            "fold(context.key, jnp.arange(4))",
            _F + "test_schedule.py::test_random_schedules_and_channels_use_keys_of_their_own",
        ),
        (
            "finite & (most > 0))",
            "finite)",
            _F + "test_fedavg.py::test_equal_weighting_ignores_sizes_but_not_emptiness",
        ),
        ("mask.any(1)) <= work.steps)", "mask.any(1)) < work.steps)", _SCHEDULE),
        ("Upload(scale(weight, shared),", "Upload(shared,", _CLOSED_FORM),
        ("scale(most, message.scalars)", "message.scalars", recorded("fednova_proximal")),
        (
            "upload, own.channel, context._replace(key=client_keys(context)[2])",
            "upload, own.channel, context",
            _F + "test_schedule.py::test_random_schedules_and_channels_use_keys_of_their_own",
        ),
    ),
    *in_file(
        "fedrecon/federated/local.py",
        # One key for all local steps.
        (
            "jax.random.fold_in(context.key, step)",
            "context.key",
            _F + "test_engine.py::test_every_step_has_a_key_of_its_own",
        ),
        (
            "return packed(jnp.subtract, new, old)",
            "return packed(jnp.subtract, old, new)",
            _CLOSED_FORM,
        ),
        (
            "weight=batches.count.astype(jnp.float32)",
            "weight=(batches.count > 0).astype(jnp.float32)",
            _CLOSED_FORM,
        ),
        ("total = value + penalty", "total = value - penalty", recorded("moon")),
        ("jax.lax.cond(inputs[1].any(), take_step", "jax.lax.cond(True, take_step", _PADDED),
        (
            "totals[name] = (totals[name][0], jnp.ones_like",
            "totals[name] = (totals[name][1], jnp.ones_like",
            _F + "test_algorithms.py::test_same_seed_same_result_and_true_counts",
        ),
        ("(u * rate).astype(u.dtype)", "u", _SCHEDULE),
        (
            "(jnp.cumsum(real) - 0.5)",
            "(jnp.cumsum(real) - 0.0)",
            "tests/experiments/test_federated_faults.py::"
            "test_clients_of_all_sizes_move_by_the_rates_of_the_round",
        ),
        (
            "jnp.where(seen > 0, g * seen, 0)",
            "jnp.where(seen > 0, g, 0)",
            _F
            + "test_algorithms_drift.py::test_scaffold_first_option_takes_the_gradient_at_the_received_model",
        ),
        (
            "[0] * seen, 0)",
            "[0], 0)",
            _F + "test_algorithms_server.py::test_qfedavg_takes_each_clients_own_loss",
        ),
        (
            "state = LocalState(own, opt_state if keep_optimizer else ())",
            "state = LocalState(own, start if keep_optimizer else ())",
            _F + "test_ring.py::test_equals_centralized_training_over_the_concatenated_batches",
        ),
    ),
    *in_file(
        "fedrecon/federated/channels.py",
        ("max_norm * largest(upload.weight)", "max_norm", _CLIP),
        ("scale = bound / jnp.where(over, norm, 1.0)", "scale = 1 / jnp.where(over, norm, 1.0)", _CLIP),
        ("for number in reversed(range(len(channels))):", "for number in range(len(channels)):", _CHAIN),
        (
            "key=jax.random.fold_in(context.key, number)",
            "key=context.key",
            _F + "test_channels.py::test_stages_of_a_chain_have_their_own_keys",
        ),
    ),
    *in_file(
        "fedrecon/federated/batching.py",
        (
            "mask = jnp.tile(jnp.arange(steps * batch_size) < valid.sum(), epochs)",
            "mask = jnp.tile(jnp.arange(steps * batch_size) <= valid.sum(), epochs)",
            _F + "test_batching.py::test_an_epoch_visits_every_valid_example_once",
        ),
        (
            "jax.random.fold_in(key, step // per_epoch)",
            "key",
            _F + "test_batching.py::test_passes_of_fixed_steps_are_reshuffled",
        ),
        (
            "probability = expected_batch_size / jnp.maximum(valid.sum(), 1)",
            "probability = expected_batch_size / valid.shape[0]",
            _F + "test_dp_sgd.py::test_poisson_sampling_takes_each_example_independently",
        ),
        (
            "jax.random.fold_in(key, step), _rank(valid)",
            "key, _rank(valid)",
            _F + "test_dp_sgd.py::test_poisson_sampling_takes_each_example_independently",
        ),
    ),
    *in_file(
        "fedrecon/federated/keys.py",
        (
            "((13, 15, 26, 6), (17, 29, 16, 24))",
            "((13, 15, 26, 6), (17, 29, 16, 23))",
            _F + "test_keys.py::test_folded_keys_are_those_of_jax",
        ),
        ("before = lax.gt(places,", "before = lax.ge(places,", _ORDER),
    ),
    *in_file(
        "fedrecon/federated/reducers/robust.py",
        (
            "passed &= ~(sizes > _LONGEST",
            "passed &= (sizes > -_LONGEST",
            _F + "test_messages.py::test_scaffold_withstands_a_false_message",
        ),
    ),
    *in_file(
        "fedrecon/federated/reducers/screening.py",
        (
            "(norms, *map(lengths, kinds_of_messages(sent.message)))",
            "(norms,)",
            _F + "test_messages.py::test_scaffold_withstands_a_false_message",
        ),
    ),
    *in_file(
        "fedrecon/federated/sampling.py",
        (
            "random_order(shuffle, jnp.arange(clients))",
            "jnp.arange(clients)",
            _F + "test_sampling.py::test_any_two_clients_may_meet_in_a_weighted_draw",
        ),
        ("jax.random.uniform(start) + jnp.arange", "0.5 + jnp.arange", _SIZES),
        ("left -= int(sure.sum())", "left -= 1", _SIZES),
        ("jnp.maximum(weight / full, 1), 0)", "1.0, 0)", _SIZES),
        (
            "jnp.argsort(-history.loss[chosen]",
            "jnp.argsort(history.loss[chosen]",
            _F + "test_sampling.py::test_power_of_choice_takes_the_worst_of_the_candidates",
        ),
        (
            "jnp.lexsort((rank, history.last_round))",
            "jnp.lexsort((history.last_round, rank))",
            _F + "test_sampling.py::test_the_longest_absent_come_first",
        ),
        (
            "return jax.tree.map(lambda w: (w > 0).astype(w.dtype), weight)",
            "return jnp.ones_like(weight)",
            _F + "test_fedavg.py::test_equal_weighting_ignores_sizes_but_not_emptiness",
        ),
    ),
    *in_file(
        "fedrecon/federated/cohorts.py",
        (
            'lambda x, rows: x.at[numbers].set(rows, mode="drop"), old',
            'lambda x, rows: x.at[numbers].add(rows, mode="drop"), old',
            recorded("scaffold"),
        ),
        (
            'x.dtype).at[numbers].set(x, mode="drop")',
            "x.dtype).at[: len(numbers)].set(x)",
            recorded("scaffold"),
        ),
    ),
    *in_file(
        "fedrecon/federated/trees.py",
        (
            "total * jnp.maximum(jnp.abs(weight), 1) < 1e30",
            "total < 1e30",
            _F + "test_keys.py::test_what_is_finite_after_weighting_is_found_with_and_without_looking",
        ),
    ),
    *in_file(
        "fedrecon/federated/evaluation.py",
        (
            "fill(_personal(algorithm, algorithm.release(state), *pick), frozen)",
            "fill(_personal(algorithm, state.variables, *pick), frozen)",
            _F + "test_algorithms_server.py::test_afl_finds_the_minimax_model",
        ),
        (
            "return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), result)",
            "return result",
            _F + "test_personal.py::test_evaluation_of_other_clients_and_of_empty_ones",
        ),
        (
            "jnp.where(along(joined, x), x, 0).sum(0)",
            "x.sum(0)",
            _F + "test_parts.py::test_private_leaves_average_over_those_who_took_part",
        ),
        (
            "        model = algorithm.release(model)",
            "        model = model.variables",
            _F + "test_algorithms_server.py::test_a_round_of_afl_is_fedavg_and_evaluation_is_of_the_average",
        ),
    ),
    *in_file(
        "fedrecon/federated/fine_tuning.py",
        # The model that is handed out is not the one that clients train from.
        (
            "released = algorithm.release(state)",
            "released = state.variables",
            _F + "test_algorithms_personal.py::test_fine_tuning_begins_with_what_is_released",
        ),
    ),
)
