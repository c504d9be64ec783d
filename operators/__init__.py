"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes.
"""

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
from operators.filtering import FilteredRadon, SinogramFilter, fbp, filtered_radon
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.geometry import ParallelBeam
from operators.linear_operator import Diagonal, Identity, LinearOperator
from operators.masks import acceleration_of, equispaced_mask, poisson_disc_mask, random_mask
from operators.phantoms import Ellipses, ellipse_kspace, ellipse_sinogram, rasterize, shepp_logan
from operators.radon import Radon
from operators.sensitivity import espirit_maps, walsh_maps
from operators.solvers import CGInfo, cg, cg_sense, operator_norm, total_variation

__all__ = [
    "SENSE",
    "CGInfo",
    "CartesianFourier",
    "Diagonal",
    "Ellipses",
    "FilteredRadon",
    "Identity",
    "LinearOperator",
    "ParallelBeam",
    "Radon",
    "SinogramFilter",
    "acceleration_of",
    "biot_savart_maps",
    "birdcage_maps",
    "cg",
    "cg_sense",
    "check_adjoint",
    "check_gradients",
    "coil_combine",
    "compress",
    "ellipse_kspace",
    "ellipse_sinogram",
    "equispaced_mask",
    "espirit_maps",
    "estimate_coil_maps",
    "fbp",
    "fft2c",
    "filtered_radon",
    "fourier_resize",
    "gcc_compression",
    "ifft2c",
    "loop_field",
    "noise_covariance",
    "operator_norm",
    "poisson_disc_mask",
    "random_mask",
    "rasterize",
    "rss",
    "shepp_logan",
    "svd_compression",
    "total_variation",
    "walsh_maps",
    "whiten",
    "whitening_matrix",
]
