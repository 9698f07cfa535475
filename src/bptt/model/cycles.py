"""The largest ratio over all cycles of a graph, without going through the cycles."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple


class Edge(NamedTuple):
    """From a node to another, or to itself, `delay` steps later."""

    source: str
    target: str
    delay: int = 0

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (f" (delay {self.delay})" if self.delay else "")


def largest_ratio(
    edges: tuple[Edge, ...], above: Callable[[Edge], int], below: Callable[[Edge], int]
) -> Fraction | None:
    """Return the largest Σ above / Σ below over all cycles, exactly; None where there is none.

    By Dinkelbach's iteration: of a ratio that is too small some cycle has Σ above − ratio · Σ below
    > 0; its own ratio is larger, and the next to be tried.
    """
    ratio: Fraction | None = None
    while True:
        tried = Fraction(-1) if ratio is None else ratio
        gains = {edge: above(edge) - tried * below(edge) for edge in edges}
        cycle = _positive_cycle(gains)
        if cycle is None:
            return ratio
        ratio = Fraction(sum(map(above, cycle)), sum(map(below, cycle)))


def _positive_cycle(gains: dict[Edge, Fraction]) -> list[Edge] | None:
    """Return a cycle whose gains sum to more than 0, or None (Bellman and Ford)."""
    names = {name for edge in gains for name in edge[:2]}
    best, came_by = dict.fromkeys(names, Fraction(0)), dict[str, Edge]()
    changed = ""
    for _ in range(len(names) + 1):
        changed = ""
        for edge, gain in gains.items():
            if best[edge.source] + gain > best[edge.target]:
                best[edge.target], came_by[edge.target] = best[edge.source] + gain, edge
                changed = edge.target
        if not changed:
            return None
    for _ in names:  # back far enough to be on the cycle
        changed = came_by[changed].source
    cycle = [came_by[changed]]
    while cycle[-1].source != changed:
        cycle.append(came_by[cycle[-1].source])
    return cycle
