"""Tables in, series of numbers out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np

from bptt.errors import (
    BpttError,
    require_choice,
    require_flag,
    require_kind,
    require_path,
    require_several,
)
from bptt.model.likelihoods import Gaussian
from bptt.training.batches import Data, Streams
from bptt.training.table_rows import (
    WRONG,
    Found,
    TableFile,
    WrongRows,
    blocks_of,
    fill_gaps,
    listed,
    open_table,
    spool,
    steps_of,
)

WARM_UP, VALIDATION_STEPS = 1000, 1024


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what, and how they are prepared."""

    target: tuple[str, ...] = ()  # y; if empty, every column of numbers that has no other role
    inputs: tuple[str, ...] = ()  # x, known at the step that it stands at
    time: str | None = None  # numbers, dates or datetimes that rise from row to row
    # For missing values: the one before, or a line between both neighbours over the rows (at the
    # ends, the nearest). None refuses them.
    fill: Literal["previous", "linear"] | None = None
    difference: bool = False  # model yᵗ − yᵗ⁻¹, for series with a trend; costs the first row
    validation_share: float = 0.1  # how much of the table, at its end, is not to train on

    def __post_init__(self) -> None:
        for role in ("target", "inputs"):
            names = getattr(self, role)
            if not isinstance(names, str):
                require_several(role, names, "names of columns")
                for name in names:
                    require_kind(f"a name in {role}", name, str, "a text")
            object.__setattr__(self, role, (names,) if isinstance(names, str) else tuple(names))
        require_kind("time", self.time, (str, NoneType), "the name of a column, or None")
        require_flag("difference", self.difference)
        if self.fill is not None:
            require_choice("fill", self.fill, ("previous", "linear"))
        share: object = self.validation_share
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise BpttError(f"validation_share is {share!r}; expected a number between 0 and 1")
        roles: dict[str, str] = {}
        for name, role in self.roles:
            if name in roles:
                raise BpttError(f"{name!r} is both {roles[name]} and {role}; name it only once")
            roles[name] = role

    @property
    def roles(self) -> list[tuple[str, str]]:
        """Each column that is named, and what for."""
        time = () if self.time is None else (self.time,)
        named = {"target": self.target, "inputs": self.inputs, "time": time}
        return [(name, role) for role, names in named.items() for name in names]


@dataclass(frozen=True)
class Scaling:
    """value = mean + scale * standard, for each column.

    >>> Scaling(mean=(10.0,), scale=(2.0,)).standard(np.array([[10.0], [14.0]])).tolist()
    [[0.0], [2.0]]
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "scale", tuple(self.scale))

    def standard(self, values: np.ndarray) -> np.ndarray:
        """Return values (..., d) in standard units, in float64."""
        return np.asarray((values - np.array(self.mean)) / np.array(self.scale))

    def original(self, standard: np.ndarray) -> np.ndarray:
        """Return standard values (..., d) in the table's units, in float64."""
        return np.asarray(np.array(self.mean) + np.array(self.scale) * standard)


