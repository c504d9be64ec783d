"""FedJAX: its federated averaging on networks of plain ``lax`` convolutions, jitted step by step."""

import sys

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.federated.files import FederatedProblem, Recorder


def _conv(params, name, x, stride=1):
    kernel = params[f"{name}/kernel"]
    pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)
    return y + params[f"{name}/bias"] if f"{name}/bias" in params else y


def _dense(params, name, x):
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def _norm(params, name, x, groups):
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    x = ((grouped - mean) * lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return x * params[f"{name}/scale"] + params[f"{name}/bias"]


def _pool(x, value, function):
    return lax.reduce_window(x, value, function, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _cnn(params, x):
    for name in ("conv1", "conv2"):
        x = _pool(jax.nn.relu(_conv(params, name, x)), -jnp.inf, lax.max)
    return _mlp(params, x.reshape(len(x), -1))


def _mlp(params, x):
    return _dense(params, "dense2", jax.nn.relu(_dense(params, "dense1", x)))


def _resnet(params, x, blocks=2):
    x = jax.nn.relu(_norm(params, "stem_norm", _conv(params, "stem", x), 4))
    for stage in range(3):
        for i in range(blocks):
            name, stride = f"stage{stage}_block{i}", 2 if stage and not i else 1
            y = jax.nn.relu(_norm(params, f"{name}/norm1", _conv(params, f"{name}/conv1", x, stride), 4))
            y = _norm(params, f"{name}/norm2", _conv(params, f"{name}/conv2", y), 4)
            if stride > 1:
                x = _conv(params, f"{name}/shortcut", x, stride)
                x = _norm(params, f"{name}/shortcut_norm", x, 4)
            x = jax.nn.relu(x + y)
    return _dense(params, "head", x.mean((1, 2)))


def _unet(params, x, pools=4):
    def activated(name, x):
        return jax.nn.leaky_relu(_norm(params, name, x, x.shape[-1]), 0.2)

    def block(name, x):
        for i in (1, 2):
            x = activated(f"{name}/norm{i}", _conv(params, f"{name}/conv{i}", x))
        return x

    skips = []
    for level in range(pools):
        x = block(f"encoder/block{level}", x)
        skips.append(x)
        x = _pool(x, 0.0, lax.add) / 4
    x = block(f"encoder/block{pools}", x)
    for level in reversed(range(pools)):
        n, ny, nx, _ = x.shape
        phases = _conv(params, f"up{level}/conv", x).reshape(n, ny, nx, 2, 2, -1)
        x = phases.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * ny, 2 * nx, -1)
        x = block(f"up_block{level}", jnp.concatenate([skips[level], activated(f"up_norm{level}", x)], -1))
    return _conv(params, "head", x)


_NETWORKS = {"cnn": _cnn, "resnet": _resnet, "unet": _unet, "tiny": _mlp, "small": _mlp}


def _loss(batch, output):
    if output.ndim == 4:
        return jnp.square(output - batch["y"]).mean((1, 2, 3))
    return -jnp.take_along_axis(jax.nn.log_softmax(output), batch["y"][:, None], 1)[:, 0]


def main(path: str, folder: str, job: str) -> None:
    problem, recorder = FederatedProblem.load(path), Recorder(folder)
    network = _NETWORKS[problem.workload]
    start = {name: jnp.asarray(value) for name, value in problem.weights.items()}
    problem.check_output(np.asarray(jax.jit(network)(start, problem.x[0, : problem.batch_size])))
    model = fedjax.Model(
        lambda rng: start,
        lambda params, batch, rng: network(params, batch["x"]),
        lambda params, batch: network(params, batch["x"]),
        _loss,
        {},
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(problem.learning_rate),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(problem.batch_size, num_epochs=1, skip_shuffle=True),
    )
    state, round, weights = algorithm.init(start), 0, None
    keys = jax.random.split(jax.random.PRNGKey(0), problem.clients)
    recorder.stamp()
    while round < problem.rounds or recorder.wants_more():
        clients = []
        for client, order in enumerate(problem.orders[round % problem.rounds]):
            examples = {"x": problem.x[client][order], "y": problem.y[client][order]}
            clients.append((str(client).encode(), fedjax.ClientDataset(examples), keys[client]))
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        round += 1
        recorder.stamp()
        if round == problem.rounds:
            weights = {name: np.asarray(value) for name, value in state.params.items()}
    recorder.write(weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
