"""Weights of fastMRI's networks, as variables of ours.

The networks of https://github.com/facebookresearch/fastMRI are ours under other names: `E2EVarNet` is its
``VarNet``, and `UNet` with normalization layers without parameters its ``Unet``. What is read can be trained
on, also by a federation.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models import E2EVarNet, InstanceNorm, UNet
from fedrecon.types import Variables

# What training frameworks put before all names.
_PREFIX = re.compile(r"^(module\.|varnet\.|unet\.)+")
_EXPECTED = "the names of fastMRI's VarNet or Unet"


def read_fastmri(path: str | os.PathLike) -> tuple[nn.Module, Variables]:
    """Reads a ``.pt`` or ``.ckpt`` file of fastMRI: a state dictionary, or a checkpoint that has one.

    Nothing but tensors is unpickled.

    Raises:
      ImportError: torch, of the extra ``torch``, is not installed.
      ValueError: no such file, or none of these networks.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("weights of fastMRI: expected torch; pip install 'fedrecon[torch]'") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArgumentError(os.fspath(path), "tensors that torch wrote", line) from error
    state = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    tensors = {name: x.detach().numpy() for name, x in state.items() if isinstance(x, torch.Tensor)}
    return from_fastmri(tensors)


def from_fastmri(state: Mapping[str, np.ndarray]) -> tuple[nn.Module, Variables]:
    """A network and its variables of fastMRI's state dictionary.

    Sizes are those of the tensors. `UNet` gives what theirs does where edges are multiples of 2^pools; they
    mirror the last pixels of others, ours pads with zeros.

    Args:
      state: name -> array, such as "cascades.0.dc_weight"; names may begin with "module." or "varnet.", and
        those of the loss function are left out.

    Returns:
      (`E2EVarNet` or `UNet`, variables).

    Raises:
      ValueError: names or shapes are those of neither.
    """
    arrays = {_PREFIX.sub("", name): np.asarray(x) for name, x in state.items()}
    arrays = {name: x for name, x in arrays.items() if not name.startswith(("loss", "SSIM", "NMSE", "PSNR"))}
    taken: set[str] = set()

    def take(name: str) -> np.ndarray:
        if name not in arrays:
            raise ArgumentError("state", f"{_EXPECTED}, {name!r} among them", ", ".join(sorted(arrays)[:3]))
        taken.add(name)
        return arrays[name]

    network: nn.Module
    if "cascades.0.dc_weight" in arrays:
        cascades = len({name.split(".")[1] for name in arrays if name.startswith("cascades.")})
        steps = [f"cascades.{i}." for i in range(cascades)]
        sizes = [_sizes(arrays, f"{step}model.unet.") for step in steps]
        maps = _sizes(arrays, "sens_net.norm_unet.unet.")
        network = E2EVarNet(cascades, *sizes[0][:2], *maps[:2])
        each = [
            {
                "step": take(f"{step}dc_weight").reshape(()),
                "regularizer": {"unet": _unet(take, f"{step}model.unet.", size[1])},
            }
            for step, size in zip(steps, sizes, strict=True)
        ]
        estimator = {"unet": _unet(take, "sens_net.norm_unet.unet.", maps[1])}
        params: dict[str, Any] = {"coil_maps": {"network": estimator}, "cascades": _stacked(each)}
    else:
        channels, pools, outputs = _sizes(arrays, "")
        network = UNet(channels, pools, outputs, norm=partial(InstanceNorm, affine=False))
        params = _unet(take, "", pools)
    if len(taken) < len(arrays):
        raise ArgumentError("state", _EXPECTED, ", ".join(sorted(set(arrays) - taken)[:3]))
    return network, Variables(params, {})


def _sizes(arrays: Mapping[str, np.ndarray], prefix: str) -> tuple[int, int, int]:
    """(channels, pools, outputs) of a U-Net."""
    first = arrays.get(f"{prefix}down_sample_layers.0.layers.0.weight")
    levels = re.compile(re.escape(prefix) + r"up_transpose_conv\.(\d+)\.")
    pools = len({match[1] for name in arrays if (match := levels.match(name))})
    last = arrays.get(f"{prefix}up_conv.{pools - 1}.1.weight")
    if first is None or last is None:
        raise ArgumentError("state", _EXPECTED, ", ".join(sorted(arrays)[:3]) or "nothing")
    return first.shape[0], pools, last.shape[0]


def _unet(take: Any, prefix: str, pools: int) -> dict[str, Any]:
    """Parameters of a U-Net; their decoder puts enlarged features before those of the encoder, ours after."""

    def conv(name: str, swapped: bool = False) -> dict[str, Any]:
        kernel = take(f"{prefix}{name}.weight").transpose(2, 3, 1, 0)
        if swapped:
            half = kernel.shape[2] // 2
            kernel = np.concatenate([kernel[:, :, half:], kernel[:, :, :half]], 2)
        return {"kernel": kernel}

    def block(name: str, swapped: bool = False) -> dict[str, Any]:
        return {"conv1": conv(f"{name}.layers.0", swapped), "conv2": conv(f"{name}.layers.4")}

    down = [f"down_sample_layers.{i}" for i in range(pools)] + ["conv"]
    params: dict[str, Any] = {"encoder": {f"block{i}": block(name) for i, name in enumerate(down)}}
    for i in range(pools):
        level, last = pools - 1 - i, i == pools - 1
        kernel = take(f"{prefix}up_transpose_conv.{i}.layers.0.weight")
        phases = kernel.transpose(0, 2, 3, 1).reshape(1, 1, kernel.shape[0], -1)
        params[f"up{level}"] = {"conv": {"kernel": phases}}
        params[f"up_block{level}"] = block(f"up_conv.{i}.0" if last else f"up_conv.{i}", swapped=True)
    head = f"up_conv.{pools - 1}.1"
    return params | {"head": conv(head) | {"bias": take(f"{prefix}{head}.bias")}}


def _stacked(trees: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _stacked([tree[name] for tree in trees])
        if isinstance(value, dict)
        else np.stack([tree[name] for tree in trees])
        for name, value in trees[0].items()
    }
