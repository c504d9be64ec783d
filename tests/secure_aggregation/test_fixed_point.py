"""Fixed-point words: sums decode to plain sums, do not wrap, and rounding at random has no bias."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon import ArgumentError
from fedrecon.secure_aggregation import FixedPoint


def by_fractions(code, x, weight):
    """The word of one number rounded to nearest, with exact rationals."""
    value = Fraction(float(np.float32(x)))
    limit = Fraction(float(np.float32(code.clip)))
    whole = round(max(-limit, min(limit, value)) * 2**code.bits)
    return whole * weight % code.modulus


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20),
    st.integers(0, 12),
    st.integers(1, 16),
    st.sampled_from([2**32, 2**31 - 1, 2**24]),
)
def test_words_are_those_of_exact_arithmetic(numbers, bits, weight, modulus):
    code = FixedPoint(8.0, 0 if modulus == 2**24 else bits, 16, 16, modulus)
    words = code.encode(np.array(numbers), weight)
    assert words.dtype == np.uint32
    assert words.tolist() == [by_fractions(code, x, weight) for x in numbers]


@pytest.mark.parametrize(("bits", "largest"), [(22, 1), (12, 1024)])
def test_sums_decode_to_the_plain_sum(bits, largest):
    rng = np.random.default_rng(0)
    code = FixedPoint(8.0, bits, 16, largest)
    x = rng.normal(0, 3, (16, 1000)).astype(np.float32)
    weights = rng.integers(1, largest + 1, 16)
    for draws in (None, rng):
        total = sum((code.encode(row, w, draws) for row, w in zip(x, weights, strict=True)), np.uint32(0))
        assert total.dtype == np.uint32
        plain = weights @ np.clip(x.astype(float), -8, 8)
        step = 0.5 if draws is None else 1
        assert np.abs(code.decode(total) - plain).max() <= step * weights.sum() * 2.0**-bits


@pytest.mark.parametrize("modulus", [2**32, 2**31 - 1, 2**20])
def test_all_clients_at_the_clip_do_not_wrap_and_one_bit_more_is_refused(modulus):
    code = FixedPoint.finest(1.5, 7, 3, modulus)
    for sign in (-1, 1):
        words = code.encode(np.full(4, sign * 1e9), 3).astype(np.int64)
        np.testing.assert_array_equal(code.decode(7 * words), np.full(4, sign * 7 * 3 * 1.5))
    with pytest.raises(ArgumentError, match="do not wrap"):
        FixedPoint(1.5, code.bits + 1, 7, 3, modulus)


def test_the_condition_is_the_one_stated():
    # 16 (8 2^f + 1) is below 2^31 with f = 23, and above with f = 24.
    assert FixedPoint.finest(8.0, 16).bits == 23
    # n (c + 1) = 2^31 exactly is refused, one client fewer is not.
    FixedPoint(2.0**20 - 1, 0, 2047)
    with pytest.raises(ArgumentError, match="bits"):
        FixedPoint(2.0**20 - 1, 0, 2048)


def test_rounding_at_random_has_no_bias():
    code = FixedPoint(8.0, 4, 16)
    rng = np.random.default_rng(1)
    for x in (0.3, -0.3, 1.7, -7.99, 0.0625, 0.001):
        found = code.decode(code.encode(np.full(40_000, x), 1, rng))
        error = found.std() / np.sqrt(found.size)
        assert abs(found.mean() - np.float32(x)) <= 4 * error + 2.0**-24, x
        assert np.abs(found - x).max() <= 2.0**-4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"clip": 0.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": 1e39}, "clip"),
        ({"bits": -1}, "bits"),
        ({"bits": 2.0}, "bits"),
        ({"clients": 0}, "clients"),
        ({"largest_weight": 0}, "largest_weight"),
        ({"modulus": 2**33}, "modulus"),
        ({"modulus": True}, "modulus"),
    ],
)
def test_parameters_out_of_range_are_named(change, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        FixedPoint(**{"clip": 1.0, "bits": 8, "clients": 4} | change)


def test_numbers_and_weights_out_of_range_are_named():
    code = FixedPoint(1.0, 8, 4, 3)
    for bad in (np.nan, np.inf):
        with pytest.raises(ArgumentError, match="x: expected finite numbers, found 1 that are not"):
            code.encode(np.array([0.0, bad]))
    for weight in (0, 4, 1.5):
        with pytest.raises(ArgumentError, match="weight: expected an integer from 1 to 3"):
            code.encode(np.zeros(2), weight)
    with pytest.raises(ArgumentError, match="draws"):
        code.encode_with(np.zeros(2), np.zeros(3, np.uint32))
