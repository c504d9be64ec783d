"""A deployment between processes with certificates, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def deploy(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.deploy", "--engine=flare", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_three_processes_with_certificates_have_the_parameters_of_the_simulation(tmp_path):
    pytest.importorskip("nvflare")
    import psutil

    folder = tmp_path / "run"
    done = deploy("run", f"--workdir={folder}", "--sites=2", "--rounds=2", "--method=scaffold", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"rounds", "parity", "seconds"}
    assert found["rounds"] == 2 and found["parity"] <= 1e-6
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert not left
    told = json.loads(deploy("status", f"--workdir={folder}", "--json").stdout)
    assert told["finished"] and told["round"] == 2
    assert all(site == {"settled": 2, "pending": None} for site in told["sites"].values())
    kits = folder / "certificates" / "fedrecon" / "prod_00"
    assert (kits / "site-1" / "audit.log").stat().st_size and not (
        kits / "site-1" / "startup" / "rootCA.key"
    ).exists()
    events = [
        json.loads(line) for line in (folder / "sites" / "site-1" / "events.jsonl").read_text().splitlines()
    ]
    assert [event["kind"] for event in events] == ["facts", "start", "round", "round", "finish"]
