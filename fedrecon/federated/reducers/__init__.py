"""Reducers, which see single updates instead of their sum: robust statistics, bounds, and screens."""

from fedrecon.federated.messages import Reduction
from fedrecon.federated.reducers.bounding import (
    bucketing,
    centered_clipping,
    client_numbers,
    fltrust,
    norm_bound,
)
from fedrecon.federated.reducers.riders import ACTIONS, SIGNS, watch_riders
from fedrecon.federated.reducers.robust import (
    bulyan,
    geometric_median,
    krum,
    median,
    trimmed_mean,
    unweighted,
)
from fedrecon.federated.reducers.screening import screen, total

__all__ = [
    "ACTIONS",
    "SIGNS",
    "Reduction",
    "bucketing",
    "bulyan",
    "centered_clipping",
    "client_numbers",
    "fltrust",
    "geometric_median",
    "krum",
    "median",
    "norm_bound",
    "screen",
    "total",
    "trimmed_mean",
    "unweighted",
    "watch_riders",
]
