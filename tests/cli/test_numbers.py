"""Every option of every command with a number that nothing has room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bptt.cli import app, main

SMALL = ("--hidden", "3", "--batch", "2", "--window", "5", "--max-updates", "1")
USUAL = {
    "train": ["train", "text", *SMALL],
    "generate": ["generate", "run", "--steps", "3"],
    "flow": ["flow", "run", "--steps", "20"],
}


def options(command: str) -> list[str]:
    """Return all that take a value."""
    arguments = app[command].assemble_argument_collection()
    return [one.name for one in arguments if one.name.startswith("--") and one.hint is not bool]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "text").write_text("to be, or not to be: that is the question\n" * 4)
    assert main(["train", str(folder / "text"), *SMALL, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000])
@pytest.mark.parametrize(
    ("command", "option"), [(command, one) for command in USUAL for one in options(command)]
)
def test_a_number_of_many_digits_is_taken_or_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    option: str,
    value: str,
) -> None:
    arguments = list(USUAL[command])
    if option in arguments:
        at = arguments.index(option)
        del arguments[at : at + 2]
    if command == "train" and option not in ("--out", "--resume"):
        arguments += ["--out", str(tmp_path / "out")]
    status = main([*arguments, f"{option}={value}"])
    error = capsys.readouterr().err
    assert status == (2 if error else 0)
    assert error.count("\n") == (status == 2)
    assert error.rstrip("\n").isprintable()
