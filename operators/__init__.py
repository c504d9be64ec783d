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
from operators.density import (
    density_compensation,
    pipe_menon_density,
    radial_density,
    spiral_density,
    voronoi_density,
)
from operators.differences import FiniteDifferences
from operators.filtering import FilteredRadon, SinogramFilter, fbp, filtered_radon
from operators.first_order import SolverInfo, admm, fista, pdhg, pogm
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.geometry import ParallelBeam
from operators.gradient_delays import estimate_gradient_delays, gradient_delay
from operators.grappa import grappa
from operators.joint_estimation import nlinv
from operators.linear_operator import Diagonal, Identity, LinearOperator
from operators.masks import acceleration_of, equispaced_mask, poisson_disc_mask, random_mask
from operators.native import backends
from operators.nufft import NUFFT, ToeplitzGram
from operators.off_resonance import OffResonance, field_map_from_echoes, off_resonance_segments
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
from operators.spirals import spiral_trajectory, stack_of_spirals
from operators.spirit import SPIRiT, cg_spirit, spirit, spirit_kernel
from operators.trajectories import (
    cartesian_trajectory,
    epi_trajectory,
    kooshball_trajectory,
    phyllotaxis_trajectory,
    propeller_trajectory,
    radial_angles,
    radial_trajectory,
    rosette_trajectory,
    stack_of_stars,
    stack_trajectory,
)
from operators.trajectory_units import (
    check_trajectory,
    from_per_fov,
    from_per_meter,
    from_radians,
    gradient_waveform,
    to_per_fov,
    to_per_meter,
    to_radians,
)
from operators.wavelets import Wavelet, daubechies_filter, prox_wavelet

__all__ = [
    "NUFFT",
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
    "OffResonance",
    "ParallelBeam",
    "Radon",
    "SPIRiT",
    "SinogramFilter",
    "SolverInfo",
    "ToeplitzGram",
    "Wavelet",
    "acceleration_of",
    "admm",
    "backends",
    "biot_savart_maps",
    "birdcage_maps",
    "cartesian_trajectory",
    "cg",
    "cg_sense",
    "cg_spirit",
    "check_adjoint",
    "check_gradients",
    "check_trajectory",
    "coil_combine",
    "compress",
    "daubechies_filter",
    "density_compensation",
    "ellipse_kspace",
    "ellipse_sinogram",
    "epi_trajectory",
    "equispaced_mask",
    "espirit_maps",
    "estimate_coil_maps",
    "estimate_gradient_delays",
    "fbp",
    "fft2c",
    "field_map_from_echoes",
    "filtered_radon",
    "fista",
    "fourier_resize",
    "from_per_fov",
    "from_per_meter",
    "from_radians",
    "gcc_compression",
    "gradient_delay",
    "gradient_waveform",
    "grappa",
    "gridding",
    "group_soft_threshold",
    "ifft2c",
    "kooshball_trajectory",
    "l1_wavelet",
    "locally_low_rank",
    "loop_field",
    "nlinv",
    "noise_covariance",
    "off_resonance_segments",
    "operator_norm",
    "pdhg",
    "phyllotaxis_trajectory",
    "pipe_menon_density",
    "pogm",
    "poisson_disc_mask",
    "project_box",
    "project_l2_ball",
    "propeller_trajectory",
    "prox_locally_low_rank",
    "prox_total_variation",
    "prox_wavelet",
    "radial_angles",
    "radial_density",
    "radial_trajectory",
    "random_mask",
    "rasterize",
    "rosette_trajectory",
    "rss",
    "shepp_logan",
    "singular_value_threshold",
    "soft_threshold",
    "spiral_density",
    "spiral_trajectory",
    "spirit",
    "spirit_kernel",
    "stack_of_spirals",
    "stack_of_stars",
    "stack_trajectory",
    "svd_compression",
    "to_per_fov",
    "to_per_meter",
    "to_radians",
    "total_generalized_variation",
    "total_variation",
    "voronoi_density",
    "walsh_maps",
    "whiten",
    "whitening_matrix",
]
