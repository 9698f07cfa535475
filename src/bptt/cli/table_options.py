"""How 'bptt train' is told what a table is, and how its file is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from bptt.cli.options import comma_separated

if TYPE_CHECKING:
    from bptt.data.tables.columns import Columns

DIALECT = ("separator", "decimal", "thousands", "comment", "missing", "encoding", "header")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Of a table: what its columns are, and how its file is written."""

    target: Annotated[tuple[str, ...], comma_separated(str)] = ()
    """The columns to model, such as a,b; by default every column of numbers left, but for an
    index. With --label there are none."""

    inputs: Annotated[tuple[str, ...], comma_separated(str)] = ()
    """Columns that are known at the step that is predicted; with --label what is read, by default
    every column of numbers left."""

    time: str | None = None
    """The column that rises from row to row: dates, or numbers."""

    time_format: str | None = None
    """How times are written, as strptime has it, such as %d/%m/%Y (%q for a quarter; iso; number);
    by default the one format that fits all rows."""

    time_zone: str | None = None
    """The zone by whose clock days are counted, such as Europe/Berlin, and in which times are that
    name none."""

    fill: Literal["previous", "linear"] | None = None
    """What to put for missing values, which are refused otherwise, and into missing steps."""

    longest_gap: int | None = None
    """How many rows on end to fill at most; by default the window."""

    difference: bool = False
    """Model the change from row to row, for series with a trend."""

    categories: Annotated[tuple[str, ...], comma_separated(str)] = ()
    """Columns that are known at the step that is predicted, and hold one of several classes."""

    calendar: Annotated[tuple[str, ...], comma_separated(str)] = ()
    """What the date says, as inputs: some of hour,weekday,day,month."""

    series: str | None = None
    """The column that tells several series apart, each with its rows in order."""

    validation_share: float = 0.1
    """How much of the table is not to train on: the end of it, or of each series; or of the series,
    where some are held out whole."""

    validation_by: Literal["time", "series"] | None = None
    """Of several series: whether the end of each is held out, or some of them whole; by default the
    end, and with --label some of them."""

    units: Literal["series", "common"] | None = None
    """Of several series: whether each is put in units of its own, or all in the same; by default of
    its own, unless some are held out whole."""

    label: str | None = None
    """Of several series: the column that says what each is, a class or a number, which the network
    is to tell at its end from the other columns."""

    separator: str | None = None
    """What stands between the fields of a row, such as ; or tab; by default what fits the file."""

    decimal: Literal[".", ","] | None = None
    """The mark before decimals; by default the one that the file shows."""

    thousands: str | None = None
    """The mark between groups of digits; by default the one that the file shows."""

    comment: str | None = None
    """What lines begin with that are no rows; by default # or %, if the file has some."""

    missing: Annotated[tuple[str, ...], comma_separated(str)] = ()
    """More words for a missing value, such as -999,none."""

    encoding: str | None = None
    """How characters are encoded, such as cp1252; by default UTF-8, or what the file's start says.
    """

    header: bool | None = None
    """Whether the first row names the columns; by default whether it looks like it."""

    def columns(self, window: int | None) -> Columns:
        """Return what to read; window: how far the gradient reaches back, None for all steps."""
        from bptt.data.tables.columns import LONGEST_GAP, Columns  # noqa: PLC0415
        from bptt.data.tables.csv_dialect import Dialect  # noqa: PLC0415

        options: dict[str, Any] = asdict(self)
        dialect = Dialect(**{name: options.pop(name) for name in DIALECT})
        if self.longest_gap is None:
            options["longest_gap"] = window or LONGEST_GAP
        return Columns(**options, dialect=dialect)
