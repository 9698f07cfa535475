from __future__ import annotations

import numpy as np
import pytest

import bptt
from tests.model.test_architecture import random_architecture

Architecture = bptt.Architecture


def hovered(figure) -> list[str]:
    """What the figure tells of its edges."""
    return [
        t
        for trace in figure.data
        for t in np.atleast_1d(trace.text if trace.text is not None else [])
    ]


def test_every_edge_and_node_is_drawn():
    both = Architecture.both()
    figure = bptt.plots.plot_architecture(both)
    told = " ".join(map(str, hovered(figure)))
    for edge in both.edges:
        assert str(edge) in told
    for node in both.nodes:
        assert node in hovered(figure)


def test_the_unfolded_graph_has_every_step():
    figure = bptt.plots.plot_unfolded(Architecture.rnn1(), 3)
    told = " ".join(map(str, hovered(figure)))
    for edge in ("x -> h, to step 3", "h -> h (delay 1), to step 1", "h -> o, to step 2"):
        assert edge in told
    assert "t = 0" in told
    assert "t = 3" in told


def test_ways_are_marked():
    rnn1 = Architecture.rnn1()
    plain = bptt.plots.plot_unfolded(rnn1, 3)
    marked = bptt.plots.plot_unfolded(rnn1, 3, ways=rnn1.paths(("h", "h"), 2))
    assert "on a marked way" in {trace.name for trace in marked.data}
    assert "on a marked way" not in {trace.name for trace in plain.data}


@pytest.mark.parametrize(
    "architecture",
    [Architecture([("x", "o", 0)]), Architecture.rnn2().teacher_forced(), Architecture.stacked(3)]
    + [random_architecture(seed) for seed in range(20)],
)
def test_anything_can_be_drawn(architecture):
    figures = [bptt.plots.plot_unfolded(architecture, T) for T in (1, 4)]
    for figure in (bptt.plots.plot_architecture(architecture), *figures):
        x = [v for trace in figure.data for v in trace.x if v is not None]
        low, high = figure.layout.xaxis.range
        assert low <= min(x)
        assert max(x) <= high
