"""The one door to the kernel: a step over a whole sequence, natively where it can be.

The native kernel computes values and first derivatives of plain tensors of float32 and float64 on
the CPU, whose shapes fit, for every step that can be traced. All else (other devices and dtypes,
subclasses of Tensor, transforms of torch.func, forward-mode derivatives, tracing, derivatives of
derivatives, steps that are no program) goes by way of the plain loop, so that every derivative is
right, and what does not fit gets torch's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel import binding, compiled, fused, loop
from bptt.kernel.blueprint import StandIn
from bptt.kernel.constants import constants_of
from bptt.kernel.fused import Fused
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.native_step import Inputs, Source, parts_of, states_of
from bptt.kernel.omega import Reading, wanted
from bptt.kernel.plain import (
    has_autocast,
    is_plain,
    is_traced,
    is_transformed,
    take_as_constant,
)
from bptt.kernel.plain_loop import Parts, Step, run_steps, unroll
from bptt.kernel.record import NotTraced, Traced, trace

ROWS_AT_ONCE = 256
"""Rows without a loop that are computed one step after the other, while they are in the cache."""
FLOATS = (torch.float32, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
"""What is computed in float32, and rounded at the end: processors do that faster, and better."""
COPIED = 16384
"""Of fewer numbers a copy is sooner made than a node of the graph that is written in Python."""


class Recipe(NamedTuple):
    """What makes a step: a function of tensors, and of options that can be hashed.

    With tensors of the same shapes, and the same options, it makes a step of the same operations.
    every: of how many of the state's first parts every step's is returned, none of which is what
    another one was a step before. fused: torch's layer of the same step, if there is one.
    """

    make: Callable[..., Step]
    tensors: tuple[Tensor | None, ...]
    options: tuple[Hashable, ...] = ()
    every: int = 1
    fused: Fused | None = None

    @property
    def step(self) -> Step:
        """The step, (p, state) -> state."""
        return self.make(*self.tensors, *self.options)


Run = Callable[..., tuple[Tensor, Parts]]
"""What runs a step over time, as `run` does."""


def run(
    recipe: Recipe,
    source: Source,
    state: Parts,
    layout: Layout = DENSE,
) -> tuple[Float[Tensor, "... H"], Parts]:
    """Run a step over time; return the first state part at every step, and each row's last state.

    state: the parts before the first step, (B, width) each. Autocast changes no dtype here.
    """
    (h,), last = run_every(recipe, source, state, layout)
    return h, last


def run_every(
    recipe: Recipe,
    source: Source,
    state: Parts,
    layout: Layout = DENSE,
) -> tuple[tuple[Shaped[Tensor, "... _"], ...], Parts]:
    """Do the same, and return the first `recipe.every` parts of the state at every step."""
    device = source.x.device.type
    if has_autocast(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            floats = [t for t in (*state, source.x) if t.is_floating_point()]
            dtype = floats[0].dtype
            source = source.to(dtype)
            parts = tuple(part.to(dtype) if part.is_floating_point() else part for part in state)
            return run_every(recipe, source, parts, layout)
    if state[0].dtype in HALVES and _is_plain_half(recipe, source, state):
        dtype = state[0].dtype
        single = _in_float32(recipe, source, state)
        if not isinstance(native(*single, layout), str):
            made, last = run_every(*single, layout)
            return tuple([h.to(dtype) for h in made]), tuple([part.to(dtype) for part in last])
    traced = native(recipe, source, state, layout)
    if isinstance(traced, str) or (isinstance(traced, Compiled) and recipe.every > 1):
        _require_one_device([*source, *state, *recipe.tensors])
        return _run_by_torch(recipe, source, state, layout)
    if isinstance(traced, Traced):
        return _run_natively(traced, recipe, source, state, layout)
    starts = states_of(state, traced.lengths)
    h, *ends = compiled.run(traced.place, source, starts, recipe.tensors, layout)
    return (h,), parts_of(ends, traced.lengths)


def _is_plain_half(recipe: Recipe, source: Source, state: Parts) -> bool:
    """Return whether all numbers are of one half precision, and the kernel could read them."""
    if torch.compiler.is_compiling() or _why_nothing_is_native() is not None:
        return False
    dtype = state[0].dtype
    tensors = [t for t in (*source[1:], *state, *recipe.tensors) if t is not None]
    return (
        all([t.dtype == dtype for t in tensors])  # noqa: C419
        and source.x.dtype in (dtype, torch.int64)
        and _is_readable([source.x, *tensors])
    )


def as_computed(recipe: Recipe, source: Source, state: Parts) -> tuple[Recipe, Source, Parts]:
    """Return a call in the dtype that it is computed in: float32 for half precision."""
    is_half = state[0].dtype in HALVES
    return _in_float32(recipe, source, state) if is_half else (recipe, source, state)


def _in_float32(recipe: Recipe, source: Source, state: Parts) -> tuple[Recipe, Source, Parts]:
    tensors = tuple([None if t is None else t.float() for t in recipe.tensors])
    parts = tuple([part.float() for part in state])
    return recipe._replace(tensors=tensors), source.to(torch.float32), parts


def run_checked(
    recipe: Recipe, source: Source, state: Parts, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Parts]:
    """Do what `run` does, for those who have seen to all that `native` asks for.

    A call of one step takes no longer than looking at its tensors twice.
    """
    traced = _program_of(recipe, source, state)
    if isinstance(traced, str):
        return run_plainly(recipe, source, state, layout)
    (h,), last = _run_natively(traced, recipe, source, state, layout)
    return h, last


def _run_natively(
    traced: Traced,
    recipe: Recipe,
    source: Source,
    state: Parts,
    layout: Layout,
) -> tuple[tuple[Shaped[Tensor, "... _"], ...], Parts]:
    inputs = Inputs(
        source, states_of(state, traced.lengths), traced.prepare(recipe.tensors), layout
    )
    made = loop.run(traced.step, inputs)
    return made[: traced.every], parts_of(made[traced.every :], traced.lengths)


def _run_by_torch(
    recipe: Recipe, source: Source, state: Parts, layout: Layout
) -> tuple[tuple[Shaped[Tensor, "... _"], ...], Parts]:
    """Run a step by torch's layer, where there is one for it, or plainly."""
    is_asked = binding.used != "plain" and recipe.fused is not None and recipe.every == 1
    if is_asked and fused.serves(source, state, recipe.tensors) and not wanted(recipe.tensors):
        assert recipe.fused is not None
        h, last = fused.run(recipe.fused, recipe.tensors, source, state, layout)
        return (h,), last
    return _run_steps(recipe, source, state, layout)


