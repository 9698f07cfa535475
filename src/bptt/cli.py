"""The command line: arguments in, calls out.

torch is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

import bptt
from bptt.errors import BpttError, require_whole
from bptt.training.settings import Settings

if TYPE_CHECKING:
    from bptt.model.network import Network
    from bptt.training.batches import Data
    from bptt.training.fit import Fit, Step
    from bptt.training.run import Run

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
RESUME_OPTIONS = {"--resume", "--max-steps", "--max-seconds", "--tensorboard"}
MOST_SEED = 2**63 - 1
SAMPLE_STEPS, SAMPLE_TEMPERATURE = 400, 0.7
CLEARLY_BETTER = 0.05
"""Nats per step by which an earlier validation has to be better to be worth a word."""
TABLES = (".csv", ".tsv", ".parquet")
TABLE_OPTIONS = ("target", "inputs", "time", "fill", "difference", "validation_share")
COMMAS = Parameter(
    converter=lambda _, tokens: tuple(name for one in tokens for name in one.value.split(","))
)

app = App(
    name="bptt",
    help="Train recurrent networks by backpropagation through time.",
    version=lambda: bptt.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What network to train."""

    hidden: int = 128
    """Hidden units of each layer."""

    layers: int = 1
    """Recurrent layers, one on top of the other."""

    cell: Literal["tanh", "relu", "gru", "lstm"] = "tanh"
    """What one unit computes."""

    recurrence: Literal["hidden", "output", "both"] = "both"
    """Where the loop runs: hidden to hidden, output to hidden, or both."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What the data is."""

    tokens: Literal["characters", "bytes"] = "characters"
    """Of a text: what to predict one at a time; bytes takes any file."""

    target: Annotated[tuple[str, ...], COMMAS] = ()
    """Of a table: the columns to model, such as a,b; by default every column of numbers left."""

    inputs: Annotated[tuple[str, ...], COMMAS] = ()
    """Of a table: columns that are known at the step that is predicted."""

    time: str | None = None
    """Of a table: the column that rises from row to row."""

    fill: Literal["previous", "linear"] | None = None
    """Of a table: what to put for missing values, which are refused otherwise."""

    difference: bool = False
    """Of a table: model the change from row to row, for series with a trend."""

    validation_share: float = 0.1
    """Of a table: how much of it, at its end, is not to train on."""

    scale: Literal["learned", "fixed"] = "learned"
    """Of numbers: whether their spread is learned, or the loss is the squared error."""


@app.command
def train(
    data: Path | None = None,
    /,
    *,
    network: Annotated[NetworkOptions | None, Parameter(name="*")] = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    options: Annotated[DataOptions | None, Parameter(name="*")] = None,
    seed: int = 0,
    out: Path | None = None,
    resume: Path | None = None,
    tensorboard: bool = False,
) -> None:
    """Train a network on a text, a table or a collection of sequences, and show how it learns.

    Ctrl-C stops after the current step and saves; 'bptt train --resume RUN' goes on from there.

    Parameters
    ----------
    data
        A UTF-8 text file; a table (.csv, .tsv, .parquet), a row a step; or a collection of
        sequences (.npz with y, and x and lengths if there are any, time first). Without any, the
        language documentation that every Python carries.
    seed
        Decides the first weights; the same seed gives the same run.
    out
        The folder for the run; by default the next free one under runs/.
    resume
        The folder of a run to go on with, instead of starting one.
    tensorboard
        Write TensorBoard events into the run's folder too.
    """
    import torch  # noqa: PLC0415

    from bptt.training.fit import fit  # noqa: PLC0415
    from bptt.training.fit import resume as resume_run  # noqa: PLC0415
    from bptt.training.run import Run, next_folder  # noqa: PLC0415

    network, settings = network or NetworkOptions(), settings or Settings()
    if resume is not None:
        run = Run.open(resume)
        with _watching(run.path, run.unit, settings, tensorboard) as on_step:
            net, done = resume_run(
                run,
                data=data,
                max_steps=settings.max_steps,
                max_seconds=settings.max_seconds,
                on_step=on_step,
            )
        found = run.read_data(data) if run.kind == "table" else None
    else:
        require_whole("seed", seed, 0, MOST_SEED)
        options = options or DataOptions()
        found = _read(data, options)
        torch.manual_seed(seed)
        net = _network(found, network, options)
        out = out or next_folder(data)
        steps = found.training_batches(1, None, 0).steps
        print(f"{found.source}: {steps:,} {found.unit}s to train on")
        with _watching(out, found.unit, settings, tensorboard) as on_step:
            done = fit(net, found, settings, out=out, seed=seed, on_step=on_step)
    _say_what_came_out(net, found, done)


