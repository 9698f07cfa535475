"""Depths against every cycle and path one by one, and ways from a weight to a loss."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest

import bptt
from bptt.model.architecture import Architecture
from bptt.model.cycles import Edge


def random_architecture(seed: int) -> Architecture:
    """A graph of 3 to 6 nodes, among them x and o, without a cycle of delay 0."""
    chance = random.Random(seed)
    names = ["x", *"abcd"[: chance.randint(1, 4)], "o"]
    pairs = [p for p in itertools.product(names, names) if p[1] != "x" or chance.random() < 0.2]
    edges = {("x", names[1], 0)}
    for source, target in chance.sample(pairs, min(len(pairs), chance.randint(3, 9))):
        least = 0 if names.index(source) < names.index(target) else 1
        edges.add((source, target, chance.randint(least, 3)))
    edges.add((names[-2], "o", chance.randint(0, 1)))
    return Architecture(sorted(edges))


def multigraph(architecture: Architecture) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    for edge in architecture.edges:
        graph.add_edge(edge.source, edge.target, delay=edge.delay)
    return graph


def cycles(architecture: Architecture) -> list[tuple[int, int]]:
    """(l, σ) of every cycle on some way from an input to an output, one by one."""
    graph, found = multigraph(architecture), []
    for nodes in nx.simple_cycles(nx.DiGraph(graph)):
        pairs = list(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
        reached = any(nx.has_path(graph, i, nodes[0]) for i in architecture.inputs)
        reaches = any(nx.has_path(graph, nodes[0], o) for o in architecture.outputs)
        if reached and reaches:
            each = [[d["delay"] for d in graph.get_edge_data(*pair).values()] for pair in pairs]
            found += [(len(pairs), sum(delays)) for delays in itertools.product(*each)]
    return found


def simple_paths(architecture: Architecture) -> list[tuple[int, int]]:
    """(l, σ) of every simple path from an input to an output."""
    graph, found = multigraph(architecture), []
    for source, target in itertools.product(architecture.inputs, architecture.outputs):
        ways = nx.all_simple_edge_paths(graph, source, target)
        found += [(len(way), sum(graph.edges[edge]["delay"] for edge in way)) for way in ways]
    return found


@pytest.mark.parametrize("tens", range(30))
def test_depths_are_those_of_all_cycles_and_paths_one_by_one(tens):
    for seed in range(10 * tens, 10 * tens + 10):
        architecture = random_architecture(seed)
        loops, ways = cycles(architecture), simple_paths(architecture)
        depth = max((Fraction(length, delay) for length, delay in loops), default=Fraction(0))
        skip = max((Fraction(delay, length) for length, delay in loops), default=None)
        assert architecture.recurrent_depth == depth, seed
        assert architecture.recurrent_skip_coefficient == skip, seed
        assert architecture.feedforward_depth == max(
            (length - delay * depth for length, delay in ways), default=Fraction(0)
        ), seed


@pytest.mark.parametrize("tens", range(30))
def test_depths_are_the_growth_of_the_longest_way_in_the_unfolded_graph(tens):
    """What depth means: the longest way from input at step 1 to output at step 1 + n, over n."""
    for seed in range(10 * tens, 10 * tens + 10):
        architecture = random_architecture(seed)
        longest = longest_ways(architecture, range(48, 61))
        depth, nodes = architecture.recurrent_depth, len(architecture.nodes)
        if depth == 0:
            assert all(length <= nodes for length in longest.values()), seed
            continue
        # n · depth + a constant, for the n that the delays of the best cycle divide
        most = max(length - n * depth for n, length in longest.items())
        assert -3 * nodes * max(1, depth) <= most <= nodes, seed


def longest_ways(architecture: Architecture, lengths: range) -> dict[int, float]:
    """By how many steps lie between, in one graph: no way goes back in time."""
    graph = architecture.unfold(lengths[-1] + 1)
    best = dict.fromkeys(((name, 1) for name in architecture.inputs), 0)
    for place in nx.topological_sort(graph):
        if place in best:
            for after in graph.successors(place):
                best[after] = max(best.get(after, 0), best[place] + 1)
    return {
        n: max(best.get((name, n + 1), float("-inf")) for name in architecture.outputs)
        for n in lengths
    }


@pytest.mark.parametrize(
    ("architecture", "recurrent", "feedforward", "skip"),
    [
        (Architecture.rnn1(), 1, 2, 1),
        (Architecture.rnn2(), 2, 2, Fraction(1, 2)),
        (Architecture.both(), 2, 2, 1),
        (Architecture.stacked(3), 1, 4, 1),
        (Architecture.stacked(3, "both"), 4, 4, 1),
        (Architecture.rnn2().teacher_forced(), 0, 2, None),
        (Architecture([("x", "h", 0), ("h", "h", 1), ("h", "h", 3), ("h", "o", 0)]), 1, 2, 3),
        # a deep transition: the state passes two more layers before it comes back
        (
            Architecture(
                [("x", "a", 0), ("a", "b", 0), ("b", "c", 0), ("c", "a", 1), ("c", "o", 0)]
            ),
            3,
            4,
            Fraction(1, 3),
        ),
        # a cycle that no input reaches does not count
        (Architecture([("x", "o", 0), ("z", "z", 1), ("z", "o", 0)]), 0, 1, None),
        # nor one that reaches no output
        (Architecture([("x", "o", 0), ("x", "z", 0), ("z", "z", 2)]), 0, 1, None),
    ],
)
def test_depths_that_are_known(architecture, recurrent, feedforward, skip):
    assert architecture.recurrent_depth == recurrent
    assert architecture.feedforward_depth == feedforward
    assert architecture.recurrent_skip_coefficient == skip
    assert isinstance(architecture.recurrent_depth, Fraction)


def test_a_large_graph_is_no_enumeration():
    """A complete graph of 30 nodes has more cycles than can be counted one by one."""
    names = [f"n{i}" for i in range(30)]
    edges = [(a, b, 1 + (i * 7 + j) % 5) for i, a in enumerate(names) for j, b in enumerate(names)]
    architecture = Architecture([*edges, ("x", "n0", 0), ("n9", "o", 0)])
    assert architecture.recurrent_depth == 1
    assert architecture.recurrent_skip_coefficient == 5


def test_ways_from_a_weight_to_a_loss():
    rnn1, rnn2, both = Architecture.rnn1(), Architecture.rnn2(), Architecture.both()
    for j in range(1, 8):
        assert rnn1.count_paths(("h", "h"), j) == j
        assert rnn1.count_paths(("x", "h"), j) == j
        assert rnn1.count_paths(("h", "o"), j) == 1  # V, once
        assert rnn2.count_paths(("o", "h"), j) == j
        assert both.teacher_forced().count_paths(("h", "h"), j) == j
        # Free, each step back may go by W or by R and V: 2ⁿ ways over n steps.
        assert both.count_paths(("h", "h"), j) == 2**j - 1
    assert list(rnn1.paths(("h", "h"), 2)) == [
        (("h", 0), ("h", 1), ("h", 2), ("o", 2)),
        (("h", 1), ("h", 2), ("o", 2)),
    ]


def test_ways_through_both_loops_are_those_of_the_recursion():
    """∂Lⱼ/∂hₖ goes by W to hₖ₊₁, or by V to oₖ and by R from there: so ways double every step."""
    both, into = Architecture.both(), [1]
    for j in range(1, 200):
        assert both.count_paths(("h", "h"), j) == sum(into)
        assert both.count_paths(("o", "h"), j) == sum(into)
        assert both.count_paths(("h", "o"), j) == 1 + sum(into[:-1])
        into.append(into[-1] + into[-1])


def test_two_outputs_are_two_ends():
    """A way may go on from one output of the step to another."""
    chain = Architecture([("x", "o", 0), ("o", "p", 0)], outputs=("o", "p"))
    assert list(chain.paths(("x", "o"), 1)) == [
        (("x", 1), ("o", 1)),
        (("x", 1), ("o", 1), ("p", 1)),
    ]
    assert chain.count_paths(("x", "o"), 1) == 2


def test_ways_are_found_one_at_a_time():
    ways = Architecture.both().paths(("h", "h"), 1500)  # some 2¹⁵⁰⁰ of them
    first, second = next(ways), next(ways)
    assert len(first) > 1500
    assert first != second
    assert first[-1] == second[-1] == ("o", 1500)
    assert Architecture.both().count_paths(("h", "h"), 1500) == 2**1500 - 1


@pytest.mark.parametrize("seed", range(60))
def test_ways_are_counted_as_they_are_enumerated(seed):
    architecture = random_architecture(seed)
    for edge in architecture.edges:
        for j in (1, 2, 4):
            ways = list(architecture.paths(edge, loss_step=j))
            assert architecture.count_paths(edge, loss_step=j) == len(ways) == len(set(ways))
            graph = architecture.unfold(j)
            for way in ways:
                assert way[0] == (edge.source, way[1][1] - edge.delay)
                assert way[1][0] == edge.target
                assert way[-1][1] == j
                assert way[-1][0] in architecture.outputs
                assert all(graph.has_edge(*pair) for pair in itertools.pairwise(way))


def test_the_unfolded_graph():
    graph = Architecture.rnn1().unfold(3)
    assert nx.is_directed_acyclic_graph(graph)
    assert set(graph.predecessors(("h", 1))) == {("x", 1), ("h", 0)}
    assert graph.edges[("h", 2), ("h", 3)]["edge"] == Edge("h", "h", 1)
    assert ("o", 3) in graph
    assert ("o", 0) not in graph


@pytest.mark.parametrize(
    ("net", "edges", "source"),
    [
        ({"inputs": 3, "recurrence": "hidden"}, Architecture.rnn1().edges, "x"),
        ({"inputs": 3, "recurrence": "output"}, Architecture.rnn2().edges, "x"),
        ({"inputs": bptt.Tokens(4), "layers": 2}, Architecture.stacked(2, "both").edges, "x"),
        ({"cell": "lstm"}, Architecture.stacked(1, "both", source="y").edges, "y"),
    ],
)
def test_the_architecture_of_a_network(net, edges, source):
    found = bptt.Network(bptt.Categorical(3), hidden=4, **net).architecture
    assert found.edges == edges
    assert found.inputs == (source,)


def test_teacher_forcing_cuts_the_loop():
    assert Architecture.rnn2().teacher_forced().parallel_in_time
    assert not Architecture.rnn2().parallel_in_time
    assert not Architecture.both().teacher_forced().parallel_in_time
    assert Architecture.both().teacher_forced() == Architecture.rnn1()
    # p is said after o, and of o alone: with the true o given, nothing that is trained leads there
    chain = Architecture(
        [("x", "h", 0), ("h", "o", 0), ("o", "p", 0), ("p", "h", 1)], ["x"], ["o", "p"]
    )
    assert chain.teacher_forced() == Architecture([("x", "h", 0), ("h", "o", 0)])


def test_it_is_a_value():
    assert Architecture.rnn1() == Architecture([("x", "h", 0), ("h", "o", 0), ("h", "h", 1)])
    assert len({Architecture.rnn1(), Architecture.rnn1(), Architecture.rnn2()}) == 2
    edges = [("h", "h", 1), ("x", "h", 0), ("h", "o", 0)]
    assert Architecture(edges) == Architecture.rnn1()  # in whatever order
    assert hash(Architecture(edges)) == hash(Architecture.rnn1())
    assert Architecture(edges) != Architecture(edges, outputs=("h",))
    assert Architecture(edges) != Architecture([*edges, ("x", "o", 0)])
    assert repr(Architecture(edges)) == f"Architecture({edges})"
    two = Architecture([("u", "z", 0)], ["u"], ["z"])
    assert eval(repr(two)) == two
    assert Architecture([("x", "o", np.int64(2))]) == Architecture(iter([["x", "o", 2]]))


@pytest.mark.parametrize(
    ("edges", "more", "words"),
    [
        (
            [("x", "h", 0), ("h", "g", 0), ("g", "h", 0), ("g", "o", 0)],
            {},
            "h -> g -> h|g -> h -> g",
        ),
        ([("x", "x", 0), ("x", "o", 0)], {}, "x -> x is a cycle without delay"),
        ([("x", "o", -1)], {}, "delay of x -> o is -1"),
        ([("x", "o", 0.5)], {}, "delay of x -> o is 0.5"),
        ([("x", "o")], {}, "expected \\(source, target, delay\\)"),
        ([(1, "o", 0)], {}, "expected \\(source, target, delay\\)"),
        ([("x", "o", 0), ("x", "o", 0)], {}, "given twice"),
        ([("x", "h", 0)], {}, "output 'o' has no edge; expected one of x, h"),
        ([("x", "o", 0)], {"inputs": ("u",)}, "input 'u' has no edge"),
        ([("x", "o", 0)], {"outputs": ()}, "no output"),
        (
            [("x", "o", 0)],
            {"inputs": "x"},
            r"inputs is 'x'; expected several names, as in \('x',\)",
        ),
    ],
)
def test_graphs_that_make_no_sense(edges, more, words):
    with pytest.raises(bptt.BpttError, match=words):
        Architecture(edges, **more)


@pytest.mark.parametrize("call", ["paths", "count_paths"])
def test_edges_and_steps_that_are_not_there(call):
    doubled = Architecture([("x", "h", 0), ("h", "h", 1), ("h", "h", 2), ("h", "o", 0)])

    def ask(edge: tuple, step: int) -> object:
        return getattr(doubled, call)(edge, step)  # complains at once, not at the first way

    with pytest.raises(bptt.BpttError, match=r"no edge is .*h -> h \(delay 2\)"):
        ask(("o", "h"), 3)
    with pytest.raises(bptt.BpttError, match="several edges are"):
        ask(("h", "h"), 3)
    with pytest.raises(bptt.BpttError, match="no edge is 7"):
        ask(7, 3)
    assert ask(("h", "h", 2), 3)
    with pytest.raises(bptt.BpttError, match="loss_step"):
        ask(("x", "h"), 0)
    with pytest.raises(bptt.BpttError, match="T is 0"):
        doubled.unfold(0)
    with pytest.raises(bptt.BpttError, match="recurrence"):
        Architecture.stacked(2, "none")
    with pytest.raises(bptt.BpttError, match="n is 0"):
        Architecture.stacked(0)
