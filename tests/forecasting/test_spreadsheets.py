"""Cells that a spreadsheet shows, and does not run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from bptt.forecasting.forecast import SeriesForecast
from bptt.forecasting.spreadsheets import text_cell

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "=cmd|' /C calc'!A0",
    "-",
    "+",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_would_run_is_marked_as_text(text: str) -> None:
    assert text_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["load", "a=1", "'=1", "", "2026-01-01", "5", "-5", "+5.5", "-1e-9"]
)
def test_other_text_and_numbers_stay(text: str) -> None:
    assert text_cell(text) == text


def test_a_forecast_has_no_formula(tmp_path: Path) -> None:
    values = np.array([[-1.5, 2.0]])
    quantiles = {0.05: values, 0.95: values}
    ahead = SeriesForecast(("=A1", "b"), np.array([1]), values, quantiles, ["@now"])
    ahead.write(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert header == [
        *("time", "'=A1 mean", "'=A1 5%", "'=A1 95%", "b mean", "b 5%", "b 95%"),
    ]
    assert row == ["'@now", "-1.5", "-1.5", "-1.5", "2", "2", "2"]
