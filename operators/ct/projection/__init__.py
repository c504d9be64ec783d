"""Projection along rays of any geometry: the Radon transform."""

from operators.ct.projection.radon import Radon, radon_models

__all__ = [
    "Radon",
    "radon_models",
]
