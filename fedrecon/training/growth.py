"""Whether a run may be continued with more rounds than it was begun with."""

from fedrecon.training.catalog_algorithms import method
from fedrecon.training.components import schedule_name
from fedrecon.training.federation_settings import FederationSettings


def rounds_obstacle(federation: FederationSettings, rounds_per_dispatch: int) -> str:
    """Why more rounds would not be what a run begun with them gives; empty where they are."""
    if (schedule := schedule_name(federation)) != "constant":
        return f"since the rates of {schedule} are as long as the rounds"
    if federation.dp_epsilon:
        return "since the noise of --dp.epsilon was calibrated for them"
    if "rounds" in method(federation.algorithm).needs:
        return f"since {federation.algorithm} does another thing in each round, of as many as there are"
    if federation.patience and (federation.validate_every > 1 or rounds_per_dispatch > 1):
        return "since --patience counts the validation after the last of them"
    return ""
