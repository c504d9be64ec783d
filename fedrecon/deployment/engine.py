"""What carries the messages of a deployment, as far as programs have to know: one value for each engine."""

import importlib
import importlib.metadata
import importlib.util
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ENGINES = ("flare", "flower")
# Name of the server among the parties.
SERVER = "server"


class Command(NamedTuple):
    """How a party is started.

    Attributes:
      arguments: of its process.
      folder: in which it runs.
      environment: variables besides those of the process that starts it.
    """

    arguments: list[str]
    folder: Path
    environment: Mapping[str, str] = {}


class Network(NamedTuple):
    """What a site knows of its server.

    Attributes:
      host: its name.
      port: TCP.
      authority: file of the certificate that the server's is signed by.
      identity: files of the site's own certificate and key, where TLS is mutual.
    """

    host: str
    port: int
    authority: Path
    identity: tuple[Path, Path] | None


class Engine(NamedTuple):
    """An engine.

    Attributes:
      name: as in ``--engine``.
      package: what has to be installed, and the extra that brings it.
      pinned: whether ``package`` must be of the minor version below, as modules of it are used that are no
        public interface.
      versions: least versions (major, minor) of what a site needs besides JAX.
      place: of the folders of all parties, within that of a deployment.
      provision: ``provision(folder, sites, host=, port=)`` makes keys, certificates and folders of the
        parties of the deployment in ``folder``.
      configure: ``configure(party, local)`` writes what a party decides for itself into its folder.
      command: ``command(party, name)`` starts a party from its folder.
      joined: what is in the log of a site once the server knows it.
      submit: ``submit(parties, folder, name, settings, sites, minimum=, deadline=)`` starts a job, with files
        of it in ``folder``, and returns its number.
      ended: ``ended(parties, number)``, whether the job is over.
      abort: ``abort(parties, number)`` ends it.
      network: ``network(party)`` of a site.
    """

    name: str
    package: str
    pinned: bool
    versions: dict[str, tuple[int, int]]
    place: Path
    provision: Callable[..., Any]
    configure: Callable[[Path, Mapping[str, Any]], None]
    command: Callable[[Path, str], Command]
    joined: bytes
    submit: Callable[..., str]
    ended: Callable[[Path, str], bool]
    abort: Callable[[Path, str], None]
    network: Callable[[Path], Network]

    def need(self) -> None:
        """Tells of the extra where the engine is not installed, or another version of it.

        Raises:
          ImportError: so it is.
        """
        extra = f"pip install 'fedrecon[{self.name}]'"
        if importlib.util.find_spec(self.package) is None:
            raise ImportError(f"{self.package} is not installed: {extra}", name=self.package)
        needed = self.versions[self.package]
        if self.pinned and minor_version(self.package) != needed:
            told = f"{self.package} {importlib.metadata.version(self.package)} is installed: {extra} brings "
            raise ImportError(told + ".".join(map(str, needed)), name=self.package)


def minor_version(package: str) -> tuple[int, int]:
    """(major, minor) of an installed package.

    Raises:
      importlib.metadata.PackageNotFoundError: it is not installed.
    """
    major, minor = importlib.metadata.version(package).split(".")[:2]
    return int(major), int(minor)


def engine_of(name: str) -> Engine:
    """The engine of this name, one of `ENGINES`; it need not be installed."""
    return importlib.import_module(f"fedrecon.deployment.{name}.engine").ENGINE


def free_port() -> int:
    """A TCP port that nobody listens at on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
