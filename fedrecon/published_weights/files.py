"""Files of torch, of whichever of the projects they are."""

import os

import flax.linen as nn

from fedrecon.published_weights.direct import from_direct, is_direct
from fedrecon.published_weights.fastmri import from_fastmri
from fedrecon.published_weights.states import read_state
from fedrecon.types import Variables

# Of the files.
SUFFIXES = (".pt", ".pth", ".ckpt")


def read_published(path: str | os.PathLike) -> tuple[nn.Module, Variables]:
    """Reads what `read_direct` or `read_fastmri` reads; names of tensors tell which.

    Raises:
      ImportError: torch, of the extra ``torch``, is not installed.
      ValueError: no such file, or none of their networks.
    """
    state = read_state(path, "fastMRI or DIRECT", ("model", "state_dict"))
    return (from_direct if is_direct(state) else from_fastmri)(state, os.fspath(path))
