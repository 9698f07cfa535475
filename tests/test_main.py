"""How the command's process begins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
PROGRAM = """
import os, sys
import bptt.__main__ as program
assert "torch" not in sys.modules  # it reads its settings when it is imported
sys.argv = ["bptt", "--version"]
program.main()
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("setting", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_sleep_soon_unless_the_user_says_how(
    setting: dict[str, str], expected: str
) -> None:
    environment = {name: v for name, v in os.environ.items() if name not in SETTINGS} | setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == expected
