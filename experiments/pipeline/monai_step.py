"""A step, a federated round and sliding windows of the benchmark's U-Net by torch and MONAI.

Run by an interpreter that has both, as a file: ``python monai_step.py WORK CASE.npz``, WORK being JSON with
axes, channels, pools, batch, size, window, image, clients, steps, repeats and threads; the case has the
weights as torch lays them out, an image and what our network makes of it. Prints one JSON object: median
seconds by the faster of two memory layouts, the parameters, and how far the images are apart.
"""

import functools
import itertools
import json
import statistics
import sys
import time

import monai
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from torch import nn


class Block(nn.Module):
    """(convolution, instance normalization, leaky ReLU) twice."""

    def __init__(self, axes: int, before: int, after: int) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 2]
        layers = []
        for features in (before, after):
            layers += [
                convolution(features, after, 3, padding=1, bias=False),
                norm(after, affine=True),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """``fedrecon.models.UNet(channels, pools, 2)``."""

    def __init__(self, axes: int, channels: int, pools: int) -> None:
        super().__init__()
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 2]
        self.pool = (nn.AvgPool2d, nn.AvgPool3d)[axes - 2](2)
        widths = [channels << level for level in range(pools + 1)]
        self.down = nn.ModuleList(Block(axes, a, b) for a, b in itertools.pairwise([1, *widths]))
        self.up = nn.ModuleList(transposed(2 * w, w, 2, 2, bias=False) for w in widths[:-1])
        self.up_norm = nn.ModuleList(norm(w, affine=True) for w in widths[:-1])
        self.merge = nn.ModuleList(Block(axes, 2 * w, w) for w in widths[:-1])
        self.head = (nn.Conv2d, nn.Conv3d)[axes - 2](channels, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = nn.functional.leaky_relu(self.up_norm[level](self.up[level](x)), 0.2)
            x = self.merge[level](torch.cat([kept[level], x], 1))
        return self.head(x)


def median(step, repeats: int) -> tuple[float, float]:
    """Seconds, and those of all processors."""
    step()
    times = []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        step()
        times.append((time.perf_counter() - start, time.process_time() - busy))
    return tuple(map(statistics.median, zip(*times, strict=True)))


def measured(work, layout, state) -> dict[str, tuple[float, float]]:
    """Median seconds in one memory layout."""
    axes, batch, repeats = work["axes"], work["batch"], work["repeats"]

    def placed(x):
        return x.contiguous(memory_format=layout)

    network = UNet(axes, work["channels"], work["pools"])
    network.load_state_dict(state)
    network = network.to(memory_format=layout)
    loss = DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, batch=True, smooth_nr=1.0, smooth_dr=1.0,
        lambda_dice=0.5, lambda_ce=0.5,
    )  # fmt: skip
    image = placed(torch.randn(work["clients"], work["steps"], batch, 1, *[work["size"]] * axes)[0, 0])
    labels = (image > 1).float()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step(optimizer=optimizer):
        optimizer.zero_grad()
        loss(network(image), labels).backward()
        optimizer.step()

    def round():
        start = {name: value.clone() for name, value in network.state_dict().items()}
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        for _ in range(work["clients"]):
            network.load_state_dict(start)
            own = torch.optim.Adam(network.parameters(), 1e-3)
            for _ in range(work["steps"]):
                step(own)
            for name, value in network.state_dict().items():
                total[name] += value / work["clients"]
        network.load_state_dict(total)

    whole = placed(torch.randn(1, 1, *[work["image"]] * axes))
    window = [work["window"]] * axes

    def windows(at_once):
        with torch.inference_mode():
            sliding_window_inference(whole, window, at_once, network, overlap=0.5, mode="gaussian")

    found = {"step": median(step, repeats), "round": median(round, max(1, repeats // 3))}
    network.eval()
    found["windows"] = min(median(functools.partial(windows, n), max(1, repeats // 3)) for n in (1, 4))
    return found


def main(text: str, case: str) -> None:
    work = json.loads(text)
    torch.set_num_threads(work["threads"])
    torch.manual_seed(0)
    arrays = np.load(case)
    state = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name not in ("image", "output")}
    network = UNet(work["axes"], work["channels"], work["pools"])
    network.load_state_dict(state)
    with torch.inference_mode():
        output = network(torch.from_numpy(arrays["image"]))
    layouts = (torch.contiguous_format, (torch.channels_last, torch.channels_last_3d)[work["axes"] - 2])
    times = [measured(work, layout, state) for layout in layouts]
    print(
        json.dumps(
            {
                "seconds": {name: min(t[name] for t in times)[0] for name in times[0]},
                "busy": {name: min(t[name][1] for t in times) for name in times[0]},
                "parameters": sum(p.numel() for p in network.parameters()),
                "difference": float((output - torch.from_numpy(arrays["output"])).abs().max()),
                "versions": {"torch": torch.__version__, "monai": monai.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
