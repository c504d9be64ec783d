"""Mutants of operators: algebra, kernels, Fourier transforms, solvers."""

from tests.mutants.mutant import in_file

_T = "tests/operators/"
_ALGEBRA = _T + "test_linear_operator.py::test_algebra_is_that_of_matrices"
_PRINTED = _T + "test_checks.py::test_printed_objects_show_shapes"
_MAPS = _T + "test_coils.py::test_products_with_maps_equal_the_plain_route"
_MASKS = _T + "test_fourier.py::test_every_mask_gives_a_true_operator"
_RESIZE = _T + "test_fourier.py::test_fourier_resize_keeps_band_limited_images"
_NUFFT = _T + "test_nufft.py::test_relative_error_on_full_images"
_NUFFT_GRADIENTS = _T + "test_nufft_transformations.py::test_gradients_are_those_of_the_direct_sum"
_GRIDDING = _T + "test_gridding.py::test_samples_are_gathered_and_spread_as_sums_over_cells"
_LANES = _T + "test_lanes.py::test_lanes_do_not_depend_on_the_size_of_registers"
_NATIVE = _T + "test_native_libraries.py::"
_TABLE = _T + "test_kernel_table.py::"
_GRIDS = _TABLE + "test_grids_are_found_without_trying_many"
_FITTED = _TABLE + "test_the_table_holds_what_the_fit_gives"
_SPECTRUM = _TABLE + "test_the_spectrum_is_made_when_it_is_asked_for"
_TOEPLITZ = _T + "test_nufft.py::test_toeplitz_of_weights_is_the_weighted_gram"
_WAVELETS = _T + "test_wavelets.py::test_volumes_are_transformed_along_every_axis"
_CONVOLUTION = "tests/models/test_convolution.py::test_primitives_equal_plain_jax_in_single"

_ALGEBRA_PACKAGE = (
    *in_file(
        "operators/algebra/arguments.py",
        (
            "kwargs[name] = kwargs.pop(earlier)",
            "kwargs.pop(earlier)",
            _T + "test_arguments.py::test_earlier_keywords_are_handed_on",
        ),
        (
            "if name in kwargs:",
            "if earlier in args:",
            _T + "test_arguments.py::test_renamed_keeps_the_signature_and_refuses_both_names",
        ),
    ),
    *in_file(
        "operators/algebra/pytree.py",
        ("vars(node).get(f.name)", "getattr(node, f.name, None)", _PRINTED),
        ("if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):", "if False:", _PRINTED),
    ),
    *in_file(
        "operators/algebra/linear_operator.py",
        (
            "if jax.tree_util.all_leaves([A]):",
            "if False:",
            _T + "test_checks.py::test_a_class_without_the_decorator_is_told_of_it",
        ),
        (
            "y if is_complex(dtype) else y.real",
            "y",
            _T + "test_linear_operator.py::test_real_images_of_complex_operators",
        ),
        ("_project(self.scalar.conj() * y", "_project(self.scalar * y", _ALGEBRA),
        (
            "squared(self.scalar) * self",
            "self.scalar**2 * self",
            _T + "test_linear_operator.py::test_compositions_are_true_operators",
        ),
        (
            "self._adjoint(y if weights is None else weights * y)",
            "self._adjoint(y)",
            _T + "test_linear_operator.py::test_compositions_are_true_operators",
        ),
        ("Sum(self, -other)", "Sum(self, other)", _ALGEBRA),
        ("jnp.sum(maps.conj() * products, axis=-1", "jnp.sum(maps * products, axis=-1", _MAPS),
    ),
    *in_file(
        "operators/algebra/diagonal.py",
        (
            "self.weights.conj() * y",
            "self.weights * y",
            _T + "test_linear_operator.py::test_identity_and_diagonal",
        ),
    ),
    *in_file(
        "operators/algebra/differences.py",
        (
            "inner = _between(y, axis, 0, y.shape[axis] - 1)",
            "inner = _between(y, axis, 1, y.shape[axis])",
            _T + "test_proximal.py::test_finite_differences",
        ),
    ),
    *in_file(
        "operators/algebra/wavelets.py",
        (
            "band[..., reach - j : reach - j + half]",
            "band[..., j : j + half]",
            _T + "test_wavelets.py::test_the_adjoint_is_the_inverse",
        ),
        ("low[::-1] * (-1.0) ** np.arange", "low * (-1.0) ** np.arange", _WAVELETS),
        (
            "slice(0, n) for n in self._corners()[-1])",
            "slice(0, n) for n in self._corners()[-2])",
            _T + "test_wavelets.py::test_details_are_all_but_the_last_corner",
        ),
    ),
    *in_file(
        "operators/algebra/checks.py",
        (
            "primals, i, gradient[i].conj(), probe",
            "primals, i, gradient[i], probe",
            _T + "test_checks.py::test_checks_return_small_errors",
        ),
        (
            "left, right = _dot(ax, y), _dot(x, _apply(A.H, y))",
            "left, right = _dot(ax, y), _dot(ax, y)",
            _T + "test_checks.py::test_check_adjoint_catches",
        ),
    ),
    *in_file(
        "operators/algebra/block_diagonal.py",
        (
            "per_block = weights.ndim == len(self.out_shape) and weights.shape[0] > 1",
            "per_block = weights.shape[0] > 1",
            _T + "test_block_diagonal.py::test_weights_broadcast_from_the_right",
        ),
    ),
)

