"""Which columns of a table are what, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

from bptt.errors import (
    BpttError,
    require_choice,
    require_flag,
    require_kind,
    require_several,
    require_whole,
)
from bptt.training.clock import require_zone
from bptt.training.csv_dialect import Dialect
from bptt.training.gaps import Fill
from bptt.training.settings import DEFAULT_WINDOW

UNKNOWN = Dialect()


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
    longest_gap: int = DEFAULT_WINDOW  # how many rows on end may be filled
    difference: bool = False  # model yᵗ − yᵗ⁻¹, for series with a trend; costs the first row
    validation_share: float = 0.1  # how much of the table, at its end, is not to train on
    dialect: Dialect = UNKNOWN  # of a .csv or .tsv file

    def __post_init__(self) -> None:
        if isinstance(self.dialect, dict):  # as JSON gives it back
            object.__setattr__(self, "dialect", Dialect(**self.dialect))
        require_kind("dialect", self.dialect, Dialect, "bptt.Dialect(...)")
        self._require_names()
        require_flag("difference", self.difference)
        if self.fill is not None:
            require_choice("fill", self.fill, ("previous", "linear"))
        require_whole("longest_gap", self.longest_gap, 1)
        self._require_time_for("time_format", "time_zone")
        if self.time_zone is not None:
            require_zone(self.time_zone)
        share: object = self.validation_share
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise BpttError(f"validation_share is {share!r}; expected a number between 0 and 1")

    def _require_names(self) -> None:
        """Raise BpttError unless each column has one role; make tuples of the names."""
        for role in ("target", "inputs"):
            names = getattr(self, role)
            if not isinstance(names, str):
                require_several(role, names, "names of columns")
                for name in names:
                    require_kind(f"a name in {role}", name, str, "a text")
            object.__setattr__(self, role, (names,) if isinstance(names, str) else tuple(names))
        for name in ("time", "time_format", "time_zone"):
            require_kind(name, getattr(self, name), (str, NoneType), "a text, or None")
        roles: dict[str, str] = {}
        for name, role in self.roles:
            if name in roles:
                raise BpttError(f"{name!r} is both {roles[name]} and {role}; name it only once")
            roles[name] = role

    def _require_time_for(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and self.time is None:
                flag = name.replace("_", "-")
                raise BpttError(
                    f"{name} (--{flag}) is given without a column of times; name it with time "
                    "(--time)"
                )

    @property
    def roles(self) -> list[tuple[str, str]]:
        """Each column that is named, and what for."""
        time = () if self.time is None else (self.time,)
        named = {"target": self.target, "inputs": self.inputs, "time": time}
        return [(name, role) for role, names in named.items() for name in names]
