"""Records outputs of fastMRI's and DIRECT's networks with weights of a formula; needs torch and both.

Run as a program from the root of the project: `python -m tests.models.reference.mri_networks`.
"""

import json
from pathlib import Path

import numpy as np

from tests.models.reference.torchvision_networks import image, weights

REFERENCE = Path(__file__).with_suffix(".json")


def kspace() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k-space (2, 3, 18, 21), masks of columns (2, 21), coil maps of sum |S|^2 = 1)."""
    parts = image(2, 2, 2, 3, 18, 21)
    data, maps = parts[0, 0] + 1j * parts[0, 1], parts[1, 0] + 1j * parts[1, 1] + 0.5
    masks = np.zeros((2, 21), bool)
    masks[0, ::3] = masks[0, 8:13] = masks[1, 1::4] = masks[1, 9:11] = True
    return data * masks[:, None, None], masks, maps / np.linalg.norm(maps, axis=1, keepdims=True)


def unit_kspace() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """That of `kspace` in 20 columns, of combined images whose root mean square is 1."""
    data, masks, maps = kspace()
    data, masks, maps = data[..., :20], masks[:, :20], maps[..., :20]
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(data, axes), norm="ortho"), axes)
    combined = (images * maps.conj()).sum(1)
    return data / np.sqrt((abs(combined) ** 2).mean(axes))[:, None, None, None], masks, maps


def main() -> None:
    import torch
    from direct.nn.recurrentvarnet.recurrentvarnet import RecurrentVarNet
    from direct.nn.vsharp.vsharp import VSharpNet
    from fastmri import complex_abs, fft2c, ifft2c, rss
    from fastmri.models import Unet, VarNet

    def real(x):
        return torch.view_as_real(torch.as_tensor(x))

    # DIRECT's own are of single precision only.
    def transform(x, dim):
        return fft2c(x)

    def inverse(x, dim):
        return ifft2c(x)

    class Residual(torch.nn.Module):
        """z = x + u / rho less what the denoiser of (z, x, u / rho) finds."""

        def __init__(self, unet):
            super().__init__()
            self.unet = unet

        def forward(self, seen):
            _, x, u = seen.split(2, 1)
            return x + u - self.unet(seen)

    def vsharp(residual, **sizes):
        start = {"initializer_channels": (4, 4, 8, 8), "auxiliary_steps": -1}
        net = VSharpNet(transform, inverse, **start, **sizes)
        if residual:
            net.denoiser_blocks = torch.nn.ModuleList(map(Residual, net.denoiser_blocks))
        return net

    def split(net, unit=1):
        # Weights of the formula have any sign.
        net.rho.abs_().add_(0.05)
        data, masks, maps = unit_kspace()
        return torch.view_as_complex(
            net(real(unit * data), real(maps), torch.as_tensor(masks)[:, None, None, :, None])[-1]
        )

    def filled(model):
        model = model.double().eval()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        model.load_state_dict({name: torch.as_tensor(weights(name, s)) for name, s in shapes.items()})
        return model, {name: list(shape) for name, shape in shapes.items()}

    data, masks, maps = kspace()
    mask = torch.as_tensor(masks)[:, None, None, :, None]
    units = {"recurrent_hidden_channels": 4, "recurrent_num_layers": 3}
    start = {"learned_initializer": True, "initializer_initialization": "sense", "initializer_multiscale": 3}
    admm = {"num_steps": 2, "num_steps_dc_gd": 3}
    admm |= {"image_unet_num_filters": 4, "image_unet_num_pool_layers": 1}
    cases = {
        "unet": (Unet(1, 1, 3, 2), lambda net: net(torch.as_tensor(image(2, 1, 12, 20)))),
        "varnet": (VarNet(2, 2, 1, 3, 2), lambda net: net(real(data), mask)),
        "recurrent": (
            RecurrentVarNet(transform, inverse, num_steps=2, **units, **start),
            lambda net: rss(complex_abs(ifft2c(net(real(data), mask, real(maps)))), dim=1),
        ),
        "vsharp": (
            vsharp(True, **admm),
            lambda net: torch.view_as_real(split(net)),
        ),
        "vsharp_as_published": (
            vsharp(False, **admm),
            lambda net: torch.view_as_real(split(net, 2)),
        ),
    }
    record = {}
    for name, (model, run) in cases.items():
        network, shapes = filled(model)
        with torch.no_grad():
            record[name] = {"shapes": shapes, "values": np.round(run(network).numpy(), 9).tolist()}
    REFERENCE.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
