"""How good a network is one step ahead on a table, in the table's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from bptt.data.tables.panels import Panel
from bptt.data.tables.series import Series
from bptt.data.tables.table import WARM_UP, Table
from bptt.forecasting.windows import SERIES_AT_ONCE, Part, side_by_side
from bptt.model.dropout import every_unit
from bptt.model.network import Network


@dataclass(frozen=True)
class OneStepAhead:
    """Root mean square errors on the validation part, in the table's units, by target column.

    network: of the mean that the network expects; persistence: of expecting the value before.
    """

    names: tuple[str, ...]
    network: Float[np.ndarray, " d"]
    persistence: Float[np.ndarray, " d"]


@torch.no_grad()
def one_step_ahead(net: Network, table: Table | Panel) -> OneStepAhead:
    """Measure what a network forecasts one step ahead, given all true values before."""
    squares = np.zeros((2, len(table.columns.target)))
    validated = sorted((one for one in table.series if one.cut < len(one)), key=len)
    with every_unit(net):
        for first in range(0, len(validated), SERIES_AT_ONCE):
            squares += _squares(net, validated[first : first + SERIES_AT_ONCE])
    count = sum(len(series) - series.cut for series in validated)
    return OneStepAhead(table.columns.target, *np.sqrt(squares / count))


def _squares(net: Network, group: list[Series]) -> Float[np.ndarray, "2 d"]:
    """Return the summed squares of the errors of the network, and of the value before."""
    parts = [Part(series, max(0, series.cut - WARM_UP), len(series)) for series in group]
    squares = np.zeros((2, group[0].y.shape[1]))
    state, read = None, 0
    for batch in side_by_side(net, parts):
        out = net(batch.y, x=batch.x, lengths=batch.lengths, state=state)
        means = net.likelihood.mean(out.outputs).cpu().numpy()
        for column, part in enumerate(parts):
            series, start, stop = part.cut(read)
            scored = max(start, series.cut)
            if scored < stop:
                true, before = series.levels[scored:stop], series.levels_before(scored, stop)
                expected = series.restore_each(means[scored - start : stop - start, column], scored)
                squares += [((guess - true) ** 2).sum(0) for guess in (expected, before)]
        state, read = out.state, read + len(batch.y)
    return squares
