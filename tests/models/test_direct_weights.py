"""Weights of DIRECT: sizes that differ, what is refused, files."""

import json
import re

import jax
import numpy as np
import pytest

from fedrecon.published_weights import from_direct, read_direct, read_published
from tests.models.reference.mri_networks import REFERENCE
from tests.models.reference.torchvision_networks import weights


def state_of(name):
    shapes = json.loads(REFERENCE.read_text())[name]["shapes"]
    return {name: weights(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def recurrent():
    return state_of("recurrent")


@pytest.fixture(scope="module")
def vsharp():
    return state_of("vsharp_as_published")


def test_starts_are_as_large_as_the_file_says(recurrent):
    """Or not there; the variables are those of the network, leaf by leaf."""
    network, _ = from_direct({n: x for n, x in recurrent.items() if not n.startswith("initializer")})
    assert not network.learned_start
    narrow = {
        n: x[:, -64:] if re.match(r"initializer.out_blocks.\d.0.weight", n) else x
        for n, x in recurrent.items()
    }
    network, variables = from_direct({f"module.{n}": x for n, x in narrow.items()})
    assert network.start_scales == 1 and variables.params["start"]["out2"]["kernel"].shape == (1, 1, 64, 4)
    assert network.start_channels == (32, 32, 64, 64)
    assert variables.params["cascades"]["step"].tolist() == [
        float(recurrent[f"block_list.{i}.learning_rate"][0]) for i in range(2)
    ]


def without(state, part):
    return {name: x for name, x in state.items() if part not in name}


GATE = "block_list.1.regularizer.reset_gates.2.0.weight"
REFUSED = {
    "nothing": (
        "recurrent",
        lambda s: {},
        "w.pt: expected the names of DIRECT's RecurrentVarNet or VSharpNet",
    ),
    "extra": ("recurrent", lambda s: s | {"extra": np.ones(1)}, "w.pt: .*found extra$"),
    "missing": ("recurrent", lambda s: without(s, GATE), f"w.pt: .*'{GATE}' among them"),
    "units": ("recurrent", lambda s: without(s, "regularizer"), "w.pt: .*with recurrent units"),
    "shared": (
        "recurrent",
        lambda s: without(s, "block_list.1"),
        "w.pt: .*two steps or more.*found one block",
    ),
    "unequal": (
        *("recurrent", lambda s: s | {GATE: s[GATE][:3]}),
        rf"w.pt: {GATE}: expected \(4, 8, 1, 1\), as block_list.0.reg.*, found \(3, 8, 1, 1\)$",
    ),
    "few": ("recurrent", lambda s: without(s, "conv_blocks.3"), "conv_blocks"),
    "scales": (
        "recurrent",
        lambda s: s | {(n := "initializer.out_blocks.0.0.weight"): s[n][:, :7]},
        "w.pt: initializer: expected outputs of the last of .* found 7$",
    ),
    "denoisers": (
        "vsharp",
        lambda s: without(s, "denoiser_blocks.1"),
        "denoiser_blocks: expected 2, .* found 1$",
    ),
    "wide": (
        *("vsharp", lambda s: s | {"initializer.conv_blocks.0.1.bias": np.ones(5)}),
        "w.pt: initializer.conv_blocks: expected 4, 4, 8, 8 outputs, .* found 5, 4, 8, 8$",
    ),
    "relu": ("vsharp", lambda s: without(s, "activation"), "'initializer.activation.weight' among them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_are_not_those_of_direct_are_refused(case, recurrent, vsharp):
    name, change, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_direct(change({"recurrent": recurrent, "vsharp": vsharp}[name]), "w.pt")


def test_files_of_direct_are_read(recurrent, tmp_path):
    """By torch where it is there; otherwise the extra is named."""
    path = tmp_path / "model_100.pt"
    try:
        import torch
    except ImportError:
        with pytest.raises(ImportError, match=r"weights of DIRECT: expected torch.*fedrecon\[torch\]"):
            read_direct(path)
        return
    tensors = {name: torch.as_tensor(x) for name, x in recurrent.items()}
    torch.save({"model": tensors, "__author__": "somebody", "iteration": 100}, path)
    expected, given = from_direct(recurrent)
    for read in (read_direct, read_published):
        network, variables = read(path)
        assert network == expected
        jax.tree.map(np.testing.assert_array_equal, variables, given)
