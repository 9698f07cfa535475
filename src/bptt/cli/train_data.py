"""What 'bptt train' trains on, and the network that it makes for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import bptt
from bptt.cli.rules import CORPUS, LABELLED, SEQUENCES, TABLE, TASK, TEXT, WORDS, kind_of_data
from bptt.cli.table_options import TableOptions
from bptt.cli.train_options import DataOptions, InitialOptions, NetworkOptions
from bptt.errors import BpttError
from bptt.training.settings import Settings

if TYPE_CHECKING:
    from bptt.data.batches import Dataset
    from bptt.model.network import Network


def read_data(
    path: Path | None, options: DataOptions, table: TableOptions, settings: Settings
) -> Dataset:
    """Read the data, of the kind that its name says."""
    from bptt.data.sequences.collection import read_collection  # noqa: PLC0415
    from bptt.data.sequences.labelled_files import read_labelled  # noqa: PLC0415
    from bptt.data.tables.table_reader import read_table  # noqa: PLC0415
    from bptt.data.tasks.task import DEFAULT_LENGTH, Task  # noqa: PLC0415
    from bptt.data.texts.text import read_text  # noqa: PLC0415

    kind = kind_of_data(None if path is None else str(path), corpus=options.corpus)
    if kind == TABLE and path is not None:
        return read_table(path, table.columns(settings.reach))
    if kind == TASK:
        return Task.parse(str(path), options.length or DEFAULT_LENGTH)
    if kind == LABELLED and path is not None:
        return read_labelled(path, options.tokens)
    if kind == SEQUENCES and path is not None:
        if _has_labels(path):
            return _labelled_arrays(path, options)
        return read_collection(path, standardise=options.standardise)
    return read_text(path, options.tokens)


def _has_labels(path: Path) -> bool:
    """Return whether arrays are sequences with labels, and no collection of y."""
    from bptt.data.sequences.archive import names_in  # noqa: PLC0415

    names = names_in(path)
    return "labels" in names and "y" not in names


def _labelled_arrays(path: Path, options: DataOptions) -> Dataset:
    """Read sequences with labels from arrays, of which no option says in what units they are."""
    from bptt.data.sequences.labelled_files import read_labelled  # noqa: PLC0415

    if options.standardise is not None:
        raise BpttError(
            f"--standardise is for collections without labels; {path} has labels: leave it out"
        )
    return read_labelled(path)


def network_for(
    data: Dataset, network: NetworkOptions, options: DataOptions, start: InitialOptions
) -> Network:
    """Return a fresh network for the data."""
    from bptt.data.sequences.labels import Labelled  # noqa: PLC0415
    from bptt.data.tasks.task import Task  # noqa: PLC0415
    from bptt.model.initial import Initial  # noqa: PLC0415

    likelihood, inputs = data.likelihood, data.inputs
    is_task = isinstance(data, Task)
    if options.scale is not None and not isinstance(likelihood, bptt.Gaussian):
        raise BpttError(f"--scale is for numbers; {data.source} has {likelihood}: leave it out")
    if isinstance(likelihood, bptt.Gaussian) and not is_task:
        likelihood = bptt.Gaussian(likelihood.d, scale=options.scale or "learned")
    is_told_at_the_end = isinstance(data, Labelled) or (is_task and inputs != 0)
    recurrence = network.recurrence or ("hidden" if is_told_at_the_end else "both")
    if recurrence == "hidden" and inputs == 0:
        inputs = likelihood.encoding  # x is then the value before
    init = Initial(
        W=start.init,
        radius=start.radius,
        std=start.init_std,
        forget_bias=start.forget_bias,
        chrono=start.chrono,
    )
    leak = network.leak[0] if len(network.leak) == 1 else network.leak or None
    shape = {**asdict(network), "recurrence": recurrence, "leak": leak}
    return bptt.Network(likelihood, inputs=inputs, init=init, **shape)


def data_like_its_own(
    begun: Path, path: Path | None, options: DataOptions
) -> tuple[Dataset, Network]:
    """Return other data, read as a run's own was, and the run's network."""
    from bptt.data.tasks.task import DEFAULT_LENGTH, Task  # noqa: PLC0415
    from bptt.training.runs.run import TRAINED_ON, Run  # noqa: PLC0415

    name = None if path is None else str(path)
    run, kind = Run.open(begun), kind_of_data(name, corpus=options.corpus)
    if kind == CORPUS:
        kind = TEXT
    if kind == SEQUENCES and path is not None and _has_labels(path):
        kind = LABELLED
    if kind == TABLE and run.has_columns:
        kind = run.kind
    if kind != run.kind:
        raise BpttError(
            f"{begun} was trained on {TRAINED_ON[run.kind]}, and {path or 'the built-in text'} "
            f"is of {WORDS[kind]}; expected the same kind of data"
        )
    if kind == TASK:
        data: Dataset = Task.parse(str(path), options.length or DEFAULT_LENGTH)
    else:
        data = run.read_like_its_own(path)
    return data, run.network()
