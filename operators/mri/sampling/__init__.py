"""Sampling in k-space: masks, trajectories, density compensation and gradient delays."""

from operators.mri.sampling.density import (
    density_compensation,
    pipe_menon_density,
    radial_density,
    spiral_density,
    voronoi_density,
)
from operators.mri.sampling.echo_planar import (
    ReadoutShift,
    echo_planar_focus,
    echo_planar_matrix,
    echo_planar_shift,
    trapezoid_positions,
)
from operators.mri.sampling.gradient_delays import estimate_gradient_delays, gradient_delay
from operators.mri.sampling.masks import (
    acceleration_of,
    center_slice,
    equispaced_fraction_mask,
    equispaced_mask,
    magic_fraction_mask,
    magic_mask,
    poisson_disc_mask,
    random_mask,
)
from operators.mri.sampling.spirals import spiral_trajectory, stack_of_spirals
from operators.mri.sampling.trajectories import (
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

__all__ = [
    "ReadoutShift",
    "acceleration_of",
    "cartesian_trajectory",
    "center_slice",
    "density_compensation",
    "echo_planar_focus",
    "echo_planar_matrix",
    "echo_planar_shift",
    "epi_trajectory",
    "equispaced_fraction_mask",
    "equispaced_mask",
    "estimate_gradient_delays",
    "gradient_delay",
    "kooshball_trajectory",
    "magic_fraction_mask",
    "magic_mask",
    "phyllotaxis_trajectory",
    "pipe_menon_density",
    "poisson_disc_mask",
    "propeller_trajectory",
    "radial_angles",
    "radial_density",
    "radial_trajectory",
    "random_mask",
    "rosette_trajectory",
    "spiral_density",
    "spiral_trajectory",
    "stack_of_spirals",
    "stack_of_stars",
    "stack_trajectory",
    "trapezoid_positions",
    "voronoi_density",
]
