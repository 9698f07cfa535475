"""How to train: schedules of forcing."""

from __future__ import annotations

import itertools
import math

import pytest

import bptt
from bptt.training.settings import SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_the_start_to_the_end(schedule: str) -> None:
    settings = bptt.Settings(forcing=0.9, forcing_end=0.1, forcing_schedule=schedule)
    values = [settings.forcing_at(i / 100) for i in range(101)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert values[0] == pytest.approx(0.9, abs=0.08)
    assert values[-1] == pytest.approx(0.1, abs=0.08)
    middle = {"linear": 0.5, "exponential": 0.1 + 0.8 * 0.1, "inverse-sigmoid": 0.5}[schedule]
    assert values[50] == pytest.approx(middle)


def test_the_inverse_sigmoid_is_that_of_the_paper() -> None:
    k, steps = 10.0, 200
    settings = bptt.Settings(forcing_end=0.0, forcing_schedule="inverse-sigmoid")
    for i in range(steps + 1):  # ε = k / (k + exp(i / k)), with i up to 2 k ln k
        scaled = 2 * k * math.log(k) * i / steps
        expected = k / (k + math.exp(scaled / k))
        assert settings.forcing_at(i / steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forcing": 1.5}, "forcing is 1.5; expected a probability from 0 to 1"),
        ({"forcing_end": -0.1}, "forcing_end is -0.1; expected a probability"),
        ({"forcing_schedule": "cosine"}, "forcing_schedule is 'cosine'; expected one of"),
        ({"feedback": "mode"}, "feedback is 'mode'; expected one of 'sample', 'mean'"),
        ({"forcing": 0.5, "stride": 5}, "stride is 5 with forcing below 1; expected none, or"),
    ],
)
def test_bad_forcing(settings: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Settings(**settings)
