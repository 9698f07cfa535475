"""Who trains in a folder: one process at a time, which says who it is.

Reading needs no lock. The operating system lets go of a lock when its process ends, however that
comes about: the file that a kill leaves behind locks nobody out.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import bptt
from bptt.errors import BpttError
from bptt.training.runs.files import EMPTY, JSON, cannot_write, require_ours, sweep, write

LOCK, HOLDER = ".bptt.lock", ".bptt.holder"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while entered; raise BpttError that says who holds it, if another does.

    What processes that were killed left behind in the folder is swept first.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 (it takes a while)

    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    require_ours(folder / LOCK, EMPTY)
    require_ours(folder / HOLDER, JSON)
    try:
        lock.acquire()
    except Timeout:
        raise _in_use(folder) from None
    except OSError as error:
        raise cannot_write(folder / LOCK, error) from None
    try:
        if not (folder / LOCK).exists():  # it was removed in the meantime, with the folder
            raise _in_use(folder)
        sweep(folder)
        write(folder / HOLDER, _this_process(), JSON)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows does not delete what is open
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _this_process() -> str:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    holder = {"bptt": bptt.__version__, "pid": os.getpid(), "host": socket.gethostname()}
    return json.dumps({**holder, "since": since}) + "\n"


def _in_use(folder: Path) -> BpttError:
    """Return what to raise when another process holds the lock."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        who = "another process"
    return BpttError(
        f"{folder} is in use by {who}; wait until that has ended, stop it, or give another folder"
    )
