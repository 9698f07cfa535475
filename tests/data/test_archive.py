"""Archives that are not what they say: one test a kind, each one line, in bounded time and room."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bptt import BpttError
from bptt.data import spool
from bptt.data.sequences.archive import read_arrays

Y = np.arange(12.0).reshape(3, 2, 2)
DEFLATED = zipfile.ZIP_DEFLATED


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def member(shape: object, payload: bytes = b"", descr: object = "<f8", version: int = 1) -> bytes:
    """Return a .npy file whose header says what it likes."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + payload


def archived(path: Path, packed: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def read(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path, ("y", "x"))[1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i1", ">u4", "bool", "c8"])
@pytest.mark.parametrize("shape", [(3, 2, 2), (12,), (0, 5), (), (1, 12)])
def test_what_numpy_saved_is_read(
    tmp_path: Path, save: Callable[..., None], dtype: str, shape: tuple[int, ...]
) -> None:
    y = np.resize(Y, shape).astype(dtype)
    save(tmp_path / "a.npz", y=y, other=Y, x=np.asfortranarray(Y))
    arrays = read(tmp_path / "a.npz")
    assert arrays.keys() == {"y", "x"}
    np.testing.assert_array_equal(arrays["y"], y, strict=True)
    np.testing.assert_array_equal(arrays["x"], Y)


FALSE = {
    "short": (member((3, 2), b"\0" * 40), r"has 40 bytes; its header says 48, for shape \(3, 2\)"),
    "long": (member((3, 2), b"\0" * 50), "has 50 bytes; its header says 48"),
    "huge": (member((10**9, 4)), r"has 0 bytes; its header says 32,000,000,000"),
    "endless": (member((10**300, 4)), "has a size that no array has"),
    "negative": (member((-3, -2), b"\0" * 48), "has a size that no array has"),
    "truth": (member((3, True), b"\0" * 24), "has a size that no array has"),
    "truths": (member((False,)), "has a size that no array has"),
    "fraction": (member((3.0,), b"\0" * 24), "is no array that numpy wrote"),
    "many": (member((10**9,) * 800), "has a size that no array has"),
    "deep": (member((1,) * 65, b"\0" * 8), "has a size that no array has"),
    "endless none": (member((0, 2**48, 2**48)), "has a size that no array has"),
    "no type": (member((2,), b"\0" * 16, ()), "is no array that numpy wrote"),
    "half a type": (member((2,), b"\0" * 16, ("<f8",)), "is no array that numpy wrote"),
    "old text": (member((2,), b"\0" * 2, "a1"), r"holds \|S1; expected numbers"),
    "objects": (npy(np.array([[1], [1, 2]], object)), "is ragged, or holds Python's objects"),
    "text": (npy(np.array(["a"])), "holds <U1; expected numbers"),
    "records": (npy(np.zeros(2, "f8,i4")), r"holds .*f0.*; expected numbers"),
    "dates": (npy(np.zeros(2, "M8[s]")), r"holds datetime64\[s\]; expected numbers"),
    "parts": (member((2,), b"\0" * 32, ("<f8", (2,))), r"; expected numbers"),
    "no array": (b"something else", "is no array that numpy wrote"),
    "nothing": (b"", "is no array that numpy wrote"),
    "nested": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "is no array that"),
    "minuses": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"-" * 9000, "is no array that"),
    "keys": (member((2,))[:10] + b"{1: 2, 'a': 3}".ljust(59), "is no array that numpy wrote"),
    "header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "is no array that numpy wrote"),
    "version": (member((2,), b"\0" * 16, version=9), "is no array that numpy wrote"),
    "archive": (b"PK\x03\x04" + b"\0" * 50, "is no array that numpy wrote"),
}


@pytest.mark.parametrize("kind", FALSE)
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, DEFLATED])
def test_a_member_that_is_not_what_it_says(tmp_path: Path, kind: str, packed: int) -> None:
    content, complaint = FALSE[kind]
    archived(tmp_path / "a.npz", packed, y=content)
    with pytest.raises(BpttError, match=rf"y in .*a.npz .*{complaint}"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("version", [1, 2])
def test_what_python_2_saved_is_read_without_a_word(tmp_path: Path, version: int) -> None:
    content = member((3, 2, 2), Y.tobytes(), version=version).replace(b"(3, 2, 2)", b"(3L,2L,2)")
    archived(tmp_path / "a.npz", y=content)
    np.testing.assert_array_equal(read(tmp_path / "a.npz")["y"], Y)


def test_an_archive_within_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "inner.npz", y=Y)
    for name, complaint in (("y.npz", "has y.npz; expected y"), ("sub/y.npy", "has sub/y; exp")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
            file.write(tmp_path / "inner.npz", name)
        with pytest.raises(BpttError, match=complaint):
            read(tmp_path / "a.npz")


def test_an_archive_of_many_members_is_not_listed_whole(tmp_path: Path) -> None:
    archived(tmp_path / "a.npz", **{f"a{n:03}": b"" for n in range(200)})
    with pytest.raises(BpttError, match="has a000, a001, a002, a003, a004 and 195 more; expected"):
        read(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("y.npy", npy(Y))
        file.writestr("y.npy", npy(Y + 1))
    with pytest.raises(BpttError, match="has y twice; write it again"):
        read(tmp_path / "a.npz")


def test_encrypted_and_other_packings(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, y=Y)
    content = bytearray(path.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(start) + at] |= 1
    path.write_bytes(content)
    with pytest.raises(BpttError, match=r"y in .* is encrypted; write it with numpy.savez"):
        read(path)
    for packed in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archived(path, packed, y=npy(Y))
        with pytest.raises(BpttError, match=r"is packed as numpy.savez_compressed never does"):
            read(path)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_numbers_are_no_numbers(
    tmp_path: Path, save: Callable[..., None], flip: int
) -> None:
    path, y = tmp_path / "a.npz", np.random.default_rng(0).normal(size=(50, 4, 3))
    save(path, y=y)
    content = bytearray(path.read_bytes())
    for at in (400, 2000, 3000):
        content[at] ^= flip
        path.write_bytes(content)
        with pytest.raises(BpttError, match=r"cannot read .*|is no .npz file, or damaged"):
            read(path)
        content[at] ^= flip


def test_a_member_that_claims_more_than_the_archive_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    archived(path, y=member((10**9, 4)))
    content = bytearray(path.read_bytes())
    size = struct.pack("<I", 2**32 - 2)
    central = content.find(b"PK\x01\x02")
    content[central + 20 : central + 28] = size + size
    path.write_bytes(content)
    with pytest.raises(BpttError, match=r"has .* bytes; its header says|is no .npz file, or damag"):
        read(path)


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, y=np.zeros(10**6))
    monkeypatch.setattr(spool, "memory_here", lambda: 10**6)
    with pytest.raises(BpttError, match=r"a.npz unpacks to 8.0 MB; expected at most 500.0 kB, as"):
        read(path)
    monkeypatch.setattr(spool, "MOST_PACKED", 10**6)
    assert len(read(path)["y"]) == 10**6
    monkeypatch.setattr(spool, "MOST_PACKED", 20)
    np.savez(path, y=np.zeros(10**6))  # which is as large as it is
    assert len(read(path)["y"]) == 10**6


def test_a_header_that_unpacks_to_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Its length is in the header too, and numpy would read as much before it looks."""
    claim = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 10**6
    archived(tmp_path / "a.npz", DEFLATED, y=claim)
    with pytest.raises(BpttError, match="is no array that numpy wrote"):
        read(tmp_path / "a.npz")
