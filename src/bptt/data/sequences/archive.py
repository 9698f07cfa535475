"""Arrays in a .npz file, mapped from temporary files: no more than its headers say, and it holds.

A .npz file is a ZIP archive of .npy members. Nothing of what it says about itself is believed: not
the sizes, not the shapes, not how it is packed.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from bptt.data.input_files import open_regular, system_errors
from bptt.data.spool import require_room, require_unpackable, spool
from bptt.errors import BpttError

CHUNK = 1 << 20
LONGEST_HEADER = 10_000
"""Bytes, as numpy has it."""
VERSIONS = ((1, 0), (2, 0), (3, 0))
MOST_SIZE = 1 << 48
MOST_DIMENSIONS = 64
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as numpy.savez and savez_compressed write
# What zipfile raises for what is no ZIP archive, or damaged, or of a kind that it cannot read.
BAD_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
# What numpy raises for a header that is none; it has Python parse it.
BAD_HEADER = (
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
)


def read_arrays(path: Path, names: Sequence[str]) -> tuple[str, dict[str, np.ndarray]]:
    """Return the SHA-256 of a .npz file, and those of its arrays that are named and in it.

    Arrays that are packed may unpack to half of this machine's memory, or to 20 times the size of
    the archive if that is more; those that are not are as large as they are. BpttError is raised
    for larger ones, and where the file is damaged, encrypted, or holds anything but numbers.
    """
    with open_regular(path, "a .npz file") as file, system_errors("read", path):
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(path, archive, names)
                _require_sizes(path, members, size)
                return sha256, {
                    name: _read_member(f"{name} in {path}", archive, member)
                    for name, member in members.items()
                }
        except BpttError:
            raise
        except zipfile.BadZipFile as error:
            raise BpttError(
                f"{path} is no .npz file, or damaged ({error}); write one with numpy.savez"
            ) from None
        except BAD_ARCHIVE as error:
            raise BpttError(f"cannot read {path}: {error}; write it with numpy.savez") from None


def names_in(path: Path) -> set[str]:
    """Return the names of the arrays in a .npz file; none where it cannot be read."""
    try:
        with open_regular(path, "a .npz file") as file, zipfile.ZipFile(file) as archive:
            return {member.filename.removesuffix(".npy") for member in archive.infolist()}
    except (*BAD_ARCHIVE, OSError):  # BpttError among them; who reads the arrays says why
        return set()


def _members(
    path: Path, archive: zipfile.ZipFile, names: Sequence[str]
) -> dict[str, zipfile.ZipInfo]:
    """Return the members that are named, or raise BpttError if one cannot be an array."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in names or name == member.filename:
            continue
        if name in members:
            raise BpttError(f"{path} has {name} twice; write it again with numpy.savez")
        if member.flag_bits & 1:
            raise BpttError(f"{name} in {path} is encrypted; write it with numpy.savez")
        if member.compress_type not in PACKED:
            raise BpttError(f"{name} in {path} is packed as numpy.savez_compressed never does")
        members[name] = member
    if names[0] not in members:
        there = [member.filename.removesuffix(".npy") for member in archive.infolist()]
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        shown = ", ".join(sorted(there)[:5]) or "nothing"
        raise BpttError(f"{path} has {shown}{more}; expected {names[0]}")
    return members


def _require_sizes(path: Path, members: dict[str, zipfile.ZipInfo], archive: int) -> None:
    """Raise BpttError if the members would take more room than they may, or than there is."""
    packed = [one for one in members.values() if one.compress_type != zipfile.ZIP_STORED]
    require_unpackable(str(path), sum(member.file_size for member in packed), archive)
    require_room(f"{path}, unpacked,", sum(member.file_size for member in members.values()))


def _read_member(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        shape, fortran, dtype, header = _read_header(name, file)
        size, there = math.prod(shape) * dtype.itemsize, member.file_size - header
        if size != there:
            raise BpttError(
                f"{name} has {there:,} bytes; its header says {size:,}, for shape {shape} of "
                f"{dtype}: it is damaged, write it again with numpy.savez"
            )
        content = spool(_chunks(name, file, size))
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def _chunks(name: str, file: IO[bytes], size: int) -> Iterator[np.ndarray]:
    """Yield as many bytes as there should be."""
    yield np.empty(0, np.uint8)
    while size > 0:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            raise BpttError(f"{name} ends {size:,} bytes before it should; it is damaged")
        size -= len(chunk)
        yield np.frombuffer(chunk, np.uint8)


def _read_header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return the shape, whether it is in Fortran's order, the dtype, and the header's length."""
    start = file.read(8)
    width = 2 if start[6:7] == b"\x01" else 4
    length = file.read(width)
    count = int.from_bytes(length, "little")
    if count > LONGEST_HEADER:
        raise BpttError(f"{name} is no array that numpy wrote; write it with numpy.savez")
    whole = start + length + file.read(count)
    try:
        shape, fortran, dtype = _parsed(io.BytesIO(whole))
    except BAD_HEADER as error:
        raise BpttError(f"{name} is no array that numpy wrote ({error})") from None
    if dtype.hasobject:
        raise BpttError(
            f"{name} is ragged, or holds Python's objects, which are not read; pad it to the "
            "longest sequence, (T, N, ...), and save lengths, (N,), with it"
        )
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        raise BpttError(f"{name} holds {dtype}; expected numbers")
    if not _is_possible(shape):
        raise BpttError(f"{name} has a size that no array has: it is damaged")
    return shape, fortran, dtype, len(whole)


def _is_possible(shape: tuple[int, ...]) -> bool:
    """Return whether an array can have this shape; numpy's parser lets through any ints and bools.

    numpy holds an array without numbers to what its other sizes come to, too.
    """
    return (
        len(shape) <= MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size <= MOST_SIZE for size in shape)
        and math.prod(max(size, 1) for size in shape) <= MOST_SIZE
    )


def _parsed(header: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(header)
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}")
    with warnings.catch_warnings(action="ignore"):  # that Python 2 wrote it, or of an old alias
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(header)
        return np.lib.format.read_array_header_2_0(header)
