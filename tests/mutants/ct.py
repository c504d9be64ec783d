"""Mutants of operators for CT, and of phantoms."""

from tests.mutants.mutant import in_file

_T = "tests/operators/"
_PHYSICS = _T + "test_ct_physics.py::test_"
_GEOMETRY = _T + "test_geometry.py::test_"
_INVERSION = _T + "test_analytic_inversion.py::test_"
_DISPLACED = _T + "test_displaced_detectors.py::test_"
_CENTER = _T + "test_rotation_center.py::test_"
_CONVERSIONS = _T + "test_geometry_conversions.py::test_"
_ITERATIVE = _T + "test_ct_iterative.py::test_"
_PHANTOMS = _T + "test_phantoms.py::test_"
_CHORDS = _T + "test_ray_integrals.py::test_rays_from_face_to_face_measure_their_path_in_a_box"
_GRIDS = _T + "test_image_grids.py::test_"
_DEFINITION = _GRIDS + "joseph_sums_are_those_of_the_definition"
_ON_GRIDS = _GRIDS + "filtered_back_projection_on_any_grid"
_ELLIPSOIDS = _T + "test_ct_phantoms.py::test_"

_CT = (
    *in_file(
        "operators/ct/alignment.py",
        ("(-4j * math.pi", "(-2j * math.pi", _CENTER + "known_centers"),
        ("waves * total[:, None], moment", "waves, moment", _CENTER + "known_centers"),
        (
            "values.reshape(-1, *values.shape[-2:])[:, :views]",
            "values.reshape(-1, *values.shape[-2:])[:, ::2]",
            _CENTER + "turns_rows_and_directions",
        ),
    ),
    *in_file(
        "operators/ct/physics.py",
        (
            "1000 * (as_inexact(attenuation) / water - 1)",
            "1000 * as_inexact(attenuation) / water - 1",
            _PHYSICS + "hounsfield_units",
        ),
        (
            "safe = jnp.maximum(counts, 0) + 0.5",
            "safe = jnp.maximum(counts, 0.5)",
            _PHYSICS + "the_modified_logarithm_is_unbiased_and_finite",
        ),
        (
            "(counts / positive(counts + noise**2))",
            "(counts / positive(counts + noise))",
            _PHYSICS + "weights_are_inverse_variances",
        ),
        (
            "fraction * (1 - fraction) * counts",
            "(1 - fraction) * counts",
            _PHYSICS + "lower_dose_is_a_scan_of_that_dose",
        ),
        ("drawn, fraction * photons)", "drawn, photons)", _PHYSICS + "lower_dose_is_a_scan_of_that_dose"),
        (
            "/ positive(white - dark)",
            "/ positive(white)",
            _PHYSICS + "flat_field_recovers_line_integrals_and_survives_zeros",
        ),
    ),
    *in_file(
        "operators/ct/artifacts.py",
        (
            "return 0.1 * density * np.exp(",
            "return density * np.exp(",
            _PHYSICS + "attenuation_of_water_and_bone",
        ),
        (
            "share = (place - left) / jnp.maximum(right - left, 1)",
            "share = (right - place) / jnp.maximum(right - left, 1)",
            _PHYSICS + "interpolation_restores_linear_functions",
        ),
        (
            "jnp.argsort(order, axis=-2), axis=-2)",
            "order, axis=-2)",
            _PHYSICS + "rings_are_removed_and_objects_are_kept",
        ),
        (
            'mode="symmetric")',
            'mode="reflect")',
            _PHYSICS + "rings_are_removed_up_to_the_ends_as_by_their_authors",
        ),
    ),
    *in_file(
        "operators/ct/algebraic.py",
        (
            "alpha = jnp.where(curvature > 0, size / positive(curvature), 0)",
            "alpha = jnp.where(curvature > 0, 0.5 * size / positive(curvature), 0)",
            _ITERATIVE + "consistent_data_are_solved",
        ),
        (
            "new = clipped(x + relaxation * columns * A.H(rows * (y - A(x))), nonnegative)",
            "new = clipped(x + relaxation * columns * A.H(y - A(x)), nonnegative)",
            _ITERATIVE + "inconsistent_data_give_the_weighted_least_squares_solution",
        ),
    ),
    *in_file(
        "operators/ct/statistical.py",
        (
            "return x * sensitivity * A.H(",
            "return x * A.H(",
            _ITERATIVE + "expectation_maximization_keeps_counts_and_never_loses_likelihood",
        ),
        (
            "weighted(x) - back + regularization * D.H(slope)",
            "weighted(x) - back + D.H(slope)",
            _ITERATIVE + "penalized_weighted_least_squares_is_stationary",
        ),
    ),
    *in_file(
        "operators/ct/inversion/short_scan.py",
        (
            "jnp.where(coverage.complete, 0.5, short)",
            "jnp.where(coverage.complete, 1.0, short)",
            _INVERSION + "a_full_turn_counts_every_ray_half",
        ),
        (
            "t < 2 * rising, early",
            "t < rising, early",
            _INVERSION + "parker_weights_of_conjugate_rays_sum_to_one",
        ),
        (
            "_GAP * xp.maximum(common, period / views)",
            "_GAP * period / views",
            _INVERSION + "random_angles_cover_the_half_turn",
        ),
        (
            "weights = (gaps + xp.roll(gaps, 1)) / 2",
            "weights = gaps",
            _INVERSION + "views_stand_for_the_gaps_next_to_them",
        ),
    ),
    *in_file(
        "operators/ct/inversion/displaced.py",
        (
            "weights = 1 + np.sin(math.pi / 2 * along)",
            "weights = 1 + along * 0",
            _DISPLACED + "a_displaced_detector_sees_the_whole_object_in_a_turn",
        ),
        (
            "(extra, 0) if long_side > 0 else (0, extra)",
            "(0, 0)",
            _DISPLACED + "a_displaced_detector_sees_the_whole_object_in_a_turn",
        ),
        (
            "near >= radius or far - near < _LEAST * step",
            "near >= radius",
            _DISPLACED + "detectors_that_see_the_object_on_both_sides_weigh_as_ever",
        ),
    ),
    *in_file(
        "operators/ct/geometry/circular.py",
        (
            "e, normal = -e, -normal",
            "pass",
            _DISPLACED + "vectors_of_a_circle_are_inverted_as_the_circle",
        ),
        (
            "pitch = 2 * math.pi * slope",
            "pitch = slope",
            _DISPLACED + "vectors_of_a_circle_are_inverted_as_the_circle",
        ),
    ),
    *in_file(
        "operators/ct/geometry/scanners.py",
        (
            '(("src_shift_func", -1.0), ("det_shift_func", 1.0))',
            '(("src_shift_func", 1.0), ("det_shift_func", 1.0))',
            _CONVERSIONS + "shifts_and_translations_of_odl_are_its_own",
        ),
    ),
    *in_file(
        "operators/ct/inversion/ramp_filters.py",
        (
            "kernel[0] = 0.25",
            "kernel[0] = 0.0",
            _T + "test_filtering.py::test_ramp_is_the_band_limited_kernel",
        ),
        (
            "np.linspace(0, 1, length // 2 + 1) / cutoff",
            "np.linspace(0, 1, length // 2 + 1) * cutoff",
            _INVERSION + "cutoff_stretches_the_window",
        ),
    ),
    *in_file(
        "operators/ct/inversion/filtering.py",
        (
            "geometry.detector_spacing / math.prod(self.radon.grid.steps)",
            "geometry.detector_spacing / self.radon.grid.steps[0]",
            _T + "test_filtering.py::test_adjoint_of_prepared_data_is_filtered_back_projection",
        ),
        (
            "jnp.maximum(jnp.sum(mask), 1)))[:, None]",
            "geometry.views))[:, None]",
            _T + "test_filtering.py::test_padded_views_change_nothing",
        ),
    ),
    *in_file(
        "operators/ct/inversion/divergent.py",
        (
            "* (tilt * lever / geometry.source_distance**2)",
            "* (tilt * lever / geometry.source_distance)",
            _INVERSION + "fans_return_the_attenuation_of_a_disc",
        ),
        (
            "lever = geometry.source_distance * cos + geometry",
            "lever = geometry.source_distance + geometry",
            _INVERSION + "wide_fans_keep_the_attenuation_far_from_the_center",
        ),
        ("depth + jnp.sum(n * center, -1)", "depth", _ON_GRIDS),
        (
            "/ distance) ** 2",
            "/ distance)",
            _INVERSION + "wide_fans_keep_the_attenuation_far_from_the_center",
        ),
    ),
    *in_file(
        "operators/ct/geometry/cone.py",
        ("(self.angles / (2 * math.pi))", "self.angles", _GEOMETRY + "helix_climbs_by_its_pitch"),
        (
            "jnp.hypot(depth, side) if self.curved else depth",
            "depth",
            _GEOMETRY + "rays_and_detector_coordinates_are_inverse",
        ),
    ),
    *in_file(
        "operators/ct/geometry/fan.py",
        (
            "-source_distance * along - axis_offset * across",
            "-source_distance * along + axis_offset * across",
            _GEOMETRY + "rays_and_detector_coordinates_are_inverse",
        ),
        (
            "jnp.arctan2(side, depth) if curved",
            "jnp.arctan2(depth, side) if curved",
            _GEOMETRY + "rays_and_detector_coordinates_are_inverse",
        ),
    ),
    *in_file(
        "operators/ct/geometry/parallel.py",
        (
            "s = s + (self.detector_offset - self.axis_offset)",
            "s = s + (self.detector_offset + self.axis_offset)",
            _GEOMETRY + "rays_and_detector_coordinates_are_inverse",
        ),
    ),
    *in_file(
        "operators/ct/geometry/conversions.py",
        (
            "jnp.asarray(angles, float) + math.pi / 2",
            "jnp.asarray(angles, float) - math.pi / 2",
            _CONVERSIONS + "tigre_places_source_and_detector_there",
        ),
        (
            '"axis_offset": -center}',
            '"axis_offset": center}',
            _CONVERSIONS + "tigre_parallel_offsets_become_the_center_of_rotation",
        ),
        ('for axis in "YX")', 'for axis in "XY")', _CONVERSIONS + "astra_there_and_back"),
    ),
    *in_file(
        "operators/ct/projection/joseph.py",
        (
            "width / grid.spacing, grid.pixel_size / width)",
            "width / grid.spacing, grid.pixel_size)",
            _T + "test_radon.py::test_the_gradient_is_the_adjoint_and_holds_no_scatter",
        ),
        ("total * (grid.pixel_size * jnp.abs(inverse))", "total * jnp.abs(inverse)", _CHORDS),
        ("total * (grid.pixel_size * jnp.abs(inverse))", "total * grid.pixel_size", _CHORDS),
    ),
    *in_file(
        "operators/ct/geometry/image_grid.py",
        ("+ self.center[2]", "- self.center[2]", _ON_GRIDS),
        (
            'f"{name}: pixel_size") for size in sizes)[::-1]',
            'f"{name}: pixel_size") for size in sizes)',
            _ON_GRIDS,
        ),
    ),
    *in_file(
        "operators/ct/geometry/image_conversions.py",
        (
            "((low + high) / 2).tolist()",
            "((high - low) / 2).tolist()",
            _T + "test_image_conversions.py::test_volumes_of_astra_and_odl_have_the_same_bounds",
        ),
        (
            'np.asarray(scan["offOrigin"]) + grid.center[::-1]',
            "np.zeros(3) + grid.center[::-1]",
            _T + "test_image_conversions.py::test_a_helix_of_tigre_moves_the_image_by_both",
        ),
        (
            "(center + grid.half).tolist()",
            "(grid.half - center).tolist()",
            _T + "test_image_conversions.py::test_windows_are_half_a_voxel_around_the_outermost_ones",
        ),
    ),
    *in_file(
        "operators/ct/geometry/circular.py",
        (
            "detector = detector - np.pad(axis",
            "detector = detector + np.pad(axis",
            _GRIDS + "a_scan_around_another_axis_is_inverted_as_around_the_origin",
        ),
    ),
    *in_file(
        "operators/ct/inversion/parallel.py",
        ("(dy / dx) * across[1]", "across[1]", _ON_GRIDS),
        ("turn + nu * (grid.center[0] * cos + grid", "turn - nu * (grid.center[0] * cos + grid", _ON_GRIDS),
    ),
    *in_file(
        "operators/ct/projection/fourier_slice.py",
        (
            "nu * (x * across[0] - y * across[1])",
            "nu * (x * across[0] + y * across[1])",
            _GRIDS + "part_of_an_image_is_projected_as_the_whole",
        ),
    ),
    *in_file(
        "operators/ct/projection/lines.py",
        (
            "length = dx * jnp.sqrt(1 + slope**2)",
            "length = dx * (1 + slope**2)",
            _T + "test_projectors.py::test_distance_driven_is_the_mean_over_elements",
        ),
        ("jnp.hypot(dy, dx * slope), jnp", "jnp.hypot(dx, dx * slope), jnp", _DEFINITION),
        (
            "vectors * jnp.asarray([1, dy / dx]",
            "vectors * jnp.asarray([1, dx / dx]",
            _GRIDS + "wide_pixels_are_equal_pixels_side_by_side_to_means",
        ),
    ),
    *in_file(
        "operators/ct/projection/planes.py",
        ("/ jnp.linalg.norm(voxels, axis=-1)", "/ jnp.linalg.norm(directions, axis=-1)", _DEFINITION),
        ("jnp.hypot(dx, dy * slope)) / dz", "jnp.hypot(dx, dy * slope))", _DEFINITION),
        (
            "(height[:, 1] - height[:, 0]) / rows,",
            "(height[:, 1] - height[:, 0]) / (rows - 1),",
            _T + "test_volume_projectors.py::test_the_middle_row_is_the_fan",
        ),
    ),
)

