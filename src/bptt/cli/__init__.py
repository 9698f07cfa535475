"""The command line: arguments in, calls out.

torch is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import bptt
from bptt.cli.bench import bench
from bptt.cli.compare import compare
from bptt.cli.flow import flow
from bptt.cli.generate import generate
from bptt.cli.train import train
from bptt.cli.words import shell_word
from bptt.errors import BpttError, printable

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
RESUME_OPTIONS = {"--resume", "--max-steps", "--max-seconds", "--tensorboard", "--report"}

app = App(
    name="bptt",
    help="Train recurrent networks by backpropagation through time.",
    version=lambda: bptt.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (train, generate, flow, compare, bench):
    app.command(command)


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
        print("bptt:", printable(" ".join(str(error).split())), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        run = getattr(interrupt, "run", None)  # bptt.training.fit.Interrupted knows what was saved
        if run is not None:
            print(f"Stopped and saved. To go on: bptt train --resume {shell_word(run.path)}")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; point stdout elsewhere so that Python's last flush finds no pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0
