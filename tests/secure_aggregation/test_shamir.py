"""Shares: any t give the secret, t - 1 fit every secret, coefficients are uniform in the field."""

from itertools import combinations

import pytest

from fedrecon.secure_aggregation import ProtocolError, shamir
from tests.secure_aggregation.rounds import changed, seeded

SECRET = bytes(range(200, 232))


def prime(n, rounds=24):
    """Miller and Rabin's test with small bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 2 + rounds):
        power = pow(base, odd, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_first_above_32_bytes():
    assert prime(shamir.PRIME)
    assert not any(prime(n) for n in range(2**256 + 1, shamir.PRIME, 2))


@pytest.mark.parametrize(("threshold", "holders"), [(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)])
def test_any_t_shares_give_the_secret(threshold, holders):
    shares = shamir.split(SECRET, threshold, range(1, holders + 1), seeded(1))
    assert all(len(share) == 33 for share in shares.values())
    for count in range(threshold, holders + 1):
        for points in combinations(shares, count):
            assert shamir.recover({x: shares[x] for x in points}, threshold, "shares") == SECRET
    for points in combinations(shares, threshold - 1):
        with pytest.raises(ProtocolError, match=f"at least {threshold} shares, found {threshold - 1}"):
            shamir.recover({x: shares[x] for x in points}, threshold, "shares")


def test_shares_are_a_polynomial_with_the_drawn_coefficients():
    # 257 bits at a time: all ones are beyond the field, 2^256 + 5 is in it.
    numbers = (2**257 - 1, 2**256 + 5, 2**256 + 297, 7)
    drawn = iter([number.to_bytes(33, "little") for number in numbers])
    shares = shamir.split(SECRET, 3, [1, 4, 9], lambda size: next(drawn))
    secret = int.from_bytes(SECRET, "little")
    for x, share in shares.items():
        value = (secret + (2**256 + 5) * x + 7 * x * x) % shamir.PRIME
        assert int.from_bytes(share, "little") == value
    assert next(drawn, None) is None


def test_fewer_shares_fit_every_secret():
    """Two of three-of-n shares and any secret lie on one polynomial: they say nothing about it."""
    shares = shamir.split(SECRET, 3, [1, 2, 3], seeded(2))
    for other in (bytes(32), b"\xff" * 32):
        values = {0: int.from_bytes(other, "little")}
        values |= {x: int.from_bytes(shares[x], "little") for x in (1, 2)}
        weights = shamir.lagrange_weights(3, (0, 1, 2), shamir.PRIME)
        third = sum(values[i] * weights[i] for i in (0, 1, 2)) % shamir.PRIME
        forged = {1: shares[1], 2: shares[2], 3: third.to_bytes(33, "little")}
        assert shamir.recover(forged, 3, "shares") == other


def test_a_false_share_is_noticed_where_there_is_one_more():
    shares = shamir.split(SECRET, 3, [1, 2, 3, 4], seeded(3))
    for x in (1, 2, 3, 4):
        with pytest.raises(ProtocolError, match="do not agree"):
            shamir.recover(shares | {x: changed(shares[x], 0)}, 3, "shares")
    with pytest.raises(ProtocolError, match="in the field"):
        shamir.recover(shares | {2: b"\xff" * 33}, 3, "shares")


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "name"),
    [
        (b"short", 1, [1], "secret"),
        (SECRET, 0, [1], "threshold"),
        (SECRET, 3, [1, 2], "threshold"),
        (SECRET, 2, [1, 1], "points"),
        (SECRET, 2, [0, 1], "points"),
    ],
)
def test_arguments_are_named(secret, threshold, points, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        shamir.split(secret, threshold, points, seeded(0))
