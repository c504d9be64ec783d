"""Mutants of classical reconstruction."""

from tests.mutants.mutant import in_file

_CLASSICAL = in_file(
    "fedrecon/classical.py",
    (
        "if method.maps and min(block) < smallest:",
        "if method.maps and not min(block):",
        "tests/experiments/test_reconstruct_views.py::test_a_center_too_small_for_coil_maps_is_refused_or_named",
    ),
    (
        "(np.asarray(mask) > 0) & measurement.mask",
        "np.broadcast_to(np.asarray(mask) > 0, measurement.mask.shape)",
        "tests/experiments/test_reconstruct_views.py::test_padding_is_neither_measured_nor_counted",
    ),
    (
        "operators.NUFFT(k[index] if k.ndim == 3 else k, measurement.image_shape)",
        "operators.NUFFT(k[0] if k.ndim == 3 else k, measurement.image_shape)",
        "tests/experiments/test_reconstruct_views.py::test_slices_with_their_own_spokes_are_reconstructed_with_them",
    ),
    (
        "measurement.kspace * mask[:, None], mask=mask)",
        "measurement.kspace, mask=mask)",
        "tests/experiments/test_reconstruct.py::test_undersampling_removes_the_samples_left_out",
    ),
    (
        "return (image if maps is None else image * operators.rss(maps)), info",
        "return image, info",
        "tests/experiments/test_classical.py::test_images_do_not_carry_the_weights_of_their_maps",
    ),
    (
        "np.quantile(found, 0.1) / (-2 * np.log(0.9))",
        "np.quantile(found, 0.1) / (-np.log(0.9))",
        "tests/experiments/test_classical.py::test_weights_follow_the_noise_of_the_outer_samples",
    ),
    (
        "weight=max(method.noise_weight * prepared.noise, SMALLEST_WEIGHT)",
        "weight=max(method.noise_weight, SMALLEST_WEIGHT)",
        "tests/experiments/test_classical.py::test_weights_follow_the_noise_of_the_outer_samples",
    ),
    (
        "measurement=kept, noise=noise_level(kept)",
        "measurement=kept",
        "tests/experiments/test_classical.py::test_the_noise_of_undersampled_measurements_is_that_of_the_samples_kept",
    ),
    (
        "jnp.hypot(noise, misfit(maps, gridded, plan.block, y))",
        "misfit(maps, gridded, plan.block, y)",
        "tests/experiments/test_classical.py::test_weights_chosen_follow_the_noise_and_are_reported",
    ),
    (
        "@functools.partial(jax.jit, static_argnums=0)",
        "@functools.partial(jax.jit, static_argnums=(0, 1))",
        "tests/experiments/test_classical.py::test_a_sweep_of_weights_compiles_once",
    ),
)

_MAPS = in_file(
    "fedrecon/classical_maps.py",
    (
        "key=lambda block: (min(block), block[0] * block[1]))",
        "key=lambda block: block[0] * block[1])",
        "tests/experiments/test_reconstruct.py::test_the_calibration_block_is_the_largest_sampled_center",
    ),
    (
        "return maps * operators.mri.espirit_support(values, floor)",
        "return maps * operators.mri.espirit_support(values, 0.0)",
        "tests/experiments/test_classical.py::test_images_do_not_carry_the_weights_of_their_maps",
    ),
    (
        "measured = jnp.maximum(jnp.sum(jnp.any(y != 0, axis=0)), 1)",
        "measured = y[0].size",
        "tests/experiments/test_classical.py::test_what_maps_do_not_explain_counts_as_noise",
    ),
    (
        "rest = known - operators.fft2c(explained)[place]",
        "rest = known - operators.fft2c(images)[place]",
        "tests/experiments/test_classical.py::test_what_maps_do_not_explain_counts_as_noise",
    ),
    (
        "4 * background / jnp.sqrt(",
        "4 * background * jnp.sqrt(",
        "tests/experiments/test_classical.py::test_the_background_is_weighted_by_the_noise",
    ),
)

_CHOICE = in_file(
    "fedrecon/classical_methods.py",
    (
        "share * errors**2 * x.size /",
        "share * errors * x.size /",
        "tests/experiments/test_classical.py::test_weights_are_chosen_by_the_errors_and_the_size_of_the_image",
    ),
    (
        "jnp.clip(weight, 0.01 * errors, 0.5 * errors)",
        "weight",
        "tests/experiments/test_classical.py::test_weights_are_chosen_by_the_errors_and_the_size_of_the_image",
    ),
    (
        "jnp.maximum(weight, SMALLEST_WEIGHT)",
        "weight",
        "tests/experiments/test_classical.py::test_weights_are_chosen_by_the_errors_and_the_size_of_the_image",
    ),
)

MUTANTS = _CLASSICAL + _MAPS + _CHOICE
