"""Crash report: names the process that died when JAX, having lost its coordinator, aborts another one.

A program of its own, started by `Watchdog` and using the standard library alone: it outlives its parent.
Arguments: the parent's name, the files of the parent and of process 0, and seconds of silence. On standard
input it gets a line when the parent ends by itself, and nothing when it does not.
"""

import json
import sys
import time
from pathlib import Path


def read(file: str) -> dict:
    """What a process last wrote of itself."""
    try:
        return json.loads(Path(file).read_text())
    except (OSError, ValueError):
        return {}


def main(name: str, own: str, coordinator: str, seconds: float) -> None:
    """Waits for the parent's end."""
    if sys.stdin.readline():
        return
    last, since = read(coordinator), time.monotonic()
    while not last.get("ended") and time.monotonic() - since < seconds:
        time.sleep(seconds / 20)
        if read(coordinator).get("beat") != last.get("beat"):
            # The coordinator lives or ended in words, so that it was the parent that died.
            print(f"{name} died, last in {read(own).get('place')}", file=sys.stderr)
            return
    ended = last.get("ended") or "died"
    who = f"process 0 ({last.get('host')}, pid {last.get('pid')})"
    print(f"{who} {ended}, last in {last.get('place')}; this was {name}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
