"""The result of an adapter of the CT benchmark."""

import dataclasses

import numpy as np

from benchmarks.measure import Operation


@dataclasses.dataclass(frozen=True)
class PreparedLibrary:
    """What an adapter returns.

    Attributes:
      operations: by operation (``forward``, ``adjoint``, ``gradient`` and ``fbp``) its routes, of which the
        benchmark takes the fastest. Those a library does not offer are left out.
      image: (images, ...), the image that forward takes and the others return, where it is not the problem's.
    """

    operations: dict[str, list[Operation]]
    image: np.ndarray | None = None
