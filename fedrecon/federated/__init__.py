"""The federated engine: algorithms as pure functions on pytrees, whole rounds as one compiled program.

`federated` makes an algorithm of a `Method`, or of several by `combine`; recipes such as `fedavg` and
`scaffold` are short names for it. Robust reducers are in `reducers`, further samplers in `sampling`, the
batches of local steps in `batching`, a simulated clock in `clock`, further methods in `methods`, private
releases in `mechanism`, joining and leaving in `members`, exchanges outside of rounds in `phases`, other
topologies than the star in `topologies`, sums that hide their terms in `secure_sum`, bytes of a round in
`traffic`.
"""

from fedrecon.federated import batching as batching
from fedrecon.federated import clock as clock
from fedrecon.federated import mechanism as mechanism
from fedrecon.federated import members as members
from fedrecon.federated import methods as methods
from fedrecon.federated import parallelism as parallelism
from fedrecon.federated import phases as phases
from fedrecon.federated import reducers as reducers
from fedrecon.federated import sampling as sampling
from fedrecon.federated import secure_sum as secure_sum
from fedrecon.federated import split as split
from fedrecon.federated import topologies as topologies
from fedrecon.federated import traffic as traffic
from fedrecon.federated.algorithm import (
    Batches,
    ClientResult,
    ClientUpdate,
    FederatedAlgorithm,
    History,
    RoundInfo,
    RoundState,
    Work,
)
from fedrecon.federated.channels import chain, clip
from fedrecon.federated.clients import client_mesh, place
from fedrecon.federated.engine import init_state, make_round, run_rounds
from fedrecon.federated.evaluation import (
    average_variables,
    client_variables,
    make_cross_evaluate,
    make_evaluate,
)
from fedrecon.federated.fine_tuning import fine_tune
from fedrecon.federated.local import local_training
from fedrecon.federated.messages import Channel, Context, Exchange, Message, Reducer, Upload
from fedrecon.federated.method import LocalContext, Method, combine
from fedrecon.federated.methods.afl import afl
from fedrecon.federated.methods.ditto import ditto
from fedrecon.federated.methods.dp_fedavg import dp_fedavg, private_gradients
from fedrecon.federated.methods.fedavg import fedavg
from fedrecon.federated.methods.fedbn import fedbn
from fedrecon.federated.methods.feddyn import feddyn
from fedrecon.federated.methods.fednova import fednova
from fedrecon.federated.methods.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from fedrecon.federated.methods.fedprox import fedprox, proximal
from fedrecon.federated.methods.fedrep import fedper, fedrep, leaves_under
from fedrecon.federated.methods.local_only import local_only
from fedrecon.federated.methods.moon import moon
from fedrecon.federated.methods.pfedme import pfedme
from fedrecon.federated.methods.qfedavg import qfedavg
from fedrecon.federated.methods.scaffold import control_variates, scaffold
from fedrecon.federated.parallelism import choose_parallel
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import all_clients, by_examples, equal, uniform_clients
from fedrecon.federated.trees import FROZEN

__all__ = [
    "FROZEN",
    "Batches",
    "Channel",
    "ClientResult",
    "ClientUpdate",
    "Context",
    "Exchange",
    "FederatedAlgorithm",
    "History",
    "LocalContext",
    "Message",
    "Method",
    "Reducer",
    "RoundInfo",
    "RoundState",
    "Upload",
    "Work",
    "afl",
    "all_clients",
    "average_variables",
    "by_examples",
    "chain",
    "choose_parallel",
    "client_mesh",
    "client_variables",
    "clip",
    "combine",
    "control_variates",
    "ditto",
    "dp_fedavg",
    "equal",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "feddyn",
    "federated",
    "fednova",
    "fedper",
    "fedprox",
    "fedrep",
    "fedyogi",
    "fine_tune",
    "init_state",
    "leaves_under",
    "local_only",
    "local_training",
    "make_cross_evaluate",
    "make_evaluate",
    "make_round",
    "moon",
    "pfedme",
    "place",
    "private_gradients",
    "proximal",
    "qfedavg",
    "run_rounds",
    "scaffold",
    "uniform_clients",
]
