"""Architectures as figures: folded, and unfolded in time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from bptt.errors import require_several
from bptt.model.architecture import Architecture, Place
from bptt.model.cycles import Edge
from bptt.report.style import BLUE, GREY, ORANGE, RED, draws, styled

Point = tuple[float, float]
Curve = Float[np.ndarray, "n 2"]

# In units of the distance between layers, which is at most PIXELS:
RADIUS, RIM, AWAY = 0.19, 0.215, 0.15
"""Of a node; of what its edges end at; and how far a delay stands from its edge."""
APART = 0.9
"""How far apart the nodes of a layer are."""
KNOTS = 14
"""Points that a curve is drawn through; along too many its dashes run together."""
PIXELS, WIDEST, HIGHEST = 105, 860, 900
BENDS = [0.0] + [sign * size for size in (0.2, 0.32, 0.5, 0.75, 1.0, 1.3) for sign in (1, -1)]


class Line(NamedTuple):
    """What a kind of edge looks like."""

    name: str
    color: str
    dash: str
    width: float


WITHIN = Line("within a step", BLUE, "solid", 1.8)
LATER = Line("to a later step", RED, "dash", 1.8)
NUMBERED = LATER._replace(name="to a later step, with its delay")


@draws(Architecture)
def plot_architecture(architecture: Architecture) -> go.Figure:
    """Return the graph: inputs below, outputs above; edges that reach a later step are dashed."""
    at = _layout(architecture)
    curves: dict[Edge, Curve] = {}
    # First what has the least choice: straight lines, then loops, then what can bend.
    for edge in sorted(architecture.edges, key=lambda e: (e.delay > 0, e.source != e.target)):
        loop = edge.source == edge.target
        curves[edge] = _freest(
            _loops(at[edge.source])
            if loop
            else _arcs(at[edge.source], at[edge.target], BENDS[1:] if edge.delay else BENDS),
            [point for name, point in at.items() if name not in edge[:2]],
            list(curves.values()),
        )
    figure, labels = go.Figure(), _labels(at, curves)
    for line in (WITHIN, NUMBERED):
        line_curves = {
            edge: c for edge, c in curves.items() if (edge.delay > 0) == (line is NUMBERED)
        }
        _draw_lines(figure, line, list(line_curves.values()), [str(edge) for edge in line_curves])
    _draw_nodes(figure, {name: (name, point) for name, point in at.items()})
    _draw_text(figure, [(str(edge.delay), point) for edge, point in labels.items()], color=RED)
    return _framed(figure, [*at.values(), *labels.values(), *np.concatenate([*curves.values()])])


@draws(Architecture)
def plot_unfolded(
    architecture: Architecture, T: int = 4, *, ways: Iterable[tuple[Place, ...]] = ()
) -> go.Figure:
    """Return the graph of T steps, time to the right, initial values in grey at the left.

    ways: paths, as `architecture.paths` finds them, to be shown in another colour.
    """
    require_several("ways", ways, "paths, as architecture.paths finds them")
    graph, at = architecture.unfold(T), _layout(architecture, stagger=0.45)
    pitch = max(x for x, _ in at.values()) - min(x for x, _ in at.values()) + 1.3
    curves = {edge: _between(edge, at, pitch) for edge in architecture.edges}
    marked = {pair for way in ways for pair in itertools.pairwise(way)}
    drawn: dict[Line, tuple[list[Curve], list[str]]] = {}
    for source, target, edge in graph.edges(data="edge"):
        line = LATER if edge.delay else WITHIN
        if (source, target) in marked:
            line = line._replace(name="on a marked way", color=ORANGE, width=3.5)
        line_curves, hover_texts = drawn.setdefault(line, ([], []))
        line_curves.append(curves[edge] + [pitch * target[1], 0])
        hover_texts.append(f"{edge}, to step {target[1]}")
    figure = go.Figure()
    for line, (line_curves, hover_texts) in sorted(drawn.items(), key=lambda item: item[0].width):
        _draw_lines(figure, line, line_curves, hover_texts)
    places = {(n, t): (n, (at[n][0] + pitch * t, at[n][1])) for n, t in graph}
    now = {f"{n} at step {t}": node for (n, t), node in places.items() if t > 0}
    before = {f"{n} at step {t}, given": node for (n, t), node in places.items() if t <= 0}
    _draw_nodes(figure, now)
    _draw_nodes(figure, before, faint=True)
    steps = sorted({t for _, t in graph})
    heads = [(f"t = {t}".replace("-", "−"), (pitch * t, -0.5)) for t in steps]
    _draw_text(figure, heads)
    shown = np.concatenate([curve for group, _ in drawn.values() for curve in group])
    return _framed(figure, [*(p for _, p in places.values()), *(p for _, p in heads), *shown])


def _layout(architecture: Architecture, stagger: float = 0.0) -> dict[str, Point]:
    """Return where each node is: as high as its longest way without delay, outputs on top.

    stagger: how much higher each node of a layer is than the one at its left.
    """
    now = nx.DiGraph([edge[:2] for edge in architecture.edges if edge.delay == 0])
    now.add_nodes_from(architecture.nodes)
    levels: dict[str, int] = {}
    for name in nx.topological_sort(now):
        least = 0 if name in architecture.inputs else 1
        levels[name] = max([least, *(levels[below] + 1 for below in now.predecessors(name))])
    top = max(level + (name not in architecture.outputs) for name, level in levels.items())
    rows: dict[int, list[str]] = {}
    for name in architecture.nodes:
        is_last = name in architecture.outputs and not now.out_degree(name)
        rows.setdefault(top if is_last else levels[name], []).append(name)
    at: dict[str, Point] = {}
    height = 0.0
    for _, names in sorted(rows.items()):

        def middle(name: str) -> float:
            below = [at[source][0] for source in now.predecessors(name) if source in at]
            return float(np.mean(below)) if below else 0.0

        for i, name in enumerate(sorted(names, key=middle)):
            at[name] = (APART * (i - (len(names) - 1) / 2), height + stagger * i)
        height += 1 + stagger * (len(names) - 1)
    return at


def _between(edge: Edge, at: dict[str, Point], pitch: float) -> Curve:
    """Return an edge of the unfolded graph, as it ends at step 0, past the nodes in between."""
    start, end = (at[edge.source][0] - pitch * edge.delay, at[edge.source][1]), at[edge.target]
    nodes = [(x - pitch * t, y) for x, y in at.values() for t in range(edge.delay + 1)]
    return _freest(_arcs(start, end, BENDS), [p for p in nodes if p not in (start, end)], [])


def _arcs(start: Point, end: Point, bends: Iterable[float]) -> list[Curve]:
    """Return curves from the rim of a node to that of another, each with its own bend."""
    a, b = np.array(start), np.array(end)
    side = np.array([b[1] - a[1], a[0] - b[0]]) / np.hypot(*(b - a))
    s = np.linspace(0, 1, 81)[:, None]
    arcs = [a + (b - a) * s + 4 * s * (1 - s) * bend * side for bend in bends]
    return [arc[(_distances(arc, np.stack([a, b])) >= RIM).all(1)] for arc in arcs]


def _loops(centre: Point) -> list[Curve]:
    """Return loops at a node: to its left, to its right, and so on; small ones first."""
    curves = []
    for size, turn in itertools.product((0.2, 0.28, 0.36), (1, 0, 0.75, 0.25, 1.25, -0.25)):
        angle = np.pi * (turn + 1 + np.linspace(0, 2, 81))
        out = np.array([np.cos(np.pi * turn), np.sin(np.pi * turn)]) * (RADIUS + 0.7 * size)
        loop = np.array(centre) + out + size * np.stack([np.cos(angle), np.sin(angle)], 1)
        curves.append(loop[_distances(loop, np.array([centre]))[:, 0] >= RIM])
    return curves


def _freest(curves: Sequence[Curve], nodes: Sequence[Point], others: Sequence[Curve]) -> Curve:
    """Return the curve that is short, and does not come close to nodes and other curves."""

    def crowding(curve: Curve) -> float:
        cost = 3 * float(np.hypot(*np.diff(curve, axis=0).T).sum())
        for there, room, weight in (
            (np.array(nodes).reshape(-1, 2), RADIUS + 0.1, 10.0),
            (np.concatenate([np.empty((0, 2)), *others]), 0.1, 1.0),
        ):
            if len(there):
                close = room - _distances(curve, there).min(1)
                cost += weight * float(close.clip(min=0).sum() / room)
        return cost

    return min(curves, key=lambda curve: round(crowding(curve), 6))


def _labels(at: dict[str, Point], curves: dict[Edge, Curve]) -> dict[Edge, Point]:
    """Return where the delays are written: beside their curves, away from all else."""
    positions: dict[Edge, Point] = {}
    lines = np.concatenate(list(curves.values()))
    for edge, curve in curves.items():
        if edge.delay == 0:
            continue
        spots = []
        for part, side in itertools.product((0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8), (1, -1)):
            i = int(part * (len(curve) - 1))
            dx, dy = (curve[i + 1] - curve[i - 1]) / np.hypot(*(curve[i + 1] - curve[i - 1]))
            spots.append((curve[i, 0] + side * AWAY * dy, curve[i, 1] - side * AWAY * dx))
        cost = np.zeros(len(spots))
        taken = ((list(at.values()), RADIUS + 0.15), (lines, 0.13), (list(positions.values()), 0.3))
        for there, room in taken:
            if len(there):
                near = _distances(np.array(spots), np.array(there)).min(1)
                cost += (room - near).clip(min=0) / room
        positions[edge] = spots[int(cost.round(3).argmin())]
    return positions


def _distances(points: Curve, others: Curve) -> Float[np.ndarray, "n m"]:
    apart: Float[np.ndarray, "n m"] = np.linalg.norm(points[:, None] - others[None], axis=-1)
    return apart


def _draw_lines(figure: go.Figure, line: Line, curves: list[Curve], hover_texts: list[str]) -> None:
    """Draw edges of a kind as one trace, each with an arrowhead at its end."""
    if not curves:
        return
    style = {"color": line.color, "dash": line.dash, "width": line.width}
    # A line ends within its arrowhead, or it would show on both sides of the tip.
    shafts = [c[np.linalg.norm(c - c[-1], axis=1) >= 0.06] for c in curves]
    shafts = [c[np.linspace(0, len(c) - 1, KNOTS).astype(int)] for c in shafts]
    figure.add_scatter(
        **_joined(shafts),
        mode="lines",
        line={**style, "shape": "spline"},
        text=np.repeat(hover_texts, KNOTS + 1),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    figure.add_scatter(
        **_joined([c[-2:] for c in curves]),
        mode="markers",
        marker={
            "symbol": "arrow",
            "angleref": "previous",
            "size": [0, 10 + line.width, 0] * len(curves),
            "opacity": [0, 1, 0] * len(curves),
            "line": {"width": 0},
            "color": line.color,
        },
        hoverinfo="skip",
        showlegend=False,
    )
    named = any(trace.name == line.name for trace in figure.data)
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line=style, name=line.name, showlegend=not named
    )


def _joined(curves: list[Curve]) -> dict[str, Float[np.ndarray, " m"]]:
    """Return the x and y of several curves as those of one line with gaps."""
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([part for curve in curves for part in (curve, gap)]).round(3)
    return {"x": points[:, 0], "y": points[:, 1]}


def _draw_nodes(
    figure: go.Figure, nodes: dict[str, tuple[str, Point]], *, faint: bool = False
) -> None:
    """Draw circles with their names; what each says under the pointer is its key."""
    if not nodes:
        return
    angle = np.linspace(0, 2 * np.pi, 41)
    circle = RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)
    figure.add_scatter(
        **_joined([np.array(point) + circle for _, point in nodes.values()]),
        mode="lines",
        line={"color": GREY, "width": 1 if faint else 1.8, "simplify": False},
        fill="toself",
        fillcolor="rgba(0,0,0,0)" if faint else "rgba(128, 128, 128, 0.14)",
        hoverinfo="skip",
        showlegend=False,
    )
    _draw_text(figure, list(nodes.values()), list(nodes), GREY if faint else None)


def _draw_text(
    figure: go.Figure,
    texts: Sequence[tuple[str, Point]],
    hover_texts: Sequence[str] = (),
    color: str | None = None,
) -> None:
    """Write texts at points, in the page's colour unless another is given."""
    figure.add_scatter(
        x=[x for _, (x, _) in texts],
        y=[y for _, (_, y) in texts],
        text=[text for text, _ in texts],
        mode="text",
        textfont={"color": color} if color else None,
        hovertext=list(hover_texts),
        hoverinfo="text" if hover_texts else "skip",
        showlegend=False,
    )


def _framed(figure: go.Figure, points: Iterable[Iterable[float]]) -> go.Figure:
    """Return the figure without axes, with room for all of the points."""
    shown = np.array([list(point) for point in points])
    (left, low), (right, high) = shown.min(0) - 0.3, shown.max(0) + 0.3
    unit = min(PIXELS, WIDEST / (right - left), HIGHEST / (high - low))
    styled(figure, height=int(unit * (high - low)) + 60, hover="closest")
    figure.update_xaxes(visible=False, range=[left, right], constrain="domain")
    figure.update_yaxes(visible=False, range=[low, high], scaleanchor="x", constrain="domain")
    figure.update_layout(
        margin={"l": 10, "r": 10, "t": 10, "b": 50},
        legend={"x": 0.5, "xanchor": "center", "y": -0.02, "yanchor": "top"},
    )
    return figure
