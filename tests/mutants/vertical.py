"""Mutants of what institutions with other knowledge of the same patients do together."""

from tests.mutants.mutant import in_file

_PROGRAM = "tests/experiments/test_vertical.py::test_"
_DIVIDED = _PROGRAM + "divided_is_pooled_and_an_institution_alone_knows_nothing_of_the_other"
_AREAS = _PROGRAM + "areas_are_means_over_seeds_with_paired_differences"
_PSI = "tests/vertical/test_private_set_intersection.py::test_"
_SQUARES = _PSI + "squares_are_those_of_euler_s_criterion"
_MAP = _PSI + "the_map_is_that_of_the_standard"
_FOUND = _PSI + "what_is_found_is_the_intersection_in_one_order"
_SIZES = _PSI + "only_sizes_tell_runs_with_other_identifiers_apart"
_REFUSED = _PSI + "messages_that_no_honest_party_sends_are_refused"
_SHUFFLED = _PSI + "identifiers_are_shuffled_and_answers_are_not"
_SPLIT = "tests/vertical/test_split_network.py::test_"
_STEP = _SPLIT + "a_step_is_that_of_the_undivided_network"
_CLIPPED = _SPLIT + "clipping_without_noise_is_the_undivided_network_with_clipped_activations"
_MOVED = _SPLIT + "one_example_moves_each_release_by_at_most_its_sensitivity"
_NOISE = _SPLIT + "noise_has_the_deviation_that_is_accounted"
_EPSILON = _SPLIT + "epsilon_is_that_of_two_gaussian_releases_in_every_pass"
_WRONG = _SPLIT + "what_promises_nothing_is_refused"
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
    *in_file(
        "fedrecon/vertical/split_network.py",
        ("x / _count(valid), pull(received)", "x, pull(received)", _STEP),
        ("return each.sum() / _count(batch.valid), each", "return each.mean(), each", _STEP),
        ("each = jnp.where(batch.valid, each, 0)", "each = each + 0", _STEP),
        ("cut = jax.grad(lambda cut: mean(params, cut)[1].sum())(received)",
         "cut = jax.grad(lambda cut: mean(params, cut)[0])(received)", _STEP),
        ("jnp.where(valid[:, None], found, 0)", "found", _SPLIT + "padding_changes_nothing"),
        ("bound / jnp.where(lengths > bound, lengths, 1), 1)", "bound, 1)", _MOVED),
        ("_clipped_cut(guest, p, inputs[None], protection.activations)", "guest.apply(p, inputs[None])",
         _CLIPPED),
        ("jnp.where(valid, _factor(lengths, mechanism.sensitivity), 0)",
         "_factor(lengths, mechanism.sensitivity)", _MOVED),
        ("_factor(lengths, mechanism.sensitivity), 0)", "1, 0)", _MOVED),
        ("factor = _factor(lengths, bound)[:, None]", "factor = 1", _MOVED),
        ("jnp.sqrt(sum(jnp.square(x).sum(1) for x in cut))", "jnp.sqrt(jnp.square(cut[0]).sum(1))", _MOVED),
        ("x + mechanism.stddev * jax.random", "x + mechanism.noise_multiplier * jax.random", _NOISE),
        ("(x + mechanism.stddev * n) / size", "x / size + mechanism.stddev * n", _NOISE),
        ("_folded(key, 1 + number)", "_folded(key, 1)", _NOISE),
        ("protection, _folded(key, 2 * number + 2))", "protection, _folded(key, 2))", _NOISE),
        ("getattr(protection, own) is not None and", "False and", _WRONG),
    ),
    *in_file(
        "fedrecon/vertical/cut_privacy.py",
        ("for mechanism in (cut, gradient) if", "for mechanism in (cut,) if", _EPSILON),
        ("epochs=passes,", "epochs=1,", _EPSILON),
        ("passes=passes if trained else 1", "passes=passes", _SPLIT + "what_is_sent_once_is_one_release"),
        ("parts.append((fixed_mechanism(clipping[1], 1.0, passes=passes, **size), 1))", "pass",
         _SPLIT + "noise_is_calibrated_for_the_budget_and_no_more"),
        ("if protection.gradients is not None and protection.host is None:", "if False:", _WRONG),
    ),
    *in_file(
        "experiments/pipeline/vertical_problems.py",
        ("guest, host = guest[order], host[order]", "guest, host = guest[order], host", _PROGRAM +
         "rows_of_both_institutions_are_of_the_same_patients"),
        ("every.labels[host]", "every.labels[guest[::-1]]", _PROGRAM +
         "rows_of_both_institutions_are_of_the_same_patients"),
    ),
    *in_file(
        "experiments/pipeline/vertical_training.py",
        ("GUEST: Way((1.0, 0.0), steps)", "GUEST: Way((1.0, 0.5), steps)", _DIVIDED),
        ("HOST: Way((0.0, 1.0), steps)", "HOST: Way((0.5, 1.0), steps)", _DIVIDED),
        ("part != np.arange(FOLDS)[:, None]", "part == np.arange(FOLDS)[:, None]", _PROGRAM +
         "parts_are_stratified_and_every_patient_is_tested_once"),
        ("calibrated(epsilon, clipping=(CLIPPING,", "calibrated(2 * epsilon, clipping=(CLIPPING,", _PROGRAM +
         "private_rows_spend_their_budget"),
        ("least = positive * (positive + 1) / 2", "least = positive", _AREAS),
        ("area(FEDERATED, drawn, chosen) / area(POOLED", "area(FEDERATED, drawn, chosen) - area(POOLED",
         _AREAS),
    ),
    *in_file(
        "experiments/pipeline/psi_party.py",
        ("numbers[size - size // 2 :]", "numbers[size:]", _PROGRAM + "lists_have_half_in_common"),
    ),
)  # fmt: skip
