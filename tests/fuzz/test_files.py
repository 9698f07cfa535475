"""Random bytes, flipped bits, cuts and false contents in every file that we read.

A reader returns what is right, or what an undamaged file had meant, or raises a BpttError of one
line. Anything else fails: other exceptions, wrong values, more memory or larger temporary files
than the little that these files need.
"""

from __future__ import annotations

import io
import json
import math
import resource
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
from bptt import BpttError
from bptt.data.tables.table_reader import read_table
from bptt.training.compare import Comparison, _claim, read_comparison
from bptt.training.runs import checkpoint
from bptt.training.runs.files import JSON
from bptt.training.runs.result import Measured, Result
from bptt.training.runs.run import CHECKPOINT, CONFIG, FLOW, METRICS, Run
from bptt.training.snapshots import Snapshots, read_snapshots
from tests.fuzz.campaign import fuzz

T = TypeVar("T")
TEXT = "to be, or not to be: that is the quéstion\n" * 5
MEMORY, TEMPORARY = 2 << 30, 64 << 20
"""How much more address space a reader may take, and how long its temporary files may be, where the
files have less than 100 kB: a bomb takes more."""
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**8, 10**400, -(10**400)),
    *(0.5, -0.0, 1e308, math.inf, -math.inf, math.nan),
    *("", "a", "\0", "\n\x1b[31m", "\ud800", "x" * 300, "9" * 400, "/dev/zero", "text", "gru"),
    *([], {}, [[]], [1], [1, 2], ["a"], [None], {"kind": "text"}, {"n": 3}),
)
PIECES = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b'"',
        b",",
        b"-",
        b"NaN",
        b"1e999",
        b"9" * 400,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
    ),
    *(b"[" * 2000, b'{"a":' * 2000, b"PK\x05\x06", b"PAR1", b"\x93NUMPY", b"\xff" * 8),
)


