"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes.
"""

from operators.checks import check_adjoint, check_gradients
from operators.coils import SENSE, coil_combine, estimate_coil_maps, rss
from operators.filtering import FilteredRadon, SinogramFilter, fbp, filtered_radon
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.geometry import ParallelBeam
from operators.linear_operator import Diagonal, Identity, LinearOperator
from operators.masks import acceleration_of, equispaced_mask, poisson_disc_mask, random_mask
from operators.phantoms import Ellipses, ellipse_kspace, ellipse_sinogram, rasterize, shepp_logan
from operators.radon import Radon
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
    "cg",
    "cg_sense",
    "check_adjoint",
    "check_gradients",
    "coil_combine",
    "ellipse_kspace",
    "ellipse_sinogram",
    "equispaced_mask",
    "estimate_coil_maps",
    "fbp",
    "fft2c",
    "filtered_radon",
    "fourier_resize",
    "ifft2c",
    "operator_norm",
    "poisson_disc_mask",
    "random_mask",
    "rasterize",
    "rss",
    "shepp_logan",
    "total_variation",
]
