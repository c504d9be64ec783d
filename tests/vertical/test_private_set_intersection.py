"""Private set intersection: what is in common and nothing else, by points that are those of the standards."""

import hashlib
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import ProtocolError
from fedrecon.vertical import SESSION, Common, Party, intersect, new_session
from fedrecon.vertical import curve25519 as curve

NOW = bytes(range(SESSION))
HEADER, POINT = 27, 32
WORDS = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)
# RFC 9380, J.4.2: u, the coordinate of Q, and that of P = 8 Q.
VECTORS = (
    ("608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd",
     "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b"),
    ("46f5b22494bfeaa7f232cc8d054be68561af50230234d7d1d63d1d9abeca8da5",
     "7d56d1e08cb0ccb92baf069c18c49bb5a0dcd927eff8dcf75ca921ef7f3e6eeb"),
    ("235fe40c443766ce7e18111c33862d66c3b33267efa50d50f9e8e5d252a40aaa",
     "3fbe66b9c9883d79e8407150e7c2a1c8680bee496c62fabe4619a72b3cabe90f"),
    ("001e92a544463bda9bd04ddbe3d6eed248f82de32f522669efc5ddce95f46f5b",
     "227e0bb89de700385d19ec40e857db6e6a3e634b1c32962f370d26f84ff19683"),
)  # fmt: skip


def seeded(seed):
    rng = np.random.default_rng(seed)
    return lambda size: rng.bytes(size)


def points_of(message):
    body = message[HEADER:]
    return [body[start : start + POINT] for start in range(0, len(body), POINT)]


def transcript(first, second):
    """The four messages, and what each party learns."""
    one, two = first.start(), second.start()
    to_second, to_first = first.answer(two), second.answer(one)
    return (one, two, to_second, to_first), (first.finish(to_first), second.finish(to_second))


def test_the_map_is_that_of_the_standard():
    found = curve.map_to_coordinates([int(u, 16) for u, _ in VECTORS])
    assert found == [int(q, 16) for _, q in VECTORS]


