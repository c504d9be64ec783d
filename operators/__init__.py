"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes. Examples in docstrings assume ``import jax``, ``import jax.numpy
as jnp``, ``import numpy as np`` and ``import operators``.
"""

from operators import algebra, ct, fourier, kernels, mri, phantoms, solvers
from operators.algebra import (
    BlockDiagonal,
    Diagonal,
    FiniteDifferences,
    Identity,
    LinearOperator,
    Wavelet,
    check_adjoint,
    check_gradients,
    frozen_pytree,
    static,
)
from operators.ct import (
    ConeBeam,
    FanBeam,
    ParallelBeam,
    ParallelBeam3D,
    Radon,
    VectorGeometry,
    fbp,
    fdk,
    from_astra,
    to_astra,
)
from operators.fourier import NUFFT, CartesianFourier, fft2c, ifft2c
from operators.kernels import backends
from operators.mri import (
    SENSE,
    OffResonance,
    density_compensation,
    equispaced_mask,
    espirit_maps,
    poisson_disc_mask,
    radial_trajectory,
    random_mask,
    rss,
)
from operators.phantoms import ellipse_kspace, rasterize, shepp_logan
from operators.solvers import (
    admm,
    cg,
    cg_sense,
    fista,
    l1_wavelet,
    operator_norm,
    pdhg,
    pogm,
    total_variation,
)

__all__ = [
    "NUFFT",
    "SENSE",
    "BlockDiagonal",
    "CartesianFourier",
    "ConeBeam",
    "Diagonal",
    "FanBeam",
    "FiniteDifferences",
    "Identity",
    "LinearOperator",
    "OffResonance",
    "ParallelBeam",
    "ParallelBeam3D",
    "Radon",
    "VectorGeometry",
    "Wavelet",
    "admm",
    "algebra",
    "backends",
    "cg",
    "cg_sense",
    "check_adjoint",
    "check_gradients",
    "ct",
    "density_compensation",
    "ellipse_kspace",
    "equispaced_mask",
    "espirit_maps",
    "fbp",
    "fdk",
    "fft2c",
    "fista",
    "fourier",
    "from_astra",
    "frozen_pytree",
    "ifft2c",
    "kernels",
    "l1_wavelet",
    "mri",
    "operator_norm",
    "pdhg",
    "phantoms",
    "pogm",
    "poisson_disc_mask",
    "radial_trajectory",
    "random_mask",
    "rasterize",
    "rss",
    "shepp_logan",
    "solvers",
    "static",
    "to_astra",
    "total_variation",
]
