"""Files that are not what they say, or not what they were a moment ago."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import bptt
from bptt import BpttError
from bptt.data import input_files
from bptt.data.input_files import UnchangedFile, open_regular, parse_json, read_bytes
from bptt.data.tables.table_reader import read_table

READERS: dict[str, Callable[[Path], object]] = {
    "text": bptt.read_text,
    "bytes": lambda path: bptt.read_text(path, "bytes"),
    "collection": bptt.read_collection,
    "table": read_table,
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


NOT_REGULAR: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (_pipe, "is a pipe; expected a regular file: write what it gives into a file first"),
    "socket": (_socket, "is a socket; expected a regular file"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "is a device; expected a regular file"),
    "folder": (lambda path: path.mkdir(), "is a folder; give the path of"),
    "absent": (lambda path: None, "no such file: "),
    "circle": (lambda path: path.symlink_to(path), "cannot read .*: Too many levels of symbolic"),
}
NO_NAMES = {
    "long": ("a" * 300, "cannot read a*: File name too long"),
    "deep": ("a/" * 3000, "cannot read .* … .*: File name too long"),
    "nul": ("a\0b", r"a.+b.*, with a NUL character"),
    "surrogate": ("a\ud800", r"a\\ud800 cannot be the name of a file; expected Unicode text"),
    "lines": ("a\n\x1b[31mb", r"no such file: a\\n\\x1b\[31mb; give the path of"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NOT_REGULAR)
def test_only_regular_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, complaint = NOT_REGULAR[kind]
    if kind == "folder" and reader in ("text", "bytes"):
        complaint = "has no text in it; expected files"  # of which all are read
    path = Path("data.csv")
    make(path)
    with pytest.raises(BpttError, match=complaint):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NO_NAMES)
def test_what_cannot_be_a_name_is_one_line(reader: str, kind: str) -> None:
    name, complaint = NO_NAMES[kind]
    with pytest.raises(BpttError, match=complaint):
        READERS[reader](Path(name))


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    regular = (tmp_path / "file").stat()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "stat", lambda self, **_: regular)
    with pytest.raises(BpttError, match="is a pipe"):
        open_regular(tmp_path / "pipe", "a file")


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
@pytest.mark.parametrize("tokens", ["characters", "bytes"])
@pytest.mark.parametrize("opened", [1, 2, 3])
def test_a_text_that_changes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, tokens: str, opened: int
) -> None:
    """It changes when it is opened for the second time, or the third, or the fourth."""
    path, before, opens = tmp_path / "text", "abc" * 100, []
    path.write_text(before)
    after = {"longer": before + "d", "shorter": before[:-1], "other": before[:-1] + "d"}

    def open_and_change(*arguments: str) -> object:
        opens.append(None)
        if len(opens) == 1 + opened:
            _ = path.write_text(after[change]) if change in after else path.unlink()
        return open_regular(*arguments)

    monkeypatch.setattr(input_files, "open_regular", open_and_change)
    if opened > 1 and tokens == "bytes":  # it is read once, so that it is whatever it then was
        assert "".join(bptt.read_text(path, tokens).vocabulary.decode([97])) == "a"
        return
    if change == "other" and opened == 1:  # no pass has seen what it was
        assert bptt.read_text(path, tokens).training[0] >= 0
        return
    with pytest.raises(BpttError, match=r"changed while it was read; wait|no such file"):
        bptt.read_text(path, tokens)


def test_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    file = UnchangedFile(tmp_path / "file", "a file")
    assert [b"".join(file.blocks()) for _ in range(2)] == [b"abc", b"abc"]
    (tmp_path / "file").write_bytes(b"abd")
    with pytest.raises(BpttError, match="changed while it was read"):
        list(file.blocks())


def test_a_small_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_bytes(tmp_path / "file", "a file", 3) == b"abc"
    with pytest.raises(BpttError, match="has more than 2 bytes; expected a note, which is smaller"):
        read_bytes(tmp_path / "file", "a note", 2)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10_000, '{"a":' * 10_000, "9" * 5000, b"\xff\xfe\x00", "nul\0"]
)
def test_what_is_no_json_is_one_line(text: str | bytes) -> None:
    with pytest.raises(BpttError, match="the notes cannot be read: "):
        parse_json(text, "the notes")


def test_a_message_is_one_printable_line_of_bounded_length() -> None:
    name = "x\r\ny\x1b]0;z\x07\u202e\ud800" + "n" * 5000
    message = str(BpttError(f"no such file: {name}"))
    assert message.isprintable()
    assert message.startswith(r"no such file: x\r\ny\x1b]0;z\x07\u202e\ud800nnn")
    assert len(message) < 2010
