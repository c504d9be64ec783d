"""Comparisons with other libraries: ``python -m benchmarks.{mri,ct,federated,convolution}``."""
