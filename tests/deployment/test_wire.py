"""What travels: typed arrays and JSON, and nothing else."""

import contextlib
import hashlib
import json
import struct

import hypothesis.extra.numpy as arrays
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.deployment import as_tree, named, pack, unpack
from fedrecon.deployment.wire import DTYPES, MAGIC, shapes_digest
from fedrecon.errors import ArgumentError

_ARRAYS = st.dictionaries(
    st.text(max_size=12),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
    ),
    max_size=4,
)
_ABOUT = st.dictionaries(
    st.text(max_size=6), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6)
)


@settings(max_examples=25, deadline=None)
@given(_ABOUT, _ARRAYS)
def test_what_is_packed_is_unpacked_bit_for_bit(about, found):
    packet = unpack(pack(about, found))
    assert packet.about == about and packet.arrays.keys() == found.keys()
    for name, array in found.items():
        assert (packet.arrays[name].dtype, packet.arrays[name].shape) == (array.dtype, array.shape)
        assert packet.arrays[name].tobytes() == array.tobytes()


@settings(max_examples=25, deadline=None)
@given(_ABOUT, _ARRAYS, st.data())
def test_every_changed_or_cut_byte_is_found(about, found, data):
    message = pack(about, found)
    place = data.draw(st.integers(0, len(message) - 1))
    other = bytearray(message)
    other[place] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(other), message[:place], message + b"\0"):
        with pytest.raises(ArgumentError):
            unpack(wrong)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_with_a_right_digest_are_refused_or_arrays(body):
    signed = _signed(MAGIC + struct.pack("<Q", len(body)) + body)
    with contextlib.suppress(ArgumentError):
        unpack(signed)


def _signed(body):
    return body + hashlib.sha256(body).digest()


def _with_header(header, rest=b""):
    text = json.dumps(header).encode()
    return _signed(MAGIC + struct.pack("<Q", len(text)) + text + rest)


@pytest.mark.parametrize(
    ("item", "rest"),
    [
        (["a", "object", [1]], b"\0" * 8),
        (["a", "float32", [-1]], b""),
        (["a", "float32", [2]], b"\0" * 4),
        (["a", "float32", [1]], b"\0" * 8),
        (["a", "float32", [2**39]], b""),
        (["a", "float32", 1], b"\0" * 4),
        (["a", "float32", [True]], b"\0" * 4),
        (["a", "bool", [1]], b"\2"),
        (["a", "float32"], b""),
        ([1, "float32", []], b"\0" * 4),
    ],
)
def test_arrays_of_no_known_kind_are_refused(item, rest):
    with pytest.raises(ArgumentError):
        unpack(_with_header({"about": {}, "arrays": [item]}, rest))


def test_a_name_comes_once_and_sizes_have_a_limit():
    twice = {"about": {}, "arrays": [["a", "int8", []]] * 2}
    with pytest.raises(ArgumentError, match="once"):
        unpack(_with_header(twice, b"\0\0"))
    message = pack({}, {"a": np.zeros(100)})
    with pytest.raises(ArgumentError, match="at most 50 bytes"):
        unpack(message, 50)
    with pytest.raises(ArgumentError, match="object"):
        pack({}, {"a": np.asarray(None)})
    with pytest.raises(ArgumentError, match="JSON"):
        pack({"a": float("nan")}, {})


def test_a_tree_comes_back_and_another_one_is_named():
    tree = {"a": np.ones((2, 3), np.float32), "b": (np.arange(2), None)}
    arrays_ = named(tree, "x") | {"y:['a']": np.zeros(1)}
    back = as_tree(arrays_, tree, "x")
    assert jax.tree.all(jax.tree.map(np.array_equal, back, tree))
    with pytest.raises(ArgumentError, match=r"x:\['a'\].*float32 \(2, 3\).*\(3, 2\)"):
        as_tree(arrays_ | {"x:['a']": np.ones((3, 2), np.float32)}, tree, "x")
    with pytest.raises(ArgumentError, match=r"x:\['a'\].*float64"):
        as_tree(arrays_ | {"x:['a']": np.ones((2, 3))}, tree, "x")
    with pytest.raises(ArgumentError, match=r"x:\['c'\]"):
        as_tree(arrays_ | {"x:['c']": np.ones(1)}, tree, "x")
    with pytest.raises(ArgumentError, match="missing"):
        as_tree({}, tree, "x")
    assert shapes_digest(tree) == shapes_digest({"b": tree["b"], "a": tree["a"] * 2})
    assert shapes_digest(tree) != shapes_digest({**tree, "a": tree["a"].T})
