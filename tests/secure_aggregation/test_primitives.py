"""Primitives against published vectors, and what they are put together for."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from fedrecon.secure_aggregation import Identity, ProtocolError, primitives
from fedrecon.secure_aggregation.primitives import Context, HybridKeys, job_bytes
from tests.secure_aggregation.rounds import changed, seeded

VECTORS = json.loads(Path(__file__).with_name("ml_kem_768.json").read_text())["vectors"]
CONTEXT = Context(job_bytes("job"), 7)


def raw(*texts):
    return bytes.fromhex("".join(texts))


def keys_of(private, seed=bytes(64)):
    """Keys with these private halves."""
    exchange = x25519.X25519PrivateKey.from_private_bytes(private)
    kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    public = exchange.public_key().public_bytes_raw() + kem.public_key().public_bytes_raw()
    return HybridKeys(exchange, kem, public)


# RFC 7748, section 5.2.
@pytest.mark.parametrize(
    ("scalar", "point", "shared"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_exchange_is_x25519(scalar, point, shared):
    assert keys_of(raw(scalar)).exchange(raw(point)) == raw(shared)


# RFC 5869, A.1 and A.3.
@pytest.mark.parametrize(
    ("salt", "info", "derived"),
    [
        (
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_keys_are_derived_by_hkdf(salt, info, derived):
    assert primitives.derive(b"\x0b" * 22, raw(info), 42, raw(salt)) == raw(derived)


@pytest.mark.parametrize("vector", VECTORS, ids=["0", "1"])
def test_encapsulation_is_ml_kem_768(vector):
    keys = keys_of(bytes(31) + b"\x08", raw(vector["seed"]))
    assert hashlib.sha256(keys.public[32:]).hexdigest() == vector["public_sha256"]
    assert keys.decapsulate(raw(vector["ciphertext"])) == raw(vector["shared_secret"])
    assert keys.decapsulate(raw(vector["bad_ciphertext"])) == raw(vector["rejection_secret"])
    secret, ciphertext = primitives.encapsulate(keys.public)
    assert (
        keys.decapsulate(ciphertext) == secret and len(keys.public) == 32 + 1184 and len(ciphertext) == 1088
    )


def test_sealed_boxes_are_chacha20_poly1305():
    # RFC 8439, section 2.8.2.
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    key, nonce = bytes(range(0x80, 0xA0)), raw("070000004041424344454647")
    associated = raw("50515253c0c1c2c3c4c5c6c7")
    sealed = primitives.seal(key, nonce, plain, associated)
    assert sealed == raw(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6",
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36",
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    )
    assert primitives.open_sealed(key, nonce, sealed, associated, "box") == plain
    for arguments in (
        (changed(key, 0), nonce, sealed, associated),
        (key, changed(nonce, 3), sealed, associated),
        (key, nonce, changed(sealed, 20), associated),
        (key, nonce, changed(sealed, -1), associated),
        (key, nonce, sealed, changed(associated, 5)),
    ):
        with pytest.raises(ProtocolError, match=r"^box: expected bytes that its sender sealed"):
            primitives.open_sealed(*arguments, "box")


# RFC 8032, section 7.1, tests 1 and 2.
@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_signatures_are_ed25519(secret, public, message, signature):
    identity = Identity.from_secret(raw(secret))
    assert identity.public == raw(public) and identity.sign(raw(message)) == raw(signature)
    primitives.verify(raw(public), raw(signature), raw(message), "signature")
    for arguments in (
        (changed(raw(public), 1), raw(signature), raw(message)),
        (raw(public), changed(raw(signature), 1), raw(message)),
        (raw(public), raw(signature), raw(message) + b"!"),
        (b"", raw(signature), raw(message)),
    ):
        with pytest.raises(ProtocolError, match=r"^signature: expected a signature by the known key"):
            primitives.verify(*arguments, "signature")


# NIST's AESAVS, KeySbox for AES-256: the block 0, which is the first of the counter.
@pytest.mark.parametrize(
    ("key", "block"),
    [
        (
            "c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558",
            "46f2fb342d6f0ab477476fc501242c5f",
        ),
        (
            "28d46cffa158533194214a91e712fc2b45b518076675affd910edeca5f41ac64",
            "4bf3b0a69aeb6657794f2901b1440ad4",
        ),
    ],
)
def test_masks_are_aes_256_in_counter_mode(key, block):
    size = 3 * 2**16 + 5
    words = primitives.mask_words(raw(key), size)
    assert words[:4].astype("<u4").tobytes() == raw(block)
    # Blocks of the counter one by one, by another mode.
    encrypt = Cipher(algorithms.AES256(raw(key)), modes.ECB()).encryptor()
    blocks = encrypt.update(b"".join(i.to_bytes(16, "big") for i in range(-(-size // 4))))
    np.testing.assert_array_equal(words, np.frombuffer(blocks, "<u4")[:size])


def test_every_bit_of_a_key_changes_all_of_its_mask():
    key = bytes(range(32))
    streams = {primitives.mask_words(key, 8).tobytes()}
    for bit in range(256):
        streams.add(primitives.mask_words(changed(key, bit // 8, 1 << bit % 8), 8).tobytes())
    # Keys whose words give the same when folded by exclusive or.
    for first in range(8):
        other = bytearray(key)
        other[4 * first] ^= 1
        other[4 * ((first + 1) % 8)] ^= 1
        streams.add(primitives.mask_words(bytes(other), 8).tobytes())
    assert len(streams) == 1 + 256 + 8
    assert not set.intersection(*({s[4 * i : 4 * i + 4] for i in range(8)} for s in streams))


def test_masks_reach_both_ends_and_are_uniform():
    words = primitives.mask_words(bytes(32), 2**20)
    # The chance that none of 2^20 words is in the last 2^16 is exp(-16).
    assert words.min() < 2**16 and words.max() >= 2**32 - 2**16
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    added = np.full(1000, 5, np.uint32)
    primitives.add_mask(added, bytes(32))
    np.testing.assert_array_equal(added, words[:1000] + np.uint32(5))
    primitives.add_mask(added, bytes(32), subtract=True)
    assert (added == 5).all()


def test_words_of_a_field_are_drawn_again_when_beyond():
    words = primitives.field_words(bytes(32), 2**18, 2**31 - 1)
    drawn = primitives.mask_words(bytes(32), 2**18) & np.uint32(2**31 - 1)
    np.testing.assert_array_equal(words, drawn)
    # Of a field of few elements half are beyond: the others come in order, and no number twice as often.
    few = primitives.field_words(bytes(32), 3000, 2**30 + 2**29)
    np.testing.assert_array_equal(few, drawn[drawn < 2**30 + 2**29][:3000])


@pytest.mark.parametrize("broken", ["x25519", "ml-kem"])
def test_the_agreement_stands_when_one_half_is_known(broken, monkeypatch):
    """With either secret replaced by a known value, keys still agree, and follow the other to the bit."""
    random = seeded(0)
    alice, bob = (HybridKeys.from_secret(random(32)) for _ in range(2))
    if broken == "x25519":
        monkeypatch.setattr(HybridKeys, "exchange", lambda self, public: bytes(32))
    secret, ciphertext = primitives.encapsulate(bob.public)
    theirs = bob.decapsulate(ciphertext)
    if broken == "ml-kem":
        secret = theirs = bytes(32)
    info = CONTEXT.info("mask", 0, 1)
    key = alice.agree(bob.public, secret, info, b"seen")
    assert bob.agree(alice.public, theirs, info, b"seen") == key
    # Someone who knows the broken half and guesses the other gets other keys.
    for guess in (bytes(32), changed(secret, 0), changed(secret, 31, 128)):
        if broken == "x25519":
            assert primitives.combine(bytes(32), guess, info, b"seen") != key
    if broken == "ml-kem":
        exchanged = alice.exchange(bob.public)
        assert primitives.combine(exchanged, bytes(32), info, b"seen") == key
        for guess in (bytes(32), changed(exchanged, 0), changed(exchanged, 31, 128)):
            assert primitives.combine(guess, bytes(32), info, b"seen") != key


def test_a_key_is_hkdf_of_both_secrets():
    key = primitives.combine(b"x" * 32, b"m" * 32, b"info", b"seen")
    assert key == primitives.derive(b"x" * 32 + b"m" * 32, b"info", 32, hashlib.sha256(b"seen").digest())


def test_keys_of_a_secret_are_the_same_and_of_others_not():
    secret = bytes(range(32))
    assert HybridKeys.from_secret(secret).public == HybridKeys.from_secret(secret).public
    halves = {HybridKeys.from_secret(changed(secret, i)).public[:32] for i in range(32)}
    assert len(halves) == 32
    assert "object at" not in repr(HybridKeys.from_secret(secret))


def test_public_keys_of_low_order_or_form_are_refused():
    keys = HybridKeys.from_secret(bytes(32))
    with pytest.raises(ProtocolError, match="public key"):
        keys.exchange(bytes(1216))
    with pytest.raises(ProtocolError, match="public key"):
        primitives.encapsulate(keys.public[:32] + b"\xff" * 1184)


def test_domains_differ_by_each_of_their_parts():
    domains = [
        context.info(purpose, first, second)
        for context in (CONTEXT, Context(job_bytes("job2"), 7), Context(job_bytes("job"), 8))
        for purpose in ("mask", "share", "shar")
        for first in (0, 1)
        for second in (0, 1, 256)
    ]
    assert len(set(domains)) == 3 * 3 * 2 * 3
    assert all(domain.startswith(b"fedrecon/secagg/v1") for domain in domains)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    primitives._library.cache_clear()
    with pytest.raises(ImportError, match=r"cryptography, 50 or later: pip install 'fedrecon\[secure\]'"):
        Identity.from_secret(bytes(32))
