"""A row of the catalog: a named method, what it needs and what it fixes."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.phases import Beforehand
from fedrecon.types import Task

# What a method may need from an experiment: name -> (keyword arguments of the recipe, in words).
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "clients": (("clients",), "the number of clients"),
    "sizes": (("sizes",), "their numbers of examples"),
    "head": (("head",), "which leaves are the head"),
    "head_steps": (("head_steps",), "how many steps train the head"),
    "represent": (("represent",), "a representation to contrast"),
    "features": (("features",), "what layers of the network see"),
    "maps": (("maps",), "what the last layer of a segmentation sees"),
    "example": (("example",), "shapes of the examples"),
    "privacy": (
        ("clipping_norm", "noise_multiplier", "expected_batch_size", "padded_batch_size", "steps"),
        "a privacy budget",
    ),
    "mechanism": (("mechanism",), "a privacy budget (`--dp.epsilon`)"),
    "memory": (("memory",), "blocks of data before this one (`experiments.continual`)"),
    "importance": ((), "Fisher diagonals of these blocks"),
    "exchanged": (("exchanged",), "what clients exchange once, before the rounds"),
    "rounds": (("rounds",), "the number of rounds"),
    "score": (("score",), "how good a model is, between 0 and 1"),
    "validation": ((), "validation splits of clients, where there are any"),
    "contrast": (("contrast",), "two views of images (`experiments.finetune --pretraining`)"),
    "volumes": ((), "slices of volumes, in their order"),
    "classification": ((), "that task"),
    "segmentation": ((), "that task"),
    "reconstruction": ((), "that task"),
}
# What a recipe is called with besides the task, by the convention of its learning rate.
RATES: dict[str, tuple[str, ...]] = {
    "optimizer": ("optimizer",),
    "learning_rate": ("learning_rate",),
    "both": ("optimizer", "learning_rate"),
}
# Options of `federated` that every experiment may set, unless an entry fixes them.
_OPTIONS = ("sampler", "weighting", "channel", "reduce", "server_optimizer")
_SETTABLE = (int, float, bool, str)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the catalog.

    Attributes:
      name: by which experiments call the method; lower case, digits and underscores.
      recipe: ``recipe(task, ..., **options) -> FederatedAlgorithm``. Its parameters that are annotated as
        int, float, bool or str are the method's options.
      reference: authors, year, and venue or arXiv number.
      changes: what it changes compared with FedAvg, in a phrase.
      survey_row: the method's row in the tables of Liu, Dai and Chen, *Review of Federated Learning in
        Medical Image Processing*, 2025; None if it is not in them.
      tests: node ids of tests of what the reference says of it, besides those of every row.
      command: runs it, where that takes more than its name; after ``python -m``.
      needs: keys of `NEEDS`, what an experiment must give.
      rate: a key of `RATES`. "optimizer": clients take any optimizer; "learning_rate": they descend plainly
        at this rate; "both": the recipe wants the optimizer and its rate.
      fixes: options of `federated` that the method leaves no choice of.
      linear: whether everything that crosses is a sum over clients, no entry of which is one client's alone,
        so that a secure sum can carry it and hides single clients.
      personal: whether clients evaluate with models of their own.
      exchanges: whether anything is sent at all; False for comparators.
      releases: whether there is a model that is handed out.
      pooled: whether it trains on the data of all clients as if they were one client's.
      unit: of privacy, where the method's definition names it.
      selection: option with the epsilon of a choice that each step makes by validation patients.
      topology: the ``--topology`` that the method is defined by; "" for one with any.
      task: ``task(task, example, **options) -> task`` that the method trains instead: the same network with
        leaves and predictions of its own. Its variables are those of the task, by the same names, with
        further names beside them at the top, or, of another network, have none of these names; ``example``
        has shapes and dtypes of a batch of one example. It takes the options of the recipe that it has
        parameters for.
      before: ``before(task, variables, clients, key, mesh, **options) -> Beforehand``, an exchange of the
        clients with examples that precedes the rounds: ``task`` and ``variables`` are what is trained,
        ``clients`` the training data; options as those of ``task``. Nothing of it is in a secure sum.

    Raises:
      ValueError: if a field is malformed, or the recipe does not take what it would be called with.
    """

    name: str
    recipe: Callable[..., fl.FederatedAlgorithm]
    reference: str
    changes: str
    survey_row: str | None = None
    tests: tuple[str, ...] = ()
    command: str = ""
    needs: tuple[str, ...] = ()
    rate: str = "optimizer"
    fixes: tuple[str, ...] = ()
    linear: bool = True
    personal: bool = False
    exchanges: bool = True
    releases: bool = True
    pooled: bool = False
    unit: str = ""
    selection: str = ""
    topology: str = ""
    task: Callable[..., Task] | None = None
    before: Callable[..., Beforehand] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name == "reduce":
            raise ArgumentError("name", "lower case, digits and underscores", repr(self.name))
        for field in ("reference", "changes"):
            if not isinstance(text := getattr(self, field), str) or not text:
                raise ArgumentError(field, "words", repr(text))
        if self.rate not in RATES:
            raise ArgumentError("rate", f"one of {', '.join(RATES)}", repr(self.rate))
        for field, known in (("needs", tuple(NEEDS)), ("fixes", _OPTIONS)):
            if unknown := [name for name in getattr(self, field) if name not in known]:
                raise ArgumentError(field, f"some of {', '.join(known)}", repr(unknown[0]))
        if ("exchanged" in self.needs) and self.before is None:
            raise ArgumentError("before", "a function, of a row that needs what is exchanged", "None")
        if self.before is not None and self.linear:
            raise ArgumentError("linear", "False with an exchange before the rounds", "True")
        _check_recipe(self)

    @property
    def module(self) -> str:
        """The module of the recipe."""
        return self.recipe.__module__

    @property
    def validates(self) -> bool:
        """Whether clients look at their validation splits while they train."""
        return bool(self.selection) or "validation" in self.needs

    @property
    def options(self) -> dict[str, type]:
        """Names and types of the parameters that text can set, of the recipe, the task and the exchange."""
        functions = (self.recipe, self.task, self.before)
        return {name: kind for f in functions if f is not None for name, kind in options_of(f).items()}


