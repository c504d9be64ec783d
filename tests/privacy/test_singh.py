"""The ledger of rounds: it changes no number, proves what is in it, and is repeated by a repeated run."""

import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon import privacy
from fedrecon.privacy import chain
from fedrecon.privacy.recording import recorded
from fedrecon.secure_aggregation import FixedPoint
from fedrecon.types import Task, Variables

pytest.importorskip("cryptography")


def loss(params, stats, batch, key):
    error = jnp.where(batch["valid"], ((params["w"] - batch["b"]) ** 2).sum(-1), 0)
    return error.sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": jnp.zeros(3)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: batch["b"],
    normalization=Variables({"w": False}, {}),
)
SGD = optax.sgd(0.1)
COUNTS = np.array([1, 2, 3, 0, 2])


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


CLIENTS = Clients(
    {"b": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 3, 3)), jnp.float32)},
    jnp.arange(3)[None] < COUNTS[:, None],
)


def rounds(algorithm, count=3, scanned=False):
    round = fl.make_round(algorithm, batch_size=2, epochs=1, donate=False)
    state, models = fl.init_state(algorithm, TASK.init(None), CLIENTS), []
    if scanned:
        return jax.block_until_ready(fl.run_rounds(round, count)(state, CLIENTS, jax.random.key(0))[0]), []
    for _ in range(count):
        models.append(state.variables)
        state, _ = round(state, CLIENTS, jax.random.key(0))
    return jax.block_until_ready(state), models


def kept(file, **options):
    return rounds(privacy.singh(TASK, SGD, clients=5, ledger=str(file), **options))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    file = tmp_path_factory.mktemp("singh") / "kept" / "rounds.jsonl"
    state, models = kept(file, gateways=2, checkpoint=2)
    return state, models, chain.read_entries(file)


def test_the_numbers_are_those_of_averaging_bit_for_bit(run):
    expected, _ = rounds(fl.fedavg(TASK, SGD))
    without, _ = rounds(privacy.singh(TASK, SGD, clients=5))
    for state in (run[0], without):
        np.testing.assert_array_equal(state.variables.params["w"], expected.variables.params["w"])


def test_an_entry_says_what_was_received_and_sent(run):
    _, models, entries = run
    kinds = [entry["kind"] for entry in entries]
    assert kinds == ["genesis", "round", "round", "checkpoint", "round"]
    # Of five devices more than two thirds are four, and the one without data sends nothing.
    assert entries[0]["checkpoints"] == {"every": 2, "least": 4} and len(entries[3]["signatures"]) == 5
    for entry, model in zip([e for e in entries if e["kind"] == "round"], models, strict=True):
        assert entry["about"]["model"] == chain.digest_of_tree(model).hex()
        assert entry["about"]["weights"] == {f"device{i}": int(n) << 16 for i, n in enumerate(COUNTS) if n}
        # Three numbers and the weight of four devices.
        assert entry["about"]["bytes"] == 4 * 4 * (3 + 1)
    assert chain.verify(entries).entries == 5


def test_rounds_compiled_into_one_call_are_recorded_in_their_order(tmp_path, run):
    file = tmp_path / "rounds.jsonl"
    rounds(privacy.singh(TASK, SGD, clients=5, ledger=str(file)), scanned=True)
    entries = chain.read_entries(file)
    assert [e["round"] for e in entries if e["kind"] == "round"] == [0, 1, 2]
    assert chain.check_replay(entries, run[2]) == 3


def test_a_repeated_run_has_the_digests_of_the_record(tmp_path, run):
    file = tmp_path / "rounds.jsonl"
    kept(file)
    assert chain.check_replay(run[2], chain.read_entries(file)) == 3
    # A second process goes on in a file of its own, which names the head of the first.
    head = chain.Chain(file).head
    rounds(privacy.singh(TASK, optax.sgd(0.2), clients=5, ledger=str(file)))
    other = chain.read_entries(tmp_path / "rounds.2.jsonl")
    assert other[0]["about"]["continues"] == head
    with pytest.raises(chain.ChainError, match=r"^round 0: expected what device0 sent in the record"):
        chain.check_replay(run[2], other)
    changed = recorded_with_other_model(run[2])
    with pytest.raises(chain.ChainError, match=r"^round 0: expected the model of the record"):
        chain.check_replay(run[2], changed)


def recorded_with_other_model(entries):
    """A record of the same uploads after another model."""
    record, members = begun(5)
    digests = {name: bytes.fromhex(x["digest"]) for name, x in entries[1]["uploads"].items()}
    record.round(members["server"], 0, digests, members, {"model": "0" * 64})
    return record.entries


def begun(clients, gateways=0):
    members = {"server": chain.new_party("server", chain.AGGREGATOR)}
    members |= {f"device{i}": chain.new_party(f"device{i}", chain.CLIENT) for i in range(clients)}
    members |= {f"gateway{i}": chain.new_party(f"gateway{i}", chain.GATEWAY) for i in range(gateways)}
    at = {f"device{i}": f"gateway{i % gateways}" for i in range(clients)} if gateways else None
    record = chain.Chain()
    record.begin(members["server"], members.values(), gateways=at, sums=False)
    return record, members


def digest(text):
    return hashlib.sha256(text.encode()).digest()


