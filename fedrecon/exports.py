"""Trained networks as folders that run without this package: StableHLO, weights, and a card.

A folder holds ``predict.stablehlo`` (a serialized `jax.export` program for CPU, CUDA and TPU, of any number
of examples), ``weights.safetensors`` and ``card.json``, which says what the network is. With jax, flatbuffers
and safetensors alone:

    program = jax.export.deserialize(Path("predict.stablehlo").read_bytes())
    weights = safetensors.numpy.load_file("weights.safetensors")
    output = program.call(weights, {"image": images})
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree, Variables
from fedrecon.weights import from_named_arrays, named_arrays
from operators.kernels import native

FORMAT = "fedrecon export 1"
# Locations in programs are a setting of the process.
_exporting = threading.Lock()
PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _WEIGHTS, _CARD = "predict.stablehlo", "weights.safetensors", "card.json"


class ExportedModel(NamedTuple):
    """A network as `load` reads it.

    Attributes:
      card: what it is, what it was trained on, how well it did; "inputs" holds the shape and dtype of each
        input, without the axis of examples.
      variables: its weights.
      program: called with the weights by name and a batch.
    """

    card: dict[str, Any]
    variables: Variables
    program: Any

    def predict(self, batch: Mapping[str, Any]) -> PyTree:
        """The task's predictions for any number of examples.

        Args:
          batch: the arrays that ``card["inputs"]`` names, each with a leading axis of examples, in any dtype
            that can be cast to the input's without losing an imaginary part; others are not looked at.

        Returns:
          What ``predict`` of the task returns.

        Raises:
          ValueError: an input is missing, or has another shape.
        """
        inputs = {name: _fitting(name, batch, spec) for name, spec in self.card["inputs"].items()}
        counts = {name: len(x) for name, x in inputs.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ArgumentError("batch", "as many examples in every input, at least one", counts)
        return self.program.call(named_arrays(self.variables), inputs)


def export_model(
    folder: str | os.PathLike,
    predict: Callable[[PyTree, PyTree, dict], PyTree],
    variables: Variables,
    example: Mapping[str, Any],
    card: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes a network to a new folder, whole or not at all.

    Args:
      folder: must not exist, or be empty.
      predict: ``predict(params, stats, batch)``, as of a ``Task``; compiled for any number of examples, each
        of which it treats by itself.
      variables: the weights.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``, of which only shapes and dtypes are used. Inputs
        that the predictions do not depend on are left out of the program.
      card: JSON-able description.

    Returns:
      The card as it was written.

    Raises:
      ValueError: the folder holds something, or ``predict`` needs a fixed number of examples.
      ImportError: without the extra ``fedrecon[export]``.
    """
    _check_new(Path(folder))
    return write_export(folder, export_program(predict, variables, example), variables, card)


def export_program(
    predict: Callable[[PyTree, PyTree, dict], PyTree], variables: Variables, example: Mapping[str, Any]
) -> bytes:
    """The predictions of a network as `export_model` writes them, for `write_export`.

    Args:
      predict, variables, example: as of `export_model`; of the weights, too, shapes and dtypes are used.

    Raises:
      ValueError: ``predict`` needs a fixed number of examples.
      ImportError: without the extra ``fedrecon[export]``.
    """
    _safetensors()
    weights = named_arrays(variables)
    specs = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in example.items()}
    with native.portable(), _without_source_files():
        used = _used(predict, weights, specs)
        program = _program(predict, weights, {name: specs[name] for name in used}, specs)
        return bytes(program.serialize())


