"""What experiments.gpu_check runs, and which figure of each it shows."""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# Of tests/: transforms, projectors, networks, layers, rounds and trainings, which all run on any device.
TESTS = (
    "operators/test_fourier.py",
    "operators/test_nufft.py",
    "operators/test_projectors.py",
    "models/test_unet.py",
    "models/test_varnet.py",
    "federated/test_fedavg.py",
    "federated/test_engine.py",
)


class Row(NamedTuple):
    """A command, and what it found.

    Attributes:
      command: arguments of the interpreter; FILE is that of the command's JSON.
      figure: of its JSON, or of its output where ``command`` has no FILE.
    """

    command: list[str]
    figure: Callable[[Any], str]


FILE = "FILE"


def _last_line(output: str) -> str:
    return re.sub(r"^=+ | =+$", "", (output.strip().splitlines() or [""])[-1])


def _of_output(figure: Callable[[Any], str]) -> Callable[[str], str]:
    return lambda output: figure(json.loads(output.strip().splitlines()[-1]))


def _operations(found: dict[str, Any]) -> str:
    timed = found["libraries"]["fedrecon"]["operations"]
    return ", ".join(f"{name} {value['median_ms']:.3g} ms" for name, value in timed.items())


def _mri(document: dict[str, Any]) -> str:
    return _operations(document["workloads"]["b"]["tiers"][0])


def _ct(document: dict[str, Any]) -> str:
    return _operations(document["workloads"]["bs"])


def _federated(document: dict[str, Any]) -> str:
    ours = document["workloads"]["tiny"]["engines"]["fedrecon"]
    return f"round {1e3 * ours['round_s']:.3g} ms, parallel {ours['parallel']}"


def _convolution(document: dict[str, Any]) -> str:
    (layers,) = document["workloads"].values()
    seconds = sum(min(layer["seconds"]["lax"]["all"]) for layer in layers)
    return f"{len(layers)} layers and gradients {1e3 * seconds:.3g} ms"


def _reconstruction(document: dict[str, Any]) -> str:
    return ", ".join(f"{name} step {1e3 * case['ours']['seconds']:.3g} ms" for name, case in document.items())


def _memory(document: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.rpartition(', ')[2]} {case['measured_bytes'] / 1e6:.3g} MB of the host, estimated "
        f"{case['ratio']:.2f} of it"
        for name, case in document.items()
    )


def _segmentation(document: dict[str, Any]) -> str:
    measured = document["images"]["measured"]
    return ", ".join(f"{what} {1e3 * row['seconds']:.3g} ms" for what, row in measured.items())


def _privacy(document: dict[str, Any]) -> str:
    return ", ".join(f"{row['step']} {row['milliseconds']} ms" for row in document["dp_sgd"][:2])


def _precision(document: dict[str, Any]) -> str:
    full, half = document["float32"], document["bfloat16"]
    parts = [
        f"step {1e3 * full['seconds']:.3g} ms, in bfloat16 {half['seconds'] / full['seconds']:.2f} of it"
    ]
    if full["bytes"]:
        parts.append(f"{full['bytes'] / 1e6:.3g} MB, {half['bytes'] / full['bytes']:.2f} of it")
    return "; ".join(parts)


_STEP = {"channels": 32, "pools": 4, "batch": 8, "size": 128, "repeats": 9}

ROWS: dict[str, Row] = {
    "precision": Row(
        ["-m", "experiments.pipeline.precision_step", json.dumps(_STEP)], _of_output(_precision)
    ),
    "federated": Row(
        ["-m", "benchmarks.federated", "--workloads=tiny", "--engines=fedrecon", "--devices=1", "--rounds=5",
         f"--json={FILE}"],
        _federated,
    ),
    "recon": Row(
        ["-m", "experiments.benchmark_recon", "--only=varnet", "--size=128", "--json"],
        _of_output(_reconstruction),
    ),
    "segmentation": Row(
        ["-m", "experiments.benchmark_segmentation", "--only=images", "--json"], _of_output(_segmentation)
    ),
    "memory": Row(
        ["-m", "experiments.benchmark_memory", "--only=varnet", "--size=128", "--coils=8", "--cascades=4"]
        + ["--json"],
        _of_output(_memory),
    ),
    "privacy": Row(
        ["-m", "experiments.benchmark_privacy", "--only=dp_sgd", "--microbatches=16"] + [f"--json={FILE}"],
        _privacy,
    ),
    "mri": Row(
        ["-m", "benchmarks.mri", "--workloads=b", "--libraries=fedrecon", "--repeats=5", "--seconds=2",
         f"--json={FILE}"],
        _mri,
    ),
    "ct": Row(
        ["-m", "benchmarks.ct", "--workloads=bs", "--libraries=fedrecon", "--repeats=5", "--seconds=2",
         f"--json={FILE}"],
        _ct,
    ),
    "convolution": Row(
        ["-m", "benchmarks.convolution", "--workloads=resnet", "--repeats=5", "--seconds=1"]
        + [f"--json={FILE}"],
        _convolution,
    ),
    "tests": Row(
        ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS)],
        _last_line,
    ),
}  # fmt: skip
