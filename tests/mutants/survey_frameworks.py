"""Mutants of the survey's frameworks: the ledger of rounds, nodes, transfer learning."""

from tests.mutants.mutant import in_file

_SINGH = "tests/privacy/test_singh.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/privacy/recording.py",
        (
            "return Reduction(context.total, (told, own))",
            "return Reduction(jax.tree.map(lambda x: x[0], uploads), (told, own))",
            _SINGH + "the_numbers_are_those_of_averaging_bit_for_bit",
        ),
        (
            "if included[row]",
            "if True",
            _SINGH + "other_reducers_see_the_same_uploads",
        ),
    ),
    *in_file(
        "fedrecon/privacy/chain_rules.py",
        (
            'if said["root"] != found.hex():',
            "if False:",
            _SINGH + "gateways_sign_the_roots_of_their_devices",
        ),
        (
            'if gateways and party.get("gateway") not in gateways:',
            "if False:",
            _SINGH + "gateways_sign_the_roots_of_their_devices",
        ),
        (
            "least = enough(parties)",
            "least = 1",
            _SINGH + "members_come_and_go_with_their_consent",
        ),
        (
            'if entry["author"] != name:',
            "if False:",
            _SINGH + "nobody_joins_or_leaves_for_another",
        ),
        (
            "return below + node_proof(list(roots.values()), list(roots).index(own))",
            "return below",
            _SINGH + "proofs_have_at_most_the_stated_length",
        ),
    ),
    *in_file(
        "fedrecon/privacy/chain.py",
        (
            'if (one.get("about") or {}).get("model") != (other.get("about") or {}).get("model"):',
            "if False:",
            _SINGH + "a_repeated_run_has_the_digests_of_the_record",
        ),
    ),
    *in_file(
        "fedrecon/privacy/methods/singh.py",
        (
            '"model": chain.digest_of_tree(model).hex(),',
            '"model": chain.digest_of_tree(uploads[0].delta).hex(),',
            _SINGH + "an_entry_says_what_was_received_and_sent",
        ),
    ),
)
