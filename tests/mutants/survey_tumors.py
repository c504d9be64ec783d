"""Mutants of the survey's applications that segment tumors, prostates and organs."""

from tests.mutants.mutant import in_file

_NALAWADE = "tests/federated/test_nalawade.py::test_"
_SHELLER = "tests/federated/test_sheller.py::test_"
_WANG = "tests/federated/test_wang.py::test_"
_ABSENT = _WANG + "a_class_that_a_case_lacks_is_left_out_whatever_is_predicted"
_CASES = "tests/data/test_partition.py::test_case_types_are_the_classes_that_patients_have"
_POOLED = "tests/alignment/test_intensities.py::test_pooled_moments_are_those_of_all_pixels"
_COUNTED = "tests/alignment/test_intensities.py::test_counts_find_the_percentiles_of_all_pixels_exactly"
_KADES = "tests/federated/test_kades.py::test_"
_PATI = "tests/federated/test_pati.py::test_"
_PASS = _SHELLER + "a_single_pass_goes_on_from_what_early_stopping_kept"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/nalawade.py",
        ("jnp.maximum(found**power, _NOTHING)", "found**power",
         _NALAWADE + "equal_scores_weigh_the_same_and_none_weighs_nothing"),
        ("jnp.maximum(found**power, _NOTHING)", "jnp.maximum(found**power, 1e-3)",
         _NALAWADE + "who_scores_nothing_leaves_no_trace"),
        ("context.complete(result.variables)", "context.complete(context.received)",
         _NALAWADE + "the_mean_is_that_of_the_equations"),
        ("* result.weight**size_power", "", _NALAWADE + "by_sizes_alone_it_is_fedavg_bit_for_bit"),
        ("jnp.where(result.weight > 0, weight, 0)", "weight",
         _NALAWADE + "clients_without_examples_have_no_weight_and_further_methods_go_along"),
        ("context.batches.judged", '{**context.batches.examples, "valid": context.batches.present}',
         _NALAWADE + "scores_are_of_the_trained_model_on_the_validation_split"),
        ("found**power", "found", _NALAWADE + "the_mean_is_that_of_the_equations"),
    ),
    *in_file(
        "fedrecon/federated/methods/sheller.py",
        ("(memory.waited < patience) & (loss", "(loss", _PASS),
        ("& (loss < memory.loss)", "& (loss <= jnp.inf)", _PASS),
        ("jnp.where(better, 0, memory.waited + passed)", "memory.waited + passed", _PASS),
        ("variables=memory.best)", "variables=result.variables)", _PASS),
        ("if patience else None", "if patience > 1 else None", _PASS),
        ("-(-context.batches.count // batch[\"valid\"].shape[0])", "1",
         _SHELLER + "passes_end_with_the_last_batch_of_the_examples"),
        ("context.batches.judged", '{**context.batches.examples, "valid": context.batches.present}', _PASS),
    ),
    *in_file(
        "fedrecon/tasks/regions.py",
        ("present = true.any(pixels) |", "present = (predicted | true).any(pixels) |", _ABSENT),
        ("(x == foreground) & scored[:, None]", "(x == foreground)", _ABSENT),
        ("{**task.metrics(params, stats, batch),", "{", _ABSENT),
        ("jnp.isin(x, jnp.asarray(members))", "(x > 0)",
         "tests/tasks/test_regions.py::test_regions_of_a_tumor_by_hand"),
        ('"TC": (1, 4)', '"TC": (1, 2)', "tests/tasks/test_regions.py::test_regions_of_a_tumor_by_hand"),
        ("total(dice(found, true, labels.ndim - 1), valid)", "total(dice(found, true, 2).mean(), valid)",
         "tests/tasks/test_regions.py::test_regions_of_a_tumor_by_hand"),
    ),
    *in_file(
        "fedrecon/data/clients/partition.py",
        ("sorted(classes - {0})", "sorted(classes)", _CASES),
        ("found.setdefault(name, set()).update(", "found.update({name: set()}) or found[name].update(",
         _CASES),
    ),
    *in_file(
        "fedrecon/alignment/intensities.py",
        ("parts.deviation**2 + (parts.mean - mean) ** 2", "parts.deviation**2", _POOLED),
        ("jnp.where(some, parts.least, jnp.inf)", "parts.least", _POOLED),
        ("bits if bits >= 0 else bits ^ 0x7FFFFFFF", "bits", _COUNTED),
        ("np.maximum(np.ceil(np.asarray(shares) * count - 1e-9), 1)", "np.asarray(shares) * count", _COUNTED),
        ("np.abs(found) < np.finfo(np.float32).tiny", "np.abs(found) < 0", _COUNTED),
        ("(values[:, None] <= thresholds)", "(values[:, None] < thresholds)", _COUNTED),
        ("jnp.ceil(jnp.asarray(SHARES) * count - 1e-3)", "jnp.floor(jnp.asarray(SHARES) * count)",
         "tests/alignment/test_intensities.py::test_a_site_s_own_percentiles_are_values_that_it_has"),
    ),
    *in_file(
        "fedrecon/federated/methods/agreed_intensities.py",
        ("inside = (labels > 0) & row.valid", "inside = (labels >= 0) & row.valid",
         _KADES + "all_sites_clip_and_scale_by_the_foreground_of_all"),
        ("percentiles = pooled_percentiles(counted, count, percentiles.shape[1])",
         "pooled_percentiles(counted, count, percentiles.shape[1])",
         _KADES + "all_sites_clip_and_scale_by_the_foreground_of_all"),
        ("jax.random.fold_in(key, i)", "key", _KADES + "everybody_starts_from_the_mean_of_what_sites_draw"),
        ("for i in np.flatnonzero(present)", "for i in range(len(present))",
         _KADES + "everybody_starts_from_the_mean_of_what_sites_draw"),
        ("found.max() >= classes", "found.max() > classes",
         _KADES + "labels_that_do_not_agree_and_other_mistakes_are_refused"),
    ),
    *in_file(
        "fedrecon/federated/methods/kades.py",
        ("(context.round + part) / rounds", "context.round / rounds",
         _KADES + "the_rate_at_the_end_of_a_round_is_that_of_one_training"),
        ("** power, context.steps", ", context.steps",
         _KADES + "the_rate_at_the_end_of_a_round_is_that_of_one_training"),
    ),
    *in_file(
        "fedrecon/federated/methods/pati.py",
        ("select(told[name] > kept.score, new, kept)", "new", _PATI + "a_later_and_worse_round_is_not_kept"),
        ("select(told[name] > kept.score, new, kept)", "select(told[MEAN] > kept.score, new, kept)",
         _PATI + "every_region_keeps_its_own_best_model"),
        ("context.complete(context.received)", "context.complete(result.variables)",
         _PATI + "the_score_is_the_mean_by_weights_of_those_of_sites"),
        ("+ 1, 0) * join_every", "+ 1, 0)", _PATI + "weights_are_sizes_among_those_present"),
        ("sum(told.values()) / len(told)", "sum(told.values())",
         _PATI + "every_region_keeps_its_own_best_model"),
        ("state.exchange if method is None else state.exchange[0]", "state.exchange",
         _PATI + "the_choice_is_of_the_state_before_and_others_go_along"),
        ("release=release,", "", _PATI + "a_later_and_worse_round_is_not_kept"),
    ),
    *in_file(
        "fedrecon/federated/sampling.py",
        ("jnp.asarray(joins) <= round", "jnp.asarray(joins) < round",
         _PATI + "weights_are_sizes_among_those_present"),
        ("or joins.min() != 0", "or joins.min() < 0", _PATI + "numbers_out_of_range_are_refused"),
    ),
    *in_file(
        "fedrecon/federated/server.py",
        ("context._replace(model=shared)", "context._replace(model=new)",
         _PATI + "a_later_and_worse_round_is_not_kept"),
    ),
)  # fmt: skip
