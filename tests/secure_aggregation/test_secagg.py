"""SecAgg and SecAgg+: exact sums, what the server sees, and what clients refuse."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedrecon import ArgumentError
from fedrecon.secure_aggregation import (
    HEADER,
    AbortedError,
    ProtocolError,
    SecAggClient,
    SecAggSetup,
    primitives,
    shamir,
    simulate_round,
    wire,
)
from fedrecon.secure_aggregation.wire import SERVER, Kind
from tests.secure_aggregation.rounds import Round, changed, drawn_words, parties, seeded, summed

SETUP = SecAggSetup("job", 7, 4, 3, 10)
SIGNED = SecAggSetup("job", 7, 4, 3, 10, malicious=True)
SPARSE = SecAggSetup("job", 7, 8, 4, 10, neighbors=4)
WORDS = drawn_words(8, 10)
STAGES = ("keys", "shares", "masked", "unmask", "never")


def dropped(pattern):
    """Clients by stage, of the stage of each client."""
    return {stage: [i for i, at in enumerate(pattern) if at == stage] for stage in STAGES[:4]}


def check_pattern(pattern, threshold, malicious=False):
    """A round in which client i drops out at pattern[i], against a count of who is left."""
    clients = len(pattern)
    setup = SecAggSetup("job", 7, clients, threshold, 3, malicious=malicious)
    outcome = simulate_round(setup, WORDS[:, :3].__getitem__, dropped(pattern), seeded(0))
    left = [sum(STAGES.index(at) > stage for at in pattern) for stage in range(4)]
    assert outcome.aborted == (min(left) < threshold), pattern
    if outcome.aborted:
        assert outcome.total is None and outcome.included == () and "at least" in outcome.reason
        return
    included = [i for i, at in enumerate(pattern) if at in ("unmask", "never")]
    assert outcome.included == tuple(included)
    np.testing.assert_array_equal(outcome.total, summed(WORDS[:, :3], included))


@pytest.mark.parametrize("malicious", [False, True])
def test_all_patterns_of_three_clients(malicious):
    for pattern in itertools.product(STAGES, repeat=3):
        check_pattern(pattern, 3 if malicious else 2, malicious)


@pytest.mark.slow
def test_all_patterns_of_four_clients():
    for pattern in itertools.product(STAGES, repeat=4):
        check_pattern(pattern, 3)


@pytest.mark.slow
@pytest.mark.parametrize("clients", [5, 6])
def test_all_patterns_with_enough_clients_left(clients):
    threshold = clients // 2 + 1
    for pattern in itertools.product(STAGES, repeat=clients):
        if pattern.count("never") >= threshold:
            check_pattern(pattern, threshold)


@pytest.mark.slow
@pytest.mark.parametrize("clients", [7, 8])
def test_all_numbers_of_clients_at_each_stage(clients):
    rng = np.random.default_rng(clients)
    for pattern in itertools.combinations_with_replacement(STAGES, clients):
        check_pattern(tuple(rng.permutation(pattern)), clients // 2 + 1)


def test_without_any_one_mask_the_sum_is_another(monkeypatch):
    drop = {"masked": [1]}
    count, skipped = 0, None
    add = primitives.add_mask

    def skipping(words, key, subtract=False):
        nonlocal count
        count += 1
        if count - 1 != skipped:
            add(words, key, subtract)

    monkeypatch.setattr(primitives, "add_mask", skipping)
    right = summed(WORDS, [0, 2, 3])
    np.testing.assert_array_equal(simulate_round(SETUP, WORDS.__getitem__, drop, seeded(0)).total, right)
    # Each of three clients adds its own mask and three common ones; the server takes off 3 + 3.
    masks, count = count, 0
    assert masks == 3 * 4 + 3 + 3
    for skipped in range(masks):  # noqa: B007
        count = 0
        total = simulate_round(SETUP, WORDS.__getitem__, drop, seeded(0)).total
        assert np.count_nonzero(total != right) == 10


# One of these tests fails by chance in 10^4 runs of honest masks; secrets are seeded, so that it is always
# the same. 4 x 10^6 bytes show frequencies that are off by 1 % (root mean square) with a probability above
# 99.9 %: of a mask that is missing, repeated or of half of the values, always.
LEVEL, COUNT = 1e-4, 10**6


def uniform(words):
    return stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue > LEVEL


def test_the_power_of_the_test_is_as_stated():
    critical = stats.chi2.isf(LEVEL, 255)
    assert stats.ncx2.sf(critical, 255, 4 * COUNT * 0.01**2) > 0.999
    rng = np.random.default_rng(0)
    assert uniform(rng.integers(0, 2**32, COUNT, np.uint32))
    assert not uniform(rng.integers(0, 2**32 - 2**26, COUNT, np.uint32))


def uploads(words, clients=3):
    """Masked words of client 0."""
    setup = SecAggSetup("job", 7, clients, 2, COUNT)
    round_ = Round(setup, words, seed=5).until("unmask")
    return np.frombuffer(round_.sent["masked"][0][HEADER:], "<u4")


def test_one_upload_is_uniform_and_says_nothing_of_the_words():
    zeros = uploads([np.zeros(COUNT, np.uint32)] * 3)
    largest = uploads([np.full(COUNT, 2**32 - 1, np.uint32)] * 3)
    assert uniform(zeros) and uniform(largest)
    both = [np.bincount(upload.view(np.uint8), minlength=256) for upload in (zeros, largest)]
    assert stats.chi2_contingency(both).pvalue > LEVEL
    assert stats.ks_2samp(zeros[:50_000], largest[50_000:100_000]).pvalue > LEVEL
    # Words as they are would be found out.
    assert not uniform(np.zeros(COUNT, np.uint32))


def test_clients_are_gone_from_the_first_stage_that_names_them():
    drop = {"unmask": [1, 2, 2], "masked": [1]}
    outcome = simulate_round(
        SecAggSetup("job", 7, 4, 3, 10), WORDS.__getitem__, {"masked": [1], "unmask": [1]}
    )
    assert outcome.included == (0, 2, 3) and [len(stage.heard) for stage in outcome.log] == [4, 4, 3, 3]
    assert simulate_round(SETUP, WORDS.__getitem__, drop).reason.endswith("3 clients, found 2")


def test_words_of_an_aborted_round_stay_masked():
    round_ = Round(SETUP, np.zeros((4, 10), np.uint32)).until("unmask")
    for i in (0, 1):
        round_.server.receive(round_.reply(i))
    with pytest.raises(AbortedError, match="stage unmask: expected at least 3 clients, found 2"):
        round_.server.advance()
    assert round_.server.total is None and round_.server.stage is None
    assert np.count_nonzero(round_.server._sum) == 10
    with pytest.raises(ProtocolError, match="ended"):
        round_.server.advance()
    with pytest.raises(ProtocolError, match="nothing more"):
        round_.server.receive(round_.reply(2))


def given_shares(round_):
    """Of each client, the shares that were given away, by holder."""
    shares = {}
    for i, message in round_.sent["unmask"].items():
        for j, share in wire.records(memoryview(message)[HEADER:], shamir.SHARE, "shares"):
            shares.setdefault(j, {})[i + 1] = share
    return shares


@pytest.mark.parametrize("setup", [SETUP, SIGNED])
def test_the_server_gets_one_secret_of_each_client(setup):
    round_ = Round(setup, WORDS).until("unmask", {"masked": [1]}).step()
    assert round_.server.included == (0, 2, 3)
    for j, shares in given_shares(round_).items():
        client = round_.clients[j]
        secret = client._mask_secret if j == 1 else client._own_mask
        assert shamir.recover(shares, 3, "shares") == secret
        assert client._mask_secret != client._own_mask


def test_a_round_is_unmasked_once():
    round_ = Round(SETUP, WORDS).until("unmask")
    request = round_.messages[0]
    round_.clients[0].answer(request)
    other = wire.pack(SETUP.context, Kind.INCLUDED, SERVER, wire.listed((j, b"") for j in (0, 1, 2)))
    for again in (request, other):
        with pytest.raises(ProtocolError, match="nothing more in this round"):
            round_.clients[0].answer(again)


@pytest.mark.parametrize("summands", [(0, 1), (1, 2, 3), (0, 1, 2, 3, 5), (0,), ()])
def test_summands_that_do_not_fit_are_refused_for_good(summands):
    round_ = Round(SETUP, WORDS).until("unmask")
    listed = wire.listed((j, b"") for j in summands)
    with pytest.raises(ProtocolError, match="summands"):
        round_.clients[0].answer(wire.pack(SETUP.context, Kind.INCLUDED, SERVER, listed))
    with pytest.raises(ProtocolError, match="nothing more"):
        round_.clients[0].answer(round_.messages[0])


def test_clients_do_not_unmask_sums_of_few():
    setup = SecAggSetup("job", 7, 4, 3, 10, smallest_sum=4)
    with pytest.raises(AbortedError, match="stage masked: expected at least 4"):
        Round(setup, WORDS).until("unmask", {"masked": [1]})
    round_ = Round(setup, WORDS).until("unmask")
    listed = wire.listed((j, b"") for j in (0, 1, 2))
    with pytest.raises(ProtocolError, match="summands: expected at least 4 clients, found 3"):
        round_.clients[0].answer(wire.pack(setup.context, Kind.INCLUDED, SERVER, listed))


def test_clients_that_are_told_of_other_summands_stop():
    """The server says to client 0 that 3 has dropped out, and to the others that it has not."""
    round_ = Round(SIGNED, WORDS).until("consistency")
    listed = wire.listed((j, b"") for j in (0, 1, 2))
    round_.messages[0] = wire.pack(SIGNED.context, Kind.INCLUDED, SERVER, listed)
    round_.step()
    for i in range(4):
        with pytest.raises(ProtocolError, match="signature"):
            round_.reply(i)


def test_too_few_signatures_are_refused():
    round_ = Round(SIGNED, WORDS).until("unmask")
    body = memoryview(round_.messages[0])[HEADER:]
    fewer = wire.pack(SIGNED.context, Kind.SIGNATURES, SERVER, body[: 2 * 68])
    with pytest.raises(ProtocolError, match="signatures: expected at least 3 clients, found 2"):
        round_.clients[0].answer(fewer)


@pytest.mark.parametrize("setup", [SETUP, SIGNED, SPARSE])
def test_every_changed_byte_of_a_delivery_is_noticed(setup):
    """Shares, their nonces and tags, numbers and the ciphertexts of the key agreements."""
    rng = np.random.default_rng(0)
    size = len(Round(setup, WORDS).until("masked").messages[2])
    step = (size - HEADER) // (3 if setup.degree == 3 else 4)
    parts = (0, 4, 8, 20, 118, 118 + 1088, 118 + 2 * 1088, step - 1)
    places = [HEADER + part for part in parts] + rng.integers(HEADER, size, 12).tolist()
    for place in places:
        round_ = Round(setup, WORDS).until("masked")
        with pytest.raises(ProtocolError):
            round_.clients[2].answer(changed(round_.messages[2], place, int(rng.integers(1, 256))))
        with pytest.raises(ProtocolError, match="nothing more"):
            round_.clients[2].answer(round_.messages[2])


def test_shares_meant_for_another_are_refused():
    round_ = Round(SETUP, WORDS).until("masked")
    with pytest.raises(ProtocolError, match="shares of client 0"):
        round_.clients[1].answer(round_.messages[2])
    # With the numbers of client 3 on them, too.
    body = dict(wire.records(memoryview(round_.messages[2])[HEADER:], 2338, "shares"))
    forged = wire.listed((j, (3).to_bytes(4, "little") + body[j][4:]) for j in (0, 1))
    with pytest.raises(ProtocolError, match="shares of client 0: expected bytes that its sender sealed"):
        round_.clients[3].answer(wire.pack(SETUP.context, Kind.DELIVERY, SERVER, forged))


@pytest.mark.parametrize(("job", "number", "name"), [("job", 8, "round"), ("other", 7, "job")])
def test_messages_of_other_rounds_and_jobs_are_refused(job, number, name):
    old = Round(SETUP, WORDS)
    new = Round(SecAggSetup(job, number, 4, 3, 10), WORDS, seed=1)
    while old.server.stage != "unmask":
        for i in range(4):
            message = old.reply(i)
            with pytest.raises(ProtocolError, match=f"message: {name}"):
                new.server.receive(message)
            old.server.receive(message)
        old.messages = old.server.advance()
        new.step()
        for i in range(4):
            with pytest.raises(ProtocolError, match=f"message: {name}"):
                new.clients[i].answer(old.messages[i])
    # They have changed nothing.
    new.step()
    np.testing.assert_array_equal(new.server.total, summed(WORDS[:4], range(4)))


def test_messages_of_the_wrong_party_or_stage_are_refused():
    round_ = Round(SETUP, WORDS)
    sent = {i: round_.reply(i) for i in range(4)}
    with pytest.raises(ProtocolError, match="type: expected ROSTER, found KEYS"):
        round_.clients[0].answer(sent[0])
    with pytest.raises(ProtocolError, match="one start"):
        round_.clients[0].start()
    round_.server.receive(sent[0])
    with pytest.raises(ProtocolError, match="each client once, found client 0 again"):
        round_.server.receive(sent[0])
    for sender, name in ((4, "client 4"), (SERVER, "the server")):
        forged = wire.pack(SETUP.context, Kind.KEYS, sender, sent[1][HEADER:])
        with pytest.raises(ProtocolError, match=f"still in the round, found {name}"):
            round_.server.receive(forged)
    for i in (1, 2):
        round_.server.receive(sent[i])
    rosters = round_.server.advance()
    # Client 3 was late; a roster that claims to be from a client is none.
    with pytest.raises(ProtocolError, match="SHARES, found KEYS"):
        round_.server.receive(sent[3])
    with pytest.raises(ProtocolError, match="sender: expected the server, found client 2"):
        round_.clients[0].answer(wire.pack(SETUP.context, Kind.ROSTER, 2, rosters[0][HEADER:]))
    with pytest.raises(ProtocolError, match="SHARES, found ROSTER"):
        round_.server.receive(rosters[0])


def test_all_secrets_of_two_rounds_differ():
    one, other = (parties(SETUP, WORDS, seed)[0][0] for seed in (0, 1))
    for client in (one, other):
        client.start()
    for name in ("_mask_secret", "_own_mask"):
        assert getattr(one, name) != getattr(other, name)
    assert one._own_mask != one._mask_secret
    # By default from the system, whatever other generators are seeded with.
    starts = set()
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        starts.add(SecAggClient(SETUP, 0, lambda: WORDS[0]).start())
    assert len(starts) == 2


def test_false_shares_are_noticed_by_the_server():
    round_ = Round(SETUP, WORDS).until("unmask")
    sent = {i: round_.reply(i) for i in range(4)}
    sent[1] = changed(sent[1], HEADER + 4 + 5)
    for message in sent.values():
        round_.server.receive(message)
    with pytest.raises(ProtocolError, match="shares of client 0: expected shares of one secret"):
        round_.server.advance()
    assert round_.server.total is None


@pytest.mark.parametrize("setup", [SETUP, SIGNED])
def test_messages_of_wrong_size_are_refused_by_the_server(setup):
    round_ = Round(setup, WORDS)
    while round_.server.stage is not None:
        stage = round_.server.stage
        sent = {i: round_.reply(i) for i in range(4)}
        kind = Kind(sent[0][5])
        for body in (sent[0][HEADER:-1], sent[0][HEADER:] + b"!", b""):
            with pytest.raises(ProtocolError, match="message of client 0"):
                round_.server.receive(wire.pack(setup.context, kind, 0, body))
        if stage in ("shares", "unmask"):
            # Of other clients than it should be.
            size = 4 + (len(sent[0]) - HEADER) // (3 if stage == "shares" else 4) - 4
            with pytest.raises(ProtocolError, match="message of client 0"):
                round_.server.receive(wire.pack(setup.context, kind, 0, sent[0][HEADER + size :]))
        for message in sent.values():
            round_.server.receive(message)
        round_.messages = round_.server.advance()
    np.testing.assert_array_equal(round_.server.total, summed(WORDS[:4], range(4)))


@pytest.mark.parametrize(
    ("clients", "malicious", "neighbors"), [(3, False, None), (6, True, None), (10, False, 4), (9, True, 6)]
)
def test_bytes_are_those_of_the_formulas(clients, malicious, neighbors):
    holders = (neighbors or clients - 1) + 1
    setup = SecAggSetup("job", 0, clients, holders - holders // 4, 50, neighbors, malicious)
    outcome = simulate_round(setup, drawn_words(clients, 50).__getitem__, random=seeded(0))
    degree, sparse = holders - 1, neighbors is not None
    protocol = 64 + 118 * degree + 4 * 50 + 37 * (degree + 1) + 128 * malicious
    quantum = 2 * 1184 + degree * (2 * 1088 + 48)
    headers = 34 * (4 + malicious + sparse)
    assert setup.bytes_up()["protocol"] == protocol and setup.bytes_up()["post_quantum"] == quantum
    assert set(outcome.bytes_up) == {protocol + quantum + headers + 64 * sparse}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"clients": 1}, "clients"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": 6}, "threshold"),
        ({"threshold": 3, "malicious": True}, "threshold"),
        ({"size": 0}, "size"),
        ({"round": 2**32}, "round"),
        ({"neighbors": 1}, "neighbors"),
        ({"neighbors": 3, "threshold": 3}, "neighbors"),
        ({"neighbors": 5}, "neighbors"),
        ({"smallest_sum": 6}, "smallest_sum"),
    ],
)
def test_setups_out_of_range_are_named(change, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        SecAggSetup(**{"job": "job", "round": 0, "clients": 5, "threshold": 4, "size": 10} | change)


def test_words_and_clients_that_do_not_fit_are_named():
    for words in (WORDS[0].astype(np.int64), WORDS[0][:5], [1]):
        with pytest.raises(ArgumentError, match="words: expected uint32 of shape"):
            simulate_round(SETUP, lambda i, words=words: words)
    with pytest.raises(ArgumentError, match="number"):
        SecAggClient(SETUP, 4, lambda: WORDS[0])
    with pytest.raises(ArgumentError, match="identity"):
        SecAggClient(SIGNED, 0, lambda: WORDS[0])
    with pytest.raises(ArgumentError, match="drop: expected stages of keys"):
        simulate_round(SETUP, WORDS.__getitem__, {"maskd": [1]})
    with pytest.raises(ArgumentError, match="drop: expected clients from 0 to 3"):
        simulate_round(SETUP, WORDS.__getitem__, {"masked": [4]})
