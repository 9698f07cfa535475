"""Times as tables write them, and how their calendars go on."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from bptt.data.tables.columns import Columns
from bptt.data.tables.table import Table
from bptt.data.tables.table_reader import read_table
from bptt.errors import BpttError
from bptt.forecasting.steps_ahead import steps_ahead


def table_of(folder: Path, times: list[str], **columns: object) -> Table:
    rows = "".join(f'"{time}",{k * k % 7}\n' for k, time in enumerate(times))
    (folder / "t.csv").write_text("day,v\n" + rows)
    options = {"time": "day", "validation_share": 0.4} | columns
    return read_table(folder / "t.csv", Columns(**options))  # type: ignore[arg-type]


# One line a format: how three months, days or hours are written, and what comes next.
WRITTEN = [
    (["1949-01", "1949-02", "1949-03"], "1949-04"),
    (["2020Q2", "2020Q3", "2020Q4"], "2021Q1"),
    (["Q3 2020", "Q4 2020", "Q1 2021"], "Q2 2021"),
    (["Oct-20", "Nov-20", "Dec-20"], "Jan-21"),
    (["October 2020", "November 2020", "December 2020"], "January 2021"),
    (["202010", "202011", "202012"], "202101"),
    (["20200227", "20200228", "20200229"], "20200301"),
    (["01 Jan 2023", "02 Jan 2023", "03 Jan 2023"], "04 Jan 2023"),
    (["Jan 30, 2023", "Jan 31, 2023", "Feb 01, 2023"], "Feb 02, 2023"),
    (["31/01/2020", "29/02/2020", "31/03/2020"], "30/04/2020"),
    (["02/28/2020", "02/29/2020", "03/01/2020"], "03/02/2020"),
    (["30.12.2020", "31.12.2020", "01.01.2021"], "02.01.2021"),
    (["2020/12/30", "2020/12/31", "2021/01/01"], "2021/01/02"),
    (["2020-W52", "2020-W53", "2021-W01"], "2021-W02"),
    (["12/31/2020 10:00 PM", "12/31/2020 11:00 PM", "01/01/2021 12:00 AM"], "01/01/2021 01:00 AM"),
    (["2020-01-01 10:45", "2020-01-01 11:00", "2020-01-01 11:15"], "2020-01-01 11:30"),
    (
        ["2020-01-01T10:00:00Z", "2020-01-01T11:00:00Z", "2020-01-01T12:00:00Z"],
        "2020-01-01T13:00:00Z",
    ),
    (
        [f"2020-01-0{k}T00:00:00+05:30" for k in (1, 2, 3)],
        "2020-01-04T00:00:00+05:30",
    ),
    (["2018-12-31", "2019-12-31", "2020-12-31"], "2021-12-31"),
    (["1700.5", "1701.5", "1702.5"], "1703.5"),
    (["1577836800", "1577840400", "1577844000"], "1577847600"),
]


@pytest.mark.parametrize(("times", "following"), WRITTEN)
def test_a_forecast_is_dated_as_the_column_is(
    tmp_path: Path, times: list[str], following: str
) -> None:
    table = table_of(tmp_path, times)
    assert table.times is not None
    assert table.clock.write(table.times) == times
    assert steps_ahead(table, 1, None)[0].labels == [following]


STARTS = [datetime(2019, 12, 1), datetime(1960, 2, 29)]
CALENDARS = ["1mo", "1q", "1y", "1w", "1d", "3d", "1h", "15m"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("every", CALENDARS)
def test_24_steps_later_is_where_the_calendar_is(
    tmp_path: Path, start: datetime, every: str
) -> None:
    """The calendar of polars says what follows."""
    origin = start.replace(day=1)
    offsets = (
        [
            pl.Series([origin]).dt.offset_by(
                f"{k * int(every[:-2] or every[0])}{every.lstrip('0123456789')}"
            )[0]
            for k in range(48)
        ]
        if every[-1] in "oqy"
        else pl.datetime_range(origin, origin + timedelta(days=900), every, eager=True)[
            :48
        ].to_list()
    )
    written = [time.isoformat(" ") for time in offsets]
    table = table_of(tmp_path, written[:24])
    assert steps_ahead(table, 24, None)[0].labels == written[24:]


def test_month_ends_stay_month_ends(tmp_path: Path) -> None:
    ends = (np.arange("2018-02", "2022-02", dtype="M8[M]").astype("M8[D]") - 1).astype(str).tolist()
    assert steps_ahead(table_of(tmp_path, ends[:24]), 24, None)[0].labels == ends[24:]


@pytest.mark.parametrize("mask", ["1111100", "1111110", "1010100"])
def test_days_of_the_week_are_kept(tmp_path: Path, mask: str) -> None:
    days = np.arange("2024-01-01", "2024-06-01", dtype="M8[D]")
    days = days[np.is_busday(days, weekmask=mask)].astype(str)
    table = table_of(tmp_path, days[:30].tolist())
    assert steps_ahead(table, 20, None)[0].labels == days[30:50].tolist()
    assert not any("missing" in line for line in table.about)


@pytest.mark.parametrize("without", range(5))
def test_a_weekday_that_never_comes_is_no_gap(tmp_path: Path, without: int) -> None:
    """Three weeks without one show no more; once it comes, the other times are missing."""
    days = np.arange("2024-01-01", "2024-03-01", dtype="M8[D]")
    days = days[np.is_busday(days)]
    others = days[np.arange(len(days)) % 5 != without].astype(str)
    table = table_of(tmp_path, others[:12].tolist())
    assert steps_ahead(table, 12, None)[0].labels == others[12:24].tolist()
    assert not any("missing" in line for line in table.about)
    once = np.sort(np.append(others[:16], days[15 + without].astype(str)))
    table = table_of(tmp_path, once.tolist())
    assert steps_ahead(table, 12, None)[0].labels == days[20:32].astype(str).tolist()
    count = 3 if without else 2  # the first Monday would come before the first row
    assert any(f"{count} steps are missing" in line for line in table.about)


@pytest.mark.parametrize(("month", "zone"), [(3, "Europe/Berlin"), (10, "America/New_York")])
def test_days_keep_their_hour_when_clocks_change(tmp_path: Path, month: int, zone: str) -> None:
    start = datetime(2024, month, 20, 8, tzinfo=ZoneInfo(zone))
    days = [(start + timedelta(days=k)).isoformat() for k in range(40)]
    table = table_of(tmp_path, days[:8], time_zone=zone)
    assert steps_ahead(table, 32, None)[0].labels == days[8:]
    naive = [day[:19] for day in days]
    assert (
        steps_ahead(table_of(tmp_path, naive[:8], time_zone=zone), 32, None)[0].labels == naive[8:]
    )


def test_an_hour_that_comes_twice_is_told_apart(tmp_path: Path) -> None:
    hours = pl.datetime_range(
        datetime(2024, 10, 26, 20), datetime(2024, 10, 27, 4), "30m", eager=True
    )
    local = hours.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    written = local.dt.to_string("%Y-%m-%d %H:%M").to_list()
    with pytest.raises(BpttError, match="--time-zone tells apart an hour that comes twice"):
        table_of(tmp_path, written)
    table = table_of(tmp_path, written, time_zone="Europe/Berlin")
    assert table.times is not None
    np.testing.assert_array_equal(table.times, hours.to_numpy())
    with pytest.raises(BpttError, match="02:30:00 in row 1, which clocks in Europe/Berlin skip"):
        table_of(
            tmp_path,
            ["2024-03-31 02:30", "2024-03-31 03:30", "2024-03-31 04:30"],
            time_zone="Europe/Berlin",
        )


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%y", "%y/%m/%d", "%m.%d.%Y"])
def test_what_can_be_read_in_two_ways_is_refused_unless_told(tmp_path: Path, form: str) -> None:
    both = [date(2001 + k, 2, 3).strftime(form) for k in range(5)]
    with pytest.raises(
        BpttError, match=r"column 'day' .* ways: .*say which with time_format \(--time-format\)"
    ) as caught:
        table_of(tmp_path, both)
    assert repr(form) in str(caught.value)
    table = table_of(tmp_path, both, time_format=form)
    assert table.times is not None
    assert table.times.astype("M8[D]").tolist() == [date(2001 + k, 2, 3) for k in range(5)]
    one = [date(2020, 1, 1) + timedelta(days=k) for k in range(90)]
    if form.endswith("%Y"):
        table = table_of(tmp_path, [day.strftime(form) for day in one])
        assert table.clock.format == form
        assert table.times is not None
        assert table.times.astype("M8[D]").tolist() == one


def test_what_decides_can_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptt.data.blocks.BLOCK", 3)
    days = ["01/02/2020", "02/02/2020", "03/02/2020", "04/02/2020", "13/02/2020"]
    assert table_of(tmp_path, days).clock.format == "%d/%m/%Y"
    with pytest.raises(BpttError, match="2 ways"):  # they differ in the first rows only
        table_of(tmp_path, [*days[:4], "05/05/2020"])
    mixed = ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03 12:00", "2020-01-04"]
    assert table_of(tmp_path, mixed).clock.format == "iso"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time_format": "%Q"}, "time_format '%Q' .* cannot be used|has text in row"),
        ({"time_zone": "Mars/Base"}, "there is no time zone 'Mars/Base'; expected a name such as"),
        ({"time": None, "time_format": "%Y"}, "is given without a column of times; name it with"),
        ({"longest_gap": 0}, "longest_gap is 0; expected a whole number"),
    ],
)
def test_bad_options(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(BpttError, match=message):
        table_of(tmp_path, ["2020-01-01", "2020-01-02", "2020-01-03"], **columns)


def test_offsets_that_change_want_a_zone(tmp_path: Path) -> None:
    start = datetime(2024, 3, 29, tzinfo=ZoneInfo("Europe/Berlin"))
    table = table_of(tmp_path, [(start + timedelta(days=k)).isoformat() for k in range(6)])
    assert any("--time-zone" in line for line in table.about)
    (ahead,) = steps_ahead(table, 1, None)
    assert "not evenly spaced" in ahead.note
    assert ahead.labels == ["2024-04-03T22:00:00+00:00"]
