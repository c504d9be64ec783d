"""The record of rounds: whatever is changed in it is found, and where."""

import copy
import hashlib

import numpy as np
import pytest

from fedrecon.privacy import chain
from fedrecon.privacy.signatures import sign

pytest.importorskip("cryptography")

SERVER = chain.Party("server", chain.AGGREGATOR, bytes(range(32)))
OFFICE = chain.Party("office", chain.KEY_HOLDER, bytes(range(1, 33)))
CLIENTS = {name: chain.Party(name, chain.CLIENT, bytes([7 + i] * 32)) for i, name in enumerate("abc")}


def digests(round):
    return {name: hashlib.sha256(f"{round}{name}".encode()).digest() for name in CLIENTS}


def written(path=None, rounds=3):
    record = chain.Chain(path)
    record.begin(SERVER, [SERVER, OFFICE, *CLIENTS.values()], {"scheme": "paillier"})
    for round in range(rounds):
        record.round(SERVER, round, digests(round), CLIENTS)
        record.sum(OFFICE, round, bytes(32), bytes([round] * 32))
    return record


@pytest.fixture(scope="module")
def record():
    return written()


def test_a_record_is_read_as_it_was_written(tmp_path, record):
    file = tmp_path / "chain.jsonl"
    found = written(file)
    assert chain.read_entries(file) == found.entries == record.entries
    continued = chain.Chain(file, head=record.head)
    continued.round(SERVER, 3, digests(3), CLIENTS)
    assert chain.verify(chain.read_entries(file)).entries == 8
    # By its definition: SHA-256 of 0x00 and the entry before.
    text = b"\x00" + chain.canonical(record.entries[0])
    assert record.entries[1]["previous"] == hashlib.sha256(text).hexdigest()


def test_every_flipped_bit_is_found(tmp_path, record):
    """In any place of the file."""
    file = tmp_path / "chain.jsonl"
    data = b"".join(chain.canonical(entry) + b"\n" for entry in record.entries)
    for place in np.random.default_rng(0).choice(8 * len(data), 60, replace=False):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(chain.ChainError):
            chain.verify(chain.read_entries(file), record.head)


@pytest.mark.parametrize("index", range(7))
def test_entries_that_are_gone_doubled_or_swapped_are_found(record, index):
    entries = record.entries
    with pytest.raises(chain.ChainError, match=rf"^(entry {index}|head): expected"):
        chain.verify(entries[:index] + entries[index + 1 :], record.head)
    with pytest.raises(chain.ChainError, match=rf"^entry {index + 1}: expected"):
        chain.verify([*entries[: index + 1], *entries[index:]], record.head)
    if index:
        swapped = list(entries)
        swapped[index - 1], swapped[index] = entries[index], entries[index - 1]
        with pytest.raises(chain.ChainError, match=rf"^entry {index - 1}: expected"):
            chain.verify(swapped, record.head)


def test_what_was_cut_off_is_found_by_its_head(record):
    chain.verify(record.entries[:-2])
    with pytest.raises(chain.ChainError, match=r"^head: expected an entry with the hash"):
        chain.verify(record.entries[:-2], record.head)


def signed_anew(entries, index, party, **changes):
    """An entry changed and signed again, and all that follow linked to it: what an insider could do."""
    entries = copy.deepcopy(entries[: index + 1])
    entry = {**entries[index], **changes}
    del entry["signature"]
    entry["signature"] = sign(party, chain.canonical(entry))
    return [*entries[:-1], entry]


def test_signatures_and_roles_hold_what_hashes_cannot(record):
    entries = record.entries
    forged = copy.deepcopy(entries[1]["uploads"])
    forged["b"]["digest"] = "0" * 64
    with pytest.raises(chain.ChainError, match=r"^entry 1: expected an upload signed by the client b"):
        chain.verify(signed_anew(entries, 1, SERVER, uploads=forged))
    # The aggregator does not say what was decrypted, nor the holder of the key what was sent.
    with pytest.raises(chain.ChainError, match=r"^entry 2: expected the key holder as author, found server"):
        chain.verify(signed_anew(entries, 2, SERVER, author="server"))
    with pytest.raises(chain.ChainError, match=r"^entry 1: expected signed by server"):
        chain.verify(signed_anew(entries, 1, OFFICE))
    with pytest.raises(chain.ChainError, match=r"^entry 1: expected the root of its uploads"):
        chain.verify(signed_anew(entries, 1, SERVER, root="0" * 64))
    # An upload of one round is none of another.
    with pytest.raises(chain.ChainError, match=r"^entry 3: expected an upload signed by the client a"):
        chain.verify(signed_anew(entries, 3, SERVER, uploads=entries[1]["uploads"]))
    with pytest.raises(chain.ChainError, match=r"^entry 3: expected one round of round 0, found a second"):
        chain.verify(signed_anew(entries, 3, SERVER, round=0))
    with pytest.raises(chain.ChainError, match=r"^entry 2: expected round 5 before its sum"):
        chain.verify(signed_anew(entries, 2, OFFICE, round=5))
    with pytest.raises(chain.ChainError, match=r"^entry 2: expected the fields of its kind"):
        chain.verify([*entries[:2], {"kind": "sum"}])


def test_the_aggregator_never_holds_the_key():
    for members in (
        [SERVER, *CLIENTS.values()],
        [SERVER, OFFICE._replace(private=SERVER.private), *CLIENTS.values()],
        [SERVER, OFFICE, OFFICE._replace(name="second")],
    ):
        with pytest.raises(chain.ChainError, match=r"^entry 0: expected"):
            chain.Chain().begin(SERVER, members)


def test_proofs_lead_from_a_client_to_the_root(record):
    entry = record.entries[1]
    for name in CLIENTS:
        proof = chain.prove_upload(entry, name)
        assert len(proof) <= 2
        assert chain.check_upload(entry["root"], 0, name, digests(0)[name], proof)
        other = "b" if name == "a" else "a"
        assert not chain.check_upload(entry["root"], 0, name, digests(0)[other], proof)
        assert not chain.check_upload(entry["root"], 0, other, digests(0)[other], proof)
    with pytest.raises(chain.ChainError, match=r"^client: expected one of a, b, c, found 'd'"):
        chain.prove_upload(entry, "d")


def test_trees_of_other_shapes_have_other_digests():
    trees = [{"a": np.zeros((2, 3))}, {"a": np.zeros((3, 2))}, {"a": np.zeros(6)}, {"b": np.zeros(6)}]
    trees += [{"a": np.zeros(12, np.float32)}, {"a": np.zeros(3), "b": np.zeros(3)}]
    assert len({chain.digest_of_tree(tree) for tree in trees}) == len(trees)
    assert chain.digest_of_tree({"a": np.ones(2), "b": np.ones(1)}) == chain.digest_of_tree(
        {"b": np.ones(1), "a": np.ones(2)}
    )
    with pytest.raises(chain.ChainError, match=r"^entry: expected integers and text alone, found 0.5"):
        chain.canonical({"a": [1, {"b": 0.5}]})
