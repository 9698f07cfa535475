"""Series of a table with a label each: read, trained on, and gone on with."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import bptt
from bptt.cli import main
from bptt.errors import BpttError
from bptt.training.runs.run import Run

NAMES = [f"p{k}" for k in range(20)]


def frame(*, mixed: bool = False) -> pl.DataFrame:
    """Return series of different lengths, one after another or row by row; of each, what it is."""
    random = np.random.default_rng(0)
    parts = []
    for k, name in enumerate(NAMES):
        n = 5 + k % 4
        slope = (-1.0, 1.0)[k % 2]
        columns = {
            "person": [name] * n,
            "second": np.arange(n),
            "up": 100 + slope * np.arange(n) + random.normal(size=n),
            "side": random.normal(size=n),
            "hand": ["lr"[k % 3 % 2]] * n,
            "kind": [("falls", "rises")[k % 2]] * n,
            "grade": [k % 3] * n,
            "slope": [slope + 0.1 * k] * n,
        }
        parts.append(pl.DataFrame(columns))
    table = pl.concat(parts)
    return table.sort("second", maintain_order=True) if mixed else table


def read(table: pl.DataFrame | Path | None = None, **columns: object) -> bptt.Labelled:
    named = {"series": "person", "time": "second", "label": "kind"} | columns
    data = bptt.read_table(frame() if table is None else table, **named)
    assert isinstance(data, bptt.Labelled)
    return data


def sequences(data: bptt.Labelled) -> list[np.ndarray]:
    return np.split(data.x, np.cumsum(data.lengths)[:-1])


@pytest.mark.parametrize("mixed", [False, True])
def test_each_series_is_a_sequence_in_units_of_those_to_train_on(mixed: bool) -> None:
    data = read(frame(mixed=mixed), inputs=("up", "side"), categories="hand")
    rows = {name: part for (name,), part in frame().group_by("person", maintain_order=True)}
    assert data.classes == ("falls", "rises")
    assert data.held_out.sum() == 2
    trained = pl.concat([rows[NAMES[k]] for k in np.flatnonzero(~data.held_out)])
    for k, x in enumerate(sequences(data)):
        part = rows[NAMES[k]]
        for j, name in enumerate(("up", "side")):
            numbers = trained[name].to_numpy()
            expected = (part[name].to_numpy() - numbers.mean()) / numbers.std()
            np.testing.assert_allclose(x[:, j], expected, rtol=1e-5, atol=1e-5)
        assert x[:, 2:].tolist() == [
            [float(hand == side) for side in "lr"] for hand in part["hand"]
        ]
        assert data.classes[data.labels[k]] == part["kind"][0]


def test_inputs_are_all_numbers_left_unless_they_are_named() -> None:
    table = frame().drop("grade", "slope")
    assert sequences(read(table))[0].tolist() == sequences(read(inputs=("up", "side")))[0].tolist()
    assert read(table).columns.inputs == ("up", "side")  # type: ignore[attr-defined]
    assert read(categories="hand").inputs == 2


def test_whole_numbers_and_texts_are_classes_and_others_are_numbers(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "table.csv")
    for table in (frame(), tmp_path / "table.csv"):
        assert read(table, label="grade", inputs="up").classes == ("0", "1", "2")
        slopes = read(table, label="slope", inputs="up")
        assert slopes.classes == ()
        expected = [[(-1.0, 1.0)[k % 2] + 0.1 * k] for k in range(20)]
        np.testing.assert_allclose(slopes.labels, expected, rtol=1e-6)


def test_a_run_goes_on_and_begins_others_with_its_columns_and_units(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "table.csv")
    data = read(tmp_path / "table.csv", inputs=("up", "side"), categories="hand")
    settings = bptt.Settings(max_updates=30, batch=4, learning_rate=0.02)

    def trained(out: Path, **ends: float) -> bptt.Network:
        torch.manual_seed(0)
        net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=8, recurrence="hidden")
        bptt.fit(net, data, bptt.Settings(**{**vars(settings), **ends}), out=out)
        return net

    straight = trained(tmp_path / "straight")
    trained(tmp_path / "run", max_seconds=1e-9)
    run = Run.open(tmp_path / "run")
    assert run.load()[1]["update"] == 1
    again, done = bptt.resume(tmp_path / "run")
    assert done.updates == 30
    for one, two in zip(again.parameters(), straight.parameters(), strict=True):
        assert one.equal(two)
    assert done.score == 0
    frame().filter(pl.col("person") < "p15").write_csv(tmp_path / "fewer.csv")
    fewer = run.read_like_its_own(tmp_path / "fewer.csv")
    assert isinstance(fewer, bptt.Labelled)
    assert fewer.classes == data.classes
    both = [x for x, name in zip(sequences(data), NAMES, strict=True) if name < "p15"]
    assert np.concatenate(both).tolist() == fewer.x.tolist()
    for call in (lambda: bptt.forecast(run, steps=3), lambda: run.read_table(frame())):
        with pytest.raises(BpttError, match="was trained on sequences with labels; expected a run"):
            call()
    new = frame().with_columns(kind=pl.lit("new"))
    new.write_csv(tmp_path / "new.csv")
    with pytest.raises(BpttError, match=r"has a class 'new'; expected some .* knows: falls, rises"):
        run.read_like_its_own(tmp_path / "new.csv")
    assert main(["flow", str(tmp_path / "run")]) == 0
    config = json.loads((run.path / "config.json").read_text())
    for change in ({"measures": None}, {"columns": {**config["data"]["columns"], "label": None}}):
        wrong = {**config, "data": {**config["data"], **change}}
        (run.path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(BpttError, match=r"config.json, data: its? ?(has|columns)"):
            Run.open(run.path)


def test_a_run_on_numbers_reads_whole_ones_as_numbers(tmp_path: Path) -> None:
    data = read(label="slope", inputs="up")
    net = bptt.Network(data.likelihood, inputs=1, hidden=4, recurrence="hidden")
    bptt.fit(net, data, bptt.Settings(max_updates=1), out=tmp_path / "run")
    frame().with_columns(slope=pl.lit(3)).write_csv(tmp_path / "whole.csv")
    again = Run.open(tmp_path / "run").read_like_its_own(tmp_path / "whole.csv")
    assert isinstance(again, bptt.Labelled)
    assert again.classes == ()
    assert again.labels.tolist() == [[3.0]] * 20


def labels_of(labels: list[object], kind: pl.DataType | None = None) -> pl.DataFrame:
    """Return series of two rows with these labels."""
    rows = {"id": np.repeat(np.arange(len(labels)), 2), "x": np.arange(2.0 * len(labels))}
    every = pl.Series([label for label in labels for _ in range(2)], dtype=kind)
    return pl.DataFrame(rows).with_columns(label=every)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["b", "a"], pl.Categorical(), ("a", "b")),
        (["b", "a"], pl.Enum(["a", "b"]), ("a", "b")),
        ([True, False], None, ("false", "true")),
        ([date(2026, 1, 2), date(2026, 1, 1)], None, ("2026-01-01", "2026-01-02")),
        ([10, 9], None, ("9", "10")),
        (["2", "walks", "10", "3b"], None, ("2", "10", "3b", "walks")),
        ([1.0, 2.0], None, ()),
        ([0.5, -2.0], None, ()),
    ],
)
def test_what_is_a_class(
    tmp_path: Path,
    is_file: bool,
    labels: list[object],
    kind: pl.DataType | None,
    classes: tuple[str, ...],
) -> None:
    table: pl.DataFrame | Path = labels_of(labels * 4, kind)
    if is_file:
        assert isinstance(table, pl.DataFrame)
        table.write_csv(tmp_path / "table.csv")
        table = tmp_path / "table.csv"
    data = read(table, series="id", time=None, label="label", inputs="x")
    assert data.classes == classes
    if not classes:
        assert data.labels[:, 0].tolist() == labels * 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 0.6, "oops"], "label. of .* has text in rows 5, 6, 11, 12, 'oops'; expected finite"),
        ([0.5, math.inf], "label. of .* is infinite, or too large, in rows 3, 4, 7, 8, 'inf'"),
        ([0.5, 1e300], "labels that are not finite, or too large for float32"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, labels: list[object], message: str) -> None:
    labels_of([str(label) for label in labels * 2]).write_csv(tmp_path / "table.csv")
    with pytest.raises(BpttError, match=message):
        read(tmp_path / "table.csv", series="id", time=None, label="label", inputs="x")


def test_what_is_missing_is_filled_and_the_date_is_an_input(tmp_path: Path) -> None:
    table = frame().with_columns(day=pl.lit(date(2026, 1, 1)) + pl.duration(days=pl.col("second")))
    whole = read(table, time="day", inputs="up", calendar="weekday", fill="linear")
    assert whole.inputs == 1 + 7
    assert sequences(whole)[0][:, 1:].argmax(1).tolist() == [3, 4, 5, 6, 0]  # from a Thursday on
    gap = (pl.col("person") == "p0") & (pl.col("second") == 2)
    for missing in (table.filter(~gap), table.with_columns(up=pl.when(~gap).then("up"))):
        data = read(missing, time="day", inputs="up", calendar="weekday", fill="linear")
        assert data.lengths.tolist() == whole.lengths.tolist()
        first = sequences(data)[0][:, 0]
        assert first[2] == pytest.approx((first[1] + first[3]) / 2, abs=1e-6)
    with pytest.raises(BpttError, match=r"'up' .inputs. of .* is missing in row 3; fill"):
        read(table.with_columns(up=pl.when(~gap).then("up")), time="day", inputs="up")
    comma = table.select(pl.all().exclude("up"), up=pl.col("up").round(3))
    text = comma.write_csv(separator=";").replace(".", ",")
    (tmp_path / "comma.csv").write_text(text)
    read_so = read(tmp_path / "comma.csv", time="day", inputs="up")
    np.testing.assert_array_equal(read_so.x, read(comma, time="day", inputs="up").x)


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({}, {"label": "KIND"}, "has no column 'KIND' .label.; .* did you mean 'kind'"),
        ({}, {"label": "up", "inputs": ("up",)}, "'up' is both inputs and label; name it only"),
        (
            {},
            {"label": "side"},
            "is '.*' in row 1 and '.*' in row 2, both of series 'p0'; expected",
        ),
        ({"kind": None}, {}, "column 'kind' .label. of the table is missing in row 1; every row"),
        ({"kind": "one"}, {}, "has 1 class, such as 'one'; expected from 2"),
        (
            {"person": "one"},
            {"time": None, "label": "same"},
            "has one series; expected at least two",
        ),
        ({}, {"series": None}, "for several series; name the column that tells them apart"),
        ({}, {"target": "side"}, "label is 'kind', and so there is no target; expected none"),
        ({}, {"validation_by": "time"}, "of series as a whole; expected validation_by .series."),
        ({}, {"units": "series"}, "no part to measure; expected"),
        ({}, {"difference": True}, "there is no target; expected none, and no difference"),
    ],
)
def test_what_cannot_be_is_one_line(
    change: dict[str, object], columns: dict[str, object], message: str
) -> None:
    table = frame().with_columns(
        same=pl.lit(0.5), **{name: pl.lit(value) for name, value in change.items()}
    )
    with pytest.raises(BpttError, match=message):
        read(table, **{"inputs": ("up",)} | columns)
