"""Mutants of what institutions with other knowledge of the same patients do together."""

from tests.mutants.mutant import in_file

_PSI = "tests/vertical/test_private_set_intersection.py::test_"
_SQUARES = _PSI + "squares_are_those_of_euler_s_criterion"
_MAP = _PSI + "the_map_is_that_of_the_standard"
_FOUND = _PSI + "what_is_found_is_the_intersection_in_one_order"
_SIZES = _PSI + "only_sizes_tell_runs_with_other_identifiers_apart"
_REFUSED = _PSI + "messages_that_no_honest_party_sends_are_refused"
_SHUFFLED = _PSI + "identifiers_are_shuffled_and_answers_are_not"
MUTANTS = (
    *in_file(
        "fedrecon/vertical/curve25519.py",
        ("x if on else (-x - A) % PRIME", "x", _MAP),
        ("[-A * inverse % PRIME", "[A * inverse % PRIME", _MAP),
        ("(1 + 2 * r * r)", "(1 + r * r)", _MAP),
        ("sign = sign ^ (a[0] & b[0] & swap)", "sign = sign ^ (a[0] & b[0])", _SQUARES),
        ("sign ^= a[0] ^ (a[0] >> 1)", "sign ^= a[0]", _SQUARES),
        ("if shift > 64 - _BITS and word < 3:", "if shift > 64 and word < 3:", _SQUARES),
        ("bool(sign > 0) if sign else _is_square(number)", "bool(sign > 0)", _PSI +
         "squares_that_were_not_settled_are_raised_to_a_power"),
        ("bytes([len(domain)]) + domain", "domain", _PSI +
         "points_are_on_the_curve_and_as_hashed_one_by_one"),
    ),
    *in_file(
        "fedrecon/vertical/private_set_intersection.py",
        ("self._points = [points[i] for i in self._order]", "self._points = points", _FOUND),
        ("[random(16) for _ in points].__getitem__", "lambda place: place", _SHUFFLED),
        ('b"identifier/" + session', 'b"identifier/"', _PSI + "two_runs_share_nothing_but_their_headers"),
        ("if row < self._count", "if row >= 0", _FOUND + " " + _PSI + "padding_is_in_no_intersection"),
        ("found = sorted((point, self._order[place])", "found = list((point, self._order[place])", _FOUND),
        ("self._pack(_BLINDED, _multiplied(self._key, self._points))", "self._pack(_BLINDED, self._points)",
         _PSI + "no_identifier_and_no_hash_of_one_is_in_a_message"),
        ("self._pack(_DOUBLED, self._doubled)", "self._pack(_DOUBLED, points)", _FOUND),
        ('unicodedata.normalize("NFC", one)', "one", _PSI + "text_is_compared_in_one_normal_form"),
        ("if session != self._session:", "if False:", _REFUSED),
        ("if encoding != self._encoding:", "if False:", _REFUSED),
        ("if len(set(points)) < len(points):", "if False:", _REFUSED),
        (">= PRIME for point in points", "< 0 for point in points", _REFUSED),
        ("if len(own) != len(self._points):", "if False:", _REFUSED),
        ("if kind != expected:", "if False:", _REFUSED),
        ("range(max(0, padded - len(encoded)))", "range(0)", _PSI + "padding_is_in_no_intersection"),
    ),
)  # fmt: skip