def write_export(
    folder: str | os.PathLike, program: bytes, variables: Variables, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes a folder of a program of `export_program` and weights for it; else as `export_model`.

    Raises:
      ValueError: the folder holds something, or the program is none of these weights.
      ImportError: without the extra ``fedrecon[export]``.
    """
    safetensors = _safetensors()
    weights = named_arrays(variables)
    exported, specs = _read_program(program, weights)
    inputs = {name: {"shape": list(shape), "dtype": str(dtype)} for name, (shape, dtype) in specs.items()}
    outputs = jax.tree.map(
        lambda x: {"shape": [str(n) for n in x.shape], "dtype": str(x.dtype)},
        jax.tree.unflatten(exported.out_tree, exported.out_avals),
    )
    count = sum(x.size for x in weights.values())
    written = {"format": FORMAT, **card, "parameters": count, "inputs": inputs, "outputs": outputs}
    text = json.dumps(written, indent=2)
    with _new_folder(Path(folder)) as made:
        (made / _PROGRAM).write_bytes(program)
        safetensors.numpy.save_file(weights, made / _WEIGHTS, metadata={"format": FORMAT})
        (made / _WEIGHTS).chmod(0o644)
        (made / _CARD).write_text(text + "\n")
    return written


def is_export(folder: str | os.PathLike) -> bool:
    """Whether a folder looks like one that `export_model` wrote."""
    return (Path(folder) / _PROGRAM).exists() and (Path(folder) / _CARD).exists()


def load(folder: str | os.PathLike) -> ExportedModel:
    """Reads a folder that `export_model` or ``experiments.export`` wrote.

    Raises:
      ValueError: the folder is none; names the file.
      ImportError: without the extra ``fedrecon[export]``.
    """
    safetensors = _safetensors()
    folder = Path(folder)
    with _reading(folder / _CARD, f"a JSON object with format {FORMAT!r}"):
        card = json.loads((folder / _CARD).read_text())
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']!r}")
        specs = {name: (tuple(x["shape"]), np.dtype(x["dtype"])) for name, x in card["inputs"].items()}
    with _reading(folder / _WEIGHTS, "weights in the safetensors format"):
        weights = safetensors.numpy.load_file(folder / _WEIGHTS)
        variables = from_named_arrays(weights)
    with _reading(folder / _PROGRAM, "a program of jax.export that fits the card and the weights"):
        program, inputs = _read_program((folder / _PROGRAM).read_bytes(), weights)
        if inputs != specs:
            raise ValueError("other inputs")
    return ExportedModel(card, variables, program)


def _read_program(content: bytes, weights: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, tuple]]:
    """A serialized program of these weights, and the shape without examples and the dtype of its inputs."""
    program = jax.export.deserialize(bytearray(content))
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    found = {name: (x.shape, x.dtype) for name, x in arguments[0].items()}
    if found != {name: (x.shape, x.dtype) for name, x in weights.items()}:
        raise ValueError("other weights")
    return program, {name: (x.shape[1:], x.dtype) for name, x in arguments[1].items()}


def _used(predict: Callable, weights: Mapping[str, Any], specs: Mapping[str, Any]) -> list[str]:
    """The inputs that predictions depend on, in alphabetical order."""
    batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in specs.items()}
    exported = jax.export.export(jax.jit(_by_name(predict)))(_shapes(weights), batch)
    kept = exported.module_kept_var_idx
    return [name for i, name in enumerate(sorted(batch), start=len(weights)) if i in kept]


def _program(predict: Callable, weights: Mapping[str, Any], used: Mapping[str, Any], specs: Mapping) -> Any:
    (examples,) = jax.export.symbolic_shape("examples")
    batch = {name: jax.ShapeDtypeStruct((examples, *x.shape), x.dtype) for name, x in used.items()}
    function = jax.jit(_by_name(predict, {name: x for name, x in specs.items() if name not in used}))
    try:
        return jax.export.export(function, platforms=PLATFORMS)(_shapes(weights), batch)
    except (TypeError, ValueError, jax.errors.InconclusiveDimensionOperation) as error:
        message = str(error).strip().splitlines()[0]
        raise ArgumentError("predict", "a network for any number of examples", message) from error


@contextlib.contextmanager
def _without_source_files() -> Iterator[None]:
    """Programs hold no names of files of this machine."""
    name = "jax_traceback_in_locations_limit"
    with _exporting:
        before = getattr(jax.config, name)
        jax.config.update(name, 0)
        try:
            yield
        finally:
            jax.config.update(name, before)


def _by_name(predict: Callable, unused: Mapping[str, Any] | None = None) -> Callable:
    """``predict`` of weights by name; what it does not depend on is zero."""

    def function(weights: dict, batch: dict) -> PyTree:
        params, stats = from_named_arrays(weights)
        count = next(iter(batch.values())).shape[0]
        absent = {name: jnp.zeros((count, *x.shape), x.dtype) for name, x in (unused or {}).items()}
        return predict(params, stats, {**absent, **batch})

    return function


def _shapes(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}


def _fitting(name: str, batch: Mapping[str, Any], spec: Mapping[str, Any]) -> np.ndarray:
    """An input of the batch, in the dtype of the program."""
    if name not in batch:
        raise ArgumentError("batch", f"the key {name!r}", sorted(batch))
    array, dtype = np.asarray(batch[name]), np.dtype(spec["dtype"])
    shape = tuple(spec["shape"])
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        wanted = f"(examples, {', '.join(map(str, shape))})" if shape else "(examples,)"
        raise ArgumentError(f"batch[{name!r}]", f"the shape {wanted}", array.shape)
    if np.iscomplexobj(array) and dtype.kind != "c":
        raise ArgumentError(f"batch[{name!r}]", f"real numbers for {dtype}", array.dtype)
    return array.astype(dtype)


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError("folder", "a new or an empty folder", folder)


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it, which takes its place when the block succeeds."""
    _check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield made
        made.chmod(0o755)
        made.replace(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


@contextlib.contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever damaged files raise.
        text = (str(error).splitlines() or [""])[0]
        raise ArgumentError(str(path), expected, f"{type(error).__name__}: {text}") from error


def _safetensors() -> Any:
    """The library, where flatbuffers is, too, which `jax.export` needs."""
    try:
        import flatbuffers  # noqa: F401
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"exported networks need {error.name}: pip install 'fedrecon[export]'") from error
    return safetensors
