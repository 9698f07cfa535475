"""Tables in, series of numbers out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bptt.errors import BpttError, counted, require_kind, require_path
from bptt.model.likelihoods.gaussian import Gaussian
from bptt.training.batches import Dataset, Streams
from bptt.training.calendar_steps import Spacing
from bptt.training.clock import Clock
from bptt.training.columns import Columns
from bptt.training.loading import load_rows
from bptt.training.scaling import Scaling, measure, standard_blocks
from bptt.training.spool import spool
from bptt.training.table_rows import open_table
from bptt.training.table_words import about_rows

WARM_UP, VALIDATION_STEPS = 1000, 1024
ALL_COLUMNS, NO_CLOCK = Columns(), Clock()


@dataclass(frozen=True, eq=False)
class Table(Dataset):
    """A table as a series of N steps: those before `cut` to train on, the rest to validate."""

    path: Path
    sha256: str
    columns: Columns  # with the target, the format of its times and the dialect as they were found
    y_scaling: Scaling
    x_scaling: Scaling | None
    y: np.ndarray  # (N, d) float32, standard units; of the differences, if columns.difference
    x: np.ndarray | None  # (N, i) float32, standard units
    levels: np.ndarray  # (N, d) float64, the table's own values
    first_level: np.ndarray  # (d,) float64, those of the row that differencing costs, else zeros
    times: np.ndarray | None  # (N,) float64, or datetime64 in UTC if the clock has a zone
    cut: int
    clock: Clock = NO_CLOCK  # how the times are written
    step: Spacing | None = None  # how far apart they are, if that is even
    about: tuple[str, ...] = ()  # what is modelled, what is left out and was filled, in sentences

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
    columns: Columns = ALL_COLUMNS,
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
    with open_table(path, columns.dialect) as file, np.errstate(over="ignore", invalid="ignore"):
        rows = load_rows(file, columns)
        columns, values, times = rows.columns, rows.values, rows.times
        lost, d = int(columns.difference), len(columns.target)
        cut = _cut(path, max(0, len(values) - lost), columns.validation_share)
        if scaling is not None:
            _check_scaling(path, columns, *scaling)
        y_scaling, x_scaling = scaling or (None, None)
        y_scaling = y_scaling or measure(path, columns.target, values[: cut + lost, :d], lost)
        y = spool(standard_blocks(path, columns.target, values[:, :d], y_scaling, lost))
        first = np.array(values[0, :d]) if lost else np.zeros(d)
        levels, inputs, x = values[lost:, :d], values[lost:, d:], None
        if columns.inputs:
            x_scaling = x_scaling or measure(path, columns.inputs, inputs[:cut])
            x = spool(standard_blocks(path, columns.inputs, inputs, x_scaling))
    return Table(
        path,
        file.sha256,
        columns,
        y_scaling,
        x_scaling,
        y,
        x,
        levels,
        first,
        None if times is None else times[lost:],
        cut,
        rows.clock,
        rows.step,
        about_rows(file, rows),
    )


def _cut(path: Path, count: int, share: float) -> int:
    """Return where the validation part begins."""
    cut = count - int(count * share)
    if not 2 <= cut < count:
        got = f"{counted(cut, 'row')} to train on and {count - cut} to validate"
        got += f" at validation_share {share:g}"
        raise BpttError(f"{path} has {got}; expected at least 2 and 1")
    return cut


def _check_scaling(path: Path, columns: Columns, y: Scaling, x: Scaling | None) -> None:
    """Raise BpttError unless there is a mean and a scale for each column."""
    scaled = (len(y.mean), len(x.mean) if x else 0)
    read = (len(columns.target), len(columns.inputs))
    if scaled != read:
        raise BpttError(
            f"scaling is for {scaled[0]} target and {scaled[1]} input columns; {path} is read with "
            f"{read[0]} and {read[1]}: name the columns of that run"
        )
