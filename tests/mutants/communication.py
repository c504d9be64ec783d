"""Mutants of low communication: codecs, methods, downlink."""

from tests.mutants.mutant import in_file

_LOW = "tests/federated/test_low_communication.py::test_"
_PARTS = _LOW + "parts_in_turn_follow_their_definition"
_DOWN = _LOW + "the_server_keeps_what_it_does_not_send"
_PLACES = _LOW + "places_that_the_server_publishes_follow_the_largest_of_the_sum"

MUTANTS = (
    *in_file(
        "fedrecon/communication/methods/streaming_diloco.py",
        ("% parts >= own.last", "% parts > own.last", _PARTS),
        ("momentum * m + g, m)", "momentum * m + g, 0 * m)", _PARTS),
        ("-rate * (g + momentum * m), 0)", "-rate * m, 0)", _PARTS),
    ),
    *in_file(
        "fedrecon/communication/downlink.py",
        (
            "wanted = jax.tree.map(lambda u, e: u.astype(jnp.float32) + e, updates, state.left_out)",
            "wanted = jax.tree.map(lambda u, e: u.astype(jnp.float32), updates, state.left_out)",
            _DOWN,
        ),
    ),
    *in_file(
        "fedrecon/communication/codec.py",
        (
            "context.round - self.last > idle_rounds",
            "context.round - self.last >= idle_rounds",
            _LOW + "what_is_kept_is_dropped_after_idle_rounds",
        ),
    ),
    *in_file(
        "fedrecon/communication/sparsification.py",
        ("order.at[best].set(-1)", "order", _PLACES),
        ("new = chosen(jnp.abs(vector)", "new = chosen(vector", _PLACES),
    ),
    *in_file(
        "fedrecon/federated/server.py",
        # Clients that were away would get an update of a model that they do not have.
        (
            "state.history.last_round[numbers] == state.round - 1",
            "state.history.last_round[numbers] >= 0",
            _PARTS,
        ),
    ),
)
