"""A deployment on Flower: its messages in this process, and processes of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedrecon.deployment import SERVER, DeploymentError
from fedrecon.deployment.errors import StoppedError
from fedrecon.deployment.flower import kits
from fedrecon.weights import read_weights
from tests.deployment.problem import largest_difference, simulated

pytest.importorskip("flwr")

import httpx
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrecon.deployment.flower import apps

ROOT = Path(__file__).parents[2]
SETTINGS = {"rounds": 2, "federation": {"algorithm": "scaffold"}}
NAMES = ["site-1", "site-2"]


def test_a_message_comes_back_and_another_one_is_refused():
    assert apps.unpacked(apps.packed(b"\x00words\xff")) == b"\x00words\xff"
    assert apps.unpacked(apps.packed(b"")) == b""
    for other in (
        RecordDict(),
        RecordDict({"wire": ConfigRecord({"message": b"x"})}),
        RecordDict({"wire": ArrayRecord({"model": next(iter(apps.packed(b"x")["wire"].values()))})}),
    ):
        with pytest.raises(DeploymentError, match="one array of bytes"):
            apps.unpacked(other)


class Grid:
    """Flower's grid, with nodes in this process; ``late`` ones answer nothing, ``broken`` ones fail."""

    def __init__(self, folder, monkeypatch, late=(), broken=()):
        self.folder, self.environment, self.late, self.broken = folder, monkeypatch, late, broken
        self.replies, self.looks = {}, 0

    def get_nodes(self):
        self.looks += 1
        # Sites come one by one, and one that nobody knows is there from the start.
        known = NAMES[: self.looks]
        nodes = [SimpleNamespace(public_key=b"stranger", node_id=9)]
        for number, name in enumerate(known):
            key = kits.public_key(self.folder / "parties" / name / "startup" / "site.pub")
            nodes.append(SimpleNamespace(public_key=key, node_id=10 + number))
        return nodes

    def push_messages(self, messages):
        (message,) = messages
        name = NAMES[message.metadata.dst_node_id - 10]
        self.environment.setenv(apps.PARTY, str(self.folder / "parties" / name))
        message.metadata.__dict__["_message_id"] = number = f"m{len(self.replies)}"
        self.replies[number] = None
        if name in self.broken:
            reply = SimpleNamespace(reason="no such node")
            self.replies[number] = SimpleNamespace(
                metadata=SimpleNamespace(reply_to_message_id=number), has_error=lambda: True, error=reply
            )
        elif name not in self.late:
            self.replies[number] = apps.client_app()(message, None)
        self.environment.setenv(apps.PARTY, str(self.folder / "parties" / SERVER))
        return [number]

    def pull_messages(self, numbers):
        return [self.replies[number] for number in numbers if self.replies[number] is not None]


@pytest.fixture
def deployed(tmp_path, monkeypatch):
    """A folder of three parties, in the environment of the server."""
    kits.provision(tmp_path, NAMES)
    common = {"problem": "tests.deployment.problem:problem"}
    kits.configure(tmp_path / "parties" / SERVER, common | {"folder": str(tmp_path / "server")})
    for client, name in enumerate(NAMES):
        local = common | {"data": "tests.deployment.problem:site_data", "client": client, "name": name}
        kits.configure(tmp_path / "parties" / name, local | {"folder": str(tmp_path / name)})
    job = {"name": "job", "settings": SETTINGS, "sites": NAMES, "minimum": 0, "deadline": 0}
    (tmp_path / "parties" / SERVER / apps.JOB).write_text(json.dumps(job))
    monkeypatch.setenv(apps.PARTY, str(tmp_path / "parties" / SERVER))
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    monkeypatch.setattr(apps, "_PERIOD", 0)
    return tmp_path


def context(job):
    return Context(1, 1, {}, RecordDict(), {"job": job})


@pytest.mark.slow
def test_apps_have_the_parameters_of_the_simulation_bit_for_bit(deployed, monkeypatch):
    apps.server_app()(Grid(deployed, monkeypatch), context("job"))
    released, own, _ = simulated(SETTINGS)
    assert largest_difference(read_weights(deployed / "server" / "model.npz")[0], released) == 0
    for name, model in zip(NAMES, own, strict=True):
        assert largest_difference(read_weights(deployed / name / "model.npz")[0], model) == 0
    events = [json.loads(line) for line in (deployed / "server" / "events.jsonl").read_text().splitlines()]
    assert events[-1]["finished"] == 2


def test_a_run_may_only_name_the_job_of_the_server(deployed, monkeypatch):
    with pytest.raises(DeploymentError, match="job: expected job, that of the server, found other"):
        apps.server_app()(Grid(deployed, monkeypatch), context("other"))
    assert not (deployed / "server").exists()


def test_only_sites_of_the_job_are_asked_and_those_that_fail_or_are_late_are_left_out(
    deployed, monkeypatch, capsys
):
    keys = [kits.public_key(deployed / "parties" / name / "startup" / "site.pub") for name in NAMES]
    asked = {client: (key, b"rubbish") for client, key in enumerate(keys)}
    found = apps.answers(Grid(deployed, monkeypatch), "facts", asked)
    assert sorted(found) == [0, 1] and b'"kind": "refused"' in found[0]
    assert list(apps.answers(Grid(deployed, monkeypatch, broken=NAMES[1:]), "facts", asked)) == [0]
    assert "no answer of site 1 to 'facts': no such node" in capsys.readouterr().out
    monkeypatch.setattr(apps, "_PERIOD", 0.01)
    late = Grid(deployed, monkeypatch, late=NAMES[:1])
    assert list(apps.answers(late, "facts", asked, deadline=0.05)) == [1]

    def gone(numbers):
        raise httpx.HTTPStatusError("401", request=None, response=None)

    late.pull_messages = gone
    with pytest.raises(StoppedError, match="the run was ended while sites were asked for 'facts'"):
        apps.answers(late, "facts", asked)


def deploy(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.deploy", "--engine=flower", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_processes_with_certificates_have_the_parameters_of_the_simulation(tmp_path):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "run"
    done = deploy("run", f"--workdir={folder}", "--sites=2", "--rounds=2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"rounds", "parity", "seconds"}
    assert found["rounds"] == 2 and found["parity"] <= 1e-6
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert not left
    told = json.loads(deploy("status", f"--workdir={folder}", "--json").stdout)
    assert told["finished"] and told["round"] == 2
    assert all(site == {"settled": 2, "pending": None} for site in told["sites"].values())
    lines = (folder / "sites" / "site-1" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["facts", "start", "round", "round", "finish"]
    # Another engine is not taken for it.
    other = deploy("status", f"--workdir={folder}", "--engine=flare")
    assert other.returncode == 1 and "--engine: expected flower" in other.stderr
