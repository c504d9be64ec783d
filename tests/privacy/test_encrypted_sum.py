"""Averaging under encryption: the mean of FedAvg to the rounding of the encoding, and what is refused."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon import privacy
from fedrecon.encryption import Encoding, shared_paillier
from fedrecon.privacy import chain
from fedrecon.privacy.encrypted_sum import _Parties, encrypted_sum, integer_weights
from fedrecon.types import Task, Variables


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


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


# With 1, 2 and 3 examples.
CLIENTS = Clients(
    {"b": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 3, 3)), jnp.float32)},
    jnp.arange(3)[None] < jnp.array([1, 2, 3])[:, None],
)


def rounds(algorithm, count=2):
    round = fl.make_round(algorithm, batch_size=3, epochs=1, donate=False)
    state, infos = fl.init_state(algorithm, TASK.init(None), CLIENTS), []
    for _ in range(count):
        state, info = round(state, CLIENTS, jax.random.key(0))
        infos.append(info)
    return state, infos


@pytest.fixture(scope="module")
def averaged():
    return rounds(fl.fedavg(TASK, SGD))[0]


def test_the_collective_key_averages(averaged):
    state, infos = rounds(privacy.famhe(TASK, SGD, clients=3))
    np.testing.assert_allclose(state.variables.params["w"], averaged.variables.params["w"], atol=3 * 2.0**-20)
    assert all(info.applied for info in infos)
    # One ciphertext and one answer: three elements of 8192 coefficients, 4 bytes for each of the primes.
    assert int(infos[0].bytes_up[0]) % (3 * 8192 * 4) == 0


@pytest.mark.slow
def test_paillier_averages_and_records(averaged, tmp_path):
    pytest.importorskip("paillier")
    file = tmp_path / "kept" / "chain.jsonl"
    make = lambda: privacy.cheng(TASK, SGD, clients=3, key_bits=2048, ledger=str(file))  # noqa: E731
    state, infos = rounds(make())
    np.testing.assert_allclose(state.variables.params["w"], averaged.variables.params["w"], atol=3 * 2.0**-20)
    assert int(infos[0].bytes_up[0]) == 513
    entries = chain.read_entries(file)
    assert [entry["kind"] for entry in entries] == ["genesis", "round", "sum", "round", "sum"]
    head = chain.verify(entries).head
    rounds(make(), 1)
    second = chain.read_entries(tmp_path / "kept" / "chain.2.jsonl")
    assert second[0]["about"]["continues"] == head and len(second) == 3


def test_the_server_sees_ciphertexts_and_sums_alone(caplog):
    """What is recorded of a round: weights and updates come out in sums only, to the exact integer."""
    seen, encoding = [], Encoding(bound=1.0, bits=16, terms=3, largest_weight=10)
    scheme = shared_paillier(encoding, 2, 1024)
    parties = _Parties(lambda: scheme, encoding, lambda *record: seen.append(record))
    rows = np.random.default_rng(0).uniform(-1, 1, (4, 5))
    weights = np.array([1.0, 0.0, 3.0, 2.0])
    total, weight = parties.sum(rows, weights, 7)
    ((number, clients, vectors, encrypted, found),) = seen
    assert (number, clients, encrypted.terms) == (7, [0, 2, 3], 3)
    assert len({vector.blocks for vector in vectors}) == 3
    expected = (np.rint(rows * 32767) * weights[:, None]).sum(0)
    np.testing.assert_array_equal(found, [*expected, 6])
    np.testing.assert_allclose(total, (rows * weights[:, None]).sum(0), atol=6 * 2.0**-16)
    assert weight == 6 and not caplog.text
    # Entries beyond the bound are clipped, which is said.
    total, _ = parties.sum(np.full((2, 2), 5.0), np.ones(2), 8)
    np.testing.assert_allclose(total, 2, rtol=1e-6)
    assert "round 8: 4 entries of updates beyond 1 were clipped to it" in caplog.text
    np.testing.assert_array_equal(parties.sum(rows, np.zeros(4), 9)[0], np.zeros(5))


def test_weights_become_integers():
    assert integer_weights(np.array([5.0, 0, 12]), 20) == [5, 0, 12]
    assert integer_weights(np.array([0.5, 0.0, 1.0, 1e-9]), 10) == [5, 0, 10, 1]
    assert integer_weights(np.array([50.0, 100.0]), 10) == [5, 10]


def test_what_cannot_be_encrypted_is_refused():
    encoding = Encoding(terms=3)
    reduce = encrypted_sum(lambda: None, encoding)
    algorithm = fl.scaffold(TASK, 0.1, reduce=reduce)
    with pytest.raises(ValueError, match=r"^method: expected none that sends anything but the model"):
        fl.init_state(algorithm, TASK.init(None), CLIENTS)
    with pytest.raises(ValueError, match=r"^key_bits: expected at least 2048, found 1024"):
        privacy.cheng(TASK, SGD, clients=3, key_bits=1024)
    with pytest.raises(ValueError, match=r"^holders: expected an integer of at least 2, found 1"):
        privacy.famhe(TASK, SGD, clients=1)
