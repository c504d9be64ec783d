"""Apps of Flower's message API: a message of it has one array, the bytes of one of ours."""

import functools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.deployment.errors import DeploymentError, StoppedError
from fedrecon.deployment.flower.kits import public_key
from fedrecon.deployment.parties import lead, local_site
from fedrecon.deployment.server import Job
from fedrecon.deployment.site import LocalSite

# Environment variable: the party's folder, in the process that runs its app.
PARTY = "FEDRECON_PARTY"
# What the server is to run, beside its own settings.
JOB = Path("local") / "job.json"
# Seconds for which messages without a deadline are kept, and between two looks for answers.
_LONGEST, _PERIOD = 30 * 24 * 3600.0, 0.2


def packed(message: bytes) -> Any:
    """The `RecordDict` of one of Flower's messages, in pieces of 5 MB on its way."""
    from flwr.app import Array, ArrayRecord, RecordDict

    array = Array(dtype="uint8", shape=(len(message),), stype="fedrecon", data=message)
    return RecordDict({"wire": ArrayRecord({"message": array})})


def unpacked(content: Any) -> bytes:
    """What `packed` has made.

    Raises:
      DeploymentError: something else.
    """
    from flwr.app import ArrayRecord

    record = content.get("wire")
    array = record.get("message") if isinstance(record, ArrayRecord) else None
    if len(content) != 1 or array is None or array.stype != "fedrecon":
        raise DeploymentError("message", "one array of bytes", ", ".join(content) or "nothing")
    return array.data


@functools.cache
def _site(folder: str) -> LocalSite:
    """The site of this process."""
    return local_site(Path(folder))


def client_app() -> Any:
    """The `ClientApp` of the site whose folder `PARTY` names."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        del context
        reply = _site(os.environ[PARTY]).answer(unpacked(message.content))
        return Message(packed(reply), reply_to=message)

    return app


def server_app() -> Any:
    """The `ServerApp` of the server whose folder `PARTY` names.

    It runs the job that lies there; a run may only name it (`DeploymentError`).
    """
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        _run_job(grid, context.run_config.get("job"))

    return app


def _run_job(grid: Any, named: Any) -> None:
    folder = Path(os.environ[PARTY])
    told = json.loads((folder / JOB).read_text())
    if named != told["name"]:
        raise DeploymentError("job", f"{told['name']}, that of the server", named)
    keys = [public_key(folder / "startup" / "sites" / f"{name}.pub") for name in told["sites"]]
    job = Job(told["name"], told["settings"], len(keys), told["minimum"])
    deadline = float(told["deadline"])

    def ask(kind: str, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        return answers(
            grid, kind, {client: (keys[client], data) for client, data in messages.items()}, deadline
        )

    lead(folder, job, ask)


def answers(
    grid: Any, kind: str, messages: Mapping[int, tuple[bytes, bytes]], deadline: float = 0.0
) -> dict[int, bytes]:
    """Answers of the sites that give one in time.

    Args:
      grid: of the run.
      kind: of the messages, in Flower's logs.
      messages: (public key of the site, bytes) by number; other registered nodes are not asked.
      deadline: seconds; 0 is any time.

    Returns:
      bytes by number, without sites whose node fails.

    Raises:
      StoppedError: the run was ended.
    """
    import httpx

    try:
        return _answers(grid, kind, messages, deadline)
    except httpx.HTTPStatusError as error:
        raise StoppedError(f"the run was ended while sites were asked for {kind!r}: {error}") from error


def _answers(
    grid: Any, kind: str, messages: Mapping[int, tuple[bytes, bytes]], deadline: float
) -> dict[int, bytes]:
    from flwr.app import Message

    end = time.monotonic() + (deadline or _LONGEST)
    waiting, asked, found = dict(messages), dict[str, int](), dict[int, bytes]()
    while (waiting or asked) and time.monotonic() < end:
        nodes = {node.public_key: node.node_id for node in grid.get_nodes()} if waiting else {}
        for client, (key, data) in list(waiting.items()):
            if key not in nodes:
                continue
            left = end - time.monotonic()
            message = Message(packed(data), nodes[key], "train", ttl=max(left, 1.0), group_id=kind)
            (number,) = grid.push_messages([message])
            del waiting[client]
            asked[number] = client
        for reply in grid.pull_messages(list(asked)) if asked else ():
            client = asked.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                print(f"no answer of site {client} to {kind!r}: {reply.error.reason}", flush=True)
            else:
                found[client] = unpacked(reply.content)
        time.sleep(_PERIOD)
    return found
