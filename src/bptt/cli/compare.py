"""bptt compare: the same data under several settings and seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich import box
from rich.table import Table

from bptt.cli.console import Console
from bptt.cli.train import require_trainable
from bptt.errors import BpttError, counted, printable, require_whole

if TYPE_CHECKING:
    from bptt.training.compare import Job

MOST_SEEDS = 1000
FLAGS = Parameter(allow_leading_hyphen=True, negative="")


def compare(
    what: str,
    /,
    *,
    setting: Annotated[tuple[str, ...], FLAGS] = (),
    common: Annotated[str, FLAGS] = "",
    seeds: int | None = None,
    cores: int | None = None,
    out: Path | None = None,
) -> None:
    """Train the same under several settings, with several seeds, side by side; print one table.

    What was interrupted goes on when the same is asked for again.

    Parameters
    ----------
    what
        A TOML file, or data as 'bptt train' takes it, with the settings as flags.
    setting
        One of the settings, such as "regularised: --omega 0.5"; give it again for each.
    common
        Flags of 'bptt train' that all have, such as "--length 100 --hidden 50".
    seeds
        How many seeds; by default 3.
    cores
        How many runs at once; by default as many as there are cores.
    out
        The folder for the runs and the page; by default under runs/.
    """
    from bptt.report.comparison import write_comparison  # noqa: PLC0415
    from bptt.training import compare as comparing  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415

    if what.endswith(".toml"):
        asked = comparing.read_comparison(what)
    else:
        seeds = 3 if seeds is None else seeds
        require_whole("seeds", seeds, 1, MOST_SEEDS)
        asked = comparing.comparison_of_flags(what, setting, common, seeds)
    folder = out or Path("runs") / ("compare-" + re.sub(r"[^\w.-]", "-", Path(what).stem)[:60])
    page = folder / "report.html"
    files.require_ours(page, files.PAGE)
    _require_all_trainable(asked.jobs(folder))
    console = Console()

    def say(outcome: comparing.Outcome) -> None:
        solved = {None: "", True: ", solved", False: ", not solved"}[outcome.solved]
        numbers = {} if outcome.result is None else outcome.result.by_head()
        reached = "".join(f", {printable(head)} {one.value:.4g}" for head, one in numbers.items())
        console.print(
            f"{outcome.name}, seed {outcome.seed}: loss {outcome.loss:.4g}{reached} after "
            f"{counted(outcome.updates, 'update')}{solved}",
            soft_wrap=True,
        )

    outcomes = comparing.compare(asked, folder, cores=cores, on_outcome=say)
    heads, *rows = comparing.summary(outcomes)
    table = Table(box=box.SIMPLE_HEAD)
    for i, head in enumerate(heads):
        table.add_column(printable(head), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    write_comparison(page, asked, folder, outcomes)
    console.print(f"The page is {printable(page)}", soft_wrap=True)


def _require_all_trainable(jobs: Sequence[Job]) -> None:
    """Raise BpttError if a setting could not be trained, before the first one is."""
    checked = set[str]()
    for job in jobs:
        if job.name not in checked and not job.is_begun:
            checked.add(job.name)
            try:
                require_trainable(job.arguments)
            except BpttError as error:
                raise BpttError(f"{job.name}: {error}") from None
