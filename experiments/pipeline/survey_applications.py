"""Rows of the review's chapter on applications."""

from experiments.pipeline.survey_rows import Row

APPLICATIONS: tuple[Row, ...] = ()