@dataclass(frozen=True, eq=False)
class Table(Data):
    """A table as a series of N steps: those before `cut` to train on, the rest to validate."""

    path: Path
    sha256: str
    columns: Columns  # with the target that was found
    y_scaling: Scaling
    x_scaling: Scaling | None
    y: np.ndarray  # (N, d) float32, standard units; of the differences, if columns.difference
    x: np.ndarray | None  # (N, i) float32, standard units
    levels: np.ndarray  # (N, d) float64, the table's own values
    first_level: np.ndarray  # (d,) float64, those of the row that differencing costs, else zeros
    times: np.ndarray | None  # (N,) float64, or datetime64 in UTC if the table has time zones
    cut: int

    unit = "step"

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return str(self.path)

    @property
    def default_batch(self) -> int:  # type: ignore[override]
        """As many streams as leave a thousand steps to each."""
        return min(32, max(1, self.cut // 1000))

    @property
    def likelihood(self) -> Gaussian:
        """A normal distribution for each column of the target."""
        return Gaussian(self.y.shape[1])

    @property
    def inputs(self) -> int:
        """How many columns of inputs there are."""
        return len(self.columns.inputs)

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Streams:
        """Return the first part, in time, as streams."""
        x = None if self.x is None else self.x[: self.cut]
        return Streams(self.y[: self.cut], x, batch, steps)

    def validation_batches(self, batch: int) -> Streams:
        """Return the last part, in time, after some steps that bring the state up to it."""
        start = max(0, self.cut - WARM_UP)
        x = None if self.x is None else self.x[start:]
        return Streams(self.y[start:], x, 1, VALIDATION_STEPS, self.cut - start)

    def restore(self, standard: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return (steps, ..., d) standard values in the table's units.

        before: the level (..., d) that the first step follows; it counts only with differences.
        """
        values = self.y_scaling.original(standard)
        return before + values.cumsum(axis=0) if self.columns.difference else values

    def restore_each(self, standard: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return standard values (steps, d), each of which follows its own level before it."""
        values = self.y_scaling.original(standard)
        return before + values if self.columns.difference else values

    def config(self) -> dict[str, Any]:
        """Return all but the numbers as plain values, which JSON gives back as they are."""
        config = {
            "kind": "table",
            "path": str(self.path.resolve()),
            "sha256": self.sha256,
            "columns": asdict(self.columns),
            "y_scaling": asdict(self.y_scaling),
            "x_scaling": None if self.x_scaling is None else asdict(self.x_scaling),
        }
        return dict(json.loads(json.dumps(config)))


def read_table(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    scaling: tuple[Scaling, Scaling | None] | None = None,
) -> Table:
    r"""Read a .csv, .tsv or .parquet file, standardised by the statistics of its training part.

    scaling: that of y and x in the table a run was trained on, to use instead.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "power.csv")
    ...     _ = path.write_text("day,load\n2026-01-01,5\n2026-01-02,7\n2026-01-03,9\n")
    ...     table = read_table(path, Columns(time="day", validation_share=0.4))
    >>> table.columns.target, table.y_scaling, table.y.tolist()
    (('load',), Scaling(mean=(6.0,), scale=(1.0,)), [[-1.0], [1.0], [3.0]])
    """
    require_path("the table", path)
    require_kind("columns", columns, Columns, "bptt.Columns(...)")
    path = Path(path)
    with open_table(path) as file, np.errstate(over="ignore", invalid="ignore"):
        columns, values, times = _load(file, columns)
        lost, d = int(columns.difference), len(columns.target)
        cut = _cut(path, max(0, len(values) - lost), columns.validation_share)
        if times is not None:
            _check_times(path, columns.time, times)
            times = times[lost:]
        if scaling is not None:
            _check_scaling(path, columns, *scaling)
        y_scaling, x_scaling = scaling or (None, None)
        y_scaling = y_scaling or _measure(path, columns.target, values[: cut + lost, :d], lost)
        y = spool(_standard(path, columns.target, values[:, :d], y_scaling, lost))
        first = np.array(values[0, :d]) if lost else np.zeros(d)
        levels, inputs, x = values[lost:, :d], values[lost:, d:], None
        if columns.inputs:
            x_scaling = x_scaling or _measure(path, columns.inputs, inputs[:cut])
            x = spool(_standard(path, columns.inputs, inputs, x_scaling))
    return Table(path, file.sha256, columns, y_scaling, x_scaling, y, x, levels, first, times, cut)


def _load(file: TableFile, columns: Columns) -> tuple[Columns, np.ndarray, np.ndarray | None]:
    """Return the columns with the target found, their values (N, d + i), filled, and times (N,)."""
    columns = _resolve(file, columns)
    names = columns.target + columns.inputs
    values, times, found = file.read(names, columns.time)
    _refuse(file.path, columns, found, len(values))
    for k, name in enumerate(names):
        if (name, "missing") in found:
            fill_gaps(values[:, k], columns.fill == "linear")
    return columns, values, times


def _resolve(file: TableFile, columns: Columns) -> Columns:
    """Find the target where none is named, or raise BpttError if a column cannot be used."""
    path, head = file.path, file.head
    if not len(head):
        raise BpttError(f"{path} has no rows; expected some to learn from")
    has = listed([repr(name[:40]) for name in head.columns[:20]], head.width)
    for name, role in columns.roles:
        if name not in head.columns:
            lower = {known.lower(): known for known in head.columns}
            near = difflib.get_close_matches(name.lower(), lower, 1)
            hint = f": did you mean {lower[near[0]]!r}?" if near else ""
            raise BpttError(f"{path} has no column {name!r} ({role}); it has {has}{hint}")
        kind, also = head[name].dtype, "Date" if role == "time" else "Null"
        if not (kind.is_numeric() or str(kind).startswith(("Boolean", "String", also))):
            wanted = "numbers, dates or datetimes" if role == "time" else "numbers"
            raise BpttError(f"column {name!r} ({role}) of {path} holds {kind}; expected {wanted}")
    taken = dict(columns.roles)
    rest = (name for name in head.columns if name not in taken)
    target = columns.target or tuple(filter(file.is_number, rest))
    if not target:
        raise BpttError(f"{path} has no column of numbers left for the target; it has {has}")
    return replace(columns, target=target)


def _refuse(path: Path, columns: Columns, found: Found, count: int) -> None:
    """Raise BpttError if something was found that the columns do not allow."""
    for name, role in columns.roles:
        for what in WRONG:
            rows = found.get((name, what))
            problem = rows and _problem(what, rows, columns.fill, role == "time", count)
            if problem:
                raise BpttError(f"column {name!r} ({role}) of {path} {problem}")


def _problem(what: str, rows: WrongRows, fill: str | None, is_time: bool, count: int) -> str | None:
    if what == "text":
        wanted = "numbers or dates: " if is_time else "numbers: leave the column out or "
        return f"has text in {rows}, {rows.example!r}; expected {wanted}mend the row"
    if what == "infinite":
        return f"is infinite in {rows}; expected finite numbers: mend the row"
    if rows.count == count:
        return "is missing in every row; leave the column out"
    if is_time or fill is None:
        remedy = 'fill "previous" or "linear" (--fill) puts something there'
        return f"is missing in {rows}; {'every row needs its time' if is_time else remedy}"
    if fill == "previous" and rows.first[0] == 1:
        return 'is missing in row 1, with none before it; fill "linear" takes the nearest'
    return None


def _cut(path: Path, count: int, share: float) -> int:
    """Return where the validation part begins."""
    cut = count - int(count * share)
    if not 2 <= cut < count:
        got = f"{cut} rows to train on and {count - cut} to validate at validation_share {share:g}"
        raise BpttError(f"{path} has {got}; expected at least 2 and 1")
    return cut


def _check_times(path: Path, name: str | None, times: np.ndarray) -> None:
    """Raise BpttError unless they rise."""
    for start, block in blocks_of(times, overlap=1):
        for k in np.flatnonzero(block[1:] <= block[:-1])[:1]:
            before, after = (
                f"{t:.15g}" if t.dtype.kind == "f" else str(t.astype("M8[us]").item())
                for t in block[k : k + 2]
            )
            got = f"is {after} in row {start + k + 2}, after {before} in the row before"
            wanted = "sort the table by it, with one row for each time"
            raise BpttError(f"column {name!r} (time) of {path} {got}; {wanted}")


def _check_scaling(path: Path, columns: Columns, y: Scaling, x: Scaling | None) -> None:
    """Raise BpttError unless there is a mean and a scale for each column."""
    given = (len(y.mean), len(x.mean) if x else 0)
    read = (len(columns.target), len(columns.inputs))
    if given != read:
        raise BpttError(
            f"scaling is for {given[0]} target and {given[1]} input columns; {path} is read with "
            f"{read[0]} and {read[1]}: name the columns of that run"
        )


def _measure(path: Path, names: Sequence[str], rows: np.ndarray, lost: int = 0) -> Scaling:
    """Return the mean and population standard deviation of rows, or of their differences."""
    count = len(rows) - lost
    low = np.min([block.min(axis=0) for _, block in steps_of(rows, lost)], axis=0)
    high = np.max([block.max(axis=0) for _, block in steps_of(rows, lost)], axis=0)
    size = np.max([np.abs(block).max(axis=0) for _, block in blocks_of(rows)], axis=0)
    span = high - low
    for k in np.flatnonzero(span <= 4 * np.finfo(float).eps * size):  # that much is rounding
        what = f"column {names[int(k)]!r} of {path}"
        what = f"{what}: its differences are" if lost else f"{what} is"
        raise BpttError(f"{what} constant over the {count} rows to train on; leave the column out")
    mean = low + np.sum([(block - low).sum(axis=0) for _, block in steps_of(rows, lost)], 0) / count
    squares = [(((block - mean) / span) ** 2).sum(axis=0) for _, block in steps_of(rows, lost)]
    scale = span * np.sqrt(np.sum(squares, axis=0) / count)
    return Scaling(tuple(mean.tolist()), tuple(scale.tolist()))


def _standard(
    path: Path, names: Sequence[str], rows: np.ndarray, scaling: Scaling, lost: int = 0
) -> Iterator[np.ndarray]:
    """Yield blocks of rows, or of their differences, in standard units."""
    for start, block in steps_of(rows, lost):
        standard = scaling.standard(block).astype(np.float32)
        for row, k in np.argwhere(~np.isfinite(standard)):
            what, where = f"column {names[int(k)]!r} of {path}", f"row {start + row + 1 + lost}"
            raise BpttError(f"{what} is too large for float32 in {where}; mend the row")
        yield standard
