"""One series of a table: parts of its arrays, and the same whether it is read at once or not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import bptt
from bptt.forecasting import windows
from bptt.forecasting.one_step_ahead import one_step_ahead

LENGTHS = {"a": 40, "b": 13, "c": 29}


def table(*, is_panel: bool, **columns: object) -> bptt.Table | bptt.Panel:
    random = np.random.default_rng(0)
    lengths = LENGTHS if is_panel else {"a": 40}
    data = pl.DataFrame(
        {
            "id": [name for name, n in lengths.items() for _ in range(n)],
            "load": np.cumsum(random.normal(size=sum(lengths.values()))),
            "kind": [["x", "y"][k % 3 == 0] for n in lengths.values() for k in range(n)],
        }
    )
    named = {"target": "load", "validation_share": 0.4, "series": "id" if is_panel else None}
    return bptt.read_table(data, **(named | columns))


def test_nothing_of_a_table_is_copied() -> None:
    data = table(is_panel=False, categories="kind")
    (series,) = data.series
    assert len(series) == len(data.y) == 40
    parts = (
        (series.y, data.y),
        (series.x(), data.x),
        (series.x(3, 5), data.x),
        (series.levels, data.levels),
        (series.levels_before(1), data.levels),
        (series.levels_before(40, 41), data.levels),
    )
    for part, array in parts:
        assert np.shares_memory(part, array)
    assert data.series is data.series


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("is_panel", [False, True])
def test_a_path_is_in_the_units_of_the_table_from_any_step_on(
    is_panel: bool, difference: bool
) -> None:
    for series in table(is_panel=is_panel, difference=difference).series:
        for start in (0, 1, series.cut):
            levels = series.levels[start:]
            np.testing.assert_allclose(series.restore(series.y[start:], start), levels, atol=1e-5)
            each = series.restore_each(series.y[start:], start)
            np.testing.assert_allclose(each, levels, atol=1e-5)
            before = series.levels_before(start)
            np.testing.assert_array_equal(before[1:], levels[:-1])
        expected = series.first_level if difference else series.levels[0]
        np.testing.assert_array_equal(series.levels_before(0, 1), expected[None])


@pytest.mark.parametrize("is_panel", [False, True])
def test_it_does_not_show_how_many_steps_and_series_are_read_at_once(
    is_panel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(is_panel=is_panel)
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, hidden=5, cell="lstm")
    at_once = bptt.forecast(net, data, 3, paths=2, seed=0), one_step_ahead(net, data)
    monkeypatch.setattr(windows, "STEPS_AT_ONCE", 7)
    in_parts = bptt.forecast(net, data, 3, paths=2, seed=0), one_step_ahead(net, data)
    one, two = (ahead.to_polars()["load mean"] for ahead, _ in (at_once, in_parts))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    np.testing.assert_allclose(at_once[1].network, in_parts[1].network, rtol=1e-5)
    np.testing.assert_allclose(at_once[1].persistence, in_parts[1].persistence)
