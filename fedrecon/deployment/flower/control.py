"""Flower's Control API as the server's owner uses it: registers sites, starts, watches and stops runs."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.deployment.engine import SERVER
from fedrecon.deployment.flower.apps import JOB
from fedrecon.deployment.flower.kits import AUTHORITY, address, public_key
from fedrecon.files import write_atomically

# A run brings no code: it names apps of the installed package, and the job that lies at the server.
_APP = """[project]
name = "fedrecon"
version = "1.0.0"
description = "A deployment of fedrecon."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedrecon"

[tool.flwr.app.components]
serverapp = "fedrecon.deployment.flower.apps:server_app"
clientapp = "fedrecon.deployment.flower.apps:client_app"

[tool.flwr.app.config]
job = ""
"""


@contextlib.contextmanager
def session(server: Path) -> Iterator[Any]:
    """A client of the Control API of the server whose folder this is.

    Raises:
      httpx.HTTPError: from its methods, if the server does not answer.
    """
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    host, port = address(server)
    opened = ControlHttpClient.from_server_address(
        server_address=f"{host}:{port}",
        insecure=False,
        root_certificates=(server / "startup" / AUTHORITY).read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    with contextlib.closing(opened):
        yield opened


def register(server: Path) -> int:
    """Registers the sites whose public keys are in the server's folder; returns their number."""
    from flwr.proto.control_pb2 import RegisterNodeRequest

    files = sorted((server / "startup" / "sites").glob("*.pub"))
    with session(server) as opened:
        for file in files:
            opened.RegisterNode(RegisterNodeRequest(public_key=public_key(file), name=file.stem))
    return len(files)


def submit(
    parties: Path,
    folder: Path,
    name: str,
    settings: dict[str, Any],
    sites: list[str],
    *,
    minimum: int = 0,
    deadline: float = 0.0,
) -> str:
    """Lays a job at the server and starts a run that names it; returns Flower's number of the run.

    Args:
      parties: folder with those of the parties.
      folder: gets the run's bundle.
      name: of the training, the same for all runs that continue it.
      settings: of the training, as JSON.
      sites: their names, in the order of their numbers.
      minimum: fewest sites that a round is closed with; 0 is all.
      deadline: seconds that sites have for an answer; 0 is any.
    """
    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    job = {"name": name, "settings": settings, "sites": sites, "minimum": minimum, "deadline": deadline}
    write_atomically(parties / SERVER / JOB, (json.dumps(job, indent=2) + "\n").encode())
    bundle, _ = build_fab_from_files({"pyproject.toml": _APP.encode()})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "fedrecon.fab", bundle)
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({"job": name}))
    with session(parties / SERVER) as opened:
        return str(opened.StartRun(request).run_id)


def ended(parties: Path, number: str) -> bool:
    """Whether a run is over."""
    from flwr.proto.control_pb2 import ListRunsRequest

    with session(parties / SERVER) as opened:
        run = opened.ListRuns(ListRunsRequest(run_id=int(number))).run_dict[int(number)]
    return run.status.status == "finished"


def abort(parties: Path, number: str) -> None:
    """Ends a run."""
    from flwr.proto.control_pb2 import StopRunRequest

    with session(parties / SERVER) as opened:
        opened.StopRun(StopRunRequest(run_id=int(number)))
