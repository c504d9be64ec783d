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
from fedrecon.published_weights.states import State, read_state, stacked
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
    return from_fastmri(read_state(path, "fastMRI", ("state_dict",)), os.fspath(path))


def from_fastmri(state: Mapping[str, np.ndarray], origin: str = "state") -> tuple[nn.Module, Variables]:
    """A network and its variables of fastMRI's state dictionary.

    Sizes are those of the tensors. `UNet` gives what theirs does where edges are multiples of 2^pools; they
    mirror the last pixels of others, ours pads with zeros.

    Args:
      state: name -> array, such as "cascades.0.dc_weight"; names may begin with "module." or "varnet.", and
        those of the loss function are left out.
      origin: what messages call it.

    Returns:
      (`E2EVarNet` or `UNet`, variables).

    Raises:
      ValueError: names or shapes are those of neither, or cascades differ in size.
    """
    arrays = {_PREFIX.sub("", name): np.asarray(x) for name, x in state.items()}
    arrays = {name: x for name, x in arrays.items() if not name.startswith(("loss", "SSIM", "NMSE", "PSNR"))}
    tensors = State(arrays, origin, _EXPECTED, set())
    network: nn.Module
    if "cascades.0.dc_weight" in arrays:
        steps = [f"cascades.{i}." for i in range(tensors.steps("cascades"))]
        channels, pools, _ = unet_sizes(tensors, "cascades.0.model.unet.")
        maps = unet_sizes(tensors, "sens_net.norm_unet.unet.")
        network = E2EVarNet(len(steps), channels, pools, *maps[:2])
        each = [
            {
                "step": tensors.take(f"{step}dc_weight").reshape(()),
                "regularizer": {"unet": unet_parameters(tensors, f"{step}model.unet.", pools)},
            }
            for step in steps
        ]
        estimator = {"unet": unet_parameters(tensors, "sens_net.norm_unet.unet.", maps[1])}
        params: dict[str, Any] = {"coil_maps": {"network": estimator}, "cascades": stacked(each)}
    else:
        channels, pools, outputs = unet_sizes(tensors, "")
        network = UNet(channels, pools, outputs, norm=partial(InstanceNorm, affine=False))
        params = unet_parameters(tensors, "", pools)
    tensors.finish()
    return network, Variables(params, {})


def unet_sizes(state: State, prefix: str) -> tuple[int, int, int]:
    """(channels, pools, outputs) of a U-Net, whose names begin with ``prefix``."""
    first = state.arrays.get(f"{prefix}down_sample_layers.0.layers.0.weight")
    levels = re.compile(re.escape(prefix) + r"up_transpose_conv\.(\d+)\.")
    pools = len({match[1] for name in state.arrays if (match := levels.match(name))})
    last = state.arrays.get(f"{prefix}up_conv.{pools - 1}.1.weight")
    if first is None or last is None:
        raise ArgumentError(state.origin, state.expected, state.shown(state.arrays))
    return first.shape[0], pools, last.shape[0]


def unet_parameters(state: State, prefix: str, pools: int) -> dict[str, Any]:
    """Parameters of a U-Net; their decoder puts enlarged features before those of the encoder, ours after."""

    def conv(name: str, swapped: bool = False) -> dict[str, Any]:
        kernel = state.take(f"{prefix}{name}.weight").transpose(2, 3, 1, 0)
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
        kernel = state.take(f"{prefix}up_transpose_conv.{i}.layers.0.weight")
        phases = kernel.transpose(0, 2, 3, 1).reshape(1, 1, kernel.shape[0], -1)
        params[f"up{level}"] = {"conv": {"kernel": phases}}
        params[f"up_block{level}"] = block(f"up_conv.{i}.0" if last else f"up_conv.{i}", swapped=True)
    head = f"up_conv.{pools - 1}.1"
    return params | {"head": conv(head) | {"bias": state.take(f"{prefix}{head}.bias")}}
