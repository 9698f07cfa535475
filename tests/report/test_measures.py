"""What labelled sequences are told by: the share told right, or the mean squared error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bptt
from bptt.report.measures import result_of
from bptt.training.runs.result import Measured, Result


@pytest.mark.parametrize("is_class", [True, False])
def test_the_numbers_are_of_the_weights_that_are_used(is_class: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = [random.normal(size=(int(n), 2)) for n in random.integers(3, 9, 60)]
    sums = [float(one.sum()) for one in x]
    data = bptt.Labelled.of(x, [str(value > 1) if is_class else value for value in sums])
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=4, recurrence="hidden")
    done = bptt.fit(net, data, bptt.Settings(max_updates=30, validate_every=10))
    result = result_of(net, data, done)
    predicted, right = data.answers(net)
    labels, trained = data.labels[data.held_out], data.labels[~data.held_out]
    if is_class:
        value = float((predicted == right).double().mean())
        simple = float((labels == np.bincount(trained).argmax()).mean())
        expected = "right", "the commonest class"
    else:
        value = float(((predicted - right).double() ** 2).mean())
        simple = float(((labels - trained.mean(0)) ** 2).mean())
        expected = "squared error", "the mean label"
    assert (result.measure, result.method) == expected
    (measured,) = result.values
    assert (measured.value, measured.simple) == (pytest.approx(value), pytest.approx(simple))
    result.write(tmp_path)
    assert Result.read(tmp_path) == result


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    values = Measured("a", float("inf"), 1.0), Measured("b", 2.0, 1.0)
    Result(3, "RMSE", values, "the value before").write(tmp_path)
    assert Result.read(tmp_path).values == values[1:]
