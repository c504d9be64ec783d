"""Fourier operators of images: Cartesian and non-uniform sampling, units of trajectories."""

from operators.fourier.bessel import jinc
from operators.fourier.cartesian import CartesianFourier, centered_resize, fft2c, fourier_resize, ifft2c
from operators.fourier.nufft import NUFFT, ToeplitzGram
from operators.fourier.nufft_kernel import smooth_size
from operators.fourier.units import (
    PROTON_GAMMA,
    check_trajectory,
    from_per_fov,
    from_per_meter,
    from_radians,
    gradient_waveform,
    to_per_fov,
    to_per_meter,
    to_radians,
)

__all__ = [
    "NUFFT",
    "PROTON_GAMMA",
    "CartesianFourier",
    "ToeplitzGram",
    "centered_resize",
    "check_trajectory",
    "fft2c",
    "fourier_resize",
    "from_per_fov",
    "from_per_meter",
    "from_radians",
    "gradient_waveform",
    "ifft2c",
    "jinc",
    "smooth_size",
    "to_per_fov",
    "to_per_meter",
    "to_radians",
]
