"""Benchmarks beside other libraries: ``python -m benchmarks.{mri,ct,federated,convolution}``."""
