"""What a clock on the wall shows at an instant, in a time zone, and how that is written."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from bptt.data.tables.times import IN_UTC, MIXED, OFFSET
from bptt.errors import BpttError

AN_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})")


@dataclass(frozen=True)
class Clock:
    """How the times of a table are written.

    format: of a column of text, as in times.py. zone: an IANA name, or an offset such as "+02:00".
    is_aware: whether a time tells its zone, as text or by the column's type.
    """

    format: str | None = None
    zone: str | None = None
    is_aware: bool = False

    def wall(self, times: np.ndarray) -> np.ndarray:
        """Return datetime64 in UTC as what the clock shows; without a zone, as it is."""
        return to_wall(times, self.zone)

    def instants(self, wall: np.ndarray) -> np.ndarray:
        """Return what the clock shows as datetime64 in UTC; without a zone, as it is."""
        return to_instants(wall, self.zone)

    def write(self, times: np.ndarray) -> list[str]:
        """Return times as the column writes them, or as ISO 8601 if it holds no text."""
        if times.dtype.kind != "M":
            return [f"{time:.15g}" for time in times]
        if self.format is not None and self.format not in MIXED:
            return self._by_format(times, self.format)
        wall = self.wall(times)
        is_fine = wall.dtype == "M8[us]"  # isoformat leaves out a fraction of nothing
        texts = [t.isoformat() for t in wall.tolist()] if is_fine else np.datetime_as_string(wall)
        offsets = self._offsets(times) if self.is_aware else [""] * len(times)
        return [text + offset for text, offset in zip(texts, offsets, strict=True)]

    def _by_format(self, times: np.ndarray, form: str) -> list[str]:
        import polars as pl  # noqa: PLC0415

        wall = self.wall(times).astype("M8[us]")
        marked = OFFSET.sub("\0", form).replace("%q", "\1")
        texts = pl.Series(wall).dt.to_string(marked).to_list()
        quarters = (wall.astype("M8[M]").astype(int) % 12) // 3 + 1
        offsets = self._offsets(times)
        directive = OFFSET.search(form)
        if directive is not None and directive[0] == "%z":
            offsets = [offset.replace(":", "") for offset in offsets]
        if directive is not None and directive[0] == "%#z":
            offsets = [offset.removesuffix(":00") for offset in offsets]
        parts = zip(texts, offsets, quarters, strict=True)
        return [text.replace("\0", off).replace("\1", str(quarter)) for text, off, quarter in parts]

    def _offsets(self, times: np.ndarray) -> list[str]:
        """Return how far the clock is from UTC at each time, such as "+02:00"."""
        minutes = (self.wall(times) - times).astype("m8[m]").astype(int).tolist()
        return [f"{'-' if m < 0 else '+'}{abs(m) // 60:02d}:{abs(m) % 60:02d}" for m in minutes]


def clock_of(form: str | None, offsets: set[str], asked: str | None) -> Clock:
    """Return the clock of a column of text; asked: the zone that the user named."""
    is_aware = bool(offsets)
    only = next(iter(offsets)) if len(offsets) == 1 else None
    if form is not None and IN_UTC.search(form) and asked is None:
        return Clock(form, "UTC", is_aware)
    return Clock(form, asked or only, is_aware)


def require_zone(zone: str) -> None:
    """Raise BpttError unless there is such a time zone."""
    if AN_OFFSET.fullmatch(zone):
        return
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BpttError(
            f"there is no time zone {zone!r}; expected a name such as 'Europe/Berlin', or an "
            "offset such as '+02:00'"
        ) from None


def to_wall(times: np.ndarray, zone: str | None) -> np.ndarray:
    """Return datetime64 in UTC as what a clock of the zone shows.

    >>> to_wall(np.array(["2026-07-01T12:00"], "M8[us]"), "Europe/Berlin").astype("M8[h]")
    array(['2026-07-01T14'], dtype='datetime64[h]')
    """
    if zone is None or times.dtype.kind != "M":
        return times
    if offset := AN_OFFSET.fullmatch(zone):
        return np.asarray(times + _duration(offset))
    import polars as pl  # noqa: PLC0415

    shown = pl.Series(times).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return shown.dt.replace_time_zone(None).to_numpy().astype(times.dtype)


def to_instants(wall: np.ndarray, zone: str | None) -> np.ndarray:
    """Return what a clock shows as datetime64 in UTC.

    Of an hour that comes twice it is the first; one that is skipped counts on from before it.
    """
    if zone is None or wall.dtype.kind != "M":
        return wall
    if offset := AN_OFFSET.fullmatch(zone):
        return np.asarray(wall - _duration(offset))
    times = _instants(wall, zone, "earliest")
    for k in np.flatnonzero(np.isnat(times)):
        shown: datetime = wall[k].astype("M8[us]").item()
        instant = shown.replace(tzinfo=zoneinfo.ZoneInfo(zone)).astimezone(UTC)
        times[k] = np.datetime64(instant.replace(tzinfo=None))
    return times


def rising_instants(wall: np.ndarray, zone: str) -> np.ndarray:
    """Return what a clock shows, from row to row, as datetime64 in UTC; NaT where it never does.

    Where an hour comes twice, the rows say which it is, since times rise.
    """
    if AN_OFFSET.fullmatch(zone):
        return to_instants(wall, zone)
    times, later = (_instants(wall, zone, which) for which in ("earliest", "latest"))
    for k in np.flatnonzero(times != later):
        if k > 0 and times[k] <= times[k - 1]:
            times[k] = later[k]
    return times


def _instants(wall: np.ndarray, zone: str, which: str) -> np.ndarray:
    import polars as pl  # noqa: PLC0415

    shown = pl.Series(wall).dt.replace_time_zone(
        zone,
        ambiguous=which,  # type: ignore[arg-type]
        non_existent="null",
    )
    instants = shown.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return np.array(instants.to_numpy(), wall.dtype)


def _duration(offset: re.Match[str]) -> np.timedelta64:
    minutes = 60 * int(offset[2]) + int(offset[3])
    return np.timedelta64(-minutes if offset[1] == "-" else minutes, "m")
