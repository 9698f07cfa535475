"""How a file of text writes a table: what is told by its first lines, and what can be set."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import NamedTuple

from bptt.data.tables.csv_numbers import MISSING, Notation, is_value, notation_of
from bptt.errors import BpttError, require_choice, require_kind, require_several

SEPARATORS = {".csv": ",", ".tsv": "\t"}
HEAD_BYTES, HEAD_LINES, HEAD_FIELDS = 1 << 18, 3, 100_000
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before that of UTF-16, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UTF8 = ("utf-8", "utf-8-sig")
NAMES = {"\t": "a tab", " ": "a space", "\u00a0": "a space", "\u202f": "a space"}
END_OF_LINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a .csv or .tsv file is written; what is None is told by its first lines.

    separator: between fields. decimal: "." or ",". thousands: the mark between groups of digits;
    "" for none. comment: what a line that is no row begins with; "" for none. missing: words for
    missing values, besides the usual ones. encoding: one of Python's. header: whether the first
    row names the columns.
    """

    separator: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    comment: str | None = None
    missing: tuple[str, ...] = ()
    encoding: str | None = None
    header: bool | None = None

    def _require_types(self) -> None:
        for name in ("separator", "decimal", "thousands", "comment", "encoding"):
            require_kind(name, getattr(self, name), (str, NoneType), "a text, or None")
        require_kind("header", self.header, (bool, NoneType), "True, False or None")
        words: str | tuple[str, ...] = self.missing
        if not isinstance(words, str):
            require_several("missing", words, "words for a missing value")
            for word in words:
                require_kind("a word in missing", word, str, "a text")

    def __post_init__(self) -> None:
        self._require_types()
        words: str | tuple[str, ...] = self.missing
        object.__setattr__(self, "missing", (words,) if isinstance(words, str) else tuple(words))
        if self.separator is not None:
            named = {"tab": "\t", "\\t": "\t", "space": " "}.get(self.separator, self.separator)
            object.__setattr__(self, "separator", named)
            if len(named) != 1 or not named.isascii() or named in '"\r\n':
                raise BpttError(f"separator is {named!r}; expected one character, or 'tab'")
        if self.decimal is not None:
            require_choice("decimal", self.decimal, (".", ","))
        if self.thousands is not None and (
            len(self.thousands) > 1 or self.thousands.isalnum() or self.thousands in ("+", "-")
        ):
            raise BpttError(f"thousands is {self.thousands!r}; expected one mark, or '' for none")
        if self.thousands and self.thousands == (self.decimal or "."):
            raise BpttError(
                f"thousands and decimal are both {self.thousands!r}; expected two different marks"
            )
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise BpttError(
                    f"there is no encoding {self.encoding!r}; expected such as 'utf-16', 'cp1252'"
                ) from None

    @property
    def notation(self) -> Notation:
        """How its numbers are written."""
        return Notation(self.decimal or ".", self.thousands or "", (*MISSING, *self.missing))

    def require_none(self, source: str) -> None:
        """Raise BpttError if anything is set, for a file that is no text."""
        for name, default in Dialect().__dict__.items():
            if getattr(self, name) != default:
                raise BpttError(
                    f"{name} (--{name}) is for .csv and .tsv files; {source} is none: leave it out"
                )


class Layout(NamedTuple):
    """A dialect with nothing left open, and where the rows begin.

    skip: lines before the header, or the first row. names: those of the columns, or None to number
    them. needs_copy: whether only a copy in UTF-8 can be read, with lines that end as usual.
    """

    dialect: Dialect
    skip: int
    names: tuple[str, ...] | None
    needs_copy: bool

    def words(self, path: Path) -> str:
        """Say what is not as in most files."""
        d, parts = self.dialect, []
        if d.encoding not in UTF8:
            parts.append(f"encoding {d.encoding}")
        if d.separator != SEPARATORS[path.suffix.lower()]:
            parts.append(f"separator {NAMES.get(d.separator or '', repr(d.separator))}")
        if d.decimal == ",":
            parts.append("decimal comma")
        if d.thousands:
            parts.append(f"thousands marked by {NAMES.get(d.thousands, repr(d.thousands))}")
        if d.comment:
            parts.append(f"comments after {d.comment!r}")
        if not d.header:
            parts.append("no header" if self.names is None else "names from the last comment")
        return ", ".join(parts)


def layout_of(path: Path, asked: Dialect) -> Layout:
    """Find out how a file is written, within what was asked for, or raise BpttError."""
    encoding = asked.encoding or _encoding(path)
    lines, ends = _first_lines(path, encoding)
    first = 0
    if lines and (excel := re.fullmatch("sep=(.)", lines[0])):  # Excel writes this, and reads it
        first, asked = 1, replace(asked, separator=asked.separator or excel[1])
    comment = _comment(lines[first:]) if asked.comment is None else asked.comment
    comments = []
    while first < len(lines) and (
        not lines[first] or (comment and lines[first].startswith(comment))
    ):
        comments += [lines[first].removeprefix(comment)] if lines[first] else []
        first += 1
    body = [line for line in lines[first:] if line and not (comment and line.startswith(comment))]
    separator = asked.separator or _separator(body, SEPARATORS[path.suffix.lower()])
    rows = _rows(body, separator)
    if not rows:
        raise BpttError(f"{path} has no rows; expected some to learn from")
    missing = (*MISSING, *asked.missing)
    header = _has_header(path, rows, missing) if asked.header is None else asked.header
    names = tuple(rows[0]) if header else None
    if not header and comments:
        names = _names_in_comment(comments[-1], separator, len(rows[0]))
    decimal, thousands = notation_of(path, rows[1:] if header else rows, separator, asked)
    dialect = Dialect(
        separator=separator,
        decimal=decimal,
        thousands=thousands,
        comment=comment,
        missing=asked.missing,
        encoding=encoding,
        header=header,
    )
    return Layout(dialect, first, names, encoding not in UTF8 or ends == "\r")


