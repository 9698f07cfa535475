"""Texts as they lie on the disk: a file, or all files of a folder one after the other."""

from __future__ import annotations

import codecs
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import AnyStr

from bptt.data.input_files import UnchangedFile, system_errors
from bptt.errors import BpttError, counted

BUILT_IN = "pydoc_data.topics"
REMEDIES = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "save the table as .csv",
    (".feather", ".arrow", ".orc", ".h5", ".hdf5"): "save the table as .parquet",
    (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".tar"): "unpack it",
    (".npy",): "save it as y in an .npz file",
    (".pdf", ".docx", ".doc", ".odt", ".epub"): "save it as plain text",
}
"""What to do with files that are no text, by how their names end."""


class TextSource(ABC):
    """A text that is read a block at a time, several times over.

    path: None for the built-in text. size: in bytes. about: what there is to know of it, in
    sentences. It has to stay the same while it is read: BpttError is raised if it changes.
    """

    path: Path | None
    size: int
    about: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What to call it."""
        return BUILT_IN if self.path is None else str(self.path)

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of its bytes, once they have been read."""

    @abstractmethod
    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, or raise BpttError if it cannot be read."""

    @abstractmethod
    def pieces(self) -> Iterator[str]:
        """Yield its text, or raise BpttError where it is not UTF-8."""


def open_text(path: Path | None) -> TextSource:
    """Return the text of a file, of all files in a folder, or the built-in one."""
    if path is not None:
        with system_errors("read", path):
            if path.is_dir():
                return Corpus(path)
    return TextFile(path)


class TextFile(TextSource):
    """A text file, or without a path the built-in text."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file = None if path is None else UnchangedFile(path, "a text file")
        self.size = len(_built_in()) if self.file is None else self.file.size

    @property
    def sha256(self) -> str:
        """Of its bytes, once they have been read."""
        return hashlib.sha256(_built_in()).hexdigest() if self.file is None else self.file.sha256

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, or raise BpttError if it cannot be read."""
        yield from [_built_in()] if self.file is None else self.file.blocks()

    def pieces(self) -> Iterator[str]:
        """Yield its text, or raise BpttError where it is not UTF-8."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        position, line, block = 0, 1, b""
        try:
            for block in self.blocks():
                block = decoder.getstate()[0] + block  # noqa: PLW2901 (what it still holds)
                decoder.reset()
                yield decoder.decode(block)
                done = len(block) - len(decoder.getstate()[0])
                position, line = position + done, line + block.count(b"\n", 0, done)
            block = decoder.getstate()[0]
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise BpttError(
                f"{self.source} is not UTF-8: byte 0x{block[error.start]:02x} at position "
                f"{position + error.start}, line {line}; {self._remedy()}, or train on its bytes "
                "with tokens bytes (--tokens bytes)"
            ) from None

    def _remedy(self) -> str:
        ending = "" if self.path is None else self.path.suffix.lower()
        return next((what for endings, what in REMEDIES.items() if ending in endings), "convert it")


class Corpus(TextSource):
    """The texts below a folder, one after the other, with a line's end between them.

    Their order is that of the SHA-256 of their contents: drawn as if by chance, whatever they are
    called, so that the last tenth is of all kinds. Left out are hidden files and folders, and empty
    files; symbolic links to folders are not followed.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Path = folder
        known = [file for path in _files_below(folder) if (file := _Known(path)).text.size]
        if not known:
            raise BpttError(
                f"{folder} has no text in it; expected files, in it or in folders below (hidden "
                "ones are left out)"
            )
        known.sort(key=lambda file: file.text.sha256)
        self.files = known
        self.size = sum(file.text.size for file in known)
        self.size += sum(not file.ends_line for file in known[:-1])
        self.about = (f"{counted(len(known), 'file')}, in an order drawn from their contents",)

    @property
    def sha256(self) -> str:
        """Of the SHA-256 of its files, in their order."""
        return hashlib.sha256("".join(file.text.sha256 for file in self.files).encode()).hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of all files."""
        return self._joined(lambda text: text.blocks(), b"\n")

    def pieces(self) -> Iterator[str]:
        """Yield the text of all files, or raise BpttError where one is not UTF-8."""
        return self._joined(lambda text: text.pieces(), "\n")

    def _joined(
        self, read: Callable[[TextFile], Iterable[AnyStr]], newline: AnyStr
    ) -> Iterator[AnyStr]:
        for file in self.files:
            yield from read(file.text)
            if not file.ends_line and file is not self.files[-1]:
                yield newline


class _Known:
    """A file that has been read once, so that its SHA-256 is known; and whether it ends a line."""

    def __init__(self, path: Path) -> None:
        self.text, last = TextFile(path), b""
        for block in self.text.blocks():
            last = block[-1:]
        self.ends_line = last == b"\n"


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise BpttError(f"cannot read {error.filename}: {error.strerror}")


def _built_in() -> bytes:
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte that few calls need)

    return "\n".join(topics.values()).encode()
