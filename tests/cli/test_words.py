"""Names of files as they are printed: on their line, with nothing that a terminal or rich obeys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.cli.words import shell_word

NAMES = [
    "plain",
    "a b",
    "it's",
    "[red]x",
    ":smile:",
    "a\nb",
    "\x1b[31mred\x07",
    "\u202eab",
    "\\'\n",
]
SMALL = ["--hidden", "3", "--batch", "2", "--window", "5", "--max-updates", "1"]


@pytest.mark.parametrize("name", [*NAMES, "\udcff", "$HOME\n`id`"])
def test_a_shell_takes_it_for_that_name(name: str) -> None:
    word = shell_word(Path(name))
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout.decode(errors="surrogateescape") == name


@pytest.mark.parametrize("name", NAMES)
def test_every_command_prints_names_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.txt").write_text("to be, or not to be: that is the question\n" * 4)
    printable = name.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    printable = printable.replace("\u202e", "\\u202e")
    assert main(["train", f"{name}.txt", *SMALL, "--out", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{printable}.txt: ")
    assert f"The run is in {printable}. Try next:" in lines
    assert f"  bptt flow {shell_word(Path(name))}" in lines
    assert main(["train", f"{name}.txt", *SMALL, "--out", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bptt: {printable} ")
    assert error[:-1].isprintable()


def test_a_page_is_named_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("to be, or not to be: that is the question\n" * 4)
    assert main(["train", "text", *SMALL, "--out", "[red]\x1b[31m\n"]) == 0
    assert main(["flow", "[red]\x1b[31m\n", "--steps", "10", "--out", "[b]\n.html"]) == 0
    assert "The pictures are in [b]\\n.html" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127])
def test_a_folder_is_named_after_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("to be, or not to be: that is the question\n" * 4)
    assert main(["train", name, *SMALL]) == 0
    assert [path.name for path in Path("runs").iterdir()] == [f"{name[:60]}-1"]


@pytest.mark.parametrize("option", ["--out", "--resume", "data"])
@pytest.mark.parametrize(
    "name", ["a" * 300, "a\0b", "a/" * 3000, "text/below", "/proc/none/a", "\ud800"]
)
def test_paths_that_cannot_be_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("to be, or not to be: that is the question\n" * 4)
    arguments = {
        "--out": ["text", *SMALL, "--out", name],
        "--resume": ["--resume", name],
        "data": [name, *SMALL],
    }
    assert main(["train", *arguments[option]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bptt: ")
    assert error[:-1].isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]
