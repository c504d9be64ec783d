"""Mutants of peers that pull models."""

from tests.mutants.mutant import in_file

_PULLING = "tests/federated/test_pulling.py::test_"
_TURNS = _PULLING + "turns_are_those_of_the_algorithm"
MUTANTS = in_file(
    "fedrecon/federated/topologies/pulling.py",
    ("(versions > merged[client])", "(versions > 0)", _TURNS),
    (
        "jnp.where(newer, versions, merged[client])",
        "jnp.where(newer, merged[client], merged[client])",
        _TURNS,
    ),
    (
        "joins = newer | (jnp.arange(len(counts)) == client)",
        "joins = newer",
        _PULLING + "with_all_newer_the_merge_is_the_weighted_mean",
    ),
    (
        "jnp.where(newer.any() & (total > 0), mean.astype(x.dtype), x[client])",
        "mean.astype(x.dtype)",
        _PULLING + "with_nobody_newer_the_model_stays_bit_for_bit",
    ),
    ("newer = active & there & others &", "newer = active & others &", _PULLING + "who_is_away_stops_nobody"),
    ("+ model * me * newer.sum()", "+ model * me * others.sum()", _TURNS),
)
