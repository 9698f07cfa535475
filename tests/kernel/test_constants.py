"""A step that reads other numbers than when it was traced is traced anew, wherever they are."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from bptt.kernel import ops
from bptt.kernel.constants import constants_of
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe, run_plainly
from bptt.kernel.record import Traced
from tests.kernel.steps_of_users import on_parts
from tests.kernel.test_ops import pytestmark  # noqa: F401

ALPHA = 0.1
Change = Callable[[], None]


def slow(h: Tensor, new: Tensor, alpha: float) -> Tensor:
    return torch.lerp(h, new, alpha)


def an_enclosing_function() -> tuple[Any, Change]:
    alpha = 0.1

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), alpha)

    def change() -> None:
        nonlocal alpha
        alpha = 0.7

    return make, change


def a_module() -> tuple[Any, Change]:
    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), ALPHA)

    return make, lambda: globals().update(ALPHA=0.7)


def another_module() -> tuple[Any, Change]:
    settings: Any = types.ModuleType("settings")
    settings.alpha = 0.1

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), settings.alpha)

    return make, lambda: setattr(settings, "alpha", 0.7)


def a_default() -> tuple[Any, Change]:
    def rate(alpha: float = 0.1) -> float:
        return alpha

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), rate())

    return make, lambda: setattr(rate, "__defaults__", (0.7,))


class Settings:
    def __init__(self) -> None:
        self.alphas = {"fast": [0.9], "slow": [0.1]}

    def make(self, W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), self.alphas["slow"][0])


def an_object() -> tuple[Any, Change]:
    settings = Settings()
    return settings.make, lambda: settings.alphas["slow"].__setitem__(0, 0.7)


class Slots:
    __slots__ = ("alpha",)

    def __init__(self) -> None:
        self.alpha = 0.1


def an_object_of_slots() -> tuple[Any, Change]:
    settings = Slots()

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), settings.alpha)

    return make, lambda: setattr(settings, "alpha", 0.7)


def an_array() -> tuple[Any, Change]:
    alphas = numpy.array([0.9, 0.1])

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), float(alphas[1]))

    return make, lambda: alphas.__setitem__(1, 0.7)


def a_function_that_it_calls() -> tuple[Any, Change]:
    this = sys.modules[__name__]

    def make(W: Tensor) -> Any:
        return lambda p, h: slow(h, torch.tanh(p + h @ W.T), 0.1)

    def faster(h: Tensor, new: Tensor, alpha: float) -> Tensor:
        return h + (new - h) * 7 * alpha

    return make, lambda: setattr(this, "slow", faster)


PLACES = [
    an_enclosing_function,
    a_module,
    another_module,
    a_default,
    an_object,
    an_object_of_slots,
    an_array,
    a_function_that_it_calls,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_constant_that_changes_is_seen(
    place: Callable[[], tuple[Any, Change]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "slow", slow)  # put back after the test
    monkeypatch.setattr(sys.modules[__name__], "ALPHA", 0.1)
    made, change = place()
    W, source = torch.randn(4, 4), Source(torch.randn(5, 2, 4))
    state = (torch.zeros(2, 4),)

    def make(W: Tensor) -> Any:
        return on_parts(made)(W)

    def run() -> Tensor:
        of = Recipe(make, (W,))
        assert isinstance(ops.native(of, source, state), Traced)
        h, _ = ops.run(of, source, state)
        torch.testing.assert_close(h, run_plainly(of, source, state)[0])
        return h

    before = run()
    assert torch.equal(before, run())
    traced = ops.program.cache_info().misses
    run()
    assert ops.program.cache_info().misses == traced  # nothing has changed
    change()
    assert not torch.allclose(before, run())


def test_what_reads_itself_ends() -> None:
    def make(W: Tensor) -> Any:
        return make if W is None else settings

    settings: dict[str, Any] = {"make": make}
    settings["settings"] = settings
    assert constants_of(make) == constants_of(make)
    hash(constants_of(make))
