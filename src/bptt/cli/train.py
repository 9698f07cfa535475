"""bptt train: from a file to a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import App, CycloptsError, Parameter

from bptt.cli.console import Console
from bptt.cli.flow import write_and_say
from bptt.cli.launch import is_restarted, joined
from bptt.cli.options import MOST_SEED
from bptt.cli.rules import (
    check,
    complaint,
)
from bptt.cli.table_options import TableOptions
from bptt.cli.train_data import data_like_its_own, network_for, read_data
from bptt.cli.train_options import DataOptions, InitialOptions, NetworkOptions
from bptt.cli.train_words import say_what_came_out
from bptt.errors import BpttError, printable, require_whole
from bptt.training.settings import Settings

if TYPE_CHECKING:
    from bptt.data.batches import Dataset
    from bptt.model.network import Network
    from bptt.training.ranks import Ranks
    from bptt.training.updates import Fit, Update


def train(
    data: Path | None = None,
    /,
    *,
    network: Annotated[NetworkOptions | None, Parameter(name="*")] = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    options: Annotated[DataOptions | None, Parameter(name="*")] = None,
    table: Annotated[TableOptions | None, Parameter(name="*")] = None,
    start: Annotated[InitialOptions | None, Parameter(name="*")] = None,
    seed: int = 0,
    out: Path | None = None,
    begun: Annotated[Path | None, Parameter(name="--from")] = None,
    resume: Path | None = None,
    tensorboard: bool = False,
    report: bool = False,
) -> None:
    """Train a network on a text, a table or a collection of sequences, and show how it learns.

    Ctrl-C stops after the current update and saves; 'bptt train --resume RUN' goes on from there.

    Parameters
    ----------
    data
        A UTF-8 text file; a table (.csv, .tsv, .parquet), a row a step; or a collection of
        sequences (.npz with y, and x, lengths and loss_weights if there are any, time first; or
        with x and labels; y_validation and the like are to validate on); or texts to tell apart,
        in a folder with a folder for each class, a text a file, or a file for each class, a text a
        line; or with --corpus all texts below a folder, as one; or a task, drawn on the fly:
        task:adding, copy, order, order3, parity, flipflop, sine, lorenz.
        Without any, the language documentation that every Python carries.
    seed
        Decides the first weights and all that is drawn; the same seed gives the same run, on the
        same kind of processor with as many threads (else sums differ in their last bits).
    out
        The folder for the run; by default the next free one under runs/.
    begun
        The folder of a run whose trained network to start from: with its vocabulary, columns and
        units, on other data.
    resume
        The folder of a run to go on with, instead of starting one.
    tensorboard
        Write TensorBoard events into the run's folder too.
    report
        Look at the gradient now and then, and write report.html at the end, as 'bptt flow' does.
    """
    from bptt.report.measures import result_of  # noqa: PLC0415
    from bptt.training.fit import is_begun  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415
    from bptt.training.runs.claims import automatic_folders  # noqa: PLC0415

    settings = settings or Settings()
    extras = Extras(tensorboard, report)
    folder, ends = resume or out, settings
    with joined() as ranks:
        with ranks.together():
            if report and folder is not None:  # not only when all the training is done
                files.require_ours(folder / "report.html", files.PAGE)
            if resume is None:
                brought = network, options, table, start
                dataset, net = _prepared(data, *brought, settings, seed, begun)
                if out is not None and is_restarted():
                    was_begun = is_begun(out, net, dataset, settings, seed)
                    if ranks.agree(was_begun, f"{out} is a run of this command"):
                        data, resume, ends = None, out, Settings(max_seconds=settings.max_seconds)
        if resume is not None:
            dataset, net, done = _go_on(resume, data, ends, extras, ranks)
        else:
            where = out or automatic_folders(data)
            done = _start(net, dataset, settings, where, seed=seed, extras=extras, ranks=ranks)
    if not ranks.is_first:
        return
    assert done.run is not None
    result = result_of(net, dataset, done)
    if result is not None:
        result.write(done.run.path)
    say_what_came_out(net, dataset, done, result)
    if report:
        print()
        write_and_say(done.run, data if resume is not None else None)


def require_trainable(arguments: Sequence[str]) -> None:
    """Raise BpttError unless `bptt train` with these arguments would start to train."""
    from bptt.training.trainer import Trainer  # noqa: PLC0415

    parser = App(default_command=train, config=lambda _, __, typed: check("train", typed))
    parser.command(train)
    try:
        _, bound, _ = parser.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise BpttError(complaint(error, "train", parser)) from None
    bound_arguments = bound.arguments
    settings = bound_arguments.get("settings") or Settings()
    network, options, table, start = (
        bound_arguments.get(name) for name in ("network", "options", "table", "start")
    )
    seed, begun = bound_arguments.get("seed", 0), bound_arguments.get("begun")
    data, net = _prepared(
        bound_arguments.get("data"), network, options, table, start, settings, seed, begun
    )
    Trainer(net, data, settings)


def _prepared(  # noqa: PLR0917 (they are the parameters of the command)
    path: Path | None,
    network: NetworkOptions | None,
    options: DataOptions | None,
    table: TableOptions | None,
    start: InitialOptions | None,
    settings: Settings,
    seed: int,
    begun: Path | None,
) -> tuple[Dataset, Network]:
    """Return the data, and a network for it: a fresh one, or one that was trained before."""
    import torch  # noqa: PLC0415

    require_whole("seed", seed, 0, MOST_SEED)
    options = options or DataOptions()
    if begun is not None:
        torch.manual_seed(seed)
        return data_like_its_own(begun, path, options)
    data = read_data(path, options, table or TableOptions(), settings)
    torch.manual_seed(seed)
    return data, network_for(data, network or NetworkOptions(), options, start or InitialOptions())


class Extras(NamedTuple):
    """What is written besides the run itself."""

    tensorboard: bool
    report: bool


def _start(
    net: Network,
    data: Dataset,
    settings: Settings,
    out: Path | Iterator[Path],
    *,
    seed: int,
    extras: Extras,
    ranks: Ranks,
) -> Fit:
    """Train a fresh network."""
    from bptt.data.tasks.task import Task  # noqa: PLC0415
    from bptt.training.fit import fit  # noqa: PLC0415

    with ranks.together():
        steps = data.training_batches(1, None, 0).steps
    amount = "drawn on the fly" if isinstance(data, Task) else f"{steps:,} {data.unit}s to train on"
    print(f"{printable(data.source)}: {amount}")
    for line in data.about:
        print(f"  {printable(line)}")
    with _watching(data, settings, extras, ranks) as on_update:
        return fit(net, data, settings, out=out, seed=seed, on_update=on_update, progress=False)


def _go_on(
    folder: Path, data: Path | None, settings: Settings, extras: Extras, ranks: Ranks
) -> tuple[Dataset, Network, Fit]:
    """Go on with a run."""
    from bptt.training.fit import resume  # noqa: PLC0415
    from bptt.training.runs.run import Run  # noqa: PLC0415

    with ranks.together():
        run = Run.open(folder)
        dataset = run.read_data(data)
    ends: dict[str, Any] = {
        "max_updates": settings.max_updates,
        "max_seconds": settings.max_seconds,
    }
    with _watching(dataset, replace(run.settings(), **ends), extras, ranks) as on_update:
        net, done = resume(run, data=data, **ends, on_update=on_update, progress=False)
    return dataset, net, done


@contextmanager
def _watching(
    data: Dataset, settings: Settings, extras: Extras, ranks: Ranks
) -> Iterator[Callable[[Update], None] | None]:
    """Give the `on_update` that shows a training run, and writes what else is asked for.

    The first rank has one.
    """
    from bptt.training.progress import TrainingDisplay  # noqa: PLC0415
    from bptt.training.snapshots import SEQUENCES, Snapshots  # noqa: PLC0415
    from bptt.training.tensorboard import tensorboard_writer  # noqa: PLC0415

    if not ranks.is_first:
        yield None
        return
    window = settings.resolved(data.default_window).reach
    listeners: list[Callable[[Update], None]] = []
    with ranks.together():
        if extras.tensorboard:
            listeners.append(tensorboard_writer())
        if extras.report:
            listeners.append(Snapshots(data.validation_batches(SEQUENCES), window))
    with TrainingDisplay(Console(), data.unit, settings.max_seconds) as display:

        def on_update(update: Update) -> None:
            display(update)
            for listener in listeners:
                listener(update)

        yield on_update
