"""Converters and generators of data files, one absl main each: ``python -m data_scripts.<name> --help``."""
