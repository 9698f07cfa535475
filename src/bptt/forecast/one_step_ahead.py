"""How good a network is one step ahead on a table, in the table's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from bptt.data.tables.panels import Panel
from bptt.data.tables.table import Table
from bptt.model.dropout import every_unit
from bptt.model.network import Network

SERIES_AT_ONCE = 64


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
    with every_unit(net):
        parts = _of_panel(net, table) if isinstance(table, Panel) else [_of_table(net, table)]
        true, expected, before = map(np.concatenate, zip(*parts, strict=True))
    errors = [np.sqrt(((guess - true) ** 2).mean(0)) for guess in (expected, before)]
    return OneStepAhead(table.columns.target, *errors)


def _of_table(net: Network, table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels to validate on, what is expected of them, and those before them."""
    state, means = None, []
    for each in table.validation_batches(1).first_epoch():
        batch = each.of(net)
        out = net(batch.y, x=batch.x, state=state)
        state = out.state
        means.append(net.likelihood.mean(out.outputs)[batch.unscored :, 0].cpu().numpy())
    before = table.levels[table.cut - 1 : -1]
    expected = table.restore_each(np.concatenate(means), before)
    return np.asarray(table.levels[table.cut :]), expected, np.asarray(before)


def _of_panel(net: Network, panel: Panel) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the same of each series that has a part to validate on."""
    batches, parts = panel.validation_batches(SERIES_AT_ONCE), []
    for index in range(len(batches)):
        batch = batches.get(0, index).of(net)
        outputs = net(batch.y, x=batch.x, lengths=batch.lengths).outputs
        means = net.likelihood.mean(outputs).cpu().numpy()
        for column, one in enumerate(batches.rows_of(0, index).tolist()):
            start, cut = int(batches.starts[one]), int(panel.cuts[one])
            rows = panel.rows(one)
            length = rows.stop - rows.start
            before = panel.levels_before(one, cut)
            standard = means[cut - start : length - start, column]
            expected = panel.restore_each(one, standard, before)
            parts.append((np.asarray(panel.levels[rows][cut:]), expected, before))
    return parts
