"""Rounds without a server, without waiting, or over more clients than the device holds."""

from fedrecon.federated.topologies.asynchronous import (
    AsynchronousInfo,
    AsynchronousState,
    init_asynchronous,
    make_asynchronous_round,
)
from fedrecon.federated.topologies.delays import (
    constant_durations,
    half_normal_durations,
    polynomial_discount,
    threshold_discount,
)
from fedrecon.federated.topologies.gossip import (
    consensus_distance,
    make_gossip_round,
    metropolis_weights,
    mixing_matrix,
    peer_to_peer,
)
from fedrecon.federated.topologies.pulling import PullingState, init_pulling, make_pulling_round, merge_newer
from fedrecon.federated.topologies.ring import make_ring_round
from fedrecon.federated.topologies.streaming import (
    StreamingInfo,
    StreamingRound,
    init_streaming,
    load_from,
)
from fedrecon.federated.topologies.streaming_evaluation import make_streaming_evaluate, streaming_average

__all__ = [
    "AsynchronousInfo",
    "AsynchronousState",
    "PullingState",
    "StreamingInfo",
    "StreamingRound",
    "consensus_distance",
    "constant_durations",
    "half_normal_durations",
    "init_asynchronous",
    "init_pulling",
    "init_streaming",
    "load_from",
    "make_asynchronous_round",
    "make_gossip_round",
    "make_pulling_round",
    "make_ring_round",
    "make_streaming_evaluate",
    "merge_newer",
    "metropolis_weights",
    "mixing_matrix",
    "peer_to_peer",
    "polynomial_discount",
    "streaming_average",
    "threshold_discount",
]
