"""LightSecAgg: exact for every set of dropouts, uniform pieces, and what is refused."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedrecon import ArgumentError
from fedrecon.secure_aggregation import (
    FIELD,
    HEADER,
    AbortedError,
    LightSecAggClient,
    LightSecAggSetup,
    ProtocolError,
    simulate_round,
    wire,
)
from fedrecon.secure_aggregation.lightsecagg import coded_pieces, envelope_size, piece_point
from fedrecon.secure_aggregation.wire import SERVER, Kind
from tests.secure_aggregation.rounds import Round, changed, drawn_words, seeded, summed

SETUP = LightSecAggSetup("job", 7, 5, 3, 7, 1)
WORDS = drawn_words(8, 7, modulus=FIELD)


def lagrange(values, at, point):
    """The polynomial of a column of values, by fractions of Python's integers."""
    total = 0
    for i, value in zip(at, values, strict=True):
        above = below = 1
        for j in at:
            if j != i:
                above, below = above * (point - j), below * (i - j)
        total += int(value) * above * pow(below % FIELD, -1, FIELD)
    return total % FIELD


def test_pieces_are_values_of_the_polynomial_through_the_blocks():
    # The largest elements, too, whose products are just below 2^62.
    blocks = drawn_words(6, 40, modulus=FIELD)
    blocks[:, :3] = FIELD - 1
    pieces = coded_pieces(blocks, [7, 9, 1000])
    for row, point in zip(pieces, (7, 9, 1000), strict=True):
        assert row.tolist() == [lagrange(column, range(1, 7), point) for column in blocks.T]


@pytest.mark.parametrize(("clients", "threshold", "colluders"), [(3, 2, 1), (4, 3, 2), (5, 3, 1)])
def test_sums_are_exact_for_every_set_of_dropouts(clients, threshold, colluders):
    setup = LightSecAggSetup("job", 7, clients, threshold, 7, colluders)
    for count in range(clients - threshold + 2):
        for gone in itertools.combinations(range(clients), count):
            for stage in ("masked", "unmask"):
                outcome = simulate_round(setup, WORDS.__getitem__, {stage: gone}, seeded(0))
                assert outcome.aborted == (count > clients - threshold)
                if outcome.aborted:
                    assert outcome.total is None and f"at least {threshold} clients" in outcome.reason
                    continue
                included = set(range(clients)) - (set(gone) if stage == "masked" else set())
                assert outcome.included == tuple(sorted(included))
                np.testing.assert_array_equal(outcome.total, summed(WORDS, included, FIELD))


