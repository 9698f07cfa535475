"""What 'bptt train' and 'bptt generate' say of a table, and what they are told of it."""

from __future__ import annotations

import shlex
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from bptt.cli import main
from bptt.training.runs.run import Run

SMALL = ["--hidden", "4", "--window", "10", "--max-updates", "2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(days: list[str], name: str = "t.csv") -> None:
    rows = "".join(f"{k};{day};{k % 7},5;x\n" for k, day in enumerate(days))
    Path(name).write_text("Unnamed: 0;day;v;note\n" + rows)


MONTHS = [f"01/{k % 12 + 1:02d}/{2015 + k // 12}" for k in range(60)]


def test_what_is_modelled_is_said_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    write(MONTHS[:30] + MONTHS[32:])
    train = ["train", "t.csv", *SMALL, "--time", "day"]
    assert main(train) == 2
    assert "say which with time_format (--time-format)" in capsys.readouterr().err
    assert main([*train, "--time-format", "%d/%m/%Y"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:6] == [
        "t.csv: 53 steps to train on",
        "  written with separator ';', decimal comma",
        "  target: v",
        "  left out: Unnamed: 0 (has no name), note (is text, such as 'x')",
        "  58 rows, from 01/01/2015 to 01/12/2019 (column day, as %d/%m/%Y), every month, on day 1",
        "  2 steps are missing, the first after 01/06/2017; the rows around are taken as "
        "neighbours, or --fill puts them in",
    ]
    assert main(["generate", "runs/t-1", "--steps", "3", "--out", "f.csv"]) == 0
    dates = [line.split(",")[0] for line in Path("f.csv").read_text().splitlines()]
    assert dates == ["time", "01/01/2020", "01/02/2020", "01/03/2020"]
    assert main(["train", "--resume", "runs/t-1", "--max-updates", "3"]) == 0


@pytest.mark.parametrize("name", ["day", "a day", "--time", "it's"])
def test_the_option_that_is_named_works_as_it_is_typed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"2020-01-{k:02d},{k % 5}\n" for k in range(1, 31))
    Path("t.csv").write_text(f"{name},v\n{rows}")
    assert main(["train", "t.csv", *SMALL]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    option = line.partition("holds times: ")[2].removesuffix(" makes it the time)")
    assert main(["train", "t.csv", *SMALL, *shlex.split(option)]) == 0
    assert "every day" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d/%m/%Y"])
def test_rows_that_are_not_sorted_by_a_time_left_out(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [f"{np.datetime64('2020-01-01') + k}" for k in range(60)]
    for some, is_sorted in ((days, True), (days[::-1], False)):
        rows = "".join(
            f"{date.fromisoformat(d).strftime(form)},{len(d) * k % 7}\n" for k, d in enumerate(some)
        )
        Path("t.csv").write_text(f"day,v\n{rows}")
        assert main(["train", "t.csv", *SMALL]) == 0
        assert ("by which the rows are not sorted" in capsys.readouterr().out) != is_sorted


def test_a_day_that_comes_twice_is_no_matter_of_zones(capsys: pytest.CaptureFixture[str]) -> None:
    for clock, hint in (("", False), (" 02:00", True)):
        rows = "".join(f"2020-01-{k:02d}{clock},{k % 5}\n" * 2 for k in range(1, 31))
        Path("t.csv").write_text(f"day,v\n{rows}")
        assert main(["train", "t.csv", *SMALL, "--time", "day"]) == 2
        assert ("--time-zone" in capsys.readouterr().err) == hint


def test_what_is_told_is_kept_in_the_run() -> None:
    write(MONTHS[:20] + MONTHS[32:])
    told = ["--time", "day", "--time-format", "%d/%m/%Y", "--fill", "linear", "--missing", "x,y"]
    told += ["--decimal", ",", "--separator", ";", "--header", "--encoding", "utf-8"]
    assert main(["train", "t.csv", *SMALL, *told]) == 2  # a gap of 12, and a window of 10
    assert main(["train", "t.csv", *SMALL, *told, "--longest-gap", "12"]) == 0
    table = Run.open("runs/t-1").read_data()
    assert table.columns.longest_gap == 12  # type: ignore[attr-defined]
    assert table.columns.dialect.missing == ("x", "y")  # type: ignore[attr-defined]
    assert len(table.y) == 60  # type: ignore[attr-defined]


def test_steps_that_fit_no_calendar_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    days = np.datetime64("2020-01-01") + np.cumsum([1, 5, 3, 11, 2, 9, 4, 1, 7, 3, 1, 30])
    write([str(day) for day in days])
    assert main(["train", "t.csv", *SMALL, "--time", "day"]) == 0
    assert "not evenly spaced: each row is a step all the same" in capsys.readouterr().out
    assert main(["generate", "runs/t-1", "--steps", "3"]) == 0
    assert "column 'day' is not evenly spaced; the steps ahead are" in capsys.readouterr().out


def test_large_numbers_in_a_collection(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("c.npz", y=1e6 + np.random.default_rng(0).normal(size=(20, 12, 2)))
    assert main(["train", "c.npz", *SMALL]) == 2
    assert "(--standardise)" in capsys.readouterr().err
    assert main(["train", "c.npz", *SMALL, "--standardise"]) == 0
    assert main(["train", "c.npz", *SMALL, "--no-standardise"]) == 0
    assert main(["train", "--resume", "runs/c-1", "--max-updates", "3"]) == 0
    write(MONTHS)
    assert main(["train", "t.csv", *SMALL, "--standardise"]) == 2
    assert "--standardise is for collections (.npz); t.csv is none" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--decimal", ","], ["--header"], ["--missing", "x"]])
def test_options_of_tables_are_refused_elsewhere(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_text("to be or not to be" * 100)
    assert main(["train", "t.txt", *SMALL, *option]) == 2
    assert f"{option[0]} is for tables" in capsys.readouterr().err
