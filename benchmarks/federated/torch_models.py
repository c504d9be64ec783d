"""The networks of the federated benchmark in torch, with the weights of a problem.

Imported in environments that hold torch and numpy only. Attributes have the names of the flax modules.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.federated.files import FederatedProblem


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.dense1, self.dense2 = nn.Linear(7 * 7 * 64, 512), nn.Linear(512, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        # Features are flattened in flax's order, so that the weights mean the same.
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.dense2(F.relu(self.dense1(x)))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(32, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.dense2(F.relu(self.dense1(x)))


class _ResidualBlock(nn.Module):
    def __init__(self, features_in, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, features)
        if stride > 1:
            self.shortcut = nn.Conv2d(features_in, features, 1, stride, bias=False)
            self.shortcut_norm = nn.GroupNorm(4, features)

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            x = self.shortcut_norm(self.shortcut(x))
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, channels=16, blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(4, channels)
        self._names, features_in = [], channels
        for stage in range(3):
            for i in range(blocks):
                self._names.append(f"stage{stage}_block{i}")
                block = _ResidualBlock(features_in, channels << stage, 2 if stage and not i else 1)
                self.add_module(self._names[-1], block)
                features_in = channels << stage
        self.head = nn.Linear(features_in, 10)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        for name in self._names:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, features_in, features):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, features, 3, padding=1, bias=False)
        self.norm1 = nn.InstanceNorm2d(features, affine=True)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm2d(features, affine=True)

    def forward(self, x):
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        return F.leaky_relu(self.norm2(self.conv2(x)), 0.2)


class _Up(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv = nn.ConvTranspose2d(2 * features, features, 2, 2, bias=False)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    """For sizes that are multiples of ``2**pools``."""

    def __init__(self, channels=16, pools=4):
        super().__init__()
        self._pools = pools
        self.encoder = nn.Module()
        for level in range(pools + 1):
            features = channels << level
            self.encoder.add_module(f"block{level}", _Block(features // 2 if level else 1, features))
        for level in range(pools):
            features = channels << level
            self.add_module(f"up{level}", _Up(features))
            self.add_module(f"up_norm{level}", nn.InstanceNorm2d(features, affine=True))
            self.add_module(f"up_block{level}", _Block(2 * features, features))
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        skips = []
        for level in range(self._pools):
            x = getattr(self.encoder, f"block{level}")(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = getattr(self.encoder, f"block{self._pools}")(x)
        for level in reversed(range(self._pools)):
            x = F.leaky_relu(getattr(self, f"up_norm{level}")(getattr(self, f"up{level}")(x)), 0.2)
            x = getattr(self, f"up_block{level}")(torch.cat([skips[level], x], 1))
        return self.head(x)


_NETWORKS = {"cnn": CNN, "resnet": ResNet, "unet": UNet, "tiny": MLP, "small": MLP}
_NORMS = (nn.GroupNorm, nn.InstanceNorm2d)


def build(problem: FederatedProblem) -> nn.Module:
    """The network with the initial weights, checked to compute the same as ours.

    Raises:
      RuntimeError: it does not.
    """
    network = _NETWORKS[problem.workload]()
    set_weights(network, problem.weights)
    with torch.no_grad():
        output = network(as_tensor(problem.x[0, : problem.batch_size])).numpy()
    problem.check_output(output.transpose(0, 2, 3, 1) if output.ndim == 4 else output)
    return network


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor, of images (..., ny, nx, features) one of (..., features, ny, nx)."""
    tensor = torch.from_numpy(array)
    if array.dtype == np.int32:
        return tensor.long()
    return tensor.movedim(-1, -3).contiguous() if array.ndim >= 4 else tensor


def loss_of(problem: FederatedProblem, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean over a batch."""
    return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)


def data_of(problem: FederatedProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y of all clients."""
    return as_tensor(problem.x), as_tensor(problem.y)


def train(
    network: nn.Module, problem: FederatedProblem, x: torch.Tensor, y: torch.Tensor, order: np.ndarray
) -> None:
    """One pass of plain SGD over a client's examples."""
    optimizer = torch.optim.SGD(network.parameters(), lr=problem.learning_rate)
    for places in torch.from_numpy(order.astype(np.int64)).split(problem.batch_size):
        optimizer.zero_grad()
        loss_of(problem, network(x[places]), y[places]).backward()
        optimizer.step()


def _leaves(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            own = "bias" if name == "bias" else "scale" if isinstance(module, _NORMS) else "kernel"
            yield f"{path}/{own}".replace(".", "/"), module, name, parameter


def set_weights(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Copies weights in flax's layout into the network.

    Raises:
      ValueError: if the names differ.
    """
    leaves = list(_leaves(network))
    if {leaf[0] for leaf in leaves} != set(weights):
        raise ValueError(f"weights: expected {sorted(leaf[0] for leaf in leaves)}, found {sorted(weights)}")
    with torch.no_grad():
        for path, module, name, parameter in leaves:
            value = weights[path]
            if name == "weight" and isinstance(module, nn.Linear):
                value = value.T
            elif name == "weight" and isinstance(module, nn.Conv2d):
                value = value.transpose(3, 2, 0, 1)
            elif name == "weight" and isinstance(module, nn.ConvTranspose2d):
                value = value.reshape(value.shape[2], 2, 2, -1).transpose(0, 3, 1, 2)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def get_weights(network: nn.Module) -> dict[str, np.ndarray]:
    """Inverse of :func:`set_weights`."""
    found = {}
    for path, module, name, parameter in _leaves(network):
        value = parameter.detach().numpy()
        if name == "weight" and isinstance(module, nn.Linear):
            value = value.T
        elif name == "weight" and isinstance(module, nn.Conv2d):
            value = value.transpose(2, 3, 1, 0)
        elif name == "weight" and isinstance(module, nn.ConvTranspose2d):
            value = value.transpose(0, 2, 3, 1).reshape(1, 1, len(value), -1)
        found[path] = value.copy()
    return found
