"""Mutants of secure sums: each would leave sums right, or nearly, and something unprotected or unchecked."""

from tests.mutants.mutant import in_file

_PACKAGE = "fedrecon/secure_aggregation/"
_TESTS = "tests/secure_aggregation/test_"
_SECAGG = f"{_TESTS}secagg.py::test_"
_PRIMITIVES = f"{_TESTS}primitives.py::test_"
_LIGHT = f"{_TESTS}lightsecagg.py::test_"
_GRAPH = f"{_TESTS}graph.py::test_"
_WORDS = f"{_TESTS}fixed_point.py::test_"
_SHAMIR = f"{_TESTS}shamir.py::test_"
_WIRE = f"{_TESTS}wire.py::test_"

MUTANTS = (
    *in_file(
        _PACKAGE + "fixed_point.py",
        (
            "if not largest < Fraction(self.modulus, 2):",
            "if not largest < self.modulus:",
            _WORDS + "the_condition_is_the_one_stated",
        ),
        (
            "whole = np.floor(scaled)",
            "whole = np.rint(scaled)",
            _WORDS + "rounding_at_random_has_no_bias",
        ),
        (
            "words >= (self.modulus + 1) // 2",
            "words >= self.modulus",
            _WORDS + "sums_decode_to_the_plain_sum[22-1]",
        ),
    ),
    *in_file(
        _PACKAGE + "primitives.py",
        # A key of 256 bits folded into 32.
        (
            "lib.algorithms.AES256(key)",
            "lib.algorithms.AES256(key[:4] * 8)",
            _PRIMITIVES + "every_bit_of_a_key_changes_all_of_its_mask",
        ),
        (
            "kept = drawn[drawn < modulus]",
            "kept = drawn % np.uint32(modulus)",
            _PRIMITIVES + "words_of_a_field_are_drawn_again_when_beyond",
        ),
        # Either half of the key agreement alone.
        (
            "return derive(exchanged + encapsulated, info",
            "return derive(exchanged, info",
            _PRIMITIVES + "the_agreement_stands_when_one_half_is_known[x25519]",
        ),
        (
            "return derive(exchanged + encapsulated, info,",
            "return derive(encapsulated, info,",
            _PRIMITIVES + "the_agreement_stands_when_one_half_is_known[ml-kem]",
        ),
        (
            "len(text), text, first, second",
            "len(text), text, first, first",
            _PRIMITIVES + "domains_differ_by_each_of_their_parts",
        ),
    ),
    *in_file(
        _PACKAGE + "shamir.py",
        # Not uniform: reduced instead of drawn again.
        (
            "if drawn < PRIME:",
            "if drawn := drawn % PRIME:",
            _SHAMIR + "shares_are_a_polynomial_with_the_drawn_coefficients",
        ),
        (
            "for _ in range(threshold - 1)",
            "for _ in range(threshold - 2)",
            _SHAMIR + "shares_are_a_polynomial_with_the_drawn_coefficients",
        ),
        (
            "if len(shares) < threshold:",
            "if len(shares) < threshold - 1:",
            _SHAMIR + "any_t_shares_give_the_secret",
        ),
        (
            "points = sorted(values)[: threshold + 1]",
            "points = sorted(values)[:threshold]",
            _SECAGG + "false_shares_are_noticed_by_the_server",
        ),
    ),
    *in_file(
        _PACKAGE + "secagg.py",
        (
            "primitives.add_mask(masked, key, subtract=j < me)",
            "primitives.add_mask(masked, key)",
            _SECAGG + "all_patterns_of_three_clients",
        ),
        (
            "primitives.add_mask(masked, self._own_mask)",
            "pass",
            _SECAGG + "all_patterns_of_three_clients",
        ),
        # Both secrets of a client, one after the other.
        (
            "        self._awaits = None",
            "        pass",
            _SECAGG + "a_round_is_unmasked_once",
        ),
        (
            "self._held[j][j in self._summands]",
            "self._held[j][True]",
            _SECAGG + "the_server_gets_one_secret_of_each_client",
        ),
        (
            'return setup.context.info("sealed", sender, recipient) + hashlib.sha256(opened).digest()',
            'return setup.context.info("sealed", sender, recipient)',
            _SECAGG + "every_changed_byte_of_a_delivery_is_noticed",
        ),
        (
            "signed = signed_included(self._setup, self._summands_body)",
            'signed = signed_included(self._setup, b"")',
            _SECAGG + "all_patterns_of_three_clients",
        ),
        (
            '_check_left("signatures", len(signatures.keys() & self._held.keys()), self._setup.threshold)',
            "pass",
            _SECAGG + "too_few_signatures_are_refused",
        ),
        (
            "if keys.get(self._number) != self._own_record:",
            "if keys.get(self._number) is None:",
            "tests/secure_aggregation/test_key_lists.py::test_own_keys_altered_in_the_list_are_noticed",
        ),
        (
            "if self._setup.malicious and len(revealed) < len(self._committed):",
            "if False:",
            _GRAPH + "a_server_that_may_lie_cannot_leave_out_values",
        ),
        (
            "elif others != neighbors:",
            "elif False:",
            _GRAPH + "the_server_cannot_choose_the_graph",
        ),
        (
            '_check_left("summands", len(self._summands), self._setup.smallest_sum)',
            "pass",
            _SECAGG + "clients_do_not_unmask_sums_of_few",
        ),
        (
            "self._own_mask = self._random(primitives.SECRET)",
            "self._own_mask = bytes(primitives.SECRET)",
            _SECAGG + "all_secrets_of_two_rounds_differ",
        ),
    ),
    *in_file(
        _PACKAGE + "wire.py",
        (
            "if message.sender in arrived:",
            "if False:",
            _SECAGG + "messages_of_the_wrong_party_or_stage_are_refused",
        ),
    ),
    *in_file(
        _PACKAGE + "secagg_server.py",
        (
            "if len(left) < least:",
            "if len(left) < least - 1:",
            _SECAGG + "words_of_an_aborted_round_stay_masked",
        ),
        (
            "primitives.add_mask(total, self._common_key(keys, secret, j, k), subtract=j > k)",
            "primitives.add_mask(total, self._common_key(keys, secret, j, k), subtract=j < k)",
            _SECAGG + "all_patterns_of_three_clients",
        ),
    ),
    *in_file(
        _PACKAGE + "graph.py",
        (
            "return (2 * holders // 3 if malicious else holders // 2) + 1",
            "return 2 * holders // 3 if malicious else holders // 2",
            _SECAGG + "setups_out_of_range_are_named",
        ),
        (
            "insecure = itertools.accumulate(reversed(_ways(others, bad, degree)))",
            "insecure = itertools.accumulate(reversed(_ways(others, bad // 2, degree)))",
            _GRAPH + "the_fewest_neighbors_are_chosen",
        ),
    ),
    *in_file(
        _PACKAGE + "lightsecagg.py",
        (
            "return setup.threshold + 1 + client",
            "return 1 + client",
            _LIGHT + "pieces_that_colluders_hold_and_uploads_are_uniform",
        ),
        (
            "high = products >> np.uint64(31)",
            "high = products >> np.uint64(32)",
            _LIGHT + "pieces_are_values_of_the_polynomial_through_the_blocks",
        ),
    ),
    *in_file(
        _PACKAGE + "simulate.py",
        (
            "_ORDER.index(now) >= _LAST[stage]",
            "_ORDER.index(now) > _LAST[stage]",
            _SECAGG + "all_patterns_of_three_clients",
        ),
        (
            "gone.setdefault(i, stage)",
            "gone[i] = stage",
            _SECAGG + "clients_are_gone_from_the_first_stage_that_names_them",
        ),
    ),
    *in_file(
        "experiments/secure_aggregation.py",
        (
            "(threshold is None or threshold <= clients // 2)",
            "threshold is None",
            "tests/experiments/test_secure_aggregation.py::test_thresholds_choose_the_neighbors",
        ),
    ),
    *in_file(
        _PACKAGE + "wire.py",
        (
            "if number != context.round:",
            "if False:",
            _SECAGG + "messages_of_other_rounds_and_jobs_are_refused[job-8-round]",
        ),
        (
            "if number <= last:",
            "if number < last:",
            _WIRE + "lists_of_records_are_read_strictly",
        ),
        (
            "if size != len(view) - HEADER:",
            "if size < len(view) - HEADER:",
            _WIRE + "what_does_not_fit_is_named",
        ),
    ),
)
