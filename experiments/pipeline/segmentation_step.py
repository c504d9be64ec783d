"""The same as `monai_step`, of our networks and rounds; run as a module in a process of its own."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.data import stack_clients
from fedrecon.models import UNet
from fedrecon.runtime import keep_memory
from fedrecon.tasks import segmentation_task, sliding_window


def median(step: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of a call, compiled before, and those of all processors."""
    jax.block_until_ready(step())
    seconds, busy = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    return statistics.median(seconds), statistics.median(busy)


def network_of(work: Mapping[str, int]) -> UNet:
    """The U-Net of the benchmark."""
    return UNet(work["channels"], work["pools"], 2)


def torch_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters of the U-Net by the names and in the layouts of `monai_step`."""

    def kernel(x: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(x), (-1, -2), (0, 1))

    def block(name: str, of: Mapping[str, Any]) -> dict[str, np.ndarray]:
        found = {}
        for i, place in ((1, 0), (2, 3)):
            found[f"{name}.layers.{place}.weight"] = kernel(of[f"conv{i}"]["kernel"])
            found |= norm(f"{name}.layers.{place + 1}", of[f"norm{i}"])
        return found

    def norm(name: str, of: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.asarray(of["scale"]), f"{name}.bias": np.asarray(of["bias"])}

    pools = len(params["encoder"]) - 1
    state = {"head.weight": kernel(params["head"]["kernel"]), "head.bias": np.asarray(params["head"]["bias"])}
    for level in range(pools + 1):
        state |= block(f"down.{level}", params["encoder"][f"block{level}"])
    for level in range(pools):
        phases = np.asarray(params[f"up{level}"]["conv"]["kernel"])
        axes, features = phases.ndim - 2, params[f"up_norm{level}"]["scale"].shape[0]
        phases = phases.reshape(-1, *(2,) * axes, features)
        state[f"up.{level}.weight"] = np.moveaxis(phases, -1, 1)
        state |= norm(f"up_norm.{level}", params[f"up_norm{level}"])
        state |= block(f"merge.{level}", params[f"up_block{level}"])
    return {name: np.ascontiguousarray(x) for name, x in state.items()}


def convolution_flops(work: Mapping[str, int]) -> float:
    """Multiplications and additions of all convolutions for one image or volume of ``size``."""
    axes, pools, total, before = work["axes"], work["pools"], 0.0, 1
    widths = [work["channels"] << level for level in range(pools + 1)]
    for level, width in enumerate(widths):
        pixels = (work["size"] >> level) ** axes
        total += 2 * 3**axes * (before + width) * width * pixels
        if level < pools:
            # Up from twice the features, and the block that merges.
            total += 2 * 2 * width * width * pixels + 2 * 3**axes * 3 * width * width * pixels
        before = width
    return total + 2 * widths[0] * 2 * work["size"] ** axes


def flop_limit() -> float:
    """Operations a second of a product of matrices of 2048 x 2048 float32."""
    a = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * 2048**3 / median(lambda: product(a, a), 5)[0]


def measure(work: Mapping[str, int], case: str) -> dict[str, Any]:
    """Median seconds; writes weights, an image and the output for the other process."""
    axes, batch, repeats = work["axes"], work["batch"], work["repeats"]
    rng = np.random.default_rng(0)
    count = work["steps"] * batch
    clients = []
    for _ in range(work["clients"]):
        image = rng.normal(size=(count, *[work["size"]] * axes, 1)).astype(np.float32)
        clients.append({"image": image, "segmentation": (image[..., 0] > 1).astype(np.float32)})
    examples = {name: x[:batch] for name, x in clients[0].items()}
    network = network_of(work)
    task = segmentation_task(network, examples)
    variables = jax.block_until_ready(task.init(jax.random.key(0)))
    output = jax.jit(network.apply)({"params": variables.params}, examples["image"][:1])
    arrays = {"image": examples["image"][:1], "output": np.asarray(output)}
    given = {name: np.moveaxis(x, -1, 1) for name, x in arrays.items()}
    np.savez(case, **given, **torch_state(variables.params))

    optimizer = optax.adam(1e-3)
    shown = {**{name: jnp.asarray(x) for name, x in examples.items()}, "valid": jnp.ones(batch, bool)}

    def update(state: tuple, batch: dict, key: jax.Array) -> tuple:
        params, memory = state
        gradient = jax.grad(lambda p: task.loss(p, {}, batch, key)[0])(params)
        changes, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(params, changes), memory

    step = jax.jit(update)
    state = variables.params, optimizer.init(variables.params)
    algorithm = fl.fedavg(task, optimizer)
    data = fl.place(stack_clients(clients, [str(i) for i in range(work["clients"])]))
    round = fl.make_round(algorithm, batch_size=batch, steps=work["steps"], parallel="scan")
    begun = fl.init_state(algorithm, variables, data)
    whole = jnp.asarray(rng.normal(size=(1, *[work["image"]] * axes, 1)), jnp.float32)
    windows = jax.jit(
        lambda params, x: sliding_window(
            lambda part: network.apply({"params": params}, part), x, [work["window"]] * axes
        )
    )
    key = jax.random.key(1)
    few = max(1, repeats // 3)
    times = {
        "step": median(lambda: step(state, shown, key), repeats),
        "round": median(lambda: round(_copied(begun), data, key), few),
        "windows": median(lambda: windows(variables.params, whole), few),
    }
    return {
        "seconds": {name: found[0] for name, found in times.items()},
        "busy": {name: found[1] for name, found in times.items()},
        "parameters": int(sum(x.size for x in jax.tree.leaves(variables.params))),
        "limit": flop_limit(),
        "versions": {"jax": jax.__version__},
    }


def _copied(tree: Any) -> Any:
    """Rounds may take over the arrays of their state."""
    return jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) else x, tree)


if __name__ == "__main__":
    keep_memory()
    print(json.dumps(measure(json.loads(sys.argv[1]), sys.argv[2])))
