"""A process that runs tests on a copy of the project."""

import os
import sys
from pathlib import Path

# Imported once for all processes; what is missing is left out.
PRELOADED = [
    "flax.linen",
    "h5py",
    "hypothesis",
    "jax.numpy",
    "jax_privacy",
    "matplotlib.figure",
    "optax",
    "orbax.checkpoint",
    "pytest",
    "scipy.optimize",
    "skimage.metrics",
]


def test_process(tree: str, root: str, tests: list[str], output: str) -> None:
    """Runs tests in ``tree`` and exits with the code of pytest; what it prints goes to the file ``output``.

    Args:
      tree: copy of the project.
      root: the project that this module belongs to; the tests must not import from it.
      tests: node ids.
      output: path of the file.
    """
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(tree)
    sys.path[:] = [tree, *(path for path in sys.path if path not in ("", ".", root))]
    os.environ["PYTHONPATH"] = tree
    os.environ.setdefault("FEDRECON_DATA", str(Path(root).parent / "shared" / "data"))
    for name in list(sys.modules):
        if name.split(".")[0] in ("tests", "operators", "fedrecon", "experiments"):
            del sys.modules[name]
    import pytest

    options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow and not nightly"]
    options += ["-o", "addopts=--strict-markers --import-mode=importlib"]
    code = pytest.main([*options, *tests])
    sys.stdout.flush()
    # Threads of libraries must not delay the end.
    os._exit(int(code))
