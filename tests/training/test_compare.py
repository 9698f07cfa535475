from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import bptt
from bptt.cli import main
from bptt.forecasting.one_step_ahead import one_step_ahead
from bptt.training.children import PARENT, Children
from bptt.training.compare import (
    FINISHED,
    Comparison,
    Outcome,
    _claim,
    compare,
    comparison_of_flags,
    read_comparison,
    summary,
)
from bptt.training.runs.locks import locked
from bptt.training.runs.result import Measured, Result
from tests.commands import says

COMMON = {"length": 20, "max-updates": 20, "validate-every": 10, "stop-when-solved": False}


def small(**more: object) -> Comparison:
    settings = {"tanh": {"hidden": 8}, "gates": {"cell": "gru", "hidden": 4}}
    return Comparison(
        **{"data": "task:flipflop", "seeds": (0, 1), "common": COMMON, "settings": settings, **more}
    )


@pytest.fixture
def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every run in this process, one after the other: another would import torch again.

    The tests of what signals do have real processes.
    """
    one_at_a_time = threading.Lock()  # what they print is caught for the whole process

    def run(self: Children, arguments: list[str]) -> tuple[int, str]:
        with one_at_a_time:
            status, _, errors = says(*arguments)
        return status, errors

    monkeypatch.setattr(Children, "run", run)


@pytest.mark.usefixtures("without_processes")
def test_every_setting_with_every_seed(tmp_path: Path):
    seen: list[Outcome] = []
    found = compare(small(), tmp_path / "cmp", cores=2, on_outcome=seen.append)
    assert [(one.name, one.seed) for one in found] == [
        ("tanh", 0),
        ("gates", 0),
        ("tanh", 1),
        ("gates", 1),
    ]
    assert {(one.name, one.seed) for one in seen} == {(one.name, one.seed) for one in found}
    for one in found:
        run = bptt.Run.open(tmp_path / "cmp" / one.name / f"seed-{one.seed}")
        assert run.config["seed"] == one.seed
        assert run.config["network"]["cell"] == ("gru" if one.name == "gates" else "tanh")
        assert run.settings().stop_when_solved is False
        rows = [row for row in run.metrics() if "validation_nll" in row]
        assert one.loss == rows[-1]["validation_nll"]
        assert one.updates == 20
        assert one.solved is False
        assert one.before is not None
        assert one.after is not None
    # Asked for again, nothing is run again.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cmp").rglob("metrics.jsonl")}
    assert compare(small(), tmp_path / "cmp", cores=1) == found
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cmp").rglob("metrics.jsonl")} == before
    with pytest.raises(bptt.BpttError, match="a comparison with other settings"):
        compare(small(seeds=(0,)), tmp_path / "cmp")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (r'"bptt": ".*",\s*', "", "comparison.json is a file that bptt did not write"),
        (r'"bptt": ".*"', '"bptt": null', "comparison.json is a file that bptt did not write"),
        (r'"bptt": (".*"),\s*("data": .*),', r'\2, "bptt": \1,', "that bptt did not write"),
        (r'"bptt": ".*"', '"bptt": "0.0.1"', None),
        (r'"length": 20', '"length": 21', "a comparison with other settings"),
        (r"\}\s*$", "", "comparison.json cannot be read"),
    ],
)
def test_a_comparison_goes_on_from_a_file_of_ours_that_says_the_same(
    tmp_path: Path, before: str, after: str, words: str | None
):
    """Whatever version of ours wrote it; one without our mark is not ours, though it says so."""
    path, what = tmp_path / "comparison.json", small()
    _claim(tmp_path, what)
    text = re.sub(before, after, path.read_text(), count=1)
    assert text != path.read_text()
    path.write_text(text)
    if words is None:
        _claim(tmp_path, what)
    else:
        with pytest.raises(bptt.BpttError, match=words):
            _claim(tmp_path, what)
    assert path.read_text() == text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_its_runs_end_with_it_and_go_on_when_it_is_asked_again(
    tmp_path: Path, request: pytest.FixtureRequest, number: int, status: int
):
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'data = "task:flipflop"\nseeds = [0]\n[common]\nlength = 20\nhidden = 8\n'
        "max-updates = 300\nvalidate-every = 50\nstop-when-solved = false\n[settings.plain]\n"
    )
    command = [sys.executable, "-m", "bptt", "compare", str(spec), "--out", str(tmp_path / "cmp")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    folder = tmp_path / "cmp" / "plain" / "seed-0"
    metrics = folder / "metrics.jsonl"
    for _ in range(2400):  # to the second, since a row is written before its checkpoint is
        if metrics.exists() and '"update": 100,' in metrics.read_text():
            break
        time.sleep(0.05)
    with pytest.raises(bptt.BpttError, match="cmp is in use by process"):
        compare(read_comparison(spec), tmp_path / "cmp")
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (status, b"")
    for _ in range(100):  # the run's process ends with it, but is not waited for after SIGKILL
        try:
            with locked(folder):
                break
        except bptt.BpttError:
            time.sleep(0.05)
    assert not (folder / FINISHED).exists()
    update = bptt.Run.open(folder).load()[1]["update"]
    assert update >= 50
    if number == signal.SIGTERM:
        return
    request.getfixturevalue("without_processes")
    (outcome,) = compare(read_comparison(spec), tmp_path / "cmp")
    assert outcome.updates <= 300
    updates = [json.loads(line)["update"] for line in metrics.read_text().splitlines()]
    assert updates == sorted(set(updates))
    assert updates[-1] == 300


@pytest.mark.parametrize("how", ["pipe", "orphan"])
def test_a_child_ends_with_its_parent_where_there_is_no_signal_for_it(how: str):
    """By the pipe that it watches; or at once, if the parent was gone before it could ask."""
    lines = ["import time", "from bptt.training import children"]
    if how == "pipe":
        lines.append("children._killed_with_parent = lambda: False")
    lines += ["children.end_with_parent()", "time.sleep(20)"]
    parent = os.getpid() if how == "pipe" else 1
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, PARENT: str(parent)},
        stdin=subprocess.PIPE,
    ) as process:
        if how == "pipe":
            process.stdin.close()
        assert process.wait(15) == 143


@pytest.mark.usefixtures("without_processes")
def test_a_setting_that_bptt_train_refuses_is_named(tmp_path: Path):
    what = small(settings={"odd": {"cell": "lstm", "omega": 1}}, seeds=(3,))
    with pytest.raises(bptt.BpttError, match='odd, seed 3: omega is given with cell "lstm"'):
        compare(what, tmp_path / "cmp")


def test_the_table_has_medians_and_shares():
    def outcome(seed: int, solved: bool, loss: float, updates: int) -> Outcome:
        return Outcome("a", seed, solved, loss, updates, 1.0, 5, 10 + seed)

    several = [outcome(0, True, 1.0, 100), outcome(1, False, 3.0, 900), outcome(2, True, 2.0, 300)]
    several.append(Outcome("b", 0, None, 4.0, 50, 1.0, None, None))
    _, a, b = summary(several)
    assert a == ["a", "3", "2 of 3", "2", "200", "5", "11"]
    assert b == ["b", "1", "", "4", "", "", ""]


def table_file(folder: Path) -> str:
    random, t = np.random.default_rng(0), np.arange(80)
    rows = zip(50 + 9 * np.sin(t / 2), np.cumsum(random.normal(size=80)), strict=True)
    (folder / "t.csv").write_text("a,b\n" + "".join(f"{a:.5f},{b:.5f}\n" for a, b in rows))
    return str(folder / "t.csv")


@pytest.mark.usefixtures("without_processes")
def test_runs_on_a_table_tell_their_errors_in_its_units(tmp_path: Path):
    common = {"hidden": 4, "max-updates": 6, "validate-every": 2, "window": 10}
    settings = {"last": {"keep": "last"}, "b": {"target": "b"}}
    what = Comparison(table_file(tmp_path), (0,), common, settings)
    outcomes = compare(what, tmp_path / "cmp", cores=1)
    expected = {}
    for one in outcomes:
        run = bptt.Run.open(tmp_path / "cmp" / one.name / "seed-0")
        data = run.read_data()
        errors = one_step_ahead(run.network(last=one.name == "last"), data)
        expected[one.name] = dict(zip(errors.names, errors.network, strict=True))
        for column, error, before in zip(*vars(errors).values(), strict=True):
            (measured,) = [value for value in one.result.values if value.name == column]
            assert (measured.value, measured.simple) == (pytest.approx(error), before)
    before = np.sqrt((np.diff(data.levels[data.cut - 1 :, 0]) ** 2).mean())  # of b
    (tmp_path / "t.csv").unlink()  # asked for again, the data is not read
    again = compare(what, tmp_path / "cmp")
    assert again == outcomes
    heads, *rows = summary(again)
    assert heads == ["setting", "runs", "loss", "a: RMSE", "b: RMSE", "horizon before", "and after"]
    assert [row[0] for row in rows] == ["last", "b", "the value before"]
    for row in rows[:2]:
        cells = [f"{expected[row[0]][k]:.4g}" if k in expected[row[0]] else "" for k in "ab"]
        assert row[3:5] == cells
    assert rows[2][1:3] == ["", ""]
    assert float(rows[2][4]) == pytest.approx(before, rel=1e-3)
    result = tmp_path / "cmp" / "last" / "seed-0" / "result.json"
    result.write_text(result.read_text().replace('"updates": 6', '"updates": 5'))
    assert compare(what, tmp_path / "cmp")[0].result is None  # it is of an earlier end
    result.write_text('{"bptt": "0.1.0", "updates": 40}')
    with pytest.raises(bptt.BpttError, match=r"result.json has no measure; expected a text"):
        compare(what, tmp_path / "cmp")


@pytest.mark.usefixtures("without_processes")
def test_texts_compare_by_bytes_whatever_their_tokens_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("Öfter übt früh, wer spät übt, größere Läufe. " * 40)
    common = "--hidden 4 --batch 2 --window 5 --max-updates 4"
    settings = [f"{kind}: --tokens {kind}" for kind in ("characters", "bytes")]
    flags = [part for setting in settings for part in ("--setting", setting)]
    arguments = ["compare", "text", "--common", common, *flags, "--seeds", "1", "--out", "cmp"]
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    page = Path("cmp/report.html").read_text(encoding="utf-8")
    assert "<th>bits per byte</th>" in page
    assert "so that texts that are cut into other tokens compare" in page
    for kind in ("characters", "bytes"):
        run = bptt.Run.open(Path("cmp", kind, "seed-0"))
        text, bits = run.read_data(), run.best_row()["validation_nll"] / math.log(2)
        tail = run.vocabulary.decode(text.validation.tolist())
        size = len(tail.encode()) / len(text.validation)
        assert size == (1 if kind == "bytes" else pytest.approx(text.bytes_per_token))
        assert f" {bits / size:.4g} " in out
        assert f"<td>{bits / size:.4g}</td>" in page


def test_of_many_columns_there_is_the_median_in_units_of_the_value_before():
    def outcome(name: str, result: Result | None) -> Outcome:
        return Outcome(name, 0, None, 1.0, 9, 1.0, None, None, result)

    values = tuple(Measured(name, k + 1.0, 2.0) for k, name in enumerate("abcd"))
    several = outcome("several", Result(9, "RMSE", values, "the value before"))
    right = outcome("right", Result(9, "right", (Measured("", 0.75, 0.5),), "the commonest class"))
    heads, *rows = summary([several, right, outcome("none", None)])
    assert heads == ["setting", "runs", "loss", "RMSE / that of the value before", "right"]
    assert [row[3:5] for row in rows] == [
        ["1.25", ""],
        ["", "0.75"],
        ["", ""],
        ["1", ""],
        ["", "0.5"],
    ]
    assert [row[0] for row in rows[3:]] == ["the value before", "the commonest class"]
    other = outcome("other", Result(9, "right", (Measured("", 0.7, 0.6),), "the commonest class"))
    assert summary([right, other])[-1][3] == "0.5 to 0.6"


def test_flags_of_the_command_line():
    found = comparison_of_flags(
        "task:order", ["plain:", "with: --omega 0.5 --no-such=1"], "--length 50 --report-not", 2
    )
    assert found.settings == {"plain": {}, "with": {"omega": "0.5", "no-such": "1"}}
    assert found.common == {"length": "50", "report-not": True}
    assert found.seeds == (0, 1)
    (first, *_) = found.jobs(Path("x"))
    assert first.arguments == ["task:order", "--length", "50", "--report-not", "--seed", "0"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"settings": {}}, "at least one setting"),
        ({"seeds": ()}, "expected at least one"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"settings": {"../a": {}}}, "called '../a'"),
        ({"common": {"out": "x"}}, "out is among the flags"),
    ],
)
def test_comparisons_that_make_no_sense(more, words):
    with pytest.raises(bptt.BpttError, match=words):
        small(**more)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data = ", "is no TOML"),
        ("dta = 'x'", "has dta; expected common, data, seeds, settings"),
        ("seeds = 3\n[settings.a]", "seeds are 3"),
        ("common = 3\n[settings.a]", r"expected \[common\]"),
        ("[settings]\na = 3", r"expected \[common\]"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text, words):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(bptt.BpttError, match=words):
        read_comparison(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.toml"], "no such file: gone.toml; give the path of a comparison"),
        (["gone.toml", "--common", "--hidden 3"], "--common is for data with settings as flags"),
        (["task:order"], "at least one setting"),
        (["task:order", "--setting", "plain"], "expected NAME:"),
        (["task:order", "--setting", "a: 3"], "expected --FLAG VALUE"),
        (["task:order", "--setting", "a:", "--seeds", "0"], "seeds is 0"),
        (["task:order", "--setting", "a:", "--cores", "0"], "cores is 0"),
        (["task:ordr", "--setting", "a:", "--seeds", "1"], "did you mean order?"),
    ],
)
def test_the_command_complains_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    _, err = capsys.readouterr()
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("without_processes")
def test_the_command_prints_a_table_and_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = "--length 20 --max-updates 40 --validate-every 20 --hidden 4"
    settings = ["--setting", "plain:", "--setting", "clipped: --clip 0.1"]
    assert main(["compare", "task:sine", "--common", common, *settings, "--seeds", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "clipped, seed 0: loss" in out
    assert "0 of 1" in out
    page = (tmp_path / "runs" / "compare-task-sine" / "report.html").read_text(encoding="utf-8")
    assert "<td>clipped</td><td>1</td><td>0 of 1</td>" in page
    assert "How near they came to solving the task" in page
    assert "without memory: " in page