_KERNELS_PACKAGE = (
    *in_file(
        "operators/kernels/convolution.py",
        ("jnp.flip(kernel, (0, 1)).swapaxes", "jnp.flip(kernel, 0).swapaxes", _CONVOLUTION),
        ("[(lo, k - 1 - high) for k", "[(lo, k - high) for k", _CONVOLUTION),
    ),
    *in_file(
        "operators/kernels/batched.py",
        (
            "images = jnp.moveaxis(moved[1], 0, 1)",
            "images = moved[1].swapaxes(0, 2).swapaxes(0, 1)",
            "tests/models/test_convolution.py::test_mapped_primitives_equal_a_loop",
        ),
        (
            "else jnp.sum(array, axis=0, keepdims=True)",
            "else array[:1]",
            _T + "test_shared_operands.py::test_the_gradient_in_a_shared_array_is_the_sum_of_adjoints",
        ),
    ),
    *in_file(
        "operators/kernels/native/__init__.py",
        (
            "np.exp(-1j * np.pi * (np.arange(n) - n // 2) / h)",
            "np.exp(1j * np.pi * np.arange(n) / h)",
            _TOEPLITZ,
        ),
        ("np.full(n, n**-0.5)", "np.full(n, 1 / n)", _MASKS),
        (
            "    if path.exists():",
            "    if True:",
            _NATIVE + "test_backends_compile_nothing_and_say_what_there_is",
        ),
        (
            '{f"{name} {precision}": _state(name, precision)',
            '{f"{name} {precision}": load(name, precision)',
            _NATIVE + "test_backends_compile_nothing_and_say_what_there_is",
        ),
    ),
    *in_file(
        "operators/kernels/native/footprints.h",
        ("if (wraps && ++y == rows) at -= plane;", "if (wraps && ++y == rows) at -= row;", _GRIDDING),
        ("if (wraps && ++z == planes)", "if (wraps && z++ == planes)", _GRIDDING),
        ("if (g.ndim == 3) along(g, at.u[0], z);", "if (g.ndim == 3) along(g, at.u[1], z);", _GRIDDING),
        ("registers = (2 * W + lanes - 1) / lanes;", "registers = (2 * W) / lanes;", _GRIDDING),
        ("total[r] += sum[r] * weight", "total[r] += sum[r]", _GRIDDING),
        ("total + plane * taps.z[i][point] : plane", "total + plane : plane", _GRIDDING),
        ("line[k] += part * taps.x[k][point]", "line[k] = part * taps.x[k][point]", _GRIDDING),
        (
            "read(cells + lanes * r) + part[r] * taps.y[j][point]",
            "part[r] * taps.y[j][point]",
            _GRIDDING,
        ),
    ),
    *in_file(
        "operators/kernels/native/gridding.h",
        ("layer_start[(b + thick - 1) / thick]", "layer_start[b / thick]", _GRIDDING),
        ("height = (reach + thick - 1) / thick * thick;", "height = thick;", _GRIDDING),
    ),
    *in_file(
        "operators/kernels/native/lanes.h",
        ("in_turn<T, 4, 0>(of[0], of[2])", "in_turn<T, 4, 0>(of[0], of[1])", _GRIDDING),
        ("2 * second + l % 4 / 2", "2 * second + l % 4 % 2", _LANES),
    ),
    *in_file(
        "operators/fourier/nufft_kernel.py",
        (
            "(2 ** (ndim + 1) - 2) / ndim * _fft_cost(half)",
            "2**ndim * _fft_cost(half)",
            _T + "test_nufft.py::test_toeplitz_grams_are_taken_where_they_were_measured_to_be_faster",
        ),
        (
            "factor = 0.4 if ndim == 3 else 0.9",
            "factor = 0.9",
            _T + "test_nufft.py::test_toeplitz_grams_are_taken_where_they_were_measured_to_be_faster",
        ),
    ),
    *in_file(
        "operators/kernels/native/build.py",
        (
            '        "footprints.h",',
            "",
            _NATIVE + "test_a_library_is_made_anew_when_any_of_its_sources_changes",
        ),
        (
            'print(f"fedrecon: {what}", file=sys.stderr, flush=True)',
            "pass",
            _NATIVE + "test_building_ahead_says_once_what_is_compiled_and_ends_badly_where_it_fails",
        ),
    ),
)

