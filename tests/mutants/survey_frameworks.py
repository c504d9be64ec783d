"""Mutants of the survey's frameworks: the ledger of rounds, nodes, transfer learning."""

from tests.mutants.mutant import in_file

_ELAYAN = "tests/federated/test_elayan.py::test_"
_NODES = "tests/nodes/test_nodes.py::test_"
_BOUND = "tests/tasks/test_variational.py::test_"
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
    *in_file(
        "fedrecon/federated/methods/acquisition.py",
        (
            "& (guesses == guess).all(0)",
            "",
            _ELAYAN + "sure_examples_that_all_views_agree_on_are_admitted",
        ),
        ("- known - held", "- known", _ELAYAN + "no_class_exceeds_its_quota"),
        (
            "wanted = candidates & ~inside &",
            "wanted = candidates &",
            _ELAYAN + "no_class_exceeds_its_quota",
        ),
        ("taken &= place < (~live).sum()", "taken &= True", _ELAYAN + "no_class_exceeds_its_quota"),
        (
            "live = pool.until > number",
            "live = pool.until > 0",
            _ELAYAN + "images_expire_and_may_enter_again",
        ),
        (
            "share = counts[0] / jnp.maximum(counts[0] + counts[1], 1e-6)",
            'share = counts[0] / jnp.maximum(batch["valid"].sum(), 1)',
            _ELAYAN + "guessed_labels_count_half",
        ),
        (
            "valid &= used[batches.index]",
            "valid &= True",
            _ELAYAN + "above_any_probability_it_is_plain_fine_tuning",
        ),
        (
            "(), (-2,), (-3,), (-3, -2)",
            "(), (-2,), (-3,), (-3,)",
            _ELAYAN + "views_are_mirrored_images_of_every_example",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/thawing.py",
        (
            "jnp.where(still(context), 0, g) if own else g",
            "g",
            _ELAYAN + "until_then_the_head_trains_as_if_all_else_were_frozen",
        ),
        (
            "jnp.where(moves, rate * u, 0) if m else u",
            "jnp.where(moves, u, 0) if m else u",
            _ELAYAN + "the_last_block_rests_and_then_moves_at_a_tenth_of_the_rate",
        ),
        (
            "jnp.where(here, 0, result.weight)",
            "result.weight",
            _ELAYAN + "the_backbone_is_bit_identical_and_in_no_message",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/elayan.py",
        (
            "True if a or b else FROZEN",
            "True",
            _ELAYAN + "the_backbone_is_bit_identical_and_in_no_message",
        ),
    ),
    *in_file(
        "fedrecon/nodes/plans.py",
        (
            'plan.source.replace("\\r\\n", "\\n").encode()',
            '" ".join(plan.source.split()).encode()',
            _NODES + "a_change_of_one_character_is_refused_and_does_not_run",
        ),
        (
            "for x in (source, config)",
            "for x in (source,)",
            _NODES + "a_change_of_one_character_is_refused_and_does_not_run",
        ),
    ),
    *in_file(
        "fedrecon/nodes/node.py",
        (
            "if digest not in self._approvals:",
            "if False:",
            _NODES + "a_change_of_one_character_is_refused_and_does_not_run",
        ),
        (
            "found[0].size < self.policy.minimum",
            "found[0].size <= self.policy.minimum",
            _NODES + "too_few_examples_are_unavailable",
        ),
        (
            'min(int(job.plan.config["epochs"]), self.policy.epochs)',
            'int(job.plan.config["epochs"])',
            _NODES + "the_owner_caps_epochs_and_forces_noise",
        ),
        (
            "return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(os.urandom(8), np.uint32)))",
            "return jax.random.key(job.seed)",
            _NODES + "the_owner_caps_epochs_and_forces_noise",
        ),
        (
            "._replace(round=jnp.int32(job.round))",
            "",
            _NODES + "batches_are_those_of_the_round_and_the_place",
        ),
    ),
    *in_file(
        "fedrecon/nodes/researcher.py",
        (
            "reply.examples / whole * x for",
            "x / len(trained) for",
            _NODES + "rounds_of_nodes_are_those_of_the_compiled_simulation",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedbiomed.py",
        (
            "context.batches.count >= minimum",
            "context.batches.count > minimum",
            _NODES + "rounds_of_nodes_are_those_of_the_compiled_simulation",
        ),
    ),
    *in_file(
        "fedrecon/tasks/variational.py",
        (
            "losses = error + weight * divergence",
            "losses = error + divergence",
            _BOUND + "error_and_divergence_are_those_of_the_definition",
        ),
    ),
    *in_file(
        "fedrecon/models/variational.py",
        (
            "mean + jnp.exp(0.5 * log_variance) * noise",
            "mean + 0 * noise",
            _BOUND + "padding_changes_nothing_and_noise_is_drawn_in_training_alone",
        ),
    ),
)