@pytest.mark.parametrize(("clients", "gateways"), [(1, 0), (5, 0), (8, 0), (9, 0), (7, 3), (8, 2)])
def test_proofs_have_at_most_the_stated_length(clients, gateways):
    record, members = begun(clients, gateways)
    uploads = {f"device{i}": digest(f"{i}") for i in range(clients)}
    record.round(members["server"], 4, uploads, members)
    root = record.entries[1]["root"]
    most = math.ceil(math.log2(clients))
    if gateways:
        most = math.ceil(math.log2(-(-clients // gateways))) + math.ceil(math.log2(gateways))
    for name, sent in uploads.items():
        proof = record.prove_inclusion(name, 4)
        assert sum(len(bytes.fromhex(other)) for _, other in proof) <= 32 * most
        assert chain.check_upload(root, 4, name, sent, proof)
        assert not chain.check_upload(root, 5, name, sent, proof)
        for other in set(uploads) - {name}:
            assert not chain.check_upload(root, 4, other, uploads[other], proof)
    with pytest.raises(chain.ChainError, match=r"^round: expected one that is recorded, found 3"):
        record.prove_inclusion("device0", 3)


def test_gateways_sign_the_roots_of_their_devices(run):
    entries = run[2]
    (name, *_), entry = entries[1]["gateways"], entries[1]
    assert sorted(entry["gateways"]) == ["gateway0", "gateway1"]
    for field, message in (
        ("root", "the root of the uploads"),
        ("signature", "a root signed by the gateway"),
    ):
        record, members = begun(4, 2)
        record.round(members["server"], 0, {f"device{i}": digest(f"{i}") for i in range(4)}, members)
        forged = record.entries[1]["gateways"][name]
        forged[field] = forged[field][::-1]
        record.entries[1]["signature"] = resigned(members["server"], record.entries[1])
        with pytest.raises(chain.ChainError, match=f"^entry 1: expected {message}"):
            chain.verify(record.entries)
    with pytest.raises(chain.ChainError, match=r"^entry 0: expected one of gateway0 as gateway of device1"):
        parties = [members["server"], members["device0"], members["device1"], members["gateway0"]]
        chain.Chain().begin(members["server"], parties, gateways={"device0": "gateway0"}, sums=False)


def resigned(party, entry):
    return chain.sign(party, chain.canonical({k: v for k, v in entry.items() if k != "signature"}))


def test_members_come_and_go_with_their_consent():
    record, members = begun(3)
    server, new = members["server"], chain.new_party("device3", chain.CLIENT)
    record.note("config", server, {"rounds": 10})
    record.note("consent", members["device1"], {"publishes": "its model"})
    record.join(server, new)
    record.round(server, 0, {"device3": digest("3")}, {"device3": new})
    record.leave(members["device0"])
    record.note("audit", server, {"found": "nothing"})
    # Of three devices three must sign.
    assert chain.verify(record.entries).least == 3
    assert "device0" not in chain.verify(record.entries).parties
    with pytest.raises(chain.ChainError, match=r"^entry 7: expected an upload signed by the client device0"):
        record.round(server, 1, {"device0": digest("0")}, members)
    with pytest.raises(chain.ChainError, match=r"^entry 7: expected a name and a key that nobody has"):
        record.join(server, new)
    with pytest.raises(chain.ChainError, match=r"^entry 7: expected the client as author"):
        record.leave(server._replace(name="coordinator"))
    with pytest.raises(chain.ChainError, match=r"^kind: expected config, audit or consent, found 'round'"):
        record.note("round", server, {})
    assert len(record.entries) == 7 and record.export().count(b"\n") == 7


def test_nobody_joins_or_leaves_for_another():
    record, members = begun(3)
    server, new = members["server"], chain.new_party("device3", chain.CLIENT)
    other = chain.new_party("device3", chain.CLIENT)
    record.join(server, new)
    entry = record.entries[1]
    entry["party"]["key"] = other.public
    entry["signature"] = resigned(server, entry)
    with pytest.raises(
        chain.ChainError, match=r"^entry 1: expected an invitation signed by the client device3"
    ):
        chain.verify(record.entries)
    record, members = begun(3)
    record.leave(members["device0"])
    entry = record.entries[1]
    entry["client"] = "device1"
    entry["signature"] = resigned(members["device0"], entry)
    with pytest.raises(chain.ChainError, match=r"^entry 1: expected device1 itself to leave"):
        chain.verify(record.entries)


@pytest.mark.slow
def test_masked_uploads_are_what_is_recorded_of_a_secure_sum(tmp_path):
    file, fixed = tmp_path / "rounds.jsonl", FixedPoint.finest(1.0, 5)
    channel = fl.secure_sum.secure_sum(fixed, largest_weight=4)
    plain, _ = rounds(fl.fedavg(TASK, SGD, channel=channel))
    state, _ = rounds(privacy.singh(TASK, SGD, clients=5, ledger=str(file), channel=channel))
    np.testing.assert_array_equal(state.variables.params["w"], plain.variables.params["w"])
    clear = tmp_path / "clear.jsonl"
    rounds(privacy.singh(TASK, SGD, clients=5, ledger=str(clear)))
    found = [chain.read_entries(path)[1]["uploads"]["device0"]["digest"] for path in (file, clear)]
    assert found[0] != found[1]


def test_other_reducers_see_the_same_uploads():
    seen = []
    reduce = recorded(
        lambda number, uploads, model: seen.append((number, sorted(uploads))), fl.reducers.median()
    )
    state, _ = rounds(fl.fedavg(TASK, SGD, reduce=reduce), 2)
    expected, _ = rounds(fl.fedavg(TASK, SGD, reduce=fl.reducers.median()), 2)
    np.testing.assert_array_equal(state.variables.params["w"], expected.variables.params["w"])
    assert seen == [(0, [0, 1, 2, 4]), (1, [0, 1, 2, 4])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gateways": 6}, "gateways: expected a number from 0 to 5, found 6"),
        ({"gateways": 2, "ledger": ""}, "gateways: expected 0 without a ledger"),
        ({"checkpoint": 0}, "checkpoint: expected at least 1 round, found 0"),
    ],
)
def test_what_has_no_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        privacy.singh(TASK, SGD, **{"clients": 5, "ledger": "x", **options})
