"""A training step of reconstruction networks by torch and fastMRI.

Run by an interpreter that has both, as a file: ``python torch_recon_step.py WORK CASE.npz``, WORK being JSON
with network, batch, coils, size, cascades, channels, pools, map_channels, map_pools, repeats and threads. The
case is written: weights by their names, the measurement and the image. Prints one JSON object: median seconds
of a step, the largest resident size, and the parameters.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import fastmri
import numpy as np
import torch
from fastmri.models import Unet, VarNet
from torch import nn


class LearnedPrimalDual(nn.Module):
    """``fedrecon.models.LearnedPrimalDual(cascades)`` of a masked Fourier transform of one coil."""

    def __init__(self, cascades: int, memory: int = 5, features: int = 32) -> None:
        super().__init__()
        self.memory = memory

        def stack(inputs):
            return nn.Sequential(
                nn.Conv2d(2 * inputs, features, 3, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(features, features, 3, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(features, 2 * memory, 3, padding=1),
            )  # fmt: skip

        self.dual = nn.ModuleList(stack(memory + 2) for _ in range(cascades))
        self.primal = nn.ModuleList(stack(memory + 1) for _ in range(cascades))

    def forward(self, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Complex k-space (batch, ny, nx) and a mask alike -> complex images."""

        def image(k):
            return torch.view_as_complex(fastmri.ifft2c(torch.view_as_real((mask * k).contiguous())))

        def samples(x):
            return mask * torch.view_as_complex(fastmri.fft2c(torch.view_as_real(x.contiguous())))

        def applied(network, parts):
            u = torch.stack(parts, 1)
            v = network(torch.cat([u.real, u.imag], 1))
            return torch.complex(v[:, : self.memory], v[:, self.memory :])

        x = image(y)[:, None].repeat(1, self.memory, 1, 1)
        h = torch.zeros_like(x)
        for dual, primal in zip(self.dual, self.primal, strict=True):
            h = h + applied(dual, [*h.unbind(1), samples(x[:, 1]), y])
            x = x + applied(primal, [*x.unbind(1), image(h[:, 0])])
        return x[:, 0]


def measurement(work: dict) -> dict[str, np.ndarray]:
    """K-space (batch, coils, size, size), a mask of columns, and targets, all of a formula."""
    batch, coils, size = work["batch"], work["coils"], work["size"]
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(batch, coils, size, size)) + 1j * rng.normal(size=(batch, coils, size, size))
    mask = rng.random((batch, size)) < 0.3
    mask[:, size // 2 - 8 : size // 2 + 8] = True
    target = np.abs(rng.normal(size=(batch, size, size)))
    columns = mask[:, None, None]
    return {
        "kspace": (kspace * columns).astype(np.complex64),
        "mask": mask.astype(np.float32),
        "target": target.astype(np.float32),
    }


def network_of(work: dict, data: dict[str, torch.Tensor]) -> tuple[nn.Module, Callable]:
    """(module, ``run()``)."""
    kspace, mask = data["kspace"], data["mask"]
    if work["network"] == "varnet":
        sizes = work["cascades"], work["map_channels"], work["map_pools"], work["channels"], work["pools"]
        varnet, columns = VarNet(*sizes), mask.bool()[:, None, None, :, None]
        return varnet, lambda: varnet(torch.view_as_real(kspace), columns)
    if work["network"] == "unet":
        unet, image = Unet(1, 1, work["channels"], work["pools"]), data["target"][:, None]
        return unet, lambda: unet(image)[:, 0]
    dual = LearnedPrimalDual(work["cascades"])
    return dual, lambda: dual(kspace[:, 0], mask[:, None]).abs()


def main(text: str, case: str) -> None:
    work = json.loads(text)
    torch.set_num_threads(work["threads"])
    torch.manual_seed(0)
    arrays = measurement(work)
    data = {name: torch.from_numpy(x) for name, x in arrays.items()}
    network, run = network_of(work, data)
    with torch.inference_mode():
        output = run().numpy()
    state = {f"state/{name}": x.numpy() for name, x in network.state_dict().items()}
    np.savez(case, output=output, **arrays, **state)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step():
        optimizer.zero_grad()
        (run() - data["target"]).abs().mean().backward()
        optimizer.step()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    seconds = []
    for _ in range(work["repeats"]):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    found = {
        "seconds": statistics.median(seconds),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "before_bytes": 1024 * before,
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
