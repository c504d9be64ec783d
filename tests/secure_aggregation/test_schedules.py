"""Random dropouts of all protocols: exact in the field, or aborted with nothing unmasked."""

import numpy as np
import pytest

from fedrecon.secure_aggregation import (
    FIELD,
    STAGES,
    LightSecAggSetup,
    SecAggSetup,
    simulate_round,
)
from tests.secure_aggregation.rounds import drawn_words, seeded, summed


def drawn_schedule(seed, most):
    """(rng, clients from 3 to ``most``, {stage: up to a third of the clients})."""
    rng = np.random.default_rng(seed)
    clients = int(rng.integers(3, most + 1))
    drop = {
        stage: rng.choice(clients, rng.integers(0, clients // 3 + 1), replace=False).tolist()
        for stage in STAGES
    }
    # Half of the schedules leave out some of the stages, so that fewer rounds are aborted.
    for stage in STAGES:
        if rng.random() < 0.5 * (seed % 2):
            drop[stage] = []
    return rng, clients, drop


def check(seed, most, protocol):
    """One schedule; whether its round was aborted."""
    rng, clients, drop = drawn_schedule(seed, most)
    modulus = FIELD if protocol == "lightsecagg" else 2**32
    words = drawn_words(clients, 4, seed, modulus)
    if protocol == "lightsecagg":
        threshold = int(rng.integers(2, clients + 1))
        setup = LightSecAggSetup("job", seed, clients, threshold, 4, int(rng.integers(1, threshold)))
    else:
        malicious = protocol == "malicious"
        least = (2 * clients // 3 if malicious else clients // 2) + 1
        threshold = int(rng.integers(least, min(clients, least + 2) + 1))
        neighbors = clients - 1 if protocol == "secagg+" else None
        setup = SecAggSetup("job", seed, clients, threshold, 4, neighbors if clients > 2 else None, malicious)
    outcome = simulate_round(setup, words.__getitem__, drop, seeded(seed))
    left, counts, included = set(range(clients)), [], set()
    for stage in STAGES:
        left -= set(drop[stage])
        counts.append(len(left))
        if stage == "masked":
            included = set(left)
    assert outcome.aborted == (min(counts) < threshold), (seed, clients, threshold, drop)
    if outcome.aborted:
        assert outcome.total is None and outcome.included == ()
        # Fewer answers than the threshold came, so that no secret can be recovered.
        assert len(outcome.log[-1].heard) < threshold
    else:
        assert outcome.included == tuple(sorted(included))
        np.testing.assert_array_equal(outcome.total, summed(words, included, modulus))
    return outcome.aborted


PROTOCOLS = ("secagg", "malicious", "secagg+", "lightsecagg")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_schedules_of_a_few_clients(protocol):
    aborted = [check(seed, 9, protocol) for seed in range(12)]
    assert 0 < sum(aborted) < len(aborted)


# At night 900 schedules of up to 16 clients and 100 of up to 64.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "count", "most"),
    [
        ("secagg", 100, 16),
        ("secagg", 8, 64),
        ("malicious", 40, 16),
        ("secagg+", 40, 16),
        ("lightsecagg", 50, 16),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (
                ("secagg", 400, 16),
                ("secagg", 40, 64),
                ("malicious", 150, 16),
                ("malicious", 15, 64),
                ("secagg+", 150, 16),
                ("secagg+", 15, 64),
                ("lightsecagg", 200, 16),
                ("lightsecagg", 30, 64),
            )
        ),
    ],
)
def test_schedules(protocol, count, most):
    aborted = [check(1000 + seed, most, protocol) for seed in range(count)]
    assert 0 < sum(aborted) < count


@pytest.mark.slow
def test_sparse_graphs_are_exact_or_aborted():
    """Against the neighbors that are left of each client, as the server drew them."""
    exact = 0
    for seed in range(40):
        rng, clients, drop = drawn_schedule(seed, 30)
        if clients < 8:
            continue
        degree = 2 * int(rng.integers(2, (clients - 2) // 2))
        words = drawn_words(clients, 4, seed)
        setup = SecAggSetup("job", seed, clients, (degree + 1) // 2 + 1, 4, degree)
        outcome = simulate_round(setup, words.__getitem__, drop, seeded(seed))
        if not outcome.aborted:
            exact += 1
            np.testing.assert_array_equal(outcome.total, summed(words, outcome.included))
    assert exact > 10
