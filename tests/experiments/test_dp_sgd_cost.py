"""The cost of private steps is measured for every network and microbatch."""

import pytest

from experiments.pipeline.dp_sgd_cost import NETWORKS, measure


@pytest.mark.slow
def test_private_steps_stand_beside_the_plain_one():
    rows = measure(batch=4, size=16, channels=4, microbatches=[1, 4], repeats=1)
    assert len(rows) == 3 * len(NETWORKS)
    plain, single, whole = rows[:3]
    assert plain["times_plain"] == 1 and min(row["milliseconds"] for row in rows) >= 0
    # Memory is that of the microbatch.
    assert single["temporary_MB"] < whole["temporary_MB"]
