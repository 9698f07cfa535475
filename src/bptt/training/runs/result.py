"""What a run reached, in a measure that people read: beside it, in a file of its own."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import bptt
from bptt.data.input_files import parse_json, read_bytes, system_errors
from bptt.training.runs import files
from bptt.training.runs.plain_values import as_dataclass

RESULT = "result.json"
MOST_COLUMNS = 3
"""Of a table, up to which each is shown by itself."""
MOST_RESULT = 1 << 24
"""Bytes of a result.json; one of ten thousand columns has a tenth of it."""


@dataclass(frozen=True)
class Measured:
    """One number, about one column if it has a name. simple: what a simple method reaches."""

    name: str
    value: float
    simple: float | None = None


@dataclass(frozen=True)
class Result:
    """What the weights that a run uses reach on what was held out.

    updates: how long it was trained. measure: what the numbers are. method: the simple one.
    """

    updates: int
    measure: str
    values: tuple[Measured, ...]
    method: str = ""

    def by_head(self) -> dict[str, Measured]:
        """Return what it has, by the heads of columns for it; of many columns their median.

        That is in units of what the simple method reaches.
        """
        if len(self.values) <= MOST_COLUMNS:
            return {
                f"{one.name}: {self.measure}" if one.name else self.measure: one
                for one in self.values
            }
        shares = [one.value / one.simple for one in self.values if one.simple]
        head = f"{self.measure} / that of {self.method}"
        return {head: Measured("", statistics.median(shares), 1.0)} if shares else {}

    def write(self, folder: Path) -> None:
        """Write it into a run's folder, without numbers that are not finite."""
        finite = [one for one in self.values if math.isfinite(one.value + (one.simple or 0))]
        content = {"bptt": bptt.__version__, **asdict(self), "values": list(map(asdict, finite))}
        files.write(folder / RESULT, json.dumps(content, indent=2) + "\n", files.JSON)

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """Return that of a run, if it has one; or raise BpttError if the file is damaged."""
        path = folder / RESULT
        with system_errors("read", path):
            if not path.exists():
                return None
        content = parse_json(read_bytes(path, "what a run reached", MOST_RESULT), str(path))
        if isinstance(content, dict):
            content.pop("bptt", None)
        return as_dataclass(cls, content, str(path))
