"""Mutants of deployments: the wire, the halves of the round, and what sites and server check."""

from tests.mutants.mutant import in_file

_WIRE = "tests/deployment/test_wire.py::test_"
_PARITY = "tests/deployment/test_rounds.py::test_one_site_has_the_parameters_of_the_simulation_bit_for_bit"
_ROSTER = "tests/deployment/test_roster.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/deployment/wire.py",
        (
            "if hashlib.sha256(body).digest() != data[-_DIGEST:]:",
            "if False:",
            _WIRE + "every_changed_or_cut_byte_is_found",
        ),
        ("    if place != len(body):", "    if False:", _WIRE + "arrays_of_no_known_kind_are_refused"),
        ("    if name in known:", "    if False:", _WIRE + "a_name_comes_once_and_sizes_have_a_limit"),
        ("    if len(data) > most:", "    if False:", _WIRE + "a_name_comes_once_and_sizes_have_a_limit"),
        (
            "for name in sorted(expected.keys() ^ found):",
            "for name in sorted(expected.keys() - found):",
            _WIRE + "a_tree_comes_back_and_another_one_is_named",
        ),
    ),
    *in_file(
        "fedrecon/deployment/roster.py",
        (
            "counts.append(min(facts.images, left - others))",
            "counts.append(1)",
            _ROSTER + "stand_ins_have_the_counts_and_patients_of_the_facts",
        ),
        (
            "            if mine != theirs:",
            "            if False:",
            _ROSTER + "other_arrays_are_named_with_their_site",
        ),
        ("    if missing < 0:", "    if False:", _ROSTER + "padding_is_not_valid_and_never_cuts"),
    ),
    *in_file(
        "fedrecon/deployment/site.py",
        ('        if about.get("client") != self._client:', "        if False:", _PARITY),
        ('        if about.get("version") != VERSION:', "        if False:", _PARITY),
    ),
    *in_file(
        "fedrecon/federated/split.py",
        (
            "round_keys(own_key, invitation.round).clients",
            "round_keys(own_key, invitation.round).common",
            _PARITY,
        ),
        ("jnp.where(here, t + x, t)", "t", _PARITY),
    ),
)
