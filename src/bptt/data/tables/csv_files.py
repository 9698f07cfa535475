"""Files of tables as text: a copy that polars can read, and what is wrong where it cannot."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bptt.data.tables.csv_dialect import UTF8, Layout
from bptt.data.tables.csv_numbers import is_value
from bptt.errors import BpttError

BLOCK = 1 << 20


def utf8_copy(path: Path, layout: Layout, folder: Path) -> Path:
    """Write the text into a folder in UTF-8, with lines that end in a line feed."""
    copy, encoding = folder / "table.csv", layout.dialect.encoding
    with copy.open("w", encoding="utf-8", newline="") as file:
        line = 1
        try:
            with path.open(encoding=encoding) as text:  # which makes one line feed of each end
                while block := text.read(BLOCK):
                    file.write(block.removeprefix("\ufeff") if line == 1 else block)
                    line += block.count("\n")
        except UnicodeError as error:
            raise BpttError(
                f"{path} is not {encoding}, after line {line}: {error}; say what it is with "
                "encoding (--encoding)"
            ) from None
    return copy


def lines_of(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows, header included, each after the number of its last line."""
    dialect = layout.dialect
    with path.open(encoding=dialect.encoding, errors="replace", newline="") as file:
        for _ in range(layout.skip):
            next(file)
        mark = dialect.comment
        lines = ("\n" if mark and line.startswith(mark) else line for line in file)
        rows = csv.reader(lines, delimiter=dialect.separator or ",")
        with suppress(csv.Error):  # as of a field of megabytes: what is before it is enough
            for row in rows:
                if row:
                    yield layout.skip + rows.line_num, row


def long_row(path: Path, layout: Layout) -> str | None:
    """Say which row has more fields than the first one."""
    rows = lines_of(path, layout)
    _, first = next(rows, (0, []))
    width, what = len(first), "a header" if layout.dialect.header else "a first row"
    for count, (line, row) in enumerate(rows, 1 if layout.dialect.header else 2):
        if len(row) > width:
            return (
                f"row {count} of {path} (line {line}) has {len(row)} fields, under {what} of "
                f"{width}; mend the row, take away what stands above the table, or say how fields "
                "are separated (--separator)"
            )
    return None


def no_utf8(path: Path) -> str | None:
    """Say which line is not UTF-8."""
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path} is not UTF-8: byte 0x{content[error.start]:02x} in line {line}; say "
                    "what it is with encoding (--encoding), such as cp1252"
                )
    return None


def require_names_read(path: Path, layout: Layout) -> None:
    """Raise BpttError if a name of a column has bytes that are not UTF-8, where it should be."""
    is_odd = any("\ufffd" in name for name in layout.names or ())
    if is_odd and layout.dialect.encoding in UTF8 and (line := no_utf8(path)):
        raise BpttError(line)


def require_no_rows_in_comments(path: Path, layout: Layout) -> None:
    """Raise BpttError if a line that would be left out as a comment looks like a row.

    The mark was seen at other lines' start, not told, and the first word of a row can begin so too.
    """
    dialect, separator = layout.dialect, layout.dialect.separator or ","
    mark, width = dialect.comment or "", 0
    with path.open(encoding=dialect.encoding, errors="replace") as file:
        for number, line in enumerate(file, 1):
            if number <= layout.skip or not line.strip():
                continue
            fields = line.rstrip("\n").split(separator)
            width = width or len(fields)
            if not line.startswith(mark):
                continue
            is_row = len(fields) == width > 1 and any(map(is_value, fields[1:]))
            if is_row or fields[0].strip() in dialect.notation.missing:
                raise BpttError(
                    f"line {number} of {path} begins with {mark!r} and looks like a row; say what "
                    "comments begin with, if there are any (--comment, '' for none)"
                )
