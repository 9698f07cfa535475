"""Figures and words as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

import bptt
from bptt.training import files


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, one sentence on how to read it, and a figure or a table.

    table: rows of cells, the first of them the heads.
    """

    title: str
    how_to_read: str
    figure: go.Figure | None = None
    table: Sequence[Sequence[str]] = ()


def write_page(
    path: str | Path, title: str, lead: Sequence[str], sections: Sequence[Section]
) -> None:
    """Write a page; everything that is text may hold any characters."""
    source = resources.files("bptt.report").joinpath("page.html")
    template = Template(source.read_text(encoding="utf-8"))
    page = template.substitute(
        version=escape(bptt.__version__),
        title=escape(title),
        plotly=get_plotlyjs(),
        lead="\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in lead),
        body="\n".join(_section(section, i) for i, section in enumerate(sections)),
        footer=f"bptt {escape(bptt.__version__)}. Drag in a figure to zoom, double-click to undo.",
    )
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise files.cannot_write(path, error) from None
    files.write(path, page, files.PAGE)


def _section(section: Section, number: int) -> str:
    parts = [
        f"<h2>{escape(section.title)}</h2>",
        f'<p class="read">{escape(section.how_to_read)}</p>',
    ]
    if section.table:
        parts.append(_table(section.table))
    if section.figure is not None:
        drawn = section.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{number}",
            config={"responsive": True, "displaylogo": False},
        )
        parts.append(f'<figure aria-label="{escape(section.title)}">{drawn}</figure>')
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    inner = "".join(f"<tr>{line}</tr>" for line in [cells, *lines])
    return f'<div class="wide"><table>{inner}</table></div>'
