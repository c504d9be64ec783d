"""Secure sums: a server learns the sum of the clients' numbers and none of the numbers.

Each party is a state machine of bytes, so that a simulation, tests and a federation over a network run the
same code; `simulate_round` runs all of them in one process. Primitives come from the library ``cryptography``
(the extra ``secure``), which is imported when they are first used.
"""

from fedrecon.secure_aggregation.errors import AbortedError, ProtocolError
from fedrecon.secure_aggregation.fixed_point import FixedPoint
from fedrecon.secure_aggregation.graph import choose_degree, least_threshold
from fedrecon.secure_aggregation.lightsecagg import (
    FIELD,
    LightSecAggClient,
    LightSecAggServer,
    LightSecAggSetup,
)
from fedrecon.secure_aggregation.primitives import Identity
from fedrecon.secure_aggregation.secagg import SecAggClient
from fedrecon.secure_aggregation.secagg_server import SecAggServer
from fedrecon.secure_aggregation.setup import SecAggSetup
from fedrecon.secure_aggregation.simulate import STAGES, Outcome, Stage, plain_sum, simulate_round
from fedrecon.secure_aggregation.wire import HEADER

__all__ = [
    "FIELD",
    "HEADER",
    "STAGES",
    "AbortedError",
    "FixedPoint",
    "Identity",
    "LightSecAggClient",
    "LightSecAggServer",
    "LightSecAggSetup",
    "Outcome",
    "ProtocolError",
    "SecAggClient",
    "SecAggServer",
    "SecAggSetup",
    "Stage",
    "choose_degree",
    "least_threshold",
    "plain_sum",
    "simulate_round",
]