def _run_steps(
    recipe: Recipe, source: Source, state: Parts, layout: Layout
) -> tuple[tuple[Shaped[Tensor, "... _"], ...], Parts]:
    """Run a step plainly, with Ω read off where somebody wants it."""
    term = None if torch.compiler.is_compiling() else wanted(recipe.tensors)
    if term is None:
        return run_steps(recipe.step, source.p, state, layout, recipe.every)

    def compute(p: Tensor, W: Tensor, *state: Tensor) -> Parts:
        (h,), last = run_steps(recipe._replace(tensors=(W,)).step, p, state, layout)
        return h, *last

    h, *last = Reading.apply(compute, term, layout, source.p, *recipe.tensors, *state)  # type: ignore[no-untyped-call]
    return (h,), tuple(last)


def run_plainly(
    recipe: Recipe, source: Source, state: Parts, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Parts]:
    """Run a step over time by the plain loop alone: what `run` is held to."""
    return unroll(recipe.step, source.p, state, layout)


def _require_one_device(tensors: list[Tensor | None]) -> None:
    """Raise BpttError where torch may give what nobody wrote, as of a meta tensor and others."""
    devices = {str(t.device) for t in tensors if t is not None}
    if len(devices) > 1:
        raise BpttError(
            f"tensors are on {' and '.join(sorted(devices))}; expected all of them on one device"
        )


