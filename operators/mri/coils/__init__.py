"""Receive coils: the SENSE operator, sensitivities, compression and simulation."""

from operators.mri.coils.compression import (
    compress,
    gcc_compression,
    noise_covariance,
    svd_compression,
    whiten,
    whitening_matrix,
)
from operators.mri.coils.sense import SENSE, coil_combine, rss
from operators.mri.coils.sensitivity import espirit_maps, espirit_support, estimate_coil_maps, walsh_maps
from operators.mri.coils.simulation import biot_savart_maps, birdcage_maps, loop_field

__all__ = [
    "SENSE",
    "biot_savart_maps",
    "birdcage_maps",
    "coil_combine",
    "compress",
    "espirit_maps",
    "espirit_support",
    "estimate_coil_maps",
    "gcc_compression",
    "loop_field",
    "noise_covariance",
    "rss",
    "svd_compression",
    "walsh_maps",
    "whiten",
    "whitening_matrix",
]
