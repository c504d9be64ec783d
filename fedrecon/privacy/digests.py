"""Digests of byte strings and pytrees, and trees of hashes with proofs that something is in them."""

import hashlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from fedrecon.types import PyTree


def digest_of_blocks(blocks: Sequence[bytes]) -> bytes:
    """SHA-256 of a sequence of byte strings, which their lengths keep apart."""
    total = hashlib.sha256(len(blocks).to_bytes(8, "big"))
    for block in blocks:
        total.update(len(block).to_bytes(8, "big") + block)
    return total.digest()


def digest_of_tree(tree: PyTree) -> bytes:
    """SHA-256 over paths, dtypes, shapes and little-endian bytes of a pytree's leaves, sorted by path."""
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(x))
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    parts: list[bytes] = []
    for path, x in sorted(leaves, key=lambda leaf: leaf[0]):
        little = x.astype(x.dtype.newbyteorder("<"))
        parts += [path.encode(), x.dtype.name.encode(), repr(x.shape).encode(), little.tobytes()]
    return digest_of_blocks(parts)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree of hashes; an odd node moves up as it is."""
    return node_root([hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves])


def node_root(nodes: Sequence[bytes]) -> bytes:
    """The root over nodes that are hashes already, such as roots of smaller trees."""
    level = list(nodes) or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        level = _pairs(level)
    return level[0]


def merkle_proof(leaves: Sequence[bytes], place: int) -> list[tuple[str, str]]:
    """What shows that a leaf is in the tree: (side, hash) from leaf to root."""
    return node_proof([hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves], place)


def node_proof(nodes: Sequence[bytes], place: int) -> list[tuple[str, str]]:
    """`merkle_proof` of one of the nodes of `node_root`."""
    level, proof = list(nodes), []
    while len(level) > 1:
        other = place ^ 1
        if other < len(level):
            proof.append(("left" if other < place else "right", level[other].hex()))
        level, place = _pairs(level), place // 2
    return proof


def leads_to(root: str, leaf: bytes, proof: Iterable[tuple[str, str]]) -> bool:
    """Whether a proof of `merkle_proof` leads from a leaf to a root."""
    node = hashlib.sha256(b"\x00" + leaf).digest()
    for side, other in proof:
        pair = bytes.fromhex(other) + node if side == "left" else node + bytes.fromhex(other)
        node = hashlib.sha256(b"\x01" + pair).digest()
    return node.hex() == root


def _pairs(level: Sequence[bytes]) -> list[bytes]:
    pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
    return [hashlib.sha256(b"\x01" + b"".join(p)).digest() if len(p) == 2 else p[0] for p in pairs]
