"""Figures and words as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

import bptt
from bptt.training.runs import files


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, a caption, and a figure or a table.

    caption: one sentence on how to read it. table: rows of cells, the first of them the heads.
    """

    title: str
    caption: str
    figure: go.Figure | None = None
    table: Sequence[Sequence[str]] = ()


def write_page(
    path: str | Path, title: str, lead: Sequence[str], sections: Sequence[Section]
) -> None:
    """Write a page; everything that is text may hold any characters."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bptt.report", ""),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        version=bptt.__version__,
        title=title,
        plotly=get_plotlyjs(),
        lead=lead,
        sections=sections,
        draw=_draw,
    )
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise files.cannot_write(path, error) from None
    files.write(path, page, files.PAGE)


def _draw(figure: go.Figure, number: int) -> str:
    """Return a figure as HTML."""
    drawn: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{number}",
        config={"responsive": True, "displaylogo": False},
    )
    return drawn
