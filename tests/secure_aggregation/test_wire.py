"""Messages: what is packed is parsed, and anything else is refused in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.secure_aggregation import HEADER, LightSecAggSetup, ProtocolError, SecAggSetup, wire
from fedrecon.secure_aggregation.primitives import Context, job_bytes
from fedrecon.secure_aggregation.wire import SERVER, Kind
from tests.secure_aggregation.rounds import Round, changed, drawn_words

CONTEXT = Context(job_bytes("job"), 7)
GOOD = wire.pack(CONTEXT, Kind.MASKED, 3, b"words")


def refused(call, *arguments):
    """The one line of a refusal."""
    with pytest.raises(ProtocolError) as error:
        call(*arguments)
    assert "\n" not in str(error.value) and ": expected " in str(error.value)
    return str(error.value)


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.lists(st.binary(max_size=20), max_size=3))
def test_packed_messages_are_parsed(kind, sender, parts):
    data = wire.pack(CONTEXT, kind, sender, *parts)
    message = wire.parse(data, CONTEXT)
    assert (message.kind, message.sender, bytes(message.body)) == (kind, sender, b"".join(parts))
    assert len(data) == HEADER + sum(map(len, parts))


@given(st.binary(max_size=100))
def test_other_bytes_are_refused(data):
    refused(wire.parse, data, CONTEXT)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_every_changed_byte_of_a_header_matters(place, by):
    data = changed(GOOD, place, by)
    try:
        message = wire.parse(data, CONTEXT)
    except ProtocolError:
        return
    # What remains a message is one of another type or sender, or has another body.
    assert message != wire.parse(GOOD, CONTEXT)
    assert place == 5 or HEADER - 8 <= place < HEADER - 4 or place >= HEADER


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (GOOD[:-1], "length"),
        (GOOD + b"!", "length"),
        (GOOD[: HEADER - 1], "header"),
        (b"", "header"),
        (changed(GOOD, 0), "a message of a secure sum"),
        (changed(GOOD, 4), "version"),
        (changed(GOOD, 5, 128), "type"),
        (changed(GOOD, 6), "job"),
        (changed(GOOD, 22), "round: expected 7, found 6"),
        ("text", "bytes"),
        (None, "bytes"),
    ],
)
def test_what_does_not_fit_is_named(data, name):
    assert name in refused(wire.parse, data, CONTEXT)


def test_lists_of_records_are_read_strictly():
    entries = [(0, b"ab"), (4, b"cd")]
    assert list(wire.records(memoryview(wire.listed(entries)), 2, "list")) == entries
    for wrong in ([(4, b"ab"), (0, b"cd")], [(4, b"ab"), (4, b"cd")], [(0, b"abc")]):
        refused(list, wire.records(memoryview(wire.listed(wrong)), 2, "list"))


SETUPS = {
    "secagg": SecAggSetup("job", 7, 4, 3, 5, malicious=True),
    "secagg+": SecAggSetup("job", 7, 6, 3, 5, neighbors=4),
    "lightsecagg": LightSecAggSetup("job", 7, 4, 3, 5, 1),
}
STAGES = {
    "secagg": ["keys", "shares", "masked", "consistency", "unmask"],
    "secagg+": ["keys", "graph", "shares", "masked", "unmask"],
    "lightsecagg": ["keys", "shares", "masked", "unmask"],
}


def changes(message):
    """A message with some bytes changed, left out or repeated, and its length set right."""
    body = st.integers(HEADER, max(HEADER, len(message) - 1))
    return st.one_of(
        st.tuples(body, st.integers(1, 255)).map(lambda at: changed(message, *at)),
        st.tuples(body, body).map(lambda at: resized(message[: min(at)] + message[max(at) :])),
        st.tuples(body, body).map(lambda at: resized(message[: max(at)] + message[min(at) :])),
    )


def resized(message):
    size = (len(message) - HEADER).to_bytes(4, "little")
    return message[: HEADER - 4] + size + message[HEADER:]


def taken(receive, message):
    """What a party says to a message, one line if it refuses it."""
    try:
        return receive(message)
    except ProtocolError as error:
        assert "\n" not in str(error) and ": expected " in str(error)


@pytest.mark.parametrize("protocol", SETUPS)
def test_nothing_brings_a_party_down(protocol):
    """At each stage server and clients get every type with any body, and messages that were changed."""
    setup = SETUPS[protocol]
    words = drawn_words(setup.clients, setup.size, modulus=2**31 - 1)

    @given(st.data())
    def attacked(data):
        stage = data.draw(st.sampled_from(STAGES[protocol]))
        round_ = Round(setup, words).until(stage)
        body = data.draw(st.binary(max_size=120))
        for kind in Kind:
            for sender in (0, SERVER):
                message = wire.pack(setup.context, kind, sender, body)
                taken(round_.server.receive, message)
                taken(round_.clients[1].answer, message)
        taken(round_.server.receive, data.draw(changes(round_.reply(2))))
        if round_.messages[3] is not None:
            answer = taken(round_.clients[3].answer, data.draw(changes(round_.messages[3])))
            assert answer is None or isinstance(answer, bytes)

    attacked()
