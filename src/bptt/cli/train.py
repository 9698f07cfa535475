"""bptt train: from a file to a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import App, CycloptsError, Parameter

import bptt
from bptt.cli.console import Console
from bptt.cli.flow import write_and_say
from bptt.cli.generate import write_sample
from bptt.cli.launch import is_restarted, joined
from bptt.cli.options import MOST_SEED, TEMPERATURE
from bptt.cli.rules import (
    CORPUS,
    LABELLED,
    SEQUENCES,
    TABLE,
    TASK,
    TEXT,
    WORDS,
    check,
    complaint,
    kind_of_data,
)
from bptt.cli.table_options import TableOptions
from bptt.cli.train_options import DataOptions, InitialOptions, NetworkOptions
from bptt.cli.words import shell_word
from bptt.errors import BpttError, counted, printable, require_whole
from bptt.training.settings import Settings

if TYPE_CHECKING:
    from bptt.data.batches import Dataset
    from bptt.data.texts.vocabulary import Vocabulary
    from bptt.model.network import Network
    from bptt.training.ranks import Ranks
    from bptt.training.runs.result import Result
    from bptt.training.runs.run import Run
    from bptt.training.updates import Fit, Update

SAMPLE_STEPS = 400
PROMPT = "The "
CLEARLY_BETTER = 0.05
"""Nats per step by which an earlier validation has to be better to be worth a word."""


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
    _say_what_came_out(net, dataset, done)
    if report and done.run is not None:
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
        return _brought(begun, path, options)
    data = _read(path, options, table or TableOptions(), settings)
    torch.manual_seed(seed)
    return data, _network(data, network or NetworkOptions(), options, start or InitialOptions())


def _brought(begun: Path, path: Path | None, options: DataOptions) -> tuple[Dataset, Network]:
    """Return other data, read as a run's own was, and the run's network."""
    from bptt.data.tasks.task import DEFAULT_LENGTH, Task  # noqa: PLC0415
    from bptt.training.runs.run import Run  # noqa: PLC0415

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
            f"{begun} was trained on {WORDS[run.kind]}, and {path or 'the built-in text'} is of "
            f"{WORDS[kind]}; expected the same kind of data"
        )
    if kind == TASK:
        data: Dataset = Task.parse(str(path), options.length or DEFAULT_LENGTH)
    else:
        data = run.read_like_its_own(path)
    return data, run.network()


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


def _read(
    path: Path | None, options: DataOptions, table: TableOptions, settings: Settings
) -> Dataset:
    """Read the data, of the kind that its name says."""
    from bptt.data.sequences.collection import read_collection  # noqa: PLC0415
    from bptt.data.sequences.labels import read_labelled  # noqa: PLC0415
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
    from bptt.data.sequences.labels import read_labelled  # noqa: PLC0415

    if options.standardise is not None:
        raise BpttError(
            f"--standardise is for collections without labels; {path} has labels: leave it out"
        )
    return read_labelled(path)


def _network(
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


def _say_what_came_out(net: Network, data: Dataset | None, done: Fit) -> None:
    from bptt.report.measures import result_of  # noqa: PLC0415
    from bptt.training.progress import clock, loss_text, losses_in  # noqa: PLC0415

    run = done.run
    assert run is not None
    assert done.validation_nll is not None
    folder, next_steps = shell_word(run.path), ["generate {} --steps 100"]
    measure, per_nat = losses_in(run.loss_unit)
    loss = done.validation_nll * per_nat
    print(
        f"validation {loss_text(loss)} {measure}{_per_span(data, loss)} "
        f"after {counted(done.updates, 'update')} in {clock(done.seconds)}{_which(done)}\n"
    )
    result = None if data is None else result_of(net, data, done)
    if result is not None:
        result.write(run.path)
    if run.kind == "text":
        print(f"A sample of its own, at temperature {TEMPERATURE}:")
        first = "\n" if run.vocabulary.knows("\n") else ""
        write_sample(run.network().eval(), run.vocabulary, first, SAMPLE_STEPS, TEMPERATURE, seed=0)
        print()
        next_steps = [f"generate {{}}{_prompt(run.vocabulary)}"]
    elif run.kind == "table":
        _say_one_step_ahead(result)
        if run.inputs:
            next_steps = ["generate {} --steps 100 --future INPUTS_AHEAD.csv"]
    elif run.kind == "labelled":
        _say_how_often_it_is_right(net, data, done)
        next_steps = []
    elif run.kind == "task":
        _say_whether_it_is_solved(data, done)
        next_steps = []
    else:
        next_steps = []
    _say_if_it_was_better_before(run, done)
    next_steps.append("flow {}")
    next_steps.append(f"train --resume {{}} --max-updates {2 * max(done.updates, 1)}")
    print(f"The run is in {printable(run.path)}. Try next:")
    for step in next_steps:
        print(f"  bptt {step.format(folder)}")


def _per_span(data: Dataset | None, loss: float) -> str:
    """Say what a loss per token is for each character and byte, where tokens are neither."""
    from bptt.data.texts.text import Text  # noqa: PLC0415
    from bptt.training.progress import loss_text  # noqa: PLC0415

    spans = data.spans if isinstance(data, Text) else {}
    words = [f"{loss_text(loss / span)} per {unit}" for unit, span in spans.items()]
    return f" ({', '.join(words)})" if words else ""


def _which(done: Fit) -> str:
    """Say of which update the weights are, if they are not the last; and why it stopped early."""
    words = "; stopped, as the validation was no better" if done.stopped_by == "patience" else ""
    if done.best_update != done.updates:
        words += f"; the best was after update {done.best_update}, whose weights are used"
    return words


def _prompt(vocabulary: Vocabulary) -> str:
    """Return a prompt to try, as it is typed, if the text has its characters."""
    return f" --prompt '{PROMPT}'" if vocabulary.knows(PROMPT) else ""


def _say_how_often_it_is_right(net: Network, data: Dataset | None, done: Fit) -> None:
    import numpy as np  # noqa: PLC0415

    from bptt.data.sequences.labels import Labelled  # noqa: PLC0415

    assert isinstance(data, Labelled)
    assert done.score is not None
    if not data.classes:
        print(
            f"mean squared error {done.score:.4g} on held-out sequences; the mean label for all "
            f"would have {data.criterion.baseline:.4g}\n"
        )
        return
    print(
        f"{1 - done.score:.1%} of the held-out sequences are told right; naming the commonest for "
        f"all would be right of {1 - data.criterion.baseline:.1%}"
    )
    confusion = data.confusion(net)
    np.fill_diagonal(confusion, 0)
    right, wrong = np.unravel_index(confusion.argmax(), confusion.shape)
    if confusion[right, wrong] > 0:
        names = printable(data.classes[right]), printable(data.classes[wrong])
        print(f"most often {names[0]} is taken for {names[1]}: {confusion[right, wrong]} times")
    print()


def _say_whether_it_is_solved(data: Dataset | None, done: Fit) -> None:
    from bptt.data.tasks.task import Task  # noqa: PLC0415

    assert isinstance(data, Task)
    assert done.score is not None
    measure, solved, baseline = data.criterion
    verdict = "solved" if done.score < solved else "not solved"
    print(
        f"{verdict}: {measure} {done.score:.3g} on held-out sequences; below {solved:.3g} counts "
        f"as solved, and {baseline:.3g} is reached without memory\n"
    )


def _say_if_it_was_better_before(run: Run, done: Fit) -> None:
    """Say when the validation was the best, if the last weights are to be used all the same."""
    best = run.best_row()
    if best is None or best["update"] == done.updates or done.validation_nll is None:
        return
    if best["validation_nll"] > done.validation_nll - CLEARLY_BETTER:
        return
    print(
        f"The validation loss was lowest after {counted(int(best['update']), 'update')}, and "
        "has risen since: a new "
        f"run with --max-updates {best['update']} should do better.\n"
    )


def _say_one_step_ahead(result: Result | None) -> None:
    assert result is not None
    print("One step ahead, root mean square error on the validation part:")
    for column in result.values:
        against = f"against {column.simple:.4g} of expecting {result.method}"
        print(f"  {printable(column.name)}: {column.value:.4g}, {against}")
    print()