_FOURIER_PACKAGE = (
    *in_file(
        "operators/fourier/centered_fft.py",
        (
            "shifted = jnp.fft.ifftshift(image, (-2, -1))",
            "shifted = jnp.fft.fftshift(image, (-2, -1))",
            _T + "test_fourier.py::test_fft2c_is_the_centered_orthonormal_dft",
        ),
        (
            "scale = math.sqrt(math.prod(shifted",
            "scale = 1 / math.sqrt(math.prod(shifted",
            _T + "test_fourier.py::test_fft2c_is_the_centered_orthonormal_dft",
        ),
    ),
    *in_file(
        "operators/fourier/cartesian.py",
        ("max(old // 2 - new // 2, 0)", "max((old - new) // 2, 0)", _RESIZE),
        ("math.sqrt(math.prod(shape) / math", "(math.prod(shape) / math", _RESIZE),
        ("self.mask**2", "self.mask", _MASKS),
        (
            "spectrum = jnp.fft.ifftshift(spectrum, axes)",
            "spectrum = jnp.fft.fftshift(spectrum, axes)",
            _MASKS,
        ),
    ),
    *in_file(
        "operators/fourier/cartesian_primitive.py",
        ("maps = (maps.conj() if conjugate else maps)[:, None]", "maps = maps[:, None]", _MAPS),
        (
            "product = jnp.sum((values * spectra).real",
            "product = jnp.sum((values.conj() * spectra).real",
            _T + "test_fourier.py::test_gradients_in_the_mask_are_those_of_the_product",
        ),
    ),
    *in_file(
        "operators/fourier/nufft.py",
        (
            "self._adjoint_maps(y if weights is None else weights * y, maps)",
            "self._adjoint_maps(y, maps)",
            _TOEPLITZ,
        ),
        (
            "self.trajectory.dtype) if weights is None else jnp.asarray(weights)",
            "self.trajectory.dtype)",
            _TOEPLITZ,
        ),
        ("/ math.prod(shape))", "/ math.sqrt(math.prod(shape)))", _TOEPLITZ),
        ("conjugate=maps is not None", "conjugate=False", _MAPS),
        ("with jax.ensure_compile_time_eval():", "if True:", _SPECTRUM),
        ("if isinstance(trajectory, jax.core.Tracer):", "if embed:", _SPECTRUM),
    ),
    *in_file(
        "operators/fourier/nufft_jax.py",
        ("jnp.floor(fraction - kernel.width / 2) + 1", "jnp.floor(fraction - kernel.width / 2)", _NUFFT),
        ("* math.prod(grid.shape[-ndim:])", "* grid.shape[-1]", _NUFFT),
    ),
    *in_file(
        "operators/fourier/nufft_kernel.py",
        ("(np.arange(pixels) - pixels // 2) / cells", "(np.arange(pixels) - pixels / 2) / cells", _NUFFT),
        (
            "yield (about > 1.2 * eps, ",
            "yield (about > 0, ",
            _TABLE + "test_grids_are_found_without_trying_many",
        ),
        (
            "        start += size",
            "        start += width",
            _TABLE + "test_the_table_holds_what_the_fit_gives",
        ),
    ),
    *in_file(
        "operators/fourier/nufft_primitive.py",
        ('factor = params["sign"] * 2j', "factor = 2j", _NUFFT_GRADIENTS),
        ("np.arange(n) - n // 2 for n in shape", "np.arange(n) for n in shape", _NUFFT_GRADIENTS),
        ("linear = d_maps[0].conj() if", "linear = d_maps[0] if", _NUFFT_GRADIENTS),
    ),
    *in_file(
        "operators/fourier/toeplitz.py",
        ("* modulation.conj(), None", "* modulation, None", _NUFFT),
        ("cotangent.conj(), *maps), params).conj()", "cotangent, *maps), params)", _NUFFT_GRADIENTS),
    ),
    *in_file(
        "operators/fourier/units.py",
        (
            "lambda shape: shape / fov",
            "lambda shape: fov / shape",
            _T + "test_trajectory_units.py::test_every_unit_is_the_same_plane_wave",
        ),
        (
            "(size * time * positive_number(gamma",
            "(time * positive_number(gamma",
            _T + "test_trajectory_units.py::test_gradient_of_a_constant_readout",
        ),
    ),
)

MUTANTS = _ALGEBRA_PACKAGE + _KERNELS_PACKAGE + _FOURIER_PACKAGE
