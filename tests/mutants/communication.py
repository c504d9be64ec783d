"""Mutants of low communication: codecs, methods, downlink."""

from tests.mutants.mutant import in_file

_LOW = "tests/federated/test_low_communication.py::test_"
_PARTS = _LOW + "parts_in_turn_follow_their_definition"
_DOWN = _LOW + "the_server_keeps_what_it_does_not_send"
_CODES = "tests/federated/test_codes.py::test_"
_TURNS = _CODES + "factors_in_turn_find_the_best_approximation_and_lose_nothing"
_SHORTEST = _CODES + "codes_are_the_shortest_and_come_back"
_ROTATED = _CODES + "rotations_turn_back"
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
        "fedrecon/communication/rice.py",
        ("range(bits + 1), key=lengths", "range(bits), key=lengths", _SHORTEST),
        ("np.diff(ends, prepend=-1) - 1", "np.diff(ends, prepend=0)", _SHORTEST),
        (
            "jnp.uint32((1 + k) * values.size)",
            "jnp.uint32(k * values.size)",
            _CODES + "lengths_are_counted_in_compiled_code_and_no_code_is_longer_than_fixed_widths",
        ),
    ),
    *in_file(
        "fedrecon/communication/quantization.py",
        ("reshape(count, width) / math.sqrt(width)", "reshape(count, width) / width", _ROTATED),
        (
            "_hadamard(turned) * signs(width, common)",
            "_hadamard(turned)",
            _ROTATED,
        ),
    ),
    *in_file(
        "fedrecon/communication/low_rank.py",
        (
            "kept[name] = matrix - _half_product(factors[name], basis, even, (rows, columns))",
            "kept[name] = matrix",
            _TURNS,
        ),
        ("jnp.where(even, rows, columns)", "jnp.where(even, columns, rows)", _TURNS),
        ('state = {"bases": new,', 'state = {"bases": bases,', _TURNS),
    ),
    *in_file(
        "fedrecon/federated/channels.py",
        (
            "channels[counted[-1]].measured_bytes if counted else None",
            "None",
            _CODES + "a_chain_measures_by_the_stage_that_counts",
        ),
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
