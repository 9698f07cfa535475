"""Rows of the future are those of the steps ahead, or are refused; missing steps are said."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

import bptt
from bptt.data.tables.columns import Columns
from bptt.data.tables.table import Table
from bptt.data.tables.table_reader import read_table
from bptt.errors import BpttError
from bptt.forecasting.forecast import forecast
from bptt.forecasting.steps_ahead import steps_ahead

DAYS = [date(2024, 1, 1) + timedelta(days=k) for k in range(20)]


def write(path: Path, days: list[date], form: str = "%Y-%m-%d", first: str = "day") -> Path:
    rows = "".join(f"{day.strftime(form)},{k % 5},{k % 3}\n" for k, day in enumerate(days))
    path.write_text(f"{first},v,u\n" + rows)
    return path


def read(folder: Path, days: list[date], form: str = "%Y-%m-%d", **columns: object) -> Table:
    options = {"target": ("v",), "inputs": ("u",), "time": "day"} | columns
    return read_table(write(folder / "t.csv", days, form), Columns(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d/%m/%Y", "%d.%m.%y"])
def test_rows_of_the_future_are_matched_by_time(tmp_path: Path, form: str) -> None:
    past = [date(2023, 12, 13) + timedelta(days=k) for k in range(20)]  # up to the first of 2024
    table = read(tmp_path, past, form, time_format=form)
    ahead = [past[-1] + timedelta(days=k) for k in range(1, 8)]  # ambiguous by themselves
    for steps in (1, 7):
        (got,) = steps_ahead(table, steps, write(tmp_path / "f.csv", ahead, form))
        assert got.labels == [day.strftime(form) for day in ahead[:steps]]
        assert got.x is not None
        assert table.x_scaling is not None
        values = table.x_scaling.original(got.x)[:, 0]
        np.testing.assert_allclose(values, [k % 3 for k in range(steps)], atol=1e-6)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (range(15, 25), "row 1 of .* is at 2024-01-16; expected 2024-01-21, the first step after"),
        (range(21, 30), "row 1 of .* is at 2024-01-22; expected 2024-01-21, the first step after"),
        ([20, 21, 23, 24], "row 3 of .* is at 2024-01-24; expected 2024-01-23, the step after"),
        ([20, 22, 21, 23], "is 2024-01-22 in row 3, after 2024-01-23 in the row before; sort"),
        ([20, 21, 21, 22], "is 2024-01-22 in row 3, after 2024-01-22 in the row before; sort"),
        ([20, 21], "has 2 rows; expected one for each of 3 steps, up to 2024-01-23"),
    ],
)
def test_a_future_that_does_not_follow_is_refused(
    tmp_path: Path, days: list[int], message: str
) -> None:
    future = write(tmp_path / "f.csv", [DAYS[0] + timedelta(days=k) for k in days])
    with pytest.raises(BpttError, match=message):
        steps_ahead(read(tmp_path, DAYS), 3, future)


def test_a_future_without_an_input_names_it_as_one(tmp_path: Path) -> None:
    table = read(tmp_path, DAYS)
    (tmp_path / "f.csv").write_text("day,w\n2024-01-21,1\n")
    with pytest.raises(BpttError, match=r"f.csv has no column 'u' \(inputs\)"):
        steps_ahead(table, 1, tmp_path / "f.csv")


@pytest.mark.parametrize("days", [DAYS, [DAYS[0], *DAYS[2:9], DAYS[12]], DAYS[::7]])
def test_steps_beyond_the_year_9999_are_refused(tmp_path: Path, days: list[date]) -> None:
    table = read(tmp_path, days, inputs=(), validation_share=0.4)
    with pytest.raises(BpttError, match=r"end after the year 9999; expected at most \d+ \(--st"):
        steps_ahead(table, 3_000_000, None)
    most = (date(9999, 12, 31) - days[-1]).days // (days[1] - days[0]).days
    labels = steps_ahead(table, min(most, 1000), None)[0].labels
    assert labels == sorted(labels)


@pytest.mark.parametrize("wrong", [0, -1, 10**12, 1.5])
def test_numbers_of_steps_that_cannot_be(tmp_path: Path, wrong: int) -> None:
    table = read(tmp_path, DAYS, inputs=())
    net = bptt.Network(table.likelihood, hidden=2)
    with pytest.raises(BpttError, match=r"steps"):
        forecast(net, table, wrong)


def test_a_future_without_its_times_is_refused(tmp_path: Path) -> None:
    table = read(tmp_path, DAYS)
    with pytest.raises(BpttError, match=r"f.csv has no column 'day' \(time\)"):
        steps_ahead(table, 3, write(tmp_path / "f.csv", DAYS[:3], first="when"))
    with pytest.raises(BpttError, match=r"expected a table that has them .*--future"):
        steps_ahead(table, 3, None)


@pytest.mark.parametrize("rows", [2, 4])
def test_without_times_there_are_as_many_rows_as_steps(tmp_path: Path, rows: int) -> None:
    table = read(tmp_path, DAYS, time=None)
    assert steps_ahead(table, 3, write(tmp_path / "f.csv", DAYS[:3]))[0].labels == ["1", "2", "3"]
    with pytest.raises(BpttError, match=f"has {rows} rows; expected one for each of 3 steps"):
        steps_ahead(table, 3, write(tmp_path / "f.csv", DAYS[:rows]))


def test_where_no_step_fits_the_future_says_when(tmp_path: Path) -> None:
    days = [DAYS[k] for k in (0, 1, 4, 5, 7, 11, 12, 19)]
    table = read(tmp_path, days, validation_share=0.3)
    table = (
        read_table(table.path, Columns(("v",), ("u",), "day", validation_share=0.3))
        if table.step is None
        else table
    )
    irregular = [
        date(2024, 1, 1),
        date(2024, 1, 2),
        date(2024, 3, 9),
        date(2024, 3, 13),
        date(2025, 1, 1),
    ]
    table = read(tmp_path, irregular, validation_share=0.3)
    assert table.step is None
    ahead = [date(2025, 1, 4), date(2025, 2, 1)]
    assert steps_ahead(table, 2, write(tmp_path / "f.csv", ahead))[0].labels == [
        "2025-01-04",
        "2025-02-01",
    ]
    with pytest.raises(BpttError, match="is at 2024-12-31; expected times after 2025-01-01"):
        steps_ahead(table, 1, write(tmp_path / "f.csv", [date(2024, 12, 31)]))


# Missing steps


def test_missing_steps_are_said_and_filled_only_if_asked(tmp_path: Path) -> None:
    days = [day for k, day in enumerate(DAYS) if k not in (3, 8, 9)]
    table = read(tmp_path, days)
    assert len(table.y) == 17
    [line] = [line for line in table.about if "missing" in line]
    assert line.startswith("3 steps are missing, the first after 2024-01-03;")
    assert "--fill puts them in" in line
    assert steps_ahead(read(tmp_path, days, inputs=()), 1, None)[0].labels == ["2024-01-21"]
    table = read(tmp_path, days, fill="linear")
    assert table.times is not None
    assert table.times.astype("M8[D]").tolist() == DAYS
    assert table.levels[7:11, 0].tolist() == pytest.approx([1, 4 / 3, 5 / 3, 2])
    text = "\n".join(table.about)
    assert "filled: 3 missing steps" in text
    assert "filled: 3 values of v, the longest gap 2 rows, from row 9 on" in text


def test_a_gap_longer_than_allowed_is_refused(tmp_path: Path) -> None:
    days = [day for k, day in enumerate(DAYS) if k not in range(5, 10)]
    message = r"5 steps on end are missing in .*t.csv, after 2024-01-05; .*--longest-gap 5"
    with pytest.raises(BpttError, match=message):
        read(tmp_path, days, fill="previous", longest_gap=4)
    assert len(read(tmp_path, days, fill="previous", longest_gap=5).y) == 20
    rows = "".join(f"{k},{'' if 3 <= k < 8 else k % 4}\n" for k in range(20))
    (tmp_path / "v.csv").write_text("day,v\n" + rows)
    columns = {"target": ("v",), "fill": "linear"}
    message = r"column 'v' of .* has a gap of 5 rows, from row 4 on; .*--longest-gap 5"
    with pytest.raises(BpttError, match=message):
        read_table(tmp_path / "v.csv", Columns(**columns, longest_gap=4))  # type: ignore[arg-type]
    read_table(tmp_path / "v.csv", Columns(**columns, longest_gap=5))  # type: ignore[arg-type]