def _read(path: Path | None, options: DataOptions) -> Data:
    """Read the data, of the kind that its name says."""
    from bptt.training.collection import read_collection  # noqa: PLC0415
    from bptt.training.data import read_text  # noqa: PLC0415
    from bptt.training.tables import Columns, read_table  # noqa: PLC0415

    kind = "" if path is None else path.suffix.lower()
    rest = {key: value for key, value in asdict(options).items() if key in TABLE_OPTIONS}
    changed = [key for key, value in rest.items() if value != getattr(DataOptions(), key)]
    if kind in TABLES and path is not None:
        return read_table(path, Columns(**rest))
    if changed:
        flag, name = changed[0].replace("_", "-"), path or "the built-in text"
        raise BpttError(f"--{flag} is for tables ({', '.join(TABLES)}); {name} is none")
    if kind == ".npz" and path is not None:
        return read_collection(path)
    return read_text(path, options.tokens)


def _network(data: Data, network: NetworkOptions, options: DataOptions) -> Network:
    """Return a fresh network for the data."""
    likelihood, inputs = data.likelihood, data.inputs
    if isinstance(likelihood, bptt.Gaussian):
        likelihood = bptt.Gaussian(likelihood.d, scale=options.scale)
    if network.recurrence == "hidden" and inputs == 0:
        inputs = likelihood.encoding  # x is then the value before
    return bptt.Network(likelihood, inputs=inputs, **asdict(network))


@app.command
def generate(
    run: Path,
    /,
    *,
    prompt: str = "",
    steps: int = 500,
    temperature: float = SAMPLE_TEMPERATURE,
    seed: int | None = None,
    out: Path | None = None,
    data: Path | None = None,
    future: Path | None = None,
) -> None:
    """Let a trained network write, or forecast the table that it was trained on.

    Parameters
    ----------
    run
        The folder of the run.
    prompt
        A text to continue.
    steps
        How many characters or bytes to write, or rows to forecast.
    temperature
        Below 1 makes likely characters likelier; 0 always takes the likeliest.
    seed
        Decides the sample; by default every call gives another.
    out
        Of a table: where to write the forecast (.csv), with a figure beside it (.html); by default
        forecast.csv in the run's folder.
    data
        Of a table: where it is now, if it was moved, or a newer one with the same columns.
    future
        Of a table: one that has its inputs for the steps ahead.
    """
    from bptt.training.run import Run  # noqa: PLC0415

    found = Run.open(run)
    if prompt and found.kind != "text":
        raise BpttError(f"--prompt is for texts; {run} was trained on another kind: leave it out")
    if found.kind == "text":
        _write_sample(found, prompt, steps, temperature, seed)
    elif found.kind == "table":
        _forecast(found, steps, out or found.path / "forecast.csv", data, future, seed)
    else:
        raise BpttError(
            f"{run} was trained on a collection of sequences; expected a text or a table: "
            "in Python, bptt.Run.open(...).network().generate(...) runs it freely"
        )


def _forecast(
    run: Run, steps: int, out: Path, data: Path | None, future: Path | None, seed: int | None
) -> None:
    from bptt.report.plots import plot_forecast, write_figure  # noqa: PLC0415
    from bptt.training.series import forecast_table  # noqa: PLC0415

    table = run.read_table(data or run.config["data"]["path"])
    ahead = forecast_table(run.network().eval(), table, steps, future=future, seed=seed)
    ahead.write(out)
    figure = out.with_suffix(".html")
    write_figure(plot_forecast(table, ahead), figure)
    print(f"{steps:,} steps ahead are in {out}; the figure is {figure}")


@contextmanager
def _watching(
    folder: Path, unit: str, settings: Settings, tensorboard: bool
) -> Iterator[Callable[[Step], None]]:
    """Give the `on_step` that shows a training run."""
    from bptt.report.progress import TrainingDisplay  # noqa: PLC0415
    from bptt.training.tensorboard import tensorboard_writer  # noqa: PLC0415

    write = tensorboard_writer(folder) if tensorboard else None
    with TrainingDisplay(Console(highlight=False), unit, settings.max_seconds) as display:

        def on_step(step: Step) -> None:
            display(step)
            if write is not None:
                write(step)

        yield on_step


