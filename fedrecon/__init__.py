"""fedrecon: federated learning from raw scanner measurements to diagnosis, compiled by JAX."""

from fedrecon.types import Task, Variables

__version__ = "0.1.0"
__all__ = ["Task", "Variables", "__version__"]
