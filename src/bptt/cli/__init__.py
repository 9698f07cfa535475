"""The command line: arguments in, calls out.

torch is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError

import bptt
from bptt.cli.bench import bench
from bptt.cli.compare import compare
from bptt.cli.console import discard_output, is_reader_gone
from bptt.cli.evaluate import evaluate
from bptt.cli.flow import flow
from bptt.cli.generate import generate
from bptt.cli.launch import is_told_by_another, require_one_process
from bptt.cli.rules import check, complaint
from bptt.cli.train import train
from bptt.cli.words import shell_word
from bptt.errors import BpttError, BpttWarning, printable
from bptt.training.interruption import Ended, Interrupted, ending

ONE_PROCESS = ("generate", "flow", "compare", "bench")
"""The commands that are not for several processes of torchrun's."""
BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

app = App(
    name="bptt",
    help="Train recurrent networks by backpropagation through time.",
    version=lambda: bptt.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    config=lambda _, commands, typed: check(commands[0], typed) if commands else None,
)
for command in (train, generate, evaluate, flow, compare, bench):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with ending():
            return _run(arguments)
    except Ended as interrupt:  # while something else was told
        return 128 + interrupt.signum
    except OSError as error:
        if not is_reader_gone(error):
            raise
        discard_output()
        before = _interrupt_before(error)
        return BROKEN_PIPE if before is None else 128 + before.signum


def _interrupt_before(error: BaseException) -> Ended | None:
    """Return the signal during whose handling an error came, as when a terminal is closed."""
    context: BaseException | None = error
    while context is not None and not isinstance(context, Ended):
        context = context.__context__
    return context


def _run(arguments: Sequence[str]) -> int:
    """Run a command; return the exit status."""
    command = arguments[0] if arguments else ""
    try:
        if command in ONE_PROCESS:
            require_one_process(command)
        with _warnings_as_lines():
            app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except (BpttError, CycloptsError) as error:
        if is_told_by_another(error):
            return BAD_INPUT
        print("bptt:", printable(complaint(error, command, app)), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        try:
            _print_resume_command(interrupt)
        except OSError as error:  # it was the closing of the terminal that ended it
            if not is_reader_gone(error):
                raise
            discard_output()
        return 128 + interrupt.signum if isinstance(interrupt, Ended) else INTERRUPTED
    return 0


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print warnings of ours as one line each, as errors are; others as Python does."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category is BpttWarning:
            print("bptt:", printable(message), file=sys.stderr)
        else:
            before(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", BpttWarning)
        warnings.showwarning = show
        yield


def _print_resume_command(interrupt: KeyboardInterrupt) -> None:
    if isinstance(interrupt, Interrupted) and interrupt.run is not None:
        path = shell_word(interrupt.run.path)
        print(f"Stopped and saved. To go on: bptt train --resume {path}", flush=True)
