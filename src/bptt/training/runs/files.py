"""Files that are written whole or not at all, and never over somebody else's.

Every kind of file that we write begins in a way of its own, its mark. What stands at a path and
does not begin so was written by somebody else, and is neither replaced nor deleted.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bptt.errors import BpttError

REMEDIES: dict[type, str] = {
    FileNotFoundError: "make the folder that it should be in first",
    FileExistsError: "what stands there is no folder, so give another place",
    NotADirectoryError: "a part of the path is a file, so give another place",
    PermissionError: "give a place that you may write to",
}
"""What to do about it, by what the system says."""
HEAD = 4096
"""How many bytes of a file are looked at for its mark."""
TEMPORARY = re.compile(r"\.bptt-(?P<pid>\d+)-[0-9a-f]{16}\.tmp")
FILE_TYPES = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}


@dataclass(frozen=True)
class Mark:
    """How a kind of file of ours begins: with what the pattern matches."""

    pattern: re.Pattern[bytes]

    def is_on(self, path: Path) -> bool:
        """Whether the file at `path` begins so, or is empty: then there is nothing to lose."""
        with path.open("rb") as file:
            head = file.read(HEAD)
        return not head or self.pattern.match(head) is not None


JSON = Mark(re.compile(rb'\{\s*"bptt": "'))
"""config.json of a run, comparison.json, and who holds a lock."""
METRICS = Mark(re.compile(rb'\{"update": \d+, "seconds": '))
FLOW = Mark(re.compile(rb'\{"update": \d+, "horizon": '))
CHECKPOINT = Mark(re.compile(rb'.{8}\{"__metadata__":\{"bptt":', re.DOTALL))
PAGE = Mark(re.compile(rb'.{0,500}<meta name="generator" content="bptt ', re.DOTALL))
FORECAST = Mark(re.compile(rb'[^,\n]*,[^\n]* mean"?,[^\n]* [\d.e-]+%"?'))
"""The heads of a forecast: of each column its mean and its quantiles."""
FINISHED = Mark(re.compile(rb"bptt compare"))
EMPTY = Mark(re.compile(rb"(?!)"))
"""A file that never has any content."""
ALL = (JSON, METRICS, FLOW, CHECKPOINT, PAGE, FORECAST, FINISHED)


def require_ours(path: Path, mark: Mark) -> None:
    """Raise BpttError if something is at `path` that we did not write."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mark.is_on(path):
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    kind = FILE_TYPES.get(stat.S_IFMT(mode), "a device or a pipe")
    raise BpttError(
        f"{path} is {kind} that bptt did not write, so it is left as it is; "
        "move it away, or write to another place (--out)"
    )


def cannot_write(path: Path, error: OSError | ValueError, what: str = "cannot write") -> BpttError:
    """Return what to raise when writing failed."""
    reason = error.strerror if isinstance(error, OSError) else None
    name = str(path) if str(path).isprintable() else repr(str(path))
    remedy = REMEDIES.get(type(error), "")
    return BpttError(f"{what} {name}: {reason or error}{remedy and f'; {remedy}'}")


def write(path: Path, content: str | bytes, mark: Mark) -> None:
    """Write a file, in place of what we wrote there before."""
    with replacing(path, mark) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, mark: Mark) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` once it is whole and on the disk.

    Until then it has a name that no other process uses. Its mode is the umask's.
    """
    require_ours(path, mark)
    temporary = path.with_name(f".bptt-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":
            sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def keep_as(path: Path, name: Path, mark: Mark) -> None:
    """Let a file of ours, if it is there, stay under another name as well, in place of what we had.

    It is the same file under both names until one is replaced, where the system can do that.
    """
    require_ours(path, mark)
    require_ours(name, mark)
    temporary = path.with_name(f".bptt-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        if not path.exists():
            return
        try:
            temporary.hardlink_to(path)
        except (OSError, NotImplementedError):  # not on every file system
            shutil.copyfile(path, temporary)
        temporary.replace(name)
    except OSError as error:
        raise cannot_write(name, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what `replacing` left behind in a folder when its process was killed."""
    for path in folder.iterdir():
        name = TEMPORARY.fullmatch(path.name)
        if name is None or is_alive(int(name["pid"])) or not stat.S_ISREG(path.lstat().st_mode):
            continue
        if any(mark.is_on(path) for mark in ALL):
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if sys.platform == "win32":
        return True  # there is no harmless way to ask
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True
