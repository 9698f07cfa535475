"""Random command lines, in process: each ends well, or with one line that says why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.cli import app
from tests.commands import DATA, says, write_runs
from tests.fuzz.campaign import fuzz

HOSTILE = [
    *("", " ", "-", "--", "-1", "0", "1", "2", "3", "1.5", "1e400", "nan", "inf", "-inf", "none"),
    *("9" * 30, "9" * 5000, "a" * 300, "[bold]", "[/red]", "a: 'q", "a:", "b: --hidden 2", "\0"),
    *("\udc80", "\ud800", "🙂", "e\u0301", "sub/x", "/dev/null/x", ".", "text.txt", "table.csv"),
    *("task:copy", "task:", "it.toml", "1,2", ",", "load", "wind", "day", "to be", "5-9", "9-5"),
    *("64MB", "yes", "{}", '{"a": 1}', "%s", "{0}", "$(x)", "a\nb", "--hidden", "--help", "auto"),
    *("gru", "fixed", "mean", "linear"),
]
"""What is typed in place of a value."""


@pytest.fixture(scope="module", autouse=True)
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("fuzzed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        write_runs(folder)
        (folder / "it.toml").write_text('data = "text.txt"\n[settings.a]\nhidden = 2.5\n')
        yield


def options_of(command: str) -> list[str]:
    arguments = app[command].assemble_argument_collection()
    return sorted({name for one in arguments for name in one.names if name.startswith("--")})


OPTIONS = {
    command: options_of(command) for command in ("train", "generate", "flow", "compare", "bench")
}
SUBJECTS = {
    "train": [*DATA.values(), "text", "nowhere"],
    "generate": [*DATA, "nowhere", "text.txt"],
    "flow": [*DATA, "nowhere"],
    "compare": [*DATA.values(), "it.toml", "nowhere.toml"],
    "bench": [],
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command with some of its options and values, most of them odd."""
    command = draw(st.sampled_from(["generate"] * 8 + ["flow", "compare", "bench", "train", "x"]))
    options = OPTIONS.get(command, ["--x"])
    values = st.sampled_from(HOSTILE) | st.text(max_size=5)
    words = [draw(st.sampled_from(SUBJECTS[command]))] if SUBJECTS.get(command) else []
    if draw(st.integers(0, 9)) == 0:
        words = [draw(values)]
    for _ in range(draw(st.integers(0, 3))):
        words.append(draw(st.sampled_from(options)))
        if draw(st.integers(0, 5)):
            words.append(draw(values))
    return [command, *words]


def bounded(line: list[str]) -> list[str]:
    """Return the command line with work that ends soon: what would train takes no step."""
    command, *words = line
    endless = [word for word in words if word.isdigit() and len(word) > 4]
    words = [word for word in words if word not in endless or command in ("train", "compare")]
    for option in ("--max-updates", "--lengths", "--epochs", "--resume"):
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    if command == "train":
        words += ["--max-updates", "0"]
    if command == "bench":
        words += ["--lengths", "bad"]
    if command == "compare":
        words += ["--common", "--hidden 2.5"]  # no setting can be trained
    if command == "generate" and "--steps" not in words:
        words += ["--steps", "3"]
    return [command, *words]


@fuzz(0.2)
@given(command_lines())
def test_every_command_line_ends_well_or_says_why(line: list[str]) -> None:
    line = bounded(line)
    status, _, err = says(*line)
    assert status in (0, 2), (line, status)
    assert "Traceback" not in err, line
    if status == 2:
        assert err.count("\n") == 1, (line, err)
        assert err.startswith("bptt: "), (line, err)
        assert len(err) < 1500, (line, err)
    else:
        assert err == "", (line, err)
    for folder in ("runs", "nowhere"):
        shutil.rmtree(Path(folder), ignore_errors=True)
