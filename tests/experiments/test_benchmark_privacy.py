"""The benchmark of protection: its sections run, and unknown ones are named."""

import pytest
from absl import flags

from experiments import benchmark_privacy as program
from experiments.pipeline import dp_sgd_cost, encryption_cost, secure_sum_cost
from fedrecon import ArgumentError


def test_secure_sums_are_measured_with_and_without_dropouts():
    rows = secure_sum_cost.measure(8, 500, 1, None)
    assert [row["protocol"] for row in rows[::2]] == ["SecAgg", "SecAgg, signed", "LightSecAgg", "SecAgg+"]
    assert {row["dropouts"] for row in rows} == {0, 1, 2}
    for row in rows:
        # Half a step of rounding at random in each client, and of float32 numbers.
        assert row["error"] < 1e-6 and row["cpu_seconds"] > 0 and row["bytes_a_value"] > 4
    lines = program.table(rows).splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].startswith("protocol")


@pytest.mark.slow
def test_encrypted_sums_are_measured_in_one_table_with_a_secure_sum():
    rows = encryption_cost.measure(4, 120, 1)
    assert len(rows) == 6 and all(tuple(row) == encryption_cost.COLUMNS for row in rows)
    # Half a step of 24 bits in each client.
    assert all(row["error"] < 2.0**-23 for row in rows)
    assert rows[-1]["bytes_up_a_value"] > 4 and rows[3]["bytes_up_a_value"] == pytest.approx(768 / 100)


@pytest.mark.parametrize("arguments", ["--only=nosuch", "--json=/nosuch/file"])
def test_flags_that_do_not_fit_are_named(arguments):
    before = set(flags.FLAGS)
    program.define_flags()
    try:
        flags.FLAGS(["benchmark_privacy", arguments])
        with pytest.raises(SystemExit, match=f"{arguments.split('=')[0]}: expected"):
            program.main([])
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def test_an_interpreter_without_flower_is_named():
    with pytest.raises(ArgumentError, match="--flower_python: expected an interpreter with flwr"):
        secure_sum_cost.measure(4, 10, 1, "/nosuch/python")


def test_an_interpreter_without_opacus_is_named():
    with pytest.raises(ArgumentError, match="--opacus_python: expected an interpreter with opacus"):
        dp_sgd_cost.opacus_seconds("/nosuch/python", 4, 8, 4, 1)
