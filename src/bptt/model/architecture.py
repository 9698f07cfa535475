"""What a recurrent network looks like as a graph, and how deep it is, in time and in between.

An edge acts within a step, or with a delay. With l the number of edges of a way through the graph,
and σ the sum of their delays (Zhang et al. 2016, "Architectural complexity measures of recurrent
neural networks", section 3):

    recurrent depth           max over cycles of l / σ
    feedforward depth         max over simple paths from input to output of l − σ · recurrent depth
    recurrent skip coefficient    max over cycles of σ / l
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import lazy_loader

from bptt.errors import (
    BpttError,
    require_choice,
    require_memory,
    require_several,
    require_whole,
)
from bptt.model.cycles import Edge, largest_ratio

nx = lazy_loader.load("networkx")  # which takes a while, and is not needed to train

RECURRENCES = ("hidden", "output", "both")

A_PLACE = 300
"""Bytes that a node or an edge takes at a step."""
Place = tuple[str, int]
"""A node at a step."""


@dataclass(frozen=True, repr=False)
class Architecture:
    """A graph whose edges may have a delay, in time steps.

    edges: (source, target, delay) each, in any order; nodes are what they name. Only cycles on a
    way from an input to an output count.

    >>> Architecture.rnn1().recurrent_depth, Architecture.rnn2().recurrent_depth
    (Fraction(1, 1), Fraction(2, 1))
    >>> skip = Architecture([("x", "h", 0), ("h", "h", 1), ("h", "h", 3), ("h", "o", 0)])
    >>> skip.recurrent_skip_coefficient
    Fraction(3, 1)
    """

    edges: tuple[Edge, ...]
    inputs: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("o",)

    def __init__(
        self,
        edges: Iterable[tuple[str, str, int]],
        inputs: Iterable[str] = ("x",),
        outputs: Iterable[str] = ("o",),
    ) -> None:
        for kind, names in (("inputs", inputs), ("outputs", outputs)):
            if not isinstance(names, str):
                require_several(kind, names, "names, as in ('x',)")
            else:
                raise BpttError(f"{kind} is {names!r}; expected several names, as in ({names!r},)")
        require_several("edges", edges, "several of (source, target, delay)")
        for name, value in (
            ("edges", tuple(_checked(edge) for edge in edges)),
            ("inputs", tuple(inputs)),
            ("outputs", tuple(outputs)),
        ):
            object.__setattr__(self, name, value)
        self._require_sense()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._as_sets == other._as_sets

    def __hash__(self) -> int:
        return hash(self._as_sets)

    def __repr__(self) -> str:
        arguments = [repr([tuple(edge) for edge in self.edges])]
        arguments += [f"inputs={self.inputs!r}"] * (self.inputs != ("x",))
        arguments += [f"outputs={self.outputs!r}"] * (self.outputs != ("o",))
        return f"Architecture({', '.join(arguments)})"

    @cached_property
    def _as_sets(self) -> tuple[frozenset[Edge], frozenset[str], frozenset[str]]:
        """What makes two architectures the same, whatever the order."""
        return frozenset(self.edges), frozenset(self.inputs), frozenset(self.outputs)

    def _require_sense(self) -> None:
        """Raise BpttError unless the graph can be run, step by step."""
        if doubled := [edge for edge in self.edges if self.edges.count(edge) > 1]:
            raise BpttError(f"{doubled[0]} is given twice; expected every edge once")
        for kind, names in (("input", self.inputs), ("output", self.outputs)):
            if not names:
                raise BpttError(f"there is no {kind}; expected at least one node")
            for name in names:
                if name not in self.nodes:
                    raise BpttError(
                        f"the {kind} {name!r} has no edge; expected one of {', '.join(self.nodes)}"
                    )
        now = nx.DiGraph([edge[:2] for edge in self.edges if edge.delay == 0])
        if not nx.is_directed_acyclic_graph(now):
            cycle = [source for source, _ in nx.find_cycle(now)]
            raise BpttError(
                f"{' -> '.join([*cycle, cycle[0]])} is a cycle without delay; expected a delay of "
                "at least 1 on one of its edges, or a step would wait for itself"
            )

    @classmethod
    def rnn1(cls) -> Architecture:
        """Return the textbook's RNN 1: the loop runs from hidden to hidden."""
        return cls.stacked(1, "hidden")

    @classmethod
    def rnn2(cls) -> Architecture:
        """Return the textbook's RNN 2: the loop runs from output to hidden."""
        return cls.stacked(1, "output")

    @classmethod
    def both(cls) -> Architecture:
        """Return a network with both loops."""
        return cls.stacked(1, "both")

    @classmethod
    def stacked(
        cls,
        n: int,
        recurrence: str = "hidden",
        *,
        source: str = "x",
        skips: Iterable[int] = (),
    ) -> Architecture:
        """Return n recurrent layers, one on top of the other.

        source: what its input is called. skips: more delays by which h enters its own layer.

        >>> [str(edge) for edge in Architecture.stacked(2).edges][:3]
        ['x -> h1', 'h1 -> h2', 'h2 -> o']
        """
        require_whole("n", n, 1)
        require_choice("recurrence", recurrence, RECURRENCES)
        require_several("skips", skips, "delays, as in (2, 8)")
        hidden = ["h"] if n == 1 else [f"h{k}" for k in range(1, n + 1)]
        up = [source, *hidden, "o"]
        edges = [(below, above, 0) for below, above in itertools.pairwise(up)]
        if recurrence != "output":
            edges += [(h, h, delay) for h in hidden for delay in (1, *skips)]
        if recurrence != "hidden":
            edges.append(("o", hidden[0], 1))
        return cls(edges, (source,))

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """What the edges name, in their order."""
        return tuple(dict.fromkeys(name for edge in self.edges for name in edge[:2]))

    @cached_property
    def _counted(self) -> tuple[Edge, ...]:
        """The edges on some walk from an input to an output."""
        graph = nx.DiGraph([edge[:2] for edge in self.edges])
        after, before = set(self.inputs), set(self.outputs)
        for name in self.inputs:
            after |= nx.descendants(graph, name)
        for name in self.outputs:
            before |= nx.ancestors(graph, name)
        return tuple(e for e in self.edges if {e.source, e.target} <= after & before)

    @cached_property
    def _leaving(self) -> dict[str, list[Edge]]:
        """The edges out of each node."""
        return {name: [edge for edge in self.edges if edge.source == name] for name in self.nodes}

    @cached_property
    def recurrent_depth(self) -> Fraction:
        """How many edges a step in time takes on the longest way; 0 where there is no cycle."""
        return largest_ratio(self._counted, lambda edge: 1, lambda edge: edge.delay) or Fraction(0)

    @cached_property
    def recurrent_skip_coefficient(self) -> Fraction | None:
        """How many steps in time an edge takes on the fastest way; None where there is no cycle."""
        return largest_ratio(self._counted, lambda edge: edge.delay, lambda edge: 1)

    @cached_property
    def feedforward_depth(self) -> Fraction:
        """How many edges lie between input and output, beyond those that time takes; 0 for none."""
        # No cycle adds anything to l − σ · depth, by the meaning of depth: the largest over all
        # walks is that over simple paths, and Bellman and Ford's rounds find it.
        depth = self.recurrent_depth
        best = {name: Fraction(0) for name in self.inputs}
        for _ in self.nodes:
            for source, target, delay in self._counted:
                if source in best:
                    longer = best[source] + 1 - delay * depth
                    best[target] = max(best.get(target, longer), longer)
        return max((best[name] for name in self.outputs if name in best), default=Fraction(0))

    def teacher_forced(self) -> Architecture:
        """Return the same with the edges out of its outputs cut, as teacher forcing does.

        An input or output that has no other edges is left out.
        """
        edges = [edge for edge in self.edges if edge.source not in self.outputs]
        there = {name for edge in edges for name in edge[:2]}
        inputs, outputs = (
            [name for name in names if name in there] for names in (self.inputs, self.outputs)
        )
        return Architecture(edges, inputs, outputs)

    @property
    def parallel_in_time(self) -> bool:
        """Whether no step has to wait for the one before: no cycle is left."""
        return bool(nx.is_directed_acyclic_graph(nx.DiGraph([edge[:2] for edge in self.edges])))

    def unfold(self, T: int) -> Any:  # networkx.DiGraph
        """Return the graph of T steps: nodes (name, t), t from 1 to T, and earlier where needed.

        Its edges have the Edge that they come from as their attribute `edge`.
        """
        self._require_room("T", T)
        graph = nx.DiGraph()
        graph.add_nodes_from((name, t) for t in range(1, T + 1) for name in self.nodes)
        for t in range(1, T + 1):
            for edge in self.edges:
                graph.add_edge((edge.source, t - edge.delay), (edge.target, t), edge=edge)
        return graph

    def paths(
        self, edge: tuple[str, str] | tuple[str, str, int], loss_step: int
    ) -> Iterator[tuple[Place, ...]]:
        """Yield every way from a use of the weight on `edge` to the loss at a step.

        A use at step t is the edge from (source, t − delay) to (target, t), t = 1 … loss_step; the
        way ends at an output at loss_step. Of W in RNN 1 there are j to the j-th loss: the terms
        of the sum over k.

        >>> [len(list(Architecture.rnn1().paths(("h", "h"), j))) for j in (1, 2, 3)]
        [1, 2, 3]
        """
        full_edge = self._find(edge)
        self._require_room("loss_step", loss_step)
        return self._paths(full_edge, loss_step)

    def _paths(self, edge: Edge, loss_step: int) -> Iterator[tuple[Place, ...]]:
        arrive, leaving = self._ways(loss_step), self._leaving
        for t in range(1, loss_step + 1):
            # Places that are still to be tried, each with the length of the way that leads there:
            # ways can be longer than Python lets calls be nested.
            way, ahead = [(edge.source, t - edge.delay)], [(1, (edge.target, t))]
            while ahead:
                length, place = ahead.pop()
                if not arrive.get(place):
                    continue
                way[length:] = [place]
                node, step = place
                if step == loss_step and node in self.outputs:
                    yield tuple(way)
                onward = [(length + 1, (e.target, step + e.delay)) for e in leaving[node]]
                ahead += reversed(onward)

    def count_paths(self, edge: tuple[str, str] | tuple[str, str, int], loss_step: int) -> int:
        """Return how many ways `paths` yields, without going them.

        >>> Architecture.rnn1().count_paths(("h", "h"), 1000)
        1000
        """
        full_edge = self._find(edge)
        self._require_room("loss_step", loss_step)
        arrive = self._ways(loss_step)
        return sum(arrive.get((full_edge.target, t), 0) for t in range(1, loss_step + 1))

    def _ways(self, loss_step: int) -> dict[Place, int]:
        """Return how many ways there are from every place to the outputs at a step."""
        now = nx.DiGraph([edge[:2] for edge in self.edges if edge.delay == 0])
        now.add_nodes_from(self.nodes)
        order, leaving = list(nx.topological_sort(now))[::-1], self._leaving
        ways: dict[Place, int] = {}
        for t in range(loss_step, 0, -1):
            for name in order:
                here = int(t == loss_step and name in self.outputs)
                ways[name, t] = here + sum(
                    ways.get((edge.target, t + edge.delay), 0) for edge in leaving[name]
                )
        return ways

    def _require_room(self, name: str, T: int) -> None:
        """Raise BpttError unless this is a number of steps, and this machine has room for them."""
        require_whole(name, T, 1)
        places = T * (len(self.nodes) + len(self.edges))
        require_memory(f"an architecture unfolded over {name} = {T:,} steps", A_PLACE * places)

    def _find(self, edge: tuple[str, ...] | tuple[str, str, int]) -> Edge:
        """Return the edge that is meant, or raise BpttError."""
        size = len(edge) if isinstance(edge, tuple | list) else 0
        matches = [one for one in self.edges if size > 1 and one[:size] == tuple(edge)]
        if len(matches) != 1:
            there = ", ".join(str(one) for one in self.edges)
            many = "several edges are" if matches else "no edge is"
            raise BpttError(
                f"{many} {edge!r}; expected (source, target), with its delay if need be, "
                f"of one of {there}"
            )
        return matches[0]


def _checked(edge: tuple[str, str, int]) -> Edge:
    if (
        not isinstance(edge, tuple | list)
        or len(edge) != 3
        or not all(isinstance(name, str) for name in edge[:2])
    ):
        raise BpttError(f"an edge is {edge!r}; expected (source, target, delay)")
    require_whole(f"the delay of {edge[0]} -> {edge[1]}", edge[2], 0)
    return Edge(edge[0], edge[1], int(edge[2]))