def test_squares_are_those_of_euler_s_criterion():
    rng = np.random.default_rng(0)
    numbers = [int.from_bytes(rng.bytes(32), "little") % curve.PRIME for _ in range(300)]
    numbers += [0, 1, 2, 4, curve.PRIME - 1, curve.PRIME - 2, 2**254]
    expected = [pow(x, (curve.PRIME - 1) // 2, curve.PRIME) < 2 for x in numbers]
    assert curve.are_squares(numbers) == expected and 100 < sum(expected) < 200
    assert curve.are_squares(numbers[:20]) == expected[:20] and curve.are_squares([]) == []


def test_squares_that_were_not_settled_are_raised_to_a_power(monkeypatch):
    monkeypatch.setattr(curve, "_MOST", 9)
    numbers = [pow(2, 7 * k, curve.PRIME) for k in range(300)]
    assert curve.are_squares(numbers) == [k % 2 == 0 for k in range(300)]


@given(st.binary(max_size=8), st.lists(st.binary(max_size=40), max_size=5))
def test_points_are_on_the_curve_and_as_hashed_one_by_one(domain, identifiers):
    found = curve.hash_to_points(domain, identifiers)
    for identifier, point in zip(identifiers, found, strict=True):
        data = bytes([len(domain)]) + domain + identifier
        r = int.from_bytes(hashlib.sha512(data).digest(), "little") % curve.PRIME
        x = int.from_bytes(point, "little")
        assert [x] == curve.map_to_coordinates([r])
        assert pow(x**3 + curve.A * x**2 + x, (curve.PRIME - 1) // 2, curve.PRIME) == 1


@given(WORDS, WORDS, st.booleans())
@settings(max_examples=40)
def test_what_is_found_is_the_intersection_in_one_order(mine, theirs, as_bytes):
    if as_bytes:
        mine, theirs = ([word.encode() for word in words] for words in (mine, theirs))
        if not (mine and theirs):
            return  # of none the kind is not known
    first, second = intersect(Party(mine, NOW), Party(theirs, NOW))
    assert [mine[row] for row in first.rows] == [theirs[row] for row in second.rows]
    assert {mine[row] for row in first.rows} == set(mine) & set(theirs)
    assert (first.others, second.others) == (len(theirs), len(mine))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 9))
def test_only_sizes_tell_runs_with_other_identifiers_apart(common, mine, theirs, more):
    """Outside of the intersection identifiers are replaced by longer ones: every length stays."""
    shared = [f"shared {k}" for k in range(common)]
    lengths = []
    for text in ("x", "another, much longer identifier of a patient"):
        own = [f"a{text}{k}" for k in range(mine)] + shared
        other = shared + [f"b{text}{k}" for k in range(theirs)]
        messages, found = transcript(Party(own, NOW, len(own) + more if more else 0), Party(other, NOW))
        assert [len(one.rows) for one in found] == [common, common]
        assert found[1].others == len(own) + more
        lengths.append([len(message) for message in messages])
    assert lengths[0] == lengths[1]
    # An observer sees how many double multiples agree, and no point of one list in the other.
    one, two, doubled_two, doubled_one = map(points_of, messages)
    assert len(set(doubled_one) & set(doubled_two)) == common
    assert not set(one) & set(two) and not (set(one) | set(two)) & (set(doubled_one) | set(doubled_two))


def test_no_identifier_and_no_hash_of_one_is_in_a_message():
    own, other = [f"patient-{k:04d}" for k in range(20)], [f"patient-{k:04d}" for k in range(10, 30)]
    messages, _ = transcript(Party(own, NOW), Party(other, NOW))
    whole = b"".join(messages)
    every = [text.encode() for text in (*own, *other)]
    points = curve.hash_to_points(b"fedrecon/psi/v1/identifier/" + NOW, every)
    for data, point in zip(every, points, strict=True):
        base = [hashlib.new(kind, data).digest() for kind in ("md5", "sha1", "sha256", "sha512")]
        assert not any(piece[:16] in whole for piece in (data, point, *base))


def test_two_runs_share_nothing_but_their_headers():
    """Keys are new, and points other ones in another session."""
    own = ["a", "b", "c"]
    found = [set(points_of(Party(own, NOW).start())) for _ in range(2)]
    assert not found[0] & found[1]
    same = [set(points_of(Party(own, session, random=seeded(1)).start())) for session in (NOW, new_session())]
    assert not same[0] & same[1]
    assert len(new_session()) == SESSION and new_session() != new_session()


def test_points_are_multiplied_by_the_key_as_in_the_standard():
    key = seeded(3)(POINT)
    party = Party(["only"], NOW, random=seeded(3))
    (point,) = curve.hash_to_points(b"fedrecon/psi/v1/identifier/" + NOW, [b"only"])
    expected = X25519PrivateKey.from_private_bytes(key).exchange(X25519PublicKey.from_public_bytes(point))
    assert points_of(party.start()) == [expected]


def test_identifiers_are_shuffled_and_answers_are_not():
    own = [f"{k}" for k in range(50)]
    key = X25519PrivateKey.from_private_bytes(seeded(5)(POINT))
    sent = points_of(Party(own, NOW, random=seeded(5)).start())
    points = curve.hash_to_points(b"fedrecon/psi/v1/identifier/" + NOW, [one.encode() for one in own])
    straight = [key.exchange(X25519PublicKey.from_public_bytes(point)) for point in points]
    assert sorted(sent) == sorted(straight)
    order = [straight.index(point) for point in sent]
    assert abs(np.corrcoef(order, range(50))[0, 1]) < 0.5
    other = Party(["7"], NOW, random=seeded(6))
    answered = points_of(other.answer(Party(own, NOW, random=seeded(5)).start()))
    second = X25519PrivateKey.from_private_bytes(seeded(6)(POINT))
    assert answered == [second.exchange(X25519PublicKey.from_public_bytes(point)) for point in sent]


def test_text_is_compared_in_one_normal_form():
    first, second = intersect(Party(["Müller", "x"], NOW), Party(["y", "Mu\u0308ller"], NOW))
    assert (first.rows, second.rows) == ((0,), (1,))
    names = np.asarray(["x", "Müller"])
    assert intersect(Party(names, NOW), Party(["Müller"], NOW))[0].rows == (1,)
    assert intersect(Party([], NOW), Party(["y"], NOW)) == (Common((), 1), Common((), 0))


@pytest.mark.parametrize(
    "identifiers, options, named",
    [
        (["a", "b", "a"], {}, "'a' again"),
        (["é", "e\u0301"], {}, "again"),
        ([b"a", b"a"], {}, "b'a' again"),
        (["a", b"a"], {}, "bytes and str"),
        ([1, 2], {}, "int"),
        (["a", ""], {}, "''"),
        (["a", "b "], {}, "'b '"),
        (["a", "b"], {"padded": 1}, "padded"),
        (["a"], {"session": b"short"}, "session"),
    ],
)
def test_wrong_identifiers_are_named(identifiers, options, named):
    with pytest.raises(ArgumentError, match=named):
        Party(identifiers, **{"session": NOW, **options})


def refused(call, *arguments):
    with pytest.raises(ProtocolError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_messages_that_no_honest_party_sends_are_refused():
    party, other = Party(["a", "b"], NOW), Party(["b", "c"], NOW)
    sent = other.start()
    assert "session" in refused(party.answer, Party(["b"], bytes(SESSION)).start())
    assert "text" in refused(party.answer, Party([b"b"], NOW).start())
    assert "header" in refused(party.answer, sent[:20])
    assert "message" in refused(party.answer, b"x" + sent[1:])
    assert "message" in refused(party.answer, sent[:4] + b"\x09" + sent[5:])
    assert "points" in refused(party.answer, sent[:-1])
    assert "points" in refused(party.answer, sent + b"\x00")
    assert "1 again" in refused(party.answer, sent[:HEADER] + 2 * sent[HEADER : HEADER + POINT])
    assert "low order" in refused(party.answer, sent[:-POINT] + bytes(POINT))
    assert "larger" in refused(party.answer, sent[:-POINT] + b"\xff" * POINT)
    assert "finish" in refused(party.finish, sent)
    to_party = other.answer(party.start())
    assert "start" in refused(party.start)
    assert "type" in refused(party.answer, to_party)
    to_other = party.answer(sent)
    assert "a second one" in refused(party.answer, sent)
    assert "type" in refused(party.finish, sent)
    header = to_party[: HEADER - 4] + (1).to_bytes(4, "little")
    assert "those that were sent" in refused(party.finish, header + to_party[HEADER : HEADER + POINT])
    # What was refused has changed nothing.
    assert len(party.finish(to_party).rows) == len(other.finish(to_other).rows) == 1
    assert "finish" in refused(party.finish, to_party)


def test_padding_is_in_no_intersection():
    dummies = seeded(9)
    first, second = intersect(Party(["a", "b"], NOW, 9, dummies), Party(["b"], NOW, 4, os.urandom))
    assert first == Common((1,), 4) and second == Common((0,), 9)
    # The same random bytes at both, which no system's generator gives, pad with the same points.
    assert intersect(Party(["a"], NOW, 3, seeded(1)), Party(["b"], NOW, 3, seeded(1)))[0] == Common((), 3)


def test_the_library_that_is_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(ImportError, match=r"fedrecon\[secure\]"):
        Party(["a"], NOW)
