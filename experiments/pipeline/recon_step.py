"""The same as `torch_recon_step`, of our networks; run as a module in a process of its own."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.models import E2EVarNet, InstanceNorm, LearnedPrimalDual, UNet
from fedrecon.published_weights import from_fastmri
from fedrecon.runtime import keep_memory
from operators import SENSE, CartesianFourier


def drawn(work: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the shapes that `torch_recon_step` writes, without it."""
    rng = np.random.default_rng(0)
    shape = (work["batch"], work["coils"], work["size"], work["size"])
    mask = (rng.random((work["batch"], work["size"])) < 0.3).astype(np.float32)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * mask[:, None, None]
    target = abs(rng.normal(size=(shape[0], *shape[2:])))
    return {
        "kspace": kspace.astype(np.complex64),
        "mask": mask,
        "target": target.astype(np.float32),
    }


def network_of(work: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[nn.Module, tuple, Any]:
    """(module, its arguments, ``magnitude(output)``)."""
    mask = jnp.asarray(arrays["mask"])[:, None] * jnp.ones(arrays["target"].shape, jnp.float32)
    kspace = jnp.asarray(arrays["kspace"])
    if work["network"] == "unet":
        plain = partial(InstanceNorm, affine=False)
        return UNet(work["channels"], work["pools"], norm=plain), (arrays["target"][..., None],), _first
    if work["network"] == "varnet":
        maps = jnp.ones(kspace.shape, kspace.dtype)
        operators = jax.vmap(lambda m, s: SENSE(CartesianFourier(m.shape, m), s))(mask, maps)
        sizes = (work[name] for name in ("cascades", "channels", "pools", "map_channels", "map_pools"))
        return E2EVarNet(*sizes), (operators, kspace), jnp.abs
    operators = jax.vmap(lambda m: CartesianFourier(m.shape, m))(mask)
    return LearnedPrimalDual(work["cascades"]), (operators, kspace[:, 0]), jnp.abs


def primal_dual_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `LearnedPrimalDual` by the names of `torch_recon_step`."""
    cascades: dict[str, Any] = {}
    steps = 1 + max(int(name.split(".")[1]) for name in state)
    for part in ("dual", "primal"):
        layers = cascades[part] = {}
        for number, place in enumerate((0, 2, 4), 1):
            kernels, biases = (
                np.stack([state[f"{part}.{step}.{place}.{kind}"] for step in range(steps)])
                for kind in ("weight", "bias")
            )
            layers[f"conv{number}"] = {"kernel": kernels.transpose(0, 3, 4, 2, 1), "bias": biases}
    return {"cascades": cascades}


def measure(work: Mapping[str, Any], case: str) -> dict[str, Any]:
    """Median seconds of a step of Adam, and the largest resident size."""
    there = Path(case).exists()
    arrays: Mapping[str, Any] = dict(np.load(case)) if there else drawn(work)
    network, arguments, magnitude = network_of(work, arrays)
    if there:
        state = {n.removeprefix("state/"): x for n, x in arrays.items() if n.startswith("state/")}
        dual = work["network"] == "primal-dual"
        params: Any = primal_dual_params(state) if dual else from_fastmri(state)[1].params
        params = jax.tree.map(jnp.asarray, params)
    else:
        params = jax.jit(network.init)(jax.random.key(0), *arguments)["params"]
    target = jnp.asarray(arrays["target"])
    optimizer = optax.adam(1e-4)

    def loss(params: Any, arguments: tuple) -> jax.Array:
        return jnp.abs(magnitude(network.apply({"params": params}, *arguments)) - target).mean()

    @partial(jax.jit, donate_argnums=0)
    def step(state: tuple, arguments: tuple) -> tuple:
        params, memory = state
        changes, memory = optimizer.update(jax.grad(loss)(params, arguments), memory)
        return optax.apply_updates(params, changes), memory

    difference = None
    if there:
        output = jax.jit(lambda p, a: magnitude(network.apply({"params": p}, *a)))(params, arguments)
        difference = float(np.abs(output - arrays["output"]).max() / np.abs(arrays["output"]).max())
        del output
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = jax.block_until_ready(step((params, optimizer.init(params)), arguments))
    seconds = []
    for _ in range(work["repeats"]):
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, arguments))
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "before_bytes": 1024 * before,
        "parameters": int(sum(x.size for x in jax.tree.leaves(state[0]))),
        "difference": difference,
        "versions": {"jax": jax.__version__},
    }


def _first(x: jax.Array) -> jax.Array:
    return x[..., 0]


if __name__ == "__main__":
    keep_memory()
    print(json.dumps(measure(json.loads(sys.argv[1]), sys.argv[2])))
