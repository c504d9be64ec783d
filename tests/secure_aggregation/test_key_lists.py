"""Lists of keys in SecAgg: what clients refuse of them."""

import pytest

from fedrecon.secure_aggregation import (
    HEADER,
    Identity,
    ProtocolError,
    SecAggClient,
    SecAggSetup,
    primitives,
    wire,
)
from fedrecon.secure_aggregation.wire import SERVER, Kind
from tests.secure_aggregation.rounds import Round, changed, drawn_words

SETUP = SecAggSetup("job", 7, 4, 3, 10)
SIGNED = SecAggSetup("job", 7, 4, 3, 10, malicious=True)
WORDS = drawn_words(8, 10)


def roster(setup, keys):
    return wire.pack(setup.context, Kind.ROSTER, SERVER, wire.listed(sorted(keys.items())))


def listed_keys(setup):
    round_ = Round(setup, WORDS).until("shares")
    size = 2 * primitives.PUBLIC + 64 * setup.malicious
    return round_, dict(wire.records(memoryview(round_.messages[0])[HEADER:], size, "keys"))


@pytest.mark.parametrize("place", [0, 40, 1216, 1260])
def test_own_keys_altered_in_the_list_are_noticed(place):
    round_, keys = listed_keys(SETUP)
    with pytest.raises(ProtocolError, match="keys: expected those of client 0 unaltered"):
        round_.clients[0].answer(roster(SETUP, keys | {0: changed(keys[0], place)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda keys: {j: keys[j] for j in (1, 2, 3)}, "client 0 unaltered"),
        (lambda keys: {j: keys[j] for j in (0, 1)}, "at least 3 clients, found 2"),
        (lambda keys: keys | {2: keys[1]}, "distinct keys"),
        (lambda keys: keys | {2: keys[2][:1216] + keys[1][1216:]}, "distinct keys"),
        (lambda keys: keys | {2: keys[2][:1216] * 2}, "distinct keys"),
        (lambda keys: keys | {4: keys[3]}, "clients below 4"),
    ],
)
def test_lists_of_keys_that_do_not_fit_are_refused(change, message):
    round_, keys = listed_keys(SETUP)
    with pytest.raises(ProtocolError, match=message):
        round_.clients[0].answer(roster(SETUP, change(keys)))


def test_keys_without_the_signature_of_their_owner_are_refused():
    """The server puts keys of its own in the place of client 2's, signed by whom it can."""
    for forger in (Identity.from_secret(bytes(32)), None):
        round_, keys = listed_keys(SIGNED)
        fake = SecAggClient(SIGNED, 2, lambda: WORDS[2], forger or Identity.from_secret(bytes(32)), {})
        forged = fake.start()[HEADER:]
        if forger is None:
            forged = forged[:-64] + keys[2][-64:]
        with pytest.raises(ProtocolError, match="signature of the keys of client 2"):
            round_.clients[0].answer(roster(SIGNED, keys | {2: forged}))


def test_keys_signed_for_another_round_are_refused():
    later = SecAggSetup("job", 8, 4, 3, 10, malicious=True)
    _, old = listed_keys(SIGNED)
    round_, keys = listed_keys(later)
    with pytest.raises(ProtocolError, match="signature of the keys of client 2"):
        round_.clients[0].answer(roster(later, keys | {2: old[2]}))
