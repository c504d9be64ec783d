"""The engines of the federated benchmark by name."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from typing import Any

OURS, SGD = "fedrecon", "fedrecon-sgd"


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine as it is measured.

    Attributes:
      module: its worker in this package, run as ``python -m MODULE PROBLEM FOLDER JOB``.
      packages: distributions whose versions are recorded.
      modules: what must be importable.
      install: what to hand to pip, in an environment that has torch where the engine needs it.
      job: its settings.
      federated: False for plain SGD, which trains other weights and is not compared with peers.
      processes: whether it starts further processes, whose memory is added.
      workloads: those it is run on; None for all.
    """

    module: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    install: str
    job: dict[str, Any] = dataclasses.field(default_factory=dict)
    federated: bool = True
    processes: bool = False
    workloads: tuple[str, ...] | None = None

    def missing(self, python: str = sys.executable) -> list[str]:
        """The modules that an interpreter does not find."""
        # Not the same file: interpreters of environments are links to one.
        if python == sys.executable:
            return [name for name in self.modules if importlib.util.find_spec(name) is None]
        code = (
            "import importlib.util, json, sys\n"
            "print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n) is None]))"
        )
        found = subprocess.run([python, "-c", code, *self.modules], capture_output=True, text=True)
        return json.loads(found.stdout) if found.returncode == 0 else list(self.modules)

    def versions(self, python: str = sys.executable) -> dict[str, str | None]:
        """Versions of its packages where an interpreter finds them."""
        code = (
            "import importlib.metadata as m, json, sys\n"
            "have = {d.name.lower(): d.version for d in m.distributions()}\n"
            "print(json.dumps({n: have.get(n) for n in sys.argv[1:]}))"
        )
        found = subprocess.run([python, "-c", code, *self.packages], capture_output=True, text=True)
        return json.loads(found.stdout) if found.returncode == 0 else dict.fromkeys(self.packages)


_PACKAGE = "benchmarks.federated"

ENGINES: dict[str, Engine] = {
    OURS: Engine(f"{_PACKAGE}.ours", ("jax", "jaxlib"), ("jax",), ".", {"engine": "round"}),
    SGD: Engine(f"{_PACKAGE}.ours", ("jax",), ("jax",), ".", {"engine": "sgd"}, federated=False),
    "torch": Engine(f"{_PACKAGE}.torch_engine", ("torch",), ("torch",), "torch numpy"),
    "pfl": Engine(f"{_PACKAGE}.pfl_engine", ("pfl", "torch"), ("pfl", "torch"), "'pfl[pytorch]'"),
    "fedjax": Engine(
        f"{_PACKAGE}.fedjax_engine",
        ("fedjax", "jax"),
        ("fedjax", "haiku"),
        "fedjax jax==0.4.25 jaxlib==0.4.25 dm-haiku==0.0.12 'numpy<2' 'scipy<1.13'",
    ),
    "flower": Engine(
        f"{_PACKAGE}.flower_engine",
        ("flwr", "ray", "torch"),
        ("flwr", "ray", "torch"),
        "'flwr[simulation]' torch",
        processes=True,
    ),
    "flare": Engine(
        f"{_PACKAGE}.flare_engine",
        ("nvflare", "torch"),
        ("nvflare", "torch"),
        "nvflare torch",
        processes=True,
        # It starts a process for every client, each with libraries of hundreds of MB.
        workloads=("unet", "resnet", "small"),
    ),
}
