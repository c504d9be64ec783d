"""How clients of a method predict, where that is not what their network says."""

from collections.abc import Mapping
from typing import Any

from fedrecon.tasks import nearest_prototype
from fedrecon.training.catalog_algorithms import check_method
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.types import Task


def evaluated_task(settings: FederationSettings, task: Task, example: Mapping[str, Any]) -> Task:
    """The task with predictions of the kind that the algorithm's option ``classify`` asks for.

    Args:
      settings: of the federation.
      task: of a flax module.
      example: shapes and dtypes of a batch.
    """
    options = check_method(settings, ())
    if options.get("classify") != "prototype":
        return task
    return nearest_prototype(task, example, radius=options.get("radius", 1.0))
