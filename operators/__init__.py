"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes.
"""

from operators.block_diagonal import BlockDiagonal
from operators.checks import check_adjoint, check_gradients
from operators.coil_compression import (
    compress,
    gcc_compression,
    noise_covariance,
    svd_compression,
    whiten,
    whitening_matrix,
)
from operators.coil_simulation import biot_savart_maps, birdcage_maps, loop_field
from operators.coils import SENSE, coil_combine, estimate_coil_maps, rss
from operators.differences import FiniteDifferences
from operators.filtering import FilteredRadon, SinogramFilter, fbp, filtered_radon
from operators.first_order import SolverInfo, admm, fista, pdhg, pogm
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.geometry import ParallelBeam
from operators.joint_estimation import nlinv
from operators.linear_operator import Diagonal, Identity, LinearOperator
from operators.masks import acceleration_of, equispaced_mask, poisson_disc_mask, random_mask
from operators.phantoms import Ellipses, ellipse_kspace, ellipse_sinogram, rasterize, shepp_logan
from operators.proximal import (
    group_soft_threshold,
    project_box,
    project_l2_ball,
    prox_locally_low_rank,
    prox_total_variation,
    singular_value_threshold,
    soft_threshold,
)
from operators.radon import Radon
from operators.reconstruction import (
    cg_sense,
    gridding,
    l1_wavelet,
    locally_low_rank,
    total_generalized_variation,
    total_variation,
)
from operators.sensitivity import espirit_maps, walsh_maps
from operators.solvers import CGInfo, cg, operator_norm
from operators.wavelets import Wavelet, daubechies_filter, prox_wavelet

__all__ = [
    "SENSE",
    "BlockDiagonal",
    "CGInfo",
    "CartesianFourier",
    "Diagonal",
    "Ellipses",
    "FilteredRadon",
    "FiniteDifferences",
    "Identity",
    "LinearOperator",
    "ParallelBeam",
    "Radon",
    "SinogramFilter",
    "SolverInfo",
    "Wavelet",
    "acceleration_of",
    "admm",
    "biot_savart_maps",
    "birdcage_maps",
    "cg",
    "cg_sense",
    "check_adjoint",
    "check_gradients",
    "coil_combine",
    "compress",
    "daubechies_filter",
    "ellipse_kspace",
    "ellipse_sinogram",
    "equispaced_mask",
    "espirit_maps",
    "estimate_coil_maps",
    "fbp",
    "fft2c",
    "filtered_radon",
    "fista",
    "fourier_resize",
    "gcc_compression",
    "gridding",
    "group_soft_threshold",
    "ifft2c",
    "l1_wavelet",
    "locally_low_rank",
    "loop_field",
    "nlinv",
    "noise_covariance",
    "operator_norm",
    "pdhg",
    "pogm",
    "poisson_disc_mask",
    "project_box",
    "project_l2_ball",
    "prox_locally_low_rank",
    "prox_total_variation",
    "prox_wavelet",
    "random_mask",
    "rasterize",
    "rss",
    "shepp_logan",
    "singular_value_threshold",
    "soft_threshold",
    "svd_compression",
    "total_generalized_variation",
    "total_variation",
    "walsh_maps",
    "whiten",
    "whitening_matrix",
]
