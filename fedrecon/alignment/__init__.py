"""What makes images and representations of different sites alike: pure functions of arrays.

Frequency space: amplitudes of images are swapped, mixed and averaged, phases stay. Contrast: InfoNCE with
several positives, banks of representations with tags, momentum encoders.
"""

from fedrecon.alignment.contrast import Bank, empty_bank, info_nce, momentum, pushed
from fedrecon.alignment.frequency import amplitude, frequency_window, shared_amplitudes, with_amplitude

__all__ = [
    "Bank",
    "amplitude",
    "empty_bank",
    "frequency_window",
    "info_nce",
    "momentum",
    "pushed",
    "shared_amplitudes",
    "with_amplitude",
]
