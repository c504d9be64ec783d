"""Weights of DIRECT's networks, as variables of ours.

Two networks of https://github.com/NKI-AI/direct are ours under other names: `RecurrentVarNet` and, with
``published``, `VSharp`. What is read can be trained on, also by a federation.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models import InstanceNorm, RecurrentVarNet, named_reconstructor
from fedrecon.published_weights.fastmri import unet_parameters, unet_sizes
from fedrecon.published_weights.states import State, convolution, read_state, stacked
from fedrecon.types import Variables

_PREFIX = re.compile(r"^(module\.)+")
_EXPECTED = "the names of DIRECT's RecurrentVarNet or VSharpNet"
# Convolutions of the networks that start a state; tensors do not tell that their dilations are 1, 1, 2, 4.
_START = 4


def read_direct(path: str | os.PathLike) -> tuple[nn.Module, Variables]:
    """Reads a ``.pt`` file of DIRECT: a checkpoint, or a state dictionary alone.

    Nothing but tensors and plain values is unpickled. A network for coil maps that was trained beside the
    model ("sensitivity_model") is left out: coil maps are those of the operators.

    Raises:
      ImportError: torch, of the extra ``torch``, is not installed.
      ValueError: no such file, or none of these networks.
    """
    return from_direct(read_state(path, "DIRECT", ("model",)), os.fspath(path))


def from_direct(state: Mapping[str, np.ndarray], origin: str = "state") -> tuple[nn.Module, Variables]:
    """A network and its variables of DIRECT's state dictionary.

    Sizes are those of the tensors. What these do not tell is as in DIRECT's configurations: dilations, the
    start at A^H y ("sense"), and no normalization in the recurrent unit. Both take k-space in DIRECT's unit,
    which divides it by its largest magnitude, or a percentile. Edges of images of `VSharp` are to be
    multiples of 2^pools; DIRECT mirrors the last pixels of others, ours pads with zeros.

    Args:
      state: name -> array, such as "block_list.0.learning_rate"; names may begin with "module.".
      origin: what messages call it.

    Returns:
      (`RecurrentVarNet` or `VSharp`, variables).

    Raises:
      ValueError: names or shapes are those of neither, steps differ in size, or share their parameters, so
        that nothing tells how many there are.
    """
    arrays = {_PREFIX.sub("", name): np.asarray(x) for name, x in state.items()}
    if not is_direct(arrays):
        raise ArgumentError(origin, _EXPECTED, ", ".join(sorted(arrays)[:3]) or "nothing")
    tensors = State(arrays, origin, _EXPECTED, set())
    network, params = (_recurrent if tensors.steps("block_list") else _vsharp)(tensors)
    tensors.finish()
    return network, Variables(params, {})


def is_direct(state: Mapping[str, np.ndarray]) -> bool:
    """Whether names are those of one of the two networks."""
    names = {_PREFIX.sub("", name) for name in state}
    return "learning_rate_eta" in names or any(name.startswith("block_list.") for name in names)


def _recurrent(state: State) -> tuple[nn.Module, dict[str, Any]]:
    steps = state.steps("block_list")
    if steps < 2:
        raise ArgumentError(state.origin, "blocks of two steps or more, which share none", "one block")
    gates = re.compile(r"block_list\.0\.regularizer\.update_gates\.(\d+)\.")
    layers = len({match[1] for name in state.arrays if (match := gates.match(name))})
    if not layers:
        raise ArgumentError(state.origin, f"{_EXPECTED}, with recurrent units", state.shown(state.arrays))

    def unit(prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            f"conv{i}": {"conv": convolution(state, f"{prefix}conv_blocks.{i}.1")} for i in range(layers + 1)
        }
        for kind, name in (("update", "update_gates"), ("reset", "reset_gates"), ("new", "out_gates")):
            found |= {f"{kind}{i}": convolution(state, f"{prefix}{name}.{i}.0") for i in range(layers)}
        return found

    each: list[dict[str, Any]] = [
        {
            "step": state.take(f"block_list.{i}.learning_rate").reshape(()),
            "unit": unit(f"block_list.{i}.regularizer."),
        }
        for i in range(steps)
    ]
    channels = each[0]["unit"]["conv0"]["conv"]["bias"].shape[0]
    params: dict[str, Any] = {"cascades": stacked(each)}
    start: dict[str, Any]
    if any(name.startswith("initializer.") for name in state.arrays):
        params["start"], widths = _start(state)
        outputs = [convolution(state, f"initializer.out_blocks.{i}.0") for i in range(layers)]
        params["start"] |= {f"out{i}": output for i, output in enumerate(outputs)}
        start = {"start_channels": widths, "start_scales": _scales(state, widths, outputs[0])}
    else:
        start = {"learned_start": False}
    return RecurrentVarNet(steps, channels, layers, **start), params


def _vsharp(state: State) -> tuple[nn.Module, dict[str, Any]]:
    steps, rho, sizes = state.steps("denoiser_blocks"), state.take("rho"), state.take("learning_rate_eta")
    if steps != len(rho):
        raise ArgumentError(f"{state.origin}: denoiser_blocks", f"{len(rho)}, one of each rho", steps)
    channels, pools, _ = unet_sizes(state, "denoiser_blocks.0.")
    start, widths = _start(state)
    if widths != (channels, channels, 2 * channels, 2 * channels):
        expected = f"{channels}, {channels}, {2 * channels}, {2 * channels} outputs, as of its U-Nets"
        raise ArgumentError(f"{state.origin}: initializer.conv_blocks", expected, ", ".join(map(str, widths)))
    start |= {"out": convolution(state, "initializer.out_block.0")}
    if _scales(state, widths, start["out"]) != 1:
        raise ArgumentError(f"{state.origin}: initializer.out_block", "features of one scale", "of several")
    start |= {"slope": state.take("initializer.activation.weight").reshape(())}
    each = [
        {"rho": rho[i], "unet": unet_parameters(state, f"denoiser_blocks.{i}.", pools)} for i in range(steps)
    ]
    named = named_reconstructor("vsharp", cascades=steps, channels=channels, pools=pools, norm="instance")
    norm = partial(InstanceNorm, affine=False)
    network = named.clone(gradient_steps=len(sizes), norm=norm, published=True)
    return network, {"steps": sizes, "start": start, "cascades": stacked(each)}


def _start(state: State) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Convolutions of a network that starts a state, and their features."""
    found = len({n.split(".")[2] for n in state.arrays if n.startswith("initializer.conv_blocks.")})
    if found != _START:
        raise ArgumentError(f"{state.origin}: initializer.conv_blocks", f"{_START} convolutions", found)
    params = {
        f"conv{i}": {"conv": convolution(state, f"initializer.conv_blocks.{i}.1")} for i in range(_START)
    }
    return params, tuple(params[f"conv{i}"]["conv"]["bias"].shape[0] for i in range(_START))


def _scales(state: State, widths: tuple[int, ...], output: dict[str, Any]) -> int:
    """How many of the last convolutions an output sees."""
    seen = output["kernel"].shape[2]
    for scales in range(1, len(widths) + 1):
        if sum(widths[-scales:]) == seen:
            return scales
    raise ArgumentError(f"{state.origin}: initializer", f"outputs of the last of {widths} features", seen)
