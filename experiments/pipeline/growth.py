"""Which runs may be continued with more rounds than they were begun with."""

from collections.abc import Mapping

from experiments.pipeline.settings import FullStackSettings
from fedrecon.runtime import read_log
from fedrecon.training import FederationSettings, schedule_name


def rounds_obstacle(federation: FederationSettings, rounds_per_dispatch: int) -> str:
    """Why more rounds would not be what a run begun with them gives; empty where they are."""
    if (schedule := schedule_name(federation)) != "constant":
        return f"since the rates of {schedule} are as long as the rounds"
    if federation.dp_epsilon:
        return "since the noise of --dp_epsilon was calibrated for them"
    if federation.patience and (federation.validate_every > 1 or rounds_per_dispatch > 1):
        return "since --patience counts the validation after the last of them"
    return ""


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
