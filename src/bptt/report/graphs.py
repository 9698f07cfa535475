"""Architectures as figures: folded, and unfolded in time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import networkx as nx
import plotly.graph_objects as go

from bptt.model.architecture import Architecture, Edge, Place
from bptt.report.style import BLUE, GREY, ORANGE, RED, styled

Point = tuple[float, float]

RADIUS = 0.16
"""Of a node, in units of the distance between layers."""
NODE = {"size": 34, "color": "rgba(128, 128, 128, 0.12)"}


def plot_architecture(architecture: Architecture) -> go.Figure:
    """Return the graph: inputs below, outputs above; edges that reach a later step are dashed."""
    levels = _levels(architecture)
    rows: dict[int, list[str]] = {}
    for name, level in levels.items():
        rows.setdefault(level, []).append(name)
    at = {
        name: (i - (len(names) - 1) / 2, float(level))
        for level, names in rows.items()
        for i, name in enumerate(names)
    }
    figure, bends = go.Figure(), dict[tuple[str, str], int]()
    for edge in architecture.edges:
        ends = at[edge.source], at[edge.target]
        several = bends[edge[:2]] = bends.get(edge[:2], 0) + 1
        if edge.source == edge.target:
            curve = _loop(at[edge.source], 0.14 + 0.14 * several)
        else:
            over = abs(levels[edge.source] - levels[edge.target]) > 1  # past a node in between
            bend = (0.2 if over else 0.0) if edge.delay == 0 else -0.2 - 0.15 * several
            curve = _arc(*ends, bend=bend)
        _draw_edge(figure, edge, curve, label=f"{edge.delay}" if edge.delay else "")
    _draw_nodes(figure, at.items())
    wide = max(abs(x) for x, _ in at.values())
    return _bare(figure, (-wide - 2.5, wide + 2.5), (-0.5, max(levels.values()) + 0.5), 380)


def plot_unfolded(
    architecture: Architecture, T: int = 4, *, ways: Iterable[tuple[Place, ...]] = ()
) -> go.Figure:
    """Return the graph of T steps, time to the right; ways: paths to show in another colour."""
    graph, levels = architecture.unfold(T), _levels(architecture)
    rows: dict[int, list[str]] = {}
    for name, level in levels.items():
        rows.setdefault(level, []).append(name)

    def point(place: Place) -> Point:
        name, t = place
        others = rows[levels[name]]
        return t + 0.3 * (others.index(name) - (len(others) - 1) / 2), float(levels[name])

    marked = {pair for way in ways for pair in itertools.pairwise(way)}
    figure = go.Figure()
    for source, target, kept in graph.edges(data="edge"):
        color = ORANGE if (source, target) in marked else ""
        bend = 0.12 if kept.delay > 1 else 0.0
        _draw_edge(figure, kept, _arc(point(source), point(target), bend=bend), color=color)
    _draw_nodes(figure, ((name, point((name, t))) for name, t in graph if t > 0))
    _draw_nodes(figure, ((name, point((name, t))) for name, t in graph if t <= 0), faint=True)
    first = min(t for _, t in graph)
    _bare(figure, (first - 0.6, T + 0.6), (-0.5, max(levels.values()) + 0.5), 380)
    steps = list(range(first, T + 1))
    figure.update_xaxes(
        visible=True,
        showgrid=False,
        title="step t",
        tickvals=steps,
        ticktext=[str(t) for t in steps],
    )
    return figure


def _levels(architecture: Architecture) -> dict[str, int]:
    """Return how many edges without delay lie below each node; outputs are on top."""
    now = nx.DiGraph([edge[:2] for edge in architecture.edges if edge.delay == 0])
    now.add_nodes_from(architecture.nodes)
    levels: dict[str, int] = {}
    for name in nx.topological_sort(now):
        levels[name] = 1 + max((levels[below] for below in now.predecessors(name)), default=-1)
    top = max(levels.values())
    return {n: top if n in architecture.outputs else level for n, level in levels.items()}


def _arc(start: Point, end: Point, *, bend: float) -> list[Point]:
    """Return points from the rim of a node to that of another, to the right of a straight line."""
    (x0, y0), (x1, y1) = start, end
    far = math.hypot(x1 - x0, y1 - y0)
    side_x, side_y = (y1 - y0) / far * bend * far, -(x1 - x0) / far * bend * far
    cut = min(0.4, RADIUS / far)
    points = []
    for i in range(21):
        s = cut + (1 - 2 * cut) * i / 20
        out = 4 * s * (1 - s)
        points.append((x0 + (x1 - x0) * s + side_x * out, y0 + (y1 - y0) * s + side_y * out))
    return points


def _loop(centre: Point, size: float) -> list[Point]:
    """Return points of a loop at the left of a node."""
    x, y = centre
    angles = [math.pi * (0.25 + 1.5 * i / 30) for i in range(31)]
    middle = x - size - 0.02
    return [(middle + size * math.cos(a), y + 0.75 * size * math.sin(a)) for a in angles]


def _draw_edge(
    figure: go.Figure, edge: Edge, curve: list[Point], *, color: str = "", label: str = ""
) -> None:
    color, wide = color or (RED if edge.delay else BLUE), 3 if color else 1.6
    middle = len(curve) // 2
    figure.add_scatter(
        x=[x for x, _ in curve],
        y=[y for _, y in curve],
        mode="lines+markers",
        line={"color": color, "width": wide, "dash": "dash" if edge.delay else "solid"},
        marker={
            "symbol": "arrow",
            "size": [11 if i == len(curve) - 1 else 0 for i in range(len(curve))],
            "angleref": "previous",
            "opacity": [float(i == len(curve) - 1) for i in range(len(curve))],
            "color": color,
        },
        text=str(edge),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    if label:
        x, y = curve[middle]
        away = 9 if edge.source != edge.target else -9
        figure.add_annotation(x=x, y=y, text=label, showarrow=False, xshift=away)


def _draw_nodes(
    figure: go.Figure, nodes: Iterable[tuple[str, Point]], *, faint: bool = False
) -> None:
    nodes = list(nodes)
    figure.add_scatter(
        x=[x for _, (x, _) in nodes],
        y=[y for _, (_, y) in nodes],
        text=[name for name, _ in nodes],
        mode="markers+text",
        marker={**NODE, "line": {"color": GREY, "width": 0.8 if faint else 1.8}},
        opacity=0.5 if faint else 1.0,
        hoverinfo="skip",
        showlegend=False,
    )


def _bare(
    figure: go.Figure, x: tuple[float, float], y: tuple[float, float], height: int
) -> go.Figure:
    """Return the figure without axes."""
    styled(figure, height=height, hover="closest")
    figure.update_xaxes(visible=False, range=x)
    figure.update_yaxes(visible=False, range=y)
    return figure
