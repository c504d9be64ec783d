"""Certificates and start-up folders of server, sites and the researcher, made by FLARE's provisioning."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrecon.deployment.engine import SERVER, free_port
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.local import FILE
from fedrecon.files import write_atomically

ADMIN = "researcher@fedrecon.org"
# Classes that a job's configuration may name at a site: ours, and those that every FLARE process has.
ALLOWED_CLASSES = ("fedrecon.deployment.flare.parts.", "nvflare.app_common.")


def provision(
    folder: Path, sites: Sequence[str], *, host: str = "localhost", port: int = 0, project: str = "fedrecon"
) -> Path:
    """Makes a certificate authority, certificates signed by it, and a folder for each party.

    Args:
      folder: of the project; the authority's key stays in its ``state/``.
      sites: names of the sites.
      host: where sites and researcher find the server; it is in its certificate.
      port: of the server; 0 takes one that is free here.
      project: its name.

    Returns:
      the folder with one folder for each party: ``server``, the sites and `ADMIN`.

    Raises:
      DeploymentError: FLARE's provisioning fails.
    """
    from nvflare.lighter.impl.cert import CertBuilder
    from nvflare.lighter.impl.signature import SignatureBuilder
    from nvflare.lighter.impl.static_file import StaticFileBuilder
    from nvflare.lighter.impl.workspace import WorkspaceBuilder
    from nvflare.lighter.provision import prepare_project
    from nvflare.lighter.provisioner import Provisioner

    port = port or free_port()
    server: dict[str, Any] = {"name": SERVER, "type": "server", "org": "coordinator", "default_host": host}
    server |= {"fed_learn_port": port, "admin_port": port}
    clients = [{"name": name, "type": "client", "org": name.replace("-", "_")} for name in sites]
    admin = {"name": ADMIN, "type": "admin", "org": "coordinator", "role": "project_admin"}
    told: list[str] = []
    described = {"api_version": 3, "name": project, "description": "fedrecon"}
    made = Provisioner(
        str(folder),
        [
            WorkspaceBuilder(template_file=["master_template.yml"]),
            StaticFileBuilder(),
            CertBuilder(),
            SignatureBuilder(),
        ],
    ).provision(prepare_project({**described, "participants": [server, *clients, admin]}), logger=_Log(told))
    place = made.get("current_prod_dir")
    if made.get("build_error") or not place:
        raise DeploymentError("provisioning", "certificates for all parties", "; ".join(told) or "nothing")
    return Path(place)


def configure(kit: Path, local: Mapping[str, Any]) -> None:
    """Writes the local settings of a party's folder, and restricts what jobs may run there.

    Args:
      kit: of the server or a site.
      local: of `local_settings`.
    """
    resources = json.loads((kit / "local" / "resources.json.default").read_text())
    resources["class_allow_list"] = list(ALLOWED_CLASSES)
    # Logs of a site stay there.
    resources["allow_log_streaming"] = False
    resources["components"] = [c for c in resources["components"] if c["id"] != "site_log_streamer"]
    _inside(resources, str(kit / "storage"))
    write_atomically(kit / "local" / "resources.json", json.dumps(resources, indent=2).encode())
    authorization = json.loads((kit / "local" / "authorization.json.default").read_text())
    # Nobody brings code of his own.
    for rights in authorization["permissions"].values():
        if isinstance(rights, dict):
            rights["byoc"] = "none"
    write_atomically(kit / "local" / "authorization.json", json.dumps(authorization, indent=2).encode())
    write_atomically(kit / FILE, (json.dumps(dict(local), indent=2) + "\n").encode())


def _inside(value: Any, folder: str) -> None:
    """Moves what FLARE would keep in a folder that all users share into one of this party."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        if isinstance(inner, str) and inner.startswith("/tmp/nvflare"):
            value[key] = folder + inner.removeprefix("/tmp/nvflare")
        else:
            _inside(inner, folder)


class _Log:
    """Where provisioning writes."""

    def __init__(self, errors: list[str]) -> None:
        self._errors = errors

    def debug(self, message: str) -> None:
        """Not kept."""

    info = warning = debug

    def error(self, message: str) -> None:
        """Kept."""
        self._errors.append(str(message))