_PHANTOM_PACKAGE = (
    *in_file(
        "operators/phantoms/ellipses.py",
        (
            "jnp.asarray(-rows / height, dtype)[:, None]",
            "jnp.asarray(rows / height, dtype)[:, None]",
            _PHANTOMS + "kspace_agrees_with_the_rasterised_image",
        ),
        (
            "jnp.cos(phase), -jnp.sin(phase))",
            "jnp.cos(phase), jnp.sin(phase))",
            _PHANTOMS + "kspace_agrees_with_the_rasterised_image",
        ),
        (
            "sinogram + 2 * ellipse.value",
            "sinogram + ellipse.value",
            _PHANTOMS + "sinogram_is_the_line_integral",
        ),
        (
            "y = jnp.asarray(-_centers(",
            "y = jnp.asarray(_centers(",
            _PHANTOMS + "rasterize_areas_and_orientation",
        ),
        (
            "scale = math.sqrt(ny * nx) / (height * width)",
            "scale = 1 / (height * width)",
            _PHANTOMS + "kspace_keeps_the_energy",
        ),
    ),
    *in_file(
        "operators/phantoms/parts.py",
        (
            "cos * x + sin * y, cos * y - sin * x, *z]",
            "cos * x - sin * y, cos * y + sin * x, *z]",
            _ELLIPSOIDS + "any_ellipse_by_quadrature",
        ),
        (
            "4 * math.pi * jnp.where(q < 1, series",
            "4 * math.pi * jnp.where(q < 1, 1 / 3",
            "tests/operators/test_phantom_protocol.py::test_kspace_is_the_transform_of_sections",
        ),
    ),
    *in_file(
        "operators/phantoms/ellipsoids.py",
        (
            "(jax.random.uniform(signs, (count,)) - 0.3)",
            "(jax.random.uniform(signs, (count,)) - 0.5)",
            _ELLIPSOIDS + "random_ellipses_have_their_distribution",
        ),
    ),
)

MUTANTS = _CT + _PHANTOM_PACKAGE
