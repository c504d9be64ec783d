"""Mutants of attacks and of the defenses against malicious clients."""

from tests.mutants.mutant import in_file

_POISONING = "tests/attacks/test_poisoning.py::test_"
_CANARIES = "tests/attacks/test_canaries.py::test_"
_MEMBERS = "tests/attacks/test_membership.py::test_"
_INVERSION = "tests/attacks/test_gradient_inversion.py::test_"
_RIDERS = "tests/federated/test_riders.py::test_"
_ACTIONS = "actions_follow_each_other_and_end_with_the_suspicion"
_BOUNDING = "tests/federated/test_bounding.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/federated/reducers/riders.py",
        ("(score > threshold) & (seen >= 3)", "(score > threshold) & (seen >= 2)", _RIDERS + _ACTIONS),
        ("out = included & (level == len(_STEPS))", "out = included & (level >= 1)", _RIDERS + _ACTIONS),
        ("jnp.where(doubted, 1, -1)", "jnp.where(doubted, 1, 0)", _RIDERS + _ACTIONS),
        (
            "recent.sum(1) / jnp.minimum(seen, _ROUNDS)[:, None]",
            "recent.sum(1) / _ROUNDS",
            _RIDERS + "scores_are_those_of_the_definition",
        ),
        (
            "lax.map(one, jnp.concatenate([orders, orders[:, ::-1]])).mean(0)",
            "lax.map(one, jnp.concatenate([orders, orders[:, ::-1]])).sum(0)",
            _RIDERS + "gains_alone_and_shares_add_up_and_are_those_of_the_exact_values",
        ),
        (
            "total = jax.tree.map(lambda t, d: t + weight[row] * d[row], total, delta)",
            "total = jax.tree.map(lambda t, d: t + d[row], total, delta)",
            _RIDERS + "gains_alone_and_shares_add_up_and_are_those_of_the_exact_values",
        ),
        (
            "jnp.where(jnp.eye(len(norms), dtype=bool), 0, cosines)",
            "jnp.where(jnp.eye(len(norms), dtype=bool), cosines, 0)",
            _RIDERS + "scores_are_those_of_the_definition",
        ),
    ),
    *in_file(
        "fedrecon/attacks/poisoning.py",
        (
            "jnp.minimum(client, len(table) - 1)",
            "jnp.minimum(client, len(table) - 2)",
            _POISONING + "signs_are_flipped_at_the_chosen_clients_alone",
        ),
        (
            "unweighted(uploads, included).delta, included & ~bad)",
            "unweighted(uploads, included).delta, included)",
            _POISONING + "colluding_clients_fit_to_the_honest",
        ),
        (
            "if not shares and any(",
            "if False and any(",
            "tests/federated/test_medisecfed.py::test_attacks_on_what_is_not_sent_are_refused",
        ),
        (
            "if not algorithm.channel.linear:",
            "if False:",
            _POISONING + "an_attack_that_must_see_updates_is_refused_where_they_are_hidden",
        ),
    ),
    *in_file(
        "fedrecon/federated/reducers/bounding.py",
        (
            "_KEPT * state + (1 - _KEPT) * now",
            "_KEPT * now + (1 - _KEPT) * state",
            _BOUNDING + "norms_are_bounded_by_their_running_median",
        ),
        (
            "jnp.where(included & ~trusted, jnp.maximum(cosine, 0), 0)",
            "jnp.where(included & ~trusted, jnp.abs(cosine), 0)",
            _BOUNDING + "fltrust_scales_to_the_root_and_weighs_by_cosine",
        ),
        (
            "(rows,)), ~included))",
            "(rows,)), included))",
            _BOUNDING + "buckets_hold_everybody_once",
        ),
    ),
    *in_file(
        "fedrecon/attacks/canaries.py",
        (
            "CanaryScoreAuditor(scores[included], scores[~included])",
            "CanaryScoreAuditor(scores[~included], scores[included])",
            _CANARIES + "perfect_scores_prove_much_and_equal_scores_nothing",
        ),
        (
            "scaled = [x / size.reshape",
            "scaled = [x * size.reshape",
            _CANARIES + "directions_have_length_one_and_are_found_again",
        ),
    ),
    *in_file(
        "fedrecon/attacks/membership.py",
        (
            "np.sort(outside)[::-1][allowed]",
            "np.sort(outside)[::-1][allowed + 1]",
            _MEMBERS + "figures_are_those_of_the_roc_curve",
        ),
        (
            "_normals(shadows, ~members)",
            "_normals(shadows, members)",
            _MEMBERS + "likelihood_ratios_are_those_of_normal_densities",
        ),
    ),
    *in_file(
        "fedrecon/attacks/gradient_inversion.py",
        (
            "row = row if gradient else -row",
            "row = row if gradient else row",
            _INVERSION + "labels_are_read_off_the_last_layer",
        ),
    ),
    *in_file(
        "experiments/pipeline/audit_page.py",
        (
            "told = low > 0.5",
            "told = high > 0.5",
            "tests/experiments/test_audit.py::test_the_verdict_says_what_was_found",
        ),
    ),
)
