"""Stages of the full-stack experiment: cohorts, reconstruction, downstream tasks, report."""
