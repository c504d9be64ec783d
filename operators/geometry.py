"""Acquisition geometries of computed tomography."""

import math
import numbers

import jax
import numpy as np

from operators.linear_operator import as_inexact, is_complex
from operators.pytree import assign, frozen_pytree, static


@frozen_pytree
class ParallelBeam:
    """Parallel-beam geometry: one sinogram row per angle, one column per detector element.

    At angle t the detector axis is ``(cos t, sin t)`` and rays run along ``(-sin t, cos t)``, x to the right
    and y up, as in ASTRA. The ray of element j is the line ``x cos t + y sin t = s_j`` with
    ``s_j = (j - (detector_count - 1) / 2) * detector_spacing + detector_offset - axis_offset``; the rotation
    axis is the origin and the centre of the image.

    Attributes:
      angles: (views,) in radians, a leaf; it may be traced and differentiated.
      detector_count: number of detector elements.
      detector_spacing: distance of neighbouring elements, in the unit of the pixel size.
      detector_offset: position of the centre of the detector along its axis.
      axis_offset: position of the projected rotation axis along the detector axis.

    Raises:
      ValueError: if ``angles`` is not one axis of at least one angle, an angle exceeds 4 pi in magnitude (the
        sign of degrees; checked on concrete values only), a count or spacing is not positive, or an offset
        is not finite.
      TypeError: if ``angles`` is complex, or a count, spacing or offset is no plain number.
    """

    angles: jax.Array
    detector_count: int = static()
    detector_spacing: float = static(default=1.0)
    detector_offset: float = static(default=0.0)
    axis_offset: float = static(default=0.0)

    def __post_init__(self):
        angles = as_inexact(self.angles)
        if is_complex(angles.dtype):
            raise TypeError(f"ParallelBeam: angles must be real, found {angles.dtype}")
        if angles.ndim != 1 or not angles.size:
            raise ValueError(f"ParallelBeam: angles must have shape (views,), found {angles.shape}")
        if not isinstance(angles, jax.core.Tracer) and float(np.abs(angles).max()) > 4 * math.pi:
            raise ValueError(
                f"ParallelBeam: angles must be in radians, found one of magnitude "
                f"{float(np.abs(angles).max()):.6g}; convert degrees with jnp.deg2rad"
            )
        assign(
            self,
            angles=angles,
            detector_count=positive_integer(self.detector_count, "ParallelBeam: detector_count"),
            detector_spacing=positive_number(self.detector_spacing, "ParallelBeam: detector_spacing"),
            detector_offset=finite_number(self.detector_offset, "ParallelBeam: detector_offset"),
            axis_offset=finite_number(self.axis_offset, "ParallelBeam: axis_offset"),
        )

    @property
    def views(self) -> int:
        """Number of views."""
        return self.angles.shape[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a sinogram: (views, detector_count)."""
        return self.views, self.detector_count

    def ray_positions(self) -> np.ndarray:
        """Signed distances s_j of the rays from the rotation axis: (detector_count,) float64."""
        centered = np.arange(self.detector_count) - (self.detector_count - 1) / 2
        return centered * self.detector_spacing + self.detector_offset - self.axis_offset


def finite_number(value, name: str) -> float:
    """``value`` as a finite Python float; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a plain number, found {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, found {value}")
    return float(value)


def positive_number(value, name: str) -> float:
    """``value`` as a positive Python float; raises TypeError or ValueError naming ``name``."""
    if finite_number(value, name) <= 0:
        raise ValueError(f"{name} must be positive, found {value}")
    return float(value)


def positive_integer(value, name: str) -> int:
    """``value`` as a positive Python int; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, found {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be positive, found {value}")
    return int(value)


def image_shape_2d(shape, name: str) -> tuple[int, int]:
    """``shape`` as (ny, nx); raises ValueError or TypeError naming ``name``."""
    shape = tuple(shape)
    if len(shape) != 2:
        raise ValueError(f"{name} must be (ny, nx), found {shape}")
    return tuple(positive_integer(n, name) for n in shape)
