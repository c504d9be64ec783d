"""Pytrees as typed arrays in bytes: what travels between sites and server, and what lies in their files.

A message is ``FRD1``, the length of the header as uint64, the header, the arrays, and the SHA-256 of all of
it before. Numbers are little-endian. The header is JSON in UTF-8: ``about``, any JSON object, and
``arrays``, a list of [name, dtype, shape] in the order in which their bytes follow, without gaps. Nothing
in it is code: a reader makes arrays of numbers and JSON values, and refuses everything else.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree

MAGIC = b"FRD1"
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
# Of a message, unless its reader says otherwise, and of a header.
MOST_BYTES, MOST_HEADER = 2**32, 2**24
_LENGTH = struct.Struct("<Q")
_DIGEST = hashlib.sha256().digest_size


class Packet(NamedTuple):
    """What a message says.

    Attributes:
      about: JSON object.
      arrays: by name, read-only.
    """

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """The bytes of a message.

    Raises:
      ArgumentError: an array is of another dtype than `DTYPES`, or ``about`` is not JSON.
    """
    parts, listed = [], []
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.name not in DTYPES:
            raise ArgumentError(f"array {name!r}", f"one of {', '.join(DTYPES)}", array.dtype)
        listed.append([name, array.dtype.name, list(array.shape)])
        parts.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    try:
        header = json.dumps({"about": dict(about), "arrays": listed}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError("about", "JSON of finite numbers", error) from error
    body = b"".join((MAGIC, _LENGTH.pack(len(header)), header, *parts))
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, most: int = MOST_BYTES) -> Packet:
    """What `pack` made bytes of, checked in full before anything of it is used.

    Args:
      data: the message.
      most: bytes beyond which it is not looked at.

    Raises:
      ArgumentError: it is too long, cut, changed, or not of this format.
    """
    if len(data) > most:
        raise ArgumentError("message", f"at most {most} bytes", len(data))
    start = len(MAGIC) + _LENGTH.size
    if len(data) < start + _DIGEST or data[: len(MAGIC)] != MAGIC:
        raise ArgumentError("message", f"one that begins with {MAGIC.decode()}", f"{len(data)} other bytes")
    body = memoryview(data)[:-_DIGEST]
    if hashlib.sha256(body).digest() != data[-_DIGEST:]:
        raise ArgumentError("message", "the SHA-256 at its end", "another: it was cut or changed")
    (length,) = _LENGTH.unpack(data[len(MAGIC) : start])
    if length > min(MOST_HEADER, len(body) - start):
        raise ArgumentError("message", "a header within it", f"one of {length} bytes")
    about, listed = _header(bytes(body[start : start + length]))
    arrays: dict[str, np.ndarray] = {}
    place = start + length
    for item in listed:
        name, dtype, shape = _checked(item, arrays)
        count = math.prod(shape)
        end = place + count * dtype.itemsize
        if end > len(body):
            raise ArgumentError(f"array {name!r}", f"{count * dtype.itemsize} bytes", len(body) - place)
        if dtype == np.bool_ and count and np.frombuffer(body[place:end], np.uint8).max() > 1:
            raise ArgumentError(f"array {name!r}", "bytes 0 and 1 as bools", "others")
        arrays[name] = np.frombuffer(body[place:end], dtype).reshape(shape)
        place = end
    if place != len(body):
        raise ArgumentError("message", "no bytes beyond its arrays", f"{len(body) - place} bytes")
    return Packet(about, arrays)


def _header(text: bytes) -> tuple[dict[str, Any], list]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError("header", "JSON", f"{error}") from error
    about, listed = (header.get(key) for key in ("about", "arrays")) if isinstance(header, dict) else (0, 0)
    if not isinstance(about, dict) or not isinstance(listed, list):
        raise ArgumentError("header", '"about", an object, and "arrays", a list', "others")
    return about, listed


def _checked(item: Any, known: Mapping[str, Any]) -> tuple[str, np.dtype, tuple[int, ...]]:
    if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str)):
        raise ArgumentError("header", "arrays as [name, dtype, shape]", repr(item)[:80])
    name, dtype, shape = item
    if name in known:
        raise ArgumentError("header", "every array once", repr(name)[:80])
    if dtype not in DTYPES:
        raise ArgumentError(f"array {name!r}", f"one of {', '.join(DTYPES)}", repr(dtype)[:80])
    if not (isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**40 for n in shape)):
        raise ArgumentError(f"array {name!r}", "a shape of non-negative integers", repr(shape)[:80])
    return name, np.dtype(dtype).newbyteorder("<"), tuple(shape)


def named(tree: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of a pytree by their paths, such as ``prefix:.params['head']['bias']``, on the host."""
    prefix = prefix and f"{prefix}:"
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def as_tree(arrays: Mapping[str, np.ndarray], like: PyTree, prefix: str = "") -> PyTree:
    """The pytree whose leaves `named` has made arrays of.

    Args:
      arrays: by name; those that begin otherwise than with ``prefix`` belong to others.
      like: of the same structure, with shapes and dtypes.
      prefix: as in `named`.

    Raises:
      ArgumentError: a leaf is missing, one is there besides, or one has another shape or dtype.
    """
    prefix = prefix and f"{prefix}:"
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {prefix + jax.tree_util.keystr(path): leaf for path, leaf in paths}
    found = {name for name in arrays if name.startswith(prefix)}
    for name in sorted(expected.keys() ^ found):
        what = "no such array" if name in found else "it, which is missing"
        raise ArgumentError(f"array {name!r}", what, f"{len(found)} arrays")
    for name, leaf in expected.items():
        told = f"{leaf.dtype} {tuple(leaf.shape)}"
        if (arrays[name].shape, arrays[name].dtype.name) != (tuple(leaf.shape), np.dtype(leaf.dtype).name):
            raise ArgumentError(f"array {name!r}", told, f"{arrays[name].dtype} {arrays[name].shape}")
    return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def shapes_digest(tree: PyTree) -> str:
    """SHA-256, hexadecimal, of the paths, shapes and dtypes of a pytree's leaves."""
    told = [
        [jax.tree_util.keystr(path), np.dtype(leaf.dtype).name, list(leaf.shape)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return hashlib.sha256(json.dumps(sorted(told)).encode()).hexdigest()
