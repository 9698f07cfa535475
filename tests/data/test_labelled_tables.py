"""Series of a table with a label each: read, trained on, and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import bptt
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
    assert 0 < data.held_out.sum() == 2
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
    kept = [x for x, name in zip(sequences(data), NAMES, strict=True) if name < "p15"]
    assert np.concatenate(kept).tolist() == fewer.x.tolist()
    with pytest.raises(BpttError, match="was trained on sequences with labels; expected a run"):
        bptt.forecast(run, steps=3)


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
        ({}, {"target": "side"}, "label is 'kind', .* expected no target"),
        ({}, {"validation_by": "time"}, "expected no target .* and validation_by .series."),
        ({}, {"units": "series"}, "no part to measure; expected"),
        ({}, {"difference": True}, "difference .* is of a target; with a label"),
    ],
)
def test_what_cannot_be_is_one_line(
    change: dict[str, object], columns: dict[str, object], message: str
) -> None:
    table = frame().with_columns(
        same=pl.lit("a"), **{name: pl.lit(value) for name, value in change.items()}
    )
    with pytest.raises(BpttError, match=message):
        read(table, **{"inputs": ("up",)} | columns)
