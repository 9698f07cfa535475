"""Files of a run that grow by a line of JSON at a time: metrics.jsonl and flow.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from bptt.data.input_files import parse_json, read_bytes, system_errors
from bptt.errors import BpttError

MOST = 1 << 28
"""Bytes of such a file; a million lines have less."""
ALWAYS = ("update", "seconds", "train_nll")
SOMETIMES = ("validation_nll", "score")
MOST_NUMBER = 1e300
"""Beyond what a loss can be; NaN is not below it either."""


class Line(NamedTuple):
    """What a line says, and where it stands, for messages."""

    value: Any
    source: str


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a file, or none without one; a last one that was cut off is left out.

    BpttError is raised for any other line that is no JSON.
    """
    with system_errors("read", path):
        if not path.exists():
            return []
    content = read_bytes(path, "lines of numbers", MOST)
    lines = content.split(b"\n")
    lines.pop()  # what stands after the last newline: nothing, or what was cut off
    read = []
    for number, line in enumerate(lines, 1):
        source = f"line {number} of {path}"
        read.append(Line(parse_json(line, source), source))
    return read


def drop_cut_off(path: Path) -> None:
    """Take a last line that was cut off, when its process was killed, out of a file."""
    if not path.exists():
        return
    with system_errors("write", path), path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def require_metrics(row: object, source: str) -> None:
    """Raise BpttError unless a line of metrics.jsonl has numbers, by names that are known."""
    is_row = (
        isinstance(row, dict)
        and set(ALWAYS) <= set(row) <= {*ALWAYS, *SOMETIMES}
        and all(type(value) in (int, float) and abs(value) < MOST_NUMBER for value in row.values())
        and type(row["update"]) is int
    )
    if not is_row:
        raise BpttError(
            f"{source} is not what 'bptt train' writes; expected finite numbers of "
            f"{', '.join((*ALWAYS, *SOMETIMES))}: mend or remove the line"
        )
