"""Rows of the check of a device: how their processes end, and what is told of them."""

import json

from experiments.gpu_check import check, report
from experiments.pipeline.device_rows import FILE, ROWS, Row

WRITES = "import json, sys; json.dump({'ms': 3}, open(sys.argv[1], 'w'))"


def test_rows_are_told_by_what_their_process_did():
    passed = check(Row(["-c", WRITES, FILE], lambda found: f"{found['ms']} ms"), 30)
    assert (passed["status"], passed["figure"], passed["end"]) == ("passed", "3 ms", "")
    assert check(Row(["-c", "print(7)"], str.strip), 30)["figure"] == "7"
    failed = check(Row(["-c", "raise SystemExit('no room')"], str), 30)
    assert failed["status"] == "failed" and "no room" in failed["end"]
    late = check(Row(["-c", "import time; print('began', flush=True); time.sleep(60)"], str), 1)
    assert late["status"] == "timed out" and late["seconds"] < 20 and "began" in late["end"]
    silent = check(Row(["-c", WRITES, FILE], lambda found: found["seconds"]), 30)
    assert silent["status"] == "failed" and "no figure in what it wrote" in silent["end"]
    device = {"platform": "gpu", "kind": "H200", "devices": 1, "jax": "0.11"}
    text = report({"device": device, "rows": {"fast": passed, "late": late}})
    assert text.startswith("late, timed out:") and text.endswith("1 x H200 (gpu), jax 0.11: 1 of 2 passed")
    assert json.loads(json.dumps(late)) == late and "precision" in ROWS
