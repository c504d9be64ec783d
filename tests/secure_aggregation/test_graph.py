"""SecAgg+: who are neighbors, how many are enough, and sums where all have enough left."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedrecon import ArgumentError
from fedrecon.secure_aggregation import (
    HEADER,
    AbortedError,
    ProtocolError,
    SecAggSetup,
    choose_degree,
    simulate_round,
    wire,
)
from fedrecon.secure_aggregation.graph import neighborhoods, shuffled
from fedrecon.secure_aggregation.primitives import Context, job_bytes
from fedrecon.secure_aggregation.wire import SERVER, Kind
from tests.secure_aggregation.rounds import Round, changed, drawn_words, seeded, summed

CONTEXT = Context(job_bytes("job"), 7)
WORDS = drawn_words(12, 6)


def values(clients, seed=0):
    random = seeded(seed)
    return {i: random(32) for i in clients}


@pytest.mark.parametrize(("clients", "degree"), [(9, 4), (10, 4), (10, 3), (10, 9), (5, 8), (2, 4)])
def test_neighborhoods_are_regular_and_mutual(clients, degree):
    members = range(3, 3 + clients)
    graph = neighborhoods(CONTEXT, values(members), degree)
    assert graph.keys() == set(members)
    for i, near in graph.items():
        assert len(near) == min(degree, clients - 1) == len(set(near)) and i not in near
        assert list(near) == sorted(near) and all(i in graph[j] for j in near)


def test_fewer_than_k_clients_that_leave_do_not_part_the_others():
    graph = neighborhoods(CONTEXT, values(range(9)), 4)
    for gone in itertools.combinations(range(9), 3):
        left = set(range(9)) - set(gone)
        reached = {min(left)}
        while more := {j for i in reached for j in graph[i]} & left - reached:
            reached |= more
        assert reached == left
    with pytest.raises(ArgumentError, match="neighbors"):
        neighborhoods(CONTEXT, values(range(9)), 3)


def test_every_revealed_value_and_the_round_decide_the_graph():
    base = values(range(12))
    graphs = [neighborhoods(CONTEXT, base, 4), neighborhoods(Context(job_bytes("job"), 8), base, 4)]
    graphs += [neighborhoods(CONTEXT, base | {i: changed(base[i], 31)}, 4) for i in base]
    assert all(one != other for one, other in itertools.combinations(graphs, 2))
    assert neighborhoods(CONTEXT, dict(base), 4) == graphs[0]


def test_all_orders_are_equally_likely():
    counts = {}
    for i in range(2400):
        order = tuple(shuffled([0, 1, 2, 3], i.to_bytes(32, "little")))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropped"),
    [(40, 0.2, 0.1), (100, 0.2, 0.05), (100, 0.3, 0.3), (1000, 0.2, 0.1)],
)
def test_the_fewest_neighbors_are_chosen(clients, corrupt, dropped):
    degree, threshold = choose_degree(clients, corrupt, dropped)
    bad, gone = int(round(corrupt * clients, 9)), int(round(dropped * clients, 9))

    def holds(k, t):
        insecure = clients * stats.hypergeom.sf(t - 1, clients - 1, bad, k)
        unreliable = clients * stats.hypergeom.cdf(t - 1, clients - 1, clients - gone, k)
        parts = (
            clients**2
            / 2
            * math.exp(
                math.lgamma(bad + gone + 1)
                - math.lgamma(max(bad + gone - k, 0) + 1)
                + math.lgamma(clients - k + 1)
                - math.lgamma(clients + 1)
            )
            * (bad + gone >= k)
        )
        return t > k / 2 and insecure <= 2**-40 and unreliable <= 2**-30 and parts <= 2**-40

    assert degree % 2 == 0 and holds(degree, threshold)
    # A lower threshold is not secure, and fewer neighbors are not enough with any.
    assert not holds(degree, threshold - 1)
    assert not any(holds(k, t) for k in range(2, degree, 2) for t in range(1, k + 1))


def test_small_cohorts_are_referred_to_full_secagg():
    for clients in (2, 3, 5):
        with pytest.raises(ArgumentError, match=r"clients: expected enough .* use full SecAgg"):
            choose_degree(clients, 0.2, 0.1)
    with pytest.raises(ArgumentError, match="threshold of 3"):
        choose_degree(100, 0.2, 0.1, 3)
    with pytest.raises(ArgumentError, match="corrupt"):
        choose_degree(100, 1.0, 0.1)
    degree, threshold = choose_degree(100, 0.1, 0.1, malicious=True)
    assert 3 * threshold > 2 * (degree + 1)


def test_with_all_neighbors_it_is_secagg():
    drop = {"keys": [1], "masked": [4], "unmask": [0]}
    sums = [
        simulate_round(SecAggSetup("job", 7, 7, 4, 6, neighbors), WORDS.__getitem__, drop, seeded(0))
        for neighbors in (None, 6)
    ]
    np.testing.assert_array_equal(sums[0].total, sums[1].total)
    assert sums[0].bytes_up == sums[1].bytes_up and sums[0].included == sums[1].included == (0, 2, 3, 5, 6)


@pytest.mark.parametrize("malicious", [False, True])
def test_sums_are_exact_where_all_have_enough_neighbors_left(malicious):
    """Against the graph that the clients drew, for pairs of clients that drop out at one stage."""
    setup = SecAggSetup("job", 7, 7, 4, 6, 4, malicious)
    graph = Round(setup, WORDS).until("shares").server._graph
    aborted = []
    for stage, gone in itertools.product(("shares", "masked", "unmask"), [(0, j) for j in range(1, 7)]):
        outcome = simulate_round(setup, WORDS.__getitem__, {stage: gone}, seeded(0))
        left = set(range(7)) - set(gone)
        owners = left if stage == "shares" else set(range(7))
        aborted.append(any(len(left & {i, *graph[i]}) < 4 for i in owners))
        assert outcome.aborted == aborted[-1], (stage, gone)
        if not outcome.aborted:
            np.testing.assert_array_equal(
                outcome.total, summed(WORDS, range(7) if stage == "unmask" else left)
            )
    assert any(aborted)


def test_clients_talk_to_their_neighbors_alone():
    setup = SecAggSetup("job", 7, 12, 3, 6, 4)
    round_ = Round(setup, WORDS).until("unmask").step()
    for i in range(12):
        near = round_.server._graph[i]
        assert len(round_.sent["shares"][i]) == HEADER + 4 * (118 + 2 * 1088 + 48)
        assert set(round_.clients[i]._publics) == set(near) and len(near) == 4
        assert len(round_.sent["unmask"][i]) == HEADER + 5 * 37


def replaced(message, start, size, by):
    data = bytearray(message)
    data[start : start + size] = by
    return bytes(data)


def test_the_server_cannot_choose_the_graph():
    setup = SecAggSetup("job", 7, 8, 3, 6, 4)
    # Other commitments than the client's own.
    round_ = Round(setup, WORDS).until("graph")
    with pytest.raises(ProtocolError, match="commitments: expected that of client 0 unaltered"):
        round_.clients[0].answer(changed(round_.messages[0], HEADER + 4))
    # A value that is not what was committed to.
    for client in (0, 3):
        round_ = Round(setup, WORDS).until("shares")
        with pytest.raises(ProtocolError, match="revealed values: expected that"):
            round_.clients[0].answer(changed(round_.messages[0], HEADER + 4 + 36 * client + 4))
    # Keys of others than the neighbors, or without its own value.
    round_ = Round(setup, WORDS).until("shares")
    other = next(i for i in range(1, 8) if round_.server._graph[i] != round_.server._graph[0])
    with pytest.raises(ProtocolError, match="keys: expected those of the neighbors"):
        round_.clients[0].answer(round_.messages[other])
    round_ = Round(setup, WORDS).until("shares")
    body = round_.messages[0][HEADER:]
    fewer = (7).to_bytes(4, "little") + body[4 + 36 :]
    with pytest.raises(ProtocolError, match="revealed values: expected that of client 0, found none"):
        round_.clients[0].answer(wire.pack(setup.context, Kind.ROSTER, SERVER, fewer))


def test_a_server_that_may_lie_cannot_leave_out_values():
    setup = SecAggSetup("job", 7, 8, 4, 6, 4, malicious=True)
    with pytest.raises(AbortedError, match="stage graph: expected values of all 8 clients"):
        Round(setup, WORDS).until("graph").step(without=[2])
    round_ = Round(setup, WORDS).until("shares")
    body = round_.messages[0][HEADER:]
    fewer = (7).to_bytes(4, "little") + body[4 : 4 + 7 * 36] + body[4 + 8 * 36 :]
    with pytest.raises(ProtocolError, match="those of all 8 clients that committed"):
        round_.clients[0].answer(wire.pack(setup.context, Kind.ROSTER, SERVER, fewer))


def test_who_does_not_reveal_is_out():
    setup = SecAggSetup("job", 7, 8, 3, 6, 4)
    round_ = Round(setup, WORDS).until("graph").step(without=[2])
    assert 2 not in round_.messages
    round_.until("unmask").step()
    np.testing.assert_array_equal(round_.server.total, summed(WORDS, {0, 1, 3, 4, 5, 6, 7}))
