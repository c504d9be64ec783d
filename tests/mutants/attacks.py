"""Mutants of attacks and of the defenses against malicious clients."""

from tests.mutants.mutant import in_file

_POISONING = "tests/attacks/test_poisoning.py::test_"
_BOUNDING = "tests/federated/test_bounding.py::test_"

MUTANTS = (
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
)
