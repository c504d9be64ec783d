"""Converters and generators of data files, one absl main each: ``python -m data_scripts.<name> --help``."""

# Ctrl-C and another package of the name operators end in one line, as in the programs there.
import experiments  # noqa: F401
