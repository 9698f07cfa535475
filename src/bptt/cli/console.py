"""What is printed, and what happens when nobody is there to read it."""

from __future__ import annotations

import errno
import os
import sys

import rich.console

GONE = (errno.EPIPE, errno.EIO)
"""What writing fails with when the other end of a pipe has been closed, or the terminal."""


class Console(rich.console.Console):
    """A console that prints text as it is, and says when nobody reads it any more."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Let the error pass, where rich would leave the program with a status of its own."""
        raise BrokenPipeError(errno.EPIPE, "the reader has gone")


def is_reader_gone(error: OSError) -> bool:
    """Whether an error says that nobody reads what is printed any more."""
    return error.errno in GONE and error.filename is None


def discard_output() -> None:
    """Point stdout and stderr elsewhere, so that Python's last flush finds somebody who reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
