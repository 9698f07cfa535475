"""Tables as series of numbers."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.data import blocks
from bptt.data.scaling import Scaling
from bptt.data.tables.columns import Columns
from bptt.data.tables.measures import Measures
from bptt.data.tables.table import Table
from bptt.data.tables.table_reader import read_table
from bptt.errors import BpttError
from bptt.training.runs.plain_values import as_dataclass

Write = Callable[..., Path]
SQUARES = [float(k * k) for k in range(20)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes | dict[str, Any], name: str = "t.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, dict):
            frame = pl.DataFrame(content, strict=False)
            save = frame.write_parquet if path.suffix == ".parquet" else frame.write_csv
            save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def csv(header: str, *rows: str) -> str:
    return "\n".join((header, *rows)) + "\n"


def refuse(path: Path, message: str, **columns: Any) -> None:
    """Check that the table is refused with just this message, in which {t} is its path."""
    with pytest.raises(BpttError) as caught:
        read_table(path, Columns(**({"validation_share": 0.3} | columns)))
    assert str(caught.value) == message.replace("{t}", str(path))
    assert "\n" not in str(caught.value)


def one_column(write: Write, values: Sequence[object], **columns: Any) -> Table:
    path = write(csv("a,b", *(f"{value},x" for value in values)))
    return read_table(path, Columns(target=("a",), **({"validation_share": 0.3} | columns)))


# What comes out


def test_a_table_is_split_standardised_and_kept(write: Write) -> None:
    path = write({"u": SQUARES[::-1], "a": SQUARES, "t": list(range(20)), "s": ["x"] * 20})
    table = read_table(path, Columns(inputs=("u",), time="t"))
    assert table.columns.roles == [("a", "target"), ("u", "inputs"), ("t", "time")]
    assert table.cut == 18
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.y.dtype == np.float32
    assert table.y.flags.c_contiguous
    assert table.y.flags.writeable
    training = np.array(SQUARES[:18])
    expected = (np.array(SQUARES) - training.mean()) / training.std()
    np.testing.assert_allclose(table.y[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(table.levels[:, 0], SQUARES)
    assert table.times is not None
    np.testing.assert_array_equal(table.times, range(20))
    assert table.x is not None
    assert table.x.dtype == np.float32
    part = np.array(SQUARES[::-1])[:18]
    np.testing.assert_allclose(
        table.x[:, 0], (np.array(SQUARES[::-1]) - part.mean()) / part.std(), rtol=1e-5
    )
    np.testing.assert_array_equal(table.first_level, [0.0])


def test_without_names_the_target_is_every_column_of_numbers(write: Write) -> None:
    content = {
        "day": [date(2026, 1, k) for k in (1, 2, 3, 4)],
        "name": ["a", "b", "c", "d"],
        "on": [True, False, False, True],
        "whole": [1, 2, 4, 8],
        "half": [0.5, 1.5, 0.5, 2.5],
    }
    for name in ("t.csv", "t.parquet"):
        table = read_table(write(content, name), Columns(validation_share=0.3))
        assert table.columns.target == ("on", "whole", "half")
        assert table.levels.tolist() == [[1, 1, 0.5], [0, 2, 1.5], [0, 4, 0.5], [1, 8, 2.5]]
        assert table.times is None
        assert table.x is None
        assert table.x_scaling is None


def test_differences_cost_the_first_row_of_everything(write: Write) -> None:
    path = write({"a": [3.0, 4, 6, 9, 13, 18], "u": [0.0, 1, 5, 2, 2, 7], "t": range(6)})
    columns = Columns(("a",), ("u",), "t", difference=True, validation_share=0.4)
    table = read_table(path, columns)
    assert (table.cut, len(table.y), table.first_level.tolist()) == (3, 5, [3.0])
    assert table.y_scaling.mean == (2.0,)  # of 1, 2, 3; the differences 4 and 5 are validation
    assert table.y_scaling.scale == pytest.approx([math.sqrt(2 / 3)])
    assert table.levels[:, 0].tolist() == [4, 6, 9, 13, 18]
    assert table.x_scaling is not None
    assert table.x_scaling.mean == pytest.approx([8 / 3])  # of 1, 5, 2: x is not differenced
    assert table.times is not None
    assert table.times.tolist() == [1, 2, 3, 4, 5]


@given(
    st.integers(1, 3).flatmap(
        lambda d: st.lists(
            st.lists(st.integers(-1000, 1000), min_size=d, max_size=d), min_size=8, max_size=30
        )
    ),
    st.booleans(),
)
def test_restore_gives_the_levels_back(rows: list[list[int]], difference: bool) -> None:
    d = len(rows[0])
    rows = [*([k * k] * d for k in range(4)), *rows]  # neither constant nor a straight line
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_text(csv(",".join("abc"[:d]), *(",".join(map(str, row)) for row in rows)))
        table = read_table(path, Columns(difference=difference))
    np.testing.assert_array_equal(table.levels, np.array(rows[difference:], float))
    (series,) = table.series
    back = series.restore(table.y, 0)
    np.testing.assert_allclose(back, table.levels, atol=0.05)
    tail = series.restore(table.y[5:], 5)  # a forecast begins anywhere
    np.testing.assert_allclose(tail, table.levels[5:], atol=0.05)
    samples = np.stack([table.y[5:], table.y[5:]], axis=1)  # (steps, B, d)
    np.testing.assert_allclose(series.restore(samples, 5)[:, 1], tail, rtol=1e-12, atol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), st.floats(1e-3, 1e3))
def test_a_scaling_goes_there_and_back(values: list[float], scale: float) -> None:
    scaling = Scaling(tuple(values), (scale,) * len(values))
    numbers = np.array([values[::-1], values])
    np.testing.assert_allclose(scaling.original(scaling.standard(numbers)), numbers, atol=1e-6)
    np.testing.assert_array_equal(scaling.standard(numbers)[1], 0)


@pytest.mark.parametrize("difference", [False, True])
def test_statistics_are_of_the_training_part_only(write: Write, difference: bool) -> None:
    columns = Columns(("a",), ("u",), difference=difference, validation_share=0.25)
    y, u = [1.0, 2, 4, 8, 16, 32, 64, 128], [3.0, 1, 4, 1, 5, 9, 2, 6]

    def read(y: list[float], u: list[float]) -> Table:
        return read_table(write({"a": y, "u": u}), columns)

    one, two = read(y, u), read([*y[:7], -1e6], [*u[:7], 1e6])
    assert (one.y_scaling, one.x_scaling) == (two.y_scaling, two.x_scaling)
    assert one.cut == two.cut == 6
    assert one.y[-1] > 0 > two.y[-1]
    last = one.cut - 1 + difference  # the last row that is for training
    assert read([*y[:last], 5.0, *y[last + 1 :]], u).y_scaling != one.y_scaling
    assert read(y, [*u[:last], 5.5, *u[last + 1 :]]).x_scaling != one.x_scaling


def test_large_levels_keep_their_statistics(write: Write) -> None:
    table = one_column(write, [1e9 + k % 2 for k in range(10)], validation_share=0.2)
    assert (table.y_scaling.mean, table.y_scaling.scale) == ((1e9 + 0.5,), (0.5,))
    np.testing.assert_array_equal(table.y[:, 0], [-1, 1] * 5)
    tiny = one_column(write, ["1e-200", "3e-200", "1e-200"], validation_share=0.4)
    assert tiny.y_scaling.scale == pytest.approx([1e-200], rel=1e-12)


def test_the_scaling_of_another_table_is_taken(write: Write) -> None:
    path = write({"a": [10.0, 10, 14], "u": [1.0, 1, 1]})  # constant, which does not matter here
    given_scaling = (Scaling((10.0,), (2.0,)), Scaling((0.0,), (0.5,)))
    columns = Columns(("a",), ("u",), validation_share=0.4)
    table = read_table(path, columns, measures=Measures(*given_scaling))
    assert table.y[:, 0].tolist() == [0, 0, 2]
    assert table.x is not None
    assert table.x[:, 0].tolist() == [2, 2, 2]
    assert (table.y_scaling, table.x_scaling) == given_scaling


@pytest.mark.parametrize("x", [None, Scaling((0.0, 0.0), (1.0, 1.0))])
def test_a_scaling_of_other_columns_is_refused(write: Write, x: Scaling | None) -> None:
    path = write({"a": [10.0, 10, 14], "u": [1.0, 1, 1]})
    columns = Columns(("a",), ("u",), validation_share=0.4)
    message = rf"measures are of 1 target and {2 if x else 0} input columns; .*t\.csv .* 1 and 1: "
    with pytest.raises(BpttError, match=message):
        read_table(path, columns, measures=Measures(Scaling((10.0,), (2.0,)), x))


def test_a_config_goes_through_json(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write({"a": SQUARES, "u": SQUARES[::-1]})
    monkeypatch.chdir(path.parent)
    table = read_table("t.csv", Columns(inputs=("u",), fill="linear"))
    config = table.config()
    assert json.loads(json.dumps(config)) == config
    assert config["path"] == str(path.resolve())
    assert config["sha256"] == table.sha256
    columns = Columns(**config["columns"])
    assert columns == table.columns
    measures = as_dataclass(Measures, config["measures"], "config.json")
    assert measures == Measures(table.y_scaling, table.x_scaling)
    assert read_table(write({"a": SQUARES}), Columns(("a",))).config()["measures"]["x"] is None


def test_one_name_need_not_be_a_tuple() -> None:
    assert Columns(target="load", inputs=["wind"]) == Columns(("load",), ("wind",))  # type: ignore[arg-type]


# Ways to write a table


@pytest.mark.parametrize("difference", [False, True])
def test_parquet_is_read_as_csv_is(write: Write, difference: bool) -> None:
    rng = np.random.default_rng(0)
    content = {
        "a": rng.normal(size=40),
        "b": rng.integers(0, 9, 40),
        "u": rng.random(40) < 0.5,
        "t": [datetime(2026, 1, 1, hour, minute) for hour in range(20) for minute in (0, 30)],
    }
    columns = Columns(inputs=("u",), time="t", difference=difference)
    one, two = (read_table(write(content, f"t.{kind}"), columns) for kind in ("csv", "parquet"))
    for name in ("y", "x", "levels", "first_level", "times"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.y_scaling, one.cut) == (two.y_scaling, two.cut)
    assert one.columns.target == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,x\n2,y\n4,z\n",
        "a,b\r\n1,x\r\n2,y\r\n4,z\r\n",
        "a,b\n1,x\n2,y\n4,z",  # no end of line
        "a,b\n1,x\n2,y\n4,z\n\n\n",  # blank lines at the end
        "a,b\r\n1,x\r\n2,y\r\n4,z\r\n\r\n",
        "\n\na,b\n1,x\n2,y\n4,z\n",
        "\ufeffa,b\n1,x\n2,y\n4,z\n",
        "a,b\n 1 ,x\n+2,y\n4e0,z\n",
        '"a","b"\n"1","x\ny"\n"2","y,y"\n"4",\n',
        "a,b,,\n1,x,,\n2,y,,\n4,z,,\n",
    ],
)
def test_dialects(write: Write, text: str) -> None:
    table = read_table(write(text), Columns(validation_share=0.4))
    assert table.columns.target == ("a",)
    assert table.levels[:, 0].tolist() == [1, 2, 4]


def test_blank_lines_at_the_end_of_one_column(write: Write) -> None:
    columns = Columns(fill="previous", validation_share=0.3)
    assert read_table(write("a\n1\n\n4\n5\n\n\n"), columns).levels[:, 0].tolist() == [1, 1, 4, 5]


def test_tabs(write: Write) -> None:
    path = write("a\tb\n1,5\t3\n2,5\t5\n4\t9\n", "t.tsv")
    table = read_table(path, Columns(("b",), validation_share=0.4))
    assert table.levels[:, 0].tolist() == [3, 5, 9]


@pytest.mark.parametrize("name", ["a[1].csv", "T.CSV", "load *.csv", "a[1].parquet"])
def test_names_of_files_are_taken_literally(write: Write, name: str) -> None:
    content: Any = {"a": [1, 2, 4]} if name.endswith("parquet") else "a\n1\n2\n4\n"
    assert len(read_table(write(content, name), Columns(validation_share=0.4)).y) == 3


def test_names_of_folders_are_no_columns(write: Write, tmp_path: Path) -> None:
    (tmp_path / "site=3").mkdir()
    path = write({"a": [1, 2, 4]}, "site=3/t.parquet")
    assert read_table(path, Columns(validation_share=0.4)).columns.target == ("a",)


def test_texts_of_digits_in_parquet_are_numbers_only_by_name(write: Write) -> None:
    path = write({"code": ["01", "02", "04"], "a": [1, 2, 4]}, "t.parquet")
    assert read_table(path, Columns(validation_share=0.4)).columns.target == ("a",)
    named = read_table(path, Columns(("code",), validation_share=0.4))
    assert named.levels[:, 0].tolist() == [1, 2, 4]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_of_columns_are_taken_literally(write: Write, kind: str) -> None:
    path = write({"*": [1, 2, 4], "^.*$": [2, 3, 5], "": [0, 1, 9], "b c": [1, 2, 4]}, f"t.{kind}")
    table = read_table(path, Columns(("^.*$",), ("*", ""), validation_share=0.4))
    assert table.levels[:, 0].tolist() == [2, 3, 5]
    assert table.x_scaling is not None
    assert table.x_scaling.mean == (1.5, 0.5)


def test_booleans_are_numbers(write: Write) -> None:
    values = ["true", "false", "TRUE", "False", "True"]
    assert one_column(write, values).levels[:, 0].tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["2026-01-01", "2026-01-02", "2026-02-01"], ["2026-01-01", "2026-01-02", "2026-02-01"]),
        (
            ["2026-01-01T00:00:00", "2026-01-01T00:30:00.500001", "2026-01-02T00:00"],
            ["2026-01-01T00:00:00", "2026-01-01T00:30:00.500001", "2026-01-02T00:00:00"],
        ),
        (["2026-01-01 00:00", "2026-01-01 01:00", "2026-01-02 00:00"], None),
        (
            ["2026-01-01T02:00:00+02:00", "2026-01-01T02:00:00+01:00", "2026-01-01T02:00:00Z"],
            ["2026-01-01T00:00:00", "2026-01-01T01:00:00", "2026-01-01T02:00:00"],
        ),
    ],
)
def test_dates_in_a_csv(write: Write, written: list[str], expected: list[str] | None) -> None:
    path = write({"t": written, "a": [1, 2, 4]})
    table = read_table(path, Columns(time="t", validation_share=0.4))
    assert table.columns.target == ("a",)
    assert table.times is not None
    np.testing.assert_array_equal(table.times, np.array(expected or written, "datetime64[us]"))


def test_dates_in_parquet(write: Write) -> None:
    days = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 2, 1)]
    zoned = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    fine = pl.Series([1, 2, 3]).cast(pl.Datetime("ns"))
    path = write({"day": days, "zoned": zoned, "ns": fine, "a": [1, 2, 4]}, "t.parquet")
    expected = {"day": "datetime64[D]", "zoned": "datetime64[us]", "ns": "datetime64[ns]"}
    for name, kind in expected.items():
        table = read_table(path, Columns(time=name, validation_share=0.4))
        assert table.times is not None
        assert table.times.dtype == kind
        assert np.all(np.diff(table.times) > np.timedelta64(0))
        assert table.columns.target == ("a",)


# Missing values


@pytest.mark.parametrize(
    ("fill", "values", "expected"),
    [
        ("previous", [1, "", "", 7, "NA", 3], [1, 1, 1, 7, 7, 3]),
        ("linear", [1, "", "", 7, "NA", 3], [1, 3, 5, 7, 5, 3]),
        ("previous", [1, 7, 3, "nan", "null", ""], [1, 7, 3, 3, 3, 3]),
        ("linear", [1, 7, 3, "NaN", "N/A", ""], [1, 7, 3, 3, 3, 3]),
        ("linear", ["", "", 5, 7, 1, " "], [5, 5, 5, 7, 1, 1]),
        ("linear", [1, 2, 4, 8], [1, 2, 4, 8]),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 16])
def test_fill(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    fill: Any,
    values: list[object],
    expected: list[float],
    block: int,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    table = one_column(write, values, fill=fill)
    assert table.levels[:, 0].tolist() == expected
    np.testing.assert_allclose(table.series[0].restore(table.y, 0)[:, 0], expected, 1e-6)


@given(st.lists(st.none() | st.integers(-9, 9), min_size=4, max_size=25), st.integers(1, 7))
def test_linear_fill_is_a_line_between_the_neighbours(values: list[int | None], block: int) -> None:
    values = [0, 1, 5, *values]
    known = [row for row, value in enumerate(values) if value is not None]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        path = Path(folder, "t.parquet")
        pl.DataFrame({"a": values}).write_parquet(path)
        lines = read_table(path, Columns(fill="linear", validation_share=0.4)).levels[:, 0]
        steps = read_table(path, Columns(fill="previous", validation_share=0.4)).levels[:, 0]
    for row in range(len(values)):
        before = max(k for k in known if k <= row)
        after = min((k for k in known if k >= row), default=before)
        a, b = float(values[before] or 0), float(values[after] or 0)
        share = (row - before) / (after - before) if after > before else 0.0
        assert lines[row] == pytest.approx(a + (b - a) * share, abs=1e-12)
        assert steps[row] == a


def test_nan_and_null_in_parquet_are_missing(write: Write) -> None:
    path = write({"a": [1.0, None, math.nan, 4.0]}, "t.parquet")
    refuse(path, f"column 'a' (target) of {{t}} is missing in rows 2, 3; {FILL}")
    table = read_table(path, Columns(fill="linear", validation_share=0.3))
    assert table.levels[:, 0].tolist() == [1, 2, 3, 4]


# Blocks


@pytest.mark.parametrize("block", [1, 3, 7, 64])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_blocks_do_not_show(
    write: Write, monkeypatch: pytest.MonkeyPatch, block: int, kind: str
) -> None:
    rng = np.random.default_rng(1)
    holes = [None if k % 5 == 4 else float(value) for k, value in enumerate(rng.normal(size=50))]
    content = {"t": range(50), "a": holes, "b": rng.normal(size=50), "u": rng.normal(size=50)}
    path = write(content, f"t.{kind}")
    columns = Columns(inputs=("u",), time="t", fill="linear", difference=True)
    whole = read_table(path, columns)
    monkeypatch.setattr(blocks, "BLOCK", block)
    parts = read_table(path, columns)
    for name in ("y", "x"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), 1e-6, 1e-6)
    for name in ("levels", "first_level", "times"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.y_scaling.mean == pytest.approx(whole.y_scaling.mean, rel=1e-12)
    assert parts.y_scaling.scale == pytest.approx(whole.y_scaling.scale, rel=1e-12)


@pytest.mark.parametrize("block", [1, 2, 1 << 16])
def test_messages_do_not_depend_on_blocks(
    write: Write, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    rows = (f"{k},{'' if k % 2 else k},{'x' if k == 3 else k}" for k in range(1, 20))
    path = write(csv("t,a,b", *rows))
    message = "column 'a' (target) of {t} is missing in rows 1, 3, 5, 7, 9 and 5 more; " + FILL
    refuse(path, message, target=("a", "b"))
    refuse(path, f"column 'b' (target) of {{t}} has text in row 3, 'x'; {TEXT}", target=("b", "a"))
    message = "column 'a' (time) of {t} is missing in rows 1, 3, 5, 7, 9 and 5 more; "
    refuse(path, message + "every row needs its time", target=("t",), time="a")


@pytest.mark.parametrize("block", [1, 2, 1 << 16])
def test_times_have_to_rise(write: Write, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    sort = "sort the table by it, with one row for each time"
    for times, after, before in (([1, 2, 3, 2.5, 9], "2.5", "3"), ([1, 2, 3, 3, 9], "3", "3")):
        path = write({"t": times, "a": [1, 2, 4, 8, 9]})
        where = f"is {after} in row 4, after {before} in the row before"
        refuse(path, f"column 't' (time) of {{t}} {where}; {sort}", time="t")
    days = [date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 2), date(2026, 1, 4)]
    where = "is 2026-01-02 in row 3, after 2026-01-03 in the row before"
    for kind in ("csv", "parquet"):
        path = write({"t": days, "a": [1, 2, 4, 8]}, f"t.{kind}")
        refuse(path, f"column 't' (time) of {{t}} {where}; {sort}", time="t")


@pytest.mark.parametrize("block", [1, 2, 1 << 16])
def test_missing_and_unreadable_times(
    write: Write, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    rows = ["2026-01-01,1", "2026-01-02,2", ",4", ",5", "2026-01-03,6"]
    missing = "column 't' (time) of {t} is missing in rows 3, 4; every row needs its time"
    refuse(write(csv("t,a", *rows)), missing, time="t")
    rows = ["2026-01-01,1", "2026-01-02,2", "soon,4", "2026-01-03,6"]
    text = "column 't' (time) of {t} has text in row 3, 'soon'; expected numbers, or dates in one "
    remedy = "format: mend the row, or say which it is (--time-format)"
    refuse(write(csv("t,a", *rows)), text + remedy, time="t")
    path = write({"t": [1, None, 3, 4], "a": [1, 2, 4, 8]}, "t.parquet")
    refuse(path, "column 't' (time) of {t} is missing in row 2; every row needs its time", time="t")


# What is refused

MEND = "expected numbers: leave the column out or mend the row, or say "
TEXT = MEND + "that it stands for a missing value (--missing)"
MARKS = MEND + "how numbers are written (--decimal, --thousands)"
FILL = 'fill "previous" or "linear" (--fill) puts something there'
INFINITE = "expected finite numbers: mend the row"
PREVIOUS = 'is missing in row 1, with none before it; fill "linear" takes the nearest'
LONG_ROW = (
    "row 2 of {t} (line 3) has 3 fields, under a header of 2; mend the row, take away what stands "
    "above the table, or say how fields are separated (--separator)"
)
LEAST = "at validation_share 0.3; expected at least 2 and 1"
NAME = "leave the column out: name those to model (--target)"
CONSTANT = f"constant over the 3 rows to train on; {NAME}"


@pytest.mark.parametrize(
    ("text", "message", "columns"),
    [
        ("", "{t} is empty; expected a table with rows to learn from", {}),
        ("\n\n", "{t} has no rows; expected some to learn from", {}),
        ("a,b\n", "{t} has no rows; expected some to learn from", {}),
        ("a,b", "{t} has no rows; expected some to learn from", {}),
        ("a,b\n\n\n", "{t} has no rows; expected some to learn from", {}),
        ("a\n5\n", f"{{t}} has 1 row to train on and 0 to validate {LEAST}", {}),
        ("a\n5\n", f"{{t}} has 0 rows to train on and 0 to validate {LEAST}", {"difference": True}),
        ("a\n3\n2\n1\n", f"{{t}} has 3 rows to train on and 0 to validate {LEAST}", {}),
        ("a,b\n1,2\n3,4,5\n", LONG_ROW, {}),
        ("a,b,a\n1,2,3\n", "{t} has 2 columns named 'a'; rename them", {}),
        (
            "a:b\n1:2\n",
            "{t} has no column of numbers left for the target; it has 'a:b' (is "
            "text, such as '1:2'); is it another mark "
            "that stands between its fields (--separator)?",
            {},
        ),
        (
            "a,b\n1,x\n",
            "{t} has no column of numbers left for the target; it has 'a' (is named "
            "for something else), 'b' (is text, such as 'x')",
            {"inputs": "a"},
        ),
        (
            "load,t\n1,2\n",
            "{t} has no column 'Laod' (target); it has 'load', 't': did you mean 'load'?",
            {"target": "Laod"},
        ),
        (
            "load,t\n1,2\n",
            "{t} has no column 'wind' (inputs); it has 'load', 't'",
            {"inputs": "wind"},
        ),
        (
            "load,t\n1,2\n",
            "{t} has no column 'T' (time); it has 'load', 't': did you mean 't'?",
            {"time": "T"},
        ),
        (
            "a\n1\n2\nx\n4\ny\n",
            f"column 'a' (target) of {{t}} has text in rows 3, 5, 'x'; {TEXT}",
            {},
        ),
        (
            "a,b\n7,2\n2,3\n3,10 00\n4,5\n",
            f"column 'b' (inputs) of {{t}} has text in row 3, '10 00'; {MARKS}",
            {"inputs": "b"},
        ),
        (
            "a\n1\n" + "2\n" * 3 + "x" * 99 + "\n",
            f"column 'a' (target) of {{t}} has text in row 5, '{'x' * 40}'; {TEXT}",
            {},
        ),
        (
            "a\n1\n2\ninf\n-inf\n",
            f"column 'a' (target) of {{t}} is infinite, or too large, in rows 3, 4; {INFINITE}",
            {},
        ),
        (
            "a\n1\n2\ninf\nnan\n",
            f"column 'a' (target) of {{t}} is infinite, or too large, in row 3; {INFINITE}",
            {"fill": "linear"},
        ),
        (
            "a,b\n1,1\n,2\n3,3\n4,4\n",
            f"column 'a' (target) of {{t}} is missing in row 2; {FILL}",
            {},
        ),
        (
            "a,b\n1,1\n2\n3,3\n4,4\n",
            f"column 'b' (target) of {{t}} is missing in row 2; {FILL}",
            {},
        ),
        (
            "a,b\n,1\n,2\n3,3\n4,4\n",
            f"column 'a' (target) of {{t}} {PREVIOUS}",
            {"fill": "previous"},
        ),
        (
            "a,b\n,1\n,2\n,3\n,4\n",
            "column 'a' (inputs) of {t} is missing in every row; leave the column out",
            {"inputs": "a", "fill": "linear"},
        ),
        ("a,b\n1,1\n2,1\n3,1\n4,2\n", f"column 'b' of {{t}} is {CONSTANT}", {}),
        ("a,b\n9,1\n2,1\n3,1\n4,2\n", f"column 'b' of {{t}} is {CONSTANT}", {"inputs": "b"}),
        (
            "a\n0.1\n0.2\n0.3\n0.4\n9\n",
            f"column 'a' of {{t}}: its differences are {CONSTANT}",
            {"difference": True},
        ),
        (
            "a\n1\n2\n3\n1e60\n",
            "column 'a' of {t} is too large for float32 in row 4; mend the row",
            {},
        ),
        (
            "a\n1e308\n-1e308\n3\n1\n",
            "column 'a' of {t} is too large for float32 in row 1; mend the row",
            {},
        ),
    ],
)
def test_bad_tables(write: Write, text: str, message: str, columns: dict[str, Any]) -> None:
    refuse(write(text), message, **columns)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("block", [1, 2, 1 << 16])
def test_a_column_with_one_value_is_no_target_unless_named(
    write: Write, monkeypatch: pytest.MonkeyPatch, kind: str, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    table = {"flat": [7] * 5, "a": [1.0, 3, 2, 5, 4], "gaps": [None, 2, None, 2, 2]}
    rows = [
        ",".join("" if v is None else str(v) for v in row)
        for row in zip(*table.values(), strict=True)
    ]
    path = write(table if kind == "parquet" else csv(",".join(table), *rows), f"t.{kind}")
    read = read_table(path, Columns(validation_share=0.3))
    assert read.columns.target == ("a",)
    assert read.levels[:, 0].tolist() == table["a"]
    assert "left out: flat (is 7 in every row), gaps (is 2 in every row)" in read.about
    refuse(
        path,
        f"column 'flat' of {{t}} is constant over the 4 rows to train on; {NAME}",
        target="flat",
    )


def test_a_table_of_constants(write: Write) -> None:
    message = "{t} has no column of numbers left for the target; it has 'a' (is 1 in every row)"
    refuse(
        write(csv("a,b", "1,2", "1,3", "1,4")),
        message + ", 'b' (is named for something else)",
        inputs="b",
    )


def test_text_deep_in_the_file(write: Write) -> None:
    rows = [str(k) for k in range(5000)]
    rows[4321] = "oops"
    message = f"column 'a' (target) of {{t}} has text in row 4322, 'oops'; {TEXT}"
    refuse(write(csv("a", *rows)), message)


@pytest.mark.parametrize(
    ("columns", "kind", "wanted"),
    [
        ({"target": "day"}, "Date", "numbers"),
        ({"inputs": "list"}, "List(Int64)", "numbers"),
        ({"target": "struct"}, "Struct({'k': Int64})", "numbers"),
        ({"time": "nothing"}, "Null", "numbers, dates or datetimes"),
        ({"time": "struct"}, "Struct({'k': Int64})", "numbers, dates or datetimes"),
    ],
)
def test_columns_of_other_kinds(
    write: Write, columns: dict[str, str], kind: str, wanted: str
) -> None:
    content = {
        "a": [1, 2, 4, 8],
        "day": [date(2026, 1, k) for k in (1, 2, 3, 4)],
        "list": [[1]] * 4,
        "struct": [{"k": 1}] * 4,
        "nothing": [None] * 4,
    }
    [(role, name)] = columns.items()
    message = f"column {name!r} ({role}) of {{t}} holds {kind}; expected {wanted}"
    refuse(write(content, "t.parquet"), message, **columns)


def test_bad_bytes(write: Write) -> None:
    unread = "{t} is not UTF-8: byte 0xe9 in line 2; say what it is with encoding (--encoding), "
    refuse(write("a,b\n1,é\n".encode("latin-1")), unread + "such as cp1252")
    for content in (bytes(range(256)) * 600, b"\0" * 200_000, '"open,1\n2,3\n'.encode("utf-16")):
        with pytest.raises(BpttError, match=r"^[^\n]+t\.csv[^\n]+$"):
            read_table(write(content))
    with pytest.raises(BpttError, match=r"^cannot read .*could not parse `\"1,2; expected a CSV"):
        read_table(write('a,b\n3,4\n"1,2\n'))


def test_damaged_parquet(write: Write) -> None:
    whole = write({"a": [1, 2, 4, 8]}, "t.parquet").read_bytes()
    for content in (whole[:-9], whole[:10], b"a,b\n1,2\n", whole[:40] + b"\xff" * 9 + whole[49:]):
        path = write(content, "t.parquet")
        message = rf"^cannot read {re.escape(str(path))}: .*; expected a whole Parquet file$"
        with pytest.raises(BpttError, match=message):
            read_table(path)


def test_bad_paths(tmp_path: Path, write: Write) -> None:
    refuse(tmp_path / "no.csv", "no such file: {t}; give the path of a table")
    refuse(tmp_path, "{t} is a folder; give the path of a table in it")
    refuse(write("a\n1\n", "t.xlsx"), "{t} is no table; expected a .csv, .tsv or .parquet file")


def test_what_the_system_refuses(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    refuse(
        write("a\n9\n2\n3\n4\n"),
        "no temporary file can be made: No space left on device; set TMPDIR to a folder "
        "with more room",
    )


def test_without_polars(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    path = write("a\n1\n2\n3\n4\n")
    refuse(path, "polars is not installed; in a checkout of bptt: pip install '.[tables]'")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": "a", "inputs": "a"}, "'a' is both target and inputs; name it only once"),
        ({"target": "a", "time": "a"}, "'a' is both target and time; name it only once"),
        ({"inputs": "a", "time": "a"}, "'a' is both inputs and time; name it only once"),
        ({"target": ("a", "a")}, "'a' is both target and target; name it only once"),
        ({"fill": "zero"}, "fill is 'zero'; expected one of 'previous', 'linear'"),
        *(
            (
                {"validation_share": share},
                f"validation_share is {share!r}; expected a number between 0 and 1",
            )
            for share in (0, 1, -0.1, 1.5, math.nan, "half", None)
        ),
    ],
)
def test_bad_columns(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BpttError, match=f"^{re.escape(message)}$"):
        Columns(**columns)


def test_no_temporary_file_has_a_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write({"a": SQUARES})
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    table = read_table(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["t.csv"]
    table.y[0] = 7.0  # the arrays are ours to write to, and the file stays as it is
    assert read_table(path).y[0, 0] != 7.0
