"""The federated engine: algorithms as pure functions on pytrees, whole rounds as one compiled program."""

from fedrecon.federated.algorithm import (
    Batches,
    Channel,
    ClientResult,
    ClientUpdate,
    Context,
    Exchange,
    FederatedAlgorithm,
    RoundInfo,
    RoundState,
    Upload,
    no_exchange,
)
from fedrecon.federated.algorithms import dp_fedavg, fedavg, fedbn, local_only
from fedrecon.federated.batching import poisson_steps, shuffled_epochs, shuffled_steps
from fedrecon.federated.channels import chain, clip
from fedrecon.federated.clients import PlacedData, client_mesh, place
from fedrecon.federated.dp_sgd import dp_sgd
from fedrecon.federated.engine import init_state, make_round, run_rounds
from fedrecon.federated.evaluation import (
    average_variables,
    client_variables,
    make_cross_evaluate,
    make_evaluate,
)
from fedrecon.federated.local import local_sgd
from fedrecon.federated.sampling import all_clients, by_examples, equal, uniform_clients

__all__ = [
    "Batches",
    "Channel",
    "ClientResult",
    "ClientUpdate",
    "Context",
    "Exchange",
    "FederatedAlgorithm",
    "PlacedData",
    "RoundInfo",
    "RoundState",
    "Upload",
    "all_clients",
    "average_variables",
    "by_examples",
    "chain",
    "client_mesh",
    "client_variables",
    "clip",
    "dp_fedavg",
    "dp_sgd",
    "equal",
    "fedavg",
    "fedbn",
    "init_state",
    "local_only",
    "local_sgd",
    "make_cross_evaluate",
    "make_evaluate",
    "make_round",
    "no_exchange",
    "place",
    "poisson_steps",
    "run_rounds",
    "shuffled_epochs",
    "shuffled_steps",
    "uniform_clients",
]
