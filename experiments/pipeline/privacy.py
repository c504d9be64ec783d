"""The privacy plan of a run."""

from typing import Any, NamedTuple

from experiments.pipeline.cohorts import Cohorts
from experiments.pipeline.federation import Federation, Privacy
from experiments.pipeline.settings import Settings


class Plan(NamedTuple):
    """Noise of each stage, and what is said about it."""

    noise: dict[str, Privacy | None]
    report: dict[str, Any]


def plan_privacy(settings: Settings, cohorts: Cohorts, federation: Federation) -> Plan:
    return Plan(dict.fromkeys(("reconstruction", "segmentation", "classification")), {})
