"""Methods that are given as values, as rows of the catalog."""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.catalog import Entry
from fedrecon.errors import ArgumentError
from fedrecon.training.catalog_algorithms import example_algorithm
from fedrecon.types import Task

_OPTIONS = ("sampler", "weighting", "channel", "reduce", "server_optimizer")
_NEEDS = ("clients", "head", "head_steps", "represent")


@contextlib.contextmanager
def named_method(method: str | Entry | fl.Method | fl.FederatedAlgorithm | Callable) -> Iterator[str]:
    """The name of a method in the catalog, where one that is given as a value is for the length of the block.

    Args:
      method: a name; a row; a `Method`; a recipe, ``recipe(task, optimizer, ...)`` or
        ``recipe(task, learning_rate, ...)``; or a `FederatedAlgorithm`, complete.

    Raises:
      ValueError: a value that is none of these.
    """
    if isinstance(method, str):
        yield catalog.ALIASES.get(method, method)
        return
    entry = method if isinstance(method, Entry) else _entry(method)
    with catalog.registered(entry):
        yield entry.name


def _entry(method: Any) -> Entry:
    for entry in catalog.entries():
        if entry.recipe is method:
            return entry
    if isinstance(method, fl.FederatedAlgorithm):

        def complete(task: Task, **given: Any) -> fl.FederatedAlgorithm:
            return method

        return _row("own", complete, "learning_rate", (), _OPTIONS)
    if isinstance(method, fl.Method):

        def recipe(task: Task, optimizer: Any, **options: Any) -> fl.FederatedAlgorithm:
            both = fl.combine(method, options.pop("method", None))
            return fl.federated(task, optimizer, method=both, **options)

        return _row("own", recipe, "optimizer", (), ())
    if not callable(method):
        expected = "a name of the catalog, a recipe, a Method, a FederatedAlgorithm or a catalog.Entry"
        raise ArgumentError("method", expected, type(method).__name__)
    parameters = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    rates = [name for name in ("optimizer", "learning_rate") if name in parameters]
    rate = "both" if len(rates) == 2 else (rates or ["optimizer"])[0]
    fixes = () if anything else tuple(name for name in _OPTIONS if name not in parameters)
    needs = tuple(n for n in _NEEDS if n in parameters and parameters[n].default is inspect.Parameter.empty)
    name = re.sub(r"\W", "_", getattr(method, "__name__", "")).strip("_").lower()
    taken = {entry.name for entry in catalog.entries()}
    if not re.fullmatch(r"[a-z]\w*", name) or name in taken or name == "lambda":
        name = f"own_{name}" if name else "own"
    return _row(name, method, rate, needs, fixes)


def _row(name: str, recipe: Callable, rate: str, needs: tuple[str, ...], fixes: tuple[str, ...]) -> Entry:
    entry = Entry(name, recipe, "own", "its own", needs=needs, rate=rate, fixes=fixes)
    algorithm = example_algorithm(entry)
    kept = any(leaf is False for leaf in jax.tree.leaves(algorithm.share_mask))
    values: dict[str, Any] = {"personal": kept or _personalizes(algorithm)}
    return Entry(name, recipe, "own", "its own", needs=needs, rate=rate, fixes=fixes, **values)


def _personalizes(algorithm: fl.FederatedAlgorithm) -> bool:
    """Whether clients evaluate with something else than what they received."""
    received = object()
    try:
        return algorithm.personalize(received, None, None) is not received  # type: ignore[arg-type]
    except Exception:
        # It looked at what it was given.
        return True
