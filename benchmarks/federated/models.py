"""The workloads of the federated benchmark: networks, tasks and data, by fedrecon's layers."""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.federated.files import FederatedProblem
from fedrecon.federated.batching import shuffled_epochs
from fedrecon.federated.engine import round_keys
from fedrecon.models import Conv, GroupNorm, UNet
from fedrecon.tasks import classification_task
from fedrecon.types import Task, Variables

SEED = 0


def _max_pool(x: jax.Array) -> jax.Array:
    # Not a reduction, whose derivative counts ties; where ReLUs tie at zero they pass no gradient anyway.
    n, ny, nx, channels = x.shape
    x = x.reshape(n, ny // 2, 2, nx // 2, 2, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


class CNN(nn.Module):
    """The convolutional network of the paper on federated averaging (McMahan et al. 2017), 28 x 28."""

    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        for i, features in enumerate((32, 64), 1):
            x = _max_pool(nn.relu(Conv(features, 5, name=f"conv{i}")(x)))
        x = nn.relu(nn.Dense(512, name="dense1")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes, name="dense2")(x)


class MLP(nn.Module):
    """One hidden layer."""

    hidden: int = 64
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        return nn.Dense(self.classes, name="dense2")(nn.relu(nn.Dense(self.hidden, name="dense1")(x)))


class _Block(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(name, size, stride):
            pads = ((size // 2, size // 2),) * 2
            return Conv(self.features, size, stride, pads, use_bias=False, name=name)

        y = nn.relu(GroupNorm(name="norm1")(conv("conv1", 3, self.stride)(x)))
        y = GroupNorm(name="norm2")(conv("conv2", 3, 1)(y))
        if x.shape != y.shape:
            x = GroupNorm(name="shortcut_norm")(conv("shortcut", 1, self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network of three stages (He et al. 2016, section 4.2) with group normalization."""

    channels: int = 16
    blocks: int = 2
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        x = nn.relu(GroupNorm(name="stem_norm")(Conv(self.channels, use_bias=False, name="stem")(x)))
        for stage in range(3):
            for i in range(self.blocks):
                stride = 2 if stage and not i else 1
                x = _Block(self.channels << stage, stride, name=f"stage{stage}_block{i}")(x)
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained, on how much.

    Attributes:
      title: for people.
      model: the network.
      shape: of one example, without channels where it is a vector.
      clients, examples: how many, and of each.
      batch_size, learning_rate: of plain SGD, one pass per round.
      regression: images are regressed by their mean square error; otherwise ten classes are told apart.
      dispatch: rounds that fedrecon compiles into one call; divides the rounds that are compared.
    """

    title: str
    model: nn.Module
    shape: tuple[int, ...]
    clients: int
    examples: int
    batch_size: int
    learning_rate: float
    regression: bool = False
    dispatch: int = 1


WORKLOADS = {
    "cnn": Workload("FedAvg-paper CNN, 28 x 28, 64 clients x 100, batch 20",
                    CNN(), (28, 28, 1), 64, 100, 20, 0.05),
    "unet": Workload("U-Net, 4 pools, 16 channels, 96 x 96 regression, 8 clients x 16, batch 4",
                     UNet(16, 4), (96, 96, 1), 8, 16, 4, 0.02, regression=True),
    "resnet": Workload("ResNet-14, group norm, 64 x 64, 16 clients x 32, batch 8",
                       ResNet(), (64, 64, 3), 16, 32, 8, 0.02),
    "tiny": Workload("MLP 32-64-10, 256 clients x 10, batch 10",
                     MLP(), (32,), 256, 10, 10, 0.05, dispatch=10),
    "small": Workload("MLP 32-64-10, 4 clients x 10, batch 5 (for tests)",
                      MLP(), (32,), 4, 10, 5, 0.05, dispatch=2),
}  # fmt: skip


def task_of(workload: Workload) -> Task:
    """The workload as fedrecon trains it; batches are dicts of "image" and "label"."""
    label = workload.shape if workload.regression else ()
    dtype = jnp.float32 if workload.regression else jnp.int32
    example = {
        "image": jax.ShapeDtypeStruct((1, *workload.shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((1, *label), dtype),
    }
    if not workload.regression:
        return classification_task(workload.model, example)
    return _regression_task(workload.model, example["image"])


def _regression_task(model: nn.Module, image: jax.ShapeDtypeStruct) -> Task:
    def init(key):
        return Variables(model.init(key, jnp.zeros(image.shape, image.dtype))["params"], {})

    def predict(params, stats, batch):
        return model.apply({"params": params}, batch["image"])

    def metrics(params, stats, batch):
        each = jnp.square(predict(params, stats, batch) - batch["label"]).mean((1, 2, 3))
        return {"loss": (jnp.where(batch["valid"], each, 0).sum(), batch["valid"].sum(dtype=each.dtype))}

    def loss(params, stats, batch, key):
        found = metrics(params, stats, batch)
        total, count = found["loss"]
        return total / jnp.maximum(count, 1), (stats, found)

    return Task(jax.jit(init), loss, metrics, predict, Variables(False, False))


def make_problem(name: str, rounds: int) -> FederatedProblem:
    """Simulated data, initial weights, the orders that fedrecon's rounds draw, and an output to check."""
    workload = WORKLOADS[name]
    x, y = _data(workload)
    task = task_of(workload)
    variables = task.init(jax.random.key(SEED))
    first = {"image": jnp.asarray(x[0, : workload.batch_size])}
    output = jax.jit(lambda v, i: workload.model.apply({"params": v.params}, i))(variables, first["image"])
    return FederatedProblem(
        workload=name,
        batch_size=workload.batch_size,
        learning_rate=workload.learning_rate,
        x=x,
        y=y,
        orders=_orders(workload, rounds),
        weights=flatten(variables.params),
        output=np.asarray(output),
    )


def _data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    counts = (workload.clients, workload.examples)
    noise = rng.normal(size=(*counts, *workload.shape)).astype(np.float32)
    if workload.regression:
        # Smooth random images, to be told from noise.
        ny, nx = workload.shape[:2]
        radius = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)) * ny
        spectrum = np.fft.fft2(rng.normal(size=(*counts, ny, nx))) * np.exp(-0.5 * (radius / 4) ** 2)
        smooth = np.fft.ifft2(spectrum).real[..., None]
        y = (smooth / smooth.std()).astype(np.float32)
        return y + 0.5 * noise, y
    y = rng.integers(0, 10, counts).astype(np.int32)
    patterns = rng.normal(size=(10, *workload.shape)).astype(np.float32)
    return noise + 0.5 * patterns[y], y


def _orders(workload: Workload, rounds: int) -> np.ndarray:
    """(rounds, clients, examples) int32, as ``make_round`` draws them from the key of the run."""
    batching = shuffled_epochs(workload.batch_size, 1)
    valid = jnp.ones(workload.examples, bool)

    def order(round, client):
        clients_key = round_keys(jax.random.key(SEED), round).clients
        batch_key = jax.random.split(jax.random.fold_in(clients_key, client), 4)[0]
        return batching(valid, batch_key)[0].ravel()

    grid = jax.jit(jax.vmap(jax.vmap(order, (None, 0)), (0, None)))
    return np.asarray(grid(jnp.arange(rounds), jnp.arange(workload.clients)))


def flatten(params: dict) -> dict[str, np.ndarray]:
    """Parameters by path, "encoder/block0/conv1/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}


def unflatten(weights: dict[str, np.ndarray]) -> dict:
    """Inverse of :func:`flatten`."""
    params: dict = {}
    for path, value in weights.items():
        *folders, name = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = jnp.asarray(value)
    return params


def make_loss(problem: FederatedProblem) -> Callable[[dict[str, np.ndarray]], float]:
    """``loss(weights)``: the mean over all training examples."""
    task = task_of(WORKLOADS[problem.workload])

    @jax.jit
    def loss(params, x, y):
        def of_client(client):
            batch = {"image": client[0], "label": client[1], "valid": jnp.ones(len(client[0]), bool)}
            return task.loss(params, {}, batch, jax.random.key(SEED))[0]

        return jax.lax.map(of_client, (x, y)).mean()

    return lambda weights: float(loss(unflatten(weights), problem.x, problem.y))


def operations_per_round(workload: Workload) -> float:
    """Floating-point operations of all convolutions and products of a round's SGD steps.

    Forward and both gradients, zeros of paddings included; the first layer needs no gradient of its input.
    """
    counts = []

    def count(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, (Conv, nn.Dense)) and context.method_name == "__call__":
            kernel = context.module.get_variable("params", "kernel")
            counts.append(2.0 * math.prod(result.shape) * math.prod(kernel.shape[:-1]))
        return result

    with nn.intercept_methods(count):
        image = jax.ShapeDtypeStruct((1, *workload.shape), jnp.float32)
        jax.eval_shape(workload.model.init, jax.random.key(0), image)
    return workload.clients * workload.examples * (3 * sum(counts) - counts[0])
