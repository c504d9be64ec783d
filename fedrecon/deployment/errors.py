"""Errors of deployed trainings."""

from fedrecon.errors import ArgumentError


class DeploymentError(ArgumentError):
    """A site and the server do not go together, or a round cannot be closed; earlier rounds are kept."""


class StoppedError(RuntimeError):
    """A job was ended by somebody else."""
