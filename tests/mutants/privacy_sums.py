"""Mutants of the ledger of privacy, of distributed noise and of secure sums inside a round."""

from tests.mutants.mutant import in_file

_L = "tests/privacy/test_ledger.py::"
_D = "tests/privacy/test_distributed.py::"
_S = "tests/federated/test_secure_sum.py::"
_EXACT = "tests/privacy/test_noisy_sum.py::test_exact_noise_is_that_of_the_operating_system"
_N = "tests/privacy/test_noisy_sum.py::test_the_sum_is_that_of_clipped_updates_with_noise_of_all_shares[1]"
_SUMS = _S + "test_sums_are_those_of_words_whoever_drops_out[None]"

MUTANTS = (
    *in_file(
        "fedrecon/privacy/ledger.py",
        # What a crash left of a line is dropped although its release can be read.
        (
            "whole = self._completed(tail) if tail else None",
            "whole = None",
            _L + "test_a_cut_line_counts_if_all_of_its_release_is_there",
        ),
        # A fresh draw of the same round is taken for the earlier one.
        (
            "new = draw is None or (draw not in self.draws and draw not in draws)",
            "new = draw not in self.draws and draw not in draws",
            _L + "test_the_same_draw_counts_once_and_another_counts_again",
        ),
        # Another mechanism under the same name counts as the same release.
        (
            '("unit", "site", "stage", "round", "draw")), _text(record))',
            '("unit", "site", "stage", "round", "draw")),)',
            _L + "test_the_same_draw_counts_once_and_another_counts_again",
        ),
        # The lines are not chained.
        (
            "link = hashlib.sha256(chain.encode() + payload).hexdigest()",
            "link = hashlib.sha256(payload).hexdigest()",
            _L + "test_lines_doubled_taken_out_or_in_another_order_are_refused",
        ),
    ),
    *in_file(
        "fedrecon/privacy/composition.py",
        # Both halves of delta are the whole.
        (
            "_by_divergence(by_divergence, relation, delta / 2)",
            "_by_divergence(by_divergence, relation, 2 * delta)",
            _L + "test_events_that_one_accountant_does_not_take_go_to_the_other",
        ),
        (
            "part = part.self_compose(count)",
            "part = part.self_compose(1)",
            _L + "test_epsilon_is_that_of_dp_accounting",
        ),
    ),
    *in_file(
        "fedrecon/privacy/distributed.py",
        # Shares are sized for all clients: with some gone the sum has too little noise.
        (
            "stddev = noise_multiplier * clip / math.sqrt(clients - dropouts)",
            "stddev = noise_multiplier * clip / math.sqrt(clients)",
            _D + "test_a_sum_has_the_noise_that_is_accounted_and_does_not_wrap",
        ),
        # Rounding is not repeated, and may be longer than what is accounted.
        (
            "if np.linalg.norm(rounded) <= self.scale * self.sensitivity:",
            "if rounded.size:",
            _D + "test_rounding_never_exceeds_the_sensitivity",
        ),
        # The cost of rounding is left out.
        (
            "reach**2 + d / 4 + math.sqrt(2 * _LOG_INVERSE_BETA) * (reach + math.sqrt(d) / 2),",
            "reach**2,",
            _D + "test_epsilon_is_that_of_the_papers",
        ),
    ),
    *in_file(
        "fedrecon/privacy/discrete.py",
        (
            "if _bernoulli_exp(excess * excess / (2 * variance), randbelow):",
            "if variance:",
            _D + "test_discrete_gaussian_has_the_stated_probabilities",
        ),
        (
            "table = _poisson_table(variance / 2)",
            "table = _poisson_table(variance)",
            _D + "test_skellam_has_the_stated_probabilities",
        ),
    ),
    *in_file(
        "fedrecon/federated/masks.py",
        # Both clients of a pair add their mask.
        ("(client < other) == (sign > 0)", "(client < other) | (sign > 0)", _SUMS),
        # Masks with clients that dropped out stay.
        ("shared & here & ~arrived[other]", "shared & ~here & ~arrived[other]", _SUMS),
        # Clients have no masks of their own.
        (
            "total = _plus(vectors, self.own(vectors, client), jnp.uint32(1))",
            "total = _plus(vectors, self.own(vectors, client), jnp.uint32(0))",
            _SUMS,
        ),
    ),
    *in_file(
        "fedrecon/federated/secure_sum.py",
        # Rounded down instead of at random.
        (
            "return (whole + up.astype(jnp.float32)).astype(jnp.int32)",
            "return (whole + 0 * up.astype(jnp.float32)).astype(jnp.int32)",
            _S + "test_words_are_those_of_fixed_point_bit_for_bit",
        ),
        # A number beyond the bound is cut off silently.
        (
            "beyond |= ~(jnp.abs(x) <= fixed.clip * _SLACK).all()",
            "beyond |= ~(jnp.abs(x) <= jnp.inf).all()",
            _S + "test_what_is_beyond_its_bound_and_too_few_clients_spoil_the_round_alone",
        ),
        # Sums of fewer clients than the threshold are applied.
        (
            "enough = (context.participants >= threshold)",
            "enough = (context.participants >= 0 * threshold)",
            _S + "test_what_is_beyond_its_bound_and_too_few_clients_spoil_the_round_alone",
        ),
        (
            "if reduce is not None and not reduce.linear:",
            "if reduce is None:",
            _S + "test_what_needs_single_updates_is_refused",
        ),
        # Groups share their masks' keys with all clients.
        (
            "invited=context.invited & (group == own)",
            "invited=context.invited & (group >= 0)",
            _S + "test_groups_are_summed_securely_and_robustly_averaged",
        ),
    ),
    *in_file(
        "fedrecon/privacy/noisy_sum.py",
        (
            "jnp.round(noise.scale * noise.stddev * jax.random.normal(noise_key, x.shape))",
            "jnp.round(noise.scale * noise.stddev / 2 * jax.random.normal(noise_key, x.shape))",
            _N,
        ),
        # All clients add the same noise.
        (
            "round_key, noise_key = jax.random.split(context.key)",
            "round_key, noise_key = jax.random.split(context.common)",
            _N,
        ),
        # Noise of a real release comes from another source than the system's.
        (
            "return noise.share(os.urandom).astype(np.int32)",
            "return noise.share(np.random.default_rng(0).bytes).astype(np.int32)",
            _EXACT,
        ),
        # All clients get what one drew.
        ("io_callback(draw, shape, context.client)", "io_callback(draw, shape, jnp.int32(0))", _EXACT),
        # Weights count in what is clipped.
        ("x / jnp.where(weight > 0, weight, 1)", "x / jnp.where(weight > 0, 1, 1)", _N),
    ),
    *in_file(
        "fedrecon/training/catalog_algorithms.py",
        # Sums with an entry of each client go through a secure sum.
        (
            "if not chosen.linear:",
            'if not chosen.linear and chosen.name != "afl":',
            "tests/training/test_secure.py::test_sums_with_an_entry_of_each_client_are_refused",
        ),
    ),
)
