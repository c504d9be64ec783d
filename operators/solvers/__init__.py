"""Solvers of linear and convex problems, proximal maps and variational reconstruction."""

from operators.solvers.difference_penalties import total_generalized_variation, total_variation
from operators.solvers.first_order import admm, fista, pdhg, pogm
from operators.solvers.linear import (
    CGInfo,
    cg,
    inner_product,
    largest_eigenvalue,
    operator_norm,
    positive,
    vector_norm,
)
from operators.solvers.proximal import (
    group_soft_threshold,
    project_box,
    project_l2_ball,
    prox_locally_low_rank,
    prox_total_variation,
    prox_wavelet,
    singular_value_threshold,
    soft_threshold,
)
from operators.solvers.stopping import Callback, Objective, SolverInfo, Stopping, relative_change
from operators.solvers.variational import (
    cg_sense,
    gridding,
    l1_wavelet,
    locally_low_rank,
)

__all__ = [
    "CGInfo",
    "Callback",
    "Objective",
    "SolverInfo",
    "Stopping",
    "admm",
    "cg",
    "cg_sense",
    "fista",
    "gridding",
    "group_soft_threshold",
    "inner_product",
    "l1_wavelet",
    "largest_eigenvalue",
    "locally_low_rank",
    "operator_norm",
    "pdhg",
    "pogm",
    "positive",
    "project_box",
    "project_l2_ball",
    "prox_locally_low_rank",
    "prox_total_variation",
    "prox_wavelet",
    "relative_change",
    "singular_value_threshold",
    "soft_threshold",
    "total_generalized_variation",
    "total_variation",
    "vector_norm",
]
