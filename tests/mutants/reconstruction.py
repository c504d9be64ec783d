"""Mutants of reconstruction networks, of losses without references, and of conformal intervals."""

from tests.mutants.mutant import in_file

_NETWORKS = "tests/models/test_mri_networks.py::test_"
_DIRECT = "tests/models/test_direct_weights.py::test_"
_ITERATIONS = "tests/models/test_learned_iterations.py::test_"
_PRIORS = "tests/priors/test_denoisers.py::test_"
_MAP = "plug_and_play_ends_at_the_maximum_of_the_posterior"
_SAMPLES = "samples_have_the_mean_and_the_variance_of_the_posterior"
_DENOISING = "tests/tasks/test_denoising.py::test_"
_LOSSES = "tests/tasks/test_reconstruction_losses.py::test_"
_HELD_OUT = "tests/tasks/test_held_out_losses.py::test_"
_UNBIASED = "tests/tasks/test_unbiased_losses.py::test_"
_CONFORMAL = "tests/evaluation/test_conformal.py::test_"
_NULL = "tests/evaluation/test_null_space.py::test_"
_SAFETY = "tests/experiments/test_recon_safety.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/models/e2e_varnet.py",
        (".size - 1)", ".size)", _NETWORKS + "end_to_end_networks_are_those_of_fastmri"),
        (
            "jnp.where(masks, kspace - inputs.measurements, 0)",
            "(kspace - inputs.measurements)",
            _NETWORKS + "end_to_end_networks_are_those_of_fastmri",
        ),
        (
            "jnp.maximum(2 * jnp.minimum(left, right), 1)",
            "jnp.maximum(left + right, 1)",
            _NETWORKS + "low_frequencies_are_a_rectangle_about_the_center",
        ),
    ),
    *in_file(
        "fedrecon/published_weights/fastmri.py",
        (
            "[kernel[:, :, half:], kernel[:, :, :half]]",
            "[kernel[:, :, :half], kernel[:, :, half:]]",
            _NETWORKS + "unets_are_those_of_fastmri",
        ),
    ),
    *in_file(
        "fedrecon/published_weights/states.py",
        (
            "if left := set(self.arrays) - self.taken:",
            "if left := set():",
            _NETWORKS + "weights_that_are_not_those_of_fastmri_are_refused",
        ),
        (
            "if found.shape != shape:",
            "if False:",
            _DIRECT + "weights_that_are_not_those_of_direct_are_refused",
        ),
    ),
    *in_file(
        "fedrecon/published_weights/direct.py",
        (
            '("reset", "reset_gates")',
            '("reset", "update_gates")',
            _NETWORKS + "recurrent_networks_are_those_of_direct",
        ),
        ("sum(widths[-scales:])", "sum(widths[:scales])", _DIRECT + "starts_are_as_large_as_the_file_says"),
    ),
    *in_file(
        "fedrecon/zero_shot.py",
        (
            "given = jnp.where(chosen, 0, mask)",
            "given = mask",
            "tests/test_zero_shot.py::test_the_network_is_not_given_what_it_is_validated_by",
        ),
        (
            "<= patience:",
            "<= 99:",
            "tests/test_zero_shot.py::test_training_ends_when_the_error_stops_falling",
        ),
    ),
    *in_file(
        "fedrecon/learned_tomography.py",
        (
            "np.asarray(image[0], np.float32) * np.float32(scale)",
            "np.asarray(image[0], np.float32)",
            "tests/experiments/test_reconstruct_ct.py::test_a_network_reconstructs_parallel_beams",
        ),
    ),
    *in_file(
        "experiments/pipeline/checked_network.py",
        (
            "(targets.max((1, 2), initial=0) > 0)",
            "(targets.max((1, 2), initial=0) >= 0)",
            "tests/experiments/test_checked_network.py::"
            "test_the_quantile_holds_the_level_and_padding_and_blank_images_do_not_count",
        ),
    ),
    *in_file(
        "fedrecon/models/unrolled.py",
        (
            "return found if self.norms is None else found /",
            "return found if True else found /",
            "tests/models/test_unrolled.py::test_steps_are_divided_by_the_norm_of_the_operator",
        ),
    ),
    *in_file(
        "fedrecon/models/recurrent_varnet.py",
        (
            "hidden[i] * (1 - update) + new * update",
            "hidden[i] * update + new * (1 - update)",
            _NETWORKS + "recurrent_networks_are_those_of_direct",
        ),
        (
            "2 if layer == 1 else 1",
            "1",
            _NETWORKS + "recurrent_networks_are_those_of_direct",
        ),
    ),
    *in_file(
        "fedrecon/models/vsharp.py",
        ("u + rho * (x - z)", "u + x - z", _ITERATIONS + "vsharp_is_that_of_direct"),
        ("(1, 1, 2, 4)", "(1, 2, 2, 4)", _ITERATIONS + "vsharp_is_that_of_direct"),
        (
            "jnp.ones_like(power) if self.published",
            "jnp.sqrt(power) if self.published",
            _ITERATIONS + "vsharp_is_that_of_direct",
        ),
        ("size * slope / norm", "size * slope", _ITERATIONS + "vsharp_begins_as_proximal_points"),
    ),
    *in_file(
        "fedrecon/models/operator_scale.py",
        ("jnp.maximum(squares, 1)", "squares", _ITERATIONS + "learned_gradients_contain_gradient_descent"),
    ),
    *in_file(
        "fedrecon/models/learned_gradient.py",
        (
            "[*seen, memory]",
            "[*seen, 0 * memory]",
            _ITERATIONS + "learned_gradients_contain_gradient_descent",
        ),
        ("memory: int = 5", "memory: int = 4", _ITERATIONS + "sizes_are_those_of_the_publications"),
    ),
    *in_file(
        "fedrecon/models/variational_network.py",
        (
            "kernel = kernel - kernel.mean",
            "kernel = kernel - 0 * kernel.mean",
            _ITERATIONS + "steps_of_variational_networks_are_those_of_the_publication",
        ),
        (
            "(len(heights) - 1) / 2",
            "len(heights) / 2",
            _ITERATIONS + "steps_of_variational_networks_are_those_of_the_publication",
        ),
    ),
    *in_file(
        "fedrecon/priors/denoisers.py",
        ("u + x - z) * jnp.square(after / s)", "u + x - z)", _PRIORS + _MAP + "[falling]"),
        ("data_step(operator, y, z - u,", "data_step(operator, y, z + u,", _PRIORS + _MAP + "[equal]"),
        ("1 - jnp.square(after / s) if", "jnp.ones(()) if", _PRIORS + _SAMPLES),
        (
            "jax.random.normal(key, shape, dtype) * 2**0.5",
            "jax.random.normal(key, shape, dtype)",
            _PRIORS + "complex_noise_is_of_unit_variance_in_each_part",
        ),
    ),
    *in_file(
        "fedrecon/tasks/denoising.py",
        (
            "(s**2 + model.deviation**2) /",
            "1 /",
            _DENOISING + "the_loss_is_one_at_all_levels_where_nothing_is_learned",
        ),
        ("y * x, y**2, x**2", "y * x, y**3, x**2", _DENOISING + "phases_are_random_and_smooth"),
    ),
    *in_file(
        "fedrecon/models/plug_and_play.py",
        (
            "self.deviation * seen + s *",
            "seen + s *",
            _DENOISING + "untrained_denoisers_are_the_best_linear_ones",
        ),
    ),
    *in_file(
        "fedrecon/models/deep_equilibrium.py",
        (
            "g = repeated(lambda g: v + pulled(g)[0], v)",
            "g = v",
            _NETWORKS + "fixed_points_and_their_derivatives_are_those_of_linear_equations",
        ),
    ),
    *in_file(
        "fedrecon/models/conditioned.py",
        (
            "np.cos(np.pi * radius * phase)",
            "np.cos(np.pi * phase)",
            _NETWORKS + "conditioned_networks_are_varnets_that_know_the_scanner",
        ),
    ),
    *in_file(
        "fedrecon/tasks/reconstruction_losses.py",
        (
            'measure({**batch, "mask": jnp.ones_like(batch["mask"])})[0]',
            "measure(batch)[0]",
            _LOSSES + "supervised_losses_are_their_definitions",
        ),
    ),
    *in_file(
        "fedrecon/tasks/held_out_losses.py",
        (
            "free = (mask != 0) & ~(inside",
            "free = ~(inside",
            _LOSSES + "samples_are_held_out_without_the_center",
        ),
        (
            'given = jnp.where(held, 0, batch["mask"])',
            'given = batch["mask"]',
            _LOSSES + "what_is_held_out_is_never_seen",
        ),
        (
            "jnp.where(held, (1 - p * (1 - chance)) / jnp.where(held, p * chance, 1), 0)",
            "jnp.where(held, 1, 0)",
            _HELD_OUT + "weights_make_the_gradient_that_of_supervision",
        ),
        (
            "kspace, target = kspace + added, kspace - added / noise**2",
            "kspace, target = kspace + added, kspace",
            _HELD_OUT + "noise_is_left_out_of_what_robust_networks_learn",
        ),
        (
            "u = jnp.where(columns, u[:1], jnp.where(rows, u[:, :1], u))",
            "pass",
            _HELD_OUT + "lines_are_held_out_as_a_whole",
        ),
        (
            "(taken & ~inside).sum() / jnp.maximum(outside, 1)",
            "taken.sum() / taken.size",
            _HELD_OUT + "probabilities_are_told_by_the_mask",
        ),
        (
            "image = reconstruct(only(views & ~held))",
            "image = reconstruct(only(views))",
            _HELD_OUT + "the_expected_loss_of_views_is_that_without_noise",
        ),
    ),
    *in_file(
        "fedrecon/tasks/equivariance_losses.py",
        (
            "allowed = valid[None] & ~jnp.eye(n, dtype=bool)",
            "allowed = valid[None] | jnp.eye(n, dtype=bool)",
            _LOSSES + "others_are_other_valid_examples",
        ),
        (
            "squares(n) + 2 * moved",
            "squares(n) + moved",
            _UNBIASED + "the_risk_of_a_linear_network_is_its_error",
        ),
        (
            "n = measure({**batch, name: noise})[1]",
            "n = jnp.pad(noise, [(0, w - v) for w, v in zip(y.shape, noise.shape)])",
            _UNBIASED + "the_risk_of_filtered_sinograms_is_their_error",
        ),
        (
            "moved = {name: batch[name][place] for name in _OPERATOR if name in batch}",
            "moved = {name: batch[name] for name in _OPERATOR if name in batch}",
            _UNBIASED + "sinograms_of_rotated_images_and_of_others_views_are_undone",
        ),
    ),
    *in_file(
        "fedrecon/data/simulation/cohort.py",
        (
            'examples["noise_level"] =',
            "_ =",
            "tests/data/test_mri_simulation.py::test_examples_have_the_shapes_and_types_that_networks_expect",
        ),
    ),
    *in_file(
        "fedrecon/tasks/noise_levels.py",
        (
            "jnp.exp(0.5 * sinogram",
            "jnp.exp(sinogram",
            _UNBIASED + "levels_are_those_that_data_come_with_or_those_estimated",
        ),
    ),
    *in_file(
        "fedrecon/evaluation/null_spaces.py",
        ("part = image - found", "part = found", _NULL + "of_one_coil_it_is_what_was_not_measured"),
        ("regularization=cutoff", "regularization=0.0", _NULL + "an_image_of_zeros_has_no_null_space"),
        (
            "each = lost + kept",
            "each = whole",
            _NULL + "of_one_coil_it_is_what_was_not_measured",
        ),
    ),
    *in_file(
        "fedrecon/evaluation/lesion_contrast.py",
        (
            "(distance > radius + 1)",
            "(distance > 0)",
            _NULL + "contrast_is_recovered_by_the_identity_and_as_computed_by_a_blur",
        ),
        (
            "ndimage.binary_erosion(tissue, around, border_value=0)",
            "tissue",
            _NULL + "lesions_lie_in_tissue",
        ),
    ),
    *in_file(
        "experiments/pipeline/recon_safety.py",
        (
            "measured: jax.Array = A(_with_phase(d, image))",
            "measured: jax.Array = A(d)",
            _SAFETY + "contrast_is_that_of_the_lesions_that_are_measured",
        ),
        (
            'added * batch["view_mask"][..., None]',
            "added",
            _SAFETY + "sinograms_get_the_integrals_of_lesions",
        ),
        (
            "null_space(A, image, cutoff), null_space(A, image).total",
            "null_space(A, image), null_space(A, image).total",
            _SAFETY + "what_is_not_measured_is_not_determined",
        ),
    ),
    *in_file(
        "fedrecon/evaluation/conformal.py",
        (
            "math.ceil((counts.sum() + 1) * level)",
            "math.floor(counts.sum() * level)",
            _CONFORMAL + "quantiles_are_those_of_all_scores_to_a_bin",
        ),
    ),
)
