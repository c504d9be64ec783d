"""Named algorithms: short functions that return a `FederatedAlgorithm`."""

from fedrecon.federated.algorithms.afl import afl
from fedrecon.federated.algorithms.ditto import ditto
from fedrecon.federated.algorithms.dp_fedavg import dp_fedavg
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.algorithms.fedbn import fedbn
from fedrecon.federated.algorithms.feddyn import feddyn
from fedrecon.federated.algorithms.fednova import fednova
from fedrecon.federated.algorithms.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from fedrecon.federated.algorithms.fedprox import fedprox
from fedrecon.federated.algorithms.fedrep import fedper, fedrep, leaves_under
from fedrecon.federated.algorithms.local_only import local_only
from fedrecon.federated.algorithms.moon import moon
from fedrecon.federated.algorithms.pfedme import pfedme
from fedrecon.federated.algorithms.qfedavg import qfedavg
from fedrecon.federated.algorithms.scaffold import scaffold

__all__ = [
    "afl",
    "ditto",
    "dp_fedavg",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "feddyn",
    "fednova",
    "fedper",
    "fedprox",
    "fedrep",
    "fedyogi",
    "leaves_under",
    "local_only",
    "moon",
    "pfedme",
    "qfedavg",
    "scaffold",
]
