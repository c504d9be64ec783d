"""The catalog of named federated methods: one row each, read by experiments, tests and documentation.

A method of this package is a file in ``fedrecon/federated/methods`` and a row of the table below; a method
from elsewhere adds its row by `register`. CONTRIBUTING.md has an example.
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon import federated as fl
from fedrecon import privacy
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.diloco import diloco
from fedrecon.federated.methods.lai import lai
from fedrecon.federated.methods.li_w import li_w
from fedrecon.federated.methods.medisecfed import medisecfed
from fedrecon.federated.traffic import RoundBytes, round_bytes
from fedrecon.types import Task, Variables

# What a method may need from an experiment: name -> (keyword arguments of the recipe, in words).
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "clients": (("clients",), "the number of clients"),
    "head": (("head",), "which leaves are the head"),
    "head_steps": (("head_steps",), "how many steps train the head"),
    "represent": (("represent",), "a representation to contrast"),
    "example": (("example",), "shapes of the examples"),
    "privacy": (
        ("clipping_norm", "noise_multiplier", "expected_batch_size", "padded_batch_size", "steps"),
        "a privacy budget",
    ),
    "mechanism": (("mechanism",), "a privacy budget (`--dp.epsilon`)"),
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
      linear: whether everything that crosses is a sum over clients, so that a secure sum can carry it.
      personal: whether clients evaluate with models of their own.
      exchanges: whether anything is sent at all; False for comparators.
      releases: whether there is a model that is handed out.
      pooled: whether it trains on the data of all clients as if they were one client's.
      unit: of privacy, where the method's definition names it.
      selection: option with the epsilon of a choice that each step makes by validation patients.

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
        _check_recipe(self)

    @property
    def module(self) -> str:
        """The module of the recipe."""
        return self.recipe.__module__

    @property
    def options(self) -> dict[str, type]:
        """Names and types of the parameters that text can set."""
        return options_of(self.recipe)


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


_SERVER = ("server_optimizer",)
_FEDOPT = "Reddi et al. 2021, ICLR, arXiv:2003.00295"
_COMPARATOR = "comparator"


def _on_radiographs(name: str, options: str = "") -> str:
    """The command that trains on the measured chest radiographs."""
    task = "--task=classification --cohort=xray --data_dir=$FEDRECON_DATA"
    return f"experiments.train_federated --workdir=runs/{name} {task} --algorithm={name} {options}".rstrip()


_TABLE = (
    Entry(
        "fedavg",
        fl.fedavg,
        "McMahan et al. 2017, AISTATS, arXiv:1602.05629",
        "nothing: local training, then the mean of the models",
    ),
    Entry(
        "fedavgm",
        fl.fedavgm,
        "Hsu, Qi and Brown 2019, arXiv:1909.06335",
        "momentum at the server",
        fixes=_SERVER,
    ),
    Entry(
        "diloco",
        diloco,
        "Douillard et al. 2023, arXiv:2311.08105",
        "clients keep their optimizers, and the server steps with Nesterov momentum",
        fixes=_SERVER,
    ),
    Entry("fedadagrad", fl.fedadagrad, _FEDOPT, "Adagrad at the server", fixes=_SERVER),
    Entry("fedadam", fl.fedadam, _FEDOPT, "Adam at the server", fixes=_SERVER),
    Entry("fedyogi", fl.fedyogi, _FEDOPT, "Yogi at the server", fixes=_SERVER),
    Entry(
        "fedprox",
        fl.fedprox,
        "Li et al. 2020, MLSys, arXiv:1812.06127",
        "a proximal term holds clients near the received model",
    ),
    Entry(
        "fednova",
        fl.fednova,
        "Wang et al. 2020, NeurIPS, arXiv:2007.07481",
        "changes are divided by the number of local steps",
        rate="learning_rate",
        fixes=_SERVER,
    ),
    Entry(
        "scaffold",
        fl.scaffold,
        "Karimireddy et al. 2020, ICML, arXiv:1910.06378",
        "control variates correct the drift of clients",
        rate="learning_rate",
    ),
    Entry(
        "feddyn",
        fl.feddyn,
        "Acar et al. 2021, ICLR, arXiv:2111.04263",
        "a dynamic regularizer makes the clients' optima agree with the server's",
        fixes=("weighting", *_SERVER),
    ),
    Entry(
        "moon",
        fl.moon,
        "Li, He and Song 2021, CVPR, arXiv:2103.16257",
        "representations are drawn to the global model's and away from the client's former ones",
        needs=("represent",),
    ),
    Entry(
        "qfedavg",
        fl.qfedavg,
        "Li et al. 2020, ICLR, arXiv:1905.10497",
        "clients with a higher loss count more",
        rate="both",
        fixes=_SERVER,
    ),
    Entry(
        "afl",
        fl.afl,
        "Mohri, Sivek and Suresh 2019, ICML, arXiv:1902.00146",
        "the worst mixture of clients is minimized",
        needs=("clients",),
        fixes=("weighting", "sampler", *_SERVER),
    ),
    Entry(
        "fedbn",
        fl.fedbn,
        "Li et al. 2021, ICLR, arXiv:2102.07623",
        "normalization layers stay at the client",
        personal=True,
    ),
    Entry(
        "fedper",
        fl.fedper,
        "Arivazhagan et al. 2019, arXiv:1912.00818",
        "the head stays at the client",
        needs=("head",),
        personal=True,
    ),
    Entry(
        "fedrep",
        fl.fedrep,
        "Collins et al. 2021, ICML, arXiv:2102.07078",
        "the head stays at the client and is trained before the body",
        needs=("head", "head_steps"),
        personal=True,
    ),
    Entry(
        "ditto",
        fl.ditto,
        "Li et al. 2021, ICML, arXiv:2012.04221",
        "clients also train a personal model, held near the global one",
        personal=True,
    ),
    Entry(
        "pfedme",
        fl.pfedme,
        "Dinh, Tran and Nguyen 2020, NeurIPS, arXiv:2006.08848",
        "clients descend the Moreau envelope of their loss and keep its proximal point",
        rate="learning_rate",
        fixes=_SERVER,
        personal=True,
    ),
    Entry(
        "dp_fedavg",
        fl.dp_fedavg,
        "Abadi et al. 2016, CCS, arXiv:1607.00133",
        "gradients of single examples are clipped and noised at the client (DP-SGD)",
        needs=("privacy",),
    ),
    Entry(
        "li_w",
        li_w,
        "Li W. et al. 2019, MLMI, arXiv:1910.00962",
        "clients share some entries of their updates, by the sparse vector technique",
        survey_row="Li-W",
        tests=("tests/federated/test_li_w.py",),
        command=_on_radiographs("li_w", "--algorithm.fraction=0.001 --algorithm.bound=0.01"),
        fixes=("weighting", "channel", "reduce"),
    ),
    Entry(
        "beguier",
        privacy.beguier,
        "Beguier et al. 2021, arXiv:2101.02997",
        "clients train by DP-SGD, and each example is protected at its own client",
        survey_row="Beguier",
        tests=("tests/federated/test_dp_sgd.py", "tests/privacy/test_private_methods.py"),
        command=_on_radiographs("beguier", "--dp.epsilon=2"),
        needs=("mechanism",),
        unit="example",
    ),
    Entry(
        "deepee",
        privacy.deepee,
        "Ziller et al. 2021, deepee, Scientific Reports 11:13524",
        "DP-SGD of networks that are checked, and made, to look at examples one by one",
        survey_row="deepee",
        tests=("tests/tasks/test_surgery.py", "tests/federated/test_dp_sgd.py"),
        command=_on_radiographs("deepee", "--norm=batch --dp.epsilon=8"),
        needs=("mechanism",),
        unit="example",
    ),
    Entry(
        "p3sgd",
        privacy.p3sgd,
        "Wu et al. 2019, P3SGD, CVPR, arXiv:1905.12883",
        "steps are single patients' changes of the model, clipped, noised, scaled by validation patients",
        survey_row="P3SGD",
        tests=("tests/privacy/test_private_methods.py", "tests/federated/test_private_units.py"),
        command=_on_radiographs("p3sgd", "--dp.epsilon=8"),
        needs=("mechanism",),
        rate="learning_rate",
        unit="patient",
        selection="selection",
    ),
    Entry(
        "cheng",
        privacy.cheng,
        "Cheng et al., as reviewed by Liu, Dai and Chen 2025, filled in",
        "updates are summed under Paillier encryption, and a tamper-evident ledger records the rounds",
        survey_row="Cheng",
        tests=("tests/privacy/test_encrypted_sum.py", "tests/privacy/test_chain.py"),
        command=_on_radiographs("cheng", "--algorithm.ledger=runs/cheng/chain.jsonl"),
        needs=("clients",),
        fixes=("reduce",),
    ),
    Entry(
        "famhe",
        privacy.famhe,
        "Froelicher et al. 2021, Nature Communications 12:5910",
        "updates are summed under a collective key, of which every client holds a share",
        survey_row="FAMHE",
        tests=("tests/privacy/test_encrypted_sum.py", "tests/encryption/test_collective_key.py"),
        command=_on_radiographs("famhe"),
        needs=("clients",),
        fixes=("reduce",),
    ),
    Entry(
        "medisecfed",
        medisecfed,
        "Kumar et al., as reviewed by Liu, Dai and Chen 2025, filled in",
        "clients answer synthetic images, a server's model learns from the answers; no parameters travel",
        survey_row="MediSecFed",
        tests=("tests/federated/test_medisecfed.py",),
        command=_on_radiographs("medisecfed", "--algorithm.images=64 --algorithm.inversion_steps=50"),
        needs=("clients", "example", "classification"),
        fixes=("weighting", "reduce", *_SERVER),
        linear=False,
        personal=True,
    ),
    Entry(
        "lai",
        lai,
        "Lai et al., as reviewed by Liu, Dai and Chen 2025, filled in",
        "clients keep their models and share the mean features of each class",
        survey_row="Lai",
        tests=("tests/federated/test_lai.py",),
        command=_on_radiographs("lai"),
        needs=("represent", "example"),
        fixes=("weighting", "reduce", *_SERVER),
        personal=True,
        releases=False,
    ),
    Entry(
        "local_only",
        fl.local_only,
        _COMPARATOR,
        "every client trains alone",
        personal=True,
        exchanges=False,
    ),
    Entry(
        "centralized",
        fl.local_only,
        _COMPARATOR,
        "one model trains on the data of all clients",
        exchanges=False,
        pooled=True,
    ),
)
# Other spellings of names.
ALIASES = {"centralised": "centralized"}
_entries = {entry.name: entry for entry in _TABLE}
# Of blocks of `registered`, each in its own thread or coroutine.
_for_a_block: contextvars.ContextVar[tuple[Entry, ...]] = contextvars.ContextVar("_for_a_block", default=())


def entries() -> tuple[Entry, ...]:
    """All rows, those of the package first."""
    return (*_entries.values(), *_for_a_block.get())


def lookup(name: str) -> Entry:
    """The row of this name, or of the name that it is another spelling of.

    Raises:
      ValueError: there is none; the message lists the names.
    """
    name = ALIASES.get(name, name)
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ArgumentError("method", f"one of {', '.join(known)}", repr(name))
    return known[name]


def register(entry: Entry) -> Entry:
    """Adds a method from outside the package, for this process, and returns it.

    Raises:
      ValueError: if there is a method of this name.
    """
    _check_free(entry)
    _entries[entry.name] = entry
    return entry


@contextlib.contextmanager
def registered(entry: Entry) -> Iterator[None]:
    """Adds a method for the length of a block and this thread; a row that is in the catalog stays there.

    Raises:
      ValueError: as `register`.
    """
    if entry in entries():
        yield
        return
    _check_free(entry)
    token = _for_a_block.set((*_for_a_block.get(), entry))
    try:
        yield
    finally:
        _for_a_block.reset(token)


def _check_free(entry: Entry) -> None:
    if entry.name in ALIASES or any(entry.name == other.name for other in entries()):
        raise ArgumentError("name", "one that is not in the catalog", repr(entry.name))


PARAMETERS = 10**6
_HEAD, _NORM, _CLIENTS = 10**4, 2 * 10**3, 10


@functools.cache
def traffic(entry: Entry) -> RoundBytes:
    """Bytes of one client in one round, for a model of 10**6 float32 parameters and 10 clients.

    Of the parameters 10 000 are the head and 2 000 belong to normalization layers; there are no statistics.
    Found by tracing the engine's own accounting. Options without a default are taken to be 1.
    """
    return round_bytes(example(entry), *_example_arguments())


def example(entry: Entry) -> fl.FederatedAlgorithm:
    """The method at its defaults, for the model and the clients of `traffic`."""
    shapes, _ = _example_arguments()
    head, normalization = (
        Variables({name: name == part for name in shapes.params}, {}) for part in ("head", "norm")
    )
    known = {
        "optimizer": optax.sgd(0.1),
        "learning_rate": 0.1,
        "clients": _CLIENTS,
        "head": head,
        "head_steps": 1,
        "represent": _predict,
        "example": {"image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)},
        "mechanism": Mechanism(1.0, 1.0, 1, 1, unit=entry.unit or "example"),
    }
    parameters = inspect.signature(entry.recipe).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    arguments = {name: known.get(name, 1) for name in (required - {"task"}) | set(RATES[entry.rate])}
    task = Task(_initial, _loss, lambda params, stats, batch: {}, _predict, normalization)
    return entry.recipe(task, **arguments)


def _example_arguments():
    batch = {
        "x": jax.ShapeDtypeStruct((_CLIENTS, 2, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((_CLIENTS, 2), jnp.int32),
    }
    valid = jax.ShapeDtypeStruct((_CLIENTS, 2), jnp.bool_)
    return jax.eval_shape(_initial, jax.random.key(0)), _Examples(batch, valid)


class _Examples(NamedTuple):
    examples: dict
    valid: jax.ShapeDtypeStruct


def _initial(key):
    del key
    sizes = {"body": PARAMETERS - _HEAD - _NORM, "head": _HEAD, "norm": _NORM}
    return Variables({name: jnp.zeros(size) for name, size in sizes.items()}, {})


def _predict(params, stats, batch):
    del stats
    x = batch["x"] if "x" in batch else batch["image"].mean((1, 2))
    return x * sum(x.sum() for x in params.values())


def _loss(params, stats, batch, key):
    del key
    return jnp.where(batch["valid"][:, None], _predict(params, stats, batch), 0).mean(), (stats, {})
