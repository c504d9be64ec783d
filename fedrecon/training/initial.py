"""The model that a training starts from: of another run, of an export, or of a file of weights."""

import hashlib
from collections.abc import Collection, ItemsView, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fedrecon.errors import ArgumentError
from fedrecon.exports import is_export, load
from fedrecon.published_weights import SUFFIXES, read_published
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.named_tasks import TASKS
from fedrecon.training.options import FlagError
from fedrecon.types import Variables
from fedrecon.weights import read_weights

_FLAG = "initialize_from"
_EXPECTED = (
    "RUN, a run that has released a model, RUN:STAGE, an export, an .npz of weights, or a .pt of fastMRI or "
    "DIRECT"
)
_SHOWN = 3
# The last layer of networks.
_HEAD = "head"


def initial_digest(text: str) -> str:
    """SHA-256 of the files of weights that ``initialize_from`` names.

    Raises:
      FlagError: there are none.
    """
    return hashlib.sha256(b"".join(path.read_bytes() for path in _files(text)[1])).hexdigest()


def initial_tasks(text: str) -> tuple[str, ...]:
    """The stages of a run of several that ``initialize_from`` has a model for.

    A run of several stages has one for each, its federated one. A run of one stage, an export or a file has
    one for the stage of its task; a file that does not tell its task is of the reconstruction.

    Raises:
      FlagError: there is none for any of them.
    """
    if not text:
        return ()
    known = _by_task(text)
    if not (found := tuple(task for task in TASKS if task in known)):
        raise FlagError(_FLAG, f"a model of {', '.join(TASKS)}", f"{text}, of {', '.join(known)}")
    return found


def initial_variables(
    settings: FederationSettings, stage: str, drawn: Variables, beside: Collection[str] = ()
) -> Variables:
    """The model that a stage starts from.

    Of several stages those of `initial_tasks` start from their model, the others as without.

    Args:
      settings: of the federation.
      stage: name of the training.
      drawn: its network as it would start otherwise, which is returned without ``initialize_from``; or its
        shapes.
      beside: names at the top of the variables that the algorithm has beside its network: files of the
        network alone have none of them, and those of ``drawn`` stay.

    Raises:
      FlagError: there is no model for the stage, or it is of another network; names the leaves.
    """
    text = settings.initialize_from
    task, several, _ = stage.partition("/")
    if not text or (several and task not in initial_tasks(text)):
        return drawn
    found = _read(_files(text)[0], _by_task(text)[task])[0] if several else initial_model(text)
    own = Variables(*({name: x[name] for name in beside if name in x} for x in drawn))
    found = Variables(*({**kept, **group} for kept, group in zip(own, found, strict=True)))
    if settings.new_head:
        if _HEAD not in drawn.params:
            raise FlagError("new_head", f"a network with a layer {_HEAD!r}", ", ".join(drawn.params))
        found = Variables(*(_with_head(group, x) for group, x in zip(found, drawn, strict=True)))
    return _fitted(found, drawn, text)


def initial_model(text: str) -> Variables:
    """The one model that ``initialize_from`` names, of whatever network.

    Raises:
      FlagError: there is none, or several.
    """
    kind, files = _files(text)
    if len(files) != 1:
        names = ", ".join(_name(path) for path in files)
        raise FlagError(_FLAG, f"{text}:STAGE with one of {names}", text)
    return _read(kind, files[0])[0]


def _with_head(group: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: x for name, x in group.items() if name != _HEAD}
    return kept | {name: x for name, x in drawn.items() if name == _HEAD}


def _by_task(text: str) -> dict[str, Path]:
    kind, files = _files(text)
    found = {}
    for path in files:
        task, several, training = _name(path).rpartition("/")
        if kind == "run" and several and training != "federated":
            continue
        found[task if several else str(_read(kind, path)[1].get("task", "reconstruction"))] = path
    return found


def _files(text: str) -> tuple[str, list[Path]]:
    """("run", "stage", "export" or "file", the files of weights)."""
    path = Path(text)
    if path.is_dir() and is_export(path):
        return "export", [path / "weights.safetensors"]
    if path.is_dir():
        files = [p for p in sorted((path / "models").rglob("*.npz")) if not p.name.endswith(".own.npz")]
        if files:
            return "run", files
        raise FlagError(_FLAG, _EXPECTED, f"{text!r} without models/*.npz")
    if path.is_file():
        return "file", [path]
    run, _, stage = text.rpartition(":")
    for name in (stage, f"{stage}/federated"):
        if run and (file := Path(run) / "models" / f"{name}.npz").is_file():
            return "stage", [file]
    raise FlagError(_FLAG, _EXPECTED, repr(text))


def _name(path: Path) -> str:
    inside = path.parts[path.parts.index("models") + 1 :] if "models" in path.parts else path.parts[-1:]
    return "/".join(inside).removesuffix(".npz")


def _read(kind: str, path: Path) -> tuple[Variables, Mapping[str, Any]]:
    """The weights, and what is known of them."""
    try:
        if kind == "export":
            model = load(path.parent)
            return model.variables, model.card
        if path.suffix in SUFFIXES:
            return read_published(path)[1], {"task": "reconstruction"}
        return read_weights(path)
    except ImportError:
        raise
    except ArgumentError as error:
        raise FlagError(_FLAG, error.expected, f"{error.name}: {error.found}") from error
    except Exception as error:
        # Whatever damaged archives raise.
        raise FlagError(_FLAG, "weights of a network", f"{path}: {type(error).__name__}: {error}") from error


def _fitted(found: Variables, drawn: Variables, text: str) -> Variables:
    here, there = (
        {f"{group}/{name}": leaf.shape for group, tree in x._asdict().items() for name, leaf in _flat(tree)}
        for x in (drawn, found)
    )
    gaps = []
    for name in sorted(here.keys() | there.keys()):
        shapes = [f"{x[name]}" if name in x else "none" for x in (there, here)]
        if shapes[0] != shapes[1]:
            gaps.append(f"{name} {shapes[0]} there and {shapes[1]} here")
    if gaps:
        more = f" and {len(gaps) - _SHOWN} more" if len(gaps) > _SHOWN else ""
        raise FlagError(_FLAG, f"the network of this training in {text}", "; ".join(gaps[:_SHOWN]) + more)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), found, drawn)


def _flat(tree: Mapping[str, Any]) -> ItemsView[str, Any]:
    return flatten_dict(tree, sep="/").items()