def chosen_options(function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a function has parameters for."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def options_of(function: Callable) -> dict[str, type]:
    """Names and types of a function's parameters that are annotated as int, float, bool or str."""
    # Annotations are text where a module postpones their evaluation.
    written = {kind.__name__: kind for kind in _SETTABLE}
    kinds = {
        name: written.get(parameter.annotation, parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    # The number of clients comes from the data.
    return {name: kind for name, kind in kinds.items() if kind in _SETTABLE and name != "clients"}


def _check_recipe(entry: Entry) -> None:
    if not callable(entry.recipe):
        raise ArgumentError("recipe", "a function", repr(entry.recipe))
    parameters = inspect.signature(entry.recipe).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = (*RATES[entry.rate], *(name for need in entry.needs for name in NEEDS[need][0]))
    if not parameters or next(iter(parameters)) != "task":
        raise ArgumentError("recipe", "a first parameter 'task'", ", ".join(parameters) or "none")
    for name in given:
        if name not in parameters and not anything:
            raise ArgumentError("recipe", f"a parameter {name!r}", ", ".join(parameters))
    for name in _OPTIONS if entry.exchanges else ():
        if name not in parameters and not anything and name not in entry.fixes:
            raise ArgumentError("recipe", f"**options or {name!r} among fixes", "neither")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and name not in ("task", *given, *options_of(entry.recipe)):
            raise ArgumentError(
                "recipe", f"a default of {name!r}, which nothing gives, among needs {entry.needs}", "none"
            )
