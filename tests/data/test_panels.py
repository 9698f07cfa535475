"""Several series in one table: taken apart, trained on, and each gone on with."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import bptt
from bptt.errors import BpttError
from bptt.forecasting.one_step_ahead import one_step_ahead
from bptt.training.evaluation import evaluate
from bptt.training.runs.run import Run

FIRST = np.datetime64("2026-01-01")
LENGTHS = {"b": 40, "a": 31, "c": 55}


def frame(lengths: dict[str, int] | None = None, mixed: bool = False) -> pl.DataFrame:
    """Return series of different lengths and levels, one after another, or row by row."""
    random = np.random.default_rng(0)
    parts = []
    for k, (name, n) in enumerate((lengths or LENGTHS).items()):
        load = 10.0**k * (5 + np.sin(np.arange(n)) + 0.1 * random.normal(size=n))
        day = FIRST + np.arange(n)
        price = random.normal(size=n)
        columns = {"id": [name] * n, "day": day, "load": load, "price": price}
        parts.append(pl.DataFrame(columns | {"kind": ["xy"[k % 2]] * n}))
    table = pl.concat(parts)
    return table.sort("day", maintain_order=True) if mixed else table


def panel(table: pl.DataFrame | None = None, **columns: object) -> bptt.Panel:
    named = {"target": "load", "series": "id", "time": "day"} | columns
    read = bptt.read_table(frame() if table is None else table, **named)
    assert isinstance(read, bptt.Panel)
    return read


def trained(
    data: bptt.Panel, out: Path | None = None, updates: int = 5, seconds: float | None = None
) -> bptt.Network:
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=8)
    settings = bptt.Settings(max_updates=updates, batch=2, max_seconds=seconds)
    bptt.fit(net, data, settings, out=out)
    return net


def test_each_series_has_its_rows_and_units() -> None:
    for mixed in (False, True):
        read = panel(frame(mixed=mixed))
        assert read.ids == tuple(LENGTHS)
        assert read.lengths.tolist() == list(LENGTHS.values())
        assert read.cuts.tolist() == [36, 28, 50]
        for series in read.series:
            rows = frame().filter(pl.col("id") == series.name)
            load = rows["load"].to_numpy()
            np.testing.assert_array_equal(series.levels[:, 0], load)
            np.testing.assert_array_equal(series.times, rows["day"].to_numpy())
            units = load[: series.cut].mean(), load[: series.cut].std()
            np.testing.assert_allclose(
                series.y[:, 0], (load - units[0]) / units[1], rtol=1e-5, atol=1e-6
            )


def test_common_units_are_those_of_all_training_parts_together() -> None:
    read = panel(units="common")
    parts = [series.levels[: series.cut] for series in read.series]
    together = np.concatenate(parts)
    (scaling,) = {series.scaling for series in read.series}
    np.testing.assert_allclose(scaling.mean, together.mean(0))
    np.testing.assert_allclose(scaling.scale, together.std(0))


def test_batches_hold_each_training_part_once_an_epoch_and_nothing_else() -> None:
    read = panel(inputs="price", categories="kind", calendar="weekday")
    batches = read.training_batches(2, None, seed=3)
    seen = []
    for batch in (batches.get(1, index) for index in range(len(batches))):
        lengths = batch.lengths if batch.lengths is not None else [len(batch.y)] * batch.y.shape[1]
        for column, n in enumerate(lengths):
            assert batch.y[n:, column].eq(0).all()
            seen.append((batch.y[:n, column].numpy(), batch.x[:n, column].numpy()))
        assert batch.loss_weights is None
    order = [int(np.argmin(abs(len(y) - read.cuts))) for y, _ in seen]
    assert sorted(order) == [0, 1, 2]
    for (y, x), one in zip(seen, order, strict=True):
        series = read.series[one]
        np.testing.assert_array_equal(y, series.y[: series.cut])
        np.testing.assert_array_equal(x, series.x(0, series.cut))
    assert batches.steps == sum(map(len, (y for y, _ in seen)))


def test_x_is_prices_in_units_then_classes_then_weekdays() -> None:
    read = panel(inputs="price", categories="kind", calendar="weekday")
    assert read.inputs == 1 + 2 + 7
    for series in read.series:
        rows = frame().filter(pl.col("id") == series.name)
        x = series.x()
        price = rows["price"].to_numpy()[:, None]
        np.testing.assert_allclose(x[:, :1], read.x_scaling.standard(price), rtol=1e-5, atol=1e-6)
        assert (x[:, 1:3] == np.eye(2)["xy".index(rows["kind"][0])]).all()
        weekday = rows["day"].dt.weekday().to_numpy() - 1
        np.testing.assert_array_equal(x[:, 3:].argmax(1), weekday)
        assert (x[:, 3:].sum(1) == 1).all()


def test_the_validation_is_of_the_ends_after_all_that_stands_before_them() -> None:
    read = panel()
    net = trained(read)
    expected, count = 0.0, 0
    for series in read.series:
        y = torch.from_numpy(np.array(series.y)).unsqueeze(1)
        expected += net(y).nll[series.cut :].double().sum().item()
        count += len(y) - series.cut
    assert evaluate(net, read.validation_batches(2)) == pytest.approx(expected / count, rel=1e-5)


def test_held_out_series_are_the_same_wherever_they_stand() -> None:
    lengths = {f"s{k}": 10 + k for k in range(20)}
    read = panel(frame(lengths), validation_by="series")
    turned = panel(frame(dict(reversed(lengths.items()))), validation_by="series")
    held_out = {name: int(cut) for name, cut in zip(read.ids, read.cuts, strict=True) if cut == 0}
    assert len(held_out) == 2
    assert {n for n, cut in zip(turned.ids, turned.cuts, strict=True) if cut == 0} == {*held_out}
    assert read.validation_batches(8).steps == sum(lengths[name] for name in held_out)
    assert read.training_batches(8, None, 0).steps == sum(lengths.values()) - sum(
        lengths[name] for name in held_out
    )
    net = trained(read, updates=1)
    assert np.isfinite(one_step_ahead(net, read).network).all()


@pytest.mark.parametrize("difference", [False, True])
def test_a_series_of_a_panel_is_the_table_of_its_rows(difference: bool, tmp_path: Path) -> None:
    read = panel(calendar="weekday", difference=difference)
    net = trained(read, tmp_path / "run")
    ahead = bptt.forecast(net, read, 9, paths=30, seed=1)
    errors = []
    for name in read.ids:
        rows = frame().filter(pl.col("id") == name)
        table = bptt.read_table(
            rows, target="load", time="day", calendar="weekday", difference=difference
        )
        alone = bptt.forecast(net, table, 9, paths=30, seed=1)
        np.testing.assert_allclose(ahead[name].mean, alone.mean, rtol=1e-4)
        assert ahead[name].labels == alone.labels
        errors.append((one_step_ahead(net, table), len(table.y) - table.cut))
    together = one_step_ahead(net, read)
    for which in ("network", "persistence"):
        squares = sum(n * getattr(error, which) ** 2 for error, n in errors)
        expected = np.sqrt(squares / sum(n for _, n in errors))
        np.testing.assert_allclose(getattr(together, which), expected, rtol=1e-4)
    of_run = bptt.forecast(tmp_path / "run", frame(), 9, paths=30, seed=1)
    assert of_run.to_polars().equals(
        bptt.forecast(
            Run.open(tmp_path / "run").network().eval(), read, 9, paths=30, seed=1
        ).to_polars()
    )


def test_inputs_of_the_steps_ahead_are_asked_for_only_where_they_change() -> None:
    read = panel(inputs="price", categories="kind")
    net = trained(read)
    with pytest.raises(BpttError, match=r"has the inputs price; expected a table that has them"):
        bptt.forecast(net, read, 2)
    day = np.concatenate([FIRST + n + np.arange(3) for n in LENGTHS.values()])
    future = pl.DataFrame({"id": np.repeat(list(LENGTHS), 3), "day": day, "price": np.arange(9.0)})
    ahead = bptt.forecast(net, read, 3, future=future, paths=5, seed=0)
    assert list(ahead) == list(LENGTHS)
    with pytest.raises(BpttError, match=r"has no rows of series 'c'; expected 3 for each of the 3"):
        bptt.forecast(net, read, 3, future=future.filter(pl.col("id") != "c"))
    with pytest.raises(BpttError, match=r"row 1 of series 'b' of .* is at 2026-02-11; expected 20"):
        bptt.forecast(net, read, 2, future=future.filter(pl.col("price") != 0))
    only = panel(categories=["kind", "id"])
    with pytest.raises(BpttError, match="but no input has to be told of the steps ahead; leave it"):
        bptt.forecast(trained(only), only, 3, future=future)


def test_a_class_that_was_not_trained_on_is_none_of_them(tmp_path: Path) -> None:
    read = panel(categories="kind")
    trained(read, tmp_path / "run")
    other = frame().with_columns(kind=pl.lit("z"))
    again = Run.open(tmp_path / "run").read_table(other)
    assert all((series.x() == 0).all() for series in again.series)
    assert again.classes == read.classes == (("x", "y"),)


def test_missing_steps_and_values_are_filled_within_a_series() -> None:
    rows = frame()
    holes = rows.with_row_index().filter(~pl.col("index").is_in([5, 6, 50])).drop("index")
    holes = holes.with_columns(
        load=pl.when(pl.col("day") == FIRST + 9).then(None).otherwise("load")
    )
    with pytest.raises(BpttError, match=r"'load' .* is missing in rows"):
        panel(holes)
    read = panel(holes, fill="linear", categories="kind")
    assert read.lengths.tolist() == list(LENGTHS.values())
    first, *_ = read.series
    level = first.levels[:, 0]
    np.testing.assert_allclose(level[4:8], np.linspace(level[4], level[7], 4))
    np.testing.assert_allclose(level[9], (level[8] + level[10]) / 2)
    assert (first.x() == [1, 0]).all()
    begun_late = rows.with_columns(
        load=pl.when((pl.col("id") == "a") & (pl.col("day") == FIRST)).then(None).otherwise("load")
    )
    with pytest.raises(
        BpttError, match=r"'load' of series 'a' of .* is missing in row 1, with none"
    ):
        panel(begun_late, fill="previous")
    empty = rows.with_columns(load=pl.when(pl.col("id") == "a").then(None).otherwise("load"))
    with pytest.raises(BpttError, match="'load' of series 'a' of the table is missing in every"):
        panel(empty, fill="linear")


def test_a_run_goes_on_and_writes_a_row_for_each_step_of_each_series(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    frame(mixed=True).write_csv(file)
    read = bptt.read_table(file, target="load", series="id", time="day", categories="id")
    trained(read, tmp_path / "run", updates=6, seconds=1e-9)
    assert Run.open(tmp_path / "run").load()[1]["update"] == 1
    again, done = bptt.resume(tmp_path / "run")
    assert done.updates == 6
    straight = trained(read, updates=6)
    for one, two in zip(again.parameters(), straight.parameters(), strict=True):
        assert one.equal(two)
    ahead = bptt.forecast(tmp_path / "run", steps=4, seed=0)
    ahead.write(tmp_path / "ahead.csv")
    with (tmp_path / "ahead.csv").open(newline="") as lines:
        head, *rows = csv.reader(lines)
    assert head == ["id", "time", "load mean", "load 5%", "load 95%"]
    assert [row[0] for row in rows] == [name for name in LENGTHS for _ in range(4)]
    assert rows[0][1] == str(FIRST + LENGTHS["b"])


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({}, {"series": "ID"}, "has no column 'ID' .series.; .* did you mean 'id'"),
        ({}, {"series": "load"}, "'load' is both target and series; name it only once"),
        ({"id": None}, {}, "column 'id' .series. of the table is missing in row 1"),
        (
            {"id": "one"},
            {"validation_by": "series", "time": None},
            "has one series; expected at least two",
        ),
        ({}, {"validation_by": "size"}, "validation_by is 'size'; expected one of 'time'"),
        ({}, {"validation_by": "series", "units": "series"}, "no part to measure; expected"),
        ({}, {"series": None, "units": "common"}, "are for several series; name the column"),
        ({"day": 1}, {}, "'day' .time. of series 'b' of the table is 1 in row 2, after 1 in"),
        ({"day": 1.5}, {"calendar": "hour"}, "holds numbers; the calendar .* needs dates"),
        ({}, {"calendar": "century"}, "calendar is 'century'; expected one of 'hour'"),
        ({}, {"calendar": "hour", "time": None}, "calendar .* without a column of times"),
        ({}, {"categories": "load"}, "'load' is both target and categories"),
    ],
)
def test_what_cannot_be_is_one_line(
    change: dict[str, object], columns: dict[str, object], message: str
) -> None:
    table = frame().with_columns(**{name: pl.lit(value) for name, value in change.items()})
    with pytest.raises(BpttError, match=message):
        panel(table, **columns)


def test_a_series_of_one_row_is_named_and_refused() -> None:
    with pytest.raises(
        BpttError, match=r"1 series of fewer than 3 rows, such as 'd' with 1; leave"
    ):
        panel(frame(LENGTHS | {"d": 1}))
    with pytest.raises(
        BpttError, match=r"2 series of fewer than 4 rows, such as 'd' with 1; leave"
    ):
        panel(frame(LENGTHS | {"d": 1, "e": 3}), difference=True)
