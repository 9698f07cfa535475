"""What the report says, on flows whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bptt
from bptt import advice
from bptt.report.words import headline
from bptt.training.diagnosis import Diagnosis, Truncated


def flow_with(
    growth: float, window: int = 50, lags: int = 100, interval: tuple[float, float] | None = None
) -> bptt.GradientFlow:
    """A flow whose gradient is growthˡ."""
    by_lag = growth ** np.arange(lags)
    norms = np.where(np.arange(lags)[:, None] >= np.arange(lags), by_lag, np.nan)
    error = np.append(np.minimum(1.0, growth ** np.arange(lags)), 0.0)
    each = np.ones(lags)
    low_high = (growth, growth) if interval is None else interval
    return bptt.GradientFlow(
        norms, by_lag, by_lag, each, each, error, 1 - error, growth, low_high, window, has_path=True
    )


def said(flow: bptt.GradientFlow, **more: object) -> str:
    return " ".join(headline(Diagnosis(flow=flow, **more)))


def test_a_gradient_that_vanishes():
    words = said(flow_with(0.8), trained=Truncated(50, 50, 0.04, 1000))
    assert "shrinks by a factor 0.8 with every step" in words
    assert "11 steps back a tenth of it is left" in words  # 0.8 ** 11 = 0.086, 0.8 ** 10 = 0.107
    assert "Over the 50 steps that you train with it vanishes" in words
    assert "If every loss reached 14 steps back" in words  # 0.8 ** 14 = 0.044, 0.8 ** 13 = 0.055
    assert "As you train, in chunks of 50, it is 4.0% off: the first losses of a chunk" in words
    assert "gates, whose biases can start such that" in words
    assert "(--cell gru --chrono 50)" in words
    assert "leaky units, which pass on 1 − 0.045 of it" in words  # 0.955 ** 50 = 0.1
    assert "skips of 5 steps, by which the window is a way of 10" in words  # 0.8 ** 10 = 0.107
    assert "(--omega 1)" in words
    assert "of which 1.2 times as much would bring the factor to 1" in words  # 1 / 0.8


def test_a_gradient_that_explodes():
    flow = replace(flow_with(1.2), truncation_error=np.append(np.ones(100), 0.0))
    words = said(flow)
    assert "grows by a factor 1.2 with every step" in words
    assert "13 steps back it is ten times as large" in words  # 1.2 ** 13 = 10.7
    assert "Over the 50 steps that were looked at it explodes" in words
    assert "has grown by 10^4 over 50 steps" in words  # 1.2 ** 50 = 9,100
    assert "(--clip 0.1)" in words
    assert "W 0.83 times as large would bring the factor to 1" in words


def test_a_gradient_that_keeps_its_size():
    words = said(flow_with(0.9995, window=10, interval=(0.99, 1.001)))
    assert "keeps its size on its way back in time: 0.9995 a step (95% interval 0.99 to 1" in words
    assert "neither vanishes" in words


def test_other_windows_and_what_they_cost():
    trained = Truncated(100, 100, 0.1, 1000)
    others = (trained, Truncated(15, 15, 0.3, 200), Truncated(30, 15, 0.03, 400))
    words = said(flow_with(0.8, window=100, lags=150), trained=trained, others=others)
    assert "Chunks of 15 would be 30% off, in 20% of the memory." in words
    assert "Windows of 30 that overlap by half would be 3.0% off, at 2 times the work." in words
    assert words.count("hunks of 100") == 1
    assert "What helps: windows of 30 that overlap by half (--window 30 --stride 15" in words


@pytest.mark.parametrize("trained", [0.05, 0.009])
def test_a_window_that_is_hardly_better_is_not_advised(trained):
    others = (Truncated(15, 15, 0.3, 200), Truncated(30, 15, max(0.001, trained - 0.01), 400))
    found = said(
        flow_with(0.8, window=100), trained=Truncated(100, 100, trained, 1000), others=others
    )
    assert "What helps: windows" not in found


def test_no_window_looked_at_is_enough():
    flow = replace(flow_with(0.9), truncation_error=np.full(11, 0.5))
    assert "A window of 100 steps is too short" in said(flow)


def test_nothing_to_do():
    assert "Nothing needs to be done" in said(flow_with(0.97, window=99, interval=(0.9, 0.99)))


def test_gates_are_not_advised_to_gates():
    gated = replace(flow_with(0.8), closed_by="gates")
    assert advice(gated) == []
    assert "--cell" not in said(gated)
    assert "The gates have not learnt to keep" in said(gated)


def test_no_path_and_no_time():
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(3), hidden=4, recurrence="output")
    assert "No gradient flows through time" in said(
        bptt.gradient_flow(net, torch.zeros(5, 1).long())
    )
    assert "one step each" in said(bptt.gradient_flow(net, torch.zeros(1, 1).long()))


def test_nothing_measured():
    assert headline(Diagnosis(name="it")) == ["it: nothing was measured of its gradient."]


def test_what_the_network_cannot_have_is_not_advised():
    options = [remedy.options for remedy in advice(replace(flow_with(0.8), closed_by="more"))]
    assert options == ["--cell gru --chrono 50"]
    options = [remedy.options for remedy in advice(replace(flow_with(0.8), closed_by="output"))]
    assert options == ["--recurrence both"]
    options = [remedy.options for remedy in advice(replace(flow_with(1.2), closed_by="output"))]
    assert options == ["--clip 0.1"]
    long = [remedy.options for remedy in advice(flow_with(0.9, window=200_000))]
    assert not any("--skips" in option for option in long)  # it would be 9,152
    at_one = advice(replace(flow_with(0.8), first_radius=1.0))
    assert not any("--radius" in remedy.options for remedy in at_one)
    assert any("--radius 1" in remedy.options for remedy in advice(flow_with(0.8)))
    gone = " ".join(map(str, advice(flow_with(0.0, interval=(0.0, 0.0)))))
    assert "--radius" not in gone
    assert "1e+06" not in gone


@pytest.mark.parametrize("closed_by", ["more", "output"])
@pytest.mark.parametrize("growth", [0.8, 1.2])
def test_a_remedy_by_itself_is_no_list(closed_by, growth):
    words = said(replace(flow_with(growth), closed_by=closed_by))
    assert "; or " not in words.replace("learning rate; ", "")
    assert ": ;" not in words
