"""Named algorithms: short functions that return a `FederatedAlgorithm`."""

from fedrecon.federated.algorithms.dp_fedavg import dp_fedavg
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.algorithms.fedbn import fedbn
from fedrecon.federated.algorithms.local_only import local_only

__all__ = ["dp_fedavg", "fedavg", "fedbn", "local_only"]
