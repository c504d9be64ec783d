"""The page about clusters: its flags exist, its commands run, its job set is well formed."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.training.options import fields

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
TINY = (
    "--clients=4 --examples_per_client=12 --classes=2 --image_size=8 --channels=2 --pools=1 --batch_size=4"
).split()


def commands():
    """(module, arguments) of every command on the page."""
    joined = re.sub(r"\\\n\s*", " ", PAGE)
    return re.findall(r"-m (experiments\.\w+)([^\n`]*)", joined)


def test_the_page_names_flags_that_exist():
    source = (ROOT / "experiments/train_federated.py").read_text()
    source += (ROOT / "experiments/pipeline/programs.py").read_text()
    source += (ROOT / "experiments/submit.py").read_text()
    source += "".join(f'"{field.name}"' for field, _ in fields(TrainSettings))
    assert len(commands()) >= 6
    flags = {flag for _, arguments in commands() for flag in re.findall(r"--(\w+)\b(?!-)", arguments)}
    assert {"devices", "coordinator", "processes", "process_id", "distributed"} <= flags
    text = re.sub(r"```.*?```", "", PAGE, flags=re.S)
    flags |= set(re.findall(r"`--(\w+)\b(?!-)", text)) - {"requeue"}
    assert {flag for flag in flags if f'"{flag}"' not in source} == set()


def test_the_job_set_is_well_formed():
    yaml = pytest.importorskip("yaml")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    job = yaml.safe_load(block)
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    (container,) = spec["template"]["spec"]["containers"]
    command = container["command"][-1]
    assert (
        f"--processes={spec['parallelism']} " in command and "--process_id=$JOB_COMPLETION_INDEX" in command
    )
    assert (
        f"--coordinator={job['metadata']['name']}-{replicated['name']}-0-0.{job['metadata']['name']}:"
        in command
    )
    mount = container["volumeMounts"][0]["mountPath"]
    assert f"--workdir={mount}/" in command


@pytest.mark.slow
def test_the_two_lines_for_one_machine_run(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    (block,) = [b for b in re.findall(r"```bash\n(.*?)```", PAGE, re.S) if "--process_id=0" in b]
    block = block.replace("runs/two", str(tmp_path / "run")).replace("localhost:1234", f"localhost:{port}")
    block = block.replace("python ", f"{sys.executable} ").replace(
        "--rounds=20", " ".join([*TINY, "--rounds=2"])
    )
    process = subprocess.run(
        ["bash", "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "worst client" in process.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["environment"]["processes"] == 2
