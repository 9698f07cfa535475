"""Small data and runs of every kind, and the command line in process, for tests of its options."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts import App

from bptt.cli import main
from bptt.training.runs.run import Run, under

DATA = {
    "text": "text.txt",
    "table": "table.csv",
    "inputs": "inputs.csv",
    "sequences": "sequences.npz",
    "task": "task:sine",
}
"""Data of every kind, by the name of the run that was trained on it; of tables with inputs too."""
SMALL = ["--hidden", "3", "--window", "5", "--max-updates", "1"]
MORE = {
    "text": ["--batch", "2"],
    "inputs": ["--inputs", "wind", "--time", "day"],
    "task": ["--length", "20"],
}


def write_data(folder: Path) -> None:
    """Write a file of every kind."""
    (folder / "text.txt").write_text("to be or not to be, " * 30)
    for name in ("table.csv", "inputs.csv"):
        rows = "".join(f"{i},{i % 7},{3 * i % 5}\n" for i in range(60))
        (folder / name).write_text("day,load,wind\n" + rows)
    random = np.random.default_rng(0)
    np.savez(folder / "sequences.npz", y=random.normal(size=(8, 12, 2)).astype(np.float32))


def write_runs(folder: Path) -> None:
    """Write data, and a run on each; stand in `folder` for that."""
    write_data(folder)
    for name, data in DATA.items():
        arguments = ["train", data, *SMALL, *MORE.get(name, []), "--out", name]
        assert says(*arguments)[0] == 0
        run = Run.open(name)
        last = under("network", run.load()[0])
        run.save_best({key: 2 * weight for key, weight in last.items()}, {"update": 0})


def says(*arguments: str) -> tuple[int, str, str]:
    """Return the exit status of a command in this process, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def parse_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at each command's signature once, and not at every call, which takes 0.1 seconds."""
    looked_at: dict[Any, Any] = {}
    look = App.assemble_argument_collection

    def once(self: App, **how: Any) -> Any:
        key = (id(self.default_command), str(how))
        if key not in looked_at:
            found = look(self, **how)
            declared = [(a.field_info, a.parameter, a.hint, a._lookup) for a in found]
            looked_at[key] = found, {id(part): part for parts in declared for part in parts}
        found, shared = looked_at[key]
        return copy.deepcopy(found, dict(shared))  # what a call writes into is its own

    monkeypatch.setattr(App, "assemble_argument_collection", once)
