"""Costs as people see them: the numbers that were measured, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bptt.gradient.costs import Cost
from bptt.report.costs import GUIDE, cost_rows, cost_table, plot_costs, write_costs

COSTS = [
    Cost("exact", 1_000, 0.0041, 2_600_000),
    Cost("torch", 1_000, 0.0362, 8_600_000),
    Cost("exact", 100_000, 0.3214, 208_777_216),
    Cost("torch", 100_000, 11.44, 2_880_794_624),
    Cost("exact", 1_000_000, 3.2, 1_304_000_000),
    Cost("torch", 1_000_000, None, None),
]
UNKNOWN = [replace(cost, memory=None) for cost in COSTS]


def text_of(costs: list[Cost]) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(cost_table(costs))
    return capture.get()


def test_the_table_has_the_numbers() -> None:
    lines = text_of(COSTS).splitlines()
    words = [line.split() for line in lines if line.strip()]
    assert words[0] == ["exact", "torch.nn.RNN"]
    assert words[1] == ["T", "seconds", "MB", "seconds", "MB"]
    assert words[3:] == [
        ["1,000", "0.004", "2.6", "0.036", "8.6"],
        ["100,000", "0.321", "209", "11.4", "2,881"],
        ["1,000,000", "3.200", "1,304", "too", "large"],
    ]


def test_four_ways_fit_in_80_columns() -> None:
    megabytes = {"exact": 13_040, "bounded": 64.1, "truncated": 1.2, "torch": 30_043}
    text = text_of([Cost(way, 1_000_000, 100.04, int(m * 1e6)) for way, m in megabytes.items()])
    assert "…" not in text
    assert text.split()[-8::2] == ["100.0"] * 4
    assert text.split()[-7::2] == ["13,040", "64.1", "1.2", "30,043"]


def test_a_table_that_is_not_complete_yet() -> None:
    assert cost_table([]).row_count == 0
    assert cost_rows(COSTS[:3])[1:] == [
        ["1,000", "0.004", "2.6", "0.036", "8.6"],
        ["100,000", "0.321", "209", "", ""],
    ]


def test_where_the_system_does_not_tell_the_memory_it_is_said() -> None:
    text = text_of(UNKNOWN)
    assert "0.321" in text
    assert "?" in text
    assert "memory: not told by this system" in text
    assert "not told" not in text_of(COSTS)
    figure = plot_costs(UNKNOWN)
    assert figure.layout.yaxis2.title.text == "memory: not told by this system"
    assert {trace.yaxis for trace in figure.data} == {"y"}


def test_the_figure_has_a_line_for_every_way() -> None:
    figure = plot_costs(COSTS)
    lines = {(trace.name, trace.yaxis): trace for trace in figure.data}
    assert len(lines) == len(figure.data) == 6
    expected = {
        ("exact", "y"): ([1_000, 100_000, 1_000_000], [0.0041, 0.3214, 3.2]),
        ("exact", "y2"): ([1_000, 100_000, 1_000_000], [2.6, 208.777216, 1304.0]),
        ("torch.nn.RNN", "y"): ([1_000, 100_000], [0.0362, 11.44]),
        ("torch.nn.RNN", "y2"): ([1_000, 100_000], [8.6, 2880.794624]),
    }
    for which, (x, y) in expected.items():
        assert list(lines[which].x) == x
        assert list(lines[which].y) == pytest.approx(y)
    for axis, most, ends in (("y", 11.44, [1_000, 1_000_000]), ("y2", 2880.8, [1_000, 1_000_000])):
        guide = lines[GUIDE, axis]
        assert list(guide.x) == ends
        assert [y * 100_000 / x for x, y in zip(guide.x, guide.y, strict=True)] == pytest.approx(
            [most, most], rel=1e-4
        )
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == [GUIDE, "exact", "torch.nn.RNN"]


def test_the_page_has_the_words_the_table_and_the_figure(tmp_path: Path) -> None:
    write_costs(tmp_path / "bench.html", COSTS, ["H = 128 & more"])
    page = (tmp_path / "bench.html").read_text()
    for part in ("H = 128 &amp; more", "<td>too large</td>", "<td>2,881</td>", "plotly-graph-div"):
        assert part in page
