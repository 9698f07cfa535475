"""Peak memory and time of a call, each in a fresh process (Linux)."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

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
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    began = time.perf_counter()
    held = call()
    seconds = time.perf_counter() - began
    pipe.send((_status("VmHWM") - before, seconds))
    del held


def _status(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
