"""Carrying parameters from one network to another."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

PyTree = Any
Path = tuple[str, ...]


def warm_start(target_params: PyTree, source_params: PyTree) -> tuple[PyTree, tuple[str, ...]]:
    """Copies the layers that two networks share, such as the encoder of a U-Net into a classifier.

    A layer is copied as a whole or not at all: where the path of one ends with the path of the other, and
    the names and shapes of their leaves are equal. Of several such sources the one with the longest common
    path is taken. Running statistics ("batch_stats") are carried over by a second call on those.

    Args:
      target_params: nested dict of arrays to start from.
      source_params: nested dict of trained arrays.

    Returns:
      (params, copied): ``target_params`` with the copied leaves in their own dtypes, and the sorted target
      paths of these leaves, such as "encoder/block0/conv1/kernel".

    Raises:
      ValueError: two layers of the source fit one layer of the target equally well.
    """
    target, source = _layers(target_params), _layers(source_params)
    params, copied = {}, []
    for path, leaves in target.items():
        candidates = [other for other in source if _is_suffix(path, other) and _fits(leaves, source[other])]
        best = max((min(len(other), len(path)) for other in candidates), default=0)
        candidates = [other for other in candidates if min(len(other), len(path)) == best]
        if path in candidates:
            candidates = [path]
        if len(candidates) > 1:
            names = ", ".join("/".join(other) for other in candidates)
            raise ValueError(f"source_params: layers {names} fit {'/'.join(path)} equally well")
        for name, leaf in leaves.items():
            if candidates:
                leaf = jnp.asarray(source[candidates[0]][name], leaf.dtype)
                copied.append("/".join((*path, name)))
            params[(*path, name)] = leaf
    return unflatten_dict(params), tuple(sorted(copied))


def _layers(params: PyTree) -> dict[Path, dict[str, jax.Array]]:
    layers: dict[Path, dict[str, jax.Array]] = {}
    for (*parent, name), leaf in flatten_dict(params).items():
        layers.setdefault(tuple(parent), {})[name] = leaf
    return layers


def _is_suffix(a: Path, b: Path) -> bool:
    short, long = sorted((a, b), key=len)
    return bool(short) and long[-len(short) :] == short


def _fits(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> bool:
    return a.keys() == b.keys() and all(a[name].shape == b[name].shape for name in a)
