"""Secure sums: a server learns the sum of the clients' numbers and none of the numbers."""

from fedrecon.secure_aggregation.fixed_point import FixedPoint

__all__ = ["FixedPoint"]
