"""The cryptography of secure sums, by the library ``cryptography``: keys, masks, sealed boxes, signatures.

Everything secret comes from 32 random bytes: private keys are derived from them, as are the streams of masks.
Nothing here is homemade, and nothing takes a seed of fewer bits.
"""

import dataclasses
import functools
import hashlib
import struct
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from fedrecon.secure_aggregation.errors import ProtocolError

Random = Callable[[int], bytes]
"""Gives that many random bytes; `os.urandom` unless a test needs the same again."""

SECRET = 32
X25519_PUBLIC = 32
ML_KEM_PUBLIC = 1184
ML_KEM_CIPHERTEXT = 1088
PUBLIC = X25519_PUBLIC + ML_KEM_PUBLIC
NONCE = 12
TAG = 16
SIGNATURE = 64
JOB = 16

_DOMAIN = b"fedrecon/secagg/v1"
# Words that a mask is made of at a time: half of a usual second-level cache with what it is added to.
_CHUNK = 1 << 16


@functools.cache
def _library() -> types.SimpleNamespace:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise ImportError(
            "secure sums need the library cryptography, 50 or later: pip install 'fedrecon[secure]'"
        ) from error
    return types.SimpleNamespace(
        exceptions=exceptions,
        hashes=hashes,
        ed25519=ed25519,
        mlkem=mlkem,
        x25519=x25519,
        Cipher=Cipher,
        algorithms=algorithms,
        modes=modes,
        ChaCha20Poly1305=ChaCha20Poly1305,
        HKDF=HKDF,
    )


@dataclasses.dataclass(frozen=True)
class Context:
    """The round of a job that keys and messages belong to.

    Attributes:
      job: 16 bytes, see `job_bytes`.
      round: of the job, below 2^32.
    """

    job: bytes
    round: int

    def info(self, purpose: str, first: int, second: int) -> bytes:
        """Bytes of these and no other values: the domain of a key or a signature."""
        text = purpose.encode()
        return _DOMAIN + struct.pack(
            f"<{JOB}sIB{len(text)}sII", self.job, self.round, len(text), text, first, second
        )


def job_bytes(name: str) -> bytes:
    """The first 16 bytes of the SHA-256 of a job's name."""
    return hashlib.sha256(name.encode()).digest()[:JOB]


def derive(secret: bytes, info: bytes, size: int = SECRET, salt: bytes | None = None) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    lib = _library()
    return lib.HKDF(lib.hashes.SHA256(), size, salt, info).derive(secret)


@dataclasses.dataclass(frozen=True)
class HybridKeys:
    """A pair of keys for X25519 (RFC 7748) and ML-KEM-768 (FIPS 203), both from one secret.

    Attributes:
      public: 1216 bytes, X25519's 32 and then ML-KEM's.
    """

    _x25519: Any = dataclasses.field(repr=False)
    _ml_kem: Any = dataclasses.field(repr=False)
    public: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> "HybridKeys":
        """Derives both private keys from 32 uniform bytes."""
        lib = _library()
        x25519 = lib.x25519.X25519PrivateKey.from_private_bytes(derive(secret, _DOMAIN + b"x25519"))
        ml_kem = lib.mlkem.MLKEM768PrivateKey.from_seed_bytes(derive(secret, _DOMAIN + b"ml-kem-768", 64))
        public = x25519.public_key().public_bytes_raw() + ml_kem.public_key().public_bytes_raw()
        return cls(x25519, ml_kem, public)

    def exchange(self, public: bytes) -> bytes:
        """The 32 bytes of X25519 with another's public keys.

        Raises:
          ProtocolError: the public key is a point of low order.
        """
        try:
            other = _library().x25519.X25519PublicKey.from_public_bytes(public[:X25519_PUBLIC])
            return self._x25519.exchange(other)
        except ValueError:
            raise ProtocolError("public key", "a point of X25519 of full order", "another") from None

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The 32 bytes that `encapsulate` gave the sender; unrelated ones for an altered ciphertext."""
        return self._ml_kem.decapsulate(ciphertext)

    def agree(self, public: bytes, encapsulated: bytes, info: bytes, transcript: bytes = b"") -> bytes:
        """The 32-byte key shared with another party, secret as long as either half is.

        Args:
          public: of the other party.
          encapsulated: the secrets of ML-KEM that both know.
          info: the key's domain, `Context.info`.
          transcript: the public bytes that both saw, the same on both sides.
        """
        return combine(self.exchange(public), encapsulated, info, transcript)


def combine(exchanged: bytes, encapsulated: bytes, info: bytes, transcript: bytes) -> bytes:
    """HKDF-SHA256 of the secrets of X25519 and then ML-KEM, salted by the transcript's SHA-256."""
    return derive(exchanged + encapsulated, info, salt=hashlib.sha256(transcript).digest())


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """(secret of 32 bytes, ciphertext of 1088) of ML-KEM-768 for the owner of the public keys.

    The secret comes from the library's own generator.

    Raises:
      ProtocolError: the public key is none of ML-KEM-768.
    """
    try:
        key = _library().mlkem.MLKEM768PublicKey.from_public_bytes(public[X25519_PUBLIC:])
    except ValueError:
        raise ProtocolError("public key", "one of ML-KEM-768", f"{len(public)} other bytes") from None
    return key.encapsulate()


