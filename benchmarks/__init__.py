"""Comparisons with other libraries: ``python -m benchmarks.{mri,ct,federated,convolution}``."""

# Ctrl-C and another package of the name operators end in one line, as in the programs there.
import experiments  # noqa: F401
