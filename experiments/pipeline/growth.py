"""Whether a run of the full stack may be continued with more rounds than it was begun with."""

from collections.abc import Mapping

from experiments.pipeline.settings import FullStackSettings
from fedrecon.runtime import read_log
from fedrecon.training import rounds_obstacle


def full_stack_obstacles(
    settings: FullStackSettings, workdir: str, rounds_per_dispatch: int
) -> Mapping[str, str]:
    """The same of both flags of rounds of the full stack, for a run in ``workdir``."""
    obstacle = rounds_obstacle(settings.federation, rounds_per_dispatch)
    later = obstacle
    if settings.cohort != "measured" and not obstacle:
        begun = {record["stage"].partition("/")[0] for record in read_log(f"{workdir}/metrics.jsonl")}
        if begun - {"reconstruction"}:
            later = "since the later stages were trained on the images that they gave"
    return {"rounds": later, "finetune_rounds": obstacle}
