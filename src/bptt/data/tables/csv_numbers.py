"""How a text writes its numbers: marks for decimals and thousands, signs, missing values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bptt.data.tables.times import formats_of
from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl

MISSING = (
    *("", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "#N/A N/A", "null", "NULL", "Null"),
    *("None", "NaN", "nan", "NAN", "-nan", "NaT", "?", "-", "--", "."),
)
"""Words for a missing value."""
BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), "1"),
    **dict.fromkeys(("false", "False", "FALSE"), "0"),
}
CURRENCIES = "$€£¥₹₽"
SPACES = " '\u00a0\u202f"
NUMBER = re.compile(
    rf"[+-]?[{CURRENCIES}]?\s?[+-]?(\d[\d.,{SPACES}]*|[.,]\d+)([eE][+-]?\d+)?\s?[{CURRENCIES}%]?"
    r"|[+-]?inf(inity)?",
    re.IGNORECASE,
)
UNIT = re.compile(rf"^[+-]?([{CURRENCIES}])|([{CURRENCIES}%])$")


@dataclass(frozen=True)
class Notation:
    """How numbers are written: the marks for decimals and thousands, and words for none."""

    decimal: str = "."
    thousands: str = ""
    missing: tuple[str, ...] = MISSING

    def clean(self, text: pl.Expr) -> pl.Expr:
        """Take away the space around a text, and the text if it is a word for a missing value."""
        return text.str.strip_chars().replace(dict.fromkeys(self.missing))

    def number(self, clean: pl.Expr, unit: str = "") -> pl.Expr:
        """Read cleaned texts as float64; null where that fails. unit: a sign that they all have."""
        import polars as pl  # noqa: PLC0415

        text = clean.replace(BOOLEANS)
        if unit == "%":
            text = pl.when(text.str.ends_with("%")).then(text.str.strip_suffix("%"))
        elif unit:
            text = text.str.replace(f"^([+-]?){re.escape(unit)}\\s?", "${1}")
            text = text.str.replace(f"\\s?{re.escape(unit)}$", "")
        if self.decimal == "." and not self.thousands:
            return text.str.strip_chars().cast(pl.Float64, strict=False)
        return self._with_marks(text.str.strip_chars())

    def _with_marks(self, text: pl.Expr) -> pl.Expr:
        import polars as pl  # noqa: PLC0415

        point, mark = re.escape(self.decimal), re.escape(self.thousands)
        groups = rf"\d{{1,3}}(?:{mark}\d{{3}})+|" if mark else ""
        whole = rf"^[+-]?(?:(?:{groups}\d+)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?$"
        is_whole = text.str.contains(whole) | text.str.contains(r"^[+-]?(?i)inf(?:inity)?$")
        plain = text.str.replace_all(self.thousands, "", literal=True) if mark else text
        plain = plain.str.replace(self.decimal, ".", literal=True)
        return pl.when(is_whole).then(plain).cast(pl.Float64, strict=False)


def is_value(field: str) -> bool:
    """Whether a field holds a number, a boolean or a time, and not a name."""
    return bool(NUMBER.fullmatch(field)) or field in BOOLEANS or any(formats_of(field))


def unit_of(field: str) -> str:
    """Return the sign of a currency, or of percent, that a number has.

    >>> unit_of("$10"), unit_of("-3 €"), unit_of("5%"), unit_of("7")
    ('$', '€', '%', '')
    """
    sign = UNIT.search(field) if NUMBER.fullmatch(field) else None
    return (sign[1] or sign[2]) if sign else ""


class Asked(Protocol):
    """What the user has set."""

    @property
    def decimal(self) -> str | None: ...  # noqa: D102
    @property
    def thousands(self) -> str | None: ...  # noqa: D102


def notation_of(
    path: Path, rows: Sequence[Sequence[str]], separator: str, asked: Asked
) -> tuple[str, str]:
    """Return the marks for decimals and thousands, or raise BpttError where one may be either."""
    marks = Marks.of(rows)
    decimal = asked.decimal
    if decimal is None and asked.thousands in (".", ","):
        decimal = "," if asked.thousands == "." else "."
    if decimal is None:
        decimal = marks.decimal(path, separator)
    thousands = asked.thousands
    if thousands is None:
        thousands = marks.thousands(decimal)
    return decimal, thousands


@dataclass
class Marks:
    """What the marks in numbers can mean, by mark, with an example of each.

    decimals: followed by what is no group of three digits. groups: surely between thousands.
    either: one mark before three digits. in_a_column: either, beside whole numbers.
    """

    decimals: dict[str, str]
    groups: dict[str, str]
    either: dict[str, str]
    beside_whole: dict[str, str]

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> Marks:
        """Look at the numbers of the first rows."""
        marks, whole, single = cls({}, {}, {}, {}), set[int](), dict[int, tuple[str, str]]()
        for row in rows:
            for k, field in enumerate(row):
                if field.isdigit():
                    if field != "0":
                        whole.add(k)
                elif NUMBER.fullmatch(field):
                    mark = marks._add(field.strip(f"+-%{CURRENCIES} \u00a0"), field)
                    if mark:
                        single.setdefault(k, (mark, field))
        marks.beside_whole = dict(single[k] for k in single if k in whole)
        return marks

    def _add(self, number: str, field: str) -> str:
        """Note what the marks of a number can be; return the one that can be either."""
        number = re.sub(r"[eE][+-]?\d+$", "", number)
        if spaced := re.fullmatch(
            rf"\d{{1,3}}(?:([{SPACES}])\d{{3}})(?:\1\d{{3}})*([.,]\d*)?", number
        ):
            self.groups.setdefault(spaced[1], field)
            if spaced[2]:
                self.decimals.setdefault(spaced[2][0], field)
        elif many := re.fullmatch(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*([.,]\d*)?", number):
            if many[2] and many[2][0] != many[1]:
                self.groups.setdefault(many[1], field)
                self.decimals.setdefault(many[2][0], field)
            elif number.count(many[1]) > 1:
                self.groups.setdefault(many[1], field)
            elif number.startswith("0"):
                self.decimals.setdefault(many[1], field)
            else:
                self.either.setdefault(many[1], field)
                return many[1]
        elif plain := re.fullmatch(r"\d*([.,])\d*", number):
            self.decimals.setdefault(plain[1], field)
        return ""

    def decimal(self, path: Path, separator: str) -> str:
        """Return the mark for decimals."""
        if "." in self.decimals or "," in self.groups:
            return "."
        if "," in self.decimals or "." in self.groups:
            return ","
        unclear = self.beside_whole.get(".") if separator != "," else None
        if separator != "," and "," in self.either:
            unclear = self.either[","]
        if unclear is not None:
            raise BpttError(
                f"{unclear!r} in {path} can be a number with decimals or with thousands; say which "
                "with decimal ',' or '.' (--decimal)"
            )
        return "."

    def thousands(self, decimal: str) -> str:
        """Return the mark for thousands, or nothing."""
        marks = [m for m in {**self.groups, **self.either} if m != decimal]
        return marks[0] if marks else ""
