"""bptt bench: what a gradient through time takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live

from bptt.cli.console import Console
from bptt.errors import BpttError, as_bytes, bytes_as_text, printable

if TYPE_CHECKING:
    from bptt.gradient.costs import Cost


def bench(
    *,
    hidden: int = 128,
    lengths: str = "1000,10000,100000",
    memory: str = "4MB",
    window: int = 100,
    out: Path = Path("bench.html"),
) -> None:
    """Measure the time and the memory of one gradient against the number of steps.

    Of one sequence of symbols: exact, exact within a budget of memory, truncated to a window, and
    by torch.nn.RNN. It checks first that those that are exact agree. Leave the machine alone
    meanwhile: short times suffer most from other work.

    Parameters
    ----------
    hidden
        Hidden units of the network.
    lengths
        How many steps, such as 1000,10000.
    memory
        The budget of "bounded".
    window
        How many steps "truncated" reaches back.
    out
        Where to write the page.
    """
    from bptt.gradient.costs import SYMBOLS, measure_costs  # noqa: PLC0415
    from bptt.report.costs import cost_table, write_costs  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415

    steps = [_whole(length) for length in lengths.split(",")]
    files.require_ours(out, files.PAGE)
    budget = bytes_as_text(as_bytes("memory", memory))
    lead = [
        f"The gradient of one sequence of {SYMBOLS} symbols through {hidden:,} tanh units. exact: "
        f"all states kept; bounded: the same within {budget}; truncated: cut to {window:,} steps; "
        "torch.nn.RNN: loss.backward() through Embedding, torch.nn.RNN and Linear.",
    ]
    console, costs = Console(), list["Cost"]()
    measurements = measure_costs(steps, hidden=hidden, memory=memory, window=window)
    console.print(*lead, end="\n\n")
    with Live(cost_table([]), console=console, transient=True) as live:
        for cost in measurements:
            costs.append(cost)
            live.update(cost_table(costs))
    console.print(cost_table(costs))
    write_costs(out, costs, lead)
    console.print(f"\nThe page is {printable(out)}", soft_wrap=True)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BpttError(f"a length is {text!r}; expected whole numbers, as in 1000,10000") from None
