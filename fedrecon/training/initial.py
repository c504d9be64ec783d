"""The model that a training starts from: of another run, of an export, or of a file of weights."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp

from fedrecon.exports import is_export, load
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.types import Variables
from fedrecon.weights import named_arrays, read_weights

_FLAG = "initialize_from"
_EXPECTED = "RUN, a run that has released a model, RUN:STAGE, an export, or an .npz of weights"
_SHOWN = 3


def initial_digest(text: str) -> str:
    """SHA-256 of the files of weights that ``initialize_from`` names.

    Raises:
      FlagError: there are none.
    """
    return hashlib.sha256(b"".join(path.read_bytes() for path in _files(text)[1])).hexdigest()


def initial_variables(settings: FederationSettings, stage: str, drawn: Variables) -> Variables:
    """The model that a stage starts from.

    Of several stages, in a run of which each has a model, each starts from its own; an export or a file is
    for their first, reconstruction.

    Args:
      settings: of the federation.
      stage: name of the training.
      drawn: its network as it would start otherwise, which is returned without ``initialize_from``.

    Raises:
      FlagError: there is no model for the stage, or it is of another network; names the leaves.
    """
    text = settings.initialize_from
    task, several, _ = stage.partition("/")
    if not text:
        return drawn
    kind, files = _files(text)
    if several and kind == "run":
        files = [path for path in files if path.parent.name == task and path.stem == "federated"]
        if not files and task != "reconstruction":
            return drawn
    elif several and task != (_name(files[0]).partition("/")[0] if kind == "stage" else "reconstruction"):
        return drawn
    if len(files) != 1:
        names = ", ".join(_name(path) for path in _files(text)[1])
        raise FlagError(
            _FLAG, f"{text}:STAGE with one of {names}", f"no model of {stage}" if several else text
        )
    return _fitted(_read(kind, files[0]), drawn, text)


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


def _read(kind: str, path: Path) -> Variables:
    try:
        return load(path.parent).variables if kind == "export" else read_weights(path)[0]
    except ImportError:
        raise
    except Exception as error:
        # Whatever damaged archives raise.
        raise FlagError(_FLAG, "weights of a network", f"{path}: {type(error).__name__}: {error}") from error


def _fitted(found: Variables, drawn: Variables, text: str) -> Variables:
    here, there = named_arrays(drawn), named_arrays(found)
    gaps = []
    for name in sorted(here.keys() | there.keys()):
        shapes = [f"{x[name].shape}" if name in x else "none" for x in (there, here)]
        if shapes[0] != shapes[1]:
            gaps.append(f"{name} {shapes[0]} there and {shapes[1]} here")
    if gaps:
        more = f" and {len(gaps) - _SHOWN} more" if len(gaps) > _SHOWN else ""
        raise FlagError(_FLAG, f"the network of this training in {text}", "; ".join(gaps[:_SHOWN]) + more)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), found, drawn)
