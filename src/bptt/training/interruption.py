"""Ctrl-C, SIGTERM, SIGHUP: the update ends and is saved, or what is not training ends at once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt.training.runs.run import Run

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
SOON = 0.001
"""Seconds until a signal that was lost comes again."""


class Ended(KeyboardInterrupt):
    """A signal has ended what was going on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = int(signum)


class Interrupted(Ended):
    """A signal has ended training after `update`, saved in `run` if there is one."""

    def __init__(self, run: Run | None, update: int, signum: int = signal.SIGINT) -> None:
        super().__init__(f"stopped after update {update}", signum)
        self.run, self.update = run, update


def end(signum: int, frame: FrameType | None) -> None:
    """Raise Ended; but leave at once if an import is going on.

    Extension modules would make an ImportError of it, and there is nothing to save yet. Nothing is
    raised where Python would ignore it, as in its hook for that: the signal comes again soon.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + signum)
        if frame.f_code is _sent_again.__code__:
            return _send_soon(signum)
        frame = frame.f_back
    raise Ended(f"ended by {signal.Signals(signum).name}", signum)


@contextmanager
def ending() -> Iterator[None]:
    """Let signals call `end` while entered, in place of what Python does by itself.

    A signal that is ignored, as by nohup, stays so, and somebody's handler stays in place. One that
    comes while an object is taken away, whose errors Python ignores, comes again afterwards.
    """
    before = sys.unraisablehook
    with _handled([number for number in SIGNALS if signal.getsignal(number) in DEFAULTS], end):
        sys.unraisablehook = partial(_sent_again, before)
        try:
            yield
        finally:
            sys.unraisablehook = before


@contextmanager
def postponed() -> Iterator[Callable[[], int | None]]:
    """Give a function that returns the first signal that has come while entered, or None.

    A second Ctrl-C interrupts at once. Handlers of somebody's for SIGTERM and SIGHUP stay in place,
    and so does all that is ignored. In other threads than the main one no signal comes.
    """
    received: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signum, before)

    before = signal.getsignal(signal.SIGINT)
    numbers = [
        number
        for number in SIGNALS
        if signal.getsignal(number) in (*DEFAULTS, end)
        or (number == signal.SIGINT and callable(before))
    ]
    with _handled(numbers, note):
        yield lambda: received[0] if received else None
    if received:
        signal.raise_signal(received[0])  # it came after the last look


def _sent_again(
    before: Callable[[sys.UnraisableHookArgs], Any], ignored: sys.UnraisableHookArgs
) -> None:
    """Be Python's hook for what it ignores: if that is Ended, the signal comes again."""
    if isinstance(ignored.exc_value, Ended):
        _send_soon(ignored.exc_value.signum)
    else:
        before(ignored)


def _send_soon(signum: int) -> None:
    _thread.start_new_thread(_send, (signum,))  # threading's would wait for it to begin


def _send(signum: int) -> None:
    """Send this process a signal; raise_signal, of a thread, would not end what it waits for."""
    time.sleep(SOON)
    if os.name == "posix":
        os.kill(os.getpid(), signum)
    else:
        signal.raise_signal(signum)


@contextmanager
def _handled(
    numbers: list[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Let a handler have these signals while entered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