def seal(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): the ciphertext and its tag of 16 bytes."""
    return _library().ChaCha20Poly1305(key).encrypt(nonce, plain, associated)


def open_sealed(key: bytes, nonce: bytes, sealed: bytes, associated: bytes, name: str) -> bytes:
    """What was sealed.

    Raises:
      ProtocolError: key, nonce, ciphertext, tag or associated data are not the sender's; names ``name``.
    """
    lib = _library()
    try:
        return lib.ChaCha20Poly1305(key).decrypt(nonce, sealed, associated)
    except lib.exceptions.InvalidTag:
        raise ProtocolError(
            name, "bytes that its sender sealed for this recipient and round", "others"
        ) from None


@dataclasses.dataclass(frozen=True)
class Identity:
    """A party's long-lived key for signatures, Ed25519 (RFC 8032).

    Attributes:
      public: 32 bytes, which the others know from elsewhere than the server.
    """

    _private: Any = dataclasses.field(repr=False)
    public: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> "Identity":
        """That of 32 random bytes."""
        private = _library().ed25519.Ed25519PrivateKey.from_private_bytes(secret)
        return cls(private, private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes."""
        return self._private.sign(message)


def verify(public: bytes, signature: bytes, message: bytes, name: str) -> None:
    """Checks a signature.

    Raises:
      ProtocolError: it is not of this message by the owner of the public key; names ``name``.
    """
    lib = _library()
    try:
        lib.ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (lib.exceptions.InvalidSignature, ValueError):
        raise ProtocolError(name, "a signature by the known key of the sender", "another") from None


def add_mask(words: np.ndarray, key: bytes, subtract: bool = False) -> None:
    """Adds a key's words, AES-256 in counter mode from zero, to uint32 ``words`` (size,) in place, mod 2^32.

    Every word, 2^32 - 1 included, is as likely as any other.
    """
    stream = _Stream(key)
    operation = np.subtract if subtract else np.add
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        operation(part, stream.words(len(part)), out=part)


def mask_words(key: bytes, size: int) -> np.ndarray:
    """The uint32 words (size,) that `add_mask` adds."""
    words = np.zeros(size, np.uint32)
    add_mask(words, key)
    return words


def field_words(key: bytes, size: int, modulus: int) -> np.ndarray:
    """Uniform uint32 words (size,) below a modulus of 31 bits: those of a key's words, cut to as many."""
    stream, words, done = _Stream(key), np.empty(size, np.uint32), 0
    while done < size:
        drawn = stream.words(min(size - done, _CHUNK)) & np.uint32(2**31 - 1)
        kept = drawn[drawn < modulus]
        words[done : done + len(kept)] = kept
        done += len(kept)
    return words


class _Stream:
    """The words of a key one after the other, in a buffer that is used again."""

    def __init__(self, key: bytes) -> None:
        lib = _library()
        self._encryptor = lib.Cipher(lib.algorithms.AES256(key), lib.modes.CTR(bytes(16))).encryptor()
        self._buffer = bytearray()

    def words(self, count: int) -> np.ndarray:
        if len(self._buffer) < 4 * count + 15:
            self._buffer = bytearray(4 * count + 15)
        self._encryptor.update_into(_zeros(4 * count), self._buffer)
        return np.frombuffer(self._buffer, "<u4", count)


@functools.lru_cache(maxsize=4)
def _zeros(size: int) -> bytes:
    return bytes(size)
