"""fedrecon: federated learning from raw scanner measurements to diagnosis, compiled by JAX."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any


def _check_operators() -> None:
    """Raises ImportError if another package of the name hides the one that comes with this."""
    own = Path(__file__).resolve().parents[1] / "operators" / "__init__.py"
    spec = importlib.util.find_spec("operators")
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found != own:
        where = f"{found}: rename it, or take its folder off the Python path" if found else "none"
        message = f"fedrecon: expected the package operators that comes with it, {own.parent}, found {where}"
        raise ImportError(message, name="operators")


# Its name is a common one, and modules of others would be used as far as they go.
_check_operators()

from fedrecon.errors import ArgumentError  # noqa: E402
from fedrecon.exports import load  # noqa: E402
from fedrecon.types import Task, Variables  # noqa: E402

if TYPE_CHECKING:
    from fedrecon.training import run

__version__ = "0.1.0"
__all__ = ["ArgumentError", "Task", "Variables", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    """`run` is imported when it is first asked for, since it needs all of the package."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedrecon.training import run

    return run
