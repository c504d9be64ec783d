"""Parties of a record of rounds, and their Ed25519 signatures."""

import os
from typing import Any, NamedTuple


class Party(NamedTuple):
    """A member: its name, its role, and its Ed25519 signing key (raw bytes) where it is one's own."""

    name: str
    role: str
    private: bytes = b""

    @property
    def public(self) -> str:
        """The public key, hexadecimal."""
        return _private(self.private).public_key().public_bytes_raw().hex()


def new_party(name: str, role: str) -> Party:
    """A member with a fresh key."""
    return Party(name, role, os.urandom(32))


def _private(raw: bytes) -> Any:
    return _ed25519().Ed25519PrivateKey.from_private_bytes(raw)


def sign(party: Party, message: bytes) -> str:
    """A signature of a message, hexadecimal."""
    return _private(party.private).sign(message).hex()


def signed(key: str, signature: Any, message: bytes) -> bool:
    """Whether a hexadecimal signature of a message is that of a public key."""
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signed records need the extra: pip install 'fedrecon[secure]'") from error
    return ed25519
