"""The shapes in annotations are those that tensors have, in a run of some tests that looks."""

from __future__ import annotations

import subprocess
import sys

CHECKED = [
    *("bptt.kernel.layout", "bptt.kernel.ops", "bptt.kernel.plain_loop"),
    *("bptt.cells.elman", "bptt.cells.gru", "bptt.cells.lstm"),
    *("bptt.model.encodings", "bptt.model.likelihoods"),
]
"""Modules whose functions jaxtyping and beartype look into, at every call."""
TESTS = [
    *("tests/cells/test_torch_cells.py", "tests/model/test_network.py"),
    *("tests/model/test_to_ends.py", "tests/model/test_likelihoods.py"),
]
"""They call nearly all of it. To look in every test would make all of them a fifth slower."""
FEW = "not (everywhere and not call) and not spread"
"""Which of them: of each likelihood one way to use it."""


def test_annotated_shapes_are_those_of_tensors() -> None:
    hook = f"--jaxtyping-packages={','.join(CHECKED)},beartype.beartype"
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, hook, "-k", FEW, *TESTS],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
