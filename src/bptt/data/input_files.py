"""Files that others wrote: only regular ones are read, and not more of them than was agreed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from bptt.errors import BpttError, bytes_as_text

BLOCK = 1 << 21
"""Bytes that are read at once."""
FILE_TYPES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def system_errors(action: str, path: str | Path) -> Iterator[None]:
    """Make one BpttError, "cannot ACTION PATH: REASON", of what the system says against a path."""
    try:
        require_name(path)
        yield
    except OSError as error:
        raise BpttError(f"cannot {action} {path}: {error.strerror or error}") from None


def require_name(path: str | Path) -> None:
    """Raise BpttError unless a path can be the name of a file."""
    try:
        has_nul = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        raise BpttError(f"{path} cannot be the name of a file; expected Unicode text") from None
    if has_nul:
        raise BpttError(f"{path} cannot be the name of a file: it has a NUL character in it")


def open_regular(path: str | Path, wanted: str) -> BufferedReader:
    """Open a file to read, or raise BpttError unless it is a regular one.

    Pipes, sockets and devices are refused: they have no end that is known beforehand, and cannot be
    read twice. wanted: what the file should be, such as "a text file".
    """
    path = Path(path)
    with system_errors("read", path):
        try:
            _require_regular(path, path.stat(), wanted)
        except FileNotFoundError:
            raise BpttError(f"no such file: {path}; give the path of {wanted}") from None
        # A pipe that has come into its place since is not waited for.
        no_wait = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, os.O_RDONLY | no_wait), "rb")
        try:
            _require_regular(path, os.fstat(file.fileno()), wanted)
        except BpttError:
            file.close()
            raise
    return file


def _require_regular(path: Path, status: os.stat_result, wanted: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise BpttError(f"{path} is a folder; give the path of {wanted} in it")
    if not stat.S_ISREG(status.st_mode):
        kind = FILE_TYPES.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise BpttError(
            f"{path} is {kind}; expected a regular file: write what it gives into a file first, "
            "and give that"
        )


def read_bytes(path: str | Path, wanted: str, most: int) -> bytes:
    """Return all that is in a regular file, or raise BpttError if that is more than `most`."""
    with open_regular(path, wanted) as file, system_errors("read", path):
        content = file.read(most + 1)
    if len(content) > most:
        raise BpttError(
            f"{path} has more than {bytes_as_text(most)}; expected {wanted}, which is smaller"
        )
    return content


def parse_json(text: str | bytes, source: str) -> Any:
    """Return what a JSON text says, or raise BpttError where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise BpttError(f"{source} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise BpttError(f"{source} cannot be read: {error}") from None


class UnchangedFile:
    """A regular file that is read several times, and has to be the same each time.

    size: in bytes. sha256: of its bytes, once they have all been read.
    """

    def __init__(self, path: Path, wanted: str) -> None:
        self.path, self.wanted = path, wanted
        self.sha256 = ""
        with open_regular(path, wanted) as file:
            self.size = os.fstat(file.fileno()).st_size

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes; raise BpttError at their end if they are not those of the last time."""
        digest, left = hashlib.sha256(), self.size
        with open_regular(self.path, self.wanted) as file, system_errors("read", self.path):
            while left >= 0 and (block := file.read(BLOCK)):
                digest.update(block)
                left -= len(block)
                yield block
        if left != 0 or self.sha256 not in ("", digest.hexdigest()):
            raise BpttError(
                f"{self.path} changed while it was read; wait until it is written, or give a copy"
            )
        self.sha256 = digest.hexdigest()