def _encoding(path: Path) -> str:
    """Return what a mark at the file's start, or zeros in every other byte, say it is."""
    with path.open("rb") as file:
        start = file.read(4096)
    for mark, encoding in BOMS.items():
        if start.startswith(mark):
            return encoding
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if (
            len(start) >= 4
            and zeros.count(0) > 0.8 * len(zeros)
            and start.count(0) < 0.6 * len(start)
        ):
            return encoding
    return "utf-8"


def _first_lines(path: Path, encoding: str) -> tuple[list[str], str]:
    """Return the first lines, whole ones, and how they end."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    text, is_whole = "", False
    with path.open("rb") as file:
        while not is_whole and (len(text) < HEAD_BYTES or text.count("\n") < HEAD_LINES):
            block = file.read(HEAD_BYTES)
            is_whole = not block or len(text) > 64 * HEAD_BYTES
            text += decoder.decode(block, final=not block)
    lines = END_OF_LINE.split(text.removeprefix("\ufeff"))
    ends = "\r" if "\r" in text and "\n" not in text else "\n"
    return (lines if block == b"" else lines[:-1] or lines), ends


def _comment(lines: Sequence[str]) -> str:
    """Return what comments begin with: the first lines, or a few between the rows."""
    lines = [line for line in lines if line]
    for mark in "#%":
        marked = [line.startswith(mark) and not line.startswith("#N/A") for line in lines]
        if any(marked) and not all(marked) and (marked[0] or 4 * sum(marked) < len(lines)):
            return mark
    return ""


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Return the first rows, fields stripped."""
    rows: list[list[str]] = []
    count = 0
    try:
        for row in csv.reader((line + "\n" for line in lines), delimiter=separator):
            rows.append([field.strip() for field in row])
            count += len(row)
            if count > HEAD_FIELDS:
                break
    except csv.Error:  # polars says what is wrong with it
        return rows
    return rows


def _separator(lines: Sequence[str], usual: str) -> str:
    """Return what splits the lines best: into equally many fields, and most of them values."""
    best, most = usual, (0.0, 0.0)
    for separator in dict.fromkeys((usual, ",", ";", "\t", "|")):
        rows = _rows(lines[:100], separator)
        [(width, count)] = Counter(map(len, rows)).most_common(1) or [(1, 0)]
        if width < 2 or len(rows[0]) < 2:
            continue
        fields = [field for row in rows[1:] or rows for field in row][:2000]
        values = sum(is_value(field) or field in MISSING for field in fields) / len(fields)
        score = (round(count / len(rows), 1), values)
        if score > most:
            best, most = separator, score
    return best


def _has_header(path: Path, rows: list[list[str]], missing: Sequence[str]) -> bool:
    """Return whether the first row names the columns, or raise BpttError where it may or may not.

    It does where a column of values begins with what is none. Where all columns of values begin
    with one, the row is data, unless its numbers count up, as those of headers do.
    """
    if len(rows) < 2:
        return True
    first, width = rows[0], min(len(rows[0]), 1000)
    body = rows[1 : 2 + 5000 // width]
    columns = [
        [row[k] for row in body if k < len(row) and row[k] not in missing] for k in range(width)
    ]
    of_values = [k for k, column in enumerate(columns) if column and all(map(is_value, column))]
    names = [first[k] for k in of_values if first[k] not in missing]
    if not names or not all(map(is_value, names)):
        return True
    if not _counts_up(names) or _counts_up([body[0][k] for k in of_values if k < len(body[0])]):
        return False
    if first[0] == "" and names[0] == "0":  # as pandas names columns, and not their index
        return True
    if len(names) == 1:
        return False
    raise BpttError(
        f"the first row of {path}, {','.join(first)[:40]!r}, can be names or values; say which "
        "with header True or False (--header or --no-header)"
    )


def _counts_up(fields: Sequence[str]) -> bool:
    if not all(re.fullmatch(r"\d{1,4}", field) for field in fields):
        return False
    return all(int(b) - int(a) == 1 for a, b in itertools.pairwise(fields))


def _names_in_comment(comment: str, separator: str, width: int) -> tuple[str, ...] | None:
    """Return the names that numpy.savetxt writes into a comment."""
    names = next(csv.reader([comment], delimiter=separator), [])
    names = [name.strip() for name in names]
    is_header = len(names) == width > 1 and not any(map(is_value, names)) and all(names)
    return tuple(names) if is_header else None
