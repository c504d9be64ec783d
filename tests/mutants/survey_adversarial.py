"""Mutants of adversarial games and of the methods that are made of them."""

from tests.mutants.mutant import in_file

_GAME = "tests/alignment/test_adversarial.py::test_"
_LI = "tests/federated/test_li_moe.py::test_"
_VAFL = "tests/federated/test_vafl.py::test_"
_MRCM = "tests/federated/test_fl_mrcm.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/alignment/adversarial.py",
        (
            "jax.lax.stop_gradient(domain.features)",
            "domain.features",
            _GAME + "a_step_is_of_one_side_and_leaves_the_other_bit_for_bit",
        ),
        (
            "jax.lax.stop_gradient(player.params)",
            "player.params",
            _GAME + "a_step_is_of_one_side_and_leaves_the_other_bit_for_bit",
        ),
        (
            "each = jnp.where(counted, each.mean(-1), 0)",
            "each = each.mean(-1)",
            _GAME + "the_loss_is_the_cross_entropy_of_every_logit",
        ),
        (
            "return critic(made) - critic(real)",
            "return critic(real) - critic(made)",
            _GAME + "the_penalty_of_a_linear_critic_is_known",
        ),
        (
            "jnp.sqrt(jnp.maximum(squared, 1e-12))",
            "jnp.sqrt(squared)",
            _GAME + "the_penalty_is_taken_between_the_two_and_differentiated_where_the_critic_is_flat",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fl_mrcm.py",
        (
            "[source._replace(target=TARGET)]",
            "[source]",
            _MRCM + "a_step_is_that_of_the_published_equations",
        ),
        (
            "0.99, eps_in_sqrt=False",
            "0.9, eps_in_sqrt=False",
            _MRCM + "a_step_is_that_of_the_published_equations",
        ),
        (
            "jnp.where(context.batches.client == target, sent, 0)",
            "sent",
            _MRCM + "no_image_is_in_a_message",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/latents.py",
        (
            "jnp.where(present, places, 2)",
            "places",
            _MRCM + "latents_are_of_present_examples_and_noise_has_its_size",
        ),
    ),
    *in_file(
        "fedrecon/tasks/features.py",
        (
            "return levels[0][-1][0]",
            "return levels[0][0][0]",
            _MRCM + "the_bottleneck_is_of_the_first_cascade",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/li_moe.py",
        (
            "[x.std() * _DRAWS",
            "[_DRAWS",
            _LI + "what_is_uploaded_differs_from_the_model_by_the_noise",
        ),
        (
            "(mine, mine._replace(target=(0.0,)))",
            "(mine,)",
            _LI + "a_step_hides_the_site_as_the_equations_say",
        ),
        ('server["rounds"] >= start', 'server["rounds"] >= 0', _LI + "before_its_start_it_is_averaging"),
        (
            "jnp.where(found.present, found.client, clients)",
            "found.client",
            _LI + "who_is_away_keeps_the_features_that_are_known",
        ),
        (
            "name not in PRIVATE for name in part",
            "True for name in part",
            _LI + "expert_gate_and_images_are_in_no_message",
        ),
    ),
    *in_file(
        "fedrecon/tasks/mixtures.py",
        (
            "jax.lax.stop_gradient(jax.nn.log_softmax(other))",
            "jax.nn.log_softmax(other)",
            _LI + "gradients_are_those_of_the_equations",
        ),
        (
            "return part * jax.nn.log_softmax(own) + (1 - part) * expert",
            "return (1 - part) * jax.nn.log_softmax(own) + part * expert",
            _LI + "the_gate_decides_between_the_network_and_the_expert",
        ),
    ),
    *in_file(
        "fedrecon/alignment/generation.py",
        ("(nearest >= threshold) & ", "", _VAFL + "no_selected_sample_is_nearer_than_the_threshold"),
        (
            "(g + noise * clip * n)",
            "(g + noise * n)",
            _VAFL + "gradients_of_single_examples_are_clipped_and_noised",
        ),
    ),
    *in_file(
        "fedrecon/alignment/translation.py",
        (
            "+ MIDDLE * away(made[middle], x[middle])",
            "",
            _VAFL + "a_translator_is_the_identity_at_first_and_its_loss_is_by_hand",
        ),
        (
            "jax.tree.map(jnp.zeros_like, params[-1])",
            "params[-1]",
            _VAFL + "a_translator_is_the_identity_at_first_and_its_loss_is_by_hand",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/vafl.py",
        (
            "np.argmin(np.where(present",
            "np.argmax(np.where(present",
            _VAFL + "the_simplest_client_is_the_target_and_others_send_four_bytes",
        ),
        ("name != TRANSLATOR for name", "True for name", _VAFL + "translators_and_images_are_in_no_message"),
    ),
)
