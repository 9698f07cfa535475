"""The command line: arguments in, calls out.

torch is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import bptt
from bptt.cli.bench import bench
from bptt.cli.compare import compare
from bptt.cli.flow import flow
from bptt.cli.generate import generate
from bptt.cli.rules import check, complaint
from bptt.cli.train import train
from bptt.errors import BpttError

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

app = App(
    name="bptt",
    help="Train recurrent networks by backpropagation through time.",
    version=lambda: bptt.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    config=lambda _, commands, typed: check(commands[0], typed) if commands else None,
)
for command in (train, generate, flow, compare, bench):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else ""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (BpttError, CycloptsError) as error:
        print("bptt:", complaint(error, command, app), file=sys.stderr)
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
