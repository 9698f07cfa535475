"""Which columns of a table are what, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import NoneType
from typing import Literal, get_args

from bptt.data.tables.categories import CalendarPart
from bptt.data.tables.clock import require_zone
from bptt.data.tables.csv_dialect import Dialect
from bptt.data.tables.gaps import Fill
from bptt.errors import (
    BpttError,
    require_choice,
    require_flag,
    require_kind,
    require_several,
    require_whole,
)

UNKNOWN = Dialect()
LONGEST_GAP = 100
HeldOut = Literal["time", "series"]
Units = Literal["series", "common"]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what, and how they are prepared."""

    target: tuple[str, ...] = ()  # y; if empty, every column of numbers that has no other role
    inputs: tuple[str, ...] = ()  # x, known at the step that it stands at
    time: str | None = None  # numbers, dates or datetimes that rise from row to row
    time_format: str | None = (
        None  # strptime's, see times.py; by default the one that fits all rows
    )
    time_zone: str | None = (
        None  # in which the days of the calendar are; by default that of the times
    )
    # For missing values, and rows for missing steps: the one before, or a line between both
    # neighbours over the rows (at the ends, the nearest). None refuses the former, and leaves the
    # latter out.
    fill: Fill | None = None
    longest_gap: int = LONGEST_GAP  # how many rows on end may be filled
    difference: bool = False  # model yᵗ − yᵗ⁻¹, for series with a trend; costs the first row
    validation_share: float = 0.1  # how much of the table, at its end, is not to train on
    dialect: Dialect = UNKNOWN  # of a .csv or .tsv file
    categories: tuple[str, ...] = ()  # inputs that are one of several classes
    calendar: tuple[CalendarPart, ...] = ()  # inputs that the time says
    series: str | None = None  # which series a row belongs to; without, all rows are one
    # The end of every series is held out, or some series whole; by default the end, and with labels
    # series.
    validation_by: HeldOut | None = None
    # Of several series the target is in units of each by itself, or in the same for all; by default
    # of each by itself where each has a part to train on.
    units: Units | None = None
    # What each series is, to be told at its end: a class or a number; the same in all of its rows.
    # Then there is no target, and inputs are, unless named, every column of numbers left.
    label: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dialect, dict):  # as JSON gives it back
            object.__setattr__(self, "dialect", Dialect(**self.dialect))
        require_kind("dialect", self.dialect, Dialect, "bptt.Dialect(...)")
        self._require_names()
        require_flag("difference", self.difference)
        if self.fill is not None:
            require_choice("fill", self.fill, ("previous", "linear"))
        require_whole("longest_gap", self.longest_gap, 1)
        self._require_time_for("time_format", "time_zone", "calendar")
        self._require_series_for()
        if self.time_zone is not None:
            require_zone(self.time_zone)
        share: object = self.validation_share
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise BpttError(f"validation_share is {share!r}; expected a number between 0 and 1")

    def _require_names(self) -> None:
        """Raise BpttError unless each column has one role; make tuples of the names."""
        for role in ("target", "inputs", "categories"):
            names = getattr(self, role)
            if not isinstance(names, str):
                require_several(role, names, "names of columns")
                for name in names:
                    require_kind(f"a name in {role}", name, str, "a text")
            object.__setattr__(self, role, (names,) if isinstance(names, str) else tuple(names))
        parts: object = self.calendar
        parts = (parts,) if isinstance(parts, str) else parts
        require_several("calendar", parts, f"some of {', '.join(get_args(CalendarPart))}")
        assert isinstance(parts, Iterable)
        parts = tuple(parts)
        for part in parts:
            require_choice("calendar", part, get_args(CalendarPart))
        if len(set(parts)) < len(parts):
            raise BpttError(f"calendar is {', '.join(parts)}; expected each once")
        object.__setattr__(self, "calendar", parts)
        for name in ("time", "time_format", "time_zone", "series", "label"):
            require_kind(name, getattr(self, name), (str, NoneType), "a text, or None")
        roles: dict[str, str] = {}
        for name, role in self.roles:
            if name in roles:
                raise BpttError(f"{name!r} is both {roles[name]} and {role}; name it only once")
            roles[name] = role

    def _require_time_for(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, ()) and self.time is None:
                flag = name.replace("_", "-")
                raise BpttError(
                    f"{name} (--{flag}) is given without a column of times; name it with time "
                    "(--time)"
                )

    def _require_series_for(self) -> None:
        """Raise BpttError if what is for several series is given without, or does not fit."""
        for name, choices in (("validation_by", HeldOut), ("units", Units)):
            if getattr(self, name) is not None:
                require_choice(name, getattr(self, name), get_args(choices))
        if self.series is None and (self.validation_by or self.units or self.label):
            raise BpttError(
                "validation_by, units and label (--validation-by, --units, --label) are for "
                "several series; name the column that tells them apart with series (--series)"
            )
        if self.label is not None and (self.target or self.difference):
            raise BpttError(
                f"label is {self.label!r}, and so there is no target; expected none, and no "
                "difference of one (--target, --difference)"
            )
        if self.label is not None and self.validation_by == "time":
            raise BpttError(
                f"label is {self.label!r}, of series as a whole; expected validation_by "
                '"series" (--validation-by), as it is by default'
            )
        if self.held_out_by == "series" and self.units == "series":
            raise BpttError(
                'units is "series", but of series that are held out whole there is no part to '
                'measure; expected "common" (--units), or validation_by "time"'
            )

    @property
    def held_out_by(self) -> HeldOut:
        """What is held out of several series."""
        return self.validation_by or ("time" if self.label is None else "series")

    @property
    def units_of_each(self) -> bool:
        """Whether each of several series is in units of its own."""
        return self.series is not None and self.units != "common" and self.held_out_by == "time"

    @property
    def lost(self) -> int:
        """How many rows of a series differencing costs."""
        return int(self.difference)

    @property
    def unnamed(self) -> Literal["target", "inputs"] | None:
        """What every column of numbers is that is left over, if that is anything."""
        if self.label is not None:
            return None if self.inputs or self.categories else "inputs"
        return None if self.target else "target"

    def with_numbers(self, names: tuple[str, ...]) -> Columns:
        """Return the same with the columns of numbers that are left over."""
        return replace(self, target=names) if self.label is None else replace(self, inputs=names)

    @property
    def roles(self) -> list[tuple[str, str]]:
        """Each column that is named, and what for."""
        time = () if self.time is None else (self.time,)
        # A series may be a category of itself.
        series = (self.series,) if self.series and self.series not in self.categories else ()
        label = () if self.label is None else (self.label,)
        named = {
            "target": self.target,
            "inputs": self.inputs,
            "categories": self.categories,
            "time": time,
            "series": series,
            "label": label,
        }
        return [(name, role) for role, names in named.items() for name in names]
