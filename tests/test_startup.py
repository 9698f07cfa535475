"""What a process of ours does before it imports torch; each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import bptt

TRAIN = ["train", "task:order", "--length", "10", "--hidden", "4", "--max-updates", "3"]
COMPILES = """
import sys
from bptt.startup import put_off_compiler
put_off_compiler()
import torch
w = torch.ones(3, requires_grad=True)
optimizer = torch.optim.Adam([w])
(w * 2).backward(torch.ones(3))
optimizer.step()
optimizer.zero_grad()
slope = torch.func.vmap(torch.func.jacrev(lambda v: v.sin()))(torch.zeros(2, 3))
assert torch.equal(slope, torch.eye(3).expand(2, 3, 3))
assert "sympy" not in sys.modules
try:
    torch.autograd.grad(w * 2, w, torch.ones(2))
except RuntimeError as error:
    assert "Mismatch in shape" in str(error), error
else:
    raise AssertionError("sizes that differ pass for equal")
f = torch.compile(lambda x: x.sin() + 1, backend="eager", fullgraph=True)
assert torch.equal(f(w), w.sin() + 1)
import torch._dynamo.config
assert torch._dynamo.config.recompile_limit > 0
assert "sympy" in sys.modules
print("compiled")
"""


def test_no_public_name_is_a_packages_too() -> None:
    """Where it is, importing the package would put it in the place of the name."""
    paths = Path(bptt.__file__).parent.iterdir()
    parts = {p.stem for p in paths if p.suffix == ".py" or (p / "__init__.py").exists()}
    both = {name for name in bptt.__all__ if name in parts}
    assert {name for name in both if not isinstance(getattr(bptt, name), ModuleType)} == set()


def run(*arguments: str, where: Path, **settings: str) -> str:
    environment = {**os.environ, **settings}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=where, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_training_imports_no_compiler(tmp_path: Path):
    imported = run("-X", "importtime", "-m", "bptt", *TRAIN, "--out", "new", where=tmp_path)
    assert "| torch" in imported.replace(" ", "").replace("|", "| ")
    assert "sympy" not in imported
    assert (tmp_path / "new" / "checkpoint.safetensors").exists()


def test_the_compiler_is_there_when_something_is_compiled(tmp_path: Path):
    assert run("-c", COMPILES, where=tmp_path) == "compiled\n"
