"""What a network makes of a table: how good it is one step ahead, and how the series goes on."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from bptt.errors import require_memory, require_whole
from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.model.state import State
from bptt.training import files
from bptt.training.batches import Batch
from bptt.training.cells import text_cell
from bptt.training.steps_ahead import steps_ahead
from bptt.training.tables import Table

STEPS_AT_ONCE = 1024
DATED, FORECAST = 100, 28
"""Bytes for the date of a step, and for a number in one of the paths: drawn, restored, sorted."""
QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class OneStepAhead:
    """Root mean square errors on the validation part, in the table's units, by target column.

    network: of the mean that the network expects; persistence: of expecting the value before.
    """

    names: tuple[str, ...]
    network: Float[np.ndarray, " d"]
    persistence: Float[np.ndarray, " d"]


@torch.no_grad()
def one_step_ahead(net: Network, table: Table) -> OneStepAhead:
    """Measure what a network forecasts one step ahead, given all true values before."""
    batches, state, means = table.validation_batches(1), None, []
    with every_unit(net):
        for i in range(len(batches)):
            batch = batches.get(0, i).of(net)
            out = net(batch.y, x=batch.x, state=state)
            state = out.state
            means.append(net.likelihood.mean(out.outputs)[batch.unscored :, 0].cpu().numpy())
    before = table.levels[table.cut - 1 : -1]
    true, expected = table.levels[table.cut :], table.restore_each(np.concatenate(means), before)
    errors = [np.sqrt(((guess - true) ** 2).mean(0)) for guess in (expected, before)]
    return OneStepAhead(table.columns.target, *errors)


@dataclass(frozen=True)
class SeriesForecast:
    """How a table goes on, in its units, (steps, d); quantiles of the sampled paths by their share.

    times: of the steps; in UTC if the table's clock has a zone; numbers from 1 if it has none.
    labels: the times, or numbers, as the table writes them. note: what is uncertain about them.
    """

    names: tuple[str, ...]
    times: np.ndarray
    mean: Float[np.ndarray, "steps d"]
    quantiles: dict[float, Float[np.ndarray, "steps d"]]
    labels: list[str]
    note: str = ""

    def write(self, path: Path) -> None:
        """Write a CSV file: a row a step; for every column the mean and the quantiles."""
        shares = {f"{share:.0%}": values for share, values in self.quantiles.items()}
        parts = {"mean": self.mean, **shares}
        header = ["time", *(text_cell(f"{name} {part}") for name in self.names for part in parts)]
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(header)
        for t, time in enumerate(self.labels):
            values = [part[t, i] for i in range(len(self.names)) for part in parts.values()]
            rows.writerow([text_cell(time), *(f"{value:.6g}" for value in values)])
        files.write(Path(path), text.getvalue(), files.FORECAST)


@torch.no_grad()
def forecast_table(
    net: Network,
    table: Table,
    steps: int,
    *,
    future: Path | None = None,
    paths: int = 500,
    seed: int | None = None,
) -> SeriesForecast:
    """Return how the table goes on after its last row.

    future: a table with the input columns of the steps ahead, for a network that has inputs; with
    their times, if the table has them, which have to follow its last one.
    """
    require_whole("steps", steps, 1)
    require_whole("paths", paths, 1)
    size = steps * (DATED + paths * len(table.columns.target) * FORECAST)
    require_memory(f"{paths:,} paths of {steps:,} steps", size)
    following = steps_ahead(table, steps, future)
    x = None
    if following.x is not None:
        x = torch.from_numpy(np.array(following.x)).unsqueeze(1).to(net.dtype)
    generator = torch.Generator()
    _ = generator.seed() if seed is None else generator.manual_seed(seed)
    with every_unit(net):
        state = _state_at_the_end(net, table)
    ahead = net.forecast(steps, x=x, state=state, paths=paths, generator=generator)
    last = np.asarray(table.levels[-1])
    many = table.restore(np.moveaxis(ahead.paths[:, :, 0].cpu().numpy(), 0, 1), last)
    return SeriesForecast(
        table.columns.target,
        following.times,
        table.restore(ahead.mean[:, 0].cpu().numpy(), last),
        {share: np.quantile(many, share, axis=1) for share in QUANTILES},
        following.labels,
        following.note,
    )


def _state_at_the_end(net: Network, table: Table) -> State | None:
    state: State | None = None
    for start in range(0, len(table.y), STEPS_AT_ONCE):
        rows = slice(start, start + STEPS_AT_ONCE)
        y = torch.from_numpy(np.array(table.y[rows])).unsqueeze(1)
        x = None if table.x is None else torch.from_numpy(np.array(table.x[rows])).unsqueeze(1)
        batch = Batch(y, x, None, state is None).of(net)
        state = net.advance(batch.y, x=batch.x, state=state)
    return state
