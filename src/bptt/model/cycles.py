"""The largest ratio over all cycles of a graph, without going through the cycles."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import lazy_loader

nx = lazy_loader.load("networkx")  # which takes a while, and is not needed to train


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
    largest: dict[tuple[str, str], Edge] = {}
    for edge, gain in gains.items():
        other = largest.setdefault(edge[:2], edge)
        largest[edge[:2]] = edge if gain > gains[other] else other
    graph, start = nx.DiGraph(), object()
    graph.add_node(start)
    for pair, edge in largest.items():
        graph.add_edge(*pair, weight=-gains[edge])
        graph.add_edge(start, pair[0], weight=0)
    try:
        nodes = nx.find_negative_cycle(graph, start)
    except nx.NetworkXError:  # there is none
        return None
    return [largest[pair] for pair in pairwise(nodes)]
