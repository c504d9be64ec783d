"""The command: its JSON, its stage log, the ways to name dropouts, and refusals in one line."""

import json

import pytest
from absl import flags

from experiments import secure_aggregation as program
from fedrecon import ArgumentError


@pytest.fixture
def parsed():
    """Flags of the program by their arguments."""
    before = set(flags.FLAGS)
    program.define_flags()
    names = set(flags.FLAGS) - before

    def parse(*arguments):
        flags.FLAGS.unparse_flags()
        for name in names:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["secure_aggregation", *arguments])
        return flags.FLAGS

    yield parse
    for name in names:
        delattr(flags.FLAGS, name)


@pytest.fixture
def printed(parsed, capsys):
    """What the program prints."""

    def run(*arguments):
        parsed(*arguments)
        program.main([])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("protocol", ["secagg", "secagg+", "lightsecagg"])
def test_a_round_with_dropouts_at_every_stage(printed, protocol):
    arguments = (f"--protocol={protocol}", "--clients=9", "--threshold=5", "--size=5", "--json")
    found = json.loads(printed(*arguments, "--drop=keys:0,shares:1,masked:2,unmask:3"))
    assert (found["aborted"], found["exact"], found["included"]) == (False, True, [3, 4, 5, 6, 7, 8])
    sent = found["bytes_up"]
    assert len(sent) == 9 and sent[0] == 0 < sent[1] < sent[2] < sent[3] < sent[4] == sent[8]
    assert found["seconds"] > 0
    found = json.loads(printed(*arguments, "--drop=masked:0-3,unmask:4"))
    assert (found["aborted"], found["exact"], found["included"]) == (True, False, [])
    assert found["reason"] == "stage unmask: expected at least 5 clients, found 4"


def test_the_stage_log_names_dropouts_and_bytes(printed):
    output = printed("--protocol=secagg+", "--clients=20", "--drop=masked:4", "--malicious", "--size=5")
    stages = [line.split()[0] for line in output.splitlines() if "clients heard" in line]
    assert stages == ["keys", "graph", "shares", "masked", "consistency", "unmask"]
    assert "19 of 20 clients heard" in output and "sum over 19 clients, equal to the bit" in output
    assert "joint randomness 64" in output and "post quantum" in output


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("", {}),
        ("masked:1", {"masked": [1]}),
        ("masked:1+4,unmask:2", {"masked": [1, 4], "unmask": [2]}),
        ("masked:1,4,unmask:2", {"masked": [1, 4], "unmask": [2]}),
        ("masked:1-3", {"masked": [1, 2, 3]}),
        (" masked : 1 - 2 , client4, keys:client0+1 ", {"masked": [1, 2, 4], "keys": [0, 1]}),
        ("keys:1,masked:2,keys:3", {"keys": [1, 3], "masked": [2]}),
    ],
)
def test_dropouts_are_named_in_several_ways(text, dropped):
    assert program.parse_drop(text, 5) == dropped


@pytest.mark.parametrize(
    "text",
    ["1", "masked", ":1", "mask:1", "masked:", "masked:x", "masked:3-1", "masked:5", "masked:-1", "a:b:1"],
)
def test_other_names_are_refused(text):
    with pytest.raises(ArgumentError, match=r"^--drop: expected"):
        program.parse_drop(text, 5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--threshold=2", "threshold"),
        ("--threshold=3 --malicious", "threshold"),
        ("--protocol=secagg+", "clients"),
        ("--neighbors=4", "--neighbors"),
        ("--colluders=1", "--colluders"),
        ("--corrupt=0.1", "--corrupt"),
        ("--protocol=secagg+ --neighbors=4 --dropped=0.1", "--dropped"),
        ("--protocol=secagg+ --clients=30 --corrupt=1", "corrupt"),
        ("--protocol=lightsecagg --malicious", "--malicious"),
        ("--protocol=lightsecagg --colluders=9", "colluders"),
    ],
)
def test_flags_that_do_not_fit_are_named(parsed, arguments, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        program.make_setup(parsed(*arguments.split()))


def test_thresholds_choose_the_neighbors(parsed):
    assert program.make_setup(parsed()).threshold == 3
    assert program.make_setup(parsed("--malicious")).threshold == 4
    arguments = ("--protocol=secagg+", "--clients=64")
    # More than half of the clients can only be held by all of them.
    assert program.make_setup(parsed(*arguments, "--threshold=43")).degree == 63
    chosen = program.make_setup(parsed(*arguments))
    assert (
        chosen.sparse and program.make_setup(parsed(*arguments, f"--threshold={chosen.threshold}")) == chosen
    )
    assert program.make_setup(parsed(*arguments, "--neighbors=10")).threshold == 6


def test_rounds_that_do_not_fit_into_a_process_are_refused(parsed):
    for arguments, name in (("--clients=100000", "--clients"), ("--size=200000000", "--size")):
        with pytest.raises(ArgumentError, match=f"^{name}: expected"):
            program.check_memory(program.make_setup(parsed(arguments)))
