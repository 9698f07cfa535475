"""Peak memory and time of a call, each in a fresh process (Linux)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bptt.gradient.costs import taken_by

Prepared = Callable[[], Any]


class Cost(NamedTuple):
    """Growth of the peak resident set over the moment before the call, in bytes; and seconds."""

    memory: int
    seconds: float


def cost(prepare: Callable[..., tuple[Prepared, Prepared]], *arguments: Any) -> Cost:
    """Return what it costs to call what `prepare(*arguments)` returns: a warm-up and the call."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, prepare, arguments))
    process.start()
    theirs.close()
    try:
        return Cost(*mine.recv())
    except EOFError:
        raise SystemExit("the measured process died: see above") from None
    finally:
        process.join()


def _measure(pipe: Connection, prepare: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warm_up, call = prepare(*arguments)
    warm_up()
    taken = taken_by(call)
    if taken.memory is None:
        raise SystemExit("this system does not tell a process's peak memory; Linux does")
    pipe.send((taken.memory, taken.seconds))
