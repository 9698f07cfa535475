"""What a network makes of a table: how good it is one step ahead, and how the series goes on."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from bptt.errors import BpttError
from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.model.state import State
from bptt.training import files
from bptt.training.tables import Columns, Table, read_table

STEPS_AT_ONCE = 1024
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
            batch = batches.get(0, i)
            out = net(batch.y, batch.x, state=state)
            state = out.state
            means.append(net.likelihood.mean(out.outputs)[batch.unscored :, 0].numpy())
    before = table.levels[table.cut - 1 : -1]
    true, expected = table.levels[table.cut :], table.restore_each(np.concatenate(means), before)
    errors = [np.sqrt(((guess - true) ** 2).mean(0)) for guess in (expected, before)]
    return OneStepAhead(table.columns.target, *errors)


@dataclass(frozen=True)
class SeriesForecast:
    """How a table goes on, in its units, (steps, d); quantiles of the sampled paths by their share.

    times: of the steps, if the table has any and they are evenly spaced; else numbers from 1.
    """

    names: tuple[str, ...]
    times: np.ndarray
    mean: Float[np.ndarray, "steps d"]
    quantiles: dict[float, Float[np.ndarray, "steps d"]]

    def write(self, path: Path) -> None:
        """Write a CSV file: a row a step; for every column the mean and the quantiles."""
        shares = {f"{share:.0%}": values for share, values in self.quantiles.items()}
        parts = {"mean": self.mean, **shares}
        header = ["time", *(f"{name} {part}" for name in self.names for part in parts)]
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(header)
        for t, time in enumerate(self.times):
            values = [part[t, i] for i in range(len(self.names)) for part in parts.values()]
            rows.writerow([time, *(f"{value:.6g}" for value in values)])
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

    future: a table with the input columns of the steps ahead, for a network that has inputs.
    """
    x = _future_inputs(table, future, steps)
    generator = torch.Generator()
    _ = generator.seed() if seed is None else generator.manual_seed(seed)
    ahead = net.forecast(
        steps, x=x, state=_state_at_the_end(net, table), paths=paths, generator=generator
    )
    last = np.asarray(table.levels[-1])
    many = table.restore(np.moveaxis(ahead.paths[:, :, 0].numpy(), 0, 1), last)
    return SeriesForecast(
        table.columns.target,
        _times_ahead(table.times, steps),
        table.restore(ahead.mean[:, 0].numpy(), last),
        {share: np.quantile(many, share, axis=1) for share in QUANTILES},
    )


def _state_at_the_end(net: Network, table: Table) -> State | None:
    state: State | None = None
    for start in range(0, len(table.y), STEPS_AT_ONCE):
        some = slice(start, start + STEPS_AT_ONCE)
        y = torch.from_numpy(np.array(table.y[some])).unsqueeze(1)
        x = None if table.x is None else torch.from_numpy(np.array(table.x[some])).unsqueeze(1)
        state = net.advance(y, x, state=state)
    return state


def _future_inputs(table: Table, future: Path | None, steps: int) -> torch.Tensor | None:
    """Return the inputs of the steps ahead, (steps, 1, i), or raise BpttError."""
    names = table.columns.inputs
    if not names:
        return None
    if future is None:
        raise BpttError(
            f"the network has the inputs {', '.join(names)}; expected a table that has them for "
            "the steps ahead (--future)"
        )
    ahead = read_table(future, Columns(target=names), scaling=(table.x_scaling, None))  # type: ignore[arg-type]
    if len(ahead.y) < steps:
        raise BpttError(f"{future} has {len(ahead.y)} rows; expected one for each of {steps} steps")
    return torch.from_numpy(np.array(ahead.y[:steps])).unsqueeze(1)


def _times_ahead(times: np.ndarray | None, steps: int) -> np.ndarray:
    """Return the times of the steps ahead: as far apart as the table's usually are."""
    if times is None or len(times) < 2:
        return np.arange(1, steps + 1)
    gap = np.sort(np.diff(times))[(len(times) - 1) // 2]
    return np.asarray(times[-1] + gap * np.arange(1, steps + 1))
