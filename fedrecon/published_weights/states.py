"""State dictionaries of torch: files, and tensors by name that are all to be used."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError

# Names of what a network repeats.
_STEP = re.compile(r"^(cascades|block_list|denoiser_blocks)\.(\d+)\.(.+)$")


class State(NamedTuple):
    """Tensors of a network, each to be taken.

    Attributes:
      arrays: name -> tensor.
      origin: the file, or what else messages call it.
      expected: what the names should be, for messages.
      taken: names so far.
    """

    arrays: Mapping[str, np.ndarray]
    origin: str
    expected: str
    taken: set[str]

    def take(self, name: str) -> np.ndarray:
        """A tensor by name.

        Raises:
          ValueError: there is none, or it is one of a step, such as "cascades.3.", and of another shape than
            that of the first step.
        """
        if name not in self.arrays:
            expected = f"{self.expected}, {name!r} among them"
            raise ArgumentError(self.origin, expected, self.shown(self.arrays))
        found = self.arrays[name]
        if (step := _STEP.match(name)) and (first := f"{step[1]}.0.{step[3]}") in self.arrays:
            shape = self.arrays[first].shape
            if found.shape != shape:
                raise ArgumentError(f"{self.origin}: {name}", f"{shape}, as {first}", found.shape)
        self.taken.add(name)
        return found

    def steps(self, name: str) -> int:
        """How many there are of "NAME.0.", "NAME.1.", ..."""
        found = (_STEP.match(key) for key in self.arrays)
        return len({step[2] for step in found if step and step[1] == name})

    def finish(self) -> None:
        """Raises ValueError if tensors are left."""
        if left := set(self.arrays) - self.taken:
            raise ArgumentError(self.origin, self.expected, self.shown(left))

    def shown(self, names: Any) -> str:
        """Some of the names, for messages."""
        return ", ".join(sorted(names)[:3]) or "nothing"


def read_state(path: str | os.PathLike, whose: str, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The tensors of a ``.pt`` or ``.ckpt`` file: a state dictionary, or a checkpoint that has one.

    Nothing but tensors and plain values is unpickled.

    Args:
      path: of the file.
      whose: name of the project, for messages.
      keys: of the state dictionary in a checkpoint, the first that it has.

    Raises:
      ImportError: torch, of the extra ``torch``, is not installed.
      ValueError: no such file, or no tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"weights of {whose}: expected torch; pip install 'fedrecon[torch]'") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArgumentError(os.fspath(path), "tensors that torch wrote", line) from error
    found = found if isinstance(found, Mapping) else {}
    state = next((found[key] for key in keys if isinstance(found.get(key), Mapping)), found)
    return {name: x.detach().numpy() for name, x in state.items() if isinstance(x, torch.Tensor)}


def stacked(trees: list[dict[str, Any]]) -> dict[str, Any]:
    """Trees of equal structure as one, with a leading axis."""
    return {
        name: stacked([tree[name] for tree in trees])
        if isinstance(value, dict)
        else np.stack([tree[name] for tree in trees])
        for name, value in trees[0].items()
    }


def convolution(state: State, name: str) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution of planes."""
    return {"kernel": state.take(f"{name}.weight").transpose(2, 3, 1, 0), "bias": state.take(f"{name}.bias")}
