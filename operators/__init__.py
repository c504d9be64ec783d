"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes.
"""

from operators.checks import check_adjoint
from operators.coils import SENSE
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.linear_operator import Diagonal, Identity, LinearOperator

__all__ = [
    "SENSE",
    "CartesianFourier",
    "Diagonal",
    "Identity",
    "LinearOperator",
    "check_adjoint",
    "fft2c",
    "fourier_resize",
    "ifft2c",
]
