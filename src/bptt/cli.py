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
    from bptt.training.fit import Fit, Step
    from bptt.training.run import Run

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
RESUME_OPTIONS = {"--resume", "--max-steps", "--max-seconds", "--tensorboard"}
MOST_SEED = 2**63 - 1
SAMPLE_STEPS, SAMPLE_TEMPERATURE = 400, 0.7

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


@app.command
def train(
    data: Path | None = None,
    /,
    *,
    network: Annotated[NetworkOptions | None, Parameter(name="*")] = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    tokens: Literal["characters", "bytes"] = "characters",
    seed: int = 0,
    out: Path | None = None,
    resume: Path | None = None,
    tensorboard: bool = False,
) -> None:
    """Train a network on a text, show how it learns, and let it write a sample.

    Ctrl-C stops after the current step and saves; 'bptt train --resume RUN' goes on from there.

    Parameters
    ----------
    data
        A UTF-8 text file; without one, the language documentation that every Python carries.
    tokens
        What to predict one at a time; bytes takes any file.
    seed
        Decides the first weights; the same seed gives the same run.
    out
        The folder for the run; by default the next free one under runs/.
    resume
        Go on with the run in this folder, with its own settings.
    tensorboard
        Write TensorBoard events into the run's folder too.
    """
    import torch  # noqa: PLC0415

    from bptt.training.data import read_text  # noqa: PLC0415
    from bptt.training.fit import fit  # noqa: PLC0415
    from bptt.training.fit import resume as resume_run  # noqa: PLC0415
    from bptt.training.run import Run, next_folder  # noqa: PLC0415

    options, settings = network or NetworkOptions(), settings or Settings()
    if resume is not None:
        run = Run.open(resume)
        with _watching(run.path, run.vocabulary.unit, settings, tensorboard) as on_step:
            _, done = resume_run(
                run,
                data=data,
                max_steps=settings.max_steps,
                max_seconds=settings.max_seconds,
                on_step=on_step,
            )
    else:
        require_whole("seed", seed, 0, MOST_SEED)
        text = read_text(data, tokens)
        torch.manual_seed(seed)
        net = bptt.Network(
            bptt.Categorical(text.vocabulary.size),
            inputs=bptt.Tokens(text.vocabulary.size) if options.recurrence == "hidden" else 0,
            **asdict(options),
        )
        out = out or next_folder(data)
        print(f"{text.source}: {len(text.training):,} {text.vocabulary.kind} to train on")
        with _watching(out, text.vocabulary.unit, settings, tensorboard) as on_step:
            done = fit(net, text, settings, out=out, seed=seed, on_step=on_step)
    _say_what_came_out(done)


@app.command
def generate(
    run: Path,
    /,
    *,
    prompt: str = "",
    steps: int = 500,
    temperature: float = SAMPLE_TEMPERATURE,
    seed: int | None = None,
) -> None:
    """Let a trained network write.

    Parameters
    ----------
    run
        The folder of the run.
    prompt
        A text to continue.
    steps
        How many characters, or bytes, to write.
    temperature
        Below 1 makes likely characters likelier; 0 always takes the likeliest.
    seed
        Decides the sample; by default every call gives another.
    """
    from bptt.training.run import Run  # noqa: PLC0415

    _write_sample(Run.open(run), prompt, steps, temperature, seed)


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


def _say_what_came_out(done: Fit) -> None:
    from bptt.report.progress import bits, clock  # noqa: PLC0415

    run = done.run
    assert run is not None
    unit, folder = run.vocabulary.unit, shlex.quote(str(run.path))
    starts_lines = unit == "byte" or "\n" in run.vocabulary.characters
    print(
        f"validation {bits(done.validation_nll)} bits per {unit} "
        f"after {done.step:,} steps in {clock(done.seconds)}\n\n"
        f"A sample of its own, at temperature {SAMPLE_TEMPERATURE}:"
    )
    _write_sample(run, "\n" if starts_lines else "", SAMPLE_STEPS, SAMPLE_TEMPERATURE, seed=0)
    print(
        f"\nThe run is in {run.path}. Try next:\n"
        f"  bptt generate {folder} --prompt 'The '\n"
        f"  bptt train --resume {folder} --max-steps {2 * max(done.step, 1)}"
    )


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
