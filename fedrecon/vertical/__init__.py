"""Institutions that know different things of the same patients.

`Party` finds the patients that two of them share; `split_gradient` trains one network that is divided between
them, and `calibrated` protects what passes the cut. The primitives of `Party` come from the library
``cryptography`` (the extra ``secure``), which is imported when they are first used.
"""

from fedrecon.vertical.cut_privacy import calibrated, fixed_mechanism, guest_epsilon, host_epsilon
from fedrecon.vertical.private_set_intersection import (
    SESSION,
    Common,
    Party,
    intersect,
    new_session,
)
from fedrecon.vertical.split_network import (
    Guest,
    Host,
    HostStep,
    Protection,
    SplitBatch,
    SplitNetwork,
    SplitParams,
    activations,
    guest_gradient,
    host_step,
    init,
    split_gradient,
    undivided_loss,
)

__all__ = [
    "SESSION",
    "Common",
    "Guest",
    "Host",
    "HostStep",
    "Party",
    "Protection",
    "SplitBatch",
    "SplitNetwork",
    "SplitParams",
    "activations",
    "calibrated",
    "fixed_mechanism",
    "guest_epsilon",
    "guest_gradient",
    "host_epsilon",
    "host_step",
    "init",
    "intersect",
    "new_session",
    "split_gradient",
    "undivided_loss",
]
