"""Mutants of federated pre-training by contrast."""

from tests.mutants.mutant import in_file

_METHODS = "fedrecon/federated/methods/"
_FEDERATED = "tests/federated/test_momentum_contrast.py::test_"
_REMOTE = "tests/federated/test_remote_features.py::test_"
_FEDMOCO = _FEDERATED + "two_rounds_of_fedmoco_are_those_of_its_equations"
_REPRESENTATIONS = "tests/alignment/test_representations.py::test_"
_PROGRAM = "tests/experiments/test_contrastive.py::test_"
MUTANTS = (
    *in_file(
        _METHODS + "momentum_contrast.py",
        (
            "momentum(slow.encoder.params, params, rate)",
            "momentum(slow.encoder.params, slow.encoder.params, rate)",
            _FEDMOCO,
        ),
        (
            "encoder = context.complete(memory.slow.encoder)",
            "encoder = context.complete(context.received)",
            _FEDMOCO,
        ),
        (
            "score = jnp.where(remote.tags >= 0, jax.random.uniform(key, remote.tags.shape), -1)",
            "score = jax.random.uniform(key, remote.tags.shape)",
            _REMOTE + "remote_features_are_drawn_once_each_without_those_that_are_absent",
        ),
    ),
    *in_file(
        _METHODS + "fedmoco.py",
        (
            "& (jnp.arange(len(mean)) != own)",
            "& (own >= 0)",
            _FEDERATED + "draws_have_the_moments_that_were_sent_and_none_is_of_the_client_itself",
        ),
        ("1 / power", "power", _FEDMOCO),
        (
            '"divergence": 1 - r, "similarity": r',
            '"divergence": r, "similarity": r',
            _FEDERATED + "equal_models_weigh_equally_and_who_moved_more_weighs_more",
        ),
        (
            "apart = jnp.where(here[:, None], h - mean, 0)",
            "apart = jnp.where(here[:, None], h, 0)",
            _FEDERATED + "metadata_are_the_moments_of_all_images_under_the_momentum_encoder",
        ),
    ),
    *in_file(
        _METHODS + "wu_dermatology.py",
        (
            "& (jnp.arange(len(features)) != own)[:, None]",
            "& (own >= 0)",
            _REMOTE + "of_the_banks_a_client_leaves_out_its_own_and_what_is_not_filled",
        ),
        (
            "negative &= ~nearest",
            "negative &= ~view",
            _REMOTE + "remote_positives_wait_for_the_warm_up_and_are_no_negatives",
        ),
        (
            "given.rounds >= warm_up",
            "given.rounds > warm_up",
            _REMOTE + "remote_positives_wait_for_the_warm_up_and_are_no_negatives",
        ),
    ),
    *in_file(
        _METHODS + "wu_volumetric.py",
        (
            "~(same & exclude)",
            "~(same & (not exclude))",
            _REMOTE + "of_one_client_the_remote_part_is_contrast_by_partition_with_its_bank",
        ),
        (
            "partitions * number // jnp.maximum(count, 1)",
            "number // jnp.maximum(count // partitions, 1)",
            _REMOTE + "slices_have_partitions_of_equal_sizes",
        ),
        (
            "jnp.where(other, sent",
            "jnp.where(other | True, sent",
            _FEDERATED + "two_rounds_of_wu_for_volumes_are_those_of_the_equations",
        ),
    ),
    *in_file(
        "fedrecon/alignment/representations.py",
        (
            "found = 1 - one @ one.T",
            "found = 1 - centered @ centered.T",
            _REPRESENTATIONS + "dissimilarities_are_one_minus_correlations",
        ),
        (
            "x = jnp.where(valid, x, jnp.inf)",
            "x = jnp.where(valid, x, 0)",
            _REPRESENTATIONS + "rank_correlation_is_that_of_spearman_of_the_valid_entries",
        ),
        (
            "jnp.sign(x) * jnp.abs(x) ** exponent",
            "jnp.abs(x) ** exponent",
            _REPRESENTATIONS + "powers_keep_signs_and_are_undone",
        ),
    ),
    *in_file(
        "fedrecon/tasks/contrastive.py",
        (
            "negative = ~positive & ~jnp.eye(2 * count, dtype=bool) & there",
            "negative = ~positive & there",
            "tests/tasks/test_contrastive.py::test_the_loss_is_that_of_both_views_within_the_batch",
        ),
        (
            "-start / side",
            "-start",
            "tests/tasks/test_contrastive.py::test_views_are_parts_with_another_gain_and_differ",
        ),
    ),
    *in_file(
        "experiments/pipeline/contrastive.py",
        (
            "rows & (volumes[client] == volume)",
            "rows & (volumes[client] <= volume)",
            _PROGRAM + "slices_are_numbered_within_their_volumes_and_labels_left_behind",
        ),
        (
            "max(1, round(part * len(members)))",
            "round(part * len(members))",
            _PROGRAM + "few_labels_are_those_of_whole_patients_and_of_each_label",
        ),
    ),
)
