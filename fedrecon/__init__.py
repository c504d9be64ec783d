"""fedrecon: federated learning from raw scanner measurements to diagnosis, compiled by JAX."""

from fedrecon.errors import ArgumentError
from fedrecon.types import Task, Variables

__version__ = "0.1.0"
__all__ = ["ArgumentError", "Task", "Variables", "__version__"]
