"""Temporary files that are mapped: the rows that were written, or one line where there is no room.

Where a file has only been made longer, using the map of it on a full disk ends a process with a bus
error: every byte has to be written.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import bptt
from bptt import BpttError
from bptt.data import spool as spool_module
from bptt.data.spool import require_room, spool
from bptt.data.tables.table_reader import read_table
from bptt.data.texts import text as data

READERS: dict[str, Callable[[], object]] = {
    "text": bptt.read_text,
    "collection": lambda: bptt.read_collection("a.npz"),
    "table": lambda: read_table("a.csv"),
}


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", ">f8", "bool"])
@pytest.mark.parametrize("sizes", [(3, 0, 5), (0,), ()])
def test_rows_come_back_as_they_were_written(dtype: str, sizes: tuple[int, ...]) -> None:
    blocks = [np.arange(n * 2).reshape(n, 2).astype(dtype) for n in sizes]
    rows = spool(iter(blocks))
    assert len(rows) == sum(sizes)
    if sizes:
        np.testing.assert_array_equal(rows, np.concatenate(blocks))
    rows[:1] = 0
    assert spool([np.empty((4, 0))]).shape == (4, 0)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(open, "/dev/full", "r+b")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(BpttError, match=r"cannot be written after .*: No space left on device; "):
        spool([np.ones((1000, 5))])


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(BpttError, match=r"no temporary file can be made: .*; set TMPDIR"):
        spool([np.ones((1000, 5))])
    with pytest.raises(BpttError, match=r"it takes 1,000,000,000.0 GB of temporary files; .* has "):
        require_room("it", 10**18)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_survives_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "IN_MEMORY", 10)
    np.savez_compressed("a.npz", y=np.zeros((500, 99, 1)))
    rows = "\n".join(str(n * n % 97) for n in range(15_000))
    Path("a.csv").write_text(f"a\n{rows}\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(BpttError, match=r"a temporary file in .*: File too large; set TMPDIR"):
            READERS[reader]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_table_that_unpacks_to_more_than_this_machine_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": np.arange(10**6) % 2}).write_parquet(path)
    monkeypatch.setattr(spool_module, "memory_here", lambda: 10**6)
    with pytest.raises(
        BpttError, match=r"a.parquet unpacks to 8.0 MB; expected at most .* as much"
    ):
        read_table(path)
    monkeypatch.setattr(spool_module, "MOST_PACKED", 10**6)
    assert len(read_table(path).y) == 10**6
