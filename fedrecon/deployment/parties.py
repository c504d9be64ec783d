"""The two halves of a deployment as an engine runs them: from the folder of a party, and its own settings."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from fedrecon.deployment.errors import StoppedError
from fedrecon.deployment.local import local_settings, named_function
from fedrecon.deployment.server import Ask, Job, Outcome, coordinate
from fedrecon.deployment.site import LocalSite, Policy

EVENTS = "events.jsonl"


def local_site(folder: Path) -> LocalSite:
    """The site of a party's folder.

    Raises:
      ValueError: its settings are not those of a site; names the field.
    """
    local = local_settings(folder)
    values = local.get("policy", {})
    known = {field.name for field in dataclasses.fields(Policy)}
    if unknown := values.keys() - known:
        raise ValueError(f"policy: expected {', '.join(sorted(known))}, found {', '.join(sorted(unknown))}")
    if "approved" in values:
        values = {**values, "approved": tuple(values["approved"])}
    data, client = named_function(local["data"]), local["client"]
    return LocalSite(
        Path(local["folder"]),
        local["name"],
        client,
        named_function(local["problem"]),
        lambda settings: data(settings, client, local.get("data_dir", "")),
        Policy(**values),
    )


def lead(folder: Path, job: Job, ask: Ask) -> Outcome:
    """Runs a job at the server of a party's folder, with a line in ``events.jsonl`` for every round.

    Args:
      folder: of the server, as a party.
      job: to be run.
      ask: asks sites.

    Raises:
      DeploymentError: as `coordinate`; its line is in the events, too.
      StoppedError: the job was stopped while ``ask`` waited.
    """
    local = local_settings(folder)
    own = Path(local["folder"])
    own.mkdir(parents=True, exist_ok=True)

    def note(record: dict[str, Any]) -> None:
        with (own / EVENTS).open("a") as file:
            file.write(json.dumps({"time": time.time(), **record}) + "\n")

    try:
        outcome = coordinate(job, named_function(local["problem"])(job.settings), own, ask, note)
    except StoppedError:
        raise
    except Exception as error:
        note({"failed": " ".join(str(error).split())[:500]})
        raise
    note({"finished": outcome.rounds, "bytes_up": outcome.bytes_up, "bytes_down": outcome.bytes_down})
    return outcome
