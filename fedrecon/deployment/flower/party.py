"""A party of a deployment on Flower: its SuperLink or SuperNode, and this process, which runs its app.

python -m fedrecon.deployment.flower.party FOLDER, which is what start.sh in the folder does.
"""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from fedrecon.deployment.engine import free_port
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.flower.kits import ADDRESS, AUTHORITY, SECRET, address, variables

# Seconds between two starts of a SuperNode, and those that one has to end by itself.
_PAUSE, _PATIENCE = 3.0, 3.0
# Seconds within which a SuperLink has to answer.
_START_SECONDS = 300


def superlink(party: Path) -> list[str]:
    """Command of the server's SuperLink: one port with TLS, sites known by keys, tasks taken by us alone."""
    startup = party / "startup"
    host, port = address(party)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return [
        *_program("superlink"),
        *("--host", "127.0.0.1" if local else "0.0.0.0", "--port", str(port)),
        *("--ssl-ca-certfile", str(startup / AUTHORITY)),
        *("--ssl-certfile", str(startup / "server.crt"), "--ssl-keyfile", str(startup / "server.key")),
        *("--enable-supernode-auth", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(startup / SECRET)),
    ]


def supernode(party: Path, port: int) -> list[str]:
    """Command of a site's SuperNode, whose tasks are taken at this port of this machine."""
    startup = party / "startup"
    host, remote = address(party)
    return [
        *_program("supernode"),
        *("--superlink", f"{host}:{remote}", "--root-certificates", str(startup / AUTHORITY)),
        *("--auth-supernode-private-key", str(startup / "site.key")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(startup / SECRET)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]


def _program(name: str) -> list[str]:
    """One of Flower's, which ends when this process is gone, and when it has given up its connection."""
    lines = (
        "import os",
        "from flwr.supercore.app_utils import start_parent_process_monitor",
        f"from flwr.{name}.cli import flower_{name}",
        f"start_parent_process_monitor({os.getpid()})",
        "try:",
        f"    flower_{name}()",
        # A thread of it would keep the process, which nobody would start again.
        "finally:",
        "    os._exit(1)",
    )
    return [sys.executable, "-c", "\n".join(lines)]


def main(folder: str) -> None:
    """Runs the party of a folder until it is told to end, or its SuperLink ends.

    Raises:
      DeploymentError: the folder is not that of a party, its port is taken, or the SuperLink does not start.
    """
    party = Path(folder).resolve()
    if not (party / "startup" / ADDRESS).exists():
        raise DeploymentError("folder", "that of a party, made by init", str(party))
    # Read by Flower when it is imported.
    os.environ.update(variables(party))
    from fedrecon.deployment.flower import runtime
    from fedrecon.deployment.flower.apps import PARTY

    os.environ[PARTY] = str(party)
    secret = (party / "startup" / SECRET).read_bytes()
    signal.signal(signal.SIGTERM, _leave)
    if (party / "startup" / "server.key").exists():
        _check_free(address(party)[1])
        # Of every request there would be a line.
        os.environ.setdefault("FLWR_LOG_LEVEL", "WARNING")
        with _running(superlink(party), again=False):
            _until_registered(party)
            authority = (party / "startup" / AUTHORITY).read_bytes()
            api = runtime.Runtime(f"127.0.0.1:{address(party)[1]}", secret, authority)
            runtime.serve(api, "flwr-serverapp", runtime.server_task)
    else:
        port = free_port()
        with _running(supernode(party, port), again=True):
            api = runtime.Runtime(f"127.0.0.1:{port}", secret, None)
            runtime.serve(api, "flwr-clientapp", runtime.site_task)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DeploymentError("port", "one of this machine that is not in use", port) from error


def _until_registered(party: Path) -> None:
    """Registers the sites once the SuperLink answers."""
    import httpx

    from fedrecon.deployment.flower import control

    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            count = control.register(party)
        except httpx.HTTPError as error:
            if time.monotonic() > end:
                found = " ".join(str(error).split())
                raise DeploymentError("SuperLink", f"one within {_START_SECONDS} s", found) from error
            time.sleep(0.3)
        else:
            print(f"{count} sites may take part", flush=True)
            return


@contextlib.contextmanager
def _running(command: list[str], *, again: bool) -> Iterator[None]:
    """Flower's process for the length of a block: started again when it ends, or this one ends with it."""
    leaving, children = threading.Event(), [subprocess.Popen(command)]

    def watch() -> None:
        while True:
            code = children[-1].wait()
            if leaving.is_set():
                return
            if not again:
                print(f"the SuperLink has ended with status {code}", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            print(f"the SuperNode has ended with status {code}, and is started again", flush=True)
            if leaving.wait(_PAUSE):
                return
            children.append(subprocess.Popen(command))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        children[-1].terminate()
        try:
            children[-1].wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            children[-1].kill()


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else ".")
    except DeploymentError as wrong:
        sys.exit(str(wrong))
    except KeyboardInterrupt:
        sys.exit(130)