class Compiled(NamedTuple):
    """A traced step as torch.compile's operation names it."""

    place: int
    lengths: tuple[int, ...]


def native(  # noqa: PLR0911 (a reason a line)
    recipe: Recipe, source: Source, state: Parts, layout: Layout = DENSE
) -> Traced | Compiled | str:
    """Return the step that the native kernel runs here and now, or why it does not."""
    reason = _why_nothing_is_native()
    if reason is not None:
        return reason
    dtype = state[0].dtype
    tensors = [t for t in (*source[1:], *state, *recipe.tensors) if t is not None]
    if dtype not in FLOATS or any([t.dtype != dtype for t in tensors]):  # noqa: C419
        dtypes = sorted({str(t.dtype) for t in tensors})
        return f"the dtypes are {', '.join(dtypes)}; native is float32, or float64, alone"
    if source.x.dtype not in (dtype, torch.int64):
        return f"x has dtype {source.x.dtype} beside {dtype}"
    if source.x.numel() == 0:
        return "there are no numbers in x"
    if not _is_readable([source.x, *tensors]):
        return "a tensor is not plain: a subclass, on another device, or lazy"
    misfit = _misfit(source, state, layout)
    if misfit is not None:
        return misfit
    if not torch.compiler.is_compiling():
        return _program_of(recipe, source, state)
    constant = _constant_program(*_key(recipe, source, state))
    return constant[0] if len(constant) == 1 else Compiled(*constant)


def _why_nothing_is_native() -> str | None:
    """Return why no step is run natively now, if none is."""
    if binding.used != "native":
        return f'bptt.kernel.use("{binding.used}") asks for another way'
    if binding.native is None:
        return f"the native kernel is not built: {binding.WHY_NOT_NATIVE}"
    if is_transformed():
        return "torch.func, or forward-mode differentiation, is going on"
    if is_traced():
        return "torch's operations are being recorded"
    return None


def traced(recipe: Recipe, p: int, parts: tuple[int, ...], dtype: torch.dtype) -> Traced | str:
    """Return a step as a program, for an input and state parts so wide; or why it is none."""
    shapes = tuple([None if t is None else tuple(t.shape) for t in recipe.tensors])
    signature = (p, parts, dtype, recipe.every)
    return program(recipe.make, recipe.options, shapes, signature, constants_of(recipe.make))


def _program_of(recipe: Recipe, source: Source, state: Parts) -> Traced | str:
    return program(*_key(recipe, source, state), constants_of(recipe.make))


def _key(recipe: Recipe, source: Source, state: Parts) -> tuple[Any, ...]:
    """Return what `program` is to be asked with, besides constants."""
    return (
        recipe.make,
        recipe.options,
        tuple([None if t is None else tuple(t.shape) for t in recipe.tensors]),
        (
            source.x.shape[-1] if source.U is None else source.U.shape[0],
            tuple([part.shape[-1] for part in state]),
            state[0].dtype,
            recipe.every,
        ),
    )


def _is_readable(tensors: list[Tensor]) -> bool:
    if torch.compiler.is_compiling():  # what there is then are stand-ins; the operation looks again
        return all([t.is_cpu for t in tensors])  # noqa: C419
    return all([is_plain(t) for t in tensors])  # noqa: C419


