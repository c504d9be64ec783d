"""Reducers, which see single updates instead of their sum: robust statistics, and screens."""

from fedrecon.federated.messages import Reduction
from fedrecon.federated.reducers.robust import bulyan, geometric_median, krum, median, trimmed_mean
from fedrecon.federated.reducers.screening import screen

__all__ = ["Reduction", "bulyan", "geometric_median", "krum", "median", "screen", "trimmed_mean"]