def test_pieces_that_colluders_hold_and_uploads_are_uniform():
    """Of zero words, 2^18 of them, alone and what two of them differ by."""
    setup = LightSecAggSetup("job", 7, 4, 3, 2**18, 2)
    round_ = Round(setup, np.zeros((4, 2**18), np.uint32), seed=3).until("unmask")
    pieces = [round_.clients[holder]._pieces[3] for holder in (0, 1)]
    upload = np.frombuffer(round_.sent["masked"][3][HEADER:], "<u4")
    differences = [(upload.astype(np.int64) - piece) % FIELD for piece in pieces]
    differences.append((pieces[0].astype(np.int64) - pieces[1]) % FIELD)
    for words in (*pieces, upload, *differences):
        counts = np.bincount(np.asarray(words, np.int64) * 256 // FIELD, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
        assert words.max() < FIELD
    # Any T pieces of one mask are those of some other, too: T blocks are free.
    points = [piece_point(setup, i) for i in (1, 2)]
    blocks = np.concatenate([np.full((1, 1), 5, np.uint32), drawn_words(2, 1, modulus=FIELD)])
    seen = coded_pieces(blocks, points)
    other = [lagrange([9, *seen[:, 0]], [1, *points], x) for x in (2, 3)]
    again = coded_pieces(np.array([[9], [other[0]], [other[1]]], np.uint32), points)
    np.testing.assert_array_equal(again, seen)


def test_u_minus_one_answers_abort():
    round_ = Round(SETUP, WORDS).until("unmask")
    for i in (0, 1):
        round_.server.receive(round_.reply(i))
    with pytest.raises(AbortedError, match="stage unmask: expected at least 3 clients, found 2"):
        round_.server.advance()
    assert round_.server.total is None


def test_sums_of_pieces_are_given_once_and_of_many():
    for summands in ((0, 1), (1, 2, 3), (0, 1, 2, 7)):
        round_ = Round(SETUP, WORDS).until("unmask")
        listed = wire.listed((j, b"") for j in summands)
        with pytest.raises(ProtocolError, match="summands"):
            round_.clients[0].answer(wire.pack(SETUP.context, Kind.CODED_INCLUDED, SERVER, listed))
    round_ = Round(SETUP, WORDS).until("unmask")
    round_.reply(0)
    with pytest.raises(ProtocolError, match="nothing more"):
        round_.reply(0)


def test_every_changed_byte_of_a_delivery_is_noticed():
    rng = np.random.default_rng(0)
    size = len(Round(SETUP, WORDS).until("masked").messages[2])
    for place in [HEADER, HEADER + 4, HEADER + 8, HEADER + 20, *rng.integers(HEADER, size, 12)]:
        round_ = Round(SETUP, WORDS).until("masked")
        with pytest.raises(ProtocolError):
            round_.clients[2].answer(changed(round_.messages[2], place, int(rng.integers(1, 256))))
    round_ = Round(SETUP, WORDS).until("masked")
    with pytest.raises(ProtocolError, match="piece of client"):
        round_.clients[1].answer(round_.messages[2])


def test_own_keys_altered_and_keys_used_twice_are_noticed():
    for change in (lambda keys: keys | {0: changed(keys[0], 9)}, lambda keys: keys | {2: keys[1]}):
        round_ = Round(SETUP, WORDS).until("shares")
        keys = change(dict(wire.records(memoryview(round_.messages[0])[HEADER:], 1216, "keys")))
        listed = wire.listed(sorted(keys.items()))
        with pytest.raises(ProtocolError, match="keys: expected"):
            round_.clients[0].answer(wire.pack(SETUP.context, Kind.CODED_ROSTER, SERVER, listed))


def test_messages_that_do_not_fit_are_refused_by_the_server():
    round_ = Round(SETUP, WORDS)
    while round_.server.stage is not None:
        sent = {i: round_.reply(i) for i in range(5)}
        kind = Kind(sent[0][5])
        for body in (sent[0][HEADER:-1], sent[0][HEADER:] + b"!"):
            with pytest.raises(ProtocolError, match="message of client 0"):
                round_.server.receive(wire.pack(SETUP.context, kind, 0, body))
        if kind in (Kind.CODED_MASKED, Kind.CODED_UNMASK):
            beyond = b"\xff" * (len(sent[0]) - HEADER)
            with pytest.raises(ProtocolError, match=f"words below {FIELD}"):
                round_.server.receive(wire.pack(SETUP.context, kind, 0, beyond))
        for message in sent.values():
            round_.server.receive(message)
            with pytest.raises(ProtocolError, match="each client once"):
                round_.server.receive(message)
        round_.messages = round_.server.advance()
    np.testing.assert_array_equal(round_.server.total, summed(WORDS[:5], range(5), FIELD))


def test_words_outside_of_the_field_are_named():
    with pytest.raises(ArgumentError, match="words: expected numbers below 2147483647"):
        simulate_round(SETUP, lambda i: np.full(7, FIELD, np.uint32))
    with pytest.raises(ArgumentError, match="number"):
        LightSecAggClient(SETUP, 5, lambda: WORDS[0])


@pytest.mark.parametrize(
    ("change", "name"),
    [({"threshold": 1}, "threshold"), ({"threshold": 6}, "threshold"), ({"colluders": 3}, "colluders")],
)
def test_setups_out_of_range_are_named(change, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        LightSecAggSetup(
            **{"job": "j", "round": 0, "clients": 5, "threshold": 3, "size": 7, "colluders": 1} | change
        )


@pytest.mark.parametrize(("clients", "threshold", "colluders", "size"), [(5, 3, 1, 8), (6, 5, 2, 100)])
def test_bytes_are_those_of_the_formulas(clients, threshold, colluders, size):
    setup = LightSecAggSetup("job", 0, clients, threshold, size, colluders)
    words = drawn_words(clients, size, modulus=FIELD)
    outcome = simulate_round(setup, words.__getitem__, random=seeded(0))
    piece = 4 * -(-size // (threshold - colluders))
    protocol = (clients - 1) * piece + 4 * size + piece
    sealing = 32 + (clients - 1) * 36
    quantum = 1184 + (clients - 1) * 1088
    assert list(setup.bytes_up().values()) == [protocol, sealing, quantum]
    assert set(outcome.bytes_up) == {protocol + sealing + quantum + 4 * HEADER}
    assert envelope_size(setup) == 36 + 1088 + piece
