"""Arrays of any size, in temporary files without a name that are mapped into memory.

What they take of memory does not grow with them. Set TMPDIR if the usual folder for temporary
files has little room, or is memory itself.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from io import FileIO
from typing import BinaryIO, cast

import numpy as np

from bptt.errors import BpttError, bytes_as_text, memory_here

MOST_PACKED = 20
"""How many times its own size a file may always unpack to."""
MORE_ROOM = "set TMPDIR to a folder with more room"


def spool(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Write blocks of rows, of one dtype, into a temporary file, and map it.

    Every byte is written: where a file has only been made longer, a full disk shows when the array
    is used, and ends the process. BpttError is raised if there is no room.
    """
    count, block = 0, np.empty((0, 1), np.int64)
    with _temporary_file() as file:
        for block in blocks:
            _write(file, np.ascontiguousarray(block))
            count += len(block)
        shape = (count, *block.shape[1:])
        return _mapped(file, block.dtype, shape) if 0 not in shape else np.empty(shape, block.dtype)


def require_unpackable(what: str, unpacked: int, packed: int) -> None:
    """Raise BpttError if a packed file would take more room than it may, or than there is.

    It may unpack to half of this machine's memory, or to 20 times its size if that is more.
    """
    most = max((memory_here() or 1 << 33) // 2, MOST_PACKED * packed)
    if unpacked > most:
        raise BpttError(
            f"{what} unpacks to {bytes_as_text(unpacked)}; expected at most {bytes_as_text(most)}, "
            "as much as this machine bears: save it without packing it, or in parts"
        )
    require_room(f"{what}, unpacked,", unpacked)


def require_room(what: str, size: int) -> None:
    """Raise BpttError unless the folder for temporary files has room for `size` bytes."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _no_temporary_files(error) from None
    if size > free:
        raise BpttError(
            f"{what} takes {bytes_as_text(size)} of temporary files; {folder} has "
            f"{bytes_as_text(free)} left: {MORE_ROOM}"
        )


def _temporary_file() -> FileIO:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _no_temporary_files(error) from None


def _no_temporary_files(error: OSError) -> BpttError:
    return BpttError(f"no temporary file can be made: {error.strerror}; {MORE_ROOM}")


def _write(file: FileIO, block: np.ndarray) -> None:
    """Write all of a block, or raise BpttError."""
    rest = block.reshape(-1).view(np.uint8).data
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise BpttError(
            f"a temporary file in {tempfile.gettempdir()} cannot be written after "
            f"{bytes_as_text(file.tell())}: {error.strerror}; {MORE_ROOM}"
        ) from None


def _mapped(file: FileIO, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.asarray(np.memmap(cast(BinaryIO, file), dtype, "r+", 0, shape))
    except OSError as error:
        raise BpttError(
            f"a temporary file in {tempfile.gettempdir()} cannot be mapped: {error.strerror}"
        ) from None
