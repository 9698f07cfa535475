"""bptt flow: how far back in time the gradient of a trained network reaches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt.errors import printable

if TYPE_CHECKING:
    from bptt.training.runs.run import Run


def flow(
    run: Path,
    data: Path | None = None,
    /,
    *,
    steps: int | None = None,
    sequences: int | None = None,
    max_lag: int | None = None,
    out: Path | None = None,
    last: bool = False,
) -> None:
    """Say how far back in time a trained network's gradient reaches, and write a page about it.

    It looks at data that the network was not trained on: how the gradient shrinks or grows, what
    each window would cost, and what to do.

    Parameters
    ----------
    run
        The folder of the run.
    data
        Its data, if that is no longer where it was.
    steps
        How many steps of each sequence to look at; by default twice the window, from 200 to 400.
    sequences
        How many sequences to look at, by default 16; a table is one.
    max_lag
        How many steps to look back; by default to the start.
    out
        Where to write the page; by default report.html in the run's folder.
    last
        Look at the last weights, and not at those whose validation was the best.
    """
    from bptt.training.runs.run import Run  # noqa: PLC0415

    options = {"steps": steps, "sequences": sequences, "max_lag": max_lag, "last": last}
    write_and_say(Run.open(run), data, out, **options)


def write_and_say(
    run: Run, data: Path | None = None, out: Path | None = None, **options: Any
) -> None:
    """Diagnose a run; print the answer in words, and write the page."""
    from bptt.report.report import write_report  # noqa: PLC0415
    from bptt.report.words import headline  # noqa: PLC0415
    from bptt.training.diagnosis import diagnose_run  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415

    out = out or run.path / "report.html"
    files.require_ours(out, files.PAGE)
    diagnosis = diagnose_run(run, data, **options)
    write_report(out, diagnosis)
    for paragraph in headline(diagnosis):
        print(printable(paragraph), end="\n\n")
    print(f"The pictures are in {printable(out)}")
