"""A step of DP-SGD by Opacus and the plain step of the same batch, of a U-Net of two convolutions a level.

Run by an interpreter that has Opacus, as a file: ``python opacus_step.py BATCH SIZE CHANNELS REPEATS``.
Prints one JSON object with the seconds of each; the fastest of the repeats counts.
"""

import itertools
import json
import sys
import time

import opacus
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn


class Block(nn.Sequential):
    """Two convolutions with group normalization."""

    def __init__(self, before: int, after: int) -> None:
        layers = []
        for channels in (before, after):
            layers += [
                nn.Conv2d(channels, after, 3, padding=1),
                nn.GroupNorm(min(32, after), after),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """Three halvings, as the network of the benchmark."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(4)]
        self.down = nn.ModuleList(Block(a, b) for a, b in itertools.pairwise([1, *widths]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise(widths))
        self.merge = nn.ModuleList(Block(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(x)
            if number < 3:
                kept.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for level in reversed(range(3)):
            x = self.merge[level](torch.cat([self.up[level](x), kept[level]], 1))
        return self.head(x)


def fastest(step, repeats: int) -> float:
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(batch: int, size: int, channels: int, repeats: int) -> None:
    torch.manual_seed(0)
    image = torch.randn(batch, 1, size, size)
    mask = (image > 1).float()
    loss = nn.functional.binary_cross_entropy_with_logits

    def make(private: bool):
        network = UNet(channels)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        if private:
            network = GradSampleModule(network)
            optimizer = DPOptimizer(
                optimizer, noise_multiplier=1.0, max_grad_norm=0.1, expected_batch_size=batch
            )

        def step():
            optimizer.zero_grad()
            loss(network(image), mask).backward()
            optimizer.step()

        return step

    found = {name: fastest(make(private), repeats) for name, private in (("plain", False), ("private", True))}
    print(json.dumps({**found, "version": opacus.__version__}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
