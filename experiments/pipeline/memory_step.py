"""Memory of one training step of a reconstruction network: the estimate, and what the process took.

Run as a module in a process of its own, so that nothing else has taken memory before.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.models import DeepEquilibrium, E2EVarNet, VarNet
from fedrecon.runtime import compiled, keep_memory, memory_estimate, release_memory
from operators import SENSE, CartesianFourier

# Peaks are reset by writing this to clear_refs, by proc(5).
_RESET_PEAK = "5"
_PROCESS = Path("/proc/self")


def network_of(work: Mapping[str, Any]) -> nn.Module:
    """The network of a case, of fastMRI's sizes: 18 channels and four poolings, for coil maps eight."""
    if work["network"] == "e2e-varnet":
        return E2EVarNet(work["cascades"], work["channels"], work["pools"], 8, 4, remat=work["remat"])
    if work["network"] == "varnet":
        return VarNet(work["cascades"], work["channels"], work["pools"], remat=work["remat"])
    return DeepEquilibrium(work["channels"], work["pools"], iterations=work["iterations"], tolerance=0.0)


def measure(work: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of a step of Adam on one slice.

    The measured ones are the largest resident set of the process during the step, less the resident set
    before its arguments were made.
    """
    network = network_of(work)
    image, coils = (1, work["size"], work["size"]), (1, work["coils"], work["size"], work["size"])
    shapes = tuple(
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in ((image, "f4"), (coils, "c8"), (coils, "c8"), (image, "f4"))
    )
    optimizer = optax.adam(1e-4)

    def stacked(mask: jax.Array, maps: jax.Array) -> Any:
        return jax.vmap(lambda m, s: SENSE(CartesianFourier(m.shape, m), s))(mask, maps)

    def loss(params: Any, mask: jax.Array, maps: jax.Array, kspace: jax.Array, target: jax.Array) -> Any:
        images: Any = network.apply({"params": params}, stacked(mask, maps), kspace)
        return jnp.abs(jnp.abs(images) - target).mean()

    @partial(jax.jit, donate_argnums=0)
    def step(state: tuple, arguments: tuple) -> tuple:
        params, memory = state
        changes, memory = optimizer.update(jax.grad(loss)(params, *arguments), memory)
        return optax.apply_updates(params, changes), memory

    def start(mask: jax.Array, maps: jax.Array, kspace: jax.Array) -> tuple:
        params = network.init(jax.random.key(0), stacked(mask, maps), kspace)["params"]
        return params, optimizer.init(params)

    state_shapes = jax.eval_shape(start, *shapes[:3])
    program = compiled(step.lower(state_shapes, shapes))
    estimate = memory_estimate(program)
    assert estimate is not None, "CPUs tell"
    release_memory()
    before = _status("VmRSS")
    state, arguments = jax.tree.map(_filled, (state_shapes, shapes))
    _reset_peak()
    for _ in range(work["steps"]):
        state = jax.block_until_ready(program(state, arguments))
    measured = _status("VmHWM") - before
    return {
        "estimated_bytes": estimate.total,
        "measured_bytes": measured,
        "ratio": estimate.total / measured,
        "argument_bytes": estimate.arguments,
        "temporary_bytes": estimate.temporaries,
        "parameters": int(sum(x.size for x in jax.tree.leaves(state[0]))),
        "versions": {"jax": jax.__version__},
    }


def _filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
    value = np.zeros((), shape.dtype) if shape.dtype.kind == "i" else np.asarray(0.01, shape.dtype)
    return jax.block_until_ready(jax.device_put(np.broadcast_to(value, shape.shape).copy()))


def _status(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _reset_peak() -> None:
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


if __name__ == "__main__":
    keep_memory()
    print(json.dumps(measure(json.loads(sys.argv[1]))))
