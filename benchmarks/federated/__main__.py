"""Compares fedrecon's round with other federated simulators, on the same model, data, batches and SGD steps.

Workloads, federated averaging of plain SGD, one local pass and all clients in each round:
  cnn     the network of the paper on federated averaging, 28 x 28, 64 clients x 100 examples, batch 20
  unet    U-Net of 4 pools and 16 channels, 96 x 96 regression, 8 clients x 16, batch 4
  resnet  residual network with group normalization, 64 x 64, 16 clients x 32, batch 8
  tiny    one hidden layer, 32-64-10, 256 clients x 10, batch 10: the overhead of the engine

Engines: fedrecon; fedrecon-sgd (the same SGD steps by the same layers in one compiled scan, nothing else);
torch (the clients one after another in plain torch, weights copied and averaged); pfl-research; FedJAX;
Flower's simulation on Ray; NVIDIA FLARE's simulator, but not on cnn and tiny, where it would start a process
for each of many clients. All start from the same weights and visit the same examples in the same order. Each
engine's network is checked to compute the same as fedrecon's, and its final weights are evaluated by the same
program: losses must agree.

Every engine runs alone, in a process of its own, with all cores; fedrecon before and after the others. Given
are the median of the rounds after the first; the time from the start of the process to the end of the first
round (cold start, which the goals judge less one round); the peak memory of the process and those it started
(shared pages in proportion); and the floating-point operations of convolutions and products as a part of what
a product of large matrices reaches. fedrecon tries each number of host devices of --devices, with the client
parallelism it chooses there, and the fastest is compared; the time this takes is not part of the cold start.

The other engines are optional; those that are not installed are skipped. Each may have an environment of its
own, which needs numpy and the engine:

  python -m benchmarks.federated --json=federated.json
  python -m benchmarks.federated --workloads=tiny --engines=fedrecon,fedrecon-sgd,torch
  python -m benchmarks.federated --pythons=torch=a/bin/python,pfl=b/bin/python,flower=c/bin/python
"""

import dataclasses
import json
import os
import sys

from absl import flags

from benchmarks.command import check_json, interpreters, print_machine, start
from benchmarks.federated.models import WORKLOADS
from benchmarks.federated.registry import ENGINES
from benchmarks.federated.run import compare, describe
from benchmarks.measure import describe_machine, matmul_peak
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from operators.kernels import native


@dataclasses.dataclass(frozen=True)
class FederatedOptions:
    """The flags; see `define_flags`."""

    workloads: list[str] = dataclasses.field(default_factory=lambda: ["cnn", "unet", "resnet", "tiny"])
    engines: list[str] = dataclasses.field(default_factory=lambda: list(ENGINES))
    pythons: list[str] = dataclasses.field(default_factory=list)
    devices: list[str] = dataclasses.field(default_factory=lambda: ["1", str(os.cpu_count())])
    parallel: str = "auto"
    rounds: int = 6
    json: str | None = None


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = FederatedOptions()
    flags.DEFINE_list("workloads", default.workloads, f"Workloads, of {', '.join(WORKLOADS)}.")
    flags.DEFINE_list("engines", default.engines, "Engines, in the order of the tables.")
    flags.DEFINE_list("pythons", default.pythons, "engine=interpreter of engines that have their own.")
    flags.DEFINE_list("devices", default.devices, "Numbers of host devices that fedrecon tries.")
    flags.DEFINE_string("parallel", default.parallel, "How its devices run clients: as in make_round, auto.")
    flags.DEFINE_integer("rounds", default.rounds, "Rounds, of which the first is not timed.", lower_bound=3)
    flags.DEFINE_string("json", default.json, "File for all results, every single time included.")


def run(options: FederatedOptions) -> dict:
    """Runs the workloads, prints the tables and returns (and writes) everything measured.

    Raises:
      ValueError: an option is not as it should be; names it.
      OSError: the file cannot be written.
    """
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ArgumentError("--workloads", f"some of {', '.join(WORKLOADS)}", repr(name))
    devices = _devices(options.devices)
    parallel = _parallel(options.parallel)
    pythons = interpreters(options.pythons, ENGINES, "engine")
    engines = _installed(options.engines, pythons)
    check_json(options.json)
    machine = describe_machine(("jax", "jaxlib", "numpy"))
    peak = matmul_peak()
    report = {
        "machine": machine,
        "backends": {"convolution": native.load("convolution", "float32")},
        "peak_gflops": peak / 1e9,
        "versions": {name: ENGINES[name].versions(pythons.get(name, sys.executable)) for name in engines},
        "options": dataclasses.asdict(options),
        "workloads": {},
    }
    print_machine(machine, packages=False)
    for name, versions in report["versions"].items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in versions.items())}")
    print(f"product of matrices: {peak / 1e9:.0f} GFLOP/s", flush=True)
    for name in dict.fromkeys(options.workloads):
        result = compare(name, engines, options.rounds, pythons, devices, parallel)
        report["workloads"][name] = result
        print(f"\n{name}: {result['title']}\n{describe(name, result, peak)}", flush=True)
        if options.json is not None:
            write_atomically(options.json, json.dumps(report, indent=1).encode())
    return report


def _devices(texts: list[str]) -> list[int]:
    if not texts or not all(text.isdigit() and int(text) > 0 for text in texts):
        raise ArgumentError("--devices", "positive numbers", repr(",".join(texts)))
    return list(dict.fromkeys(map(int, texts)))


def _parallel(text: str) -> str | int | None:
    if text == "auto":
        return None
    if text in ("scan", "pmap", "vmap"):
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise ArgumentError("--parallel", "auto, scan, pmap, vmap or a chunk size", repr(text))


def _installed(names: list[str], pythons: dict[str, str]) -> list[str]:
    chosen = []
    for name in names:
        if name not in ENGINES:
            raise ArgumentError("--engines", f"some of {', '.join(ENGINES)}", repr(name))
        engine = ENGINES[name]
        missing = engine.missing(pythons.get(name, sys.executable))
        if missing:
            print(f"skipped {name}: {', '.join(missing)} not installed; pip install {engine.install}")
        elif name not in chosen:
            chosen.append(name)
    return chosen


if __name__ == "__main__":
    start("benchmarks.federated", define_flags, FederatedOptions, run, passive_openmp=False)
