"""Mutants of operators for MRI."""

from tests.mutants.mutant import in_file

_T = "tests/operators/"
_COMPRESSION = _T + "test_coil_compression.py::test_"
_WHITENING = _COMPRESSION + "whitening_of_another_bandwidth_and_of_coils_without_noise"
_SENSITIVITY = _T + "test_sensitivity.py::test_"
_COIL_FIELDS = _T + "test_coil_simulation.py::test_"
_SPIRIT = _T + "test_spirit.py::test_"
_TRAJECTORIES = _T + "test_trajectories.py::test_"
_EPI = _T + "test_echo_planar.py::test_"
_DENSITY = _T + "test_density.py::test_"
_DENSE_STEPS = _T + "test_joint_estimation.py::test_steps_are_those_of_gauss_newton_with_a_dense_jacobian"

MUTANTS = (
    *in_file(
        "operators/mri/coils/sense.py",
        (
            "jnp.sum(maps.conj() * images, axis=-3)",
            "jnp.sum(maps * images, axis=-3)",
            _T + "test_coils.py::test_rss_and_combination_agree_on_normalized_maps",
        ),
    ),
    *in_file(
        "operators/mri/coils/compression.py",
        (
            "samples.conj().T) / samples.shape[1]",
            "samples.conj().T) / (2 * samples.shape[1])",
            _COMPRESSION + "covariance_is_that_of_complex_samples",
        ),
        (
            "/ jnp.sqrt(jnp.asarray(variance_ratio, values.dtype))",
            "/ jnp.asarray(variance_ratio, values.dtype)",
            _WHITENING,
        ),
        (
            "vectors[..., ::-1][..., :count].conj().mT",
            "vectors[..., :count].conj().mT",
            _COMPRESSION + "svd_keeps_the_energy_of_the_largest_singular_values",
        ),
        (
            "_product(left, right).conj().mT])",
            "_product(left, right)])",
            _COMPRESSION + "neighboring_positions_are_aligned",
        ),
    ),
    *in_file(
        "operators/mri/coils/sensitivity.py",
        (
            "projection.conj() / jnp.where(size",
            "projection / jnp.where(size",
            _SENSITIVITY + "the_reference_coil_is_real_and_positive",
        ),
        (
            "coils, coils) / math.prod(kernel)",
            "coils, coils)",
            _SENSITIVITY + "espirit_is_the_projection_onto_patches",
        ),
        (
            "t * t * (3 - 2 * t)",
            "t",
            _SENSITIVITY + "support_steps_smoothly_from_the_floor_to_one",
        ),
    ),
    *in_file(
        "operators/mri/coils/simulation.py",
        (
            "field[..., 0], -field[..., 1])",
            "field[..., 0], field[..., 1])",
            _COIL_FIELDS + "turning_the_array_turns_the_maps",
        ),
        (
            "jnp.cross(step, offset) / distance**3",
            "jnp.cross(step, offset) / distance**2",
            _COIL_FIELDS + "the_field_on_the_axis_has_its_closed_form",
        ),
        (
            "offset.conj() / jnp.sqrt(across",
            "offset / jnp.sqrt(across",
            _COIL_FIELDS + "birdcage_elements_are_straight_wires",
        ),
        (
            "axes[-2] = -axes[-2]",
            "axes[-1] = -axes[-1]",
            _COIL_FIELDS + "birdcage_elements_are_straight_wires",
        ),
    ),
    *in_file(
        "operators/mri/calibration.py",
        (
            "jnp.matmul(rows.conj(), rows.T",
            "jnp.matmul(rows, rows.conj().T",
            _SPIRIT + "kernel_is_the_regularized_regression_on_all_neighbors",
        ),
        (
            "mean = jnp.trace(gram).real / count",
            "mean = jnp.trace(gram).real",
            _SPIRIT + "kernel_is_the_regularized_regression_on_all_neighbors",
        ),
    ),
    *in_file(
        "operators/mri/spirit_kernels.py",
        (
            "matrices = self.matrices.conj()",
            "matrices = self.matrices",
            _SPIRIT + "cg_spirit_is_the_weighted_least_squares_solution",
        ),
        (
            "fourier.gram(x, density) + regularization",
            "fourier.gram(x) + regularization",
            _SPIRIT + "cg_spirit_is_the_weighted_least_squares_solution",
        ),
    ),
    *in_file(
        "operators/mri/grappa_interpolation.py",
        (
            "(targets // nx * width + targets % nx)",
            "(targets // nx * nx + targets % nx)",
            _T + "test_grappa.py::test_harmonic_coils_are_recovered_exactly",
        ),
    ),
    *in_file(
        "operators/mri/joint_estimation.py",
        (
            "misfit + weight * (start - x)",
            "misfit - weight * x",
            _T + "test_joint_estimation.py::test_complete_data_are_explained",
        ),
        ("smooth_maps.adjoint(image.conj() * images)", "smooth_maps.adjoint(image * images)", _DENSE_STEPS),
        ("jnp.sum(maps.conj() * images, axis=0", "jnp.sum(maps * images, axis=0", _DENSE_STEPS),
    ),
    *in_file(
        "operators/mri/off_resonance.py",
        (
            "first = -_angle(turns[0]) / gaps[0]",
            "first = _angle(turns[0]) / gaps[0]",
            _T + "test_off_resonance.py::test_field_map_from_echoes",
        ),
        (
            "turns = 2 * math.pi * field_map",
            "turns = math.pi * field_map",
            _T + "test_off_resonance.py::test_constant_fields_are_a_phase",
        ),
        (
            "t = t - jnp.sum(weights * t, axis=0)",
            "t = t - jnp.mean(t, axis=0)",
            _T + "test_off_resonance.py::test_field_map_from_echoes",
        ),
    ),
    *in_file(
        "operators/mri/sampling/masks.py",
        (
            "start = (length - count + 1) // 2",
            "start = (length - count) // 2",
            _T + "test_masks.py::test_equispaced_is_equispaced",
        ),
        (
            "(columns / acceleration - count) / max(columns - count, 1)",
            "(columns / acceleration) / max(columns - count, 1)",
            _T + "test_masks.py::test_random_mask_meets_the_acceleration_on_average",
        ),
        (
            "np.arange(offset, columns - 1, spacing)",
            "np.arange(offset, columns, spacing)",
            _T + "test_masks.py::test_the_other_equispaced_masks_are_those_of_fastmri",
        ),
        (
            "(offset + 2, offset - 1) if offset % 2",
            "(offset + 1, offset - 1) if offset % 2",
            _T + "test_masks.py::test_the_other_equispaced_masks_are_those_of_fastmri",
        ),
        (
            "mask |= chosen & (priority >= first)",
            "mask |= chosen",
            _T + "test_masks.py::test_poisson_disc",
        ),
    ),
    *in_file(
        "operators/mri/sampling/trajectories.py",
        (
            "np.stack([np.sin(angles), np.cos(angles)], axis=-1)",
            "np.stack([np.cos(angles), np.sin(angles)], axis=-1)",
            _TRAJECTORIES + "radial_orientation",
        ),
        (
            "return (np.arange(samples) - samples // 2) / samples",
            "return (np.arange(samples) - (samples - 1) / 2) / samples",
            _TRAJECTORIES + "spokes_are_straight_equidistant_and_through_dc",
        ),
        ("(tiny_index - 1 if order", "(tiny_index if order", _TRAJECTORIES + "angles"),
        ("np.sqrt(1 - z**2), azimuth)", "1 - np.abs(z), azimuth)", _TRAJECTORIES + "kooshball_is_uniform"),
    ),
    *in_file(
        "operators/mri/sampling/density.py",
        (
            "jnp.abs(edges) ** ndim, axis=-1) / ndim",
            "jnp.abs(edges) ** ndim, axis=-1)",
            _DENSITY + "radial_ramp",
        ),
        (
            "4 * math.pi, 2 * math.pi) / spokes",
            "4 * math.pi, 4 * math.pi) / spokes",
            _DENSITY + "radial_shells",
        ),
        ("return 2**ndim * values", "return values", _DENSITY + "weights_of_a_cartesian_grid_are_ones"),
    ),
    *in_file(
        "operators/mri/sampling/echo_planar.py",
        (
            "return there * back.conj()",
            "return there * back",
            _EPI + "delay_and_phase_are_found_in_spite_of_off_resonance",
        ),
        (
            "turn = np.exp(-1j * shift.phase) if polarity < 0 else 1.0",
            "turn = np.exp(1j * shift.phase) if polarity < 0 else 1.0",
            _EPI + "the_matrix_undoes_delay_phase_and_direction",
        ),
        (
            "rising = up**2 / (2 * ramp_up)",
            "rising = up / 2",
            _EPI + "a_trapezoid_is_the_integral_of_its_gradient",
        ),
    ),
)
