"""Processes of ours that end when the one that started them does, however that comes about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

PARENT = "BPTT_PARENT"
"""The environment's variable that tells a child the number of its parent."""
PR_SET_PDEATHSIG = 1


class Children:
    """Calls of this program that run side by side, and can be stopped together."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._changing = threading.Lock()
        self._is_stopping = False

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        """Run the program with these arguments on one thread; return its status and stderr."""
        child_end, parent_end = os.pipe()
        try:
            with self._changing:
                if self._is_stopping:
                    return -signal.SIGTERM, ""
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "bptt", *arguments],
                    env={**os.environ, "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())},
                    stdin=child_end,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
                self._running.add(process)
            _, errors = process.communicate()
        finally:
            os.close(child_end)
            os.close(parent_end)  # what the child of a parent that lives would wait for in vain
        with self._changing:
            self._running.discard(process)
        return process.returncode, errors

    def stop(self) -> None:
        """Let those that run end their update and save, and start no more."""
        self._signal("terminate")

    def kill(self) -> None:
        """End those that run at once, and start no more."""
        self._signal("kill")

    def _signal(self, name: str) -> None:
        with self._changing:
            self._is_stopping = True
            for process in self._running:
                getattr(process, name)()


def end_with_parent() -> None:
    """Let this process end as soon as its parent does, if `Children` started it."""
    parent = os.environ.pop(PARENT, "")
    if not parent.isdecimal():
        return
    if not _killed_with_parent():
        threading.Thread(target=_end_at_end_of_stdin, daemon=True).start()
    elif os.getppid() != int(parent):  # it ended before we could ask for the signal
        os._exit(128 + signal.SIGTERM)


def _killed_with_parent() -> bool:
    """Ask Linux to kill this process when its parent ends; return whether that is possible."""
    if sys.platform != "linux":
        return False
    import ctypes  # noqa: PLC0415

    return bool(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0)


def _end_at_end_of_stdin() -> None:
    """Wait until the parent, which alone can write to stdin, is gone."""
    while os.read(0, 1):
        pass
    os._exit(128 + signal.SIGTERM)
