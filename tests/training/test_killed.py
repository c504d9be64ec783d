"""Arrays in Python, a task of one's own, SIGKILL in the middle, and the same call again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedrecon.runtime import read_log
from fedrecon.weights import named_arrays, read_weights

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, time

import flax.linen as nn
import numpy as np

import fedrecon
from fedrecon.tasks import module_task


class Network(nn.Module):
    @nn.compact
    def __call__(self, image, training):
        x = nn.BatchNorm(use_running_average=not training)(nn.Dense(6)(image))
        return nn.Dense(2)(nn.Dropout(0.2, deterministic=not training)(nn.relu(x)))


def site(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 24)
    return {"image": rng.normal(size=(24, 5)) + label[:, None], "label": label, "patient": np.arange(24) // 2}


begun = []


def slowly(line):
    begun.append(line)
    if len(begun) == 7:
        # To be killed here.
        time.sleep(float(sys.argv[2]))


sites = {name: site(seed) for seed, name in enumerate("abc")}
task = lambda example: module_task(Network(), "cross_entropy", example)
options = {"sampler": "uniform", "clients_per_round": 2, "optimizer": "momentum", "patience": 8}
result = fedrecon.run(
    sites, task, "fedprox", workdir=sys.argv[1], rounds=8, report=slowly, **options
)
print(sorted(result.scores["a"].items()), result.mean["loss"])
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(folder, delay):
        command = [sys.executable, str(program), str(tmp_path / folder), delay]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    whole, killed = start("whole", "0"), start("killed", "600")
    log = tmp_path / "killed" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "killed" / "results.json").exists()
    printed = whole.communicate(timeout=120)[0]
    assert whole.returncode == 0 and "loss" in printed
    again = start("killed", "0")
    assert again.communicate(timeout=120)[0] == printed and again.returncode == 0
    for file in ("results.json", "config.json"):
        texts = [(tmp_path / run / file).read_text() for run in ("whole", "killed")]
        assert texts[0] == texts[1]
    models = [
        named_arrays(read_weights(tmp_path / run / "models/fedprox.npz")[0]) for run in ("whole", "killed")
    ]
    assert models[0].keys() == models[1].keys()
    for name, leaf in models[0].items():
        np.testing.assert_array_equal(models[1][name], leaf)
    timeless = [
        [
            {k: v for k, v in record.items() if "seconds" not in k}
            for record in read_log(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("whole", "killed")
    ]
    assert timeless[0] == timeless[1] and [r["round"] for r in timeless[0]] == list(range(1, 9))
