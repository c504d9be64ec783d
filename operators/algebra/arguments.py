"""Checks of plain arguments: numbers, counts and shapes; keywords that have been renamed."""

import functools
import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


class ArgumentError(ValueError):
    """An argument does not fit; printed as ``NAME: expected EXPECTED, found FOUND``.

    Attributes:
      name: of the argument, where needed after the function or class: "fbp: filter".
      expected: what would fit.
      found: what was found, as it is printed.
    """

    def __init__(self, name: str, expected: str, found: Any) -> None:
        self.name, self.expected, self.found = name, expected, found
        super().__init__(f"{name}: expected {expected}, found {found}")

    def __reduce__(self) -> tuple:
        return type(self), (self.name, self.expected, self.found)


def finite_number(value: Any, name: str) -> float:
    """``value`` as a finite Python float; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a plain number, found {type(value).__name__}")
    if not math.isfinite(value):
        raise ArgumentError(name, "a finite number", value)
    return float(value)


def positive_number(value: Any, name: str) -> float:
    """``value`` as a positive Python float; raises TypeError or ValueError naming ``name``."""
    if finite_number(value, name) <= 0:
        raise ArgumentError(name, "a positive number", value)
    return float(value)


def positive_integer(value: Any, name: str) -> int:
    """``value`` as a positive Python int; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, found {type(value).__name__}")
    if value < 1:
        raise ArgumentError(name, "a positive integer", value)
    return int(value)


def image_shape_2d(shape: Any, name: str) -> tuple[int, int]:
    """``shape`` as (ny, nx); raises ValueError or TypeError naming ``name``."""
    if np.ndim(shape) != 1 or len(shape) != 2:
        raise ArgumentError(name, "(ny, nx)", shape)
    ny, nx = (positive_integer(n, name) for n in shape)
    return ny, nx


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function be called by the earlier names of its keywords, as ``renamed(earlier="current")``.

    An earlier keyword is handed on under its current name, with a DeprecationWarning that names both.

    Raises:
      TypeError: when the function is called with both names of one argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for earlier in names.keys() & kwargs.keys():
                name, where = names[earlier], function.__name__
                if name in kwargs:
                    raise TypeError(f"{where}: {name}: expected it once, found {earlier}, too")
                warnings.warn(f"{where}: {earlier} is now called {name}", DeprecationWarning, stacklevel=2)
                kwargs[name] = kwargs.pop(earlier)
            return function(*args, **kwargs)

        return call

    return decorate