@dataclass(frozen=True)
class Files:
    """A run that was trained on a text, beside a file of every other kind."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    (folder / "text").write_text(TEXT, encoding="utf-8")
    text = bptt.read_text(folder / "text")
    net = bptt.Network(text.likelihood, hidden=3)
    settings = bptt.Settings(batch=2, window=5, max_updates=3, validate_every=1)
    watch = Snapshots(text.validation_batches(2), 5)
    bptt.fit(net, text, settings, out=folder / "run", on_update=watch)
    columns = {
        "day": [f"2026-01-{n:02}" for n in range(1, 29)],
        "a": [n * n % 7 for n in range(28)],
    }
    table = pl.DataFrame(columns)
    table.write_csv(folder / "table.csv")
    table.write_csv(folder / "table.tsv", separator="\t")
    table.write_parquet(folder / "table.parquet")
    y, lengths = np.arange(24).reshape(4, 6) % 5, np.array([4, 3, 2, 4, 1, 4])
    np.savez(folder / "stored.npz", y=y, lengths=lengths)
    np.savez_compressed(folder / "packed.npz", y=y[..., None] / 7, x=np.ones((4, 6, 2)))
    (folder / "comparison.toml").write_text(
        'data = "text"\nseeds = [0, 1]\n[common]\nhidden = 3\n[settings.a]\n[settings.b]\nomega=1'
    )
    return Files(folder)


@pytest.fixture(autouse=True)
def _bounds(files: Files) -> Iterator[None]:
    """Bound memory and temporary files, once every reader has started what it needs."""
    read_table(files.folder / "table.csv")
    read_table(files.folder / "table.parquet")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bounds = {resource.RLIMIT_AS: size + MEMORY, resource.RLIMIT_FSIZE: TEMPORARY}
    before = {kind: resource.getrlimit(kind) for kind in bounds}
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, before[kind][1]))
    yield
    for kind, limits in before.items():
        resource.setrlimit(kind, limits)


def refused_or(read: Callable[[], T]) -> T | None:
    """Return what is read, or None if that is refused, in one line that is no bomb's."""
    try:
        return read()
    except BpttError as error:
        message = str(error)
        assert message.isprintable()
        assert 10 < len(message) < 2100
        assert "temporary file in" not in message
        return None


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a file's content with something done to it."""
    way = draw(st.sampled_from(["random", "flips", "cut", "twice", "piece", "swap"]))
    if way == "random":
        return draw(st.binary(max_size=300))
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, min(len(content), start + 64)))
    if way == "cut":
        return content[:start] + draw(st.sampled_from([b"", content[stop:]]))
    if way == "twice":
        return content[:stop] + content[start:]
    if way == "piece":
        return content[:start] + draw(st.sampled_from(PIECES)) + content[stop:]
    if way == "swap":
        return content[:start] + draw(st.binary(max_size=8)) + content[stop:]
    flipped = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        flipped[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


@st.composite
def false(draw: st.DrawFn, value: Any) -> Any:
    """Return a JSON value with a part replaced, taken out or added, at any depth."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key, way = draw(st.sampled_from(sorted(value))), draw(st.integers(0, 7))
        if way == 0:
            return {name: part for name, part in value.items() if name != key}
        if way == 1:
            return {**value, draw(st.sampled_from(["a", "kind", "n", ""])): None}
        return {**value, key: draw(false(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(false(value[at])), *value[at + 1 :]]
    return draw(st.sampled_from(HOSTILE))


@fuzz()
@given(st.data(), st.sampled_from(["characters", "bytes"]))
def test_texts(files: Files, data: st.DataObject, tokens: str) -> None:
    content = data.draw(damaged(TEXT.encode()))
    path = files.folder / "damaged"
    path.write_bytes(content)
    text = refused_or(lambda: bptt.read_text(path, tokens))
    if text is None:
        assert not content or tokens == "characters"  # any bytes are tokens
        return
    ids = torch.cat([text.training, text.validation])
    if tokens == "bytes":
        assert bytes(ids.tolist()) == content
    else:
        assert ids.tolist() == text.vocabulary.encode(content.decode()).tolist()
        assert set(text.vocabulary.characters) <= set(content.decode())


@fuzz()
@given(st.data(), st.sampled_from(["stored.npz", "packed.npz"]))
def test_archives(files: Files, data: st.DataObject, name: str) -> None:
    path = files.folder / "damaged.npz"
    path.write_bytes(data.draw(damaged(files.read(name))))
    _check_collection(path)


@fuzz()
@given(st.data())
def test_archives_of_false_members(files: Files, data: st.DataObject) -> None:
    """Members are as ZIP archives may have them, with headers that numpy did not write."""
    numbers = st.sampled_from([0, 1, 2, 3, -1, 10**9, 2**62, True, 3.0, -(10**30)])
    shape = tuple(data.draw(st.lists(numbers, max_size=4)))
    kinds = ["<f8", "<f4", ">f4", "<i8", "|u1", "|b1", "<c8", "|O", "<U3", "|V8", "<M8[s]", "|V0"]
    no_kinds = [[("a", "<f8")], ("<f8", (2,)), ("<f8",), (), [()], "x", "a1", None, 1]
    header = {
        "descr": data.draw(st.sampled_from([*kinds, *no_kinds])),
        "fortran_order": data.draw(st.sampled_from([False, True, False, None])),
        "shape": data.draw(
            st.sampled_from([shape, (3, 2), (3, 2, 1), (3, True), shape * 17, list(shape), None])
        ),
    }
    old = repr(header).replace(", 2", ", 2L")  # as Python 2 wrote it
    no_header = ["(" * 9000, "-" * 9000, "{"]
    text = data.draw(st.sampled_from([repr(header), repr(header) * 2, old, *no_header]))
    version = data.draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    start = b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()
    payload = data.draw(st.sampled_from([b"\0" * 24, b"\1" * 48, b"\0" * 12, b"", b"\0" * 10_000]))
    name = data.draw(st.sampled_from(["y.npy", "y.npy", "y", "y.npz", "a/y.npy"]))
    packed = data.draw(
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    )
    path = files.folder / "false.npz"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr(name, start + payload)
        lengths = io.BytesIO()
        np.save(lengths, data.draw(st.sampled_from([np.array(3), np.array([1, 3]), np.ones(2)])))
        archive.writestr("lengths.npy", lengths.getvalue())
    _check_collection(path)


def _check_collection(path: Path) -> None:
    collection = refused_or(lambda: bptt.read_collection(path))
    if collection is not None:
        with (
            warnings.catch_warnings(action="ignore"),  # numpy's, that Python 2 wrote it
            path.open("rb") as file,
            np.lib.npyio.NpzFile(file) as arrays,
        ):
            np.testing.assert_array_equal(collection.y, arrays["y"])
            np.testing.assert_array_equal(collection.x, arrays.get("x"))
        assert collection.lengths.max() <= len(collection.y)


@fuzz()
@given(st.data(), st.sampled_from(["table.csv", "table.tsv", "table.parquet"]))
def test_tables(files: Files, data: st.DataObject, name: str) -> None:
    path = files.folder / f"damaged{Path(name).suffix}"
    path.write_bytes(data.draw(damaged(files.read(name))))
    table = refused_or(lambda: read_table(path))
    if table is not None:
        assert np.isfinite(table.levels).all()
        assert np.isfinite(table.y).all()
        assert len(table.y) == len(table.levels) > table.cut >= 2


@pytest.fixture
def run(files: Files, tmp_path: Path) -> Path:
    """Return a copy of the run, whose files may be damaged."""
    return Path(shutil.copytree(files.run, tmp_path / "run"))


@fuzz()
@given(st.data(), st.booleans())
def test_configs(files: Files, run: Path, data: st.DataObject, is_json: bool) -> None:
    content = files.read(f"run/{CONFIG}")
    if is_json:
        changed = json.dumps(data.draw(false(json.loads(content)))).encode()
    else:
        changed = data.draw(damaged(content))
    (run / CONFIG).write_bytes(changed)
    opened = refused_or(lambda: Run.open(run))
    if opened is None:
        return
    assert isinstance(opened.settings(), bptt.Settings)
    assert opened.unit in ("character", "byte", "step")
    net = refused_or(opened.network)
    if net is not None:
        for name, weight in net.state_dict().items():
            assert torch.equal(weight, Run.open(files.run).network().state_dict()[name])
    text = refused_or(opened.read_data)
    assert text is None or text.source == str(files.folder / "text") or opened.kind != "text"


@fuzz()
@given(st.data(), st.booleans())
def test_metrics(files: Files, run: Path, data: st.DataObject, is_json: bool) -> None:
    (run / METRICS).write_bytes(_damaged_lines(files.read(f"run/{METRICS}"), data, is_json))
    rows = refused_or(Run.open(run).metrics)
    for row in rows or []:
        assert all(math.isfinite(value) for value in row.values())
        assert {"update", "seconds", "train_nll"} <= set(row)


@fuzz()
@given(st.data(), st.booleans())
def test_snapshots(files: Files, run: Path, data: st.DataObject, is_json: bool) -> None:
    (run / FLOW).write_bytes(_damaged_lines(files.read(f"run/{FLOW}"), data, is_json))
    snapshots = refused_or(lambda: read_snapshots(Run.open(run))) or []
    updates = [snapshot.update for snapshot in snapshots]
    assert updates == sorted(set(updates))
    assert all(isinstance(share, float) for one in snapshots for share in one.by_lag)


def _damaged_lines(content: bytes, data: st.DataObject, is_json: bool) -> bytes:
    if not is_json:
        return data.draw(damaged(content))
    lines = content.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = json.dumps(data.draw(false(json.loads(lines[at])))).encode()
    return b"\n".join([*lines, b""])


@fuzz()
@given(st.data())
def test_checkpoints(files: Files, data: st.DataObject) -> None:
    path = files.folder / "damaged.safetensors"
    path.write_bytes(data.draw(damaged(files.read(f"run/{CHECKPOINT}"))))
    loaded = refused_or(lambda: checkpoint.load(path))
    if loaded is not None:
        tensors, notes = checkpoint.load(files.run / CHECKPOINT)
        assert loaded[1] == notes
        assert loaded[0].keys() == tensors.keys()
        assert all(torch.equal(loaded[0][name], tensors[name]) for name in tensors)


@fuzz(weight=0.1)
@given(st.data())
def test_checkpoints_of_false_contents(files: Files, run: Path, data: st.DataObject) -> None:
    """Their checksum is right."""
    tensors, notes = checkpoint.load(files.run / CHECKPOINT)
    if data.draw(st.booleans()):
        notes = data.draw(false(notes).filter(lambda value: isinstance(value, dict)))
    else:
        tensors = _false_tensors(tensors, data)
    checkpoint.save(run / CHECKPOINT, tensors, notes)
    resumed = refused_or(lambda: bptt.resume(run, max_updates=4))
    if resumed is not None:
        net, done = resumed
        assert done.updates >= 4
        assert all(bool(weight.isfinite().all()) for weight in net.parameters())
    shutil.copyfile(files.run / CONFIG, run / CONFIG)
    shutil.copyfile(files.run / METRICS, run / METRICS)


def _false_tensors(
    tensors: dict[str, torch.Tensor], data: st.DataObject
) -> dict[str, torch.Tensor]:
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    changes: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "dropped": dict,
        "renamed": lambda: {f"{name}0": tensor},
        "unknown": lambda: {name: tensor, data.draw(st.sampled_from(NAMES)): tensor.clone()},
        "flat": lambda: {name: tensor.reshape(-1)},
        "longer": lambda: {name: torch.cat([tensor.reshape(1, -1)] * 2)},
        "empty": lambda: {name: tensor.reshape(-1)[:0]},
        "single": lambda: {name: torch.zeros(())},
        "dtype": lambda: {name: tensor.to(data.draw(st.sampled_from(DTYPES)))},
        "nan": lambda: {
            name: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else -tensor
        },
        "huge": lambda: {name: torch.full_like(tensor, 2**30)},
    }
    change = changes[data.draw(st.sampled_from(sorted(changes)))]
    return {key: one for key, one in tensors.items() if key != name} | change()


NAMES = (
    "a",
    "network.",
    "optimizer.x.step",
    "optimizer.99999999999.step",
    "optimizer.0.",
    "carried.9",
)
DTYPES = (torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)


@fuzz()
@given(st.data())
def test_comparisons(files: Files, data: st.DataObject) -> None:
    path = files.folder / "damaged.toml"
    path.write_bytes(data.draw(damaged(files.read("comparison.toml"))))
    comparison = refused_or(lambda: read_comparison(path))
    if comparison is not None:
        assert comparison.jobs(files.folder)


def _meaning(text: bytes) -> Any:
    """Return what a JSON text of ours says, but for the version that wrote it; None if it is none.

    A text that does not begin as ours do, with "bptt", is somebody else's, whatever it says.
    """
    if not JSON.pattern.match(text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return {**found, "bptt": None} if isinstance(found, dict) else None


@fuzz()
@given(st.data())
def test_specifications_of_comparisons(files: Files, data: st.DataObject) -> None:
    what = Comparison("text", (0,), {"hidden": 3}, {"plain": {}})
    path = files.folder / "comparison.json"
    path.unlink(missing_ok=True)
    _claim(files.folder, what)
    content = path.read_bytes()
    after = data.draw(damaged(content))
    path.write_bytes(after)
    went_on = refused_or(lambda: [_claim(files.folder, what)]) is not None
    assert went_on == (_meaning(after) == _meaning(content))
    assert path.read_bytes() == after


@fuzz()
@given(st.data())
def test_results_of_runs(files: Files, data: st.DataObject) -> None:
    path = files.folder / "result.json"
    path.unlink(missing_ok=True)
    values = Measured("a", 1.5, 2.5), Measured("", 0.5)
    Result(9, "RMSE", values, "the value before").write(files.folder)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    result = refused_or(lambda: Result.read(files.folder))
    if result is not None:
        refused_or(lambda: list(result.by_head().values()))
        assert all(type(one.value) is float for one in result.values)
