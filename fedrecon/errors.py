"""The error of arguments that do not fit, which every package raises."""

from operators.algebra import ArgumentError

__all__ = ["ArgumentError"]
