"""Runnable experiments, one absl main each: ``python -m experiments.<name> --help``."""