def _misfit(source: Source, state: Parts, layout: Layout) -> str | None:
    """Return which shape is not what the kernel takes it to be, if one is not; see `Source`."""
    x, U, b_ih, b_hh = source
    ndim = (2 if source.is_tokens else 3) - (layout.batch_sizes is not None)
    if x.ndim != ndim:
        return f"x has shape {tuple(x.shape)}"
    if U is not None:
        if U.ndim != 2 or (not source.is_tokens and x.shape[-1] != U.shape[1]):
            return f"U has shape {tuple(U.shape)}"
        if any([b is not None and b.shape != U.shape[:1] for b in (b_ih, b_hh)]):  # noqa: C419
            return "a bias has another length than U"
    elif source.is_tokens:
        return "tokens are given without U"
    B = x.shape[1] if layout.batch_sizes is None else len(state[0])
    if any([part.ndim != 2 or len(part) != B for part in state]):  # noqa: C419
        return f"the state has shapes {[tuple(part.shape) for part in state]} for {B} sequences"
    return None


Signature = tuple[int, tuple[int, ...], torch.dtype, int]
"""What a step is traced for: the widths of p and of the state's parts, dtype and `every`."""


@lru_cache(maxsize=1024)
def program(
    make: Callable[..., Step],
    options: tuple[Hashable, ...],
    shapes: tuple[tuple[int, ...] | None, ...],
    signature: Signature,
    constants: Hashable,
) -> Traced | str:
    """Return a step traced on sample tensors of these shapes, or why it is no program.

    constants: what `make` reads besides its tensors; with others it is traced anew.
    """
    elsewhere = torch.get_default_device().type != "cpu"  # to be on a device slows every call
    with torch.inference_mode(False), torch.device("cpu") if elsewhere else nullcontext():
        p, states, dtype, every = signature
        tensors = [None if shape is None else _sample(shape, dtype) for shape in shapes]

        def on_parts(p: Tensor, *parts: Tensor) -> Parts:
            return make(*tensors, *options)(p, parts)  # what is made of tensors is recorded too

        try:
            return replace(trace(on_parts, p, states, tensors, dtype), every=every)
        except NotTraced as reason:
            return str(reason)
        except Exception as error:  # noqa: BLE001 (the plain loop raises it, on the user's tensors)
            return f"it raises {type(error).__name__}: {error}"


def _constant_program(*key: Any) -> tuple[Any, ...]:
    """Return a step's place among those of torch.compile, and its lengths; or why it is none."""
    traced = _program_now(*key)
    if isinstance(traced, str):
        return (traced,)
    present = tuple(shape is not None for shape in key[2])
    step = compiled.CompiledStep(traced, present, _program_now, key)
    return compiled.register(step), traced.lengths


def _program_now(make: Any, options: tuple[Any, ...], *rest: Any) -> Traced | str:
    """Return `program` of a step with what it reads now, of modules as of numbers."""
    now = tuple([one.blueprint if isinstance(one, StandIn) else one for one in options])
    return program(make, now, *rest, constants_of(make))


take_as_constant(_constant_program)


def _sample(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor with numbers of all kinds, of the size of weights."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    scale = max(1, shape[-1]) ** -0.5 if len(shape) > 1 else 0.5
    return torch.sin(numbers * 0.7 + 1).mul(scale).to(dtype).view(shape).requires_grad_()


class _Output(torch.autograd.Function):
    """A layer's output as a node of its own: its hooks run only if a gradient reaches it."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, batch_first: bool) -> Tensor:
        ctx.batch_first = batch_first
        return (h.transpose(0, 1) if batch_first else h).detach()  # in-place changes are still seen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.transpose(0, 1) if ctx.batch_first else grad, None


def as_output(h: Float[Tensor, "... D"], *, batch_first: bool) -> Float[Tensor, "... D"]:
    """Return h with its batch first if asked for, as a tensor that is no view of another.

    A user may then detach it in place, and hook it, as they do with torch.nn's.
    """
    if not h.requires_grad or torch.compiler.is_compiling() or is_transformed():
        return h.transpose(0, 1) if batch_first else h
    if h.numel() < COPIED:
        return (h.transpose(0, 1) if batch_first else h).clone()
    output: Tensor = _Output.apply(h, batch_first)  # type: ignore[no-untyped-call]
    return output
