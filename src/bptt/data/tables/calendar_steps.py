"""The step of a series: how far apart its rows are, by which calendar, and how it goes on.

A calendar numbers its dates: month 0, 1, 2, … or working day 0, 1, 2, …. A series steps by `count`
of them where the numbers of all its rows are whole multiples of `count` apart. The calendar in
which the fewest steps are missing is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from bptt.data.tables.clock import Clock
from bptt.errors import BpttError

MIDNIGHT = np.timedelta64(0, "us")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
END = 31
PERIODS = ((12, "year"), (3, "quarter"), (1, "month"))
LONG_AGO, TOO_LATE = np.datetime64("0001-01-01"), np.datetime64("10000-01-01")
UNITS = (
    ("day", 86_400_000_000_000),
    ("hour", 3_600_000_000_000),
    ("minute", 60_000_000_000),
    ("second", 1_000_000_000),
    ("millisecond", 1_000_000),
    ("microsecond", 1_000),
    ("nanosecond", 1),
)


def require_dates(ahead: np.ndarray) -> None:
    """Raise BpttError if times that should rise go beyond the years that dates are written with."""
    if ahead[-1] >= TOO_LATE or (ahead[1:] <= ahead[:-1]).any():  # they may overflow
        right = (ahead < TOO_LATE) & np.concatenate([[True], ahead[1:] > ahead[:-1]])
        raise BpttError(
            f"{len(ahead)} steps ahead end after the year 9999; expected at most "
            f"{int(right.argmin())} (--steps)"
        )


@dataclass(frozen=True)
class Spacing(ABC):
    """A step of `count` dates of a calendar."""

    clock: Clock
    count: int = 1

    @classmethod
    @abstractmethod
    def of(cls, times: np.ndarray, clock: Clock) -> Spacing | None:
        """Return the calendar with `count` 1 if all the times are dates of it."""

    @abstractmethod
    def number(self, times: np.ndarray) -> np.ndarray:
        """Return which dates of the calendar the times are, int64."""

    @abstractmethod
    def time(self, numbers: np.ndarray) -> np.ndarray:
        """Return the times of dates by their numbers."""

    @abstractmethod
    def __str__(self) -> str:
        """Say how far apart the rows are."""

    def after(self, last: np.generic, steps: int) -> np.ndarray:
        """Return the times of the steps that follow the last one."""
        start = self.number(np.array([last]))
        ahead = self.time(start + self.count * np.arange(1, steps + 1)).astype(last.dtype)
        if ahead.dtype.kind == "M":
            require_dates(ahead)
        return ahead

    def positions(self, times: np.ndarray) -> np.ndarray:
        """Return at which step each row stands, counted from the first."""
        numbers = self.number(times)
        return np.asarray((numbers - numbers[0]) // self.count)


@dataclass(frozen=True)
class Months(Spacing):
    """The same day of every month, or its last; 31 stands for the last."""

    day: int = END
    time_of_day: np.timedelta64 = MIDNIGHT

    @classmethod
    def of(cls, times: np.ndarray, clock: Clock) -> Months | None:
        """Find the day of the month."""
        wall = clock.wall(times).astype("M8[us]")
        days = wall.astype("M8[D]")
        one_day = int((days - days.astype("M8[M]")).astype(int).max()) + 1
        for day in (END, one_day):
            calendar = cls(clock, day=day, time_of_day=(wall - days)[0])
            if np.array_equal(calendar.time(calendar.number(times)), times.astype("M8[us]")):
                return calendar
        return None

    def number(self, times: np.ndarray) -> np.ndarray:
        """Count the months."""
        return self.clock.wall(times).astype("M8[M]").astype(np.int64)

    def time(self, numbers: np.ndarray) -> np.ndarray:
        """Take the day of the month, or the last there is."""
        first = numbers.astype("M8[M]").astype("M8[D]")
        last = (numbers + 1).astype("M8[M]").astype("M8[D]") - 1
        day = np.minimum(first + (self.day - 1), last).astype("M8[us]")
        return self.clock.instants(day + self.time_of_day)

    def __str__(self) -> str:
        count, unit = next((self.count // n, u) for n, u in PERIODS if self.count % n == 0)
        return (
            f"{_every(count, unit)}, on {'the last day' if self.day == END else f'day {self.day}'}"
        )


@dataclass(frozen=True)
class Days(Spacing):
    """The same time of every day on which the series has rows, by the clock on the wall."""

    weekdays: tuple[bool, ...] = (True,) * 7
    time_of_day: np.timedelta64 = MIDNIGHT

    @classmethod
    def of(cls, times: np.ndarray, clock: Clock) -> Days | None:
        """Find the time of day."""
        wall = clock.wall(times).astype("M8[us]")
        calendar = cls(clock, time_of_day=(wall - wall.astype("M8[D]"))[0])
        is_right = np.array_equal(calendar.time(calendar.number(times)), times.astype("M8[us]"))
        return calendar if is_right else None

    def number(self, times: np.ndarray) -> np.ndarray:
        """Count the days on which there can be rows."""
        days = self.clock.wall(times).astype("M8[D]")
        if all(self.weekdays):
            return days.astype(np.int64)
        return np.asarray(np.busday_count(LONG_AGO, days, weekmask=self.weekdays))

    def time(self, numbers: np.ndarray) -> np.ndarray:
        """Put the time of day on the days."""
        days = numbers.astype("M8[D]")
        if not all(self.weekdays):
            first = np.busday_offset(LONG_AGO, 0, "forward", weekmask=self.weekdays)
            days = np.busday_offset(first, numbers, weekmask=self.weekdays)
        return self.clock.instants(days.astype("M8[us]") + self.time_of_day)

    def __str__(self) -> str:
        if all(self.weekdays):
            return _every(
                *((self.count // 7, "week") if self.count % 7 == 0 else (self.count, "day"))
            )
        names = [name for name, is_in in zip(WEEKDAYS, self.weekdays, strict=True) if is_in]
        if names == list(WEEKDAYS[:5]):
            return _every(self.count, "business day")
        return f"{_every(self.count, 'day')} of {', '.join(names)}"


def weekdays_of(times: np.ndarray, clock: Clock) -> list[Spacing]:
    """Return the calendars of some days of the week that have all the rows.

    Monday to Friday is taken from few rows; another choice of days, where each comes three times.
    """
    days = Days.of(times, clock)
    if days is None:
        return []
    of_week = (clock.wall(times).astype("M8[D]").astype(np.int64) + 3) % 7
    counts = np.bincount(of_week, minlength=7)
    masks = [] if counts[5:].any() else [(True,) * 5 + (False,) * 2]
    if counts[counts > 0].min() >= 3 and not counts.all():
        masks.append(tuple((counts > 0).tolist()))
    return [replace(days, weekdays=mask) for mask in masks]


@dataclass(frozen=True)
class Durations(Spacing):
    """A fixed time, whatever the clock shows; `count` is in the unit of the times."""

    unit: str = "us"

    @classmethod
    def of(cls, times: np.ndarray, clock: Clock) -> Durations:
        """Every time will do."""
        return cls(clock, unit=np.datetime_data(times.dtype)[0])

    def number(self, times: np.ndarray) -> np.ndarray:
        """Count in the unit of the times."""
        return times.astype(f"M8[{self.unit}]").astype(np.int64)

    def time(self, numbers: np.ndarray) -> np.ndarray:
        """Return what was counted."""
        return numbers.astype(f"M8[{self.unit}]")

    def __str__(self) -> str:
        size = int(np.timedelta64(self.count, self.unit).astype("m8[ns]").astype(int))  # type: ignore[call-overload]
        name, worth = next((name, worth) for name, worth in UNITS if size % worth == 0)
        return _every(size // worth, name)


@dataclass(frozen=True)
class Numbers(Spacing):
    """Numbers that are evenly spaced, to within what rounding does."""

    first: float = 0.0
    size: float = 1.0

    @classmethod
    def of(cls, times: np.ndarray, clock: Clock) -> Numbers | None:
        """Take the smallest difference, made exact by the whole span."""
        smallest, span = float(np.diff(times).min()), float(times[-1] - times[0])
        size = span / round(span / smallest)
        calendar = cls(clock, first=float(times[0]), size=size)
        off = np.abs(times - calendar.time(calendar.number(times))).max()
        return calendar if off <= 1e-3 * size else None

    def number(self, times: np.ndarray) -> np.ndarray:
        """Count from the first one."""
        return np.rint((times - self.first) / self.size).astype(np.int64)

    def time(self, numbers: np.ndarray) -> np.ndarray:
        """Count on from the first one."""
        return np.asarray(self.first + self.size * numbers)

    def __str__(self) -> str:
        return f"in steps of {self.count * self.size:.6g}"


def step_of(times: np.ndarray, clock: Clock) -> Spacing | None:
    """Return the step of rising times (N,), or None if they have none, or less than half of it.

    times: float64, or datetime64 in UTC if the clock has a zone.
    """
    if len(times) < 2:
        return None
    calendars: list[Spacing | None]
    if times.dtype.kind == "M":
        of_days = [Months.of(times, clock), Days.of(times, clock), *weekdays_of(times, clock)]
        calendars = [*of_days, Durations.of(times, clock)]
    else:
        calendars = [Numbers.of(times, clock)]
    best, fewest = None, len(times) + 1
    for calendar in calendars:
        if calendar is not None and (step := _with_count(calendar, times)) is not None:
            missing = int(step.positions(times[[0, -1]])[-1]) + 1 - len(times)
            if missing < fewest:
                best, fewest = step, missing
    return best


def season_of(step: Spacing | None) -> int:
    """Return how many steps make a season: a year of months, a week of days, a day of hours.

    It is 1 where there is none.
    """
    if isinstance(step, Months):
        return 12 // step.count if 12 % step.count == 0 else 1
    if isinstance(step, Days):
        return sum(step.weekdays) if step.count == 1 else 1
    if isinstance(step, Durations):
        size = np.timedelta64(step.count, step.unit)  # type: ignore[call-overload]
        day, is_part = np.timedelta64(1, "D"), np.timedelta64(1, "D") % size == 0
        return int(day // size) if is_part and size < day else 1
    return 1


def _with_count(calendar: Spacing, times: np.ndarray) -> Spacing | None:
    """Return the calendar with the step that most rows have, if all fit it."""
    gaps = np.diff(calendar.number(times))
    sizes, counts = np.unique(gaps, return_counts=True)
    count = int(sizes[counts.argmax()])
    fits = count > 0 and not (sizes % count).any()
    return replace(calendar, count=count) if fits else None


def typical_gap(times: np.ndarray) -> np.generic:
    """Return the median distance between neighbouring times."""
    gap: np.generic = np.sort(np.diff(times))[(len(times) - 1) // 2]
    return gap


def _every(count: int, unit: str) -> str:
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"
