"""Every named algorithm gives the numbers that were recorded before methods became values."""

import functools
import json

import numpy as np
import pytest

from tests.federated.reference import record

RECORDED = json.loads(record.FILE.read_text())


@functools.cache
def made():
    return record.algorithms()


def flat(value, path=""):
    """(path, number) of everything in nested dicts and lists."""
    if isinstance(value, dict):
        return [item for name, inner in value.items() for item in flat(inner, f"{path}.{name}")]
    if isinstance(value, list):
        return [item for number, inner in enumerate(value) for item in flat(inner, f"{path}[{number}]")]
    return [(path, value)]


# Kinds of methods that few other quick tests see, and each topology, in the default selection.
QUICK = {
    ("star", "fedavg_clip"),
    ("star", "scaffold"),
    ("star", "feddyn"),
    ("star", "fednova_proximal"),
    ("star", "fedrep"),
    ("star", "moon"),
    ("ring", "ditto"),
    ("gossip", "pfedme"),
    ("asynchronous", "fednova"),
    ("streamed", "moon"),
}


def cases():
    """All cases by name, most of them slow."""
    for case in record.cases():
        yield pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case))


@pytest.mark.parametrize(("topology", "name"), list(cases()))
def test_numbers_are_those_recorded(topology, name):
    found = flat(record.train(made()[name], topology))
    expected = flat(RECORDED[f"{topology}/{name}"])
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, value), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-6, err_msg=path)
