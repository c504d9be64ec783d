"""What sites tell of their data, and stand-ins of the same shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from fedrecon.data import ClientData
from fedrecon.deployment import Facts
from fedrecon.deployment.roster import padded, read_facts, stand_in
from fedrecon.errors import ArgumentError


def data(images, extra=2, name="a"):
    """Of patients with these numbers of images each."""
    volume = np.repeat(np.arange(len(images)), images).astype(np.int32)
    valid = np.arange(len(volume) + extra) < len(volume)
    volume = np.pad(volume, (0, extra))
    return ClientData({"volume": volume[None], "image": np.ones((1, len(valid), 2))}, valid[None], (name,))


@limits(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3))
def test_stand_ins_have_the_counts_and_patients_of_the_facts(sites):
    roster = [Facts.of(data(images, name=str(n))) for n, images in enumerate(sites)]
    assert [read_facts(facts._asdict()) for facts in roster] == roster
    made = stand_in(roster)
    assert made.counts.tolist() == [sum(images) for images in sites]
    assert made.valid.shape[1] == max(facts.length for facts in roster)
    for facts, images, volume, valid in zip(roster, sites, made.examples["volume"], made.valid, strict=True):
        owned = np.unique(volume[valid], return_counts=True)[1]
        assert (len(owned), owned.max()) == (len(images), max(images)) == (facts.patients, facts.images)
    assert not np.any(made.examples["image"])


def test_other_arrays_are_named_with_their_site():
    one, other = Facts.of(data([1, 2])), Facts.of(data([2, 2], name="b"))
    with pytest.raises(ArgumentError, match=r"data of b: image.*float64.*\[2\].*float32"):
        stand_in([one, other._replace(schema={**other.schema, "image": ["float32", [2]]})])
    with pytest.raises(ArgumentError, match="data of b: label"):
        stand_in([one, other._replace(schema={**other.schema, "label": ["int32", []]})])
    with pytest.raises(ArgumentError, match="a name for each"):
        stand_in([one, one])
    for wrong in ({"examples": -1}, {"examples": 99}, {"images": 9}, {"patients": "2"}, {"schema": []}):
        with pytest.raises(ArgumentError):
            read_facts({**one._asdict(), **wrong})
    with pytest.raises(ArgumentError):
        read_facts([])


def test_padding_is_not_valid_and_never_cuts():
    made = padded(data([2, 1]), 9)
    assert made.valid.shape == (1, 9) and made.counts.tolist() == [3]
    with pytest.raises(ArgumentError, match="at least 5"):
        padded(data([2, 1]), 3)
