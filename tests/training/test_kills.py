"""The short form of benchmarks/kills.py: a run that is killed goes on to the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def test_runs_that_are_killed_end_as_one_that_is_left_alone() -> None:
    command = [sys.executable, SCRIPT, "--kinds", "sampling"]
    command += ["--kills", "1", "--writes", "1", "--terms", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("2 SIGKILL and 1 SIGTERM: every run ended with the weights, bit for bit")
