"""A folder for a new run: made, locked, and gone again if no run comes of it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bptt.errors import BpttError
from bptt.training.runs import checkpoint, files
from bptt.training.runs.locks import locked
from bptt.training.runs.result import RESULT
from bptt.training.runs.run import BEFORE, BEST, CHECKPOINT, CONFIG, FLOW, METRICS

LONGEST_NAME = 60
"""Characters of a folder's name that come from the data's: as bytes, a system allows 255."""
MARKS = {
    CONFIG: files.JSON,
    METRICS: files.METRICS,
    CHECKPOINT: files.CHECKPOINT,
    BEFORE: files.CHECKPOINT,
    BEST: files.CHECKPOINT,
    FLOW: files.FLOW,
    RESULT: files.JSON,
}


def automatic_folders(data: Path | None) -> Iterator[Path]:
    """Return runs/NAME-1, runs/NAME-2, …, named for the data."""
    name = "topics" if data is None else re.sub(r"[^\w.-]", "-", data.stem)[:LONGEST_NAME] or "run"
    return (Path("runs") / f"{name}-{number}" for number in itertools.count(1))


@contextmanager
def claimed(out: str | Path | Iterator[Path]) -> Iterator[Path]:
    """Give a locked folder for a new run; raise BpttError if it is taken.

    out: the folder, or several, of which the first that does not exist yet is made. What an error
    leaves of a run that has not begun, without a config.json, is removed.
    """
    folder, is_new = _make(out)
    try:
        with locked(folder):
            _require_vacant(folder)
            try:
                yield folder
            except BaseException:
                if not (folder / CONFIG).exists() and _is_untrained(folder / CHECKPOINT):
                    (folder / CHECKPOINT).unlink()
                raise
    except BaseException:
        if is_new:
            with suppress(OSError):  # there is a run in it, or something of somebody else's
                folder.rmdir()
        raise


def _make(out: str | Path | Iterator[Path]) -> tuple[Path, bool]:
    """Return the folder, and whether it was made."""
    is_path = isinstance(out, str | Path)
    for folder in [Path(out)] if isinstance(out, str | Path) else out:
        try:
            folder.mkdir(parents=True)
            return folder, True
        except FileExistsError as error:
            if is_path and folder.is_dir():
                return folder, False
            if is_path or not os.path.lexists(folder):  # what is in the way is a parent
                raise files.cannot_write(folder, error, "cannot write a run to") from None
        except (OSError, ValueError) as error:
            raise files.cannot_write(folder, error, "cannot write a run to") from None
    raise BpttError("there is no folder to write the run to; expected at least one")


def require_files_ours(folder: Path) -> None:
    """Raise BpttError if we did not write what is where training writes."""
    for name, mark in MARKS.items():
        files.require_ours(folder / name, mark)


def _require_vacant(folder: Path) -> None:
    """Raise BpttError if a file of a run is there, but what a kill left of one that never began."""
    require_files_ours(folder)
    if (folder / CONFIG).exists():
        raise BpttError(
            f"{folder} holds a run already; give another folder with out (--out), "
            "or go on with that run by resuming it (--resume)"
        )
    for name in (METRICS, FLOW, RESULT, BEFORE, BEST, CHECKPOINT):
        path = folder / name
        is_free = not os.path.lexists(path) or (
            _is_untrained(path) if name in (CHECKPOINT, BEFORE) else path.stat().st_size == 0
        )
        if not is_free:
            raise BpttError(
                f"{folder} has a {name}, but no {CONFIG}; move that away, or give another folder "
                "with out (--out)"
            )


def _is_untrained(path: Path) -> bool:
    """Whether there is a run's first checkpoint, which holds nothing that was learnt."""
    try:
        _, notes = checkpoint.load(path)
    except BpttError:  # not one of ours
        return False
    return notes.get("update") == 0
