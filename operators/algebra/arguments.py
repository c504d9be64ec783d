"""Checks of plain arguments: numbers, counts and shapes."""

import math
import numbers
from typing import Any

import numpy as np


def finite_number(value: Any, name: str) -> float:
    """``value`` as a finite Python float; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a plain number, found {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, found {value}")
    return float(value)


def positive_number(value: Any, name: str) -> float:
    """``value`` as a positive Python float; raises TypeError or ValueError naming ``name``."""
    if finite_number(value, name) <= 0:
        raise ValueError(f"{name}: expected a positive number, found {value}")
    return float(value)


def positive_integer(value: Any, name: str) -> int:
    """``value`` as a positive Python int; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, found {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, found {value}")
    return int(value)


def image_shape_2d(shape: Any, name: str) -> tuple[int, int]:
    """``shape`` as (ny, nx); raises ValueError or TypeError naming ``name``."""
    if np.ndim(shape) != 1 or len(shape) != 2:
        raise ValueError(f"{name}: expected (ny, nx), found {shape}")
    ny, nx = (positive_integer(n, name) for n in shape)
    return ny, nx
