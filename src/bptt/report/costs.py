"""What gradients take against T: as a table, as a figure, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich import box
from rich.table import Table

from bptt.gradient.costs import Cost
from bptt.report.page import Section, write_page
from bptt.report.style import BLUE, GREEN, GREY, ORANGE, RED, draws, styled

NAMES = {"torch": "torch.nn.RNN"}
COLORS = {"exact": BLUE, "bounded": GREEN, "truncated": ORANGE, "torch": RED}
GUIDE = "in proportion to T"
TOO_LARGE, UNKNOWN = "too large", "?"
NOT_TOLD = "memory: not told by this system"


def cost_table(costs: Iterable[Cost]) -> Table:
    """Return a row for every T, with the seconds and the MB of every way, as far as measured.

    >>> cost_table([Cost("exact", 1000, 0.004, 2_600_000)]).row_count
    1
    """
    costs = list(costs)
    heads, *rows = cost_rows(costs)
    caption = NOT_TOLD if _is_memory_unknown(costs) else None
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption=caption)
    table.show_edge = False  # four ways fit in 80 columns
    for head in heads:
        name, _, unit = head.rpartition(", ")
        shown = f"\n{unit}" if unit == "MB" else f"{name}\n{unit}"  # one name over two columns
        table.add_column(shown, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def cost_rows(costs: Iterable[Cost]) -> list[list[str]]:
    """Return the heads of the table, and then its rows."""
    measurements = {(cost.T, cost.way): cost for cost in costs}
    ways = list(dict.fromkeys(way for _, way in measurements))
    heads = [f"{NAMES.get(way, way)}, {unit}" for way in ways for unit in ("seconds", "MB")]
    rows = [
        [f"{T:,}", *(cell for way in ways for cell in _cells(measurements.get((T, way))))]
        for T in sorted({T for T, _ in measurements})
    ]
    return [["T", *heads], *rows]


def _cells(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return "", ""
    if cost.seconds is None:
        return TOO_LARGE, ""
    memory = UNKNOWN if cost.memory is None else _rounded(cost.memory / 1e6, below=100, digits=1)
    return _rounded(cost.seconds, below=10, digits=3), memory


def _rounded(value: float, *, below: float, digits: int) -> str:
    """Return a number with so many digits after the point if it is small, else with fewer."""
    return f"{value:,.{digits if value < below else digits // 2}f}"


def _is_memory_unknown(costs: Iterable[Cost]) -> bool:
    measured = [cost for cost in costs if cost.seconds is not None]
    return bool(measured) and all(cost.memory is None for cost in measured)


@draws(Sequence)
def plot_costs(costs: Sequence[Cost]) -> go.Figure:
    """Return seconds and MB against T, on logarithmic axes: a line for every way.

    A thin grey line has the slope of what grows in proportion to T.
    """
    seconds = [(one.way, one.T, one.seconds) for one in costs if one.seconds is not None]
    megabytes = [(one.way, one.T, one.memory / 1e6) for one in costs if one.memory is not None]
    titles = ("seconds", NOT_TOLD if _is_memory_unknown(costs) else "peak memory, MB")
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    for column, points in enumerate((seconds, megabytes), start=1):
        _add_lines(figure, column, points)
        figure.update_yaxes(title=titles[column - 1], col=column)
    figure.update_xaxes(type="log", title="T, steps")
    figure.update_yaxes(type="log")
    return styled(figure)


def _add_lines(figure: go.Figure, column: int, points: list[tuple[str, int, float]]) -> None:
    """Draw a line for every way, and the guide through the largest value, in one panel."""
    if not points:
        return
    _, at, most = max(points, key=lambda point: point[-1])
    Ts = sorted({T for _, T, _ in points})
    ends = [Ts[0], Ts[-1]]
    guide = {"x": ends, "y": [most * T / at for T in ends], "line": {"color": GREY, "width": 1}}
    lines = [{"name": GUIDE, "mode": "lines", "hoverinfo": "skip", **guide}]
    for way in dict.fromkeys(way for way, _, _ in points):
        here = [(T, value) for its, T, value in points if its == way]
        x, y = (list(values) for values in zip(*here, strict=True))
        style = {"name": NAMES.get(way, way), "line_color": COLORS.get(way)}
        lines.append({"x": x, "y": y, "mode": "lines+markers", **style})
    for line in lines:
        group = line["name"]
        figure.add_scatter(**line, legendgroup=group, showlegend=column == 1, row=1, col=column)


def write_costs(path: str | Path, costs: Sequence[Cost], lead: Sequence[str] = ()) -> None:
    """Write the figure and the table as one HTML file; lead: what was measured, in words."""
    section = Section(
        "Seconds and memory against T",
        f"Both axes are logarithmic. What grows {GUIDE} is as steep as the grey line; what does "
        "not grow is flat.",
        plot_costs(costs),
        cost_rows(costs),
    )
    write_page(path, "What a gradient through time takes on this machine", lead, [section])
