"""The libraries of the CT benchmark by name.

An adapter takes a :class:`~benchmarks.ct.problems.CTProblem`, converts the inputs to the library's own
arrays, plans what the library lets one plan, and returns a :class:`~benchmarks.ct.prepared.PreparedLibrary`.
It is imported when it is used: an environment made for one library need not have what the others need.
"""

import dataclasses
import functools
import importlib
import importlib.util
import os
from typing import Any

from benchmarks.ct.prepared import PreparedLibrary
from benchmarks.ct.problems import WORKLOADS, CTProblem


@dataclasses.dataclass(frozen=True)
class Library:
    """A library as it is measured.

    Attributes:
      module, function: the adapter, in this package.
      options: its keyword arguments.
      packages: distributions whose versions are recorded.
      modules: what must be importable.
      kinds: the scans it takes.
      absent: why operations are left out, by operation.
      environment: variables that must be set in its process, which is then one of its own.
    """

    module: str
    function: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("parallel", "fan", "cone")
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def prepare(self, problem: CTProblem) -> PreparedLibrary:
        """Imports the adapter and applies it; raises what the library raises."""
        module = importlib.import_module(f"benchmarks.ct.{self.module}")
        return getattr(module, self.function)(problem, **self.options)


_NO_AUTODIFF = {"gradient": "no automatic differentiation"}
_NO_AUTODIFF_HERE = "only by its module for torch, which is not measured"
_NO_FBP = {"fbp": "no analytic reconstruction"}
_FLAT = ("parallel", "fan")

PEERS = {
    "astra-linear": Library(
        "peers", "astra", {"model": "linear"}, ("astra-toolbox",), ("astra",), ("parallel",), _NO_AUTODIFF
    ),
    "astra-line": Library(
        "peers", "astra", {"model": "line"}, ("astra-toolbox",), ("astra",), _FLAT, _NO_AUTODIFF
    ),
    "astra-strip": Library(
        "peers", "astra", {"model": "strip"}, ("astra-toolbox",), ("astra",), _FLAT, _NO_AUTODIFF
    ),
    "astra-matrix": Library(
        "peers",
        "astra_matrix",
        packages=("astra-toolbox", "scipy"),
        modules=("astra", "scipy"),
        kinds=_FLAT,
        absent=_NO_AUTODIFF | _NO_FBP,
    ),
    "mbirjax": Library(
        "peers",
        "mbirjax",
        {},
        ("mbirjax",),
        ("mbirjax",),
        ("parallel", "cone"),
        _NO_AUTODIFF,
        # It divides its work between devices, which must be there before JAX starts.
        {"XLA_FLAGS": f"--xla_force_host_platform_device_count={os.cpu_count()}"},
    ),
    "odl": Library("peers", "odl", {}, ("odl", "astra-toolbox"), ("odl", "astra"), _FLAT, _NO_AUTODIFF),
    "scikit-image": Library(
        "peers", "scikit_image", {}, ("scikit-image",), ("skimage",), ("parallel",), _NO_AUTODIFF
    ),
    "leap": Library(
        "separate_peers", "leap", {}, ("leapct",), ("leapctype",), absent={"gradient": _NO_AUTODIFF_HERE}
    ),
    "scico": Library("separate_peers", "scico", {}, ("scico",), ("scico",), ("parallel",)),
    "deepinv": Library("separate_peers", "deepinv", {}, ("deepinv", "torch"), ("deepinv",), ("parallel",)),
    "rtk": Library("separate_peers", "rtk", {}, ("itk-rtk",), ("itk",), ("cone",), _NO_AUTODIFF),
}


@functools.cache
def libraries() -> dict[str, Library]:
    """All libraries in the order of the tables: ours by its default model, by each model, then the peers."""
    ours = {"fedrecon": Library("ours", "fedrecon", packages=("fedrecon",))}
    ours |= {
        f"fedrecon-{model}": Library(
            "ours", "fedrecon", {"model": model}, ("fedrecon",), kinds=kinds, absent=_SAME_FBP
        )
        for model, kinds in _models().items()
    }
    ours["fedrecon-jax"] = dataclasses.replace(ours["fedrecon"], environment={"FEDRECON_BACKEND": "jax"})
    return ours | PEERS


_SAME_FBP = {"fbp": "that of fedrecon"}


def library(name: str) -> Library:
    """One of :func:`libraries`; a peer without importing what is ours."""
    return PEERS[name] if name in PEERS else libraries()[name]


def _models() -> dict[str, tuple[str, ...]]:
    """By model the kinds of scans that it takes."""
    from benchmarks.ct.ours import models

    scans = {w.scan.kind: w.scan for name, w in WORKLOADS.items() if name.startswith("tiny")}
    found: dict[str, tuple[str, ...]] = {}
    for kind, scan in scans.items():
        for model in models(scan):
            found[model] = (*found.get(model, ()), kind)
    return found
