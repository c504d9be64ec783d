"""Weights of a network in files: ``.npz`` archives with a JSON text, without pickled objects."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.types import Variables

_ABOUT = "about"
# A JSON list of groups without leaves, such as "stats/task", which are no arrays.
_EMPTY = "empty"


def named_arrays(variables: Variables) -> dict[str, np.ndarray]:
    """The leaves by name, such as "params/encoder/kernel"; "stats/..." are running statistics."""
    return {
        f"{group}/{key}": np.asarray(leaf)
        for group, tree in variables._asdict().items()
        for key, leaf in flatten_dict(tree, sep="/").items()
    }


def from_named_arrays(arrays: Mapping[str, Any]) -> Variables:
    """The inverse of `named_arrays`, of arrays of any kind.

    Raises:
      ValueError: a name begins otherwise.
    """
    groups: dict[str, dict[str, Any]] = {name: {} for name in Variables._fields}
    for key, value in arrays.items():
        group, _, name = key.partition("/")
        if group not in groups or not name:
            raise ArgumentError("arrays", f"names that begin with {' or '.join(groups)} and a slash", key)
        groups[group][name] = value
    return Variables(*(unflatten_dict(groups[name], sep="/") for name in Variables._fields))


def write_weights(path: str | os.PathLike, variables: Variables, about: Mapping[str, Any]) -> None:
    """Writes a ``.npz`` of the leaves, the groups without any and a JSON-able description, in one step."""
    arrays: dict[str, Any] = named_arrays(variables)
    if empty := _empty_groups(variables):
        arrays[_EMPTY] = np.asarray(json.dumps(empty))
    arrays[_ABOUT] = np.asarray(json.dumps(dict(about)))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_weights(path: str | os.PathLike) -> tuple[Variables, dict[str, Any]]:
    """Reads what `write_weights` wrote, arrays and description.

    Raises:
      OSError, ValueError, KeyError and others that archives raise: the file is missing or damaged.
    """
    with np.load(Path(path), allow_pickle=False) as file:
        about = json.loads(str(file[_ABOUT]))
        arrays = {key: file[key] for key in file.files if key not in (_ABOUT, _EMPTY)}
        empty = json.loads(str(file[_EMPTY])) if _EMPTY in file.files else []
    variables = from_named_arrays({**arrays, **dict.fromkeys(empty, empty_node)})
    return variables, about


def _empty_groups(variables: Variables) -> list[str]:
    return [
        f"{group}/{key}"
        for group, tree in variables._asdict().items()
        for key, leaf in flatten_dict(tree, keep_empty_nodes=True, sep="/").items()
        if leaf is empty_node
    ]
