"""All rows of the review, in the order of its tables."""

from experiments.pipeline.survey_algorithms import ALGORITHMS
from experiments.pipeline.survey_applications import APPLICATIONS
from experiments.pipeline.survey_diagnoses import DIAGNOSES
from experiments.pipeline.survey_frameworks import FRAMEWORKS
from experiments.pipeline.survey_privacy import PRIVACY
from experiments.pipeline.survey_segmentations import SEGMENTATIONS

ROWS = (*DIAGNOSES, *APPLICATIONS, *SEGMENTATIONS, *ALGORITHMS, *FRAMEWORKS, *PRIVACY)
