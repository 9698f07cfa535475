"""Random calls of every public function, with arguments that are partly right and partly wrong.

The valid calls are those of tests/test_wrong_types.py. Of each several arguments are replaced, by
values of other types, shapes and ranges, and now and then one is left out or put in. What comes
back is of the kind that the valid call gives, or it is a BpttError, after which gradients, weights
and the global random state are as they were.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bptt.errors import BpttError
from tests.fuzz.campaign import fuzz
from tests.test_wrong_types import CASES, ITEMS, NOT_VALID, WRONG, B, Case, H, N, T, without

WRONGS = without(WRONG, "DataLoader")  # to go over one draws from the global generator
NAMES = [case.name for case in CASES]
SIZES = [0, 1, 2, B, H, N, T, T + 1]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8]
DTYPES += [torch.bool, torch.complex64]
WHOLE = [*range(-3, 21), 2**63, -(2**63), 10**400]
REAL = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", "abc", "sample", "mean", "sum", "none", "auto", "1MB", "10XB", "\x1b[31m", "a\nb", "é"]


@pytest.fixture(autouse=True, scope="module")
def _as_users_have_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write whatever is written somewhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("calls"))
        yield


@st.composite
def tensors(draw: st.DrawFn, like: Tensor | None = None) -> Tensor:
    """Return a tensor of any shape and type; or one that is off in one way."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.sampled_from(SIZES), max_size=4))
    if like is not None:
        dtype = draw(st.sampled_from([like.dtype, dtype]))
        shape = draw(st.sampled_from([list(like.shape), list(like.shape), shape]))
        if shape and draw(st.booleans()):
            shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(SIZES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    found = 3 * torch.rand(shape, generator=generator) - 0.5
    if dtype.is_floating_point and found.numel() and draw(st.booleans()):
        found = found.double()
        found.view(-1)[0] = draw(st.sampled_from(REAL))
    return found.to(dtype)


def values(right: Any) -> st.SearchStrategy[Any]:
    """Return what may stand in the place of a right value."""
    near: list[st.SearchStrategy[Any]] = [st.just(right)]
    if isinstance(right, Tensor):
        near = [tensors(right), tensors(right)]
    elif isinstance(right, bool | str):
        near += [st.sampled_from(TEXTS), st.booleans()]
    elif isinstance(right, int | float):
        near += [st.sampled_from(WHOLE), st.sampled_from(REAL)]
    elif isinstance(right, tuple | list):
        of = tuple if isinstance(right, tuple) else list
        near += [st.lists(st.sampled_from([*WHOLE, *TEXTS, None]), max_size=3).map(of)]
    elif right is None:
        near += [tensors(), st.sampled_from(WHOLE)]
    return st.one_of(*near, *near, st.sampled_from([*WHOLE, *REAL, *TEXTS, None]), tensors())


@st.composite
def calls(draw: st.DrawFn, case: Case) -> tuple[dict[str, Any], bool]:
    """Return the arguments of a call, and whether Python can match them to the function's."""
    arguments = {name: make() for name, make in case.arguments.items()}
    for name in draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, unique=True)):
        wrongs = set(WRONGS) - case.skipped.get(name, set()) - ITEMS.get((case.name, name), set())
        if (case.name, name) in ITEMS or name in case.skipped:  # where not everything may be tried
            arguments[name] = WRONGS[draw(st.sampled_from(sorted(wrongs)))]()
        elif draw(st.integers(0, 3)):
            arguments[name] = draw(values(arguments[name]))
        else:
            arguments[name] = WRONGS[draw(st.sampled_from(sorted(wrongs)))]()
    fits = draw(st.integers(0, 9)) > 0
    if not fits:
        if draw(st.booleans()):
            del arguments[draw(st.sampled_from(sorted(arguments)))]
        else:
            arguments["nonsense"] = None
    return arguments, fits


@functools.cache
def kinds_of_result(name: str) -> tuple[type, ...]:
    """Return the kinds of value that a function gives; any, if its valid call needs a file."""
    if name in NOT_VALID:
        return (object,)
    kind = type(next(case for case in CASES if case.name == name).run())
    if name == "GradientFlow.horizon":  # where no window will do
        return kind, type(None)
    return (nn.Module if issubclass(kind, nn.Module) else kind,)


def snapshot(modules: list[nn.Module]) -> list[Any]:
    tensors = [
        None if tensor is None else tensor.clone()
        for module in modules
        for parameter in module.parameters()
        for tensor in (parameter.detach(), parameter.grad)
    ]
    return [*tensors, torch.get_rng_state(), random.getstate(), str(np.random.get_state())]


def are_equal(one: list[Any], other: list[Any]) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


def modules_of(case: Case, arguments: dict[str, Any]) -> list[nn.Module]:
    """Return the networks that a call can reach, each with a gradient that must not be lost."""
    reached = [getattr(case.call, "__self__", case.call), *arguments.values()]
    modules = [one for one in reached if isinstance(one, nn.Module)]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
    return modules


@fuzz(weight=2)
@given(st.data())
def test_random_arguments_give_a_right_kind_of_value_or_one_line(data: st.DataObject) -> None:
    case = CASES[NAMES.index(data.draw(st.sampled_from(NAMES)))]
    kinds = kinds_of_result(case.name)
    arguments, fits = data.draw(calls(case))
    modules = modules_of(case, arguments)
    positional = [arguments.pop(name) for name in list(arguments) if name.startswith("/")]
    torch.manual_seed(0)
    before = snapshot(modules)
    refusals = (BpttError,) if fits else (BpttError, TypeError)  # Python's own
    error: Exception | None = None
    try:
        found = case.call(*positional, **arguments)
    except refusals as refused:
        error = refused
    if error is None:
        assert isinstance(found, kinds), f"{case.name} gave {type(found)}"
        return
    assert "\n" not in str(error)
    assert len(str(error)) < 700
    assert isinstance(error, BpttError) or "argument" in str(error)
    if getattr(case.call, "__name__", "") != "<lambda>":  # which makes networks of its own
        assert are_equal(snapshot(modules), before), f"{case.name} changed what was there"