def _say_what_came_out(net: Network, data: Data | None, done: Fit) -> None:
    from bptt.report.progress import clock, losses_in  # noqa: PLC0415

    run = done.run
    assert run is not None
    folder, next_steps = shlex.quote(str(run.path)), ["generate {} --steps 100"]
    measure, per_nat = losses_in(run.unit)
    print(
        f"validation {done.validation_nll * per_nat:.3f} {measure} "
        f"after {done.step:,} steps in {clock(done.seconds)}\n"
    )
    if run.kind == "text":
        starts_lines = run.unit == "byte" or "\n" in run.vocabulary.characters
        print(f"A sample of its own, at temperature {SAMPLE_TEMPERATURE}:")
        first = "\n" if starts_lines else ""
        _write_sample(run, first, SAMPLE_STEPS, SAMPLE_TEMPERATURE, seed=0)
        print()
        next_steps = ["generate {} --prompt 'The '"]
    elif run.kind == "table":
        _say_one_step_ahead(net, data)
        if data is not None and data.inputs:
            next_steps = ["generate {} --steps 100 --future INPUTS_AHEAD.csv"]
    else:
        next_steps = []
    _say_if_it_was_better_before(run, done)
    next_steps.append(f"train --resume {{}} --max-steps {2 * max(done.step, 1)}")
    print(f"The run is in {run.path}. Try next:")
    for step in next_steps:
        print(f"  bptt {step.format(folder)}")


def _say_if_it_was_better_before(run: Run, done: Fit) -> None:
    """Say when the validation loss was lowest, if that is some while ago."""
    rows = [row for row in run.metrics() if "validation_nll" in row]
    best = min(rows, key=lambda row: row["validation_nll"], default=None)
    if best is None or best["validation_nll"] > done.validation_nll - CLEARLY_BETTER:
        return
    print(
        f"The validation loss was lowest after {best['step']:,} steps, and has risen since: a new "
        f"run with --max-steps {best['step']} should do better.\n"
    )


def _say_one_step_ahead(net: Network, data: Data | None) -> None:
    from bptt.training.series import one_step_ahead  # noqa: PLC0415
    from bptt.training.tables import Table  # noqa: PLC0415

    assert isinstance(data, Table)
    errors = one_step_ahead(net, data)
    print("One step ahead, root mean square error on the validation part:")
    for name, mine, its in zip(errors.names, errors.network, errors.persistence, strict=True):
        print(f"  {name}: {mine:.4g}, against {its:.4g} of expecting the value before")
    print()


def _write_sample(run: Run, prompt: str, steps: int, temperature: float, seed: int | None) -> None:
    import torch  # noqa: PLC0415

    net, vocabulary = run.network().eval(), run.vocabulary
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        require_whole("seed", seed, 0, MOST_SEED)
        generator.manual_seed(seed)
    given = vocabulary.encode(prompt).unsqueeze(1) if prompt else None
    tokens = net.stream(steps, prompt=given, temperature=temperature, generator=generator)
    print(prompt, end="")
    for piece in vocabulary.decode_stream(y for some in tokens for y in some[:, 0].tolist()):
        print(piece, end="", flush=True)
    print()


def _check_resume(arguments: Sequence[str]) -> None:
    """Raise BpttError if --resume comes with a setting that belongs to the run."""
    flags = [argument for argument in arguments if argument.startswith("--")]
    names = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    if "--resume" in names and (others := sorted(names - RESUME_OPTIONS)):
        raise BpttError(
            f"--resume goes on with the run's own settings, but got {', '.join(others)}; "
            "leave that out, or start a new run"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _check_resume(arguments)
        app(arguments, exit_on_error=False, print_error=False)
    except (BpttError, CycloptsError) as error:
        print("bptt:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        run = getattr(interrupt, "run", None)  # bptt.training.fit.Interrupted knows what was saved
        if run is not None:
            print(f"Stopped and saved. To go on: bptt train --resume {shlex.quote(str(run.path))}")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; point stdout elsewhere so that Python's last flush finds no pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0
