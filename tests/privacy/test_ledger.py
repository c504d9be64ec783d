"""The ledger of privacy: what it costs, and that no crash makes it cost less."""

import json
import math
import subprocess
import sys
import threading

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.errors import ArgumentError
from fedrecon.privacy import Ledger, Release, read_ledger
from fedrecon.privacy.events import RenyiCurveDpEvent, event_from_json, event_to_json

GAUSSIAN = dp_accounting.GaussianDpEvent(2.0)
ZERO_CONCENTRATED = dp_accounting.ZCDpEvent(0.125)
SAMPLED = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.1))


def release(round=0, *, site="north", event=ZERO_CONCENTRATED, **fields):
    return Release(site, "site", "train", round, event, 1e-5, **fields)


def test_epsilon_is_that_of_dp_accounting(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    event = dp_accounting.SelfComposedDpEvent(SAMPLED, 10)
    spent = [ledger.spend([release(round, event=event)])[0] for round in range(20)]
    assert spent == sorted(spent) and spent[0] < spent[-1]
    for rounds in (1, 20):
        direct = dp_accounting.pld.PLDAccountant().compose(SAMPLED, 10 * rounds).get_epsilon(1e-5)
        assert direct * (1 - 1e-9) <= spent[rounds - 1] <= 1.005 * direct
    assert [line["epsilon"] for line in read_ledger(ledger.path)] == spent
    assert ledger.epsilon("north", "site", 1e-5) == spent[-1]
    assert ledger.epsilon("south", "site", 1e-5) == ledger.epsilon("north", "patient", 1e-5) == 0
    # Two halves on two days are one run, whatever the events are grouped in.
    other = Ledger(tmp_path / "other.jsonl")
    other.spend([release(0, event=dp_accounting.ComposedDpEvent([event] * 7))])
    other = Ledger(tmp_path / "other.jsonl")
    assert other.spend([release(1, event=dp_accounting.SelfComposedDpEvent(event, 13))]) == (spent[-1],)


def test_events_that_one_accountant_does_not_take_go_to_the_other(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    orders = tuple(float(order) for order in range(2, 65))
    curve = RenyiCurveDpEvent("a Gaussian", orders, tuple(order / 8 for order in orders))
    (epsilon,) = ledger.spend([release(event=curve)])
    gaussian = dp_accounting.rdp.RdpAccountant(orders).compose(GAUSSIAN).get_epsilon(1e-5)
    assert epsilon == pytest.approx(gaussian, rel=0.01)
    laplace = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.LaplaceDpEvent(1.0))
    (both,) = ledger.spend([release(1, event=laplace)])
    halves = dp_accounting.pld.PLDAccountant().compose(laplace).get_epsilon(5e-6)
    halves += dp_accounting.rdp.RdpAccountant(orders).compose(GAUSSIAN).get_epsilon(5e-6)
    assert both == pytest.approx(Ledger(tmp_path / "ledger.jsonl").epsilon("north", "site", 1e-5))
    assert both == pytest.approx(halves, rel=0.005)
    assert [line["accountant"] for line in read_ledger(ledger.path)] == [
        "rdp",
        "pld 0.002 at half of delta + rdp at half of delta",
    ]
    assert ledger.spend([release(2, event=dp_accounting.NonPrivateDpEvent())]) == (math.inf,)
    assert read_ledger(ledger.path)[-1]["epsilon"] == math.inf
    with pytest.raises(ArgumentError, match="event: expected one that an accountant takes"):
        ledger.spend([release(3, event=dp_accounting.UnsupportedDpEvent())])
    assert ledger.count == 3


@pytest.mark.parametrize(
    "event",
    [
        GAUSSIAN,
        dp_accounting.SelfComposedDpEvent(SAMPLED, 3),
        dp_accounting.ComposedDpEvent([GAUSSIAN, dp_accounting.LaplaceDpEvent(0.1 + 0.2)]),
        dp_accounting.dp_event.MixtureOfGaussiansDpEvent(1.0, (0.0, 1.0), (0.25, 0.75)),
        dp_accounting.dp_event.RepeatAndSelectDpEvent(GAUSSIAN, 4.0, math.inf),
        RenyiCurveDpEvent("any", (2.0, 3.0), (0.1, math.inf)),
    ],
)
def test_events_survive_json(event):
    text = event_to_json(event)
    assert event_from_json(text) == event
    assert type(event_from_json(text)) is type(event)
    assert json.loads(text) == json.loads(json.dumps(json.loads(text), allow_nan=False))


def test_the_same_draw_counts_once_and_another_counts_again(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    once = ledger.spend([release(draw="key 7")])
    assert Ledger(tmp_path / "ledger.jsonl").spend([release(draw="key 7"), release(draw="key 7")]) == 2 * once
    assert ledger.count == 1
    # Another draw, another noise, and noise without a name are other releases.
    others = [release(draw="key 8"), release(draw="key 7", event=GAUSSIAN), release(), release()]
    epsilons = ledger.spend(others)
    assert (*once, *epsilons) == tuple(sorted({*once, *epsilons}))
    assert ledger.count == 5


def test_budgets(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    (spent,) = ledger.spend([release(draw="1")])
    assert ledger.remaining("north", "site", spent + 1, 1e-5) == pytest.approx(1)
    assert ledger.remaining("north", "site", spent - 1, 1e-5) == 0
    more = [release(1), release(1, site="south")]
    exceeding = ledger.would_exceed(more, spent)
    assert exceeding.keys() == {("north", "site")} and exceeding["north", "site"] > spent
    assert not ledger.would_exceed([release(draw="1")], spent)
    assert ledger.count == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "image"}, "unit: expected example or patient or site, found 'image'"),
        ({"delta": 0.0}, "delta: expected a number between 0 and 1, found 0.0"),
        ({"site": 3}, "site: expected a name, found 3"),
        ({"relation": "REPLACE"}, "relation: expected ADD_OR_REMOVE_ONE or"),
        ({"relation": "REPLACE_ONE"}, "relation: expected ADD_OR_REMOVE_ONE, as in earlier releases"),
    ],
)
def test_wrong_releases_are_refused_and_write_nothing(tmp_path, fields, message):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.spend([release()])
    with pytest.raises(ArgumentError, match=message):
        ledger.spend([release(1), release(2)._replace(**fields)])
    assert ledger.count == 1


