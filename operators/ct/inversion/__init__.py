"""Filtered back-projection, and the filters that precondition iterative methods."""

from operators.ct.inversion.analytic import fbp, fdk
from operators.ct.inversion.filtering import FilteredRadon, SinogramFilter, filtered_radon

__all__ = [
    "FilteredRadon",
    "SinogramFilter",
    "fbp",
    "fdk",
    "filtered_radon",
]
