"""Mutants of the solvers."""

from tests.mutants.mutant import in_file

_T = "tests/operators/"
_CG = _T + "test_solvers.py::test_cg_solves_the_regularized_system"
_CG_INFO = _T + "test_solvers.py::test_cg_stops_at_the_bound_and_at_zero"
_LASSO = _T + "test_first_order.py::test_lasso_is_solved"
_PROX = _T + "test_proximal.py::test_prox_agrees_with_numerical_minimization"
_TV = _T + "test_total_variation.py::test_total_variation_denoises_as_chambolle"

MUTANTS = (
    *in_file(
        "operators/solvers/linear.py",
        (
            "residual = jnp.sqrt(jax.lax.stop_gradient(power) / jnp.where(scale > 0, scale, 1))",
            "residual = jax.lax.stop_gradient(power) / jnp.where(scale > 0, scale, 1)",
            _CG_INFO,
        ),
        ("goal = tolerance**2 * _dot(rhs, rhs)", "goal = tolerance * _dot(rhs, rhs)", _CG_INFO),
        ("_split(gram(v) + jnp.asarray(regularization", "_split(gram(v) - jnp.asarray(regularization", _CG),
        (
            "(power > goal) & (iteration < iterations)",
            "(power > goal) & (iteration <= iterations)",
            _CG_INFO,
        ),
        (
            "jnp.sqrt(largest_eigenvalue(A.gram, x, key, iterations))",
            "largest_eigenvalue(A.gram, x, key, iterations)",
            _T + "test_solvers.py::test_operator_norm",
        ),
    ),
    *in_file(
        "operators/solvers/first_order.py",
        (
            "        momentum = (theta - 1) / theta_new",
            "        momentum = theta / theta_new",
            _T + "test_first_order.py::test_steps_are_those_of_the_papers",
        ),
        (
            "iteration == iterations - 1, 8, 4)",
            "iteration == iterations, 8, 4)",
            _T + "test_first_order.py::test_steps_are_those_of_the_papers",
        ),
        ("dual = dual + image - new", "dual = dual - image + new", _LASSO),
        (
            "jax.random.fold_in(key, iteration))",
            "key)",
            _T + "test_first_order.py::test_random_proximal_maps_get_one_key_per_iteration",
        ),
    ),
    *in_file(
        "operators/solvers/proximal.py",
        (
            "1 - threshold / positive(length), 0)",
            "1 - threshold, 0)",
            _T + "test_proximal.py::test_soft_threshold_closed_form",
        ),
        (
            "lambda p, step: project_l2_ball(p, threshold,",
            "lambda p, step: project_l2_ball(p, step * threshold,",
            _PROX,
        ),
        (
            "jnp.maximum(s - threshold[..., None], 0)[..., None, :]",
            "(s - threshold[..., None])[..., None, :]",
            _T + "test_proximal.py::test_singular_values_are_shrunk",
        ),
        ("return v - D.H(dual)", "return v + D.H(dual)", _PROX),
        (
            "offset * (radius / positive(length))",
            "offset * radius",
            _T + "test_proximal.py::test_projections",
        ),
        (
            "block_shape), shift, (-2, -1))",
            "block_shape), -shift, (-2, -1))",
            _T + "test_proximal.py::test_blocks_tile_the_image",
        ),
    ),
    *in_file(
        "operators/solvers/scaling.py",
        ("unit / norm**2 * x", "unit / norm * x", _TV),
    ),
    *in_file(
        "operators/solvers/difference_penalties.py",
        (
            "primal = jnp.clip(0.01 / positive(jnp.asarray(bound)), 1, 16)",
            "primal = 1.0",
            _T + "test_total_variation.py::test_a_small_weight_converges_soon",
        ),
        ("group_soft_threshold(v[1], step * 8**0.5 * bound", "group_soft_threshold(v[1], step * bound", _TV),
    ),
    *in_file(
        "operators/solvers/variational.py",
        (
            "return A.H(density.astype(y.real.dtype) * y)",
            "return A.H(y)",
            _T + "test_reconstruction.py::test_gridding_with_the_right_density_inverts",
        ),
        (
            "return (new_mean, new, ahead, theta_new), relative_change(new_mean, mean)",
            "return (new_mean, new, ahead, theta_new), relative_change(new, x)",
            _T + "test_reconstruction.py::test_a_tolerance_ends_a_run_whose_scatter_never_ends",
        ),
        (
            "share = (_MEAN_POWER / (index + _MEAN_POWER)).astype(theta.dtype)",
            "share = (_MEAN_POWER / (0 * index + _MEAN_POWER)).astype(theta.dtype)",
            _T + "test_reconstruction.py::test_a_tolerance_ends_a_run_whose_scatter_never_ends",
        ),
    ),
    *in_file(
        "operators/solvers/stopping.py",
        (
            "converged = zero > 0 if self.tolerance is None else change <= self.tolerance",
            "converged = count < self.iterations",
            _T + "test_reconstruction.py::test_a_tolerance_ends_a_run_whose_scatter_never_ends "
            "tests/experiments/test_classical.py::test_iterative_methods_say_how_they_ended",
        ),
    ),
)
