"""Mutants of encryption and of the record of rounds."""

from tests.mutants.mutant import in_file

_SCHEMES = "tests/encryption/test_schemes.py::test_"
_RING = "tests/encryption/test_collective_key.py::test_"
_CHECKPOINT = "tests/privacy/test_checkpoints.py::test_"
_CHAIN = "tests/privacy/test_chain.py::test_"
_LAI = "tests/federated/test_lai.py::test_"
_MEDI = "tests/federated/test_medisecfed.py::test_"
_SVT = "tests/federated/test_li_w.py::test_"
_NEAREST = "tests/tasks/test_prototypes.py::test_the_nearest_prototype_is_predicted"
_SURGERY = "tests/tasks/test_surgery.py::test_"
_SUM = "tests/privacy/test_encrypted_sum.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/encryption/backend.py",
        (
            "return self.bits + bits_of(self.terms) + bits_of(self.largest_weight) + 1",
            "return self.bits + bits_of(self.largest_weight) + 1",
            _SCHEMES + "bytes_of_packed_paillier",
        ),
        (
            "return (count - 1).bit_length()",
            "return count.bit_length()",
            _SCHEMES + "bytes_of_packed_paillier",
        ),
    ),
    *in_file(
        "fedrecon/encryption/paillier_schemes.py",
        ("- terms * self.offset", "- self.offset", _SCHEMES + "slots_do_not_carry"),
        (
            "shares.append((exponent - sum(shares)) % modulus)",
            "shares.append(exponent)",
            _SCHEMES + "shares_of_paillier_are_one_secret",
        ),
    ),
    *in_file(
        "fedrecon/encryption/collective_key.py",
        # Without smudging, answers tell the shares.
        (
            "noise = small(uniform_bits(degree, group.smudging))",
            "noise = small(uniform_bits(degree, 3))",
            _RING + "all_but_one_share_leave_noise",
        ),
        ("SMUDGING_BITS = 40", "SMUDGING_BITS = 20", _SCHEMES + "parameters_of_the_collective_key"),
        ("(noisy + (1 << (group.shift - 1)))", "noisy", _SCHEMES + "sums_are_exact_and_ciphertexts_fresh"),
    ),
    *in_file(
        "fedrecon/encryption/ring.py",
        ("(even + (q - odd)) % q", "(even + odd) % q", _RING + "products_are_those_of_polynomials"),
        ("astype(np.int64) % 3 - 1", "astype(np.int64) % 2", _RING + "draws_have_their_distributions"),
    ),
    *in_file(
        "fedrecon/privacy/chain_rules.py",
        (
            "if place in places:",
            "if False:",
            _CHAIN + "signatures_and_roles_hold_what_hashes_cannot",
        ),
        (
            "if len(set(keys)) != len(keys):",
            "if False:",
            _CHAIN + "the_aggregator_never_holds_the_key",
        ),
        (
            "if head is not None and head not in heads:",
            "if False:",
            _CHAIN + "what_was_cut_off_is_found_by_its_head",
        ),
        (
            "if len(signatures) < seen.least:",
            "if False:",
            _CHECKPOINT + "checkpoints_come_when_they_must_and_are_signed_by_enough",
        ),
        # A signature of another head counts.
        (
            'not signed(party["key"], signature, statement(seen))',
            "False",
            _CHECKPOINT + "signatures_of_others_or_of_other_heads_do_not_count",
        ),
        (
            'if kind == "round" and 0 < every <= rounds:',
            "if False:",
            _CHECKPOINT + "checkpoints_come_when_they_must_and_are_signed_by_enough",
        ),
    ),
    *in_file(
        "fedrecon/privacy/chain.py",
        (
            "file.truncate(len(content) - len(tail))",
            "file.truncate(len(content))",
            _CHECKPOINT + "a_last_line_that_a_crash_cut_off_is_mended",
        ),
    ),
    *in_file(
        "fedrecon/privacy/witness.py",
        (
            "seen = verify(entries, self.head)",
            "seen = verify(entries)",
            _CHECKPOINT + "witnesses_sign_no_record_that_was_rolled_back_or_forked",
        ),
    ),
    *in_file(
        "fedrecon/privacy/encrypted_sum.py",
        (
            "rows / jnp.where(weight > 0, weight, 1)[:, None], 0)",
            "rows, 0)",
            _SUM + "the_collective_key_averages",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/lai.py",
        (
            "sent = count >= max(minimum, 1)",
            "sent = count >= 1",
            _LAI + "means_are_those_of_the_pooled_data_without_small_classes",
        ),
        (
            'jnp.where(count > 0, 1.0, server["known"])',
            "jnp.where(count > 0, 1.0, 0.0)",
            _LAI + "classes_that_nobody_reports_keep_their_means",
        ),
        (
            "return radius * found / length",
            "return found",
            _LAI + "means_are_those_of_the_pooled_data_without_small_classes",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/agreement.py",
        (
            "away <= typical + 3 * spread + 1e-6",
            "away <= typical + 300",
            _MEDI + "false_answers_are_left_out",
        ),
        (
            "ordered[(count - 1) // 2]",
            "ordered[count // 2]",
            _MEDI + "medians_are_those_of_numpy",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/medisecfed.py",
        (
            'state["asked"] + 1 == context.broadcast["asked"]',
            'state["asked"] <= context.broadcast["asked"]',
            _MEDI + "the_penalty_is_of_the_images_that_were_answered",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/synthetic_images.py",
        (
            "lambda x: x / whole, moments)",
            "lambda x: x, moments)",
            _MEDI + "moments_are_those_of_the_batches_of_distillation",
        ),
        (
            "x.var(axes[name]))",
            "x.std(axes[name]))",
            _MEDI + "moments_are_those_of_the_batches_of_distillation",
        ),
    ),
    *in_file(
        "fedrecon/tasks/prototypes.py",
        ("apart = ((radius * found / length)", "apart = ((found / length)", _NEAREST),
        ("jnp.where(known, -apart.sum(-1),", "jnp.where(known, apart.sum(-1),", _NEAREST),
        ("jnp.where(known.any(), logits, output)", "logits", _NEAREST),
    ),
    *in_file(
        "fedrecon/federated/methods/li_w.py",
        (
            "above & (jnp.cumsum(above) <= q)",
            "above",
            _SVT + "no_more_than_asked_is_sent_and_none_of_it_raw",
        ),
        # What public filters leave: entries without noise.
        (
            "sent = jnp.where(accepted, released * steps, 0)",
            "sent = jnp.where(accepted, released * steps, flat)",
            _SVT + "no_more_than_asked_is_sent_and_none_of_it_raw",
        ),
        (
            '* (q if scale == "vector" else 1)',
            "* 1",
            _SVT + "released_values_have_laplace_noise_for_the_whole_vector",
        ),
        (
            "return epsilon + (2 * entries) ** (2 / 3) * epsilon + released",
            "return epsilon + released",
            _SVT + "what_an_upload_costs",
        ),
        ("g * participants / jnp.maximum(n, 1)", "g", _SVT + "means_are_over_those_who_sent_an_entry"),
    ),
    *in_file(
        "fedrecon/privacy/model_check.py",
        (
            "lambda a, b, c, d: a - b - c + d",
            "lambda a, b, c, d: 0 * a",
            _SURGERY + "what_mixes_examples_is_found_also_beside_dropout",
        ),
        (
            "_TOLERANCE = 2e-3",
            "_TOLERANCE = 2e3",
            _SURGERY + "a_contrast_within_the_batch_is_found_without_statistics",
        ),
    ),
    *in_file(
        "fedrecon/tasks/surgery.py",
        (
            "range(min(32, channels), 0, -1)",
            "range(min(4, channels), 0, -1)",
            _SURGERY + "groups_divide_channels",
        ),
    ),
)