@pytest.fixture(scope="module")
def three_lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    Ledger(path).spend([release(round, draw=f"key {round}") for round in range(3)])
    return path.read_bytes()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_cut_line_counts_if_all_of_its_release_is_there(three_lines, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "ledger.jsonl"
    length = data.draw(st.integers(0, len(three_lines)))
    path.write_bytes(three_lines[:length])
    ends = [i for i, byte in enumerate(three_lines) if byte == ord("\n")]
    chains = [three_lines.rindex(b', "chain"', 0, end) for end in ends]
    expected = sum(length >= chain for chain in chains)
    assert len(read_ledger(path)) == expected and path.read_bytes() == three_lines[:length]
    ledger = Ledger(path)
    assert ledger.count == expected
    assert path.read_bytes() == three_lines[: ends[expected - 1] + 1 if expected else 0]
    ledger.spend([release(round, draw=f"key {round}") for round in range(3)])
    assert path.read_bytes() == three_lines


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_by_line(three_lines, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("garbled") / "ledger.jsonl"
    place = data.draw(st.integers(0, len(three_lines) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != three_lines[place]))
    path.write_bytes(three_lines[:place] + bytes([byte]) + three_lines[place + 1 :])
    line = three_lines[:place].count(b"\n") + 1
    with pytest.raises(ArgumentError, match=rf"ledger\.jsonl, line {line}: expected"):
        Ledger(path)


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_lines_doubled_taken_out_or_in_another_order_are_refused(three_lines, tmp_path_factory, order):
    path = tmp_path_factory.mktemp("order") / "ledger.jsonl"
    lines = three_lines.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order))
    if order == list(range(len(order))):
        assert Ledger(path).count == len(order)
        return
    first = next(i for i, line in enumerate(order) if line != i)
    with pytest.raises(ArgumentError, match=rf"line {first + 1}: expected the line that was written after"):
        read_ledger(path)


def test_lines_of_another_version_and_a_shortened_file_are_refused(three_lines, tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(three_lines.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(ArgumentError, match=r"line 1: expected version 1, found 2"):
        Ledger(path)
    path.write_bytes(three_lines)
    ledger = Ledger(path)
    path.write_bytes(three_lines[: three_lines.index(b"\n") + 1])
    with pytest.raises(ArgumentError, match=r"expected the .* bytes of before"):
        ledger.epsilon("north", "site", 1e-5)


def test_a_full_disk_uses_nothing_and_loses_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.spend([release(0)])
    from fedrecon.privacy import ledger as module

    def full(descriptor, content):
        written(descriptor, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    written = module._write
    with monkeypatch.context() as context:
        context.setattr(module, "_write", full)
        with pytest.raises(OSError, match="No space"):
            ledger.spend([release(1)])
    assert ledger.count == 1 and ledger.spend([release(2)]) and ledger.count == 2


def test_two_ledgers_of_one_file_see_each_other(tmp_path):
    ledgers = [Ledger(tmp_path / "ledger.jsonl") for _ in range(2)]

    def spend(ledger):
        for round in range(20):
            ledger.spend([release(round)])

    threads = [threading.Thread(target=spend, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ledger.count for ledger in ledgers] == [40, 40]
    assert len({ledger.epsilon("north", "site", 1e-5) for ledger in ledgers}) == 1


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from fedrecon.privacy import ledger as module
from fedrecon.files import write_atomically
import dp_accounting

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
path, used, checkpoint = folder / "ledger.jsonl", folder / "used", folder / "checkpoint"
event, random = dp_accounting.ZCDpEvent(1e-3), random.Random(0)

def in_pieces(descriptor, content):
    for start in range(0, len(content), 40):
        os.write(descriptor, content[start : start + 40])

def release(round, draw):
    return module.Release("north", "site", "train", round, event, 1e-5, draw)

def train():
    ledger = module.Ledger(path)
    descriptor = os.open(used, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    round = int(checkpoint.read_text()) if checkpoint.exists() else 0
    fresh = os.getpid()
    while True:
        ledger.spend([release(round, f"key {round}"), release(round, f"fresh {fresh} {round}")])
        os.write(descriptor, f"key {round}\\nfresh {fresh} {round}\\n".encode())
        round += 1
        if round % 3 == 0:
            write_atomically(checkpoint, str(round).encode())

module._write = in_pieces
for kill in range(kills):
    child = os.fork()
    if not child:
        train()
    time.sleep(random.uniform(0.002, 0.04))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not used.exists():
        continue
    words = used.read_bytes().split(b"\\n")[:-1]
    ledger = module.Ledger(path)
    accountant = dp_accounting.rdp.RdpAccountant().compose(event, len(set(words)))
    assert ledger.epsilon("north", "site", 1e-5) >= accountant.get_epsilon(1e-5) * 0.98, kill
    assert set(words) <= {line["draw"].encode() for line in module.read_ledger(path)}, kill
assert len(words) > kills and len(set(words)) < len(words)
print(len(words), ledger.count)
"""


@pytest.mark.slow
def test_two_hundred_kills_never_make_the_ledger_cheaper(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), "200"], capture_output=True, text=True, timeout=80
    )
    assert done.returncode == 0, done.stderr
