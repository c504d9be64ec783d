"""Linear operators of MRI and CT, coils, masks, geometries, solvers, analytic phantoms and operator checks.

Images are (..., ny, nx), Cartesian k-space (..., coils, ny, nx), sinograms (..., views, detectors); angles
are in radians; leading axes are batch axes.
"""

from operators.analytic import fbp, fdk
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
from operators.ct_artefacts import (
    add_rings,
    add_scatter,
    correct_beam_hardening,
    correct_scatter,
    fit_beam_hardening,
    interpolate_trace,
    material_attenuation,
    metal_mask,
    metal_trace,
    polychromatic_integrals,
    remove_rings,
)
from operators.ct_iterative import cgls, os_sart, sirt, view_subsets
from operators.ct_phantoms import (
    Ellipsoids,
    forbild_like_head,
    line_integrals,
    project_phantom,
    random_ellipses,
    rasterize_phantom,
    shepp_logan_3d,
)
from operators.ct_physics import (
    attenuation_to_hu,
    counts_to_integrals,
    flat_field,
    hu_to_attenuation,
    lower_dose,
    simulate_counts,
    statistical_weights,
)
from operators.ct_statistical import mlem, osem, pwls, tv
from operators.density import (
    density_compensation,
    pipe_menon_density,
    radial_density,
    spiral_density,
    voronoi_density,
)
from operators.differences import FiniteDifferences
from operators.filtering import FilteredRadon, SinogramFilter, filtered_radon
from operators.first_order import SolverInfo, admm, fista, pdhg, pogm
from operators.fourier import CartesianFourier, fft2c, fourier_resize, ifft2c
from operators.geometry import ParallelBeam, ParallelBeam3D
from operators.geometry_checks import check_object
from operators.geometry_cone import ConeBeam
from operators.geometry_conversions import as_vectors, from_astra, from_tigre, to_astra, to_tigre
from operators.geometry_fan import FanBeam
from operators.geometry_scanners import from_dicom_ct_pd, from_odl, to_dicom_ct_pd, to_odl
from operators.geometry_vector import VectorGeometry
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
from operators.radon import Radon, radon_models
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
    "ConeBeam",
    "Diagonal",
    "Ellipses",
    "Ellipsoids",
    "FanBeam",
    "FilteredRadon",
    "FiniteDifferences",
    "Identity",
    "LinearOperator",
    "OffResonance",
    "ParallelBeam",
    "ParallelBeam3D",
    "Radon",
    "SPIRiT",
    "SinogramFilter",
    "SolverInfo",
    "ToeplitzGram",
    "VectorGeometry",
    "Wavelet",
    "acceleration_of",
    "add_rings",
    "add_scatter",
    "admm",
    "as_vectors",
    "attenuation_to_hu",
    "backends",
    "biot_savart_maps",
    "birdcage_maps",
    "cartesian_trajectory",
    "cg",
    "cg_sense",
    "cg_spirit",
    "cgls",
    "check_adjoint",
    "check_gradients",
    "check_object",
    "check_trajectory",
    "coil_combine",
    "compress",
    "correct_beam_hardening",
    "correct_scatter",
    "counts_to_integrals",
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
    "fdk",
    "fft2c",
    "field_map_from_echoes",
    "filtered_radon",
    "fista",
    "fit_beam_hardening",
    "flat_field",
    "forbild_like_head",
    "fourier_resize",
    "from_astra",
    "from_dicom_ct_pd",
    "from_odl",
    "from_per_fov",
    "from_per_meter",
    "from_radians",
    "from_tigre",
    "gcc_compression",
    "gradient_delay",
    "gradient_waveform",
    "grappa",
    "gridding",
    "group_soft_threshold",
    "hu_to_attenuation",
    "ifft2c",
    "interpolate_trace",
    "kooshball_trajectory",
    "l1_wavelet",
    "line_integrals",
    "locally_low_rank",
    "loop_field",
    "lower_dose",
    "material_attenuation",
    "metal_mask",
    "metal_trace",
    "mlem",
    "nlinv",
    "noise_covariance",
    "off_resonance_segments",
    "operator_norm",
    "os_sart",
    "osem",
    "pdhg",
    "phyllotaxis_trajectory",
    "pipe_menon_density",
    "pogm",
    "poisson_disc_mask",
    "polychromatic_integrals",
    "project_box",
    "project_l2_ball",
    "project_phantom",
    "propeller_trajectory",
    "prox_locally_low_rank",
    "prox_total_variation",
    "prox_wavelet",
    "pwls",
    "radial_angles",
    "radial_density",
    "radial_trajectory",
    "radon_models",
    "random_ellipses",
    "random_mask",
    "rasterize",
    "rasterize_phantom",
    "remove_rings",
    "rosette_trajectory",
    "rss",
    "shepp_logan",
    "shepp_logan_3d",
    "simulate_counts",
    "singular_value_threshold",
    "sirt",
    "soft_threshold",
    "spiral_density",
    "spiral_trajectory",
    "spirit",
    "spirit_kernel",
    "stack_of_spirals",
    "stack_of_stars",
    "stack_trajectory",
    "statistical_weights",
    "svd_compression",
    "to_astra",
    "to_dicom_ct_pd",
    "to_odl",
    "to_per_fov",
    "to_per_meter",
    "to_radians",
    "to_tigre",
    "total_generalized_variation",
    "total_variation",
    "tv",
    "view_subsets",
    "voronoi_density",
    "walsh_maps",
    "whiten",
    "whitening_matrix",
]
