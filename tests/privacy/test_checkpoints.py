"""Co-signed checkpoints of a record of rounds, its last line after a crash, and records that fork."""

import copy
import hashlib

import pytest

from fedrecon.privacy import chain
from fedrecon.privacy.signatures import sign
from fedrecon.privacy.witness import Witness, find_fork

pytest.importorskip("cryptography")

SERVER = chain.Party("server", chain.AGGREGATOR, bytes(range(32)))
OFFICE = chain.Party("office", chain.KEY_HOLDER, bytes(range(1, 33)))
CLIENTS = {name: chain.Party(name, chain.CLIENT, bytes([7 + i] * 32)) for i, name in enumerate("abcd")}


def add_round(record, number, text=""):
    uploads = {name: hashlib.sha256(f"{number}{name}{text}".encode()).digest() for name in CLIENTS}
    record.round(SERVER, number, uploads, CLIENTS)


def begun(path=None, **rule):
    record = chain.Chain(path)
    record.begin(SERVER, [SERVER, OFFICE, *CLIENTS.values()], **{"every": 2, **rule})
    return record, {name: Witness(party) for name, party in CLIENTS.items()}


def cosigned(record, witnesses, names="abcd"):
    return {name: witnesses[name].cosign(record.entries) for name in names}


def test_checkpoints_come_when_they_must_and_are_signed_by_enough(tmp_path):
    record, witnesses = begun(tmp_path / "chain.jsonl")
    for number in range(2):
        assert not record.due
        add_round(record, number)
    assert record.due
    with pytest.raises(
        chain.ChainError, match=r"^entry 3: expected a checkpoint after 2 rounds, found another"
    ):
        add_round(record, 2)
    # More than two thirds of four are three.
    with pytest.raises(
        chain.ChainError, match=r"^entry 3: expected co-signed by at least 3 clients, found 2"
    ):
        record.checkpoint(SERVER, cosigned(record, witnesses, "ab"))
    record.checkpoint(SERVER, cosigned(record, witnesses, "acd"))
    add_round(record, 2)
    continued = chain.Chain(tmp_path / "chain.jsonl", head=record.head)
    assert [e["kind"] for e in continued.entries] == ["genesis", "round", "round", "checkpoint", "round"]
    text = chain.canonical({"checkpoint": 3, "head": record.entries[3]["previous"]})
    assert record.entries[3]["signatures"]["a"] == sign(CLIENTS["a"], text)


def test_signatures_of_others_or_of_other_heads_do_not_count():
    record, witnesses = begun(every=1)
    add_round(record, 0)
    given = cosigned(record, witnesses)
    for wrong in (
        {"b": given["a"]},
        {"b": sign(CLIENTS["b"], chain.canonical({"checkpoint": 2, "head": "0" * 64}))},
        {"b": "00"},
        {"server": sign(SERVER, chain.statement(chain.verify(record.entries)))},
        {"nobody": given["a"]},
    ):
        with pytest.raises(
            chain.ChainError, match=rf"^entry 2: expected co-signed by the client {next(iter(wrong))}"
        ):
            record.checkpoint(SERVER, given | wrong)
    # Taken out afterwards and signed again by the aggregator.
    record.checkpoint(SERVER, given)
    entries = copy.deepcopy(record.entries)
    del entries[2]["signatures"]["a"], entries[2]["signatures"]["b"], entries[2]["signature"]
    entries[2]["signature"] = sign(SERVER, chain.canonical(entries[2]))
    with pytest.raises(chain.ChainError, match=r"^entry 2: expected co-signed by at least 3"):
        chain.verify(entries)
    for rule in ({"every": 0}, {"least": 5}, {"least": 0}):
        with pytest.raises(chain.ChainError, match=r"^entry 0: expected"):
            begun(**rule)


def test_witnesses_sign_no_record_that_was_rolled_back_or_forked():
    record, witnesses = begun(every=1)
    add_round(record, 0)
    record.checkpoint(SERVER, cosigned(record, witnesses))
    # Another story from the first round on, and the same one without its checkpoint's round.
    fork, _ = begun(every=1)
    add_round(fork, 0, "other")
    for entries in (fork.entries, record.entries[:1]):
        with pytest.raises(chain.ChainError, match=r"^head: expected an entry with the hash"):
            witnesses["a"].cosign(entries)
    # A client that comes back knows by the head that it kept.
    with pytest.raises(chain.ChainError, match=r"^head: expected"):
        Witness(CLIENTS["a"], witnesses["a"].head).cosign(fork.entries)
    assert find_fork(record.entries, fork.entries) == (1, "server")
    assert find_fork(record.entries, record.entries[:2]) is None
    stranger, _ = begun(every=3)
    with pytest.raises(chain.ChainError, match=r"^entry 0: expected the same in both"):
        find_fork(record.entries, stranger.entries)


@pytest.mark.parametrize("kept", [1, 40, None])
def test_a_last_line_that_a_crash_cut_off_is_mended(tmp_path, kept, caplog):
    """Removed unless all of it is there but its end; what was cut off elsewhere is no crash."""
    file = tmp_path / "chain.jsonl"
    record, _ = begun(file)
    add_round(record, 0)
    content = file.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    whole = kept is None
    file.write_bytes(content[:-1] if whole else content[: start + kept])
    with pytest.raises(chain.ChainError, match=r"entry 1: expected a whole line"):
        chain.read_entries(file)
    found = chain.Chain(file)
    assert found.entries == record.entries[: 2 if whole else 1]
    assert ("completed" if whole else "removed") in caplog.text
    add_round(found, 1 if whole else 0)
    assert chain.Chain(file, head=found.head).entries == found.entries
    # Someone who kept the head of what is gone sees it.
    if not whole:
        file.write_bytes(content[: start + 5])
        with pytest.raises(chain.ChainError, match=r"^head: expected"):
            chain.Chain(file, head=record.head)
    # A cut inside the record is none of a crash.
    lines = content.splitlines(keepends=True)
    file.write_bytes(lines[0][:-9] + b"\n" + lines[1])
    with pytest.raises(chain.ChainError, match="entry 0: expected canonical JSON"):
        chain.Chain(file)
