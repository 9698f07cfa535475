"""What a network reaches on its data, in a measure that people read."""

from __future__ import annotations

import math

from bptt.data.batches import Dataset
from bptt.data.sequences.labels import Labelled
from bptt.data.tables.panels import Panel
from bptt.data.tables.table import Table
from bptt.data.texts.text import Text
from bptt.forecasting.one_step_ahead import one_step_ahead
from bptt.model.network import Network
from bptt.training.runs.result import Measured, Result
from bptt.training.updates import Fit

ERROR, BITS, RIGHT, SQUARES = "RMSE", "bits per byte", "right", "squared error"


def result_of(net: Network, data: Dataset, done: Fit) -> Result | None:
    """Return what the weights that are used reach on what was held out, if data has a measure.

    Of a table the root mean square error one step ahead, of each column, in the table's units,
    beside that of the value before. Of a text bits per byte, whatever its tokens are. Of sequences
    with labels the share that is told right, or the mean squared error, beside one answer for all.
    """
    if isinstance(data, Table | Panel):
        errors = one_step_ahead(net, data)
        each = zip(errors.names, errors.network.tolist(), errors.persistence.tolist(), strict=True)
        values = tuple(Measured(*numbers) for numbers in each)
        return Result(done.updates, ERROR, values, "the value before")
    if isinstance(data, Text) and done.validation_nll is not None:
        bits = done.validation_nll / math.log(2) / data.bytes_per_token
        return Result(done.updates, BITS, (Measured("", bits),))
    if isinstance(data, Labelled) and done.score is not None:
        off, simple = done.score, data.criterion.baseline
        if data.classes:
            right = Measured("", 1 - off, 1 - simple)
            return Result(done.updates, RIGHT, (right,), "the commonest class")
        return Result(done.updates, SQUARES, (Measured("", off, simple),), "the mean label")
    return None
